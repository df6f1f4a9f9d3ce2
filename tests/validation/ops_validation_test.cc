// The fits against the measurements they were made from, on rows left out; skipped where the data are not at hand.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "calibration/fit_device.h"
#include "calibration/operator_ledger.h"
#include "sim/scenario.h"
#include "tests/support/data_dir.h"

namespace simrun {
namespace {

TEST(OpsValidationTest, UnseenRowsOfTheH200StayWithinTheirErrors) {
  const std::string first = DataFile("ops/h200/gemm.csv");
  if (first.empty()) GTEST_SKIP() << "no measurements; set SIMRUN_DATA_DIR";
  const std::string dir = first.substr(0, first.rfind('/') + 1);
  const Catalog catalog = BuiltInCatalog();
  const auto base = LoadDeviceBase("h200-sxm-141gb", catalog);
  ASSERT_TRUE(base.ok()) << base.status();
  auto table = ReadOps({dir + "gemm.csv", dir + "attn_decode.csv", dir + "attn_prefill.csv", dir + "mla_decode.csv", dir + "moe.csv"}, catalog);
  ASSERT_TRUE(table.ok()) << table.status();
  FindUngatedExperts(base->machine.gpu, &table->rows);
  const auto fitted = Calibrate(*base, table->rows, catalog, {});
  ASSERT_TRUE(fitted.ok()) << fitted.status();
  // What the catalogue states is what a fit of today reaches: mean error of unseen rows in per cent, rounded to a tenth. The
  // priors come from entries of other devices, which may have been fitted after this one.
  const auto shipped = LoadOperatorParams("h200", catalog);
  ASSERT_TRUE(shipped.ok()) << shipped.status();
  int checked = 0;
  for (const OperatorReport& r : fitted->reports) {
    if (r.dtype != "bf16") continue;
    const OperatorParams* p = shipped->Find(r.op, r.dtype, r.backend);
    ASSERT_NE(p, nullptr) << r.op;
    EXPECT_EQ(p->rows, r.rows) << r.op;
    EXPECT_NEAR(100 * r.by_row.mape, p->mape, 0.051 + 0.03 * p->mape) << r.op;
    EXPECT_NEAR(100 * r.by_row.p90, p->p90_ape, 0.051 + 0.06 * p->p90_ape) << r.op;
    // The shipped entry prices the rows it was made from at least as well.
    std::vector<OpRow> rows;
    for (const OpRow& row : table->rows) {
      if (row.op == r.op && row.dtype == r.dtype && row.backend == r.backend && row.problem.empty()) rows.push_back(row);
    }
    const auto pricer = OperatorPricer::Create(base->machine, std::make_shared<const OperatorParamSet>(*shipped), "", rows);
    ASSERT_TRUE(pricer.ok()) << pricer.status();
    double error = 0;
    for (const OpRow& row : rows) error += std::fabs(*pricer->Price(row).seconds / row.seconds - 1);
    EXPECT_LT(100 * error / static_cast<double>(rows.size()), p->mape + 0.05) << r.op;
    if (r.op == "gemm") {
      EXPECT_LT(r.by_shape.mape, 1.3 * r.by_row.mape);
    }
    // Experts and heads never seen: what odd widths, the rows of other ranks' experts, the rows of an instruction and the
    // partial results of split keys cost.
    if (r.op == "moe") {
      EXPECT_LT(r.by_shape.mape, 1.45 * r.by_row.mape);
    }
    if (r.op == "mla_decode") {
      EXPECT_LT(r.by_shape.mape, 0.04);
    }
    ++checked;
  }
  EXPECT_EQ(checked, 5);
}

TEST(OpsValidationTest, ExpertExchangesOfDeepEpAreCompared) {
  const std::string file = DataFile("ops/h100/deepep_multinode.csv");
  if (file.empty()) GTEST_SKIP() << "no measurements; set SIMRUN_DATA_DIR";
  const Catalog catalog = BuiltInCatalog();
  const auto base = LoadDeviceBase("h100-sxm-80gb", catalog);
  ASSERT_TRUE(base.ok()) << base.status();
  const auto table = ReadOps({file}, catalog);
  ASSERT_TRUE(table.ok()) << table.status();
  const auto pricer = OperatorPricer::Create(base->machine, std::make_shared<const OperatorParamSet>(base->set), "", table->rows);
  ASSERT_TRUE(pricer.ok()) << pricer.status();
  std::vector<OperatorPrediction> predictions;
  for (const OpRow& row : table->rows) predictions.push_back(pricer->Price(row));
  const std::vector<OperatorSummary> found = SummarizeOperators(table->rows, predictions, *pricer);
  ASSERT_EQ(found.size(), 4u);
  for (const OperatorSummary& s : found) {
    EXPECT_EQ(s.missing, 0) << s.op << ": " << s.reason;
    EXPECT_LT(s.mape, s.op.find("_ll_") != std::string::npos ? 0.15 : 0.4) << s.op;
    EXPECT_LT(s.mape, *s.baseline_mape) << s.op;
  }
}

}  // namespace
}  // namespace simrun
