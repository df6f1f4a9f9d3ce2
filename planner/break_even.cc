#include "planner/break_even.h"

#include <cmath>
#include <utility>

#include "base/quantity_text.h"
#include "planner/metrics.h"
#include "sim/simulation.h"

namespace simrun::planner {

absl::StatusOr<BreakEven> FindBreakEven(const Scenario& scenario, const std::vector<SloTarget>& targets,
                                        const BreakEvenOptions& options) {
  if (targets.empty()) return absl::InvalidArgumentError("no target is given");
  if (!(options.low > BytesPerSecond(0)) || !(options.high > options.low) || !(options.tolerance > 0)) {
    return absl::InvalidArgumentError("the range of bandwidths is empty");
  }
  std::vector<const Metric*> metrics;
  for (const SloTarget& t : targets) {
    SIMRUN_ASSIGN_OR_RETURN(const Metric* metric, FindMetric(t.metric));
    metrics.push_back(metric);
  }
  BreakEven out;
  const auto meets = [&](double bandwidth, Report* report) -> absl::StatusOr<bool> {
    SIMRUN_ASSIGN_OR_RETURN(*report, Simulate(scenario.With(options.setting, FormatQuantityText(bandwidth, DimensionOf(BytesPerSecond()))), {.intervals = false}));
    for (size_t i = 0; i < targets.size(); ++i) {
      const double value = metrics[i]->value(*report);
      if (targets[i].at_least ? value < targets[i].limit : value > targets[i].limit) return false;
    }
    return true;
  };
  double low = options.low.value(), high = options.high.value();
  SIMRUN_ASSIGN_OR_RETURN(const bool at_high, meets(high, &out.report));
  out.bandwidth = BytesPerSecond(high);
  if (!at_high) return out;
  out.found = true;
  Report report;
  SIMRUN_ASSIGN_OR_RETURN(out.always, meets(low, &report));
  if (out.always) {
    out.bandwidth = BytesPerSecond(low);
    out.report = std::move(report);
    return out;
  }
  while (high / low > 1 + options.tolerance) {
    const double middle = std::sqrt(low * high);
    SIMRUN_ASSIGN_OR_RETURN(const bool ok, meets(middle, &report));
    if (ok) {
      high = middle;
      out.report = report;
    } else {
      low = middle;
    }
  }
  out.bandwidth = BytesPerSecond(high);
  return out;
}

}  // namespace simrun::planner
