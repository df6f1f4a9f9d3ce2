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

// Host terms of an engine profile from measured serving runs.
struct CalibrateEngineOptions {
  std::vector<std::string> cases;      // CSV files, or results of vllm bench serve
  std::string flags;                   // server flags of such results, empty: the YAML file beside each
  std::string profile;                 // engine profile to start from
  std::vector<std::string> fit;        // fields, each option may name several separated by commas
  std::vector<std::string> where;      // column=value: only these cases
  std::vector<std::string> metrics;
  std::string architecture;
  std::string traces;
  std::string out;                     // profile to write; empty: none
  std::vector<std::string> catalogs;
  int threads = 0;
  bool quiet = false;
};
int CalibrateEngineCommand(const CalibrateEngineOptions& options, Terminal terminal);

struct ValidateOpsOptions {
  std::vector<std::string> ops;        // CSV files
  std::string device;
  std::string backend;                 // empty: the kernels each row was measured with
  std::string out;                     // one row per measurement; empty: none
  std::vector<std::string> catalogs;
};
int ValidateOpsCommand(const ValidateOpsOptions& options, Terminal terminal);

}  // namespace simrun
