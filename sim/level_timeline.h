// How a level (memory in use) goes over the time of a run: mean and peak in equal slots, whose width doubles as the run
// grows, so that a run of any length has half of kSlots to kSlots of them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace simrun {

class LevelTimeline {
 public:
  static constexpr size_t kSlots = 64;

  // The level from `now` (seconds, never before an earlier call) on.
  void Set(double now, double level) {
    FillTo(now);
    level_ = level;
    Slot(now).peak = std::max(Slot(now).peak, level);
  }
  // Ends at `end`. Timelines that end together have equal slots.
  void Close(double end) { FillTo(end); }

  double width() const { return width_; }
  size_t slots() const { return static_cast<size_t>(std::ceil(last_ / width_)); }
  double Mean(size_t slot) const {
    const double start = static_cast<double>(slot) * width_;
    return slots_[slot].area / (std::min(last_, start + width_) - start);
  }
  double Peak(size_t slot) const { return slots_[slot].peak; }

 private:
  struct Part {
    double area = 0, peak = 0;
  };
  Part& Slot(double at) { return slots_[static_cast<size_t>(at / width_)]; }
  void FillTo(double now) {
    while (now >= width_ * static_cast<double>(kSlots)) {
      for (size_t i = 0; i < kSlots / 2; ++i) {
        const Part a = slots_[2 * i], b = slots_[2 * i + 1];
        slots_[i] = {a.area + b.area, std::max(a.peak, b.peak)};
      }
      std::fill(slots_.begin() + kSlots / 2, slots_.end(), Part{});
      width_ *= 2;
    }
    while (last_ < now) {
      const double to = std::min(now, (std::floor(last_ / width_) + 1) * width_);
      Part& slot = Slot(last_);
      slot.area += level_ * (to - last_);
      slot.peak = std::max(slot.peak, level_);
      last_ = to;
    }
  }

  std::array<Part, kSlots> slots_{};
  double width_ = 1.0 / 1024, last_ = 0, level_ = 0;
};

}  // namespace simrun
