// What the commands share: where they write, how they end, how they read a scenario.
#pragma once

#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "sim/scenario.h"

namespace simrun {

enum ExitCode { kDone = 0, kRunFailed = 1, kBadInput = 2 };

// Results go to `out`, diagnostics to `err`.
struct Terminal {
  std::ostream& out;
  std::ostream& err;
};

// Prints the lines of an error and returns the exit status it calls for: kBadInput when the user's input is wrong or
// cannot be read, else kRunFailed.
int Fail(const absl::Status& status, std::ostream& err);
// Prints one line that starts with "simrun: ".
int FailWith(ExitCode code, std::string_view message, std::ostream& err);

// The built-in catalogue, with the entries of the user's directories in front. Errors name --catalog.
absl::StatusOr<std::shared_ptr<const Catalog>> OpenCatalog(const std::vector<std::string>& directories);

// A scenario as the command line gives it.
struct ScenarioInput {
  std::string config;                  // file
  std::vector<std::string> set;        // path=value
  std::optional<std::string> seed;
  std::vector<std::string> catalogs;   // directories
};

// The file with `set` and `seed` applied, unchecked.
absl::StatusOr<YamlNode> ReadSettings(const ScenarioInput& input);
// Reads the file, applies `set` and `seed`, then checks the whole: settings may repair one another.
absl::StatusOr<Scenario> ReadScenario(const ScenarioInput& input);

// The scenario as a file that repeats the run from anywhere: defaults written out, relative paths made absolute.
std::string EffectiveConfig(const Scenario& scenario, const ScenarioInput& input);

}  // namespace simrun
