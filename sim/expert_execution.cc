#include "sim/expert_execution.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace simrun {

ExpertExecution::ExpertExecution(ExpertExecutionParams params, std::unique_ptr<ExpertRouter> router, Rng rng)
    : params_(std::move(params)), router_(std::move(router)), rng_(rng), cache_(router_->experts(), params_.places, *params_.ranking) {
  const size_t n = static_cast<size_t>(router_->layers());
  for (size_t l = 0; l < params_.residents.size() && l < n; ++l) cache_.Fill(static_cast<int>(l), params_.residents[l]);
  loads_.resize(n);
  predicted_.resize(n);
  staged_.resize(n);
  next_use_.resize(static_cast<size_t>(router_->experts()));
}

void ExpertExecution::Begin(int64_t decodes, int64_t prefill) {
  ++step_;
  const bool oracle = params_.ranking->needs_future();
  const bool foreseen = oracle && future_ != nullptr && prefill == 0 && decodes == future_decodes_;
  router_->Begin(decodes, prefill);
  choices_ = 0;
  waiting_ = 0;
  for (size_t l = 0; l < loads_.size(); ++l) {
    const std::span<const uint32_t> counts = router_->Layer(static_cast<int>(l));
    std::vector<ExpertLoad>& loads = loads_[l];
    loads.resize(counts.size());
    size_t n = 0;
    for (size_t e = 0; e < counts.size(); ++e) {
      loads[n] = {static_cast<int32_t>(e), static_cast<int32_t>(counts[e]), false};
      n += counts[e] > 0 ? 1 : 0;
    }
    loads.resize(n);
    if (l == 0) {
      for (const uint32_t c : counts) choices_ += c;
    }
    predicted_[l].clear();
    staged_[l].clear();
  }
  if (!oracle) return;
  if (!foreseen) {
    future_ = router_->Clone();
    future_decodes_ = decodes;
    future_uses_.assign(kFuture, {});
    future_first_ = 0;
    for (int i = 0; i < kFuture; ++i) FillFuture(decodes);
  } else {
    FillFuture(decodes);
  }
}

// Draws one more step to come into the oldest place of the ring.
void ExpertExecution::FillFuture(int64_t decodes) {
  std::vector<uint8_t>& uses = future_uses_[future_first_];
  future_first_ = (future_first_ + 1) % kFuture;
  const size_t experts = static_cast<size_t>(router_->experts());
  uses.assign(loads_.size() * experts, 0);
  future_->Begin(decodes, 0);
  for (size_t l = 0; l < loads_.size(); ++l) {
    const std::span<const uint32_t> counts = future_->Layer(static_cast<int>(l));
    for (size_t e = 0; e < experts; ++e) uses[l * experts + e] = counts[e] > 0 ? 1 : 0;
  }
}

// A predictor that names each active expert with the given probability, and else one that nobody chose.
void ExpertExecution::Predict(int layer) {
  std::vector<ExpertLoad>& predicted = predicted_[static_cast<size_t>(layer)];
  if (!predicted.empty()) return;
  const std::vector<ExpertLoad>& loads = loads_[static_cast<size_t>(layer)];
  const size_t experts = static_cast<size_t>(router_->experts());
  if (params_.predictor_accuracy < 1) {
    seen_.assign(experts, 0);
    for (const ExpertLoad& e : loads) seen_[static_cast<size_t>(e.expert)] = 1;
  }
  size_t others = experts - loads.size();
  for (const ExpertLoad& e : loads) {
    if (params_.predictor_accuracy >= 1 || rng_.Uniform() < params_.predictor_accuracy || others == 0) {
      predicted.push_back(e);
      continue;
    }
    size_t wrong = static_cast<size_t>(rng_.Below(experts));
    while (seen_[wrong] != 0) wrong = (wrong + 1) % experts;
    seen_[wrong] = 1;
    --others;
    predicted.push_back({static_cast<int32_t>(wrong), e.tokens, false});
  }
  cache_.Mark(layer, predicted);
}

int ExpertExecution::BringAhead(int layer, const ExpertCosts& costs, double gpu_ready, double cpu_ready, int transfers) {
  int used = 0;
  const int room = std::min(transfers, params_.prefetch_buffer - waiting_);
  if (!params_.prefetch->idle() && room > 0) {
    foreseen_.clear();
    const int last = std::min(std::min(layers(), params_.end) - 1, layer + params_.prefetch_layers);
    for (int l = layer + 1; l <= last; ++l) {
      Predict(l);
      foreseen_.push_back({predicted_[static_cast<size_t>(l)]});
    }
    if (!foreseen_.empty()) {
      PrefetchView view;
      view.layers = foreseen_;
      view.costs = costs;
      view.gpu_ready = gpu_ready;
      view.cpu_ready = cpu_ready;
      view.transfers = room;
      view.policy = params_.policy;
      params_.prefetch->Choose(view, &scratch_, &chosen_);
      for (const Prefetched& p : chosen_) {
        const size_t l = static_cast<size_t>(layer + 1 + p.layer);
        staged_[l].push_back(p.expert);
        ++waiting_;
        for (ExpertLoad& e : predicted_[l]) e.on_gpu = e.on_gpu || e.expert == p.expert;
        ++used;
      }
    }
  }
  // What is left refills the cache of this layer with experts it has just used, those worth most first.
  if (used < transfers && params_.ranking->admits()) {
    const std::vector<ExpertLoad>& loads = loads_[static_cast<size_t>(layer)];
    arrived_.resize(loads.size());
    size_t missing = 0;
    for (const ExpertLoad& e : loads) {
      arrived_[missing] = e.expert;
      missing += cache_.Resident(layer, e.expert) ? 0 : 1;
    }
    arrived_.resize(missing);
    const size_t most = static_cast<size_t>(transfers - used);
    if (arrived_.size() > most) {
      std::partial_sort(arrived_.begin(), arrived_.begin() + static_cast<std::ptrdiff_t>(most), arrived_.end(), [&](int32_t a, int32_t b) {
        const double x = cache_.Worth(layer, a), y = cache_.Worth(layer, b);
        return x != y ? x > y : a < b;
      });
      arrived_.resize(most);
    }
    // Those that would not be kept are not sent.
    used += cache_.Admit(layer, arrived_);
  }
  return used;
}

const ExpertSchedule& ExpertExecution::Layer(int layer, const ExpertCosts& costs, double gpu_ready, double cpu_ready,
                                             double link_ready, double until_next) {
  std::vector<ExpertLoad>& loads = loads_[static_cast<size_t>(layer)];
  cache_.Mark(layer, loads);
  ExpertUse use{step_, loads, choices_, {}};
  if (params_.ranking->needs_future()) {
    const size_t experts = next_use_.size();
    std::fill(next_use_.begin(), next_use_.end(), kFuture + 1);
    for (int i = kFuture - 1; i >= 0; --i) {
      const std::vector<uint8_t>& uses = future_uses_[(future_first_ + static_cast<size_t>(i)) % kFuture];
      for (size_t e = 0; e < experts; ++e) {
        if (uses[static_cast<size_t>(layer) * experts + e] != 0) next_use_[e] = i + 1;
      }
    }
    use.next_use = next_use_;
  }
  const int64_t hits = cache_.hits();
  cache_.Observe(layer, use);
  totals_.uses += static_cast<int64_t>(loads.size());
  totals_.hits += cache_.hits() - hits;
  const std::vector<int32_t>& staged = staged_[static_cast<size_t>(layer)];
  if (!staged.empty()) {
    for (ExpertLoad& e : loads) {
      if (!e.on_gpu && std::find(staged.begin(), staged.end(), e.expert) != staged.end()) {
        e.on_gpu = true;
        ++totals_.prefetched;
      }
    }
  }
  ExpertLayerView view{loads, costs, gpu_ready, cpu_ready, link_ready};
  params_.policy->Schedule(view, &schedule_);
  totals_.on_gpu += static_cast<int64_t>(schedule_.on_gpu.size());
  totals_.on_cpu += static_cast<int64_t>(schedule_.on_cpu.size());
  totals_.fetched += static_cast<int64_t>(schedule_.fetched.size());
  arrived_.assign(schedule_.fetched.begin(), schedule_.fetched.end());
  arrived_.insert(arrived_.end(), staged.begin(), staged.end());
  waiting_ -= static_cast<int>(staged.size());
  cache_.Admit(layer, arrived_);

  ahead_ = 0;
  if (costs.transfer > 0 && (!params_.prefetch->idle() || params_.ranking->admits())) {
    const double spare = schedule_.makespan + until_next - schedule_.link_end;
    const double transfers = std::floor(spare / costs.transfer);
    if (transfers >= 1) {
      ahead_ = BringAhead(layer, costs, gpu_ready, cpu_ready, static_cast<int>(std::min(transfers, 1e6)));
      totals_.transfers_ahead += ahead_;
    }
  }
  return schedule_;
}

}  // namespace simrun
