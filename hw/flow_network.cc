#include "hw/flow_network.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace simrun {
namespace {
constexpr double kNever = std::numeric_limits<double>::infinity();
// Two resources that fill up at rates this close fill up together.
constexpr double kRounding = 1e-12;
}  // namespace

int FlowNetwork::AddResource(std::string name, double capacity) {
  SIM_CHECK(capacity > 0);
  Resource r;
  r.name = std::move(name);
  r.capacity = capacity;
  resources_.push_back(std::move(r));
  return resources() - 1;
}

void FlowNetwork::SetCapacity(int resource, double capacity) {
  SIM_CHECK(capacity > 0);
  resources_[static_cast<size_t>(resource)].capacity = capacity;
  stale_ = true;
}

int FlowNetwork::Start(std::span<const Use> uses, double bytes, double cap) {
  SIM_CHECK(uses.size() <= kMostUses && bytes >= 0 && cap > 0);
  int id;
  if (free_ids_.empty()) {
    id = static_cast<int>(flows_.size());
    flows_.emplace_back();
  } else {
    id = free_ids_.back();
    free_ids_.pop_back();
  }
  Flow& f = flows_[static_cast<size_t>(id)];
  std::copy(uses.begin(), uses.end(), f.uses.begin());
  f.count = uses.size();
  f.remaining = bytes;
  f.cap = cap;
  active_.push_back(id);
  stale_ = true;
  return id;
}

void FlowNetwork::Solve() {
  stale_ = false;
  next_ = kNever;
  for (Resource& r : resources_) r.free = r.capacity, r.load = 0;
  rising_ = active_;
  for (const int id : active_) {
    const Flow& f = flows_[static_cast<size_t>(id)];
    for (size_t u = 0; u < f.count; ++u) resources_[static_cast<size_t>(f.uses[u].resource)].load += f.uses[u].per_byte;
  }
  while (!rising_.empty()) {
    double level = kNever;
    for (const Resource& r : resources_) {
      if (r.load > 0) level = std::min(level, std::max(r.free, 0.0) / r.load);
    }
    for (const int id : rising_) level = std::min(level, flows_[static_cast<size_t>(id)].cap);
    const double reached = level * (1 + kRounding);
    for (Resource& r : resources_) r.full = r.load > 0 && std::max(r.free, 0.0) / r.load <= reached;
    size_t kept = 0;
    for (const int id : rising_) {
      Flow& f = flows_[static_cast<size_t>(id)];
      bool stays = f.cap <= reached || level == kNever;
      for (size_t u = 0; u < f.count && !stays; ++u) stays = resources_[static_cast<size_t>(f.uses[u].resource)].full;
      if (!stays) {
        rising_[kept++] = id;
        continue;
      }
      f.rate = std::min(level, f.cap);
      f.end = f.rate == kNever || f.remaining <= 0 ? now_ : now_ + f.remaining / f.rate;
      next_ = std::min(next_, f.end);
    }
    // Without what the flows that stay take.
    for (size_t i = kept; i < rising_.size(); ++i) rising_[i] = -1;
    rising_.resize(kept);
    for (Resource& r : resources_) r.free = r.capacity, r.load = 0;
    for (const int id : rising_) flows_[static_cast<size_t>(id)].rate = -1;
    for (const int id : active_) {
      const Flow& f = flows_[static_cast<size_t>(id)];
      for (size_t u = 0; u < f.count; ++u) {
        Resource& r = resources_[static_cast<size_t>(f.uses[u].resource)];
        if (f.rate < 0) {
          r.load += f.uses[u].per_byte;
        } else if (f.rate < kNever) {
          r.free -= f.rate * f.uses[u].per_byte;
        }
      }
    }
  }
}

double FlowNetwork::NextCompletion() {
  if (stale_) Solve();
  return next_;
}

double FlowNetwork::Rate(int flow) {
  if (stale_) Solve();
  return flows_[static_cast<size_t>(flow)].rate;
}

void FlowNetwork::Credit(const Flow& f, double bytes) {
  for (size_t u = 0; u < f.count; ++u) resources_[static_cast<size_t>(f.uses[u].resource)].moved += bytes * f.uses[u].per_byte;
}

void FlowNetwork::AdvanceTo(double time) {
  SIM_CHECK(time >= now_);
  finished_.clear();
  while (!active_.empty()) {
    const double next = NextCompletion();
    const double to = std::min(next, time);
    const double passed = to - now_;
    now_ = to;
    size_t kept = 0;
    for (const int id : active_) {
      Flow& f = flows_[static_cast<size_t>(id)];
      if (f.end <= to) {
        Credit(f, f.remaining);
        finished_.push_back(id);
        free_ids_.push_back(id);
        continue;
      }
      const double bytes = std::min(f.rate * passed, f.remaining);
      Credit(f, bytes);
      f.remaining -= bytes;
      active_[kept++] = id;
    }
    if (kept < active_.size()) {
      active_.resize(kept);
      stale_ = true;
    }
    if (next > time) break;
  }
  now_ = time;
}

void FlowNetwork::Rebase() {
  for (const int id : active_) flows_[static_cast<size_t>(id)].end -= now_;
  next_ -= now_;
  now_ = 0;
}

}  // namespace simrun
