// The error distributions behind prediction intervals, from a ledger, and how well they hold on runs they did not see.
#pragma once

#include <string>
#include <vector>

#include "calibration/validate.h"
#include "sim/prediction_interval.h"

namespace simrun {

// "tpot", "throughput" and "energy" of the ledger's metrics; empty for one that no interval is given for.
std::string IntervalMetric(std::string_view metric);

// Groups of the predicted rows: by metric; by load; by engine; by engine profile and GPU. At most 20 ratios each.
std::vector<ErrorGroup> ErrorGroupsOf(const std::vector<LedgerRow>& rows);
// A file of the catalogue section `errors`.
std::string ErrorsYaml(const std::vector<ErrorGroup>& groups);

// How many measured values lie in intervals that were made without them.
struct IntervalCoverage {
  std::string metric, load;       // empty load: all
  int64_t values = 0;
  double new_model = 0;           // share inside when no run of that model on that GPU with that engine version was seen
  double new_engine = 0;          // ... and none at all on that GPU with that engine version
  double width = 0;               // median of high / low of the first
};
std::vector<IntervalCoverage> CoverageOf(const std::vector<LedgerRow>& rows);

}  // namespace simrun
