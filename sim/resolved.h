// A scenario with its names looked up, its defaults filled in and its plan checked: what a run is built from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "hw/placement.h"
#include "models/model_spec.h"
#include "models/parallel_plan.h"
#include "sim/config.h"
#include "sim/expert_routing.h"
#include "sim/memory.h"
#include "sim/replica.h"

namespace simrun {

// What a search for a placement found.
struct PlacementChoice {
  std::string objective;
  int candidates = 0;
  std::vector<PlacementRule> rules;
  double value = 0;             // seconds per output token, or joules or USD, as estimated
  struct Marginal {
    TierKind tier = TierKind::kGpu;
    double per_gib = 0;         // relative gain
  };
  std::vector<Marginal> marginal;
};

struct ResolvedScenario {
  ScenarioConfig config;
  ModelSpec model;
  Machine machine;
  ParallelPlan plan;
  Placement placement;
  double engines_per_host = 1;       // replicas that share a host; less than 1 when one takes several
  int EnginesPerHost() const { return engines_per_host > 1 ? static_cast<int>(engines_per_host) : 1; }
  int stages_per_host = 1;           // pipeline stages, of all replicas, that share a host
  EngineProfile engine;
  std::string policy;                // batching policy
  EngineParams params;
  MemoryPlan memory;
  SimTime front_end, front_end_token;
  std::optional<PlacementChoice> placement_choice;  // plan.placement: optimize
  std::optional<ExpertRouting> routing;   // where workload.routing is given, or experts are followed one by one
  bool closed_loop = false;          // arrivals answer to completions
  std::vector<std::string> warnings;
};

// Sets `memory` from everything above it, and the buffers that the placement needs for experts on their way.
void PlanMemoryOf(ResolvedScenario* scenario);

// Looks everything up; problems are added with the places of `root`. The result is meaningless when there are any.
ResolvedScenario Resolve(const ScenarioConfig& config, const YamlNode& root, const std::string& base_dir,
                         const Catalog& catalog, Problems* problems);

}  // namespace simrun
