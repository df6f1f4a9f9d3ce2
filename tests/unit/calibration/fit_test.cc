#include <gmock/gmock.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/rng.h"
#include "calibration/fit_curves.h"
#include "calibration/fit_device.h"
#include "calibration/fit_formula.h"
#include "calibration/fit_trees.h"
#include "calibration/operator_ledger.h"
#include "calibration/ops.h"
#include "sim/scenario.h"

namespace simrun {
namespace {

const Catalog& AllEntries() {
  static const auto* const catalog = new Catalog(BuiltInCatalog());
  return *catalog;
}

std::string Write(const std::string& name, const std::string& text) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / name;
  std::ofstream(path) << text;
  return path.string();
}

DeviceBase H100() {
  auto base = LoadDeviceBase("h100-sxm-80gb", AllEntries());
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

// GEMM rows whose times follow the formula with these parameters.
constexpr double kT0 = 3e-6, kEc = 0.6, kEm = 0.9, kD = 8e-6, kK0 = 1500;
std::vector<OpRow> GemmRows(const Machine& machine, int count, double noise, uint64_t seed) {
  Rng rng(seed, "rows");
  const double peak = machine.gpu.peak[static_cast<size_t>(DType::kBf16)].value(), bw = machine.gpu.memory_bandwidth.value();
  std::vector<OpRow> rows;
  for (int i = 0; i < count; ++i) {
    OpRow row;
    row.op = "gemm";
    row.format = row.dtype = "bf16";
    row.backend = "vllm";
    row.work.kind = OpKind::kGemm;
    row.work.m = int64_t{1} << rng.Below(15);
    row.work.n = int64_t{1} << (8 + rng.Below(8));
    row.work.k = int64_t{1} << (8 + rng.Below(8));
    row.group = std::to_string(row.work.n) + " " + std::to_string(row.work.k);
    const double m = static_cast<double>(row.work.m), n = static_cast<double>(row.work.n), k = static_cast<double>(row.work.k);
    const double tc = 2 * m * n * k / (peak * kEc), tm = 2 * (m * k + n * k + m * n) / (bw * kEm), td = kD * k / (k + kK0);
    row.seconds = (kT0 + std::sqrt(tc * tc + tm * tm + td * td)) * std::exp(noise * rng.Normal());
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<const OpRow*> Pointers(const std::vector<OpRow>& rows) {
  std::vector<const OpRow*> out;
  for (const OpRow& r : rows) out.push_back(&r);
  return out;
}

// What a fit starts from.
OperatorParams Bf16Gemm() {
  OperatorParams p;
  p.op = "gemm";
  p.dtype = "bf16";
  return p;
}

TEST(FitFormulaTest, RecoversKnownParameters) {
  const DeviceBase base = H100();
  const std::vector<OpRow> rows = GemmRows(base.machine, 400, 0.02, 1);
  const OperatorParams start = Bf16Gemm();
  const auto fit = FitFormula(base.machine, base.set, start, PriorFor("gemm", "bf16", {}), Pointers(rows), {});
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_EQ(fit->params.q, 2);
  EXPECT_NEAR(fit->params.t0.value(), kT0, 0.05 * kT0);
  EXPECT_NEAR(fit->params.ec, kEc, 0.02);
  EXPECT_NEAR(fit->params.em, kEm, 0.03);
  EXPECT_NEAR(fit->params.d.value(), kD, 0.06 * kD);
  EXPECT_NEAR(fit->params.k0, kK0, 0.15 * kK0);
  // The rows settled these; the cache they say nothing about.
  for (const FittedParameter& p : fit->parameters) {
    if (p.name == "t0" || p.name == "ec" || p.name == "em") {
      EXPECT_GT(p.learned(), 0.8) << p.name;
    } else if (p.name == "l2_share") {
      EXPECT_LT(p.learned(), 0.2);
    }
  }
}

TEST(FitFormulaTest, WithoutRowsToSayOtherwiseThePriorStands) {
  const DeviceBase base = H100();
  std::vector<OpRow> rows = GemmRows(base.machine, 1, 0, 2);
  const OperatorParams start = Bf16Gemm();
  OperatorParams other;
  other.op = "gemm";
  other.t0 = Seconds(4e-6);
  other.ec = 0.5, other.em = 0.7;
  other.d = Seconds(5e-6);
  other.k0 = 900;
  const FormulaPrior prior = PriorFor("gemm", "bf16", {&other});
  rows[0].work.m = 1, rows[0].work.n = 256, rows[0].work.k = 256;   // almost all fixed time
  rows[0].seconds = 5e-6;
  const auto fit = FitFormula(base.machine, base.set, start, prior, Pointers(rows), {});
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_NEAR(fit->params.ec, 0.5, 0.01);
  EXPECT_NEAR(fit->params.em, 0.7, 0.01);
}

TEST(FitFormulaTest, AnErrorThatRowsShareCountsOnce) {
  // Hardly more than fixed time, 30 % above its prior, in eight rows as uncertain as the prior. One row moves it half way,
  // eight to eight ninths; where their errors come as one, eight say no more than one.
  const DeviceBase base = H100();
  std::vector<OpRow> rows = GemmRows(base.machine, 8, 0, 2);
  const OperatorParams start = Bf16Gemm();
  FormulaPrior prior = PriorFor("gemm", "bf16", {});
  for (ParameterPrior& p : prior.parameters) p.spread = p.name == "t0" ? 0.3 : 1e-3;
  const double t0 = prior.parameters.front().value;
  for (OpRow& row : rows) row.work.m = 1, row.work.n = 64, row.work.k = 64, row.seconds = 1.3 * (t0 + 0.19e-6);
  const auto moved = [&](size_t count, double shared) {
    FormulaFitOptions options;
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < count; ++j) options.covariance.push_back(0.09 * (i == j ? 1 : shared));
    }
    const auto fit = FitFormula(base.machine, base.set, start, prior, Pointers({rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(count)}), options);
    EXPECT_TRUE(fit.ok()) << fit.status();
    return std::log(fit->params.t0.value() / t0) / std::log(1.3);
  };
  EXPECT_NEAR(moved(1, 0), 0.5, 0.06);
  EXPECT_NEAR(moved(8, 0), 8.0 / 9, 0.06);
  EXPECT_NEAR(moved(8, 0.999), moved(1, 0), 0.02);
  FormulaFitOptions wrong;
  wrong.covariance = {1, 0, 0};
  EXPECT_FALSE(FitFormula(base.machine, base.set, start, prior, Pointers(rows), wrong).ok());
}

TEST(BorrowedTreesTest, ARowMovesTheLeavesItFallsInto) {
  // One tree: -0.1 below 4, 0.1 above. Leaves have variance 0.01, a row 0.0025: a row says 0.3 and moves its leaf four
  // fifths of the way there, the other one not at all.
  ResidualTrees trees;
  trees.depth = 1;
  trees.edges.resize(2);
  trees.edges[0].low = 0, trees.edges[0].high = 8;
  trees.edges[0].Add(2048);
  const int code = ResidualTrees::LeafScaleCode(0.1);
  const double leaf = ResidualTrees::LeafScale(code);
  trees.Add({{{0, 0}}, {-leaf, leaf}}, code);
  BorrowOptions options;
  options.weight = 1, options.weight_spread = 0, options.leaf_spread = 0.1 / leaf, options.noise = 0.05;
  const BorrowedTrees borrowed(trees, options);
  TreeSample row;
  row.features[0] = 6;
  row.target = 0.3;
  const ResidualTrees moved = borrowed.Given({row});
  EXPECT_NEAR(moved.Eval(std::array{5.0, 0.0}), leaf + 0.8 * (0.3 - leaf), 0.003);   // scales are in steps of 1 %
  EXPECT_NEAR(moved.Eval(std::array{1.0, 0.0}), -leaf, 1e-6);
  // Two rows in one leaf share its variance, two in different ones nothing.
  Features low{}, high{};
  low[0] = 1, high[0] = 6;
  EXPECT_NEAR(borrowed.Covariance({high, high})[1], 0.01, 1e-9);
  EXPECT_NEAR(borrowed.Covariance({low, high})[1], 0, 1e-12);
  EXPECT_NEAR(borrowed.Covariance({low, high})[0], 0.0125, 1e-9);
}

TEST(FitTreesTest, LearnAStepAndNothingElse) {
  Rng rng(3, "trees");
  std::vector<TreeSample> samples;
  for (int i = 0; i < 600; ++i) {
    TreeSample s;
    s.features[0] = rng.Uniform(0, 10);
    s.features[1] = rng.Uniform(0, 10);
    s.target = s.features[0] < 4 ? 0.2 : -0.1;
    samples.push_back(s);
  }
  TreeFitOptions options;
  options.trees = 60;
  const ResidualTrees trees = FitTrees(samples, 2, {0}, options);
  EXPECT_NEAR(trees.Eval(std::array{2.0, 1.0}), 0.2, 0.02);
  EXPECT_NEAR(trees.Eval(std::array{7.0, 9.0}), -0.1, 0.02);
  // Ten octaves beyond the data a hundredth is left.
  EXPECT_NEAR(trees.Eval(std::array{20.0, 5.0}), -0.1 / 101, 0.002);
}

TEST(FitTreesTest, PassesTakeBackWhatTheRateHeldBack) {
  // One tree of one question: a step of 0.2 and -0.2 at 400 samples a side. Boosting takes a quarter of it, short of the
  // ridge's two samples; a pass afterwards all of it, short of its ridge's ten.
  std::vector<TreeSample> samples(800);
  for (size_t i = 0; i < samples.size(); ++i) {
    samples[i].features[0] = static_cast<double>(i % 2);
    samples[i].target = i % 2 == 0 ? 0.2 : -0.2;
  }
  TreeFitOptions options;
  options.trees = 1, options.depth = 1, options.feature_share = 1.1, options.least_clip = 1;
  options.passes = 0;
  EXPECT_NEAR(FitTrees(samples, 1, {}, options).Eval(std::array{0.0}), options.rate * 0.2 * 400 / 402, 0.001);
  options.passes = 1;
  EXPECT_NEAR(FitTrees(samples, 1, {}, options).Eval(std::array{0.0}), 0.2 * 400 / 410, 0.002);
}

TEST(FitTreesTest, ChoosesAsManyTreesAsHeldOutRowsGainFrom) {
  // A step is learnt by a handful of trees; noise that no feature tells is not worth one.
  Rng rng(5, "trees");
  std::vector<TreeSample> step(600), noise(600);
  for (size_t i = 0; i < step.size(); ++i) {
    step[i].features[0] = noise[i].features[0] = rng.Uniform(0, 10);
    step[i].target = step[i].features[0] < 4 ? 0.2 : -0.1;
    noise[i].target = 0.05 * rng.Normal();
  }
  TreeFitOptions options;
  options.trees = 100;
  const int steps = ChooseTrees(step, 1, options, 0.02).trees;
  EXPECT_GE(steps, 3);
  EXPECT_LT(steps, 60);
  EXPECT_LT(ChooseTrees(noise, 1, options, 0.02).trees, steps);
}

TEST(FitTreesTest, TooFewSamplesGiveNoTrees) {
  EXPECT_TRUE(FitTrees(std::vector<TreeSample>(19), 2, {}, {}).empty());
}

TEST(FitCurvesTest, KeepPointsThatALineDoesNotReplace) {
  // t = 10 us up to 1024 bytes, then proportional: two straight pieces in log-log.
  std::vector<CurvePoint> points;
  for (double size = 64; size <= 65536; size *= 2) points.push_back({4, size, 10e-6 * std::max(1.0, size / 1024)});
  const std::vector<OperatorCurve> curves = FitCurves(points);
  ASSERT_EQ(curves.size(), 1u);
  EXPECT_EQ(curves[0].key, 4);
  EXPECT_THAT(curves[0].at, ::testing::ElementsAre(64, 1024, 65536));
  EXPECT_NEAR(curves[0].time[2].value(), 640e-6, 1e-9);
}

TEST(FitCurvesTest, TimesDoNotFallWithSize) {
  const std::vector<OperatorCurve> curves = FitCurves({{2, 100, 4e-6}, {2, 1000, 9e-6}, {2, 10000, 4e-6}, {2, 100000, 16e-6}});
  ASSERT_EQ(curves.size(), 1u);
  EXPECT_TRUE(std::is_sorted(curves[0].time.begin(), curves[0].time.end(), [](Seconds a, Seconds b) { return a.value() < b.value() - 1e-15; }));
  // 9 and 4 us meet at their geometric mean.
  EXPECT_NEAR(curves[0].time[1].value(), 6e-6, 1e-10);
}

TEST(FitJointCurvesTest, APointThatWasNotMeasuredIsKnownFromRelatives) {
  // Two operators whose library changes protocol between 512 KB and 1 MB: the time jumps to three times the formula. The
  // second, twice as slow, was not measured from 128 KB to 4 MB: a line through its own points would have no jump.
  const auto formula = [](double, double size) { return 5e-6 + size / 100e9; };
  const auto time = [&](double size) { return formula(8, size) * (size < 768e3 ? 1 : 3); };
  CurveTask first, second;
  first.kind = "all_gather", second.kind = "reduce_scatter";
  first.buffer_over_size = second.buffer_over_size = [](double) { return 1.0; };
  first.formula = second.formula = formula;
  for (double size = 1024; size <= 1 << 26; size *= 2) {
    for (const double ranks : {4.0, 8.0}) first.points.push_back({ranks, size, time(size)});
    if (size < 100e3 || size > 5e6) second.points.push_back({8, size, 2 * time(size)});
  }
  CurveCovariance covariance;
  const auto curves = FitJointCurves({first, second}, &covariance);
  EXPECT_TRUE(covariance.known);
  ASSERT_EQ(curves.size(), 2u);
  EXPECT_EQ(curves[0].size(), 2u);      // 4 and 8 ranks
  ASSERT_EQ(curves[1].size(), 1u);
  const OperatorCurve& joint = curves[1][0];
  EXPECT_EQ(joint.key, 8);
  const auto at = [](const OperatorCurve& curve, double size) {
    const size_t i = static_cast<size_t>(std::upper_bound(curve.at.begin(), curve.at.end(), size * 1.001) - curve.at.begin());
    if (i == curve.at.size()) return curve.time.back().value();
    const double w = std::log(size / curve.at[i - 1]) / std::log(curve.at[i] / curve.at[i - 1]);
    return std::exp((1 - w) * std::log(curve.time[i - 1].value()) + w * std::log(curve.time[i].value()));
  };
  for (const double size : {262144.0, 524288.0, 1048576.0, 2097152.0}) EXPECT_NEAR(at(joint, size) / (2 * time(size)), 1, 0.2) << size;
  // Alone, the second has a slope where there is a step.
  CurveCovariance alone;
  const OperatorCurve own = FitJointCurves({second}, &alone)[0][0];
  EXPECT_GT(at(own, 524288), 1.5 * 2 * time(524288));
}

TEST(FitJointCurvesTest, ManyPointsAreFollowed) {
  CurveTask task;
  task.kind = "all_reduce";
  task.buffer_over_size = [](double) { return 1.0; };
  task.formula = [](double, double size) { return 4e-6 + size / 300e9; };
  for (double size = 1024; size <= 1 << 24; size *= 2) task.points.push_back({2, size, 1.3 * task.formula(2, size)});
  CurveCovariance covariance;
  const OperatorCurve curve = FitJointCurves({task}, &covariance)[0][0];
  for (size_t i = 0; i < curve.at.size(); ++i) {
    EXPECT_NEAR(curve.time[i].value() / (1.3 * task.formula(2, curve.at[i])), 1, 0.02);
  }
}

TEST(CalibrateTest, WritesAnEntryThatReadsBackToTheSameTimes) {
  const DeviceBase base = H100();
  const std::vector<OpRow> rows = GemmRows(base.machine, 300, 0.05, 4);
  CalibrationOptions options;
  options.trees.trees = 20;
  const auto fitted = Calibrate(base, rows, AllEntries(), options);
  ASSERT_TRUE(fitted.ok()) << fitted.status();
  ASSERT_EQ(fitted->reports.size(), 1u);
  EXPECT_LT(fitted->reports[0].by_row.mape, 0.07);   // of 5 % noise: 4 % mean error at best
  const std::filesystem::path dir = std::filesystem::path(::testing::TempDir()) / "calibrated";
  std::filesystem::create_directories(dir / "operators");
  std::ofstream(dir / "operators" / "mine.yaml") << OperatorFileYaml(fitted->file, "test");
  Catalog catalog = AllEntries();
  ASSERT_TRUE(catalog.AddDirectory(dir.string()).ok());
  const auto set = LoadOperatorParams("mine", catalog);
  ASSERT_TRUE(set.ok()) << set.status();
  const auto pricer = OperatorPricer::Create(base.machine, std::make_shared<const OperatorParamSet>(*set), "", rows);
  ASSERT_TRUE(pricer.ok()) << pricer.status();
  const auto direct = OperatorPricer::Create(base.machine, WithEntry(base.set, fitted->file.operators.front()), "", rows);
  ASSERT_TRUE(direct.ok()) << direct.status();
  for (size_t i = 0; i < 50; ++i) {
    const double t = *direct->Price(rows[i]).seconds;
    EXPECT_NEAR(*pricer->Price(rows[i]).seconds, t, 1e-4 * t);
  }
}

TEST(CalibrateTest, LeavesAnEntrySetByHandAsItIs) {
  DeviceBase base = H100();
  const auto gemm = [](OperatorFile& file) -> OperatorParams& {
    return *std::find_if(file.operators.begin(), file.operators.end(), [](const OperatorParams& p) {
      return p.op == "gemm" && p.dtype == "bf16" && p.backend == "vllm";
    });
  };
  gemm(base.file).hold = true;
  gemm(base.file).ec = 0.4321;
  CalibrationOptions options;
  options.cross_validate = false;
  const auto held = Calibrate(base, GemmRows(base.machine, 100, 0.05, 4), AllEntries(), options);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(held->reports.at(0).skipped, "its entry is set by hand (`hold`)");
  EXPECT_EQ(held->file.operators.size(), base.file.operators.size());
  Calibration copy = *held;
  EXPECT_EQ(gemm(copy.file).ec, 0.4321);
  EXPECT_NE(OperatorFileYaml(held->file, "").find("ec: 0.4321, "), std::string::npos);
  EXPECT_NE(OperatorFileYaml(held->file, "").find("hold: true"), std::string::npos);
}

TEST(ReadOpsTest, ReadsRowsAndTellsKernelsApart) {
  const std::string path = Write("ops.csv",
                                 "op,dtype,bytes,n_ranks,time_us,source\n"
                                 "allreduce_custom,bf16,1024,8,4.5,aic-vllm0.24.0:vLLM_custom_graph\n"
                                 "allreduce_custom,bf16,1024,8,22,aic-vllm0.24.0:vLLM_custom_eager\n"
                                 "alltoall,bf16,1024,4,9,aic-nccl2.27.3\n"
                                 "frobnicate,bf16,1024,4,9,mine\n");
  const auto table = ReadOps({path}, AllEntries());
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->rows.size(), 4u);
  EXPECT_EQ(table->rows[0].op, "custom_all_reduce");
  EXPECT_EQ(table->rows[0].backend, "vllm");
  EXPECT_EQ(table->rows[0].version, "0.24.0");
  EXPECT_EQ(table->rows[1].backend, "vllm-eager");
  EXPECT_EQ(table->rows[2].work.bytes, 1024 * 3 / 4.0);   // a rank keeps a quarter
  EXPECT_THAT(table->rows[3].problem, ::testing::HasSubstr("frobnicate"));
}

TEST(ReadOpsTest, ExpertsFasterThanThreeMatricesCanBeReadHaveTwo) {
  const GpuSpec gpu = ChooseDevice("h100-sxm-80gb", AllEntries())->machine.gpu;
  // 64 tokens on 16 experts of 4096 x 14336: all matrices are read, at 90 % of the bandwidth. Two shapes, the second without gates.
  const auto micros = [&](double matrices, double inter) { return 1e6 * 16 * matrices * 4096 * inter * 2 / (0.9 * gpu.memory_bandwidth.value()); };
  std::string text = "op,dtype,tokens,hidden,inter,topk,experts,tp,ep,dist,time_us,source\n";
  for (const int tokens : {64, 96, 128}) {
    text += fmt::format("moe,bf16,{},4096,14336,2,16,1,1,bal,{:.2f},aic-vllm0.24.0\n", tokens, micros(3, 14336));
    text += fmt::format("moe,bf16,{},4096,12288,2,16,1,1,bal,{:.2f},aic-vllm0.24.0\n", tokens, micros(2, 12288));
  }
  auto table = ReadOps({Write("ungated.csv", text)}, AllEntries());
  ASSERT_TRUE(table.ok()) << table.status();
  FindUngatedExperts(gpu, &table->rows);
  for (const OpRow& row : table->rows) EXPECT_EQ(row.work.gated, row.work.inter == 14336) << row.group;
}

TEST(ReadOpsTest, NamesEveryBadCell) {
  const std::string path = Write("bad_ops.csv", "op,dtype,m,n,k,time_us,source\ngemm,bf16,0,5,x,3,a\ngemm,bf16,1,1,1.5,-1,a\n");
  const auto table = ReadOps({path}, AllEntries());
  ASSERT_FALSE(table.ok());
  const std::string message(table.status().message());
  for (const char* part : {":2:1: m:", ":2:1: k:", ":3:1: k:", ":3:1: time_us:"}) EXPECT_THAT(message, ::testing::HasSubstr(part));
  EXPECT_THAT(std::string(ReadOps({Write("no_time.csv", "op,m\ngemm,1\n")}, AllEntries()).status().message()),
              ::testing::HasSubstr("column \"time_us\" is missing"));
}

TEST(LoadDeviceBaseTest, TellsWhatItNeeds) {
  EXPECT_FALSE(LoadDeviceBase("h1000", AllEntries()).ok());
  const std::string path = Write("gpu.yaml", "vendor: nvidia\n");
  EXPECT_THAT(std::string(LoadDeviceBase(path, AllEntries()).status().message()), ::testing::HasSubstr("operators"));
}

}  // namespace
}  // namespace simrun
