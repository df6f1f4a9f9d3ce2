// The command line of `simrun`: reads the arguments and calls one of the commands.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace simrun {

// `arguments` without the program's name. Returns the exit status (ExitCode).
int RunCommandLine(const std::vector<std::string>& arguments, Terminal terminal);

}  // namespace simrun
