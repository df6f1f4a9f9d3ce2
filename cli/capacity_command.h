// simrun capacity: the smallest fleet for some traffic, or the most traffic for a fleet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/command.h"

namespace simrun {

struct CapacityCommandOptions {
  ScenarioInput scenario;
  std::vector<std::string> slos;       // "ttft.p99=500ms"; none: the scenario's slo section, for 99 % of requests
  std::string find = "replicas";       // replicas, rate
  std::string minimize;                // replicas, gpus, cost, energy: over the engines of the `search` section; empty: this engine
  std::string format = "text";
  double confidence = 0.95;
  int64_t runs = 5, max_replicas = 4096;
  bool what_if = false, quiet = false;
};

int CapacityCommand(const CapacityCommandOptions& options, Terminal terminal);

}  // namespace simrun
