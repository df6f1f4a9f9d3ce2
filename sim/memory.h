// How the memory of a GPU is shared out: weights, activations, runtime, and what is left for the KV cache.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "hw/placement.h"
#include "models/model_spec.h"
#include "models/parallel_plan.h"
#include "schedulers/batching.h"

namespace simrun {

// What one engine keeps on a tier outside GPU memory.
struct TierPlan {
  TierKind tier = TierKind::kDram;
  Bytes capacity;                  // the engine's part of the host's
  Bytes weights;
  Bytes kv_block;                  // bytes that one KV block of every attention rank takes here
};

struct MemoryPlan {
  Bytes gpu;                       // memory of one GPU
  Bytes usable;                    // of that, what the engine takes
  Bytes weights;                   // of the stage with the least room left
  Bytes activations;
  Bytes reserve;
  Bytes kv_budget;                 // left for KV blocks on that stage; negative when it does not fit
  int64_t kv_blocks = 0;           // per attention rank
  Bytes kv_block;                  // bytes of one block on one GPU of that stage
  // States of linear attention: blocks that a sequence takes for them beside those of its tokens, or where the engine has a pool
  // for them the sequences that it has room for. 0: no states there.
  int64_t state_blocks = 0, state_sequences = 0;
  Bytes window;                    // buffers for streamed weights, part of `weights`
  std::vector<TierPlan> tiers;     // those that the placement uses
};

// KV bytes of a token on one GPU of a pipeline stage, and of all layers, held once.
double KvPerToken(const ModelSpec& model, const ParallelPlan& plan, int stage);
double KvPerTokenOnce(const ModelSpec& model, const ParallelPlan& plan);

// kv_blocks = floor((utilisation * memory - weights - activations - reserve) / bytes of a block), the least over the
// pipeline stages. Sliding-window layers hold at most `window` tokens of each of max_num_seqs sequences, which is set
// aside first when that is less than keeping every token. The states of linear attention take blocks like the cache of tokens,
// so many for each sequence, or the engine's pool for them takes ratio / (1 + ratio) of that memory. `fixed_blocks` > 0 replaces the number of blocks.
MemoryPlan PlanMemory(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                      const EngineProfile& engine, const BatchLimits& limits, int64_t max_model_len,
                      int64_t fixed_blocks);
// The same for a plan with tensors outside GPU memory: blocks are limited by every tier that holds a share of them. Less than
// one engine per host: the engine has the memory of several hosts.
MemoryPlan PlanPlacedMemory(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                            const EngineProfile& engine, const BatchLimits& limits, int64_t max_model_len,
                            int64_t fixed_blocks, const Placement& placement, double engines_per_host);
// Bytes of a tier's memory that one engine may use: all but what the operating system takes.
Bytes EngineShareOf(const MemoryTier& tier, double engines_per_host);
// Bytes of one KV block of one attention rank, over all its GPUs.
Bytes KvBlockOfRank(const ModelSpec& model, const ParallelPlan& plan, int64_t block_size);
// Room that an engine has for `auto` placement.
PlacementRoom RoomFor(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine, const EngineProfile& engine,
                      const BatchLimits& limits, int64_t max_model_len, double engines_per_host);

}  // namespace simrun
