// Commands that several processes run together under mpirun.
#pragma once

#include <functional>

#include "cli/command.h"
#include "planner/team.h"

namespace simrun {

// Runs the command in every process that mpirun started, or alone (team: null) when it did not. Only process 0 prints and
// decides the exit status; what keeps another from working is told to process 0.
int RunTogether(Terminal terminal, const std::function<int(Terminal, planner::Team*)>& command);
// For commands that one process runs: says so when mpirun started several. kDone when it did not.
int CheckAlone(const char* command, Terminal terminal);

// Threads of a process: as asked, or one per processor; under mpirun one, because there is a process per processor.
int ThreadsOf(int64_t asked, const planner::Team* team);

}  // namespace simrun
