#include "calibration/prediction_errors.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/scenario.h"

namespace simrun {
namespace {

LedgerRow Row(const std::string& model, const std::string& metric, double ratio, const std::string& gpu = "h100") {
  LedgerRow r;
  r.model = model;
  r.metric = metric;
  r.gpu = gpu;
  r.engine = "vllm 0.19.0";
  r.engine_family = "vllm";
  r.engine_profile = "vllm-0.19";
  r.load = "closed loop";
  r.measured = ratio;
  r.predicted = 1;
  return r;
}

TEST(ErrorGroups, EveryValueCountsInFourGroups) {
  LedgerRow missing = Row("a", "tpot", 1);
  missing.predicted.reset();
  const std::vector<ErrorGroup> groups =
      ErrorGroupsOf({Row("a", "tpot", 1.2), Row("b", "tpot", 0.9), Row("b", "tpot", 1.1, "a100"), Row("b", "itl", 3), missing});
  // By metric, load and engine all three, by GPU two and one; ITL is no headline.
  ASSERT_EQ(groups.size(), 5u);
  EXPECT_EQ(groups[0].load, "");
  EXPECT_THAT(groups[0].ratios, testing::ElementsAre(0.9, 1.1, 1.2));
  EXPECT_EQ(groups[0].campaigns, 3);
  EXPECT_EQ(groups[3].gpu, "a100");
  EXPECT_EQ(groups[4].gpu, "h100");
  EXPECT_EQ(groups[4].campaigns, 2);
}

TEST(ErrorGroups, ManyValuesKeepTheirDistribution) {
  std::vector<LedgerRow> rows;
  for (int i = 1; i <= 1000; ++i) rows.push_back(Row(fmt::format("m{}", i % 7), "ttft", i));
  const ErrorGroup g = ErrorGroupsOf(rows)[0];
  ASSERT_EQ(g.ratios.size(), 20u);
  EXPECT_EQ(g.values, 1000);
  EXPECT_EQ(g.campaigns, 7);
  for (int i = 0; i < 20; ++i) EXPECT_NEAR(g.ratios[static_cast<size_t>(i)], 50 * i + 25, 1);
}

TEST(ErrorGroups, AFileOfThemIsACatalogueEntry) {
  const std::string dir = testing::TempDir() + "/own_errors";
  std::filesystem::create_directories(dir + "/errors");
  std::ofstream(dir + "/errors/own.yaml") << ErrorsYaml(ErrorGroupsOf({Row("a", "tpot", 1.25)}));
  Catalog catalog;
  ASSERT_TRUE(catalog.AddDirectory(dir).ok());
  const auto ledger = ErrorLedger::Load(catalog, "closed loop", "vllm", "vllm-0.19", "h100");
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  const auto ratio = (*ledger)->Ratio("tpot", "closed loop", "vllm", "vllm-0.19", "h100");
  ASSERT_TRUE(ratio.has_value());
  EXPECT_DOUBLE_EQ(ratio->low, 1.25);
  EXPECT_EQ(ratio->basis, "1 measured value of one campaign, vllm-0.19 on h100, closed loop");
}

// Models whose errors come from one distribution hold what was promised; a model unlike all others is not held by the
// intervals that the others make.
TEST(Coverage, IsJudgedWithoutTheModelItself) {
  std::vector<LedgerRow> rows;
  for (int m = 0; m < 20; ++m) {
    for (int i = 0; i < 40; ++i) rows.push_back(Row(fmt::format("m{}", m), "tpot", std::exp(0.2 * std::sin(1.7 * i + 12.9 * m))));
  }
  const std::vector<IntervalCoverage> alike = CoverageOf(rows);
  ASSERT_EQ(alike.size(), 2u);
  EXPECT_EQ(alike[0].load, "");
  EXPECT_EQ(alike[1].load, "closed loop");
  EXPECT_EQ(alike[0].values, 800);
  EXPECT_NEAR(alike[0].new_model, 0.8, 0.06);
  EXPECT_GT(alike[0].width, std::exp(0.2));
  // One model in three, so that its own values would lie inside.
  for (int i = 0; i < 400; ++i) rows.push_back(Row("odd", "tpot", 3));
  EXPECT_LE(CoverageOf(rows)[0].new_model, 800.0 / 1200);
}

}  // namespace
}  // namespace simrun
