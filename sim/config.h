// The sections of a scenario file that belong to no other folder, and the whole file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/params.h"
#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "hw/placement.h"
#include "models/parallel_plan.h"
#include "schedulers/config.h"
#include "workload/config.h"

namespace simrun {

struct PlanConfig {
  int tp = 1, pp = 1, dp = 1, ep = 1, replicas = 1;
  std::optional<int64_t> ffn_tp;
  std::vector<int64_t> layers_per_stage;
  std::optional<std::string> weights;
  std::optional<std::string> activations;
  std::optional<std::string> kv_cache;
  PlacementConfig placement;
  std::optional<int64_t> experts_active;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("tp", tp, {.help = "tensor parallelism: GPUs that share every matrix", .min = 1, .max = 65536});
    v.Field("pp", pp, {.help = "pipeline stages: groups of layers one after the other", .min = 1, .max = 64});
    v.Field("dp", dp, {.help = "attention replicas inside one engine; for a dense model the same as replicas, unless they share the MLP (ffn_tp)", .min = 1, .max = 65536});
    v.Field("ep", ep, {.help = "GPUs over which whole experts are spread", .min = 1, .max = 65536});
    v.Field("replicas", replicas, {.help = "independent engines behind the router", .min = 1, .max = 65536});
    v.Field("ffn_tp", ffn_tp, {.help = "dense models: GPUs that share every matrix of the MLP; tp x dp makes attention replicas share one MLP, less than tp gives "
                               "groups an MLP of their own; auto: tp", .min = 1, .max = 65536});
    v.Field("layers_per_stage", layers_per_stage, {.help = "layers of each pipeline stage; auto: as even as possible", .min = 1, .max = 100000});
    v.Field("weights", weights, {.help = "number format of the weights; auto: the model's own", .choices = &DTypeNames});
    v.Field("activations", activations, {.help = "format the matrices are multiplied in; auto: that of fp8, int8 and (with FP4 units) nvfp4 weights, else 16-bit", .choices = &DTypeNames});
    v.Field("kv_cache", kv_cache, {.help = "format of the KV cache; auto: the model's 16-bit format", .choices = &DTypeNames});
    v.Field("placement", placement, {.help = "which memory the tensors lie in, and how they are used there"});
    v.Field("experts_active", experts_active, {.help = "routed experts per token; auto: the model's", .min = 1, .max = 1e5});
  }
};

struct SloConfig {
  std::optional<Seconds> ttft;
  std::optional<Seconds> tpot;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("ttft", ttft, {.help = "a request counts as good when its TTFT is at most this; auto: any", .min = 0, .above_min = true});
    v.Field("tpot", tpot, {.help = "and its TPOT at most this; auto: any", .min = 0, .above_min = true});
  }
};

struct MetricsConfig {
  Seconds warmup{0};
  std::optional<int64_t> replications;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("warmup", warmup, {.help = "requests arriving before this are simulated but left out of latencies, throughput and goodput", .min = 0});
    v.Field("replications", replications, {.help = "runs with further seeds, this one included, behind the prediction intervals; auto: 5 for random traffic of at most "
                                                   "1000 requests, else 1", .min = 1, .max = 1000});
  }
};

struct ScenarioConfig {
  std::string model;
  HardwareConfig hardware;
  PlanConfig plan;
  EngineConfig engine;
  SchedulerConfig scheduler;
  WorkloadConfig workload;
  SloConfig slo;
  MetricsConfig metrics;
  int64_t seed = 1;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("model", model, {.help = "catalogue name, or path of a Hugging Face config.json", .required = true, .example = "llama-3.1-70b"});
    v.Field("hardware", hardware, {.help = "the machine", .required = true});
    v.Field("plan", plan, {.help = "how the model is laid over the GPUs"});
    v.Field("engine", engine, {.help = "the serving engine"});
    v.Field("scheduler", scheduler, {.help = "batching and routing"});
    v.Field("workload", workload, {.help = "the traffic", .required = true});
    v.Field("slo", slo, {.help = "latency targets"});
    v.Field("metrics", metrics, {.help = "what is counted"});
    v.Field("seed", seed, {.help = "of every random stream", .min = 0, .max = 9007199254740991.0});
  }
};

}  // namespace simrun
