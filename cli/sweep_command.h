// simrun sweep: many runs of one scenario with its settings varied, into a results file. simrun merge: several such
// files into one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/command.h"
#include "planner/team.h"

namespace simrun {

struct SweepCommandOptions {
  std::string sweep;                   // file
  std::vector<std::string> catalogs;   // directories
  std::string db;                      // results file; empty: the sweep's name with .db, in the working directory
  std::string csv;                     // also written here
  std::string shard;                   // "i/n"
  std::string by;                      // metric: best so far, and the rows shown at the end
  int64_t threads = 0;                 // 0: one per processor, or one per process under mpirun
  bool dry_run = false, yes = false, quiet = false;
};
// `team`: processes that share the points; null: this one alone.
int SweepCommand(const SweepCommandOptions& options, Terminal terminal, planner::Team* team);

struct MergeOptions {
  std::vector<std::string> files;      // the first is written
};
int MergeCommand(const MergeOptions& options, Terminal terminal);

}  // namespace simrun
