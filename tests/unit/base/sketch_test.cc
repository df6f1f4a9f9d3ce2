#include "base/sketch.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include <gtest/gtest.h>

#include "base/rng.h"

namespace simrun {
namespace {

using namespace literals;

// The value at rank ceil(q n) of a sorted list: what the sketch approximates.
double ExactQuantile(const std::vector<int64_t>& sorted, double q) {
  const auto n = static_cast<double>(sorted.size());
  const double rank = std::ceil(q * n * (1 - 1e-15));
  return static_cast<double>(sorted[static_cast<size_t>(std::max(rank, 1.0)) - 1]) / SimTime::kTicksPerSecond;
}

const double kQuantiles[] = {0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1};

struct Shape {
  const char* name;
  std::function<double(Rng&)> draw;  // seconds
};

const Shape kShapes[] = {
    {"uniform", [](Rng& r) { return r.Uniform(0, 2); }},
    {"exponential", [](Rng& r) { return r.Exponential(0.05); }},
    {"lognormal", [](Rng& r) { return r.LogNormal(-3, 2); }},
    {"constant", [](Rng&) { return 0.0184; }},
    {"two points", [](Rng& r) { return r.Below(100) < 98 ? 0.01 : 30.0; }},
    {"heavy tail", [](Rng& r) { return 1e-3 / (1 - r.Uniform()); }},
    {"few ticks", [](Rng& r) { return static_cast<double>(r.Below(3000)) * 1e-10; }},
};

TEST(QuantileSketch, QuantilesAreWithinTheStatedError) {
  for (const Shape& shape : kShapes) {
    Rng rng(7, shape.name);
    QuantileSketch sketch;
    std::vector<int64_t> values;
    for (int i = 0; i < 50'000; ++i) {
      const SimTime t = SimTime::From(Seconds(shape.draw(rng)));
      values.push_back(t.ticks());
      sketch.Add(t);
    }
    std::sort(values.begin(), values.end());
    for (const double q : kQuantiles) {
      const double exact = ExactQuantile(values, q);
      EXPECT_NEAR(sketch.Quantile(q).value(), exact, exact * QuantileSketch::kRelativeError) << shape.name << " q=" << q;
    }
    EXPECT_EQ(sketch.Min().value(), ExactQuantile(values, 0)) << shape.name;
    EXPECT_EQ(sketch.Max().value(), ExactQuantile(values, 1)) << shape.name;
    EXPECT_EQ(sketch.count(), values.size());
    const auto sum = std::accumulate(values.begin(), values.end(), int64_t{0});
    EXPECT_DOUBLE_EQ(sketch.Mean().value(), static_cast<double>(sum) / 50'000 / 1e10) << shape.name;
    EXPECT_DOUBLE_EQ(sketch.Sum().value(), static_cast<double>(sum) / 1e10) << shape.name;
    // Fractions: everything at or below the limit counts, and nothing above limit * (1 + one bucket).
    for (const double q : kQuantiles) {
      const double limit = ExactQuantile(values, q);
      const auto at_most = [&](double seconds) {
        const int64_t ticks = SimTime::From(Seconds(seconds)).ticks();
        return static_cast<double>(std::upper_bound(values.begin(), values.end(), ticks) - values.begin()) / 50'000;
      };
      EXPECT_GE(sketch.FractionBelow(Seconds(limit)), at_most(limit)) << shape.name << " q=" << q;
      EXPECT_LE(sketch.FractionBelow(Seconds(limit)), at_most(limit * (1 + 1.0 / 512) + 1e-10)) << shape.name << " q=" << q;
    }
  }
}

TEST(QuantileSketch, TheErrorBoundIsTight) {
  // Three values, the middle one at the lower end of its bucket: 2^30 ticks; the bucket is 2^21 wide.
  QuantileSketch sketch;
  sketch.Add(SimTime::FromTicks(1));
  sketch.Add(SimTime::FromTicks(int64_t{1} << 30));
  sketch.Add(SimTime::FromTicks(int64_t{1} << 40));
  const double middle = sketch.Quantile(0.5).value() * SimTime::kTicksPerSecond;
  EXPECT_NEAR(middle, 0x1p30 + 0x1p20, 1);
}

TEST(QuantileSketch, SmallTicksAreExact) {
  for (int64_t ticks = 0; ticks < 1024; ++ticks) {
    QuantileSketch sketch;
    sketch.Add(SimTime::FromTicks(0));
    sketch.Add(SimTime::FromTicks(ticks), 3);
    sketch.Add(SimTime::FromTicks(5000));
    ASSERT_EQ(sketch.Quantile(0.6).value(), static_cast<double>(ticks) / SimTime::kTicksPerSecond) << ticks;
  }
}

TEST(QuantileSketch, RanksFollowTheDecimalMeant) {
  // 0.07 * 100 is 7.000000000000001 in binary; the rank is 7.
  QuantileSketch sketch;
  for (int i = 1; i <= 100; ++i) sketch.Add(SimTime::FromTicks(i));
  for (int percent = 1; percent <= 100; ++percent) {
    EXPECT_EQ(std::llround(sketch.Quantile(percent / 100.0).value() * SimTime::kTicksPerSecond), percent);
  }
  EXPECT_EQ(std::llround(sketch.Quantile(0.071).value() * SimTime::kTicksPerSecond), 8);
}

TEST(QuantileSketch, EmptyAndClippedArguments) {
  const QuantileSketch empty;
  EXPECT_EQ(empty.count(), 0u);
  EXPECT_EQ(empty.Mean().value(), 0);
  EXPECT_EQ(empty.Min().value(), 0);
  EXPECT_EQ(empty.Max().value(), 0);
  EXPECT_EQ(empty.Quantile(0.5).value(), 0);
  EXPECT_EQ(empty.FractionBelow(1_s), 1);
  QuantileSketch one;
  one.Add(SimTime::FromTicks(-5));  // a negative duration counts as 0
  EXPECT_EQ(one.Max().value(), 0);
  EXPECT_EQ(one.Quantile(-1).value(), 0);
  EXPECT_EQ(one.Quantile(2).value(), 0);
}

TEST(QuantileSketch, OneConstantGivesThatConstantEverywhere) {
  QuantileSketch sketch;
  sketch.Add(SimTime::From(18.4_ms), 1000);
  for (const double q : kQuantiles) EXPECT_EQ(sketch.Quantile(q).value(), 0.0184);
  EXPECT_EQ(sketch.FractionBelow(18.4_ms), 1);
  EXPECT_EQ(sketch.FractionBelow(18.3_ms), 0);
}

void ExpectSame(const QuantileSketch& a, const QuantileSketch& b) {
  EXPECT_EQ(a.count(), b.count());
  EXPECT_EQ(a.Mean().value(), b.Mean().value());
  EXPECT_EQ(a.Sum().value(), b.Sum().value());
  EXPECT_EQ(a.Min().value(), b.Min().value());
  EXPECT_EQ(a.Max().value(), b.Max().value());
  for (const double q : kQuantiles) EXPECT_EQ(a.Quantile(q).value(), b.Quantile(q).value());
  for (const double s : {1e-9, 1e-3, 0.1, 1.0, 10.0}) {
    EXPECT_EQ(a.FractionBelow(Seconds(s)), b.FractionBelow(Seconds(s)));
  }
}

TEST(QuantileSketch, MergingIsTheSameAsAddingAll) {
  Rng rng(3, "merge");
  QuantileSketch all, small, large;
  for (int i = 0; i < 20'000; ++i) {
    const SimTime t = SimTime::From(Seconds(rng.LogNormal(-2, 1.5)));
    all.Add(t);
    (t < 100_ms ? small : large).Add(t);  // parts with different ranges, so bucket counts differ in length
  }
  QuantileSketch one = small, two = large;
  one.Merge(large);
  two.Merge(small);
  ExpectSame(one, all);
  ExpectSame(two, all);
  one.Merge(QuantileSketch());
  ExpectSame(one, all);
  QuantileSketch from_empty;
  from_empty.Merge(all);
  ExpectSame(from_empty, all);
}

TEST(QuantileSketch, WeightIsTheSameAsRepetition) {
  Rng rng(4, "weight");
  QuantileSketch weighted, repeated;
  for (int i = 0; i < 500; ++i) {
    const SimTime t = SimTime::From(Seconds(rng.Exponential(0.3)));
    const uint64_t weight = rng.Below(20);
    if (weight == 0) continue;
    weighted.Add(t, weight);
    for (uint64_t k = 0; k < weight; ++k) repeated.Add(t);
  }
  ExpectSame(weighted, repeated);
}

TEST(QuantileSketch, AWeightOfZeroAddsNothing) {
  QuantileSketch sketch;
  sketch.Add(SimTime::From(1_s));
  sketch.Add(SimTime::From(5_s), 0);
  sketch.Add(SimTime::From(1_ms), 0);
  EXPECT_EQ(sketch.Max().value(), 1);
  EXPECT_EQ(sketch.Min().value(), 1);
}

TEST(QuantileSketch, TheMeanIsExactAndIndependentOfTheOrder) {
  // Ten million durations near ten million seconds: a running double sum would lose the tenths of nanoseconds.
  QuantileSketch up, down;
  const int64_t base = 100'000'000'000'000'000;
  for (int64_t i = 0; i < 1000; ++i) {
    up.Add(SimTime::FromTicks(base + i), 10'000);
    down.Add(SimTime::FromTicks(base + 999 - i), 10'000);
  }
  const double mean_ticks = static_cast<double>(base) + 499.5;
  EXPECT_EQ(up.Mean().value(), mean_ticks / SimTime::kTicksPerSecond);
  EXPECT_EQ(up.Mean().value(), down.Mean().value());
}

TEST(QuantileSketch, LongestDurationsFit) {
  QuantileSketch sketch;
  sketch.Add(SimTime::Infinite());
  sketch.Add(SimTime::FromTicks(0));
  EXPECT_NEAR(sketch.Max().value(), 0x1p63 / SimTime::kTicksPerSecond, 1);
  EXPECT_EQ(sketch.Quantile(0.5).value(), 0);
}

}  // namespace
}  // namespace simrun
