// Options that several commands take.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace CLI {
class App;
}

namespace simrun {

// An option that may be repeated, one value each time.
void AddMany(CLI::App& app, const std::string& name, std::vector<std::string>* values, const std::string& type, const std::string& help);
// CONFIG, --set, --seed and --catalog.
void AddScenario(CLI::App& app, ScenarioInput* input);
// kBadInput with a message when CONFIG is missing.
int CheckConfigGiven(const ScenarioInput& input, const char* command, Terminal terminal);

}  // namespace simrun
