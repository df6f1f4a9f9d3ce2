// How a model is laid over devices: the `plan:` section of a scenario.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "models/dtype.h"

namespace simrun {

struct ParallelPlan {
  int tp = 1;        // tensor parallelism: every matrix split over tp ranks
  int pp = 1;        // pipeline stages: layers split into pp consecutive groups
  int dp = 1;        // attention replicas inside one engine; with ep > 1 the experts are shared by all dp x tp ranks
  int ep = 1;        // ranks over which whole experts are spread; 1: every expert split by tp
  int replicas = 1;  // independent engines behind the router
  DType weights = DType::kBf16;      // matrices of the layers; embedding, LM head and norms stay 16-bit (32 with fp32)
  DType activations = DType::kBf16;  // what the matrices are multiplied with
  DType kv_cache = DType::kBf16;

  int gpus_per_engine() const { return tp * pp * dp; }
  int gpus() const { return gpus_per_engine() * replicas; }
};

}  // namespace simrun
