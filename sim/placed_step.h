// Step cost of plans that keep tensors outside GPU memory: a step is walked layer by layer as tasks of GPU, CPU and
// copy engines that overlap and share links and memories (hw/overlap.h).
//
// Per layer and token group:
//     [weights of the layer, through the window]  [KV cache of the layer]
//     GPU: projections, attention over what it holds   CPU: attention over the KV cache in its memory
//     GPU: output projection, router
//     GPU: feed-forward part, its experts              CPU: its experts           link: experts fetched
// Attention ranks (plan.dp) go through it together: the slowest decides, each GPU moves its own bytes beside the others, and the
// experts, the CPU and the memories serve the tokens of all ranks.
// Streamed weights run ahead across steps: the window refills with the first layers of the next step while the last
// layers of this one compute. The model has a state (what is under way), so every engine needs one of its own.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "hw/placement.h"
#include "hw/step_cost_compiled.h"
#include "sim/expert_stage.h"
#include "sim/resolved.h"

namespace simrun {

struct PlacedStepOptions {
  StepCostOptions cost;
  int first_gpu = 0;
  // That share a host: stages of all engines, and engines.
  int stages_per_host = 1, engines_per_host = 1;
  // Experts followed one by one, when `experts.policy` is given.
  ExpertsConfig experts;
  const ExpertRouting* routing = nullptr;  // must outlive the call
  uint64_t seed = 1;
  int engine = 0;
};

absl::StatusOr<std::unique_ptr<CompiledStepCost>> MakePlacedStepCost(const ModelSpec& model, const ParallelPlan& plan,
                                                                     const Machine& machine, const EngineProfile& profile,
                                                                     const Placement& placement, const Catalog& catalog,
                                                                     const PlacedStepOptions& options);

// The cost model of one engine of a scenario: the compiled one for plans in GPU memory, else this one.
absl::StatusOr<std::unique_ptr<CompiledStepCost>> StepCostOf(const ResolvedScenario& scenario, const Catalog& catalog,
                                                             const StepCostOptions& options, int replica = 0);

}  // namespace simrun
