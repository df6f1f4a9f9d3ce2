#include "sim/placed_step.h"

#include <utility>
#include <vector>

#include "sim/placed_pipeline.h"
#include "sim/placed_stage.h"

namespace simrun {

absl::StatusOr<std::unique_ptr<CompiledStepCost>> StepCostOf(const ResolvedScenario& r, const Catalog& catalog,
                                                             const StepCostOptions& options, int replica) {
  if (r.placement.resident) return CompileStepCost(r.model, r.plan, r.machine, r.engine, catalog, options);
  PlacedStepOptions placed;
  placed.cost = options;
  placed.first_gpu = replica * r.plan.gpus_per_engine();
  placed.stages_per_host = r.stages_per_host;
  placed.engines_per_host = r.EnginesPerHost();
  placed.experts = r.config.scheduler.experts;
  if (r.routing) placed.routing = &*r.routing;
  placed.seed = static_cast<uint64_t>(r.config.seed);
  placed.engine = replica;
  return MakePlacedStepCost(r.model, r.plan, r.machine, r.engine, r.placement, catalog, placed);
}

absl::StatusOr<std::unique_ptr<CompiledStepCost>> MakePlacedStepCost(const ModelSpec& model, const ParallelPlan& plan,
                                                                     const Machine& machine, const EngineProfile& profile,
                                                                     const Placement& placement, const Catalog& catalog,
                                                                     const PlacedStepOptions& options) {
  std::vector<std::unique_ptr<CompiledStepCost>> stages;
  for (int stage = 0; stage < plan.pp; ++stage) {
    PlacedStepOptions own = options;
    own.first_gpu += stage * plan.tp * plan.dp;
    const auto make = profile.lockstep ? MakeLockstepStage : MakeStreamedStage;
    std::unique_ptr<PlacedStage> step = make(model, plan, stage, profile, placement, HostCosts(machine, profile, options.stages_per_host));
    SIMRUN_RETURN_IF_ERROR(step->Build(machine, catalog, own));
    stages.push_back(std::move(step));
  }
  if (stages.size() == 1) return std::move(stages.front());
  return MakePlacedPipeline(std::move(stages));
}

}  // namespace simrun
