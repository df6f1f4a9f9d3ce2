// simrun query: the best rows and Pareto fronts of a results file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/command.h"
#include "planner/results_file.h"

namespace simrun {

struct QueryOptions {
  std::string db;
  std::string by;                      // metric to sort by
  int64_t top = 10;
  std::string pareto;                  // metrics, separated by commas
  std::string csv;                     // write every row here
};
int QueryCommand(const QueryOptions& options, Terminal terminal);

// Rows as a table for people: numbers with four digits.
std::string ResultsText(const planner::ResultsTable& table);

}  // namespace simrun
