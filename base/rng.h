// Reproducible random streams: the same seed gives the same numbers on every machine and compiler.
//
// A stream is named by (seed, stream name, entity id): adding a component never shifts another's draws.
// Generator: xoshiro256++ (Blackman and Vigna, 2019, public domain). Samplers use our own Ln, because libm differs
// between processors and std:: distributions between standard libraries.
#pragma once

#include <cstdint>
#include <cstring>
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

// Many bits at once for callers that fill arrays with them: no draw depends on the one before, only on its place. A counter
// and two halves of a product folded together (Wang Yi's wyrand, public domain). x86-64's byte order.
class BulkRng {
 public:
  explicit BulkRng(uint64_t seed) : state_(seed) {}
  uint64_t Next64() {
    state_ += 0xa0761d6478bd642full;
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(state_) * (state_ ^ 0xe7037ed1a0b428dbull);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  uint32_t Next32() { return static_cast<uint32_t>(Next64()); }
  // Fills out[0..n) with random bits. `out` has room for n elements rounded up to whole words of 8 bytes.
  template <class T>
  void Fill(T* out, size_t n) {
    constexpr size_t kPerWord = sizeof(uint64_t) / sizeof(T);
    for (size_t i = 0; i < n; i += kPerWord) {
      const uint64_t word = Next64();
      std::memcpy(out + i, &word, sizeof word);
    }
  }

 private:
  uint64_t state_;
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
