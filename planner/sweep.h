// A sweep: one scenario, some of its settings varied, every combination (or a sample of them) simulated.
//
//   base: llama70b.yaml                 # a scenario file, or the scenario itself
//   set: {workload.requests: 2000}      # changes that hold for every point
//   axes:
//     - {path: plan.tp, values: [1, 2, 4, 8]}
//     - {path: workload.arrivals.poisson.rate, range: {from: 1 /s, to: 5 /s, points: 5}}
//     - {path: hardware.memory_bandwidth, log_range: {from: 1 TB/s, to: 8 TB/s, points: 4}}
//     - zip: {plan.dp: [1, 2, 4], plan.replicas: [4, 2, 1]}              # these move together
//     - {path: plan.ep, values: [1, 8], when: {model: [mixtral-8x7b]}}   # elsewhere left as it is in the base
//   repeats: 3                          # the whole again with seeds seed, seed + 1, seed + 2
//   sampling: {method: sobol, points: 100, seed: 1}   # random, latin-hypercube, sobol; without it: every combination
//
// Points are numbered in a fixed order and each is a run of its own, so results do not depend on threads or shards.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/yaml.h"
#include "planner/team.h"
#include "sim/report.h"
#include "sim/scenario.h"

namespace simrun::planner {

// A sweep has at most this many points.
inline constexpr int64_t kMaxSweepPoints = 10'000'000;

// The values of one point, one per column of the sweep; none where an axis does not apply.
using SweepValues = std::vector<std::optional<YamlNode>>;

class SweepSpec {
 public:
  // All problems at once, as InvalidArgument; NotFound and the like for files that cannot be read. Relative paths are
  // taken from the sweep file; those inside a base file from that file. `catalog` is for names, null: the built-in one.
  static absl::StatusOr<SweepSpec> FromFile(const std::string& path, std::shared_ptr<const Catalog> catalog = nullptr);
  static absl::StatusOr<SweepSpec> FromYaml(std::string_view text, std::string_view name, const std::string& base_dir,
                                            std::shared_ptr<const Catalog> catalog = nullptr);

  // Settings that vary, in the order of the axes.
  const std::vector<std::string>& columns() const { return columns_; }
  int64_t repeats() const { return repeats_; }
  // Points, repeats included.
  int64_t size() const { return combinations_ * repeats_; }
  SweepValues ValuesOf(int64_t id) const;
  int64_t RepeatOf(int64_t id) const { return id % repeats_; }
  int64_t SeedOf(int64_t id) const;
  // The scenario of a point. InvalidArgument when it is impossible (does not fit, does not divide, ...).
  absl::StatusOr<Scenario> ScenarioOf(int64_t id) const;
  // Equal for sweeps with the same points. 16 hex digits.
  std::string Hash() const;
  // The sweep as text, the base scenario written out.
  const std::string& text() const { return text_; }

 private:
  friend class SweepReader;
  struct Condition {
    std::string path;
    std::vector<YamlNode> values;
  };
  struct Range {
    double low = 0, high = 0;
    bool log = false, whole = false;
    std::string unit;
  };
  struct Axis {
    std::vector<std::string> paths;              // one, or several that move together
    std::vector<std::vector<YamlNode>> values;   // one list per path, of equal length
    std::optional<Range> range;                  // sampled between its ends instead of from `values`
    std::vector<Condition> when;
    size_t size() const { return values.front().size(); }
  };
  SweepSpec() = default;
  bool Applies(const Axis& axis, const SweepValues& values) const;
  SweepValues Decode(const double* coordinates) const;
  void Enumerate();
  void Sample(const std::string& method, int64_t points, int64_t seed);

  YamlNode base_;
  std::string base_dir_;
  std::shared_ptr<const Catalog> catalog_;
  std::vector<Axis> axes_;
  std::vector<std::string> columns_;
  int64_t repeats_ = 1, base_seed_ = 1, combinations_ = 0;
  bool sampled_ = false;
  // One coordinate per axis and combination: the place of the value in its list, or a number in [0, 1) of a sampled
  // sweep. Negative: the axis does not apply.
  std::vector<double> coordinates_;
  std::string text_;
};

enum class PointStatus { kDone, kInvalid, kFailed };
std::string_view PointStatusName(PointStatus status);  // "done", "invalid", "failed"

struct PointResult {
  int64_t id = 0, repeat = 0, seed = 0;
  SweepValues values;
  PointStatus status = PointStatus::kDone;
  std::string message;       // why there is no report
  std::string config_hash;   // of the scenario; empty when it is invalid
  Report report;             // its wall time is left out: results do not depend on the machine's load
  std::string report_line;   // report.json on one line, when it was made already
};

// Runs one point.
PointResult RunPoint(const SweepSpec& spec, int64_t id);

// Between the processes of a team: a point as bytes, without what the receiver works out from its number; and what the
// job is called (TeamOptions::job).
std::string PackPoint(const PointResult& point);
absl::StatusOr<PointResult> UnpackPoint(const SweepSpec& spec, int64_t id, const std::string& packed);
std::string SweepJob(const SweepSpec& spec);

struct SweepProgress {
  int64_t done = 0, total = 0;          // of this call and shard; `done` includes points found finished
  int64_t found = 0;                    // finished before
  int64_t invalid = 0, failed = 0;      // of this call
  double elapsed_s = 0;
  std::optional<double> best;           // of `best_by`
};

struct SweepOptions {
  std::string results_file;             // SQLite; empty: none. Finished points in it are not run again
  int threads = 1;                      // with a team 0 is allowed: rank 0 then only deals
  int shard = 1, shards = 1;            // points with id % shards == shard - 1
  Team* team = nullptr;                 // processes that share the points; null: this one alone. Every one calls Sweep with
                                        // the same sweep; rank 0 keeps the file and makes the calls below
  std::string best_by;                  // metric of SweepProgress::best; empty: none
  std::function<void(const PointResult&)> on_point;        // in the order in which points finish
  std::function<void(const SweepProgress&)> on_progress;   // about ten times a second and at the end
  std::function<void(const std::string&)> on_remark;       // a process of the team was lost, and the like
  std::function<bool()> cancelled;      // asked often; true stops after the points that are running
};

struct SweepResult {
  SweepProgress progress;
  bool cancelled = false;
  std::string first_message;            // of the first invalid or failed point
};

// Runs the points that are missing. Errors: a results file of another sweep or that cannot be written. What was
// finished by then is in the file and is not run again. Ranks other than 0 of a team return an empty result when all is
// done.
absl::StatusOr<SweepResult> Sweep(const SweepSpec& spec, const SweepOptions& options);

}  // namespace simrun::planner
