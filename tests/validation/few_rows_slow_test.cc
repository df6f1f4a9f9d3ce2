// A device with a handful of measurements: twenty random rows per operator of the H100, treated as a new GPU whose formula and
// corrections come from the others. Skipped where the data are not at hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "calibration/fit_device.h"
#include "calibration/operator_ledger.h"
#include "sim/scenario.h"
#include "tests/support/data_dir.h"

namespace simrun {
namespace {

constexpr int kDraws = 15;

struct Result {
  std::vector<double> errors, ranks;   // mean |error| and rank correlation on rows that were not drawn, per draw
  double median(std::vector<double> v) const {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  }
};

double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto ranks = [](const std::vector<double>& v) {
    std::vector<size_t> order(v.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return v[i] < v[j]; });
    std::vector<double> r(v.size());
    for (size_t i = 0; i < order.size(); ++i) r[order[i]] = static_cast<double>(i);
    return r;
  };
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = static_cast<double>(x.size() - 1) / 2;
  double xy = 0, xx = 0;
  for (size_t i = 0; i < x.size(); ++i) xy += (x[i] - middle) * (y[i] - middle), xx += (x[i] - middle) * (x[i] - middle);
  return xy / xx;
}

Result Draw(const DeviceBase& base, const Catalog& catalog, std::vector<OpRow> rows, size_t drawn) {
  Result result;
  for (int draw = 0; draw < kDraws; ++draw) {
    Rng rng(7, "few rows", static_cast<uint64_t>(draw));
    for (size_t i = 0; i < 800 && i < rows.size(); ++i) std::swap(rows[i], rows[i + rng.Below(rows.size() - i)]);
    const std::vector<OpRow> few(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(drawn));
    const std::vector<OpRow> rest(rows.begin() + static_cast<std::ptrdiff_t>(drawn), rows.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(800, rows.size())));
    CalibrationOptions options;
    options.cross_validate = false;
    const auto fitted = Calibrate(base, few, catalog, options);
    EXPECT_TRUE(fitted.ok()) << fitted.status();
    const OperatorParams* entry = nullptr;
    for (const OperatorParams& p : fitted->file.operators) {
      if (p.op == few[0].op && p.dtype == few[0].dtype && p.backend == few[0].backend) entry = &p;
    }
    EXPECT_NE(entry, nullptr);
    const auto pricer = OperatorPricer::Create(base.machine, WithEntry(base.set, *entry), "", rest);
    EXPECT_TRUE(pricer.ok()) << pricer.status();
    std::vector<double> predicted, measured;
    double error = 0;
    for (const OpRow& row : rest) {
      predicted.push_back(*pricer->Price(row).seconds);
      measured.push_back(row.seconds);
      error += std::fabs(predicted.back() / row.seconds - 1);
    }
    result.errors.push_back(100 * error / static_cast<double>(rest.size()));
    result.ranks.push_back(RankCorrelation(predicted, measured));
  }
  return result;
}

TEST(FewRowsTest, TwentyRowsOfANewDeviceGoALongWay) {
  const std::string first = DataFile("ops/h100/gemm.csv");
  if (first.empty()) GTEST_SKIP() << "no measurements; set SIMRUN_DATA_DIR";
  const std::string dir = first.substr(0, first.rfind('/') + 1);
  const Catalog catalog = BuiltInCatalog();
  const auto base = LoadDeviceBase("h100-sxm-80gb", catalog);   // its own entries are no prior for it
  ASSERT_TRUE(base.ok()) << base.status();
  const auto shipped = LoadOperatorParams("h100", catalog);
  ASSERT_TRUE(shipped.ok()) << shipped.status();
  struct Case { const char* file; const char* op; double most; };
  // Times the error of the fit to thousands of rows, with a tenth of room.
  for (const Case& c : {Case{"gemm.csv", "gemm", 1.6}, Case{"attn_decode.csv", "decode", 2.4}, Case{"mla_decode.csv", "mla_decode", 2.15},
                        Case{"moe.csv", "moe", 1.6}}) {
    auto table = ReadOps({dir + c.file}, catalog);
    ASSERT_TRUE(table.ok()) << table.status();
    FindUngatedExperts(base->machine.gpu, &table->rows);
    std::vector<OpRow> rows;
    for (const OpRow& row : table->rows) {
      // Experts of narrow weights under 16-bit activations run in kernels of their own, which a fit leaves out.
      if (row.op == c.op && row.dtype == "bf16" && row.format == "bf16" && row.problem.empty()) rows.push_back(row);
    }
    ASSERT_FALSE(rows.empty()) << c.op;
    const double full = shipped->Find(c.op, "bf16", rows.front().backend)->mape;
    const Result twenty = Draw(*base, catalog, rows, 20), ten = Draw(*base, catalog, rows, 10);
    RecordProperty(std::string(c.op) + "_error_percent", std::to_string(twenty.median(twenty.errors)));
    EXPECT_LT(twenty.median(twenty.errors), c.most * full) << c.op;
    EXPECT_GT(ten.median(ten.ranks), 0.93) << c.op;
  }
}

}  // namespace
}  // namespace simrun
