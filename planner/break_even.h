// The bandwidth from which on a scenario meets its targets: how fast a link must be for a plan to pay.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "planner/capacity.h"
#include "sim/scenario.h"

namespace simrun::planner {

struct BreakEven {
  bool found = false;          // false: the targets are missed even at `high`
  bool always = false;         // they hold even at `low`
  BytesPerSecond bandwidth;    // the least that meets them, to `tolerance`; raw, as the setting is
  Report report;               // at that bandwidth, or at `high` when not found
};

struct BreakEvenOptions {
  std::string setting = "hardware.host_link_bandwidth";
  BytesPerSecond low{1e9}, high{4e12};
  double tolerance = 0.01;
};

// Halves the logarithm of the range: right when more bandwidth never hurts. One run per value.
absl::StatusOr<BreakEven> FindBreakEven(const Scenario& scenario, const std::vector<SloTarget>& targets,
                                        const BreakEvenOptions& options = {});

}  // namespace simrun::planner
