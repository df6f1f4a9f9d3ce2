// Reproducible random streams: the same seed gives the same numbers on every machine and compiler.
//
// A stream is named by (seed, stream name, entity id): adding a component never shifts another's draws.
// Generator: xoshiro256++ (Blackman and Vigna, 2019, public domain). Samplers use our own Ln, because libm differs
// between processors and std:: distributions between standard libraries.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace simrun {

// Natural logarithm from +, -, * and / alone: bit-identical on every x86-64 build; relative error <= 3e-16.
// Precondition: x > 0 and finite.
double Ln(double x);
// e^x likewise; relative error <= 1e-14. |x| <= 700.
double Exp(double x);

class Rng {
 public:
  Rng(uint64_t seed, std::string_view stream, uint64_t entity = 0);

  // In the header: some callers draw tens of thousands of numbers per step.
  uint64_t NextBits() {
    const uint64_t result = RotateLeft(state_[0] + state_[3], 23) + state_[0];
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = RotateLeft(state_[3], 45);
    return result;
  }
  // A generator of its own, seeded with the next four draws of this one.
  Rng Fork() {
    Rng fork;
    for (uint64_t& word : fork.state_) word = NextBits();
    return fork;
  }
  double Uniform();                      // [0, 1)
  double Uniform(double low, double high);
  uint64_t Below(uint64_t n);            // 0 .. n-1, unbiased; n >= 1
  double Exponential(double mean);
  double Normal();                       // mean 0, standard deviation 1
  double LogNormal(double mu, double sigma);   // exp(mu + sigma * Normal())
  double Gamma(double shape, double scale);    // Marsaglia and Tsang (2000)
  double Weibull(double shape, double scale);

 private:
  Rng() = default;
  static uint64_t RotateLeft(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

  uint64_t state_[4] = {};
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

// Draws i in 0..n-1 with probability weight[i] / sum in O(1) (Walker's alias method).
class DiscreteSampler {
 public:
  explicit DiscreteSampler(const std::vector<double>& weights);  // non-empty, non-negative, positive sum
  size_t Draw(Rng& rng) const;

 private:
  std::vector<double> probability_;
  std::vector<uint32_t> alias_;
};

}  // namespace simrun
