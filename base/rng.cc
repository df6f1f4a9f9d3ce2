#include "base/rng.h"

#include <cmath>
#include <cstring>

#include "base/status.h"

namespace simrun {

namespace {

__extension__ using Uint128 = unsigned __int128;

constexpr double kLn2High = 0x1.62e42fee00000p-1;  // the leading 33 bits: exact when multiplied by an exponent
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;  // ln 2 - kLn2High

uint64_t ToBits(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
double FromBits(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// FNV-1a, 64 bits.
class StableHash {
 public:
  void Byte(unsigned char byte) { hash_ = (hash_ ^ byte) * 0x100000001b3u; }
  void Word(uint64_t word) {
    for (int shift = 0; shift < 64; shift += 8) Byte(static_cast<unsigned char>(word >> shift));
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

uint64_t SplitMix64(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

double Ln(double x) {
  int exponent = 0;
  if (x < 0x1p-1022) {  // subnormal: make the leading bit explicit
    x *= 0x1p54;
    exponent = -54;
  }
  uint64_t bits = ToBits(x);
  exponent += static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
  double m = FromBits(bits);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // ln m = 2 atanh(s), s = f / (2 + f), f = m - 1 in [-0.293, 0.414]; the series stops below 2^-60. The leading term
  // 2 s is written f - f^2/2 + s f^2/2: f is exact, so the division's rounding error only meets the small terms
  // (the arrangement of fdlibm's log by Sun Microsystems, 1993; the coefficients here are the plain series).
  const double f = m - 1;
  const double s = f / (2 + f);
  const double z = s * s, w = z * z;
  const double even = 2.0 / 3 + w * (2.0 / 7 + w * (2.0 / 11 + w * (2.0 / 15 + w * (2.0 / 19))));
  const double odd = 2.0 / 5 + w * (2.0 / 9 + w * (2.0 / 13 + w * (2.0 / 17 + w * (2.0 / 21))));
  const double r = z * (even + z * odd);
  const double half_square = 0.5 * f * f;
  const double k = exponent;
  return k * kLn2High - ((half_square - (s * (half_square + r) + k * kLn2Low)) - f);
}

double Exp(double x) {
  if (x > 700) x = 700;
  if (x < -700) x = -700;
  // x = k ln 2 + r with |r| <= 0.347; Taylor series of e^r up to r^13 / 13!, whose rest is below 2^-57.
  const int k = static_cast<int>(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
  const double r = (x - k * kLn2High) - k * kLn2Low;
  double sum = 1.0 / 6227020800;
  constexpr double kInverseFactorial[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                                          1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,     1.0 / 6,
                                          0.5,             1.0,            1.0};
  for (const double c : kInverseFactorial) sum = sum * r + c;
  return sum * FromBits(static_cast<uint64_t>(k + 1023) << 52);
}

Rng::Rng(uint64_t seed, std::string_view stream, uint64_t entity) {
  StableHash hash;
  hash.Word(seed);
  hash.Word(stream.size());
  for (const char c : stream) hash.Byte(static_cast<unsigned char>(c));
  hash.Word(entity);
  uint64_t mix = hash.value();
  for (uint64_t& word : state_) word = SplitMix64(&mix);
}

double Rng::Uniform() { return static_cast<double>(NextBits() >> 11) * 0x1p-53; }

double Rng::Uniform(double low, double high) { return low + (high - low) * Uniform(); }

uint64_t Rng::Below(uint64_t n) {
  SIM_CHECK(n >= 1);
  // Lemire (2019): the high word of a 128-bit product, redrawn for the few low words that would favour some results.
  const uint64_t threshold = (0 - n) % n;
  while (true) {
    const Uint128 product = static_cast<Uint128>(NextBits()) * n;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

double Rng::Exponential(double mean) { return -mean * Ln(1 - Uniform()); }

double Rng::Normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  // Marsaglia's polar method.
  while (true) {
    const double u = 2 * Uniform() - 1, v = 2 * Uniform() - 1;
    const double square = u * u + v * v;
    if (square >= 1 || square == 0) continue;
    const double scale = std::sqrt(-2 * Ln(square) / square);
    spare_normal_ = v * scale;
    has_spare_ = true;
    return u * scale;
  }
}

double Rng::LogNormal(double mu, double sigma) { return Exp(mu + sigma * Normal()); }

double Rng::Gamma(double shape, double scale) {
  if (shape < 1) {
    const double u = 1 - Uniform();
    return Gamma(shape + 1, scale) * Exp(Ln(u) / shape);
  }
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = Normal();
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (Ln(1 - Uniform()) < 0.5 * x * x + d - d * v + d * Ln(v)) return d * v * scale;
  }
}

double Rng::Weibull(double shape, double scale) {
  const double e = Exponential(1);
  return e > 0 ? scale * Exp(Ln(e) / shape) : 0;
}

DiscreteSampler::DiscreteSampler(const std::vector<double>& weights)
    : probability_(weights.size()), alias_(weights.size()) {
  double sum = 0;
  for (const double w : weights) {
    SIM_CHECK(w >= 0);
    sum += w;
  }
  SIM_CHECK(sum > 0 && std::isfinite(sum));
  // Vose's construction: every column holds its own share and the rest of one that has more than its share.
  const double n = static_cast<double>(weights.size());
  std::vector<uint32_t> small, large;
  for (uint32_t i = 0; i < weights.size(); ++i) {
    probability_[i] = weights[i] / sum * n;
    alias_[i] = i;
    (probability_[i] < 1 ? small : large).push_back(i);
  }
  while (!small.empty() && !large.empty()) {
    const uint32_t poor = small.back(), rich = large.back();
    small.pop_back();
    alias_[poor] = rich;
    probability_[rich] -= 1 - probability_[poor];
    if (probability_[rich] < 1) {
      large.pop_back();
      small.push_back(rich);
    }
  }
  // Left over by rounding alone: full columns.
  for (const uint32_t i : large) probability_[i] = 1;
  for (const uint32_t i : small) probability_[i] = weights[i] > 0 ? 1 : 0;
}

size_t DiscreteSampler::Draw(Rng& rng) const {
  const size_t i = rng.Below(probability_.size());
  return rng.Uniform() < probability_[i] ? i : alias_[i];
}

}  // namespace simrun
