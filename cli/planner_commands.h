// Options of the commands that plan: sweep, query, merge, plan, capacity.
#pragma once

#include <functional>

#include "cli/command.h"

namespace CLI {
class App;
}

namespace simrun {

// Each declares its options and returns what to do once they are read.
std::function<int(Terminal)> DeclarePlan(CLI::App& app);
std::function<int(Terminal)> DeclareCapacity(CLI::App& app);
std::function<int(Terminal)> DeclareSweep(CLI::App& app);
std::function<int(Terminal)> DeclareQuery(CLI::App& app);
std::function<int(Terminal)> DeclareMerge(CLI::App& app);

}  // namespace simrun
