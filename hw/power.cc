#include "hw/power.h"

namespace simrun {

PowerModel::PowerModel(const GpuSpec& gpu, std::optional<Watts> limit, std::optional<PerSecond> clock) : spec_(gpu.power) {
  tdp_ = gpu.tdp.value();
  idle_ = std::min(gpu.idle_power.value(), tdp_);
  limit_ = limit.has_value() ? std::min(limit->value(), tdp_) : tdp_;
  if (clock.has_value() && gpu.boost_clock.value() > 0) {
    lock_ = std::clamp(*clock / gpu.boost_clock, kMinClock, 1.0);
  }
  const double v2 = spec_.Volts(lock_) * spec_.Volts(lock_);
  const double active = spec_.active.value();
  active_ = std::min(active * lock_ * v2, std::max(0.0, limit_ - idle_));
  link_ = spec_.link.value() * spec_.MemoryShare(v2);
  compute_ = spec_.compute.value();
  memory_ = spec_.memory.value();
  ramp_ = spec_.ramp.value();
  const double ceiling_room = std::max(0.0, spec_.ceiling * tdp_ - idle_ - active);
  measured_room_ = spec_.own_rates ? ceiling_room : kUnlimited;
  room_ = std::max(0.0, spec_.ceiling * limit_ - idle_ - active_);
  link_ = std::min(link_, room_);
  if (ceiling_room > 0 && spec_.settled.value() > 0) {
    settled_ = spec_.settled.value() / ceiling_room;
    settled_narrow_ = spec_.settled_narrow.value() > 0 ? spec_.settled_narrow.value() / ceiling_room : settled_;
    settled_memory_ = memory_ * spec_.MemoryShare(std::min(1.0, spec_.settled.value() / compute_)) / ceiling_room;
  }
}

double PowerModel::ClockFor(double compute, double memory, double room, double highest) const {
  if (Draw(compute, memory, highest) <= room) return highest;
  double low = kMinClock, high = highest;
  for (int i = 0; i < 24; ++i) {
    const double middle = 0.5 * (low + high);
    (Draw(compute, memory, middle) <= room ? low : high) = middle;
  }
  return low;
}

PowerModel::Setting PowerModel::At(const Work& work) const {
  const double factor = work.attention ? spec_.attention : 1;
  Setting s{1, factor * compute_, factor * memory_, room_};
  if (!limited() || work.seconds <= 0) return s;
  const double duty = Duty(work.seconds);
  const double compute = duty * s.compute * std::min(1.0, work.compute / work.seconds);
  const double memory = duty * s.memory * std::min(1.0, work.memory / work.seconds);
  const double measured = ClockFor(compute, memory, measured_room_, 1);
  const double clock = std::min(measured, ClockFor(compute, memory, room_, lock_));
  s.speed = clock / measured;
  const double v2 = spec_.Volts(clock) * spec_.Volts(clock);
  // The same operations as at the measured clock, each at the energy of the new voltage.
  s.compute *= measured * v2;
  s.memory *= spec_.MemoryShare(v2);
  return s;
}

}  // namespace simrun
