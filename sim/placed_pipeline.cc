#include "sim/placed_pipeline.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace simrun {
namespace {

class PlacedPipeline final : public CompiledStepCost {
 public:
  explicit PlacedPipeline(std::vector<std::unique_ptr<CompiledStepCost>> stages) : stages_(std::move(stages)) {
    // Stages rest on the same figures; some have parts that others lack.
    for (const auto& stage : stages_) {
      for (const ProvenanceNote& note : stage->provenance()) {
        const bool known = std::any_of(provenance_.begin(), provenance_.end(), [&](const ProvenanceNote& n) { return n.part == note.part; });
        if (!known) provenance_.push_back(note);
      }
    }
  }

  int stages() const override { return static_cast<int>(stages_.size()); }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override {
    cost->dynamic_joules = 0;
    std::fill(std::begin(cost->bound_seconds), std::end(cost->bound_seconds), 0.0);
    for (size_t s = 0; s < stages_.size(); ++s) {
      stages_[s]->Predict(ranks, &of_stage_);
      cost->stage_seconds[s] = of_stage_.stage_seconds[0];
      cost->dynamic_joules += of_stage_.dynamic_joules;
      for (size_t i = 0; i < std::size(cost->bound_seconds); ++i) cost->bound_seconds[i] += of_stage_.bound_seconds[i];
    }
  }
  void ShareHost(int stages) override {
    for (const auto& stage : stages_) stage->ShareHost(stages);
  }
  std::vector<StepOperator> Explain(std::span<const StepWork> ranks) override {
    std::vector<StepOperator> out;
    for (size_t s = 0; s < stages_.size(); ++s) {
      for (StepOperator& op : stages_[s]->Explain(ranks)) {
        op.shape = fmt::format("stage {}: {}", s + 1, op.shape);
        out.push_back(std::move(op));
      }
    }
    return out;
  }
  const std::vector<ProvenanceNote>& provenance() const override { return provenance_; }
  std::vector<std::string> Warnings() const override {
    std::vector<std::string> out;
    for (const auto& stage : stages_) {
      for (std::string& warning : stage->Warnings()) {
        if (std::find(out.begin(), out.end(), warning) == out.end()) out.push_back(std::move(warning));
      }
    }
    return out;
  }
  std::vector<ResourceUse> Resources() const override {
    std::vector<ResourceUse> out;
    for (const auto& stage : stages_) {
      for (ResourceUse& use : stage->Resources()) {
        const auto same = std::find_if(out.begin(), out.end(), [&](const ResourceUse& u) { return u.name == use.name; });
        if (same == out.end()) {
          out.push_back(std::move(use));
          continue;
        }
        same->bytes += use.bytes;
        same->capacity += use.capacity;
        same->joules += use.joules;
      }
    }
    return out;
  }
  const ExpertTotals* Experts() const override {
    experts_ = ExpertTotals();
    for (const auto& stage : stages_) {
      const ExpertTotals* own = stage->Experts();
      if (own == nullptr) return nullptr;
      experts_.Add(*own);
    }
    return &experts_;
  }
  double host_busy_seconds() const override { return Sum(&StepCostModel::host_busy_seconds); }
  double host_joules() const override { return Sum(&StepCostModel::host_joules); }

 private:
  double Sum(double (StepCostModel::*of)() const) const {
    double sum = 0;
    for (const auto& stage : stages_) sum += ((*stage).*of)();
    return sum;
  }

  const std::vector<std::unique_ptr<CompiledStepCost>> stages_;
  std::vector<ProvenanceNote> provenance_;
  StepCost of_stage_;
  mutable ExpertTotals experts_;
};

}  // namespace

std::unique_ptr<CompiledStepCost> MakePlacedPipeline(std::vector<std::unique_ptr<CompiledStepCost>> stages) {
  return std::make_unique<PlacedPipeline>(std::move(stages));
}

}  // namespace simrun
