// Running scenarios: Simulate for a whole run, Simulation when the caller owns the clock.
//
//   absl::StatusOr<Report> r = Simulate(base->With("plan.tp", "8"));
//
//   absl::StatusOr<std::unique_ptr<Simulation>> live = Simulation::Create(*base);
//   (*live)->Submit({.at = 0_s, .input = 1200_tok, .output = 300_tok});
//   while ((*live)->NextEventTime() < 60_s) (*live)->AdvanceTo((*live)->NextEventTime());
//
// A run is single-threaded and deterministic; any number of runs may go on in different threads.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "hw/operator_memo.h"
#include "hw/step_cost.h"
#include "schedulers/batching.h"
#include "schedulers/router.h"
#include "sim/metrics.h"
#include "sim/replica.h"
#include "sim/report.h"
#include "sim/scenario.h"

namespace simrun {

// How close a run came to the limits of its engines, over all of them.
struct RunPeaks {
  int64_t outstanding = 0;   // most waiting and running requests at once in one attention rank
  int64_t blocks = 0;        // most KV blocks in use at once in one attention rank
  int64_t longest = 0;       // tokens of the longest request, prompt and output
};

struct SimulateOptions {
  // Sees every finished and refused request and every step, in order of time. Slows the run down a little.
  EngineObserver* observer = nullptr;
  // Plans every single step instead of fast-forwarding decode runs; the report is the same.
  bool fast_forward = true;
  // Parts of the caller's own instead of those the scenario names. A step cost model must have as many stages as the
  // plan; it is called from this run only.
  StepCostModel* step_cost = nullptr;
  const BatchingPolicy* policy = nullptr;
  std::unique_ptr<Router> router;
  RunPeaks* peaks = nullptr;   // filled by Simulate
  // Operator prices that runs share, one run at a time; must outlive the run. The reports are the same.
  SharedPrices* prices = nullptr;
  // Fill the report's prediction intervals. Left out anyway with parts of the caller's own, whose errors nobody
  // has measured, and by a Simulation, whose traffic is not known beforehand.
  bool intervals = true;
  bool auto_replications = true;   // metrics.replications: auto may run further seeds for them
};

// Runs the scenario's workload to its end. Errors: a trace that cannot be read or is broken.
absl::StatusOr<Report> Simulate(const Scenario& scenario, SimulateOptions options = {});
// The same; an error in the argument is passed on.
absl::StatusOr<Report> Simulate(const absl::StatusOr<Scenario>& scenario, SimulateOptions options = {});

// One request of a caller who owns the clock.
struct Submission {
  Seconds at;
  Tokens input{1};
  Tokens output{1};
  int32_t priority = 0;                 // 0 is served first
  std::optional<Seconds> deadline;      // point in time, for earliest-deadline ordering
  std::shared_ptr<const PromptText> text;  // what the prompt has in common with others, for prefix caching
};

// A run driven from outside. The scenario's `workload` section is not used; requests come from Submit.
class Simulation {
 public:
  static absl::StatusOr<std::unique_ptr<Simulation>> Create(const Scenario& scenario, SimulateOptions options = {});
  // An error in the argument is passed on.
  static absl::StatusOr<std::unique_ptr<Simulation>> Create(const absl::StatusOr<Scenario>& scenario, SimulateOptions options = {});
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  // Adds a request and returns its id. InvalidArgument when it arrives before now() or has no tokens.
  absl::StatusOr<uint64_t> Submit(const Submission& request);
  // Time of the next event; SimTime::Infinite() when nothing is left to happen.
  SimTime NextEventTime() const;
  // Processes every event up to and including `time`, which becomes now().
  absl::Status AdvanceTo(SimTime time);
  absl::Status AdvanceTo(Seconds time) { return AdvanceTo(SimTime::From(time)); }
  // Runs until every submitted request has finished.
  absl::Status Drain();
  SimTime now() const;
  // Called for each finished request, in order of time. Set before the first AdvanceTo.
  void OnFinish(std::function<void(const RequestRecord&)> callback);
  // Waiting and running requests of each replica.
  std::vector<ReplicaLoad> Loads() const;
  // The report up to now().
  Report Snapshot() const;

 private:
  class Impl;
  explicit Simulation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace simrun
