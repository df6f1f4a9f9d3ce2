// Eager execution kernel by kernel: the host issues launches one after another, the GPU runs them in order. Two servers
// in tandem (SKIP, arXiv 2504.11750):
//     c_i = c_{i-1} + h_i                launch i leaves the host
//     s_i = max(c_i + l, e_{i-1})        kernel i starts; l: launch latency of the platform
//     e_i = s_i + k_i                    and ends
// The step model (engine_profile.h) takes max(sum k, sum h) instead; this is the exact view, for one step.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hw/step_cost_compiled.h"

namespace simrun {

struct KernelLaunch {
  int op = 0;                // kernels of the same operator have the same number
  double host_seconds = 0;   // h: the host issues it
  double kernel_seconds = 0; // k
};

// Times of one kernel, from the start of the step.
struct KernelTimes {
  double issued = 0, start = 0, end = 0;
};

struct LaunchTimeline {
  int64_t kernels = 0;
  double latency = 0;       // IL: the end of the last kernel
  double host_busy = 0;     // sum of h
  double gpu_busy = 0;      // sum of k
  double launch_queue = 0;  // TKLQT: sum of s - c, launch latency and queueing
  double gpu_idle() const { return latency - gpu_busy; }
  double mean_kernel() const { return kernels > 0 ? gpu_busy / static_cast<double>(kernels) : 0; }               // AKD
  double queue_per_launch() const { return kernels > 0 ? launch_queue / static_cast<double>(kernels) : 0; }
  // The host needs longer than the GPU: faster kernels would not help.
  bool host_bound() const { return host_busy > gpu_busy; }
};

// `launch_latency`: l. `times`: filled with one entry per launch when not null.
LaunchTimeline RunLaunches(std::span<const KernelLaunch> launches, double launch_latency, std::vector<KernelTimes>* times = nullptr);

// The kernels of one stage of a step, layer after layer, from what CompiledStepCost::Explain lists; entries without
// kernels (the host) are left out. Kernels of one operator take equal shares of its time. `op` is the index in `operators`.
std::vector<KernelLaunch> LaunchesOf(std::span<const StepOperator> operators, int stage, double host_seconds_per_launch);

// What fusing chains of `length` kernels that always follow one another would save. A chain qualifies when its proximity
// score, occurrences of the whole chain over occurrences of its first kernel, is 1.
struct FusionWhatIf {
  int64_t kernels = 0, fused_kernels = 0, matches = 0;
  int first_op = -1;           // where the chosen chain starts
  double ideal_speedup = 1;    // kernels / fused_kernels, reached while the host is the limit
  LaunchTimeline fused;        // with one launch for each chain
};
// length >= 2. No match: fused_kernels equals kernels.
FusionWhatIf FuseChains(std::span<const KernelLaunch> launches, int64_t length, double launch_latency);

// The same kernels replayed as one CUDA graph: one launch, then back to back. `graph_launch`: host time of one graph;
// every node adds a nanosecond (CUDA 12.6).
LaunchTimeline ReplayGraph(std::span<const KernelLaunch> launches, double graph_launch, double launch_latency);

}  // namespace simrun
