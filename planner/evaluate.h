// Simulates the feasible plans of a space and ranks them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "planner/plan_space.h"
#include "planner/team.h"
#include "sim/report.h"

namespace simrun::planner {

// What is best. Ties are broken by mean end-to-end latency, then by the order of the candidates.
//   latency     e2e.mean_s
//   ttft        ttft.p99_s
//   throughput  throughput.output_tokens_per_s
//   goodput     goodput.requests_per_s
//   energy      energy.per_output_token_j
//   cost        cost.usd_per_million_output_tokens
//   carbon      energy.carbon_g of the run over its output tokens
// or any metric of planner/metrics.h.
struct Objective {
  std::string name;
  std::string metric;
  bool higher_is_better = false;
  double Value(const Report& report) const;
};
absl::StatusOr<Objective> FindObjective(std::string_view name);

// With `prune`, plans are ruled out before they are simulated to the end when they can no longer win. All serve the same requests, so
// a run is stopped as soon as
//   latency     the latencies of the requests finished so far add up to more than the best plan's total
//   goodput     the requests that have not yet missed their SLO, over the time passed, are fewer per second than the best
//               plan attains
//   throughput  requests are unfinished at a time when the best plan had served them all
// What is stopped could not have won, so the winner is that of the exhaustive search. Other objectives, closed loops,
// warm-ups, Pareto fronts and a least attainment are searched exhaustively.
struct EvaluateOptions {
  Objective objective;
  std::vector<Objective> pareto;       // with these the front is reported too and every plan is simulated to its end
  double min_attainment = 0;           // plans that attain less of the SLO rank behind all others
  bool prune = false;                  // stop what can no longer win; its figures are then unknown
  int threads = 1;
  Team* team = nullptr;                // processes that share the runs; null: this one alone. Every one calls Evaluate with the same
                                       // space; rank 0 makes the calls below and gets the result, the others an empty one
  std::function<void(const std::string&)> on_remark;   // a process of the team was lost, and the like
  std::function<void(int64_t done, int64_t total, std::optional<double> best)> on_progress;
  std::function<bool()> cancelled;
};

struct PlanResult {
  size_t candidate = 0;                // place in PlanSpace::candidates
  Report report;                       // of the part that was simulated, when stopped
  bool stopped = false;                // shown to be worse than the winner before its end
  std::string error;                   // the run failed
  double objective = 0;
};

struct Evaluation {
  std::vector<PlanResult> ranked;      // best first; stopped ones after the finished, failed ones last
  std::vector<size_t> front;           // places in `ranked`
  std::optional<size_t> heuristic;     // place in `ranked` of the usual plan: largest tp in a node, pp across nodes
  bool cancelled = false;
};

absl::StatusOr<Evaluation> Evaluate(const PlanSpace& space, const EvaluateOptions& options);

// The usual choice without a search: of the feasible plans with one hardware type the one with the largest tp, then the
// fewest replicas, dp and ep, first values elsewhere.
std::optional<size_t> HeuristicCandidate(const PlanSpace& space);

// Why `best` beats `other`: throughput, latency and energy ratios and where the engine time of each goes. Lines of text.
std::vector<std::string> WhyItWins(const Report& best, const Report& other);

// The command that starts an engine with the plan, and what it cannot express (empty: all of it).
struct LaunchCommand {
  std::string engine;                  // vllm, sglang, tensorrt-llm
  std::string command;
  std::vector<std::string> not_expressed;
};
std::vector<LaunchCommand> LaunchCommands(const Scenario& scenario);

}  // namespace simrun::planner
