// GPU power while a kernel runs.
//
//     P = min(limit, idle + duty (p1 + pc uc^g + pm um)),   duty = t / (t + tau)
// uc, um: achieved FLOP/s and bytes/s over the datasheet rates. Fitted on H200 GEMMs in a loop (mean error 20 %, 7.6 %
// for kernels longer than 200 us); other devices scale p1, pc and pm by (TDP - idle). Attention draws a constant
// fraction of TDP; communication and elementwise kernels follow the formula with uc = 0.
//
// A power limit below what a kernel would draw lowers the clock: dynamic power falls as clock^2.4 (between the square
// of fixed voltage and the cube of ideal voltage scaling; assumed), compute, serial and launch time grow as 1 / clock,
// memory time stays.
#pragma once

#include <optional>

#include "base/units.h"
#include "hw/machine.h"

namespace simrun {

class PowerModel {
 public:
  PowerModel() = default;
  // `limit`: a cap below TDP, or nullopt.
  PowerModel(const GpuSpec& gpu, std::optional<Watts> limit);

  // Watts above idle of a kernel of `seconds` with achieved fractions uc and um of peak FLOP/s and bytes/s, before a
  // power limit but capped at TDP.
  double KernelWatts(double seconds, double uc, double um) const;
  // Watts above idle of attention: a measured median fraction of TDP.
  double DecodeAttentionWatts() const;
  double PrefillAttentionWatts() const;
  // Watts above idle while GPUs exchange data.
  double CollectiveWatts() const;

  // Clock relative to the full one at which a kernel that would draw `watts` above idle stays below the limit, in
  // [kMinClock, 1]; and the watts it draws then.
  double Clock(double watts) const;
  double Limited(double watts) const;

  double idle_watts() const { return idle_; }
  double tdp() const { return tdp_; }
  double limit() const { return limit_; }
  bool limited() const { return limit_ < tdp_; }

  static constexpr double kClockExponent = 2.4;
  static constexpr double kMinClock = 0.15;  // lowest to highest graphics clock of current boards

 private:
  double idle_ = 0, tdp_ = 0, limit_ = 0;
  double p1_ = 0, pc_ = 0, pm_ = 0;
};

}  // namespace simrun
