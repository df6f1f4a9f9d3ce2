#include "cli/together.h"

#include <algorithm>
#include <sstream>
#include <thread>

#include <fmt/format.h>

#include "planner/deal.h"

namespace simrun {

int RunTogether(Terminal terminal, const std::function<int(Terminal, planner::Team*)>& command) {
  if (planner::MpiSize() <= 1) return command(terminal, nullptr);
  const auto team = planner::JoinMpi();
  if (!team.ok()) {
    return planner::MpiRank() == 0 ? FailWith(kRunFailed, std::string(team.status().message()), terminal.err) : kRunFailed;
  }
  if ((*team)->rank() == 0) {
    const int code = command(terminal, team->get());
    planner::StopTeam(**team);
    return code;
  }
  std::ostringstream out, err;
  if (command({out, err}, team->get()) != kDone) planner::ReportTrouble(**team, err.str().substr(0, err.str().find('\n')));
  return kDone;  // anything else would make mpirun end the others
}

int CheckAlone(const char* command, Terminal terminal) {
  if (planner::MpiSize() <= 1) return kDone;
  if (planner::MpiRank() > 0) return kBadInput;
  return FailWith(kBadInput, fmt::format("simrun {} runs in one process, but mpirun started {}; simrun sweep and simrun plan share their work",
                                         command, planner::MpiSize()), terminal.err);
}

int ThreadsOf(int64_t asked, const planner::Team* team) {
  if (asked > 0) return static_cast<int>(asked);
  return team != nullptr ? 1 : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace simrun
