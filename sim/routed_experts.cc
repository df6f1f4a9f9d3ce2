#include "sim/routed_experts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "base/status.h"
#include "hw/placement.h"
#include "sim/expert_execution.h"

namespace simrun {
namespace {

using TierShares = std::array<double, kNumTiers>;

class RoutedExperts final : public ExpertStage {
 public:
  absl::Status Build(const ModelSpec& model, const ParallelPlan& plan, const LayerCosts* costs, const RoutedExpertsOptions& o) {
    costs_ = costs;
    const ExpertsConfig& c = o.config;
    SIMRUN_ASSIGN_OR_RETURN(const ExpertPolicyFactory policy, BuiltInExpertPolicies().Find(*c.policy));
    SIMRUN_ASSIGN_OR_RETURN(const ExpertRankingFactory ranking, BuiltInExpertRankings().Find(c.cache));
    SIMRUN_ASSIGN_OR_RETURN(const ExpertPrefetchFactory prefetch, BuiltInExpertPrefetches().Find(c.prefetch));
    policy_ = policy();
    ranking_ = ranking({.score_rate = c.score_rate});
    prefetch_ = prefetch();
    const double experts = static_cast<double>(model.moe->experts);
    bytes_ = ExpertBytes(model, plan, false);
    bytes_per_gpu_ = ExpertBytes(model, plan, true);
    flops_per_row_ = 2.0 * (model.mlp.gated ? 3 : 2) * static_cast<double>(model.hidden) * static_cast<double>(model.moe->ffn);

    params_.policy = policy_.get();
    params_.ranking = ranking_.get();
    params_.prefetch = prefetch_.get();
    params_.prefetch_layers = static_cast<int>(c.prefetch_layers);
    params_.prefetch_buffer = PrefetchBuffer(c, model);
    params_.predictor_accuracy = c.predictor_accuracy;
    const std::vector<std::vector<double>> popularity = o.routing->Popularity(o.seed);
    moe_index_.assign(static_cast<size_t>(model.layers), -1);
    double dealt = 0, due = 0;
    TierShares mean_away{};
    for (int l = 0; l < model.layers; ++l) {
      if (!model.IsMoeLayer(l)) continue;
      const size_t index = params_.places.size();
      moe_index_[static_cast<size_t>(l)] = static_cast<int>(index);
      if (l < o.layers.first) first_ = static_cast<int>(index) + 1;
      if (l < o.layers.first + o.layers.count) params_.end = static_cast<int>(index) + 1;
      double on_gpu = 0, streamed = 0;
      TierShares away{};
      for (const TensorPart& part : o.placement->layers[static_cast<size_t>(l)].routed_experts) {
        if (LeavesExpertsToPolicy(part)) {
          away[static_cast<size_t>(part.tier)] += part.share;
        } else {
          on_gpu += part.share;
          streamed += part.use == TensorUse::kStream ? part.share : 0;
        }
      }
      // Whole experts: what is missing to one is made up in a later layer, so that the model has as many as its share.
      due += on_gpu * experts;
      const double places = std::clamp(std::floor(due - dealt + 1e-6), 0.0, std::ceil(on_gpu * experts - 1e-6));
      dealt += places;
      params_.places.push_back(static_cast<int>(places));
      pinned_.push_back(std::llround(places * (on_gpu > 0 ? 1 - streamed / on_gpu : 1)));
      std::vector<int32_t> order(static_cast<size_t>(model.moe->experts));
      std::iota(order.begin(), order.end(), 0);
      if (c.residents == "popular") {
        const std::vector<double>& share = popularity[index];
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return share[static_cast<size_t>(a)] > share[static_cast<size_t>(b)]; });
        params_.residents.push_back(order);
      }
      homes_.push_back(HomesOf(o.placement->layers[static_cast<size_t>(l)].routed_experts, order, static_cast<size_t>(places)));
      const double sum = std::accumulate(away.begin(), away.end(), 0.0);
      for (size_t t = 0; t < away.size(); ++t) {
        if (sum > 0) away[t] /= sum;
        mean_away[t] += away[t];
      }
      away_.push_back(away);
    }
    // A layer that has all its experts brings some ahead for others.
    const double layers = std::accumulate(mean_away.begin(), mean_away.end(), 0.0);
    for (double& share : mean_away) share /= std::max(1.0, layers);
    for (TierShares& away : away_) {
      if (std::accumulate(away.begin(), away.end(), 0.0) <= 0) away = mean_away;
    }
    PriceGpu(static_cast<double>(model.moe->experts));
    units_.assign(away_.size(), unit_);
    HostChanged(*o.host, o.to_gpu);
    times_ = !prefetch_->idle() || ranking_->admits();
    routing_ = *o.routing;
    seed_ = o.seed;
    engine_ = static_cast<uint64_t>(o.engine);
    experts_ = model.moe->experts;
    intervals_.assign(params_.places.size(), 0.0);
    return absl::OkStatus();
  }

  void Run(const ExpertStageView& view, ExpertWork* work) override {
    *work = ExpertWork();
    const int index = moe_index_[static_cast<size_t>(view.layer)];
    const size_t group = static_cast<size_t>(view.group);
    while (executions_.size() <= group) {
      const uint64_t stream = engine_ * 64 + executions_.size();
      executions_.push_back(std::make_unique<ExpertExecution>(params_, routing_.MakeRouter(seed_, stream), Rng(seed_, "expert predictor", stream)));
    }
    ExpertExecution& execution = *executions_[group];
    if (index == first_) execution.Begin(view.decodes, view.tokens - view.decodes);

    // The link is free from the end of a layer to the start of the next as long as it was in the step before.
    if (times_ && last_index_ >= 0 && view.now >= last_start_) {
      intervals_[static_cast<size_t>(last_index_)] = std::max(0.0, view.now - last_start_ - last_makespan_);
    }
    const ExpertSchedule& s = execution.Layer(index, units_[static_cast<size_t>(index)], view.gpu_ready, 0, 0, intervals_[static_cast<size_t>(index)]);
    last_index_ = index;
    last_start_ = view.now;
    last_makespan_ = s.makespan;

    const double rows_fetched = static_cast<double>(s.fetched_tokens);
    const double rows_gpu = static_cast<double>(s.gpu_tokens - s.fetched_tokens);
    const double fetched = static_cast<double>(s.fetched.size());
    const double resident = static_cast<double>(s.on_gpu.size()) - fetched, cpu = static_cast<double>(s.on_cpu.size());
    if (resident > 0) work->resident = Price(rows_gpu, resident);
    if (fetched > 0) work->fetched = Price(rows_fetched, fetched);
    work->fetch_bytes = fetched * bytes_per_gpu_;
    work->ahead_bytes = execution.ahead() * bytes_per_gpu_;
    work->cpu_bytes = cpu * bytes_;
    Deal(static_cast<size_t>(index), execution.Loads(index), s, work);
  }
  bool needs_times() const override { return times_; }
  void HostChanged(const HostCosts& host, const TierRates& to_gpu) override {
    for (size_t l = 0; l < units_.size(); ++l) PriceHost(host, to_gpu, away_[l], &units_[l]);
  }
  const ExpertTotals* totals() const override {
    totals_ = ExpertTotals();
    for (const auto& e : executions_) totals_.Add(e->totals());
    const int end = std::min(params_.end, static_cast<int>(params_.places.size()));
    for (int l = first_; l < end; ++l) totals_.places += pinned_[static_cast<size_t>(l)];
    totals_.experts = std::max(0, end - first_) * experts_;
    totals_.bytes_fetched = static_cast<double>(totals_.fetched) * bytes_per_gpu_;
    totals_.bytes_ahead = static_cast<double>(totals_.transfers_ahead) * bytes_per_gpu_;
    return &totals_;
  }

 private:
  // Linear costs of one expert, for policies: marginal GPU time per expert and token, the CPU's, and the transfer.
  void PriceGpu(double experts) {
    // Between few and many experts of one row each, and between many and very many rows of one expert.
    const double few = 1, many = std::max(2.0, std::min(experts, 16.0));
    unit_.gpu_base = std::max(0.0, (costs_->Experts(many, many, many).seconds - costs_->Experts(few, few, few).seconds) / (many - few));
    unit_.gpu_per_token = std::max(0.0, (costs_->Experts(8192, 1, 1).seconds - costs_->Experts(4096, 1, 1).seconds) / 4096);
  }
  // Of a layer whose experts lie on several tiers the mean.
  void PriceHost(const HostCosts& host, const TierRates& to_gpu, const TierShares& away, ExpertCosts* unit) const {
    unit->cpu_first = host.fixed();
    unit->cpu_per_token = host.ComputeSeconds(flops_per_row_);
    unit->cpu_base = unit->transfer = 0;
    for (size_t t = 0; t < away.size(); ++t) {
      if (away[t] <= 0) continue;
      unit->cpu_base += away[t] * bytes_ / host.Cap(static_cast<TierKind>(t), bytes_, 0);
      if (to_gpu[t] > 0) unit->transfer += away[t] * bytes_per_gpu_ / to_gpu[t];
    }
  }

  // The tier that each expert of a layer is read from, when it is not in GPU memory; empty where it is the same for all. Behind
  // those that start in GPU memory, `order` is dealt to the parts in the order of the rules; the former have a copy with the first.
  static std::vector<TierKind> HomesOf(const TensorParts& parts, const std::vector<int32_t>& order, size_t residents) {
    double away = 0;
    for (const TensorPart& part : parts) away += LeavesExpertsToPolicy(part) ? part.share : 0;
    std::vector<TierKind> homes(order.size(), TierKind::kGpu);
    double due = 0;
    size_t dealt = 0;
    for (const TensorPart& part : parts) {
      if (!LeavesExpertsToPolicy(part)) continue;
      due += part.share / away * static_cast<double>(order.size() - residents);
      const size_t end = std::min(order.size(), residents + static_cast<size_t>(std::llround(due)));
      for (size_t i = dealt; i < end; ++i) homes[static_cast<size_t>(order[i])] = part.tier;
      dealt = end;
    }
    return homes;
  }

  // Gives what a layer fetches and computes to the tiers where its experts lie.
  void Deal(size_t layer, std::span<const ExpertLoad> loads, const ExpertSchedule& s, ExpertWork* work) {
    const TierShares& away = away_[layer];
    for (size_t t = 0; t < away.size(); ++t) {
      if (away[t] <= 0) continue;
      // Those brought ahead are of this layer or of the next ones: by the shares.
      work->tiers[t].ahead_bytes = away[t] * work->ahead_bytes;
      if (away[t] == 1) {
        work->tiers[t].fetch_bytes = work->fetch_bytes;
        work->tiers[t].cpu_bytes = work->cpu_bytes;
        work->tiers[t].flops = static_cast<double>(s.cpu_tokens) * flops_per_row_;
        return;
      }
    }
    const std::vector<TierKind>& homes = homes_[layer];
    const auto tier_of = [&](int32_t expert) -> ExpertWork::Tier& { return work->tiers[static_cast<size_t>(homes[static_cast<size_t>(expert)])]; };
    for (const int32_t e : s.fetched) tier_of(e).fetch_bytes += bytes_per_gpu_;
    rows_.resize(homes.size());
    for (const ExpertLoad& e : loads) rows_[static_cast<size_t>(e.expert)] = e.tokens;
    for (const int32_t e : s.on_cpu) {
      ExpertWork::Tier& tier = tier_of(e);
      tier.cpu_bytes += bytes_;
      tier.flops += flops_per_row_ * rows_[static_cast<size_t>(e)];
    }
  }

  // Experts on the GPU, each with rows. The same few numbers come again and again.
  const PartCost& Price(double rows, double experts) {
    const uint64_t key = static_cast<uint64_t>(rows) << 16 | static_cast<uint64_t>(experts);
    Priced& p = priced_[(key * 0x9e3779b97f4a7c15ull) >> (64 - kPricedBits)];
    if (p.key != key) p = {key, costs_->Experts(rows, experts, experts)};
    return p.cost;
  }

  static constexpr int kPricedBits = 10;
  struct Priced {
    uint64_t key = 0;
    PartCost cost;
  };
  std::vector<Priced> priced_{size_t{1} << kPricedBits};
  const LayerCosts* costs_ = nullptr;
  std::unique_ptr<ExpertPolicy> policy_;
  std::unique_ptr<ExpertRanking> ranking_;
  std::unique_ptr<ExpertPrefetch> prefetch_;
  ExpertExecutionParams params_;
  ExpertRouting routing_;
  uint64_t seed_ = 1, engine_ = 0;
  int64_t experts_ = 0;  // of a layer
  double bytes_ = 0, bytes_per_gpu_ = 0, flops_per_row_ = 0;
  std::vector<int64_t> pinned_;               // of the places of each layer, those whose experts do not stream through
  std::vector<std::vector<TierKind>> homes_;  // of the layers with experts
  std::vector<TierShares> away_;              // of what lies outside GPU memory, likewise
  ExpertCosts unit_;                          // the GPU's part of `units_`
  std::vector<ExpertCosts> units_;            // of the layers
  std::vector<int32_t> rows_;                 // of the active experts of one layer
  bool times_ = false;
  std::vector<int> moe_index_;
  int first_ = 0;  // of the layers with experts that this stage runs
  std::vector<std::unique_ptr<ExpertExecution>> executions_;  // of the token groups
  std::vector<double> intervals_;
  int last_index_ = -1;
  double last_start_ = 0, last_makespan_ = 0;
  mutable ExpertTotals totals_;
};

}  // namespace

int PrefetchBuffer(const ExpertsConfig& config, const ModelSpec& model) {
  return static_cast<int>(std::min(config.prefetch_buffer.value_or(model.moe->top_k), model.moe->experts * model.layers));
}

int ExpertBuffers(const ExpertsConfig& config, const ModelSpec& model) {
  if (!config.policy || !model.moe) return 0;
  const absl::StatusOr<ExpertPolicyFactory> policy = BuiltInExpertPolicies().Find(*config.policy);
  const absl::StatusOr<ExpertPrefetchFactory> prefetch = BuiltInExpertPrefetches().Find(config.prefetch);
  if (!policy.ok() || !prefetch.ok()) return 0;
  return ((*policy)()->fetches() ? 2 : 0) + ((*prefetch)()->idle() ? 0 : PrefetchBuffer(config, model));
}

bool ExpertsMove(const ExpertsConfig& config) {
  const absl::StatusOr<ExpertRankingFactory> ranking = BuiltInExpertRankings().Find(config.cache);
  return config.policy && ranking.ok() && (*ranking)({.score_rate = config.score_rate})->admits();
}

absl::StatusOr<std::unique_ptr<ExpertStage>> MakeRoutedExperts(const ModelSpec& model, const ParallelPlan& plan,
                                                               const LayerCosts* costs, const RoutedExpertsOptions& options) {
  auto stage = std::make_unique<RoutedExperts>();
  SIMRUN_RETURN_IF_ERROR(stage->Build(model, plan, costs, options));
  return stage;
}

}  // namespace simrun
