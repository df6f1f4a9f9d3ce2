// Pipeline stages that keep tensors outside GPU memory, each a step cost of its own (sim/placed_step.h), as one engine.
#pragma once

#include <memory>
#include <vector>

#include "hw/step_cost_compiled.h"

namespace simrun {

// Times are those of each stage; energy, waits, bytes moved and experts used are summed. Two stages at least.
std::unique_ptr<CompiledStepCost> MakePlacedPipeline(std::vector<std::unique_ptr<CompiledStepCost>> stages);

}  // namespace simrun
