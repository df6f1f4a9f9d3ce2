#include "sim/metrics.h"

#include <algorithm>

namespace simrun {

void TimeBins::Add(SimTime at, SimTime value) {
  const int64_t t = std::max<int64_t>(0, at.ticks());
  while (t / width_ >= kBins) {
    for (int i = 0; i < kBins / 2; ++i) {
      bins_[i].sum = bins_[2 * i].sum + bins_[2 * i + 1].sum;
      bins_[i].count = bins_[2 * i].count + bins_[2 * i + 1].count;
    }
    std::fill(bins_.begin() + kBins / 2, bins_.end(), Bin());
    width_ *= 2;
  }
  Bin& bin = bins_[static_cast<size_t>(t / width_)];
  bin.sum += value.ticks();
  ++bin.count;
  last_ = std::max(last_, t);
}

double TimeBins::MeanSeconds(double from, double to) const {
  __extension__ __int128 sum = 0;
  uint64_t count = 0;
  const int last = static_cast<int>(last_ / width_) + 1;
  for (int i = static_cast<int>(from * last); i < static_cast<int>(to * last); ++i) {
    sum += bins_[i].sum;
    count += bins_[i].count;
  }
  if (count == 0) return -1;
  return static_cast<double>(sum) / static_cast<double>(count) / SimTime::kTicksPerSecond;
}

uint64_t TimeBins::Count(double from, double to) const {
  uint64_t count = 0;
  const int last = static_cast<int>(last_ / width_) + 1;
  for (int i = static_cast<int>(from * last); i < static_cast<int>(to * last); ++i) count += bins_[i].count;
  return count;
}

}  // namespace simrun
