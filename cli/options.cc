#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace simrun {

void AddMany(CLI::App& app, const std::string& name, std::vector<std::string>* values, const std::string& type, const std::string& help) {
  app.add_option(name, *values, help)->type_name(type)->allow_extra_args(false);
}

void AddScenario(CLI::App& app, ScenarioInput* input) {
  app.add_option("CONFIG", input->config, "scenario file (YAML)")->type_name("");
  AddMany(app, "--set", &input->set, "PATH=VALUE", "change one setting, for example --set plan.tp=8; may be repeated");
  app.add_option_function<std::string>("--seed", [input](const std::string& v) { input->seed = v; }, "seed of the random streams")->type_name("N");
  AddMany(app, "--catalog", &input->catalogs, "DIR", "directory with further catalogue entries (DIR/gpus/NAME.yaml, ...); may be repeated");
}

int CheckConfigGiven(const ScenarioInput& input, const char* command, Terminal terminal) {
  if (!input.config.empty()) return kDone;
  return FailWith(kBadInput, fmt::format("the scenario file is missing; write: simrun {} CONFIG", command), terminal.err);
}

}  // namespace simrun
