// The event queue: an implicit 4-ary heap over (time, band, sequence).
//
// Events at the same time run in the order of their bands, then first in, first out. Cancelled events are not removed:
// whoever handles an event checks that it is still meant (a generation number in the payload).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/sim_time.h"

namespace simrun {

// What comes first at the same instant: steps end and free memory, then requests arrive, then new steps are planned
// with all of that in view.
enum class EventBand : uint8_t { kStepEnd = 0, kArrival = 1 };

struct Event {
  SimTime time;
  EventBand band = EventBand::kStepEnd;
  uint32_t target = 0;       // replica, or whatever the band means
  uint32_t payload = 0;      // generation, or an index
};

class EventQueue {
 public:
  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  SimTime NextTime() const { return heap_.empty() ? SimTime::Infinite() : heap_[0].time; }
  // Precondition: not empty.
  Event Top() const { return {heap_[0].time, static_cast<EventBand>(heap_[0].order >> 56), heap_[0].target, heap_[0].payload}; }

  void Push(const Event& e) {
    // Band in the top byte, then the sequence number: one comparison decides ties.
    const Node node{e.time, (static_cast<uint64_t>(e.band) << 56) | sequence_++, e.payload, e.target};
    size_t i = heap_.size();
    heap_.push_back(node);
    while (i > 0) {
      const size_t parent = (i - 1) / 4;
      if (!Before(node, heap_[parent])) break;
      heap_[i] = heap_[parent];
      i = parent;
    }
    heap_[i] = node;
  }

  void Pop() {
    const Node last = heap_.back();
    heap_.pop_back();
    const size_t n = heap_.size();
    if (n == 0) return;
    size_t hole = 0;
    while (true) {
      const size_t first = hole * 4 + 1;
      if (first >= n) break;
      size_t best = first;
      if (first + 4 <= n) {
        const size_t low = first + (Before(heap_[first + 1], heap_[first]) ? 1 : 0);
        const size_t high = first + 2 + (Before(heap_[first + 3], heap_[first + 2]) ? 1 : 0);
        best = Before(heap_[high], heap_[low]) ? high : low;
      } else {
        for (size_t c = first + 1; c < n; ++c) {
          if (Before(heap_[c], heap_[best])) best = c;
        }
      }
      if (!Before(heap_[best], last)) break;
      heap_[hole] = heap_[best];
      hole = best;
    }
    heap_[hole] = last;
  }

 private:
  // 24 bytes: four children and a bit fill a cache line and a half.
  struct Node {
    SimTime time;
    uint64_t order;
    uint32_t payload;
    uint32_t target;
  };
  // One wide comparison instead of two: ties are rare, but the branch on them is not free. Times are not negative.
  static bool Before(const Node& a, const Node& b) { return Key(a) < Key(b); }
  __extension__ using Wide = unsigned __int128;
  static Wide Key(const Node& n) { return (static_cast<Wide>(static_cast<uint64_t>(n.time.ticks())) << 64) | n.order; }
  std::vector<Node> heap_;
  uint64_t sequence_ = 0;
};

}  // namespace simrun
