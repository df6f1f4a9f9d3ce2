// Expert stage with a state: routing drawn or replayed token by token, caches, hybrid execution and prefetch
// (sim/expert_execution.h), put into the terms of the step model of placed plans.
#pragma once

#include <memory>

#include "hw/host_cost.h"
#include "hw/layer_cost.h"
#include "hw/step_cost_compiled.h"
#include "schedulers/config.h"
#include "schedulers/expert_scheduling.h"
#include "sim/expert_routing.h"
#include "sim/expert_stage.h"

namespace simrun {

struct RoutedExpertsOptions {
  ExpertsConfig config;
  const ExpertRouting* routing = nullptr;  // must outlive the call
  uint64_t seed = 1;
  int engine = 0;
  const Placement* placement = nullptr;    // likewise
  StageLayers layers;                      // that this stage runs
  const HostCosts* host = nullptr;         // likewise
  TierRates to_gpu{};                      // bytes per second from the tiers to each GPU
};

// Experts that may be brought ahead at a time (scheduler.experts.prefetch_buffer).
int PrefetchBuffer(const ExpertsConfig& config, const ModelSpec& model);
// Experts that GPU memory needs room for beside the residents: two where the policy fetches, one arriving while one
// computes, and those brought ahead. 0 without a policy.
int ExpertBuffers(const ExpertsConfig& config, const ModelSpec& model);

// True: experts take the place of others in GPU memory.
bool ExpertsMove(const ExpertsConfig& config);

// NotFound for an unknown policy, cache or prefetch.
absl::StatusOr<std::unique_ptr<ExpertStage>> MakeRoutedExperts(const ModelSpec& model, const ParallelPlan& plan,
                                                               const LayerCosts* costs, const RoutedExpertsOptions& options);

}  // namespace simrun
