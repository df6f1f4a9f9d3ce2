#include "base/rng.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include <boost/math/distributions/chi_squared.hpp>
#include <boost/math/distributions/exponential.hpp>
#include <boost/math/distributions/gamma.hpp>
#include <boost/math/distributions/lognormal.hpp>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/uniform.hpp>
#include <boost/math/distributions/weibull.hpp>
#include <gtest/gtest.h>

namespace simrun {
namespace {

// Statistical tests: false-alarm rate at most 1e-6 each for a random seed (the seeds are fixed, so a failure is a change).
constexpr double kFalseAlarm = 1e-6;
constexpr double kSigmas = 4.9;  // two-sided normal tail 9.6e-7

TEST(Ln, IsWithinAnUlp) {
  Rng rng(1, "ln");
  double worst = 0;
  const auto check = [&](double x) {
    const long double exact = std::log(static_cast<long double>(x));
    if (exact == 0) {
      EXPECT_EQ(Ln(x), 0);
      return;
    }
    worst = std::max(worst, static_cast<double>(std::fabs((Ln(x) - exact) / exact)));
  };
  for (int i = 0; i < 300'000; ++i) {
    check(rng.Uniform() + 0x1p-60);            // what the samplers ask for
    check(1 + (rng.Uniform() - 0.5) * 1e-3);   // near 1, where the logarithm is small
    check(rng.Uniform(0.5, 2));                // across the change of exponent
    check(std::ldexp(1 + rng.Uniform(), static_cast<int>(rng.Below(2000)) - 1000));
  }
  for (const double x : {5e-324, 1e-310, 2.2250738585072014e-308, 1.7976931348623157e308, 1.0, 0.5, 2.0, 1 + 0x1p-52,
                         1 - 0x1p-53, 1.4142135623730951, 0.7071067811865476}) {
    check(x);
  }
  EXPECT_LE(worst, 3e-16);
  EXPECT_GT(worst, 5e-17);  // the comparison is with a finer reference
}

TEST(Exp, IsWithinItsStatedError) {
  Rng rng(1, "exp");
  double worst = 0;
  const auto check = [&](double x) {
    const long double exact = std::exp(static_cast<long double>(x));
    worst = std::max(worst, static_cast<double>(std::fabs((Exp(x) - exact) / exact)));
  };
  for (int i = 0; i < 300'000; ++i) {
    check(rng.Uniform(-700, 700));
    check(rng.Uniform(-1, 1));
    check(rng.Uniform(-1e-6, 1e-6));
  }
  for (const double x : {0.0, 1.0, -1.0, 700.0, -700.0, 0.34657359027997264, -0.34657359027997264}) check(x);
  EXPECT_LE(worst, 1e-15);  // ten times better than promised
  EXPECT_EQ(Exp(0), 1);
  EXPECT_EQ(Exp(800), Exp(700));
  EXPECT_EQ(Exp(-800), Exp(-700));
}

TEST(LnExp, BitsAreFixed) {
  // A compiler flag that reorders or fuses arithmetic (-ffast-math, FMA contraction) would change these.
  EXPECT_EQ(Ln(0.1), -0x1.26bb1bbb55515p+1);
  EXPECT_EQ(Ln(3), 0x1.193ea7aad030ap+0);
  EXPECT_EQ(Exp(1), 0x1.5bf0a8b14576ap+1);
}

// Computed by a separate program from the definitions of FNV-1a, splitmix64 and xoshiro256++.
TEST(Rng, FirstBitsOfNamedStreams) {
  struct Golden {
    uint64_t seed;
    const char* stream;
    uint64_t entity;
    uint64_t bits[4];
  };
  const Golden cases[] = {
      {1, "arrivals", 0, {0xb3431bf9ccfe2864, 0x4813a7982f92465f, 0xaa2e529f47818dd0, 0xe75da68b6571cf37}},
      {1, "arrivals", 1, {0x96356bdf276079c4, 0x203b8a1de2d82b47, 0x0822aa192ef1721b, 0x0f6949ba257a501d}},
      {2, "arrivals", 0, {0x38ba7a8ef0d4072d, 0xa27e7278bfd6449b, 0x9d93b386ff08a760, 0x0a3805550393b995}},
      {1, "lengths", 0, {0x1ca3c1603494a91f, 0x4036620c384c7d5f, 0x8fd0ecd87063b784, 0x9af29eae088d6552}},
      {0, "", 0, {0x8f5ec3402c9fbb1c, 0x2d0c2dbe7986cff3, 0x762b321b61aded4f, 0x27ba96c9a45eda1a}},
  };
  for (const Golden& g : cases) {
    Rng rng(g.seed, g.stream, g.entity);
    for (const uint64_t bits : g.bits) EXPECT_EQ(rng.NextBits(), bits) << g.stream << " " << g.entity;
  }
}

TEST(Rng, FirstDrawsOfEachDistribution) {
  // Likewise, with the transformation methods of the documentation and a library logarithm.
  EXPECT_NEAR(Rng(1, "e").Exponential(2.5), 0.2660333933605501, 1e-15);
  EXPECT_NEAR(Rng(1, "n").Normal(), 0.008737997001198346, 1e-17);
  EXPECT_NEAR(Rng(1, "n").LogNormal(1, 0.5), 2.730183978998224, 1e-14);
  EXPECT_NEAR(Rng(1, "w").Weibull(1.5, 3), 7.135238821902855, 1e-14);
  // The same to the last bit, on every machine.
  EXPECT_EQ(Rng(1, "e").Exponential(2.5), 0x1.106b0ed082868p-2);
  EXPECT_EQ(Rng(1, "n").Normal(), 0x1.1e53a1ad250b1p-7);
  EXPECT_EQ(Rng(1, "n").LogNormal(1, 0.5), 0x1.5d76ab2aee25ap+1);
  EXPECT_EQ(Rng(1, "g").Gamma(2.5, 3), 0x1.e0e0d5fe3e7bfp+3);
  EXPECT_EQ(Rng(1, "w").Weibull(1.5, 3), 0x1.c8a7c0bb4e3abp+2);
  EXPECT_EQ(Rng(1, "arrivals").Uniform(), static_cast<double>(0xb3431bf9ccfe2864 >> 11) / 0x1p53);
  Rng below(1, "arrivals");
  EXPECT_EQ(below.Below(1000), static_cast<uint64_t>((static_cast<long double>(0xb3431bf9ccfe2864) * 1000) / 0x1p64L));
}

TEST(Rng, NamesSeedsAndEntitiesAllMatter) {
  std::set<uint64_t> first;
  for (uint64_t entity = 0; entity < 10'000; ++entity) first.insert(Rng(1, "replica", entity).NextBits());
  for (uint64_t seed = 2; seed < 10'000; ++seed) first.insert(Rng(seed, "replica").NextBits());
  for (const char* name : {"a", "b", "ab", "ba", "a ", ""}) first.insert(Rng(1, name).NextBits());
  EXPECT_EQ(first.size(), 10'000 + 9'998 + 6u);
}

TEST(Rng, StreamsAreUncorrelated) {
  // Correlation of neighbours (entities, seeds, names) over n draws has standard deviation 1 / sqrt(n).
  constexpr int kDraws = 100'000;
  const std::pair<Rng, Rng> pairs[] = {{Rng(1, "a", 0), Rng(1, "a", 1)},
                                       {Rng(1, "a", 0), Rng(2, "a", 0)},
                                       {Rng(1, "a", 0), Rng(1, "b", 0)},
                                       {Rng(1, "a", 1), Rng(2, "a", 0)}};
  for (auto [x, y] : pairs) {
    double sum = 0;
    for (int i = 0; i < kDraws; ++i) sum += (x.Uniform() - 0.5) * (y.Uniform() - 0.5) * 12;
    EXPECT_LT(std::fabs(sum / kDraws), kSigmas / std::sqrt(kDraws));
  }
}

TEST(Rng, ACopyContinuesTheSameSequence) {
  Rng a(1, "copy");
  a.Normal();  // leaves a second normal in hand
  Rng b = a;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Normal(), b.Normal());
}

TEST(Rng, BelowIsUniform) {
  for (const uint64_t n : {uint64_t{1}, uint64_t{2}, uint64_t{6}, uint64_t{1000}}) {
    constexpr int kDraws = 200'000;
    Rng rng(5, "below", n);
    std::vector<double> seen(n);
    for (int i = 0; i < kDraws; ++i) {
      const uint64_t x = rng.Below(n);
      ASSERT_LT(x, n);
      ++seen[x];
    }
    if (n == 1) continue;
    const double expected = static_cast<double>(kDraws) / static_cast<double>(n);
    double chi_squared = 0;
    for (const double s : seen) chi_squared += (s - expected) * (s - expected) / expected;
    EXPECT_LT(chi_squared, boost::math::quantile(boost::math::complement(
                               boost::math::chi_squared(static_cast<double>(n - 1)), kFalseAlarm)));
  }
  // Three quarters of 2^64: multiplication without rejection would favour every third result twofold.
  Rng rng(6, "below");
  const uint64_t n = uint64_t{3} << 62;
  int low = 0;
  for (int i = 0; i < 100'000; ++i) low += rng.Below(n) % 3 == 0 ? 1 : 0;
  EXPECT_NEAR(low, 100'000.0 / 3, kSigmas * std::sqrt(100'000.0 * 2 / 9));
}

// Largest distance between the empirical distribution and `cdf`, times sqrt(n).
double KolmogorovSmirnov(std::vector<double> x, const std::function<double(double)>& cdf) {
  std::sort(x.begin(), x.end());
  const auto n = static_cast<double>(x.size());
  double distance = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double f = cdf(x[i]);
    distance = std::max({distance, f - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - f});
  }
  return distance * std::sqrt(n);
}

TEST(Rng, DistributionsFollowTheirFormulas) {
  struct Case {
    const char* name;
    std::function<double(Rng&)> draw;
    std::function<double(double)> cdf;
    double mean, variance, excess_kurtosis;
  };
  namespace bm = boost::math;
  std::vector<Case> cases = {
      {"uniform", [](Rng& r) { return r.Uniform(); }, [](double x) { return x; }, 0.5, 1.0 / 12, -1.2},
      {"exponential", [](Rng& r) { return r.Exponential(2.5); },
       [](double x) { return bm::cdf(bm::exponential(1 / 2.5), x); }, 2.5, 6.25, 6},
      {"normal", [](Rng& r) { return r.Normal(); }, [](double x) { return bm::cdf(bm::normal(), x); }, 0, 1, 0},
  };
  for (const double sigma : {0.25, 0.5}) {
    const double s2 = sigma * sigma;
    cases.push_back({"lognormal", [=](Rng& r) { return r.LogNormal(1, sigma); },
                     [=](double x) { return bm::cdf(bm::lognormal(1, sigma), x); }, std::exp(1 + s2 / 2),
                     (std::exp(s2) - 1) * std::exp(2 + s2),
                     std::exp(4 * s2) + 2 * std::exp(3 * s2) + 3 * std::exp(2 * s2) - 6});
  }
  for (const double shape : {0.2, 0.9, 1.0, 2.5, 40.0}) {
    cases.push_back({"gamma", [=](Rng& r) { return r.Gamma(shape, 3); },
                     [=](double x) { return bm::cdf(bm::gamma_distribution<>(shape, 3), x); }, shape * 3, shape * 9,
                     6 / shape});
  }
  for (const double shape : {0.7, 1.0, 3.0}) {
    const bm::weibull w(shape, 2);
    cases.push_back({"weibull", [=](Rng& r) { return r.Weibull(shape, 2); }, [=](double x) { return bm::cdf(w, x); },
                     bm::mean(w), bm::variance(w), bm::kurtosis_excess(w)});
  }
  // P(sqrt(n) D > c) <= 2 exp(-2 c^2).
  const double critical = std::sqrt(-std::log(kFalseAlarm / 2) / 2);
  constexpr int kDraws = 100'000;
  for (size_t c = 0; c < cases.size(); ++c) {
    const Case& k = cases[c];
    Rng rng(11, "distribution", c);
    std::vector<double> x(kDraws);
    for (double& v : x) v = k.draw(rng);
    EXPECT_LT(KolmogorovSmirnov(x, k.cdf), critical) << k.name << " " << c;
    // Sample mean and variance, with their standard errors from the distribution's own moments.
    double mean = 0, square = 0;
    for (const double v : x) mean += v / kDraws;
    for (const double v : x) square += (v - k.mean) * (v - k.mean) / kDraws;
    EXPECT_NEAR(mean, k.mean, kSigmas * std::sqrt(k.variance / kDraws)) << k.name << " " << c;
    EXPECT_NEAR(square, k.variance, kSigmas * k.variance * std::sqrt((k.excess_kurtosis + 2) / kDraws)) << k.name << " " << c;
  }
}

TEST(Rng, ConsecutiveNormalsAreUncorrelated) {
  Rng rng(12, "pairs");
  constexpr int kDraws = 100'000;
  double sum = 0, last = rng.Normal();
  for (int i = 0; i < kDraws; ++i) {
    const double next = rng.Normal();
    sum += last * next;
    last = next;
  }
  EXPECT_LT(std::fabs(sum / kDraws), kSigmas / std::sqrt(kDraws));
}

TEST(Rng, ExtremeShapesStayFinite) {
  Rng rng(13, "extreme");
  for (int i = 0; i < 10'000; ++i) {
    for (const double x : {rng.Gamma(1e-3, 1), rng.Gamma(1e6, 1), rng.Weibull(1e-2, 1), rng.Weibull(1e3, 1),
                           rng.LogNormal(0, 100), rng.Exponential(0)}) {
      ASSERT_TRUE(std::isfinite(x) && x >= 0) << x;
    }
  }
}

TEST(DiscreteSampler, FollowsTheWeights) {
  const std::vector<std::vector<double>> weight_sets = {
      {1}, {1, 1}, {1, 2, 3, 4}, {0, 1, 0, 5, 0}, {1e-9, 1, 1e-9}, {100, 1, 1, 1, 1, 1, 1, 1}};
  for (const std::vector<double>& weights : weight_sets) {
    const DiscreteSampler sampler(weights);
    Rng rng(14, "discrete", weights.size());
    constexpr int kDraws = 100'000;
    std::vector<int> seen(weights.size());
    for (int i = 0; i < kDraws; ++i) {
      const size_t drawn = sampler.Draw(rng);
      ASSERT_LT(drawn, weights.size());
      ++seen[drawn];
    }
    double sum = 0;
    for (const double w : weights) sum += w;
    for (size_t i = 0; i < weights.size(); ++i) {
      const double p = weights[i] / sum;
      EXPECT_NEAR(seen[i], p * kDraws, kSigmas * std::sqrt(p * (1 - p) * kDraws) + 1) << i;
      if (weights[i] == 0) {
        EXPECT_EQ(seen[i], 0);
      }
    }
  }
}

}  // namespace
}  // namespace simrun
