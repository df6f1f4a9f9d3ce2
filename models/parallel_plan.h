// How a model is laid over devices: the `plan:` section of a scenario.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/dtype.h"

namespace simrun {

struct ParallelPlan {
  int tp = 1;        // tensor parallelism: every matrix split over tp ranks
  int pp = 1;        // pipeline stages: layers split into pp consecutive groups
  int dp = 1;        // attention replicas inside one engine; with ep > 1 the experts are shared by all dp x tp ranks
  int ep = 1;        // ranks over which whole experts are spread; 1: every expert split by tp
  int replicas = 1;  // independent engines behind the router
  // Dense models: ranks that split each MLP matrix; 0: tp. All dp x tp ranks of the engine, so that attention replicas
  // share one MLP; or, with dp = 1, a divisor of tp: groups of ffn_tp ranks with an MLP of their own, each for its part of
  // the tokens.
  int ffn_tp = 0;
  std::vector<int> stage_layers;     // layers of each pipeline stage; empty: as evenly as possible, the first ones more
  DType weights = DType::kBf16;      // matrices of the layers; embedding, LM head and norms stay 16-bit (32 with fp32)
  DType activations = DType::kBf16;  // what the matrices are multiplied with
  DType kv_cache = DType::kBf16;

  int ffn_ranks() const { return ffn_tp > 0 ? ffn_tp : tp; }
  // Attention and MLP are split differently, with collectives between them that hand the tokens over.
  bool separate_ffn() const { return ffn_ranks() != tp; }
  int gpus_per_engine() const { return tp * pp * dp; }
  int gpus() const { return gpus_per_engine() * replicas; }
};

}  // namespace simrun
