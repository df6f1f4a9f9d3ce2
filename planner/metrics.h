// The figures of a report by name: what sweeps store, queries sort by, plans are ranked by and SLOs are set on.
//
// Names are those of report.json ("ttft.p99_s", "throughput.output_tokens_per_s"); the unit at the end may be left out
// ("ttft.p99"). Times are in seconds, energy in joules, money in USD.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/report.h"

namespace simrun::planner {

struct Metric {
  std::string name;
  bool higher_is_better = false;
  double (*value)(const Report& report) = nullptr;
};

// Every metric, in the order of the report.
const std::vector<Metric>& Metrics();
// By name. NotFound with the nearest name.
absl::StatusOr<const Metric*> FindMetric(std::string_view name);

// Places in `points` of those that no other point beats: at least as good in every metric and better in one. `points`
// holds one row of values per candidate, in the order of `metrics`; values that are not finite are never on the front.
// Of equal points all are kept. Sorted by the first metric, best first.
std::vector<size_t> ParetoFront(const std::vector<std::vector<double>>& points, const std::vector<bool>& higher_is_better);

}  // namespace simrun::planner
