#include "sim/routed_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "base/status.h"
#include "hw/placement.h"
#include "sim/expert_execution.h"

namespace simrun {
namespace {

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
    for (int l = 0; l < model.layers; ++l) {
      if (!model.IsMoeLayer(l)) continue;
      const size_t index = params_.places.size();
      moe_index_[static_cast<size_t>(l)] = static_cast<int>(index);
      if (l < o.layers.first) first_ = static_cast<int>(index) + 1;
      if (l < o.layers.first + o.layers.count) params_.end = static_cast<int>(index) + 1;
      double on_gpu = 0;
      for (const TensorPart& part : o.placement->layers[static_cast<size_t>(l)].routed_experts) {
        if (part.use != TensorUse::kCompute) {
          on_gpu += part.share;
        } else {
          tier_ = part.tier;
        }
      }
      // Whole experts: what is missing to one is made up in a later layer, so that the model has as many as its share.
      due += on_gpu * experts;
      const double places = std::clamp(std::floor(due - dealt + 1e-6), 0.0, std::ceil(on_gpu * experts - 1e-6));
      dealt += places;
      params_.places.push_back(static_cast<int>(places));
      if (c.residents == "popular") {
        std::vector<int32_t> order(static_cast<size_t>(model.moe->experts));
        std::iota(order.begin(), order.end(), 0);
        const std::vector<double>& share = popularity[index];
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return share[static_cast<size_t>(a)] > share[static_cast<size_t>(b)]; });
        params_.residents.push_back(std::move(order));
      }
    }
    PriceGpu(static_cast<double>(model.moe->experts));
    PriceHost(*o.host, o.link_rate);
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
    const ExpertSchedule& s = execution.Layer(index, unit_, view.gpu_ready, 0, 0, intervals_[static_cast<size_t>(index)]);
    last_index_ = index;
    last_start_ = view.now;
    last_makespan_ = s.makespan;

    const double rows_cpu = static_cast<double>(s.cpu_tokens), rows_fetched = static_cast<double>(s.fetched_tokens);
    const double rows_gpu = static_cast<double>(s.gpu_tokens - s.fetched_tokens);
    const double fetched = static_cast<double>(s.fetched.size());
    const double resident = static_cast<double>(s.on_gpu.size()) - fetched, cpu = static_cast<double>(s.on_cpu.size());
    if (resident > 0) work->resident = Price(rows_gpu, resident);
    if (fetched > 0) work->fetched = Price(rows_fetched, fetched);
    work->fetch_bytes = fetched * bytes_per_gpu_;
    work->ahead_bytes = execution.ahead() * bytes_per_gpu_;
    work->fetch_tier = tier_;
    ExpertWork::Cpu& place = tier_ == TierKind::kCxl ? work->cxl : work->dram;
    place.bytes = cpu * bytes_;
    place.flops = rows_cpu * flops_per_row_;
  }
  bool needs_times() const override { return times_; }
  void HostChanged(const HostCosts& host, double link_rate) override { PriceHost(host, link_rate); }
  const ExpertTotals* totals() const override {
    totals_ = ExpertTotals();
    for (const auto& e : executions_) totals_.Add(e->totals());
    const int end = std::min(params_.end, static_cast<int>(params_.places.size()));
    for (int l = first_; l < end; ++l) totals_.places += params_.places[static_cast<size_t>(l)];
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
  void PriceHost(const HostCosts& host, double link_rate) {
    unit_.cpu_first = host.fixed();
    unit_.cpu_base = bytes_ / host.Cap(tier_, bytes_, 0);
    unit_.cpu_per_token = host.ComputeSeconds(flops_per_row_);
    unit_.transfer = link_rate > 0 ? bytes_per_gpu_ / link_rate : 0;
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
  TierKind tier_ = TierKind::kDram;
  ExpertCosts unit_;
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

absl::StatusOr<std::unique_ptr<ExpertStage>> MakeRoutedExperts(const ModelSpec& model, const ParallelPlan& plan,
                                                               const LayerCosts* costs, const RoutedExpertsOptions& options) {
  auto stage = std::make_unique<RoutedExperts>();
  SIMRUN_RETURN_IF_ERROR(stage->Build(model, plan, costs, options));
  return stage;
}

}  // namespace simrun
