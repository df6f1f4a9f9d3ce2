// simrun run: one simulation, its summary or report.
#pragma once

#include <string>

#include "cli/command.h"

namespace simrun {

struct RunOptions {
  ScenarioInput scenario;
  std::string out;              // directory for the files, empty: none
  std::string format = "text";  // of standard output: text, json
  bool requests = false;        // write requests.csv
  bool quiet = false;           // nothing on standard error but errors
};

int RunCommand(const RunOptions& options, Terminal terminal);

}  // namespace simrun
