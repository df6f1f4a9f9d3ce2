// A mergeable quantile sketch for non-negative values: constant memory, stated relative error.
//
// Each power of two is cut into 512 equal buckets, read off the bits of the double, so a quantile is within 0.1 % of
// the exact one (half a bucket: 1/1024 of the value). Count, minimum and maximum are exact; the mean is exact up to
// rounding and independent of insertion order when values are whole ticks (their sum is kept as a 128-bit integer).
#pragma once

#include <cstdint>
#include <vector>

#include "base/sim_time.h"

namespace simrun {

class QuantileSketch {
 public:
  static constexpr double kRelativeError = 1.0 / 1024;

  // Adds `weight` copies of a duration. Negative durations count as 0.
  void Add(SimTime value, uint64_t weight = 1) {
    const int64_t ticks = value.ticks() < 0 ? 0 : value.ticks();
    sum_ += static_cast<__int128>(ticks) * static_cast<__int128>(weight);
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
  static size_t Index(int64_t ticks);
  static double BucketLow(size_t index);

  std::vector<uint64_t> buckets_;
  __int128 sum_ = 0;
  uint64_t count_ = 0;
  int64_t max_ = 0;
  int64_t min_ = INT64_MAX;
};

}  // namespace simrun
