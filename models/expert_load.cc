#include "models/expert_load.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/rng.h"

namespace simrun {

namespace {

// First and second moment of the largest of n standard normals, by numerical integration of x^r n phi(x) Phi(x)^(n-1).
struct MaxMoments {
  double n, first, second;
};
constexpr std::array<MaxMoments, 21> kMaxMoments = {{
    {1, 0.000000, 1.000000},     {2, 0.564190, 1.000000},   {3, 0.846284, 1.275664},     {4, 1.029375, 1.551329},
    {6, 1.267206, 2.021739},     {8, 1.423600, 2.399535},   {12, 1.629228, 2.978019},    {16, 1.765991, 3.413735},
    {24, 1.947674, 4.054944},    {32, 2.069669, 4.525147},  {48, 2.233121, 5.204695},    {64, 2.343733, 5.696573},
    {96, 2.492967, 6.400895},    {128, 2.594597, 6.907179}, {192, 2.732483, 7.628418},   {256, 2.826863, 8.144806},
    {384, 2.955494, 8.878205},   {512, 3.043903, 9.402028}, {1024, 3.248240, 10.674093}, {2048, 3.441799, 11.957814},
    {4096, 3.626082, 13.250957},
}};

// Linear in ln n between the rows.
MaxMoments MomentsOfMax(int n) {
  for (size_t i = 0; i + 1 < kMaxMoments.size(); ++i) {
    const MaxMoments& a = kMaxMoments[i];
    const MaxMoments& b = kMaxMoments[i + 1];
    if (n > b.n) continue;
    const double w = Ln(n / a.n) / Ln(b.n / a.n);
    return {static_cast<double>(n), a.first + w * (b.first - a.first), a.second + w * (b.second - a.second)};
  }
  return kMaxMoments.back();
}

}  // namespace

double ExpertImbalance(int64_t experts, int64_t topk, int ep, int64_t tokens, double popularity_cv) {
  if (ep <= 1 || tokens <= 0 || experts <= 1 || topk <= 0) return 1;
  const double e = static_cast<double>(experts), k = static_cast<double>(topk), ranks = ep;
  // The ranks' loads add up to a constant, which shrinks each one's variance by 1 - 1/ep and leaves the expected
  // maximum of the differences from the mean as that of independent loads; so neither appears here.
  const double v = popularity_cv * popularity_cv * ranks / e;
  const double s = ranks / (static_cast<double>(tokens) * k) * (e - k) / (e - 1);
  const double variance = v + s;
  if (variance <= 0) return 1;
  const double skew = (s * s + 3 * s * v + 2 * v * v) / (variance * std::sqrt(variance));
  const MaxMoments max = MomentsOfMax(ep);
  const double load = 1 + std::sqrt(variance) * (max.first + skew * (max.second - 1) / 6);
  const double limit = ranks * std::min(k, std::max(1.0, e / ranks)) / k;
  return std::clamp(load, 1.0, std::max(1.0, limit));
}

double ActiveExpertShare(int64_t experts, int64_t topk, int64_t tokens, double popularity_cv) {
  if (tokens <= 0 || experts <= 0) return 0;
  if (topk >= experts) return 1;
  const double l = -static_cast<double>(tokens) * Ln(1 - static_cast<double>(topk) / static_cast<double>(experts));
  const double v = popularity_cv * popularity_cv;
  // Below v l^2 ~ 1e-8 the law is indistinguishable from Poisson, and the quotient loses its digits.
  const double exponent = v < 1e-9 ? l : Ln(1 + v * l) / v;
  return exponent > 700 ? 1 : 1 - Exp(-exponent);
}

double RanksPerToken(int64_t experts, int64_t topk, int ep) {
  if (ep <= 1) return 1;
  const double e = static_cast<double>(experts), elsewhere = e - e / ep;
  double none = 1;  // probability that no choice falls on a given rank
  for (int64_t i = 0; i < topk && none > 0; ++i) {
    none *= std::max(0.0, (elsewhere - static_cast<double>(i)) / (e - static_cast<double>(i)));
  }
  return ep * (1 - none);
}

double TypicalPopularityCv(int64_t experts) { return experts < 32 ? 0.13 : 0.83; }

}  // namespace simrun
