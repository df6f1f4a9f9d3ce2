// GPU power.
//
//     P = idle + active + duty a (pc uc + pm um),   at most ceiling x limit
// idle: nothing to do. active: on top while the engine works, whatever runs: context resident, clocks up; it is drawn
// in the gaps between kernels too. uc, um: achieved FLOP/s and bytes/s over the datasheet rates; duty = t / (t + ramp)
// of a kernel of t seconds. So a FLOP and a byte cost the same energy whatever bounds the kernel; in attention a times
// that (scaling, exponentials, rows padded to a matrix tile), elsewhere a = 1. Parameters come from hw/catalog/power
// (PowerSpec); a GPU that was not measured takes those of one with its die, at its own rates and clock, or else the generic
// ones, scaled by TDP - idle.
//
// Clock f (over the boost clock) and core voltage V = v0 + (1 - v0) f (over the voltage at boost): energy of the
// compute part falls with V^2, its rate with f; memory watts keep their DRAM share, the rest (caches, on-chip wires)
// falls with V^2 too; the active watts fall with f V^2. Compute, serial and launch time grow as 1 / f, memory time
// stays. A kernel that would draw more than the board's ceiling was measured at the lower clock that keeps it there:
// a power limit or a locked clock slows it only below that.
//
// Published kernel times are often those of bursts that end before the board's controller lowers the clock. In a run a
// kernel takes at least as long as its operations take at the watts that the board's ceiling leaves for them:
//     t >= duty a (ps uc + pm' um) t / (ceiling x TDP - idle - active)
// ps (PowerSpec::settled): compute watts at the datasheet FLOP/s, at the clock and voltage that long work settles at;
// pm': the memory watts at that voltage. Of 8-bit operands a datasheet FLOP/s may take other watts (settled_narrow).
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/units.h"
#include "hw/machine.h"

namespace simrun {

class PowerModel {
 public:
  PowerModel() = default;
  // `limit`: a cap below TDP, or nullopt. `clock`: locked, or nullopt; needs a known boost clock.
  explicit PowerModel(const GpuSpec& gpu, std::optional<Watts> limit = std::nullopt,
                      std::optional<PerSecond> clock = std::nullopt);

  // A kernel at the rates of the catalogue: its time, and the time its FLOPs and bytes would take at the datasheet rates.
  struct Work {
    double seconds = 0, compute = 0, memory = 0;
    bool attention = false;
    bool narrow = false;   // operands of 8 bits and fewer
  };
  // What a kernel runs at under the limit and the locked clock: speed over the one it was measured at (compute, serial
  // and launch time grow by 1 / speed), and the watts of its compute and memory part, per unit of utilisation.
  struct Setting {
    double speed = 1;
    double compute = 0, memory = 0;
    double room = 0;   // most watts above idle and active
  };
  Setting At(const Work& work) const;
  // Joules above idle and active of a kernel of `seconds` with FLOPs and bytes as in Work, `launches` kernels together.
  [[gnu::always_inline]] double Joules(const Setting& s, double seconds, double compute, double memory, double launches = 1) const {
    const double joules = Duty(seconds, launches) * (s.compute * std::min(compute, seconds) + s.memory * std::min(memory, seconds));
    return std::min(joules, s.room * seconds);
  }

  // Seconds that the board's ceiling alone makes a kernel take in long work; 0: not known for this board.
  double SettledSeconds(const Work& work) const {
    return Duty(work.seconds) * (work.attention ? spec_.attention : 1) * (work.compute * (work.narrow ? settled_narrow_ : settled_) + work.memory * settled_memory_);
  }

  // Watts above idle while the engine works.
  double active_watts() const { return active_; }
  // Watts above idle and active while GPUs exchange data.
  double link_watts() const { return link_; }
  double idle_watts() const { return idle_; }
  double tdp() const { return tdp_; }
  double limit() const { return limit_; }
  // A limit or a locked clock may slow kernels down.
  bool limited() const { return limit_ < tdp_ || lock_ < 1 || !spec_.own_rates; }

  static constexpr double kMinClock = 0.15;  // lowest to highest graphics clock of current boards

 private:
  static constexpr double kTiny = 1e-30, kUnlimited = 1e30;
  // Of what kernels draw at full power: those of `seconds` altogether, `launches` of them.
  double Duty(double seconds, double launches = 1) const { return seconds / (seconds + ramp_ * launches + kTiny); }
  // Watts of the two parts at full clock, and what they draw at a clock.
  double Draw(double compute, double memory, double clock) const {
    const double v2 = spec_.Volts(clock) * spec_.Volts(clock);
    return compute * clock * v2 + memory * spec_.MemoryShare(v2);
  }
  // The highest clock up to `highest` at which the parts draw at most `room` watts.
  double ClockFor(double compute, double memory, double room, double highest) const;

  PowerSpec spec_;
  double idle_ = 0, tdp_ = 0, limit_ = 0, lock_ = 1;
  double active_ = 0, compute_ = 0, memory_ = 0, link_ = 0, ramp_ = 0;   // link and active at the locked clock
  double measured_room_ = 0, room_ = 0;   // above idle and active: at the board's ceiling; at the limit's
  double settled_ = 0, settled_narrow_ = 0, settled_memory_ = 0;   // seconds under the ceiling per second at the datasheet rates; 0: not known
};

}  // namespace simrun
