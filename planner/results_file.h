// The file that keeps the results of a sweep: SQLite, so that any language reads it.
//
// Table `meta` (key, value): format, simrun (version), sweep_hash, sweep (the sweep as YAML), points (their number).
// Table `points`, one row per finished point:
//   id          place of the point in the sweep, from 0; primary key
//   repeat      0 .. repeats - 1
//   seed        of the run
//   status      done, invalid (the settings are impossible) or failed
//   message     why, when not done
//   config_hash of the scenario, as in report.json
//   one column per setting that varies, named by its path ("plan.tp"): a number where it is one, else text; NULL where
//               the axis does not apply
//   one column per metric, named as in planner/metrics.h ("ttft.p99_s"); NULL when not done
//   report      report.json as one line of text; its wall time is 0
//
// Rows are written in small transactions with a rollback journal, so the file is whole after a crash or on a full disk,
// and works on network file systems.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "planner/sweep.h"

namespace simrun::planner {

class ResultsFile {
 public:
  // Opens or makes the file of a sweep. FailedPrecondition when it holds another sweep or is no results file; nothing
  // is changed then.
  static absl::StatusOr<std::unique_ptr<ResultsFile>> Open(const std::string& path, const SweepSpec& spec);
  ~ResultsFile();
  ResultsFile(const ResultsFile&) = delete;
  ResultsFile& operator=(const ResultsFile&) = delete;

  // Ids of the rows in the file, ascending.
  absl::StatusOr<std::vector<int64_t>> Finished();
  // Adds a row; a point that is there already stays as it is. Rows become durable in groups, at the latest with Flush.
  absl::Status Add(const PointResult& point);
  absl::Status Flush();

 private:
  ResultsFile();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// report.json on one line, as in the column `report`.
std::string ReportLine(const Report& report);

// Rows of a results file as text.
struct ResultsTable {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;   // empty cell: NULL
};

struct ResultsInfo {
  int64_t points = 0, done = 0, invalid = 0, failed = 0;
  std::vector<std::string> settings;            // columns that vary
};
absl::StatusOr<ResultsInfo> InspectResults(const std::string& path);
// The best `top` finished points by a metric: id, settings, then the metric and `more` metrics.
absl::StatusOr<ResultsTable> BestResults(const std::string& path, const std::string& by, int64_t top,
                                         const std::vector<std::string>& more = {});
// Points that no other beats in all of `metrics`.
absl::StatusOr<ResultsTable> ParetoResults(const std::string& path, const std::vector<std::string>& metrics);
// Every row without the report, as CSV. The file appears whole or not at all.
absl::Status ExportCsv(const std::string& results, const std::string& csv);
// Collects the rows of files of one sweep (its shards) in `out`, which may exist. InvalidArgument when the sweeps
// differ or two files hold different results for a point.
absl::Status MergeResults(const std::string& out, const std::vector<std::string>& inputs);

}  // namespace simrun::planner
