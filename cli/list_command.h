// simrun list: the names a scenario may use.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace simrun {

struct ListOptions {
  std::string section;                 // empty: all sections with their counts
  std::vector<std::string> catalogs;
};

int ListCommand(const ListOptions& options, Terminal terminal);

}  // namespace simrun
