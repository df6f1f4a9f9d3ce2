// From a measured case to the scenario that describes it, and from a report to the value that was measured.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calibration/cases.h"
#include "sim/report.h"
#include "sim/scenario.h"

namespace simrun {

struct CaseScenario {
  Scenario scenario;
  MeasuredCase measured;                 // the case in the catalogue's names
  std::vector<std::string> assumptions;  // what the case does not state and what was taken instead
};

// The scenario of a case: engine profile by engine and version, settings from the notes, traces from `traces_dir`.
// `profile` replaces the choice of the engine profile.
// Unimplemented with the reason when the case cannot be expressed; NotFound when a name or its trace is not known.
absl::StatusOr<CaseScenario> ScenarioOfCase(const MeasuredCase& c, const std::string& traces_dir,
                                            const std::shared_ptr<const Catalog>& catalog, const std::string& profile = "");

// What profiles call the engine of that name: spelled otherwise, or the name or alias of a profile; `name` itself when none does.
std::string EngineOf(std::string_view name, const Catalog& catalog);

// The engine profile whose `engine` and `versions` fit best: the longest listed prefix of the version. Of a version that no
// profile lists, the one with the nearest number, and `nearest` (may be null) says so. Unimplemented for another engine.
absl::StatusOr<std::string> EngineProfileFor(std::string_view engine, std::string_view version, const Catalog& catalog,
                                             std::string* nearest = nullptr);

// What the report says about a measured value, in the value's unit; nothing when the report does not have it.
std::optional<double> PredictedValue(const MeasuredCase& c, const MeasuredValue& v, const Report& report);

}  // namespace simrun
