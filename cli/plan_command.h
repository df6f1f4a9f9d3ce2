// simrun plan: every parallel plan of a model on some hardware, simulated and ranked.
#pragma once

#include <cstdint>
#include <string>

#include "cli/command.h"
#include "planner/team.h"

namespace simrun {

struct PlanOptions {
  ScenarioInput scenario;
  std::string objective = "throughput";
  std::string pareto;              // objectives or metrics, separated by commas
  std::string space = "simrun";    // simrun, apex
  std::string format = "text";     // text, json
  std::string out;                 // directory for one scenario per plan
  double min_attainment = 0;
  int64_t top = 10, threads = 0;
  bool dry_run = false, prune = false, quiet = false;
};

// `team`: processes that share the runs; null: this one alone.
int PlanCommand(const PlanOptions& options, Terminal terminal, planner::Team* team);

}  // namespace simrun
