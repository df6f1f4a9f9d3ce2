#include "schedulers/waiting_queue.h"

#include <algorithm>
#include <string>

#include "base/status.h"
#include "schedulers/config.h"
#include <fmt/format.h>

namespace simrun {

std::vector<std::string> QueueOrderNames() { return {"fcfs", "shortest-job", "priority", "earliest-deadline"}; }
std::vector<std::string> PreemptionNames() { return {"recompute", "swap", "auto"}; }
std::vector<std::string> KvOffloadingFetchNames() { return {"always", "auto"}; }

absl::StatusOr<QueueOrder> ParseQueueOrder(std::string_view name) {
  const std::vector<std::string> names = QueueOrderNames();
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) {
    return absl::InvalidArgumentError(fmt::format("unknown queue order \"{}\"; {}", name, NameHint(name, names)));
  }
  return static_cast<QueueOrder>(it - names.begin());
}

std::tuple<int64_t, uint64_t> WaitingQueue::Key(const WaitingRequest& r) const {
  switch (order_) {
    case QueueOrder::kFcfs: return {0, r.arrival_order};
    case QueueOrder::kShortestJob: return {r.prompt_tokens + r.max_kv_tokens - r.kv_tokens, r.arrival_order};
    case QueueOrder::kPriority: return {r.priority, r.arrival_order};
    case QueueOrder::kEarliestDeadline: return {r.deadline, r.arrival_order};
  }
  return {0, r.arrival_order};
}

void WaitingQueue::Push(const WaitingRequest& request) {
  if (order_ != QueueOrder::kFcfs) {
    sorted_.emplace(Key(request), request);
    return;
  }
  if (fifo_.empty() || fifo_.back().arrival_order < request.arrival_order) {
    fifo_.push_back(request);
    return;
  }
  // A preempted request: few stand before it, so search from the front.
  const auto at = std::find_if(fifo_.begin(), fifo_.end(), [&](const WaitingRequest& w) {
    return w.arrival_order > request.arrival_order;
  });
  fifo_.insert(at, request);
}

void WaitingQueue::PopFront() {
  if (order_ == QueueOrder::kFcfs) {
    fifo_.pop_front();
  } else {
    sorted_.erase(sorted_.begin());
  }
}

}  // namespace simrun
