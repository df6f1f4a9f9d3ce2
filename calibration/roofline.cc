#include "calibration/roofline.h"

#include <algorithm>
#include <cmath>

#include "models/lowering.h"

namespace simrun {
namespace {

class Roofline final : public StepCostModel {
 public:
  Roofline(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine) : stages_(plan.pp) {
    const DType compute = ComputeDType(plan.weights, plan.activations);
    double peak = machine.gpu.peak[static_cast<int>(compute)].value();
    for (const DType wider : {DType::kBf16, DType::kFp16, DType::kFp32}) {
      if (peak <= 0) peak = machine.gpu.peak[static_cast<int>(wider)].value();
    }
    bandwidth_ = machine.gpu.memory_bandwidth.value();
    flops_per_token_ = 2 * static_cast<double>(ActiveParameterCount(model, false)) / plan.pp / peak / plan.tp;
    for (int stage = 0; stage < plan.pp; ++stage) {
      weight_seconds_ = std::max(weight_seconds_, WeightBytesPerGpu(model, plan, stage).value() / bandwidth_);
      const KvBytes kv = KvBytesPerGpu(model, plan, stage);
      double per_token = kv.per_token.value();
      windowed_seconds_ = std::max(windowed_seconds_, kv.per_token_windowed.value() / bandwidth_);
      double state = 2 * StateBytesPerGpu(model, plan, stage).value();
      double layers = 0;
      for (const AttentionShape& s : AttentionShapes(model, plan, stage)) {
        if (s.top_k > 0) {
          // The chosen part of the cache, as much for every token.
          const double cache = s.layers * static_cast<double>(s.mla_latent + s.mla_rope) * BytesPerElement(plan.kv_cache);
          per_token -= cache;
          state += cache * static_cast<double>(s.top_k);
        } else if (!s.linear) {
          layers += s.layers * PrefillAttentionFlops(s, 1, 0);
        }
      }
      kv_seconds_ = std::max(kv_seconds_, per_token / bandwidth_);
      state_seconds_ = std::max(state_seconds_, state / bandwidth_);
      pair_seconds_ = std::max(pair_seconds_, layers / peak);
    }
    if (model.moe) {
      experts_ = static_cast<double>(model.moe->experts);
      top_k_ = static_cast<double>(model.moe->top_k);
      const double expert_params = static_cast<double>(ParameterCount(model) - ActiveParameterCount(model, true)) / (1 - top_k_ / experts_);
      expert_share_ = expert_params / static_cast<double>(ParameterCount(model));
    }
  }

  int stages() const override { return stages_; }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override {
    double slowest = 0;
    double tokens = 0;
    for (const StepWork& w : ranks) tokens += static_cast<double>(w.tokens);
    double weights = weight_seconds_;
    // Only experts that some token chose are read.
    if (experts_ > 0) weights *= 1 - expert_share_ * std::pow(1 - top_k_ / experts_, tokens);
    for (const StepWork& w : ranks) {
      double compute = flops_per_token_ * static_cast<double>(w.tokens);
      double kv = kv_seconds_ * static_cast<double>(w.decode_kv_sum) + windowed_seconds_ * static_cast<double>(w.decode_kv_sum_windowed) +
                  state_seconds_ * static_cast<double>(w.decode_seqs + static_cast<int64_t>(w.chunks.size()));
      for (const PrefillChunk& c : w.chunks) {
        const double q = static_cast<double>(c.tokens), past = static_cast<double>(c.past);
        compute += pair_seconds_ * (q * past + q * q / 2);
        kv += (kv_seconds_ + windowed_seconds_) * (past + q);
      }
      slowest = std::max(slowest, std::max(compute, weights + kv));
    }
    cost->bound_seconds = {};
    cost->dynamic_joules = 0;
    for (int s = 0; s < stages_; ++s) cost->stage_seconds[s] = slowest;
    cost->bound_seconds[static_cast<int>(Bound::kMemory)] = slowest * stages_;
  }

 private:
  int stages_;
  double bandwidth_ = 0, flops_per_token_ = 0, weight_seconds_ = 0, kv_seconds_ = 0, windowed_seconds_ = 0, state_seconds_ = 0, pair_seconds_ = 0;
  double experts_ = 0, top_k_ = 0, expert_share_ = 0;
};

}  // namespace

std::unique_ptr<StepCostModel> MakeRooflineBaseline(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine) {
  return std::make_unique<Roofline>(model, plan, machine);
}

}  // namespace simrun
