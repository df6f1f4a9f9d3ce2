// Work of several resources side by side: GPU, CPU, copy engines, drives, each doing its tasks in order.
//
// A lane does one task at a time, in the order they were added; a task also waits for others ("after"). Work takes a
// fixed time, a move takes a latency and then as long as the flow network lets it: lanes run beside one another and
// share links and memories. Nothing is stepped: time goes from one end of a task to the next.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "hw/flow_network.h"

namespace simrun {

class Overlap {
 public:
  using Task = int64_t;
  static constexpr Task kNone = -1;
  static constexpr size_t kMostAfter = 6;
  static constexpr int kTags = 8;

  // The network must outlive this and is advanced by it alone.
  explicit Overlap(FlowNetwork* network);

  int AddLane(std::string name);
  // `tag` (below kTags) names what a task is, for waits(). Tasks may wait only for earlier ones; kNone is done.
  Task Work(int lane, int tag, double seconds, std::initializer_list<Task> after = {});
  // `uses` must stay as it is until the task has ended. Several that move unequal parts side by side: `bytes` are the
  // largest part, all uses but the `own`-th, which each of them has to itself, carry `even` times as much.
  Task Move(int lane, int tag, std::span<const FlowNetwork::Use> uses, double bytes, double cap, double latency,
            std::initializer_list<Task> after = {}, double even = 1, size_t own = 0);

  // Lets time pass until the task has ended, and returns when that was (now()). Other tasks may still be under way.
  double RunUntil(Task task);
  // Until all have ended.
  double RunAll();
  double now() const { return network_->now(); }
  bool Done(Task task) const;
  // Makes now() zero.
  void Rebase();

  // Time a lane has worked, and the time since the start in which lane 0 stood idle, by the tag of the task that it
  // waited for in the end.
  double busy(int lane) const { return lanes_[static_cast<size_t>(lane)].busy; }
  const std::string& lane_name(int lane) const { return lanes_[static_cast<size_t>(lane)].name; }
  const std::array<double, kTags>& waits() const { return waits_; }
  void ClearWaits() { waits_.fill(0); }

 private:
  enum class State : uint8_t { kQueued, kTimed, kFlowing, kDone };
  struct Item {
    int lane = 0, tag = 0, flow = -1;
    State state = State::kQueued;
    size_t after_count = 0;
    std::array<Task, kMostAfter> after;
    std::span<const FlowNetwork::Use> uses;
    double seconds = 0, bytes = -1, cap = 0, end = 0;
    double even = 1;
    size_t own = 0;
    Task next = kNone;  // in its lane
  };
  struct Lane {
    std::string name;
    Task head = kNone, tail = kNone;
    double busy = 0, started = 0;
  };
  Item& At(Task task) { return ring_[static_cast<size_t>(task) & (ring_.size() - 1)]; }
  const Item& At(Task task) const { return ring_[static_cast<size_t>(task) & (ring_.size() - 1)]; }
  Task Add(int lane, int tag, std::initializer_list<Task> after);
  bool Ready(const Item& item) const;
  // Starts whatever can start; tasks of no length end at once.
  void StartReady();
  void Finish(Task task);
  void StartFlow(Task task);
  // The tag of what keeps the head of lane 0 from starting; -1: it has none.
  int Blocker() const;
  // Goes to the next end of a task, all that can start having started. False when nothing is under way.
  bool Step();

  FlowNetwork* network_;
  std::vector<Lane> lanes_;
  std::vector<Item> ring_;  // by task number, a power of two
  std::vector<Task> by_flow_;
  Task first_ = 0, next_ = 0;  // tasks before first_ are done
  std::array<double, kTags> waits_{};
};

}  // namespace simrun
