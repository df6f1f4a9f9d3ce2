#include "base/sketch.h"

#include <algorithm>
#include <cmath>

namespace simrun {

namespace {

double BucketLow(size_t index) {
  if (index == 0) return 0;
  const uint64_t bits = (static_cast<uint64_t>(index) - 1 + (uint64_t{1023} << 9)) << 43;
  double low;
  std::memcpy(&low, &bits, sizeof low);
  return low;
}

// The middle of the whole ticks that fall into a bucket; below 1024 ticks each bucket holds a single one.
double BucketMiddle(size_t index) {
  const double low = BucketLow(index);
  const double width = std::max(BucketLow(index + 1) - low, 1.0);
  return low + 0.5 * (width - 1);
}

Seconds FromTicks(double ticks) { return Seconds(ticks / SimTime::kTicksPerSecond); }

}  // namespace

void QuantileSketch::Merge(const QuantileSketch& other) {
  if (buckets_.size() < other.buckets_.size()) buckets_.resize(other.buckets_.size());
  for (size_t i = 0; i < other.buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  sum_ += other.sum_;
  count_ += other.count_;
  max_ = std::max(max_, other.max_);
  min_ = std::min(min_, other.min_);
}

Seconds QuantileSketch::Mean() const {
  if (count_ == 0) return Seconds(0);
  // Whole part and remainder apart: the sum may have more digits than a double.
  const Int128 count = static_cast<Int128>(count_);
  const double whole = static_cast<double>(static_cast<int64_t>(sum_ / count));
  const double rest = static_cast<double>(sum_ % count) / static_cast<double>(count_);
  return FromTicks(whole + rest);
}

Seconds QuantileSketch::Min() const { return FromTicks(count_ == 0 ? 0 : static_cast<double>(min_)); }

Seconds QuantileSketch::Max() const { return FromTicks(static_cast<double>(max_)); }

Seconds QuantileSketch::Sum() const { return FromTicks(static_cast<double>(sum_)); }

Seconds QuantileSketch::Quantile(double q) const {
  if (count_ == 0) return Seconds(0);
  // 0.07 * 100 is a little above 7 in binary; the rank meant is 7.
  const double exact_rank = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_) * (1 - 0x1p-51));
  if (exact_rank >= static_cast<double>(count_)) return Max();
  if (exact_rank <= 1) return Min();
  const auto rank = static_cast<uint64_t>(exact_rank);
  uint64_t seen = 0;
  size_t index = 0;
  for (; index < buckets_.size(); ++index) {
    seen += buckets_[index];
    if (seen >= rank) break;
  }
  return FromTicks(std::clamp(BucketMiddle(index), static_cast<double>(min_), static_cast<double>(max_)));
}

double QuantileSketch::FractionBelow(Seconds limit) const {
  const SimTime time = SimTime::From(limit);
  if (count_ == 0 || time.ticks() >= max_) return 1;
  if (time.ticks() < min_) return 0;
  const size_t last = std::min(Index(time.ticks()) + 1, buckets_.size());
  uint64_t below = 0;
  for (size_t i = 0; i < last; ++i) below += buckets_[i];
  return static_cast<double>(below) / static_cast<double>(count_);
}

}  // namespace simrun
