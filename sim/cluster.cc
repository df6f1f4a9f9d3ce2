#include "sim/cluster.h"

#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun {
namespace {
constexpr int64_t kMostRefusedInTurn = 1000000;
}  // namespace

Cluster::Cluster(const ClusterParams& params, const BatchingPolicy& policy, std::span<StepCostModel* const> models,
                 std::unique_ptr<Router> router, ArrivalSource* source, RunMetrics* metrics)
    : params_(params), router_(std::move(router)), source_(source), metrics_(metrics) {
  for (int i = 0; i < params_.replicas; ++i) {
    StepCostModel* model = models[models.size() > 1 ? static_cast<size_t>(i) : 0];
    replicas_.push_back(std::make_unique<Replica>(static_cast<uint32_t>(i), params_.engine, policy, model, metrics));
  }
  if (params_.replicas_per_host > 1 || (params_.replicas_per_host == 1 && models[0]->stages() > 1)) {
    const std::span<const std::unique_ptr<Replica>> all(replicas_);
    const size_t most = static_cast<size_t>(params_.replicas_per_host);
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t first = i / most * most;
      replicas_[i]->set_host(all.subspan(first, std::min(most, all.size() - first)));
    }
  }
  loads_.resize(replicas_.size());
  is_touched_.resize(replicas_.size());
  if (params_.front_end_token != SimTime()) servers_free_.resize(replicas_.size());
}

SimTime Cluster::VisibleAt(const Arrival& a) {
  SimTime done = a.at;
  if (!servers_free_.empty()) {
    std::pop_heap(servers_free_.begin(), servers_free_.end(), std::greater<>());
    done = std::max(done, servers_free_.back()) + SimTime::FromTicks(params_.front_end_token.ticks() * a.input_tokens);
    servers_free_.back() = done;
    std::push_heap(servers_free_.begin(), servers_free_.end(), std::greater<>());
  }
  return done + params_.front_end;
}

void Cluster::set_observer(EngineObserver* observer) {
  observed_ = observer != nullptr;
  for (auto& replica : replicas_) replica->set_observer(observer);
}

std::span<const ReplicaLoad> Cluster::Loads(const Arrival& arrival) {
  if (router_->needs_load()) {
    const bool cached = router_->needs_cached_share();
    for (size_t i = 0; i < replicas_.size(); ++i) {
      loads_[i] = replicas_[i]->load();
      if (cached) loads_[i].cached_share = replicas_[i]->CachedShare(arrival);
    }
  }
  return loads_;
}

absl::Status Cluster::RunOpenLoop() {
  if (params_.replicas_per_host > 1) return AdvanceTo(SimTime::Infinite());
  // A replica plans at an instant only after all arrivals of that instant are in its queue.
  std::vector<SimTime> plan_at(replicas_.size(), SimTime::Infinite());
  const auto advance = [&](size_t i, SimTime now) {
    if (plan_at[i] < now) {
      replicas_[i]->Issue(plan_at[i]);
      plan_at[i] = SimTime::Infinite();
    }
    replicas_[i]->Run(now);
    if (now != SimTime::Infinite() && replicas_[i]->next_event() == now) {
      replicas_[i]->Complete(now);
      plan_at[i] = now;
    }
  };
  const auto deliver = [&](const Arrival& arrival, SimTime now) {
    size_t target = 0;
    if (router_->needs_load()) {
      for (size_t i = 0; i < replicas_.size(); ++i) advance(i, now);
      target = router_->Route(Loads(arrival));
    } else {
      if (replicas_.size() > 1) target = router_->Route(loads_);
      advance(target, now);
    }
    if (replicas_[target]->Enqueue(arrival)) plan_at[target] = now;
  };
  // Requests become visible in the order in which they arrive, unless they pass through several servers.
  const bool in_order = servers_free_.size() <= 1;
  Arrival arrival;
  while (true) {
    while (!front_end_.empty() && front_end_.NextTime() <= source_->next_time()) {
      const SimTime now = front_end_.NextTime();
      deliver(front_end_.Pop(), now);
    }
    SIMRUN_ASSIGN_OR_RETURN(const NextResult next, source_->Next(&arrival));
    if (next != NextResult::kArrival) break;
    ++events_;
    metrics_->OnArrived(arrival.at);
    if (in_order) {
      deliver(arrival, VisibleAt(arrival));
    } else {
      front_end_.Push(VisibleAt(arrival), arrival);
    }
  }
  for (size_t i = 0; i < replicas_.size(); ++i) advance(i, SimTime::Infinite());
  return absl::OkStatus();
}

void Cluster::Touch(uint32_t replica) {
  if (is_touched_[replica]) return;
  is_touched_[replica] = 1;
  touched_.push_back(replica);
}

SimTime Cluster::NextEventTime() {
  while (!queue_.empty() && replicas_[queue_.Top().target]->next_event() != queue_.NextTime()) queue_.Pop();
  return std::min({queue_.NextTime(), source_->next_time(), front_end_.NextTime()});
}

absl::Status Cluster::AdvanceTo(SimTime limit) {
  while (true) {
    const SimTime now = NextEventTime();
    if (now == SimTime::Infinite() || now > limit) return absl::OkStatus();
    if (!observed_ && queue_.NextTime() == now) {
      // Steps in which nobody finishes concern no other replica and no client: take them ahead of everything else
      // that happens later.
      const uint32_t target = queue_.Top().target;
      queue_.Pop();
      const SimTime after_limit = limit == SimTime::Infinite() ? limit : limit + SimTime::FromTicks(1);
      replicas_[target]->RunWithoutFinish(std::min(NextEventTime(), after_limit));
      queue_.Push({replicas_[target]->next_event(), EventBand::kStepEnd, target, 0});
      if (replicas_[target]->next_event() != now) continue;
    }
    while (!queue_.empty() && queue_.NextTime() == now) {
      const uint32_t target = queue_.Top().target;
      queue_.Pop();
      if (replicas_[target]->next_event() != now) continue;
      ++events_;
      const int finished = replicas_[target]->Complete(now);
      for (int i = 0; i < finished; ++i) source_->OnFinished(now);
      Touch(target);
    }
    // A refused request may bring its client's next one at this very instant, so both loops go on until nothing comes.
    // Clients who are only ever refused would keep time from passing.
    int64_t refused_in_turn = 0;
    while (source_->next_time() <= now || front_end_.NextTime() <= now) {
      while (source_->next_time() <= now) {
        Arrival arrival;
        SIMRUN_ASSIGN_OR_RETURN(const NextResult next, source_->Next(&arrival));
        if (next != NextResult::kArrival) break;
        ++events_;
        metrics_->OnArrived(arrival.at);
        front_end_.Push(VisibleAt(arrival), arrival);
      }
      while (front_end_.NextTime() <= now) {
        const Arrival arrival = front_end_.Pop();
        const uint32_t target = static_cast<uint32_t>(replicas_.size() == 1 ? 0 : router_->Route(Loads(arrival)));
        if (replicas_[target]->Enqueue(arrival)) {
          Touch(target);
        } else {
          const bool quiet = source_->next_time() > now;
          source_->OnFinished(now);
          if (quiet && source_->next_time() <= now && ++refused_in_turn > kMostRefusedInTurn) {
            return absl::FailedPreconditionError(fmt::format(
                "clients whose every request is refused send for ever at {} s: their prompts and outputs are longer than the "
                "context or the KV memory; shorten them, or give a think time", now.seconds().value()));
          }
        }
      }
    }
    for (const uint32_t target : touched_) {
      Replica& replica = *replicas_[target];
      is_touched_[target] = 0;
      replica.Issue(now);
      if (replica.next_event() != SimTime::Infinite()) {
        queue_.Push({replica.next_event(), EventBand::kStepEnd, target, 0});
      }
    }
    touched_.clear();
  }
}

}  // namespace simrun
