#include "workload/distributions.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "base/paths.h"
#include "base/status.h"
#include "workload/trace_reader.h"

namespace simrun {
namespace {

constexpr double kHalfLnTwoPi = 0.91893853320467274178;
constexpr double kMinKept = 0.01;
constexpr double kKeptQuantile = 2.3263478740408408;  // Phi^-1(0.99): beyond it fewer than kMinKept are kept
constexpr int64_t kLongest = 1'000'000'000;

// A zero of f between lo and hi, where f has opposite signs: false position with the Illinois rule, which halves the
// value kept on one side and so converges from both.
template <class F>
double FindZero(const F& f, double lo, double hi, double f_lo, double f_hi) {
  int side = 0;
  for (int i = 0; i < 200 && std::fabs(hi - lo) > 1e-13 * (std::fabs(lo) + std::fabs(hi)); ++i) {
    double x = (lo * f_hi - hi * f_lo) / (f_hi - f_lo);
    if (!(x > std::min(lo, hi) && x < std::max(lo, hi))) x = 0.5 * (lo + hi);
    const double y = f(x);
    if (y == 0) return x;
    if ((y > 0) == (f_hi > 0)) {
      hi = x;
      f_hi = y;
      if (side == 1) f_lo *= 0.5;
      side = 1;
    } else {
      lo = x;
      f_lo = y;
      if (side == -1) f_hi *= 0.5;
      side = -1;
    }
  }
  return 0.5 * (lo + hi);
}

}  // namespace

double LnGamma(double x) {
  double product = 1;
  while (x < 12) product *= x++;
  const double z = 1 / (x * x);
  const double series = (1.0 / 12 - z * (1.0 / 360 - z * (1.0 / 1260 - z * (1.0 / 1680 - z / 1188)))) / x;
  return (x - 0.5) * Ln(x) - x + kHalfLnTwoPi + series - Ln(product);
}

double NormalCdf(double x) {
  if (x < -8.5) return 0;
  if (x > 8.5) return 1;
  double sum = x, term = x, previous = 0;
  for (int i = 3; sum != previous; i += 2) {
    previous = sum;
    term *= x * x / i;
    sum += term;
  }
  return std::clamp(0.5 + sum * Exp(-0.5 * x * x - kHalfLnTwoPi), 0.0, 1.0);
}

double WeibullShape(double cv) {
  const auto excess = [cv](double ln_shape) {
    const double k = Exp(ln_shape);
    return Ln(1 + cv * cv) - (LnGamma(1 + 2 / k) - 2 * LnGamma(1 + 1 / k));
  };
  const double lo = Ln(0.05), hi = Ln(1000);
  return Exp(FindZero(excess, lo, hi, excess(lo), excess(hi)));
}

double CutLognormal::Kept() const {
  return NormalCdf((Ln(high) - mu) / sigma) - NormalCdf((Ln(low) - mu) / sigma);
}
double CutLognormal::Mean() const {
  const double a = (Ln(low) - mu) / sigma, b = (Ln(high) - mu) / sigma;
  return Exp(mu + 0.5 * sigma * sigma) * (NormalCdf(b - sigma) - NormalCdf(a - sigma)) / (NormalCdf(b) - NormalCdf(a));
}
double CutLognormal::Cdf(double x) const {
  if (x <= low) return 0;
  if (x >= high) return 1;
  const double below = NormalCdf((Ln(low) - mu) / sigma);
  return (NormalCdf((Ln(x) - mu) / sigma) - below) / (NormalCdf((Ln(high) - mu) / sigma) - below);
}

absl::StatusOr<CutLognormal> SolveLognormal(const LognormalLength& config) {
  // Each statistic as a function that is 0 when it is met. In mu, all three fall.
  struct Target {
    const char* name;
    double value;
    double quantile;  // 0 for the mean
  };
  std::vector<Target> targets;
  if (config.mean) targets.push_back({"mean", *config.mean, 0});
  if (config.p50) targets.push_back({"p50", *config.p50, 0.5});
  if (config.p99) targets.push_back({"p99", *config.p99, 0.99});
  if (targets.size() + (config.sigma ? 1 : 0) != 2) {
    return absl::InvalidArgumentError("needs exactly two of mean, p50, p99 and sigma");
  }
  const int64_t max = config.max.value_or(kLongest);
  if (config.min > max) return absl::InvalidArgumentError("min is greater than max");
  CutLognormal d;
  d.low = static_cast<double>(config.min) - 0.5;
  d.high = static_cast<double>(max) + 0.5;
  std::string wish;
  for (const Target& t : targets) wish += fmt::format("{}{} {:.6g}", wish.empty() ? "" : " and ", t.name, t.value);
  if (config.sigma) wish += fmt::format(" and sigma {:.6g}", *config.sigma);
  const auto impossible = [&] {
    const std::string range =
        config.max ? fmt::format("between {} and {} tokens", config.min, max) : fmt::format("of at least {} tokens", config.min);
    return absl::InvalidArgumentError(fmt::format("no lognormal length {} has {}", range, wish));
  };
  const auto miss = [](const CutLognormal& at, const Target& t) {
    return t.quantile == 0 ? t.value / at.Mean() - 1 : at.Cdf(t.value) - t.quantile;
  };
  // mu for a given sigma from the first statistic; false when too few draws would be kept.
  const auto set_mu = [&](double sigma, CutLognormal* at) {
    at->sigma = sigma;
    const auto f = [&](double mu) {
      at->mu = mu;
      return miss(*at, targets[0]);
    };
    const double lo = Ln(d.low) - kKeptQuantile * sigma, hi = Ln(d.high) + kKeptQuantile * sigma;
    const double f_lo = f(lo), f_hi = f(hi);
    if (!(f_lo >= 0 && f_hi <= 0)) return false;
    at->mu = FindZero(f, lo, hi, f_lo, f_hi);
    return true;
  };
  if (config.sigma) {
    if (!set_mu(*config.sigma, &d)) return impossible();
  } else {
    // As sigma grows from 0, all values leave the first statistic's; the first crossing is the narrow solution.
    constexpr double kSmallest = 0.002, kLargest = 4, kStep = 1.25;
    CutLognormal at = d;
    const auto f = [&](double sigma) { return set_mu(sigma, &at) ? miss(at, targets[1]) : 0.0; };
    double lo = kSmallest;
    if (!set_mu(lo, &at)) return impossible();
    double f_lo = miss(at, targets[1]);
    bool found = false;
    while (!found && lo < kLargest) {
      const double hi = lo * kStep;
      if (!set_mu(hi, &at)) break;
      const double f_hi = miss(at, targets[1]);
      if ((f_lo > 0) != (f_hi > 0)) {
        const double sigma = FindZero(f, lo, hi, f_lo, f_hi);
        if (!set_mu(sigma, &d)) break;
        found = true;
      }
      lo = hi;
      f_lo = f_hi;
    }
    if (!found) return impossible();
  }
  if (d.Kept() < kMinKept) return impossible();
  return d;
}

absl::StatusOr<LengthSampler> LengthSampler::Make(const LengthConfig& config, const std::string& column,
                                                  const std::string& base_dir, bool skip_invalid) {
  LengthSampler s;
  if (config.fixed) {
    s.min_ = s.max_ = *config.fixed;
  } else if (config.uniform) {
    s.kind_ = Kind::kUniform;
    s.min_ = config.uniform->min;
    s.max_ = config.uniform->max;
  } else if (config.lognormal) {
    s.kind_ = Kind::kLognormal;
    s.min_ = config.lognormal->min;
    s.max_ = config.lognormal->max.value_or(kLongest);
    SIMRUN_ASSIGN_OR_RETURN(s.lognormal_, SolveLognormal(*config.lognormal));
    s.lowest_ = (Ln(s.lognormal_.low) - s.lognormal_.mu) / s.lognormal_.sigma;
    s.highest_ = (Ln(s.lognormal_.high) - s.lognormal_.mu) / s.lognormal_.sigma;
  } else if (config.zipf) {
    s.kind_ = Kind::kTable;
    s.min_ = config.zipf->min;
    s.max_ = config.zipf->max;
    std::vector<double> weights(static_cast<size_t>(s.max_ - s.min_ + 1));
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = Exp(-config.zipf->exponent * Ln(static_cast<double>(i + 1)));
    }
    s.table_.emplace(weights);
  } else if (config.empirical) {
    s.kind_ = Kind::kTable;
    const bool output = (config.empirical->column.empty() ? column : config.empirical->column) == "output_tokens";
    const std::string path = ResolvePath(base_dir, config.empirical->file);
    SIMRUN_ASSIGN_OR_RETURN(auto reader, TraceReader::Open(path, {.skip_invalid = skip_invalid}));
    std::map<int64_t, int64_t> counts;
    TraceRow row;
    while (true) {
      SIMRUN_ASSIGN_OR_RETURN(const bool more, reader->Next(&row));
      if (!more) break;
      const int64_t length = output ? row.output_tokens : row.input_tokens;
      if (length <= config.empirical->max.value_or(kLongest)) ++counts[length];
    }
    if (counts.empty()) {
      return absl::InvalidArgumentError(fmt::format("{}: has no row to draw lengths from", path));
    }
    std::vector<double> weights;
    for (const auto& [length, count] : counts) {
      s.values_.push_back(length);
      weights.push_back(static_cast<double>(count));
    }
    s.table_.emplace(weights);
  }
  return s;
}

int64_t LengthSampler::Draw(Rng& rng) const {
  switch (kind_) {
    case Kind::kFixed: return min_;
    case Kind::kUniform: return min_ + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(max_ - min_ + 1)));
    case Kind::kLognormal: {
      double n;
      do n = rng.Normal();
      while (n < lowest_ || n > highest_);
      const auto length = static_cast<int64_t>(Exp(lognormal_.mu + lognormal_.sigma * n) + 0.5);
      return std::clamp(length, min_, max_);  // rounding at the very edge of the cut
    }
    case Kind::kTable: {
      const size_t i = table_->Draw(rng);
      return values_.empty() ? min_ + static_cast<int64_t>(i) : values_[i];
    }
  }
  return min_;
}

SimTime AddSaturating(SimTime a, SimTime b) {
  if (a.ticks() > SimTime::Infinite().ticks() - b.ticks()) return SimTime::Infinite();
  return a + b;
}

ArrivalProcess::ArrivalProcess(const ArrivalsConfig& config, double scale, uint64_t seed) : rng_(seed, "arrivals") {
  if (config.poisson) {
    kind_ = Kind::kPoisson;
    mean_gap_ = scale / config.poisson->rate.value();
  } else if (config.gamma) {
    kind_ = Kind::kGamma;
    const double square = config.gamma->cv * config.gamma->cv;
    shape_ = 1 / square;
    gap_scale_ = scale * square / config.gamma->rate.value();
  } else if (config.weibull) {
    kind_ = Kind::kWeibull;
    shape_ = config.weibull->shape ? *config.weibull->shape : WeibullShape(config.weibull->cv.value_or(1));
    gap_scale_ = scale / (config.weibull->rate.value() * Exp(LnGamma(1 + 1 / shape_)));
  } else if (config.onoff) {
    kind_ = Kind::kOnOff;
    const OnOffArrivals& c = *config.onoff;
    arrival_rate_[0] = c.rate_off.value() / scale;
    arrival_rate_[1] = c.rate_on.value() / scale;
    leave_rate_[0] = 1 / (c.mean_off.value() * scale);
    leave_rate_[1] = 1 / (c.mean_on.value() * scale);
    // In the long run the process is on for mean_on of every mean_on + mean_off; it starts like that.
    phase_ = rng_.Uniform() * (c.mean_on + c.mean_off).value() < c.mean_on.value() ? 1 : 0;
  } else if (config.constant) {
    kind_ = Kind::kConstant;
    mean_gap_ = scale / config.constant->rate.value();
  }
}

Seconds ArrivalProcess::OnOffGap() {
  double gap = 0;
  while (true) {
    // The next event is whichever exponential clock rings first: an arrival or the end of the phase.
    const double total = arrival_rate_[phase_] + leave_rate_[phase_];
    gap += rng_.Exponential(1 / total);
    if (rng_.Uniform() * total < arrival_rate_[phase_]) return Seconds(gap);
    phase_ = 1 - phase_;
  }
}

SimTime ArrivalProcess::Next() {
  Seconds gap;
  switch (kind_) {
    case Kind::kPoisson: gap = Seconds(rng_.Exponential(mean_gap_)); break;
    case Kind::kGamma: gap = Seconds(rng_.Gamma(shape_, gap_scale_)); break;
    case Kind::kWeibull: gap = Seconds(rng_.Weibull(shape_, gap_scale_)); break;
    case Kind::kOnOff: gap = OnOffGap(); break;
    case Kind::kConstant:
      // From the count, so that rounding does not add up.
      return SimTime::From(Seconds(mean_gap_ * static_cast<double>(count_++)));
    case Kind::kAllAtOnce: return SimTime();
  }
  at_ = AddSaturating(at_, SimTime::From(gap));
  return at_;
}

ThinkTimeSampler::ThinkTimeSampler(const std::optional<ThinkTimeConfig>& config, uint64_t seed)
    : rng_(seed, "think_time") {
  if (!config) return;
  if (config->fixed) {
    low_ = config->fixed->value();
  } else if (config->exponential) {
    kind_ = Kind::kExponential;
    low_ = config->exponential->mean.value();
  } else if (config->uniform) {
    kind_ = Kind::kUniform;
    low_ = config->uniform->min.value();
    high_ = config->uniform->max.value();
  }
}

Seconds ThinkTimeSampler::Draw() {
  switch (kind_) {
    case Kind::kFixed: return Seconds(low_);
    case Kind::kExponential: return Seconds(rng_.Exponential(low_));
    case Kind::kUniform: return Seconds(rng_.Uniform(low_, high_));
  }
  return Seconds(0);
}

}  // namespace simrun
