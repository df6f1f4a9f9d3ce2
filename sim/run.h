// The parts of one run put together: cost model, policy, router, metrics and cluster. Internal to sim/.
#pragma once

#include <memory>

#include "hw/step_cost_compiled.h"
#include "sim/cluster.h"
#include "sim/metrics.h"
#include "sim/report.h"
#include "sim/resolved.h"
#include "sim/scenario.h"
#include "sim/simulation.h"

namespace simrun {

class Run {
 public:
  // `source` must outlive the run.
  static absl::StatusOr<std::unique_ptr<Run>> Create(const Scenario& scenario, SimulateOptions options, ArrivalSource* source);

  Cluster& cluster() { return *cluster_; }
  const RunMetrics& metrics() const { return metrics_; }
  // The report of what has happened so far. `wall` is the real time spent, `now` the simulated time reached.
  Report MakeReport(double wall_seconds, SimTime now) const;

 private:
  Run(const Scenario& scenario, Slo slo, SimTime warmup) : scenario_(scenario), metrics_(slo, warmup) {}
  void FillEnergyAndCost(SimTime span, Report* report) const;
  void FillEngineUse(SimTime span, Report* report) const;
  void WarnWhenSaturated(SimTime span, Report* report) const;

  Scenario scenario_;
  RunMetrics metrics_;
  EngineParams params_;
  // Empty with the caller's own cost model; one per replica where the model has a state.
  std::vector<std::unique_ptr<CompiledStepCost>> compiled_;
  std::unique_ptr<BatchingPolicy> owned_policy_;
  std::unique_ptr<Cluster> cluster_;
};

}  // namespace simrun
