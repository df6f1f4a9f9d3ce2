// The roofline-only baseline of the accuracy ledger: a step takes the larger of its FLOPs over the peak and its bytes
// over the bandwidth, and nothing else. What a careful spreadsheet says.
#pragma once

#include <memory>

#include "hw/machine.h"
#include "hw/step_cost.h"
#include "models/model_spec.h"
#include "models/parallel_plan.h"

namespace simrun {

std::unique_ptr<StepCostModel> MakeRooflineBaseline(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine);

}  // namespace simrun
