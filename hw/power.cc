#include "hw/power.h"

#include <algorithm>

#include "base/rng.h"

namespace simrun {
namespace {

// H200 SXM GEMM fit over boards of 700 W with 129 W idle.
constexpr double kFitIdle = 129, kFitTdp = 700;
constexpr double kFixed = 35, kCompute = 625, kMemory = 459;  // W
constexpr double kComputeExponent = 0.62;
constexpr double kRampSeconds = 9.5e-6;
// Medians on H200 and B200: decode 0.45 x TDP, prefill 0.58-0.78 x TDP.
constexpr double kDecodeFraction = 0.45, kPrefillFraction = 0.67;
// Of the range between idle and TDP while all SMs wait for or copy over the links; assumed.
constexpr double kCollectiveFraction = 0.25;

double Power(double base, double exponent) { return base <= 0 ? 0.0 : base >= 1 ? base : Exp(exponent * Ln(base)); }

}  // namespace

PowerModel::PowerModel(const GpuSpec& gpu, std::optional<Watts> limit) {
  tdp_ = gpu.tdp.value();
  idle_ = std::min(gpu.idle_power.value(), tdp_);
  limit_ = limit.has_value() ? std::min(limit->value(), tdp_) : tdp_;
  const double scale = (tdp_ - idle_) / (kFitTdp - kFitIdle);
  p1_ = kFixed * scale;
  pc_ = kCompute * scale;
  pm_ = kMemory * scale;
}

double PowerModel::KernelWatts(double seconds, double uc, double um) const {
  if (seconds <= 0) return 0;
  const double duty = seconds / (seconds + kRampSeconds);
  const double busy = p1_ + pc_ * Power(std::min(uc, 1.0), kComputeExponent) + pm_ * std::min(um, 1.0);
  return std::min(duty * busy, tdp_ - idle_);
}

double PowerModel::DecodeAttentionWatts() const { return std::max(0.0, kDecodeFraction * tdp_ - idle_); }
double PowerModel::PrefillAttentionWatts() const { return std::max(0.0, kPrefillFraction * tdp_ - idle_); }
double PowerModel::CollectiveWatts() const { return kCollectiveFraction * (tdp_ - idle_); }

double PowerModel::Clock(double watts) const {
  const double room = limit_ - idle_;
  if (watts <= room) return 1;
  if (room <= 0) return kMinClock;
  return std::max(kMinClock, Power(room / watts, 1 / kClockExponent));
}

double PowerModel::Limited(double watts) const { return std::clamp(watts, 0.0, std::max(0.0, limit_ - idle_)); }

}  // namespace simrun
