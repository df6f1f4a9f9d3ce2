#include "planner/sweep.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/quantity_text.h"
#include "planner/metrics.h"
#include "planner/results_file.h"

namespace simrun::planner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kBase = R"(
base:
  model: llama-3.1-8b
  hardware: {gpu: h100-sxm-80gb}
  workload: {requests: 30, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 200, output_tokens: 20}
)";

absl::StatusOr<SweepSpec> Parse(const std::string& rest) { return SweepSpec::FromYaml(kBase + rest, "sweep.yaml", ""); }

SweepSpec Spec(const std::string& rest) {
  absl::StatusOr<SweepSpec> spec = Parse(rest);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return *std::move(spec);
}

std::string Errors(const std::string& rest) {
  const absl::StatusOr<SweepSpec> spec = Parse(rest);
  return spec.ok() ? "" : std::string(spec.status().message());
}

// Values of a column over all points; "-" where the axis does not apply.
std::vector<std::string> Column(const SweepSpec& spec, size_t column) {
  std::vector<std::string> out;
  for (int64_t id = 0; id < spec.size(); ++id) {
    const SweepValues values = spec.ValuesOf(id);
    out.push_back(values[column] ? values[column]->text() : "-");
  }
  return out;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "simrun_sweep_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string FileText(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Every cell of the file, report included, in the order of the points.
std::string Content(const std::string& path) {
  sqlite3* db = nullptr;
  EXPECT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  std::string text;
  const auto append = [](void* out, int n, char** cells, char**) {
    for (int i = 0; i < n; ++i) *static_cast<std::string*>(out) += std::string(cells[i] != nullptr ? cells[i] : "NULL") + "|";
    *static_cast<std::string*>(out) += "\n";
    return 0;
  };
  EXPECT_EQ(sqlite3_exec(db, "SELECT * FROM points ORDER BY id; PRAGMA integrity_check", append, &text, nullptr), SQLITE_OK);
  sqlite3_close(db);
  return text;
}

constexpr const char* kAxes = R"(
axes:
  - {path: workload.arrivals.poisson.rate, values: [1 /s, 8 /s, 64 /s]}
  - {path: scheduler.max_num_seqs, values: [1, 16]}
repeats: 2
)";

SweepResult RunSweep(const SweepSpec& spec, SweepOptions options) {
  const absl::StatusOr<SweepResult> result = Sweep(spec, options);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.value_or(SweepResult());
}

TEST(SweepSpec, EveryCombinationWithTheLastAxisFastest) {
  const SweepSpec spec = Spec("axes:\n  - {path: plan.tp, values: [1, 2]}\n  - {path: plan.pp, values: [1, 4, 2]}\n");
  EXPECT_THAT(spec.columns(), ElementsAre("plan.tp", "plan.pp"));
  EXPECT_THAT(Column(spec, 0), ElementsAre("1", "1", "1", "2", "2", "2"));
  EXPECT_THAT(Column(spec, 1), ElementsAre("1", "4", "2", "1", "4", "2"));
}

TEST(SweepSpec, RangesIncludeBothEnds) {
  const SweepSpec spec = Spec(R"(
axes:
  - {path: workload.arrivals.poisson.rate, range: {from: 1 /s, to: 2 /s, points: 3}}
)");
  EXPECT_THAT(Column(spec, 0), ElementsAre("1 /s", "1.5 /s", "2 /s"));
  EXPECT_THAT(Column(Spec("axes: [{path: hardware.memory_bandwidth, log_range: {from: 1 TB/s, to: 100 TB/s, points: 3}}]"), 0),
              ElementsAre("1 TB/s", "10 TB/s", "100 TB/s"));
  EXPECT_THAT(Column(Spec("axes: [{path: engine.gpu_memory_utilization, range: {from: 0.7, to: 0.9, step: 0.1}}]"), 0),
              ElementsAre("0.7", "0.8", "0.9"));
  // Whole ends give whole values, each once.
  EXPECT_THAT(Column(Spec("axes: [{path: plan.tp, log_range: {from: 1, to: 8, points: 7}}]"), 0), ElementsAre("1", "2", "3", "4", "6", "8"));
}

TEST(SweepSpec, ZippedSettingsMoveTogether) {
  const SweepSpec spec = Spec("axes: [{zip: {plan.tp: [1, 2, 4], plan.replicas: [4, 2, 1]}}]");
  EXPECT_THAT(Column(spec, 0), ElementsAre("1", "2", "4"));
  EXPECT_THAT(Column(spec, 1), ElementsAre("4", "2", "1"));
}

TEST(SweepSpec, AConditionalAxisIsLeftOutWhereItDoesNotApply) {
  const SweepSpec spec = Spec(R"(
axes:
  - {path: model, values: [llama-3.1-8b, mixtral-8x7b]}
  - {path: plan.ep, values: [1, 2, 4], when: {model: [mixtral-8x7b]}}
)");
  EXPECT_THAT(Column(spec, 0), ElementsAre("llama-3.1-8b", "mixtral-8x7b", "mixtral-8x7b", "mixtral-8x7b"));
  EXPECT_THAT(Column(spec, 1), ElementsAre("-", "1", "2", "4"));
}

TEST(SweepSpec, RepeatsCountTheSeedUp) {
  const SweepSpec spec = Spec("set: {seed: 5}\naxes: [{path: plan.tp, values: [1, 2]}]\nrepeats: 3");
  std::vector<int64_t> seeds;
  for (int64_t id = 0; id < spec.size(); ++id) seeds.push_back(spec.SeedOf(id));
  EXPECT_THAT(seeds, ElementsAre(5, 6, 7, 5, 6, 7));
  EXPECT_EQ(spec.ScenarioOf(4)->config().seed, 6);
}

TEST(SweepSpec, SamplesFillEveryStratumOnce) {
  // A Latin hypercube of n points has one in each n-th of every axis; so has a Sobol sequence of 2^k points.
  for (const char* method : {"latin-hypercube", "sobol"}) {
    const SweepSpec spec = Spec(std::string("axes:\n  - {path: engine.gpu_memory_utilization, range: {from: 0.5, to: 0.9}}\n"
                                            "  - {path: hardware.memory_bandwidth, log_range: {from: 1 TB/s, to: 16 TB/s}}\n"
                                            "sampling: {points: 32, seed: 3, method: ") + method + "}");
    ASSERT_EQ(spec.size(), 32);
    std::set<int> linear, log;
    for (int64_t id = 0; id < 32; ++id) {
      const SweepValues v = spec.ValuesOf(id);
      linear.insert(static_cast<int>(std::floor((std::stod(v[0]->text()) - 0.5) / 0.4 * 32)));
      log.insert(static_cast<int>(std::floor(std::log2(std::stod(v[1]->text())) / 4 * 32)));
    }
    EXPECT_EQ(linear.size(), 32u) << method;
    EXPECT_EQ(log.size(), 32u) << method;
  }
  const SweepSpec random = Spec("axes: [{path: plan.tp, values: [1, 2, 4, 8]}]\nsampling: {method: random, points: 400}");
  std::map<std::string, int> count;
  for (const std::string& v : Column(random, 0)) ++count[v];
  for (const auto& [value, n] : count) EXPECT_NEAR(n, 100, 40) << value;  // 4.6 standard deviations of Binomial(400, 1/4)
}

TEST(SweepSpec, AllBadInputIsReportedAtOnce) {
  const std::string errors = Errors(R"(
axes:
  - {path: plan.tpp, values: [1]}
  - {path: plan.tp, values: []}
  - {path: plan.pp, values: [1, x]}
  - {path: model, values: [llama-3.1-8c]}
  - {path: workload.requests, range: {from: 1 s, to: 5, points: 3}}
  - {zip: {plan.dp: [1, 2], plan.ep: [1]}}
  - {path: scheduler.max_num_seqs, values: [4], when: {scheduler.policy: fcfs}}
  - {path: plan.replicas, values: [0]}
repeets: 2
)");
  EXPECT_THAT(errors, HasSubstr("unknown setting \"plan.tpp\"; did you mean \"plan.tp\"?"));
  EXPECT_THAT(errors, HasSubstr("axes.1.values: is empty"));
  EXPECT_THAT(errors, HasSubstr("plan.pp: \"x\""));
  EXPECT_THAT(errors, HasSubstr("llama-3.1-8b"));
  EXPECT_THAT(errors, HasSubstr("different units"));
  EXPECT_THAT(errors, HasSubstr("has 1 values but plan.dp has 2"));
  EXPECT_THAT(errors, HasSubstr("neither set in the base nor varied"));
  EXPECT_THAT(errors, HasSubstr("plan.replicas: 0 is out of range"));
  EXPECT_THAT(errors, HasSubstr("repeets: unknown setting; did you mean \"repeats\"?"));
  EXPECT_THAT(Errors("axes: []"), HasSubstr("must be a list of settings to vary"));
  EXPECT_THAT(Errors("axes:\n  - {path: workload.requests, range: {from: 1, to: 100000, points: 100000}}\n"
                     "  - {path: scheduler.max_num_seqs, range: {from: 1, to: 10000, points: 10000}}"),
              HasSubstr("a sweep has at most 10000000"));
}

TEST(SweepSpec, NamesAreThoseThatScenariosKnow) {
  const auto spelled = Parse("axes:\n  - {path: hardware.gpu, values: [NVIDIA H100 80GB HBM3, RTX4090]}\n"
                             "  - {path: model, values: [Llama-3.1-8B-Instruct-FP8, meta-llama/Llama-3.1-8B]}\n");
  EXPECT_TRUE(spelled.ok()) << spelled.status();
  EXPECT_FALSE(Parse("axes:\n  - {path: hardware.gpu, values: [NVIDIA H101 80GB]}\n").ok());
}

TEST(Sweep, ResultsDoNotDependOnThreadsOrShards) {
  const SweepSpec spec = Spec(kAxes);
  TemporaryDirectory dir;
  RunSweep(spec, {.results_file = dir / "one.db", .threads = 1});
  RunSweep(spec, {.results_file = dir / "four.db", .threads = 4});
  const std::string one = Content(dir / "one.db");
  EXPECT_THAT(one, HasSubstr("ok|"));
  EXPECT_EQ(one, Content(dir / "four.db"));
  std::vector<std::string> shards;
  for (int i = 1; i <= 3; ++i) {
    shards.push_back(dir / ("shard" + std::to_string(i) + ".db"));
    EXPECT_EQ(RunSweep(spec, {.results_file = shards.back(), .threads = 2, .shard = i, .shards = 3}).progress.done, 4);
  }
  ASSERT_TRUE(MergeResults(dir / "merged.db", shards).ok());
  EXPECT_EQ(one, Content(dir / "merged.db"));
  // Points differ where the settings do, and repeats where the seed does.
  const auto best = BestResults(dir / "one.db", "e2e.mean_s", 12);
  ASSERT_TRUE(best.ok());
  std::set<std::string> distinct;
  for (const auto& row : best->rows) distinct.insert(row.back());
  EXPECT_GE(distinct.size(), 10u);
}

TEST(Sweep, AStoppedSweepGoesOnWhereItStopped) {
  const SweepSpec spec = Spec(kAxes);
  TemporaryDirectory dir;
  RunSweep(spec, {.results_file = dir / "whole.db"});
  int finished = 0;
  SweepOptions options{.results_file = dir / "stopped.db"};
  options.on_point = [&](const PointResult&) { ++finished; };
  options.cancelled = [&] { return finished >= 5; };
  const SweepResult stopped = RunSweep(spec, options);
  EXPECT_TRUE(stopped.cancelled);
  EXPECT_EQ(stopped.progress.done, 5);
  options.cancelled = nullptr;
  const SweepResult rest = RunSweep(spec, options);
  EXPECT_EQ(rest.progress.found, 5);
  EXPECT_EQ(finished, 12);
  EXPECT_EQ(Content(dir / "whole.db"), Content(dir / "stopped.db"));
}

TEST(Sweep, KilledAtRandomMomentsLosesNothing) {
  const SweepSpec spec = Spec(kAxes);
  TemporaryDirectory dir;
  RunSweep(spec, {.results_file = dir / "whole.db"});
  int killed = 0;
  for (int round = 0; round < 50; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      _exit(Sweep(spec, {.results_file = dir / "killed.db"}).ok() ? 0 : 1);
    }
    // From before the file is made to after the last point, an undisturbed run taking some 0.1 s.
    usleep(static_cast<useconds_t>(1000 + 3001 * ((round * 37) % 50)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    killed += WIFSIGNALED(status);
    if (!WIFSIGNALED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      if (round < 45) std::filesystem::remove(dir / "killed.db");  // start over
    }
  }
  EXPECT_GE(killed, 5);
  RunSweep(spec, {.results_file = dir / "killed.db"});
  EXPECT_EQ(Content(dir / "whole.db"), Content(dir / "killed.db"));
}

TEST(Sweep, AFullDiskIsAClearErrorAndTheFileStaysResumable) {
  const SweepSpec spec = Spec(kAxes);
  TemporaryDirectory dir;
  RunSweep(spec, {.results_file = dir / "whole.db"});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{64 * 1024, 64 * 1024};  // room for the tables and a few rows
    setrlimit(RLIMIT_FSIZE, &limit);
    const auto result = Sweep(spec, {.results_file = dir / "full.db"});
    _exit(!result.ok() && result.status().message().find("make room and run the command again") != absl::string_view::npos ? 7 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  RunSweep(spec, {.results_file = dir / "full.db"});
  EXPECT_EQ(Content(dir / "whole.db"), Content(dir / "full.db"));
}

TEST(Sweep, AFileOfAnotherSweepIsLeftAlone) {
  TemporaryDirectory dir;
  const std::string db = dir / "a.db";
  RunSweep(Spec("axes: [{path: workload.requests, values: [1, 2]}]"), {.results_file = db});
  const std::string before = FileText(db);
  const auto other = Sweep(Spec("axes: [{path: workload.requests, values: [1, 3]}]"), {.results_file = db});
  ASSERT_FALSE(other.ok());
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("results of another sweep"));
  EXPECT_EQ(FileText(db), before);
  std::ofstream(dir / "notes.txt") << "not a database, but longer than the header of one is, to be sure of a full page read\n";
  const auto text = Sweep(Spec("axes: [{path: workload.requests, values: [1]}]"), {.results_file = dir / "notes.txt"});
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("is not a results file"));
  EXPECT_THAT(FileText(dir / "notes.txt"), HasSubstr("not a database"));
}

TEST(Sweep, ItemsOfListsCanBeVaried) {
  const auto text = [&](const char* placement, const char* item, const char* field) {
    return fmt::format("set: {{plan.placement: {}}}\naxes: [{{path: plan.placement.{}.{}, values: [0.25, 0.5]}}]", placement, item, field);
  };
  const char* rules = "[{tensors: attention, tier: dram}]";
  std::vector<double> tpot;
  SweepOptions options;
  options.on_point = [&](const PointResult& p) { tpot.push_back(p.status == PointStatus::kDone ? p.report.tpot.mean.value() : 0); };
  EXPECT_EQ(RunSweep(Spec(text(rules, "0", "share")), options).progress.done, 2);
  EXPECT_EQ(RunSweep(Spec(text("{rules: [{tensors: attention, tier: dram}]}", "rules.0", "share")), options).progress.done, 2);
  ASSERT_EQ(tpot.size(), 4u);
  EXPECT_GT(tpot[1], 1.5 * tpot[0]);  // twice as much crosses the link
  EXPECT_EQ(tpot[2], tpot[0]);
  EXPECT_THAT(Errors(text(rules, "0", "shar")), HasSubstr("unknown setting \"plan.placement.0.shar\""));
  EXPECT_THAT(Errors(text(rules, "1", "share")), HasSubstr("\"1\" is not one of its positions"));
}

TEST(Sweep, ImpossiblePointsAreKeptWithTheirReason) {
  const SweepSpec spec = Spec("axes: [{path: plan.tp, values: [1, 3]}]");
  std::vector<PointResult> points;
  SweepOptions options;
  options.on_point = [&](const PointResult& p) { points.push_back(p); };
  EXPECT_EQ(RunSweep(spec, options).progress.invalid, 1);
  EXPECT_EQ(points[1].status, PointStatus::kInvalid);
  EXPECT_THAT(points[1].message, HasSubstr("3 does not divide the 32 attention heads"));
}

TEST(Metrics, NamesAreFoundWithAndWithoutTheirUnit) {
  Report r;
  r.ttft.p99 = Seconds(0.25);
  EXPECT_EQ((*FindMetric("ttft.p99_s"))->value(r), 0.25);
  EXPECT_EQ((*FindMetric("ttft.p99"))->value(r), 0.25);
  EXPECT_THAT(std::string(FindMetric("ttfft.p99_s").status().message()), HasSubstr("did you mean \"ttft.p99_s\"?"));
  EXPECT_THAT(std::string(FindMetric("ttfx.p95").status().message()), HasSubstr("did you mean \"ttft.p95\"?"));
}

TEST(Metrics, ParetoFrontKeepsWhatNothingBeats) {
  // Lower first value and higher second value are better: 1 and 3 are beaten by 0, 4 equals 0.
  const std::vector<std::vector<double>> points = {{2, 5}, {2, 4}, {1, 3}, {3, 5}, {2, 5}, {0, std::nan("")}};
  EXPECT_THAT(ParetoFront(points, {false, true}), ElementsAre(2, 0, 4));
}

}  // namespace
}  // namespace simrun::planner
