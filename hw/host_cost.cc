#include "hw/host_cost.h"

#include <algorithm>

namespace simrun {
namespace {
// Loads that one core keeps under way, hardware prefetch included, of 64 bytes each (Little's law: bytes under way =
// rate x latency). Typical of current server cores; assumed.
constexpr double kBytesUnderWay = 24 * 64;
// Rate of the last-level cache over that of DRAM; assumed.
constexpr double kCacheSpeed = 4;
}  // namespace

HostCosts::HostCosts(const Machine& m, const EngineProfile& profile, int engines) : tiers_(TiersOf(m)) {
  Share(engines);
  const double sockets = SocketsPerHost(m);
  const absl::StatusOr<DType> format = ParseDType(profile.cpu_format);
  double peak = m.host.peak_fp32.value();
  if (format.ok() && (*format == DType::kBf16 || *format == DType::kFp16)) peak = std::max(peak, m.host.peak_bf16.value());
  if (format.ok() && *format == DType::kInt8) {
    peak = std::max({peak, m.host.peak_bf16.value(), m.host.peak_int8.value()});
  }
  // A CPU without a stated peak: AVX2, 16 fp32 FLOP per core and cycle at 2.5 GHz.
  if (!(peak > 0)) peak = m.host.cores * 16 * 2.5e9;
  peak_ = peak * sockets;
  fixed_ = profile.cpu_operator.value();
  compute_efficiency_ = profile.cpu_compute_efficiency;
  memory_efficiency_ = profile.cpu_memory_efficiency;
  lines_ = kBytesUnderWay * m.host.cores * sockets;
  llc_ = m.host.llc.value() * sockets;
  watts_ = (m.host.tdp - m.host.idle_power).value() * sockets;
  idle_watts_ = m.host.idle_power.value() * sockets;
}

double HostCosts::Cap(TierKind tier, double bytes, double flops) const {
  const MemoryTier& t = tiers_[static_cast<size_t>(tier)];
  double cap = t.read.value() * share_ * memory_efficiency_;
  if (t.latency.value() > 0) cap = std::min(cap, lines_ * share_ / t.latency.value());
  if (flops > 0) cap = std::min(cap, bytes / ComputeSeconds(flops));
  return cap;
}

bool HostCosts::BoundByArithmetic(TierKind tier, double bytes, double flops) const {
  return Cap(tier, bytes, flops) < Cap(tier, bytes, 0);
}

double HostCosts::Seconds(TierKind tier, double bytes, double flops) const {
  if (bytes <= 0) return fixed_ + ComputeSeconds(flops);
  return fixed_ + bytes / Cap(tier, bytes, flops);
}

double HostCosts::UpdateSeconds(TierKind tier, double bytes_read, double bytes_written, double footprint) const {
  const MemoryTier& dram = tiers_[static_cast<size_t>(TierKind::kDram)];
  if (footprint <= llc_ * share_) {
    return fixed_ + (bytes_read + bytes_written) / (dram.read.value() * share_ * memory_efficiency_ * kCacheSpeed);
  }
  const MemoryTier& t = tiers_[static_cast<size_t>(tier)];
  double read = t.read.value() * share_ * memory_efficiency_;
  if (t.latency.value() > 0) read = std::min(read, lines_ * share_ / t.latency.value());
  if (t.one_budget) return fixed_ + (bytes_read + bytes_written) / read;
  return fixed_ + std::max(bytes_read / read, bytes_written / (t.write.value() * share_ * memory_efficiency_));
}

}  // namespace simrun
