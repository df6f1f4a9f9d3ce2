// Simulated time points: an integer count of 0.1 ns ticks since the start of the run.
//
// Integers make event order and sums independent of rounding and of the order in which replicas advance.
// 0.1 ns keeps the rounding of ten million 10 ms steps below a millisecond in the worst case and reaches 29 years.
#pragma once

#include <compare>
#include <cstdint>
#include <limits>

#include "base/units.h"

namespace simrun {

class SimTime {
 public:
  static constexpr double kTicksPerSecond = 1e10;

  constexpr SimTime() = default;
  static constexpr SimTime FromTicks(int64_t ticks) { return SimTime(ticks); }
  // Rounds to the nearest tick. Precondition: |t| < 2^63 ticks (29 years); Infinite() for anything later.
  static constexpr SimTime From(Seconds t) {
    const double ticks = t.value() * kTicksPerSecond;
    if (ticks >= 9.2e18) return Infinite();
    return SimTime(static_cast<int64_t>(ticks + (ticks < 0 ? -0.5 : 0.5)));
  }
  // Later than every event; the time of "never".
  static constexpr SimTime Infinite() { return SimTime(std::numeric_limits<int64_t>::max()); }

  constexpr int64_t ticks() const { return ticks_; }
  constexpr Seconds seconds() const { return Seconds(static_cast<double>(ticks_) / kTicksPerSecond); }

  friend constexpr SimTime operator+(SimTime a, SimTime b) { return SimTime(a.ticks_ + b.ticks_); }
  friend constexpr SimTime operator-(SimTime a, SimTime b) { return SimTime(a.ticks_ - b.ticks_); }
  friend constexpr auto operator<=>(SimTime, SimTime) = default;
  // A planner compares with durations since the start directly: live.NextEventTime() < 60_s.
  friend constexpr bool operator<(SimTime a, Seconds b) { return a < From(b); }
  friend constexpr bool operator>(SimTime a, Seconds b) { return a > From(b); }
  friend constexpr bool operator<=(SimTime a, Seconds b) { return a <= From(b); }
  friend constexpr bool operator>=(SimTime a, Seconds b) { return a >= From(b); }

 private:
  constexpr explicit SimTime(int64_t ticks) : ticks_(ticks) {}
  int64_t ticks_ = 0;
};

}  // namespace simrun
