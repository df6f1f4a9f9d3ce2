// Statistical tests run at fixed seeds. Each bound is 4.4 standard errors, so that a correct sampler would fail one
// check in 90 000 seeds; the file makes about 40 such checks, so a change of seed fails with probability 0.05 %.
#include "workload/distributions.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/unit/workload/testing.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

constexpr double kBound = 4.4;

struct Moments {
  double mean = 0, sd = 0;
  double kurtosis = 0;  // fourth central moment over sd^4
  double n = 0;
  double MeanError() const { return sd / std::sqrt(n); }
  // Of sd/mean for independent values, by the delta method without the covariance of mean and variance, whose sign
  // only makes it smaller for the right-skewed laws here.
  double CvError() const { return sd / mean * (std::sqrt((kurtosis - 1) / n) / 2 + sd / mean / std::sqrt(n)); }
};

Moments MomentsOf(const std::vector<double>& x) {
  Moments m;
  m.n = static_cast<double>(x.size());
  for (const double v : x) m.mean += v / m.n;
  double second = 0, fourth = 0;
  for (const double v : x) {
    const double d = (v - m.mean) * (v - m.mean);
    second += d / m.n;
    fourth += d * d / m.n;
  }
  m.sd = std::sqrt(second);
  m.kurtosis = fourth / (second * second);
  return m;
}

std::vector<double> Gaps(std::string_view arrivals, size_t n, double scale = 1, uint64_t seed = 7) {
  const WorkloadConfig c = Config("{requests: 1, input_tokens: 1, output_tokens: 1, arrivals: " + std::string(arrivals) + "}");
  ArrivalProcess p(*c.arrivals, scale, seed);
  std::vector<double> gaps;
  SimTime last;
  for (size_t i = 0; i < n; ++i) {
    const SimTime at = p.Next();
    gaps.push_back((at - last).seconds().value());
    last = at;
  }
  return gaps;
}

void ExpectRateAndCv(std::string_view arrivals, double rate, double cv, size_t n = 400'000) {
  const Moments m = MomentsOf(Gaps(arrivals, n));
  EXPECT_NEAR(m.mean, 1 / rate, kBound * m.MeanError()) << arrivals;
  EXPECT_NEAR(m.sd / m.mean, cv, kBound * m.CvError()) << arrivals;
}

TEST(SpecialFunctions, AgreeWithTheMathLibrary) {
  for (double x = 1; x < 200; x += 0.37) EXPECT_NEAR(LnGamma(x), std::lgamma(x), 1e-12 * (1 + std::lgamma(x))) << x;
  for (double x = -9; x < 9; x += 0.07) EXPECT_NEAR(NormalCdf(x), 0.5 * std::erfc(-x / std::sqrt(2)), 3e-15) << x;
}

TEST(SpecialFunctions, WeibullShapeGivesTheCv) {
  EXPECT_NEAR(WeibullShape(1), 1, 1e-10);  // the exponential
  for (const double cv : {0.01, 0.3, 2.0, 10.0, 100.0}) {
    const double k = WeibullShape(cv);
    const double log_ratio = std::lgamma(1 + 2 / k) - 2 * std::lgamma(1 + 1 / k);
    EXPECT_NEAR(std::sqrt(std::expm1(log_ratio)), cv, 1e-8 * cv + 1e-10) << cv;
  }
}

TEST(ArrivalProcess, Poisson) {
  ExpectRateAndCv("{poisson: {rate: 4 /s}}", 4, 1);
  // Memoryless: P(gap > 2 means) = e^-2.
  const auto gaps = Gaps("{poisson: {rate: 4 /s}}", 100'000, 1, 8);
  const double share = static_cast<double>(std::count_if(gaps.begin(), gaps.end(), [](double g) { return g > 0.5; })) / 1e5;
  EXPECT_NEAR(share, std::exp(-2), kBound * std::sqrt(0.135 * 0.865 / 1e5));
}

TEST(ArrivalProcess, Gamma) {
  ExpectRateAndCv("{gamma: {rate: 10 /s, cv: 0.5}}", 10, 0.5);
  ExpectRateAndCv("{gamma: {rate: 10 /s, cv: 2}}", 10, 2);
  ExpectRateAndCv("{gamma: {rate: 0.1 /s, cv: 5}}", 0.1, 5);
}

TEST(ArrivalProcess, Weibull) {
  ExpectRateAndCv("{weibull: {rate: 10 /s, cv: 0.5}}", 10, 0.5);
  ExpectRateAndCv("{weibull: {rate: 10 /s, cv: 2}}", 10, 2);
  ExpectRateAndCv("{weibull: {rate: 3 /s, shape: 1}}", 3, 1);
  // shape 1/2: E[X^n] = Gamma(1 + 2n), so cv^2 = 4!/2!^2 - 1 = 5.
  ExpectRateAndCv("{weibull: {rate: 3 /s, shape: 0.5}}", 3, std::sqrt(5), 1'000'000);
}

TEST(ArrivalProcess, OnOffWithSilence) {
  // An interrupted Poisson process is a renewal process: from an arrival (always in a burst) the gap has the transform
  // f(s) = L (s + b) / (s^2 + (L + a + b) s + L b), L = rate_on, a = 1/mean_on, b = 1/mean_off.
  // Its derivatives at 0 give mean (a + b) / (L b) and cv^2 = 1 + 2 L a / (a + b)^2.
  const double rate = 20, a = 1 / 2.0, b = 1 / 3.0;
  ExpectRateAndCv("{onoff: {rate_on: 20 /s, mean_on: 2 s, mean_off: 3 s}}", rate * b / (a + b),
                  std::sqrt(1 + 2 * rate * a / ((a + b) * (a + b))), 1'000'000);
}

TEST(ArrivalProcess, OnOffWithTwoRates) {
  // Long-run count in T: mean L T, variance I L T, with the index of dispersion of the two-state process
  // I = 1 + 2 p q (L1 - L0)^2 / (L (a + b)), p and q the shares of time on and off.
  const double l1 = 30, l0 = 5, a = 1 / 1.0, b = 1 / 4.0;
  const double p = b / (a + b), q = 1 - p, rate = p * l1 + q * l0;
  const double dispersion = 1 + 2 * p * q * (l1 - l0) * (l1 - l0) / (rate * (a + b));
  const size_t n = 400'000;
  const auto gaps = Gaps("{onoff: {rate_on: 30 /s, rate_off: 5 /s, mean_on: 1 s, mean_off: 4 s}}", n);
  double span = 0;
  for (const double g : gaps) span += g;
  EXPECT_NEAR(static_cast<double>(n) / span, rate, kBound * std::sqrt(dispersion * rate / span));
  // Counts in windows of 100 s vary by that index; sample variance of m windows has relative error sqrt(2/m).
  std::map<int64_t, double> counts;
  double at = 0;
  for (const double g : gaps) ++counts[static_cast<int64_t>((at += g) / 100)];
  counts.erase(counts.rbegin()->first);
  std::vector<double> windows;
  for (const auto& [index, count] : counts) windows.push_back(count);
  const Moments m = MomentsOf(windows);
  // Finite windows fall short of the limit by about 1/((a + b) 100 s) = 0.8 %.
  EXPECT_NEAR(m.sd * m.sd / m.mean / dispersion, 1, kBound * std::sqrt(2 / m.n) + 0.01);
}

TEST(ArrivalProcess, ConstantDoesNotDrift) {
  const WorkloadConfig c = Config("{requests: 1, input_tokens: 1, output_tokens: 1, arrivals: {constant: {rate: 3 /s}}}");
  ArrivalProcess p(*c.arrivals, 1, 1);
  EXPECT_EQ(p.Next(), SimTime());
  SimTime at;
  for (int i = 0; i < 300'000; ++i) at = p.Next();
  EXPECT_EQ(at, SimTime::From(Seconds(100'000)));
}

TEST(ArrivalProcess, ScaleMultipliesEveryGap) {
  for (const char* arrivals : {"{poisson: {rate: 4 /s}}", "{gamma: {rate: 4 /s, cv: 2}}", "{weibull: {rate: 4 /s, cv: 2}}",
                               "{onoff: {rate_on: 20 /s, rate_off: 1 /s, mean_on: 2 s, mean_off: 3 s}}", "{constant: {rate: 4 /s}}"}) {
    const auto one = Gaps(arrivals, 1000), half = Gaps(arrivals, 1000, 0.5);
    for (size_t i = 0; i < one.size(); ++i) ASSERT_NEAR(half[i], 0.5 * one[i], 3e-10) << arrivals << i;  // ticks
  }
}

TEST(ArrivalProcess, EndsWithSimulatedTime) {
  const WorkloadConfig c = Config("{requests: 1, input_tokens: 1, output_tokens: 1, arrivals: {poisson: {rate: 1e-9 /s}}}");
  ArrivalProcess p(*c.arrivals, 1, 1);
  SimTime last;
  for (int i = 0; i < 100; ++i) {
    const SimTime at = p.Next();
    EXPECT_GE(at, last);
    last = at;
  }
  EXPECT_EQ(last, SimTime::Infinite());
}

LognormalLength Lognormal(std::string_view text) {
  return *Config("{requests: 1, arrivals: all_at_once, output_tokens: 1, input_tokens: {lognormal: " + std::string(text) + "}}")
              .input_tokens->lognormal;
}

// Integral of g times the cut density by Simpson's rule in ln x.
template <class G>
double Expect(const CutLognormal& d, double low, double high, const G& g) {
  const double a = std::max(std::log(low), d.mu - 12 * d.sigma), b = std::min(std::log(high), d.mu + 12 * d.sigma);
  const int steps = 20000;
  double sum = 0;
  for (int i = 0; i <= steps; ++i) {
    const double t = a + (b - a) * i / steps;
    const double z = (t - d.mu) / d.sigma;
    const double weight = i == 0 || i == steps ? 1 : i % 2 == 1 ? 4 : 2;
    sum += weight * g(std::exp(t)) * std::exp(-0.5 * z * z) / (d.sigma * std::sqrt(2 * M_PI));
  }
  return sum * (b - a) / steps / 3;
}
double One(double) { return 1; }
double Self(double x) { return x; }

TEST(Lognormal, WithoutACutItIsTheClosedForm) {
  // p99 = exp(mu + z s), mean = exp(mu + s^2/2): s = z - sqrt(z^2 - 2 ln(p99/mean)).
  const auto d = SolveLognormal(Lognormal("{mean: 1155, p99: 4142}"));
  ASSERT_TRUE(d.ok()) << d.status();
  const double z = 2.3263478740408408, s = z - std::sqrt(z * z - 2 * std::log(4142 / 1155.0));
  EXPECT_NEAR(d->sigma, s, 1e-7);
  EXPECT_NEAR(d->mu, std::log(1155) - s * s / 2, 1e-7);
  const auto median = SolveLognormal(Lognormal("{mean: 200, p50: 150}"));
  ASSERT_TRUE(median.ok()) << median.status();
  EXPECT_NEAR(median->sigma, std::sqrt(2 * std::log(200 / 150.0)), 1e-7);
  EXPECT_NEAR(median->mu, std::log(150), 1e-7);
}

TEST(Lognormal, TheCutKeepsTheStatistics) {
  struct Case {
    const char* text;
    double mean, p50, p99;  // 0: not given
    double low, high;
  };
  for (const Case& c : {Case{"{mean: 1155, p99: 4142, max: 8192}", 1155, 0, 4142, 0.5, 8192.5},
                        Case{"{mean: 1155, p99: 4000, max: 4142}", 1155, 0, 4000, 0.5, 4142.5},
                        Case{"{mean: 12035, p50: 6909, max: 131072}", 12035, 6909, 0, 0.5, 131072.5},
                        Case{"{p50: 129, p99: 601, min: 16, max: 1000}", 0, 129, 601, 15.5, 1000.5},
                        Case{"{mean: 500, sigma: 2, max: 2048}", 500, 0, 0, 0.5, 2048.5},
                        Case{"{p99: 1500, sigma: 1, max: 2048}", 0, 0, 1500, 0.5, 2048.5}}) {
    const auto d = SolveLognormal(Lognormal(c.text));
    ASSERT_TRUE(d.ok()) << c.text << d.status();
    const double kept = Expect(*d, c.low, c.high, One);
    EXPECT_NEAR(d->Kept(), kept, 1e-6) << c.text;
    if (c.mean > 0) {
      EXPECT_NEAR(Expect(*d, c.low, c.high, Self) / kept, c.mean, 1e-5 * c.mean) << c.text;
    }
    if (c.p50 > 0) {
      EXPECT_NEAR(Expect(*d, c.low, c.p50, One) / kept, 0.5, 1e-6) << c.text;
    }
    if (c.p99 > 0) {
      EXPECT_NEAR(Expect(*d, c.low, c.p99, One) / kept, 0.99, 1e-6) << c.text;
    }
  }
}

TEST(Lognormal, ImpossibleStatisticsAreRefused) {
  const auto message = [](LognormalLength l) { return Message(SolveLognormal(l).status()); };
  LognormalLength l;
  l.mean = 1000;
  EXPECT_THAT(message(l), HasSubstr("needs exactly two of mean, p50, p99 and sigma"));
  l.p99 = 900;
  EXPECT_THAT(message(l), HasSubstr("no lognormal length of at least 1 tokens has mean 1000 and p99 900"));
  l.p99 = 20000;  // above exp(z^2/2) = 14.97 means no lognormal reaches
  EXPECT_THAT(message(l), HasSubstr("has mean 1000 and p99 20000"));
  l.p99 = 4000;
  l.max = 800;
  EXPECT_THAT(message(l), HasSubstr("no lognormal length between 1 and 800 tokens has mean 1000 and p99 4000"));
  l.min = 900;
  EXPECT_THAT(message(l), HasSubstr("min is greater than max"));
  l = LognormalLength();
  l.mean = 1000;
  l.p50 = 1100;
  EXPECT_THAT(message(l), HasSubstr("no lognormal"));
}

std::vector<double> Lengths(std::string_view yaml, size_t n, const std::string& base_dir = "", uint64_t seed = 3) {
  const WorkloadConfig c = Config("{requests: 1, arrivals: all_at_once, output_tokens: 1, input_tokens: " + std::string(yaml) + "}");
  auto sampler = LengthSampler::Make(*c.input_tokens, "input_tokens", base_dir, false);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  std::vector<double> x;
  if (!sampler.ok()) return x;
  Rng rng(seed, "test");
  for (size_t i = 0; i < n; ++i) x.push_back(static_cast<double>(sampler->Draw(rng)));
  return x;
}

double ShareUpTo(const std::vector<double>& x, double limit) {
  return static_cast<double>(std::count_if(x.begin(), x.end(), [&](double v) { return v <= limit; })) / static_cast<double>(x.size());
}

TEST(LengthSampler, LognormalHasItsMeanAndPercentiles) {
  const size_t n = 400'000;
  const auto x = Lengths("{lognormal: {mean: 1155, p99: 4142, max: 8192}}", n);
  const Moments m = MomentsOf(x);
  EXPECT_NEAR(m.mean, 1155, kBound * m.MeanError());
  EXPECT_NEAR(ShareUpTo(x, 4142), 0.99, kBound * std::sqrt(0.99 * 0.01 / n));
  EXPECT_LE(*std::max_element(x.begin(), x.end()), 8192);
  EXPECT_GE(*std::min_element(x.begin(), x.end()), 1);

  // A hard cut: nothing piles up at the maximum, and the mean holds.
  const auto cut = Lengths("{lognormal: {mean: 1155, p99: 4000, max: 4142}}", n, "", 4);
  const Moments k = MomentsOf(cut);
  EXPECT_NEAR(k.mean, 1155, kBound * k.MeanError());
  EXPECT_NEAR(ShareUpTo(cut, 4000), 0.99, kBound * std::sqrt(0.99 * 0.01 / n));
  EXPECT_LT(1 - ShareUpTo(cut, 4141), 0.0005);

  const auto median = Lengths("{lognormal: {p50: 129, p99: 601, min: 16, max: 1000}}", n, "", 5);
  // 129 holds 128.5 to 129.5, so half of its probability counts as below 129.
  const double at_median = ShareUpTo(median, 129) - ShareUpTo(median, 128);
  EXPECT_NEAR(ShareUpTo(median, 128) + at_median / 2, 0.5, kBound * std::sqrt(0.25 / n));
  EXPECT_GE(*std::min_element(median.begin(), median.end()), 16);
}

TEST(LengthSampler, FixedAndUniform) {
  for (const double v : Lengths("200", 100)) EXPECT_EQ(v, 200);
  const size_t n = 400'000;
  const auto x = Lengths("{uniform: {min: 10, max: 19}}", n);
  for (int v = 10; v <= 19; ++v) {
    EXPECT_NEAR(ShareUpTo(x, v) - ShareUpTo(x, v - 1), 0.1, kBound * std::sqrt(0.1 * 0.9 / n)) << v;
  }
}

TEST(LengthSampler, Zipf) {
  const size_t n = 400'000;
  const auto x = Lengths("{zipf: {min: 5, max: 104, exponent: 1.2}}", n);
  double sum = 0;
  for (int rank = 1; rank <= 100; ++rank) sum += std::pow(rank, -1.2);
  for (const int rank : {1, 2, 3, 10, 100}) {
    const double p = std::pow(rank, -1.2) / sum;
    EXPECT_NEAR(ShareUpTo(x, 4 + rank) - ShareUpTo(x, 3 + rank), p, kBound * std::sqrt(p * (1 - p) / n)) << rank;
  }
  EXPECT_EQ(*std::min_element(x.begin(), x.end()), 5);
  EXPECT_EQ(*std::max_element(x.begin(), x.end()), 104);
}

TEST(LengthSampler, Empirical) {
  TempDir dir;
  dir.Write("t.csv", "arrival_s,input_tokens,output_tokens\n,10,1\n,10,2\n,20,3\n,4000,4\n");
  const size_t n = 100'000;
  const auto x = Lengths("{empirical: {file: t.csv}}", n, dir.path());
  EXPECT_NEAR(ShareUpTo(x, 10), 0.5, kBound * std::sqrt(0.25 / n));
  EXPECT_NEAR(ShareUpTo(x, 20), 0.75, kBound * std::sqrt(0.75 * 0.25 / n));
  for (const double v : x) ASSERT_TRUE(v == 10 || v == 20 || v == 4000) << v;
  const auto cut = Lengths("{empirical: {file: t.csv, max: 100}}", n, dir.path());
  EXPECT_NEAR(ShareUpTo(cut, 10), 2.0 / 3, kBound * std::sqrt(2.0 / 9 / n));
  EXPECT_EQ(*std::max_element(cut.begin(), cut.end()), 20);
  const auto other = Lengths("{empirical: {file: t.csv, column: output_tokens}}", 1000, dir.path());
  EXPECT_EQ(*std::max_element(other.begin(), other.end()), 4);

  LengthConfig none;
  none.empirical.emplace().file = "t.csv";
  none.empirical->max = 5;
  const auto empty = LengthSampler::Make(none, "input_tokens", dir.path(), false);
  EXPECT_THAT(Message(empty.status()), HasSubstr("t.csv: has no row to draw lengths from"));
  none.empirical->file = "none.csv";
  EXPECT_EQ(LengthSampler::Make(none, "input_tokens", dir.path(), false).status().code(), absl::StatusCode::kNotFound);
}

TEST(ThinkTimeSampler, Kinds) {
  const auto draws = [](std::string_view text) {
    const WorkloadConfig c = Config("{requests: 1, concurrency: 1, input_tokens: 1, output_tokens: 1, think_time: " + std::string(text) + "}");
    ThinkTimeSampler sampler(c.think_time, 5);
    std::vector<double> x;
    for (int i = 0; i < 100'000; ++i) x.push_back(sampler.Draw().value());
    return x;
  };
  EXPECT_EQ(draws("2 s")[9], 2);
  const Moments e = MomentsOf(draws("{exponential: {mean: 500 ms}}"));
  EXPECT_NEAR(e.mean, 0.5, kBound * e.MeanError());
  EXPECT_NEAR(e.sd / e.mean, 1, kBound * e.CvError());
  const auto u = draws("{uniform: {min: 1 s, max: 3 s}}");
  EXPECT_NEAR(MomentsOf(u).mean, 2, kBound * MomentsOf(u).MeanError());
  EXPECT_GE(*std::min_element(u.begin(), u.end()), 1);
  EXPECT_LT(*std::max_element(u.begin(), u.end()), 3);
}

}  // namespace
}  // namespace simrun
