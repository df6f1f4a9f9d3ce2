// Requests waiting for a point in time, earliest first; equal times first in, first out.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sim/event_queue.h"
#include "workload/request.h"

namespace simrun {

class ArrivalQueue {
 public:
  bool empty() const { return queue_.empty(); }
  // Infinite when empty.
  SimTime NextTime() const { return queue_.NextTime(); }
  void Push(SimTime at, const Arrival& arrival) {
    auto slot = static_cast<uint32_t>(arrivals_.size());
    if (free_.empty()) {
      arrivals_.push_back(arrival);
    } else {
      slot = free_.back();
      free_.pop_back();
      arrivals_[slot] = arrival;
    }
    queue_.Push({at, EventBand::kArrival, 0, slot});
  }
  // Precondition: not empty.
  Arrival Pop() {
    const uint32_t slot = queue_.Top().payload;
    queue_.Pop();
    free_.push_back(slot);
    return std::move(arrivals_[slot]);
  }

 private:
  EventQueue queue_;                // payload indexes arrivals_
  std::vector<Arrival> arrivals_;
  std::vector<uint32_t> free_;
};

}  // namespace simrun
