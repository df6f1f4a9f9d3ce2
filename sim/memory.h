// How the memory of a GPU is shared out: weights, activations, runtime, and what is left for the KV cache.
#pragma once

#include <cstdint>
#include <string>

#include "base/units.h"
#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "models/model_spec.h"
#include "models/parallel_plan.h"
#include "schedulers/batching.h"

namespace simrun {

struct MemoryPlan {
  Bytes gpu;                       // memory of one GPU
  Bytes usable;                    // of that, what the engine takes
  Bytes weights;                   // of the stage with the least room left
  Bytes activations;
  Bytes reserve;
  Bytes kv_budget;                 // left for KV blocks on that stage; negative when it does not fit
  int64_t kv_blocks = 0;           // per attention rank
  Bytes kv_block;                  // bytes of one block on one GPU of that stage
};

// kv_blocks = floor((utilisation * memory - weights - activations - reserve) / bytes of a block), the least over the
// pipeline stages. Sliding-window layers hold at most `window` tokens of each of max_num_seqs sequences, which is set
// aside first when that is less than keeping every token. `fixed_blocks` > 0 replaces the result.
MemoryPlan PlanMemory(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                      const EngineProfile& engine, const BatchLimits& limits, int64_t max_model_len,
                      int64_t fixed_blocks);

}  // namespace simrun
