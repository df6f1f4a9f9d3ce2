// Time of operators on the CPU beside the GPU: matrix products over weights that stay in host memory, attention over a
// KV cache there, element-wise updates.
//
//     t = fixed + max(flops / (peak x ec), bytes / (em x bandwidth of the tier)),
//
// peaks of the sockets in use, em and ec the shares that the engine's CPU kernels reach. The bandwidth is shared with
// whatever else uses the memory at the time, so the step model runs an operator as a flow with a cap (Cap) and a fixed
// time; Seconds is the time with the memory to itself.
#pragma once

#include <algorithm>

#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "hw/tiers.h"

namespace simrun {

class HostCosts {
 public:
  // `engines` engines share the cores and the memory.
  HostCosts(const Machine& machine, const EngineProfile& profile, int engines = 1);
  // As many from now on.
  void Share(double engines) { share_ = 1 / std::max(1.0, engines); }

  // Of one operator: hand-over, waking threads, barriers.
  double fixed() const { return fixed_; }
  // Of arithmetic alone, all cores of the sockets in use.
  double ComputeSeconds(double flops) const { return flops / (peak() * compute_efficiency_); }
  // Bytes per second that an operator of `bytes` and `flops` takes at most from a tier: what its arithmetic, its
  // kernels, and loads under way at once allow.
  double Cap(TierKind tier, double bytes, double flops) const;
  // True when arithmetic, not the memory, bounds it.
  bool BoundByArithmetic(TierKind tier, double bytes, double flops) const;
  double Seconds(TierKind tier, double bytes, double flops) const;
  // An element-wise pass that reads and writes; data that fits the last-level cache is worked on there, whatever
  // tier it came from. Reads and writes share a DRAM's rate and have one each on a CXL link.
  double UpdateSeconds(TierKind tier, double bytes_read, double bytes_written, double footprint) const;

  double peak() const { return peak_ * share_; }   // FLOP/s of the format the engine computes in
  double watts() const { return watts_ * share_; } // above idle with all its cores at work
  double idle_watts() const { return idle_watts_ * share_; }
  Provenance provenance() const { return Provenance::kAssumed; }

 private:
  MemoryTiers tiers_;
  double fixed_ = 0, compute_efficiency_ = 1, memory_efficiency_ = 1;
  double share_ = 1;  // of what follows, and of the tiers
  double peak_ = 0;
  double lines_ = 0;  // bytes that loads under way hold at once
  double llc_ = 0;
  double watts_ = 0, idle_watts_ = 0;
};

}  // namespace simrun
