// Requests that wait for their first step, or wait to resume after a preemption, in the order they will be admitted.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>
#include <tuple>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"

namespace simrun {

// fcfs: by arrival. shortest-job: fewest tokens to compute (prompt plus outputs). priority: 0 first, then 1, ...
// earliest-deadline: soonest first. Ties go to the earlier arrival.
enum class QueueOrder { kFcfs, kShortestJob, kPriority, kEarliestDeadline };
absl::StatusOr<QueueOrder> ParseQueueOrder(std::string_view name);

struct WaitingRequest {
  uint32_t id = 0;              // the owner's handle
  uint64_t arrival_order = 0;   // 0, 1, 2, ... by arrival
  int64_t prompt_tokens = 0;    // to prefill before the next output token; 0 for a sequence that was swapped out
  int64_t kv_tokens = 0;        // KV length once admitted: prompt_tokens, or the length that was swapped out
  int64_t max_kv_tokens = 0;    // longest KV length the request reaches
  int64_t priority = 0;         // 0 is the most urgent
  int64_t deadline = 0;         // in ticks
};

class WaitingQueue {
 public:
  explicit WaitingQueue(QueueOrder order) : order_(order) {}

  bool empty() const { return order_ == QueueOrder::kFcfs ? fifo_.empty() : sorted_.empty(); }
  size_t size() const { return order_ == QueueOrder::kFcfs ? fifo_.size() : sorted_.size(); }
  // Adds a new request; a preempted one goes back in front of everything that arrived later.
  void Push(const WaitingRequest& request);
  // Precondition: not empty.
  void PopFront();
  const WaitingRequest& front() const { return order_ == QueueOrder::kFcfs ? fifo_.front() : sorted_.begin()->second; }

  // Walks the queue in order without changing it: `for (Cursor c(queue); !c.done(); c.Next()) c.request()`.
  class Cursor {
   public:
    explicit Cursor(const WaitingQueue& queue) : queue_(queue), it_(queue.sorted_.begin()) {}
    bool done() const { return index_ >= queue_.size(); }
    const WaitingRequest& request() const {
      return queue_.order_ == QueueOrder::kFcfs ? queue_.fifo_[index_] : it_->second;
    }
    void Next() {
      ++index_;
      if (queue_.order_ != QueueOrder::kFcfs) ++it_;
    }

   private:
    using Sorted = absl::btree_map<std::tuple<int64_t, uint64_t>, WaitingRequest>;
    const WaitingQueue& queue_;
    size_t index_ = 0;
    Sorted::const_iterator it_;
  };

 private:
  std::tuple<int64_t, uint64_t> Key(const WaitingRequest& r) const;

  QueueOrder order_;
  std::deque<WaitingRequest> fifo_;
  absl::btree_map<std::tuple<int64_t, uint64_t>, WaitingRequest> sorted_;
};

}  // namespace simrun
