// The fits against the measurements they were made from, on rows left out; skipped where the data are not at hand.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "calibration/fit_device.h"
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
  const auto table = ReadOps({dir + "gemm.csv", dir + "attn_decode.csv", dir + "attn_prefill.csv", dir + "mla_decode.csv", dir + "moe.csv"}, catalog);
  ASSERT_TRUE(table.ok()) << table.status();
  const auto fitted = Calibrate(*base, table->rows, catalog, {});
  ASSERT_TRUE(fitted.ok()) << fitted.status();
  // Reached when this was written, with a tenth of room: mean error of unseen rows.
  const std::map<std::string, double> reached = {{"gemm", 0.032}, {"decode", 0.030}, {"prefill", 0.058}, {"mla_decode", 0.023}, {"moe", 0.083}};
  int checked = 0;
  for (const OperatorReport& r : fitted->reports) {
    if (r.dtype != "bf16") continue;
    const auto it = reached.find(r.op);
    ASSERT_NE(it, reached.end()) << r.op;
    EXPECT_LT(r.by_row.mape, 1.1 * it->second) << r.op;
    if (r.op == "gemm") EXPECT_LT(r.by_shape.mape, 1.3 * r.by_row.mape);
    ++checked;
  }
  EXPECT_EQ(checked, 5);
}

}  // namespace
}  // namespace simrun
