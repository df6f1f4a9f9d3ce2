#include "sim/prediction_interval.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/simulation.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

ErrorGroup Group(std::vector<std::string> where, int64_t campaigns, std::vector<double> ratios) {
  where.resize(4);
  ErrorGroup g;
  g.metric = "tpot";
  g.load = where[0];
  g.engine = where[1];
  g.profile = where[2];
  g.gpu = where[3];
  g.values = static_cast<int64_t>(ratios.size());
  g.campaigns = campaigns;
  g.ratios = std::move(ratios);
  return g;
}

std::optional<RatioInterval> Ratio(const std::vector<ErrorGroup>& groups) {
  return ErrorLedger(groups).Ratio("tpot", "offline", "vllm", "vllm-0.19", "h100");
}

std::vector<double> Hundredths() {
  std::vector<double> v;
  for (int i = 1; i <= 100; ++i) v.push_back(i / 100.0);
  return v;
}

// 19 campaigns: tails of 0.1 x 19 / 20 = 0.095, so the 10th value of 100 and the 91st.
TEST(ErrorLedger, TakesTheQuantilesOfOneGroup) {
  const auto r = Ratio({Group({}, 19, Hundredths())});
  ASSERT_TRUE(r.has_value());
  EXPECT_DOUBLE_EQ(r->low, 0.10);
  EXPECT_DOUBLE_EQ(r->median, 0.50);
  EXPECT_DOUBLE_EQ(r->high, 0.91);
  EXPECT_EQ(r->values, 100);
  EXPECT_EQ(r->basis, "100 measured values of 19 campaigns, any load");
}

TEST(ErrorLedger, MetricsWithoutMeasurementsHaveNoInterval) {
  EXPECT_FALSE(ErrorLedger({Group({}, 5, {1})}).Ratio("ttft", "offline", "vllm", "vllm-0.19", "h100").has_value());
  EXPECT_FALSE(Ratio({}).has_value());
}

// Nine campaigns of the very engine and GPU weigh 9 / 12, the widest group the other quarter, which lies above: the median is
// the value at 0.5 / 0.75 of the near group, and the upper tail is in the far one.
TEST(ErrorLedger, NearGroupsCountByTheirCampaigns) {
  const auto r = Ratio({Group({}, 50, {7, 8}), Group({"offline", "vllm", "vllm-0.19", "h100"}, 9, {1, 2, 3})});
  ASSERT_TRUE(r.has_value());
  EXPECT_DOUBLE_EQ(r->low, 1);
  EXPECT_DOUBLE_EQ(r->median, 2);
  EXPECT_DOUBLE_EQ(r->high, 8);
  EXPECT_EQ(r->basis, "3 measured values of 9 campaigns, vllm-0.19 on h100, offline");
}

TEST(ErrorLedger, OtherGpusEnginesAndLoadsAreNotNear) {
  const auto r = Ratio({Group({}, 50, {1}), Group({"offline", "vllm", "vllm-0.19", "a100"}, 90, {2}), Group({"offline", "sglang"}, 90, {3}),
                        Group({"static batch"}, 90, {4})});
  ASSERT_TRUE(r.has_value());
  EXPECT_DOUBLE_EQ(r->low, 1);
  EXPECT_DOUBLE_EQ(r->high, 1);
}

// Measurements of one's own, in another file, join the published ones of the same kind: one group of 4 campaigns.
TEST(ErrorLedger, GroupsOfTheSameKindAddUp) {
  const auto r = Ratio({Group({"offline"}, 1, {1}), Group({"offline"}, 3, {2, 2, 2})});
  ASSERT_TRUE(r.has_value());
  EXPECT_EQ(r->basis, "4 measured values of 4 campaigns, offline");
  // A quarter of the weight is 1, below the tail of 0.08 no more.
  EXPECT_DOUBLE_EQ(r->low, 1);
  EXPECT_DOUBLE_EQ(r->median, 2);
}

constexpr char kPoisson[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: vllm-0.19}
workload: {requests: 100, arrivals: {poisson: {rate: 6 /s}}, input_tokens: 900, output_tokens: 60}
)";

TEST(Intervals, AreAroundThePredictionByTheRatiosOfTheLedger) {
  const absl::StatusOr<Scenario> scenario = ScenarioOf(kPoisson, {{"metrics.replications", "1"}});
  const absl::StatusOr<Report> report = Simulate(scenario);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto ledger = ErrorLedger::Load(*scenario->catalog(), "open loop", "vllm", "vllm-0.19", "h100-sxm-80gb");
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  for (const auto& [key, metric, value] : {std::tuple("ttft.mean_s", "ttft", report->ttft.mean.value()), std::tuple("tpot.mean_s", "tpot", report->tpot.mean.value()),
                                           std::tuple("e2e.mean_s", "e2e", report->e2e.mean.value()),
                                           std::tuple("energy.per_output_token_j", "energy", report->energy.per_output_token.value())}) {
    const auto ratio = (*ledger)->Ratio(metric, "open loop", "vllm", "vllm-0.19", "h100-sxm-80gb");
    ASSERT_TRUE(ratio.has_value()) << metric;
    ASSERT_EQ(report->intervals.count(key), 1u) << key;
    const Report::Interval& interval = report->intervals.at(key);
    EXPECT_NEAR(interval.low / value, ratio->low, 1e-9);
    EXPECT_NEAR(interval.high / value, ratio->high, 1e-9);
    EXPECT_EQ(interval.seeds, 1);
    EXPECT_LT(interval.low, interval.high);
  }
  EXPECT_EQ(report->intervals.count("throughput.output_tokens_per_s"), 0u) << "set by the arrivals, not predicted";
}

// By hand from the five runs: mean and sample variance of the logarithms, Student's t with four degrees of freedom at 90 %
// (1.5332), the variance of one more draw around a mean of five.
TEST(Intervals, TheSpreadOfSeedsWidensThem) {
  const absl::StatusOr<Scenario> scenario = ScenarioOf(kPoisson);
  const absl::StatusOr<Report> report = Simulate(scenario);
  ASSERT_TRUE(report.ok()) << report.status();
  double mean = 0, squares = 0;
  std::vector<double> logs;
  for (int seed = 1; seed <= 5; ++seed) {
    logs.push_back(std::log(ReportOf(ScenarioOf(kPoisson, {{"seed", std::to_string(seed)}})).ttft.mean.value()));
    mean += logs.back() / 5;
  }
  for (const double x : logs) squares += (x - mean) * (x - mean);
  const double spread = 1.5332 * std::sqrt(squares / 4 * 1.2);
  ASSERT_GT(spread, 0.001);
  const auto ledger = ErrorLedger::Load(*scenario->catalog(), "open loop", "vllm", "vllm-0.19", "h100-sxm-80gb");
  const auto ratio = (*ledger)->Ratio("ttft", "open loop", "vllm", "vllm-0.19", "h100-sxm-80gb");
  const double middle = std::log(ratio->median);
  const Report::Interval& interval = report->intervals.at("ttft.mean_s");
  EXPECT_EQ(interval.seeds, 5);
  EXPECT_NEAR(std::log(interval.low), mean + middle - std::hypot(middle - std::log(ratio->low), spread), 1e-4);
  EXPECT_NEAR(std::log(interval.high), mean + middle + std::hypot(std::log(ratio->high) - middle, spread), 1e-4);
  EXPECT_DOUBLE_EQ(std::log(report->ttft.mean.value()), logs[0]) << "the report itself is that of the first seed";
}

TEST(Intervals, FurtherSeedsRunOnlyWhereTheyTellSomething) {
  EXPECT_EQ(Simulate(ScenarioOf(kPoisson, {{"workload.arrivals", "{constant: {rate: 6 /s}}"}}))->intervals.at("tpot.mean_s").seeds, 1);
  EXPECT_EQ(Simulate(ScenarioOf(kPoisson, {{"workload.requests", "1001"}}))->intervals.at("tpot.mean_s").seeds, 1);
  EXPECT_EQ(Simulate(ScenarioOf(kPoisson, {{"workload.requests", "1001"}, {"metrics.replications", "3"}}))->intervals.at("tpot.mean_s").seeds, 3);
}

TEST(Intervals, ClosedLoopsPredictTheirThroughput) {
  const Report r = ReportOf(ScenarioOf(kPoisson, {{"workload", "{concurrency: 4, requests: 20, input_tokens: 500, output_tokens: 20}"}}));
  EXPECT_EQ(r.intervals.count("throughput.output_tokens_per_s"), 1u);
  EXPECT_THAT(r.intervals.at("tpot.mean_s").basis, HasSubstr("closed loop"));
}

TEST(Intervals, PartsNobodyMeasuredHaveNone) {
  EXPECT_THAT(ReportOf(ScenarioOf(kPoisson, {{"engine.profile", "ideal"}})).intervals, IsEmpty());
  SimulateOptions options;
  options.intervals = false;
  EXPECT_THAT(Simulate(ScenarioOf(kPoisson), std::move(options))->intervals, IsEmpty());
}

TEST(Intervals, ABrokenFileIsNamed) {
  const std::string dir = testing::TempDir() + "/broken_errors";
  std::filesystem::create_directories(dir + "/errors");
  std::ofstream(dir + "/errors/mine.yaml") << "groups:\n  - {metric: tpot, values: 2, campaigns: 1, ratios: [2, 1]}\n";
  Catalog catalog = BuiltInCatalog();
  ASSERT_TRUE(catalog.AddDirectory(dir).ok());
  const auto ledger = ErrorLedger::Load(catalog, "offline", "vllm", "vllm-0.19", "h100");
  EXPECT_THAT(std::string(ledger.status().message()), HasSubstr("errors/mine.yaml:2:"));
  EXPECT_THAT(std::string(ledger.status().message()), HasSubstr("ascending"));
}

}  // namespace
}  // namespace simrun
