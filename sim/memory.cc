#include "sim/memory.h"

#include <algorithm>
#include <cmath>

#include "models/lowering.h"

namespace simrun {
namespace {
// What a GPU has and keeps from weights and KV cache.
MemoryPlan BesideModel(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine, const EngineProfile& engine,
                       const BatchLimits& limits) {
  MemoryPlan m;
  m.gpu = m.usable = machine.gpu.memory;
  m.activations = ActivationBytesPerGpu(model, plan, limits.max_num_batched_tokens, limits.max_num_seqs, engine.expert_chunk);
  m.reserve = engine.runtime_reserve;
  if (!engine.working_memory) {
    m.usable = m.gpu * engine.gpu_memory_utilization;
    return m;
  }
  // The share of weights and KV cache is one of what is free once the runtime has started.
  const int64_t ranks = int64_t{plan.tp} * plan.dp;
  const Bytes kept = engine.working_memory->Of(limits.max_num_batched_tokens, engine.graph_max_tokens, ranks * plan.pp, plan.dp);
  const double share = engine.share_given ? engine.gpu_memory_utilization : std::max(0.0, 1 - kept / m.gpu);
  const Bytes working = (m.gpu - m.reserve) * (1 - share);
  // What the engine keeps and activations do not take is graphs and slack; it does not look at what they take.
  m.activations = std::min(m.activations, working);
  m.reserve += working - m.activations;
  return m;
}

// What one GPU of a stage has room for beside `weights`; the blocks are left to the caller.
MemoryPlan BesideWeights(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine, const EngineProfile& engine,
                         const BatchLimits& limits, Bytes weights) {
  MemoryPlan m = BesideModel(model, plan, machine, engine, limits);
  m.weights = weights;
  m.kv_budget = m.usable - m.weights - m.activations - m.reserve;
  return m;
}

// The pool for states of linear attention of a stage, taken from its KV budget; the sequences that it has room for, the least so far.
void TakeStatePool(const ModelSpec& model, const ParallelPlan& plan, const EngineProfile& engine, int stage, MemoryPlan* m, int64_t* sequences) {
  const double state = StateBytesPerGpu(model, plan, stage).value();
  if (!engine.state_pool || state <= 0 || m->kv_budget <= Bytes(0)) return;
  const Bytes pool = m->kv_budget * (engine.state_pool->ratio / (1 + engine.state_pool->ratio));
  m->kv_budget -= pool;
  const auto room = static_cast<int64_t>(pool.value() / (state * static_cast<double>(engine.state_pool->per_sequence)));
  *sequences = *sequences == 0 ? std::max<int64_t>(1, room) : std::clamp<int64_t>(room, 1, *sequences);
}

// KV blocks of one attention rank that the states of a sequence take, on the stage where they take most.
int64_t StateBlocks(const ModelSpec& model, const ParallelPlan& plan, int64_t block_size) {
  double most = 0;
  for (int stage = 0; stage < plan.pp; ++stage) {
    const double block = KvPerToken(model, plan, stage) * static_cast<double>(block_size), state = StateBytesPerGpu(model, plan, stage).value();
    if (state > 0) most = std::max(most, std::ceil(state / block));
  }
  return static_cast<int64_t>(most);
}

void KeepStates(const ModelSpec& model, const ParallelPlan& plan, const EngineProfile& engine, const BatchLimits& limits, int64_t sequences,
                MemoryPlan* m) {
  m->state_sequences = sequences;
  if (!engine.state_pool) m->state_blocks = StateBlocks(model, plan, limits.block_size);
}
}  // namespace

MemoryPlan PlanMemory(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                      const EngineProfile& engine, const BatchLimits& limits, int64_t max_model_len,
                      int64_t fixed_blocks) {
  MemoryPlan tightest;
  const double block = static_cast<double>(limits.block_size);
  // For models without a KV cache: room for every sequence at full length.
  const double most_blocks =
      std::ceil(static_cast<double>(max_model_len) / block) * static_cast<double>(limits.max_num_seqs);
  int64_t state_sequences = 0;
  for (int stage = 0; stage < plan.pp; ++stage) {
    MemoryPlan m = BesideWeights(model, plan, machine, engine, limits, WeightBytesPerGpu(model, plan, stage));
    TakeStatePool(model, plan, engine, stage, &m, &state_sequences);
    const KvBytes kv = KvBytesPerGpu(model, plan, stage);
    const double dense = (kv.per_token + kv.per_token_windowed).value() * block;
    const double full = kv.per_token.value() * block;
    // Windowed layers keep a window (rounded up to blocks, plus the block being filled) per sequence.
    const double window_tokens = (std::ceil(static_cast<double>(kv.window) / block) + 1) * block;
    const double set_aside = kv.per_token_windowed.value() * window_tokens * static_cast<double>(limits.max_num_seqs);
    const auto blocks = [&](double bytes, double per_block) {
      if (bytes < 0) return 0.0;
      return per_block > 0 ? std::floor(bytes / per_block) : most_blocks;
    };
    double count = blocks(m.kv_budget.value(), dense);
    m.kv_block = Bytes(dense);
    if (kv.per_token_windowed.value() > 0) {
      const double hybrid = blocks(m.kv_budget.value() - set_aside, full);
      if (hybrid > count) {
        count = hybrid;
        m.kv_block = Bytes(full);
      }
    }
    m.kv_blocks = static_cast<int64_t>(std::min(count, 1e15));
    if (stage == 0 || m.kv_blocks < tightest.kv_blocks || (m.kv_blocks == tightest.kv_blocks && m.kv_budget < tightest.kv_budget)) {
      tightest = m;
    }
  }
  if (fixed_blocks > 0) tightest.kv_blocks = fixed_blocks;
  KeepStates(model, plan, engine, limits, state_sequences, &tightest);
  return tightest;
}

namespace {
// Of host memory and drives, for the operating system and file systems; assumed.
constexpr double kHostShare = 0.95;
}  // namespace

double KvPerToken(const ModelSpec& model, const ParallelPlan& plan, int stage) {
  const KvBytes kv = KvBytesPerGpu(model, plan, stage);
  return (kv.per_token + kv.per_token_windowed).value();
}

double KvPerTokenOnce(const ModelSpec& model, const ParallelPlan& plan) {
  ParallelPlan p = plan;
  p.tp = p.ep = p.pp = p.dp = 1;
  p.stage_layers.clear();
  return KvPerToken(model, p, 0);
}

Bytes EngineShareOf(const MemoryTier& tier, double engines_per_host) { return tier.capacity * (kHostShare / engines_per_host); }

Bytes KvBlockOfRank(const ModelSpec& model, const ParallelPlan& plan, int64_t block_size) {
  double bytes = 0;
  for (int stage = 0; stage < plan.pp; ++stage) bytes += KvPerToken(model, plan, stage);
  return Bytes(bytes * plan.tp * static_cast<double>(block_size));
}

PlacementRoom RoomFor(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine, const EngineProfile& engine,
                      const BatchLimits& limits, int64_t max_model_len, double engines_per_host) {
  PlacementRoom room;
  const MemoryPlan m = BesideModel(model, plan, machine, engine, limits);
  room.gpu = m.usable - m.activations - m.reserve;
  // Enough KV for every sequence at full length, but no more than a quarter of the memory.
  const double each = KvPerToken(model, plan, 0) * static_cast<double>(max_model_len) + StateBytesPerGpu(model, plan, 0).value();
  const double most = each * static_cast<double>(limits.max_num_seqs);
  room.kv = Bytes(std::max(0.0, std::min(most, 0.25 * room.gpu.value())));
  const MemoryTiers tiers = TiersOf(machine);
  for (size_t i = 1; i < tiers.size(); ++i) room.tiers[i] = EngineShareOf(tiers[i], engines_per_host);
  return room;
}

MemoryPlan PlanPlacedMemory(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                            const EngineProfile& engine, const BatchLimits& limits, int64_t max_model_len,
                            int64_t fixed_blocks, const Placement& placement, double engines_per_host) {
  const double block = static_cast<double>(limits.block_size);
  const double once = KvPerTokenOnce(model, plan) * block;
  std::array<double, kNumTiers> kv{};
  double streamed = 0;
  for (const TensorPart& p : placement.kv) {
    kv[static_cast<size_t>(p.tier)] += p.share;
    if (p.use == TensorUse::kStream) streamed += p.share;
  }
  const double most_blocks = std::ceil(static_cast<double>(max_model_len) / block) * static_cast<double>(limits.max_num_seqs);
  std::array<Bytes, kNumTiers> weights{};
  MemoryPlan tightest;
  double blocks = 0;
  int64_t state_sequences = 0;
  for (int stage = 0; stage < plan.pp; ++stage) {
    const PlacementUse use = UseOf(placement, model, plan, stage);
    for (size_t i = 1; i < weights.size(); ++i) weights[i] += use.weights[i];
    MemoryPlan m = BesideWeights(model, plan, machine, engine, limits, use.gpu_pinned + use.gpu_window);
    m.window = use.gpu_window;
    TakeStatePool(model, plan, engine, stage, &m, &state_sequences);
    const double per_gpu = KvPerToken(model, plan, stage) * block;
    m.kv_block = Bytes(per_gpu * kv[0]);
    double count = most_blocks;
    if (m.kv_budget < Bytes(0)) {
      count = 0;
    } else {
      // Two layers of the cache that streams are on the GPU at a time; in lockstep those of two token groups of one.
      const double layers = LayersOfStage(model, plan, stage).count, groups = engine.lockstep ? placement.token_groups : 1;
      const double here = kv[0] + streamed * std::min(1.0, 2.0 / (layers * groups));
      if (here * per_gpu > 0) count = std::min(kv[0] > 0 ? 1e15 : most_blocks, m.kv_budget.value() / (here * per_gpu));
      if (kv[0] <= 0 && streamed <= 0) count = 1e15;
    }
    if (stage == 0 || count < blocks || (count == blocks && m.kv_budget < tightest.kv_budget)) {
      tightest = m;
      blocks = count;
    }
  }
  const MemoryTiers tiers = TiersOf(machine);
  for (size_t i = 1; i < tiers.size(); ++i) {
    TierPlan t;
    t.tier = static_cast<TierKind>(i);
    t.capacity = EngineShareOf(tiers[i], engines_per_host);
    t.weights = weights[i];
    t.kv_block = Bytes(once * kv[i] * plan.dp);
    if (t.weights <= Bytes(0) && t.kv_block <= Bytes(0)) continue;
    if (t.kv_block > Bytes(0)) blocks = std::min(blocks, std::max(0.0, (t.capacity - t.weights) / t.kv_block));
    tightest.tiers.push_back(t);
  }
  tightest.kv_blocks = static_cast<int64_t>(std::min(blocks, 1e15));
  if (fixed_blocks > 0) tightest.kv_blocks = fixed_blocks;
  KeepStates(model, plan, engine, limits, state_sequences, &tightest);
  return tightest;
}

}  // namespace simrun
