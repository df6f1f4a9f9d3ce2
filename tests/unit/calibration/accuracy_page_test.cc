#include "calibration/accuracy_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/scenario.h"

namespace simrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Page(const std::string& median, const std::string& word = "word") {
  return "# Accuracy\n\n## Serving, by class\n\n| class | metric | values | median % | p90 % | bias % |\n|---|---|---:|---:|---:|---:|\n"
         "| offline | tpot | 5 | " + median + " | 20.0 | -0.0 |\n\n" + word + "\n";
}

TEST(CheckAccuracyPage, PassesWithinTheLastDigit) {
  EXPECT_THAT(CheckAccuracyPage(Page("10.0"), Page("10.0")).differing, IsEmpty());
  EXPECT_THAT(CheckAccuracyPage(Page("10.0"), Page("10.1")).differing, IsEmpty());
  EXPECT_THAT(CheckAccuracyPage(Page("10.0"), Page("10.2")).differing.size(), 1u);
  EXPECT_THAT(CheckAccuracyPage(Page("10.0"), Page("10.0", "ward")).differing, ElementsAre("word"));
}

TEST(CheckAccuracyPage, FindsErrorsThatGrewByMoreThanFivePerCent) {
  // 10.0 may grow to 10.5, and by the half digit that rounding took off each figure.
  EXPECT_THAT(CheckAccuracyPage(Page("10.0"), Page("10.5")).worse, IsEmpty());
  const PageCheck check = CheckAccuracyPage(Page("10.0"), Page("10.6"));
  ASSERT_EQ(check.worse.size(), 1u);
  EXPECT_EQ(check.worse[0], "Serving, by class | offline | tpot: median % 10.0 -> 10.6");
  EXPECT_THAT(CheckAccuracyPage(Page("10.0"), Page("4.0")).worse, IsEmpty()) << "better is no failure";
}

// Four plans, measured 1, 2, 3 and 3.01 with a repeat spread of 1 %: five of the six pairs count.
TEST(PlanOrders, CountsPairsAboveTheRepeatSpread) {
  std::vector<MeasuredCase> cases;
  std::vector<LedgerRow> rows;
  const double measured[] = {1, 2, 3, 3.01}, predicted[] = {2, 1, 4, 3};
  for (int i = 0; i < 4; ++i) {
    MeasuredCase c;
    c.id = "c" + std::to_string(i);
    c.tp = 1 << i;
    MeasuredValue v;
    v.metric = "tpot";
    v.value = measured[i];
    v.notes = {{"plan_group", "g"}, {"rel_spread", "0.01"}};
    c.values.push_back(v);
    cases.push_back(c);
    LedgerRow r;
    r.case_index = static_cast<size_t>(i);
    r.metric = "tpot";
    r.measured = measured[i];
    r.predicted = predicted[i];
    rows.push_back(r);
  }
  const std::vector<PlanOrder> orders = PlanOrders(cases, rows);
  ASSERT_EQ(orders.size(), 1u);
  EXPECT_EQ(orders[0].pairs, 5);
  EXPECT_EQ(orders[0].concordant, 4) << "only the first two are the wrong way round";
  EXPECT_NEAR(orders[0].tau(), (4 - 1) / 5.0, 1e-12);
}

TEST(AccuracyPage, HasItsSectionsAndShowsWhatIsMissing) {
  MeasuredCase c;
  c.id = "x";
  LedgerRow good, bad;
  good.class_name = bad.class_name = "static-batch";
  good.metric = bad.metric = "e2e";
  good.engine = bad.engine = "vllm 1";
  good.gpu = bad.gpu = "g";
  good.measured = bad.measured = 2;
  good.predicted = 3;
  bad.warnings = "no | such thing";
  const auto page = AccuracyPage({c}, {good, bad}, std::make_shared<const Catalog>(BuiltInCatalog()));
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(*page, HasSubstr("| static-batch | e2e | 1 | 50.0 | 50.0 | +50.0 | 1 | 50.0 | - |"));
  EXPECT_THAT(*page, HasSubstr("- 1 values: no | such thing"));
  EXPECT_THAT(*page, HasSubstr("| h100 | gemm | bf16 |"));
}

}  // namespace
}  // namespace simrun
