// A mergeable quantile sketch for non-negative values: constant memory, stated relative error.
//
// Each power of two is cut into 512 equal buckets, read off the bits of the double, so a quantile is within 0.1 % of
// the exact one (half a bucket: 1/1024 of the value). Count, minimum and maximum are exact; the mean is exact up to
// rounding and independent of insertion order when values are whole ticks (their sum is kept as a 128-bit integer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/sim_time.h"

namespace simrun {

class QuantileSketch {
 public:
  static constexpr double kRelativeError = 1.0 / 1024;

  // Adds `weight` copies of a duration. Negative durations count as 0.
  void Add(SimTime value, uint64_t weight = 1) {
    if (weight == 0) return;
    const int64_t ticks = value.ticks() < 0 ? 0 : value.ticks();
    sum_ += static_cast<Int128>(ticks) * static_cast<Int128>(weight);
    count_ += weight;
    if (ticks > max_) max_ = ticks;
    if (ticks < min_) min_ = ticks;
    const size_t index = Index(ticks);
    if (index >= buckets_.size()) buckets_.resize(index + 1);
    buckets_[index] += weight;
  }
  void Merge(const QuantileSketch& other);

  uint64_t count() const { return count_; }
  Seconds Mean() const;            // 0 when empty
  Seconds Min() const;
  Seconds Max() const;
  Seconds Sum() const;
  // The value at rank ceil(q * count), q in [0, 1]; 0 when empty.
  Seconds Quantile(double q) const;
  // Fraction of values <= limit, to within one bucket; 1 when empty.
  double FractionBelow(Seconds limit) const;

 private:
  __extension__ using Int128 = __int128;

  // Exponent and 9 leading mantissa bits of the double: 0 for 0 ticks, 1 for 1, 513 for 2, ... Every value below
  // 1024 ticks (0.1 us) has a bucket of its own.
  static size_t Index(int64_t ticks) {
    if (ticks == 0) return 0;
    const double value = static_cast<double>(ticks);
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<size_t>((bits >> 43) - (uint64_t{1023} << 9)) + 1;
  }

  std::vector<uint64_t> buckets_;
  Int128 sum_ = 0;
  uint64_t count_ = 0;
  int64_t max_ = 0;
  int64_t min_ = INT64_MAX;
};

}  // namespace simrun
