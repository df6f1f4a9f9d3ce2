// simrun validate: measured serving cases beside the predictions for them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"

namespace simrun {

struct ValidateCommandOptions {
  std::vector<std::string> cases;      // CSV files, or results of vllm bench serve
  std::vector<std::string> settings;   // CSV files of what sources state of the cases' settings
  std::string flags;                   // server flags of such results, empty: the YAML file beside each
  std::string traces;                  // folder of the traces, empty: ../traces beside each file
  std::string out;                     // file for one row per value, empty: none
  std::string page;                    // file for the accuracy page, empty: none
  std::string errors;                  // error groups to write, empty: none
  std::string check;                   // committed accuracy page to compare with, empty: none
  std::vector<std::string> catalogs;
  int threads = 0;                     // 0: one per core
  bool quiet = false;
};

int ValidateCommand(const ValidateCommandOptions& options, Terminal terminal);

}  // namespace simrun
