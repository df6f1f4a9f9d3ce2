// simrun calibrate: operator parameters from measured rows; and simrun validate --ops: measured rows beside predictions.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace simrun {

struct CalibrateOptions {
  std::vector<std::string> ops;        // CSV files
  std::string device;                  // GPU or operator entry by name, or an operator file
  std::string out;                     // catalogue file to write
  std::vector<std::string> catalogs;
  int threads = 0;                     // 0: one per core
  bool no_cross_validation = false;
  bool quiet = false;
};
int CalibrateCommand(const CalibrateOptions& options, Terminal terminal);

struct ValidateOpsOptions {
  std::vector<std::string> ops;        // CSV files
  std::string device;
  std::string backend;                 // empty: the kernels each row was measured with
  std::string out;                     // one row per measurement; empty: none
  std::vector<std::string> catalogs;
};
int ValidateOpsCommand(const ValidateOpsOptions& options, Terminal terminal);

}  // namespace simrun
