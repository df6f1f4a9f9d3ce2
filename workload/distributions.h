// Arrival processes and length distributions, ready to draw from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/rng.h"
#include "base/sim_time.h"
#include "workload/config.h"

namespace simrun {

// ln Gamma(x) for x >= 1, relative error below 1e-12: Stirling's series after shifting x above 12.
double LnGamma(double x);
// Standard normal distribution function, absolute error below 3e-15. G. Marsaglia, "Evaluating the Normal
// Distribution", J. Stat. Software 11(4), 2004: Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...).
double NormalCdf(double x);

// Shape k of the Weibull law with coefficient of variation cv: cv^2 = Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1.
double WeibullShape(double cv);

// exp(mu + sigma N), N standard normal, drawn again until it is in [low, high].
struct CutLognormal {
  double mu = 0;
  double sigma = 1;
  double low = 0;
  double high = 0;

  // Probability that a draw is kept.
  double Kept() const;
  // Of the kept draws: E[X] = exp(mu + sigma^2/2) (Phi(b - sigma) - Phi(a - sigma)) / (Phi(b) - Phi(a)) with
  // a = (ln low - mu) / sigma and b likewise, and P(X <= x).
  double Mean() const;
  double Cdf(double x) const;
};
// Finds mu and sigma so that the lengths that are kept have the two statistics given. InvalidArgument when not exactly
// two are given, none fits, or more than 99 of 100 draws would have to be repeated.
absl::StatusOr<CutLognormal> SolveLognormal(const LognormalLength& config);

// Draws token counts. Copies are independent.
class LengthSampler {
 public:
  // `config` is valid. `column` names the column an empirical distribution reads when it does not say.
  static absl::StatusOr<LengthSampler> Make(const LengthConfig& config, const std::string& column,
                                            const std::string& base_dir, bool skip_invalid);
  int64_t Draw(Rng& rng) const;

 private:
  enum class Kind { kFixed, kUniform, kLognormal, kTable };
  LengthSampler() = default;

  Kind kind_ = Kind::kFixed;
  int64_t min_ = 1;
  int64_t max_ = 1;
  CutLognormal lognormal_;
  double lowest_ = 0, highest_ = 0;         // kLognormal: the cut in standard normal units
  std::optional<DiscreteSampler> table_;    // kTable: index into values_, or offset from min_ when values_ is empty
  std::vector<int64_t> values_;
};

// Draws arrival times.
class ArrivalProcess {
 public:
  // `config` is valid. Gaps are multiplied by `scale`.
  ArrivalProcess(const ArrivalsConfig& config, double scale, uint64_t seed);
  // The next arrival; never earlier than the one before. Infinite beyond the end of simulated time.
  SimTime Next();

 private:
  enum class Kind { kPoisson, kGamma, kWeibull, kOnOff, kConstant, kAllAtOnce };
  Seconds OnOffGap();

  Kind kind_ = Kind::kAllAtOnce;
  Rng rng_;
  SimTime at_;
  double mean_gap_ = 0;  // s
  double shape_ = 1;
  double gap_scale_ = 0;  // s
  int64_t count_ = 0;
  // kOnOff: by phase, 0 off and 1 on; per second.
  int phase_ = 0;
  double arrival_rate_[2] = {0, 0};
  double leave_rate_[2] = {0, 0};
};

// Draws think times.
class ThinkTimeSampler {
 public:
  ThinkTimeSampler(const std::optional<ThinkTimeConfig>& config, uint64_t seed);
  Seconds Draw();

 private:
  enum class Kind { kFixed, kExponential, kUniform };
  Kind kind_ = Kind::kFixed;
  double low_ = 0, high_ = 0;  // s; the value or mean in low_
  Rng rng_;
};

// `a + b`, Infinite beyond the end of simulated time.
SimTime AddSaturating(SimTime a, SimTime b);

}  // namespace simrun
