#include "sim/expert_stage.h"

#include "models/expert_load.h"

namespace simrun {
namespace {

class ExpectedExperts final : public ExpertStage {
 public:
  ExpectedExperts(const ModelSpec& model, const ParallelPlan& plan, const LayerCosts* costs) : moe_(*model.moe), costs_(costs) {
    bytes_ = ExpertBytes(model, plan, false);
    flops_per_row_ = 2.0 * (model.mlp.gated ? 3 : 2) * static_cast<double>(model.hidden) * static_cast<double>(moe_.ffn);
  }
  void Run(const ExpertStageView& view, ExpertWork* work) override {
    *work = ExpertWork();
    if (view.tokens <= 0) return;
    const double experts = static_cast<double>(moe_.experts);
    const double rows = static_cast<double>(view.tokens) * static_cast<double>(moe_.top_k);
    if (view.tokens != tokens_) {
      tokens_ = view.tokens;
      active_ = experts * ActiveExpertShare(moe_.experts, moe_.top_k, view.tokens, moe_.popularity_cv);
      gpu_share_ = -1;
    }
    double on_gpu = 0;
    for (const TensorPart& part : view.placement->routed_experts) {
      if (part.use != TensorUse::kCompute) {
        on_gpu += part.share;
        continue;
      }
      ExpertWork::Tier& tier = work->tiers[static_cast<size_t>(part.tier)];
      tier.cpu_bytes += part.share * active_ * bytes_;
      tier.flops += part.share * rows * flops_per_row_;
      work->cpu_bytes += part.share * active_ * bytes_;
    }
    if (on_gpu <= 0) return;
    if (on_gpu != gpu_share_) {
      gpu_share_ = on_gpu;
      gpu_ = costs_->Experts(rows * on_gpu, experts * on_gpu, active_ * on_gpu);
    }
    work->resident = gpu_;
  }

 private:
  const MoeSpec moe_;
  const LayerCosts* costs_;
  double bytes_ = 0, flops_per_row_ = 0;
  int64_t tokens_ = -1;
  double active_ = 0, gpu_share_ = -1;
  PartCost gpu_;
};

}  // namespace

std::unique_ptr<ExpertStage> MakeExpectedExperts(const ModelSpec& model, const ParallelPlan& plan, const LayerCosts* costs) {
  return std::make_unique<ExpectedExperts>(model, plan, costs);
}

}  // namespace simrun
