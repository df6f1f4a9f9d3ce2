// simrun explain: what is known about one name, and where it comes from.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace simrun {

struct ExplainOptions {
  std::string name;                    // of a catalogue entry, a policy or a setting
  std::vector<std::string> catalogs;
};

int ExplainCommand(const ExplainOptions& options, Terminal terminal);

}  // namespace simrun
