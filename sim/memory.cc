#include "sim/memory.h"

#include <algorithm>
#include <cmath>

#include "models/lowering.h"

namespace simrun {

MemoryPlan PlanMemory(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                      const EngineProfile& engine, const BatchLimits& limits, int64_t max_model_len,
                      int64_t fixed_blocks) {
  MemoryPlan tightest;
  const double block = static_cast<double>(limits.block_size);
  // For models without a KV cache: room for every sequence at full length.
  const double most_blocks =
      std::ceil(static_cast<double>(max_model_len) / block) * static_cast<double>(limits.max_num_seqs);
  for (int stage = 0; stage < plan.pp; ++stage) {
    MemoryPlan m;
    m.gpu = machine.gpu.memory;
    m.usable = machine.gpu.memory * engine.gpu_memory_utilization;
    m.weights = WeightBytesPerGpu(model, plan, stage);
    m.activations = ActivationBytesPerGpu(model, plan, limits.max_num_batched_tokens, limits.max_num_seqs);
    m.reserve = engine.runtime_reserve;
    m.kv_budget = m.usable - m.weights - m.activations - m.reserve;
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
  return tightest;
}

}  // namespace simrun
