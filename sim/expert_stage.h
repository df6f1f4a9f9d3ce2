// What the routed experts of one layer ask of GPU, CPU and link in one step: the place where expert routing, caches and
// scheduling policies plug into the step model of placed plans.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "hw/host_cost.h"
#include "hw/layer_cost.h"
#include "hw/placement.h"

namespace simrun {

struct ExpertStageView {
  int layer = 0;            // of the model, counting from 0
  int64_t tokens = 0;       // that the router has just dealt
  const LayerPlacement* placement = nullptr;
  int group = 0;            // token group
  int64_t decodes = 0;      // of the tokens: one each of sequences that generate; the others are prompts
  // When each timeline is free, from the end of the router; only for stages that ask for times.
  double gpu_ready = 0, cpu_ready = 0, link_ready = 0;
  double now = 0;           // end of the router, on a clock that runs through all steps
};

struct ExpertWork {
  PartCost resident;        // experts the GPUs run from their memory (streamed ones arrive through the window)
  PartCost fetched;         // those they run once they have crossed the link
  // What one tier gives.
  struct Tier {
    double fetch_bytes = 0;            // per GPU, after the router
    double ahead_bytes = 0;            // per GPU: of experts for later, when those have crossed; nothing waits for them
    double cpu_bytes = 0, flops = 0;   // one pass of the CPU over experts there
  };
  std::array<Tier, kNumTiers> tiers;
  double fetch_bytes = 0, ahead_bytes = 0, cpu_bytes = 0;  // of all tiers
};

using TierRates = std::array<double, kNumTiers>;

class ExpertStage {
 public:
  virtual ~ExpertStage() = default;
  // Called once per layer and token group, in order, in every step: no allocation.
  virtual void Run(const ExpertStageView& view, ExpertWork* work) = 0;
  // True: the view's times are filled, which costs a little.
  virtual bool needs_times() const { return false; }
  // What the engine gets of the CPU and of the ways from the tiers to a GPU (bytes per second) has changed.
  virtual void HostChanged(const HostCosts& /*host*/, const TierRates& /*to_gpu*/) {}
  // Null for stages that follow no single expert.
  virtual const ExpertTotals* totals() const { return nullptr; }
};

// Experts dealt to tiers by the placement's shares, each share chosen in proportion: expected numbers of active experts
// and rows.
std::unique_ptr<ExpertStage> MakeExpectedExperts(const ModelSpec& model, const ParallelPlan& plan, const LayerCosts* costs);

}  // namespace simrun
