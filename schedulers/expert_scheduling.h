// Mixture-of-experts layers whose experts lie on more than one memory: which processor runs each active expert, which
// experts cross the link, and which stay in GPU memory. Pure decisions over read-only views.
//
// A layer runs on three timelines. The GPU runs resident experts, and fetched ones once they have arrived. The CPU runs
// experts where they lie. The link brings experts to the GPU one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/registry.h"

namespace simrun {

// Seconds for one expert of a layer: reading its weights once bounds it from below, arithmetic grows with its tokens.
struct ExpertCosts {
  double gpu_base = 0;       // weights through GPU memory, and launches
  double gpu_per_token = 0;  // arithmetic
  double cpu_first = 0;      // once per layer in which the CPU runs anything: hand-over of activations, cold caches
  double cpu_base = 0;       // weights through host memory
  double cpu_per_token = 0;
  double transfer = 0;       // weights over the link

  double Gpu(int64_t tokens) const { return std::max(gpu_base, gpu_per_token * static_cast<double>(tokens)); }
  double Cpu(int64_t tokens) const { return std::max(cpu_base, cpu_per_token * static_cast<double>(tokens)); }
};

// Eight bytes: lists of them are copied and dealt for every layer of every step.
struct ExpertLoad {
  ExpertLoad() = default;
  ExpertLoad(int32_t e, int32_t t, bool resident) : tokens(t), expert(static_cast<int16_t>(e)), on_gpu(resident) {}
  int32_t tokens = 0;   // at least 1
  int16_t expert = 0;
  bool on_gpu = false;  // resident in GPU memory when the layer starts
};

// One layer of one step.
struct ExpertLayerView {
  std::span<const ExpertLoad> active;  // each expert at most once
  ExpertCosts costs;
  // When the timelines are free, from a common start (seconds). The GPU also runs the router and shared experts; the
  // link may still be busy with an earlier prefetch.
  double gpu_ready = 0, cpu_ready = 0, link_ready = 0;
};

// The decision and its times. Reused from layer to layer; keeps its capacity.
struct ExpertSchedule {
  double makespan = 0;                                 // end of the last expert; gpu_ready at least
  double gpu_busy = 0, cpu_busy = 0, link_busy = 0;    // seconds of work on each timeline
  double gpu_end = 0, cpu_end = 0, link_end = 0;       // when each is free again
  int64_t gpu_tokens = 0, cpu_tokens = 0;              // of the experts that each runs
  int64_t fetched_tokens = 0;                          // part of gpu_tokens
  std::vector<int32_t> on_gpu;                         // experts run by the GPU, fetched ones included
  std::vector<int32_t> on_cpu;
  std::vector<int32_t> fetched;                        // in the order in which they cross the link

  // Working memory of policies.
  std::vector<ExpertLoad> resident, remote;
  std::vector<uint32_t> counts;

  void Clear() {
    on_gpu.clear();
    on_cpu.clear();
    fetched.clear();
  }
};

class ExpertPolicy {
 public:
  virtual ~ExpertPolicy() = default;
  // Fills `schedule`. Every active expert is in exactly one of on_gpu and on_cpu; fetched experts are in on_gpu and
  // were not resident. Allocates nothing once `schedule` has seen a layer of the same size.
  virtual void Schedule(const ExpertLayerView& layer, ExpertSchedule* schedule) const = 0;
  // False: no expert ever crosses the link for the layer that needs it.
  virtual bool fetches() const { return true; }
  // False: the CPU never runs one.
  virtual bool computes() const { return true; }
};

using ExpertPolicyFactory = std::function<std::unique_ptr<ExpertPolicy>()>;
// The built-in policies: static, stream, hybrid.
const Registry<ExpertPolicyFactory>& BuiltInExpertPolicies();
std::vector<std::string> ExpertPolicyNames();

// Splits the active experts into schedule->resident and schedule->remote, keeping their order.
void SplitByPlace(std::span<const ExpertLoad> active, ExpertSchedule* schedule);

// Times of a given allocation: `gpu` resident experts run by the GPU, `fetched` ones that cross the link in that order
// and then run on the GPU, `cpu` ones. Fills times and lists; the slow, obvious counterpart of what policies compute.
void TimeExperts(const ExpertLayerView& layer, std::span<const ExpertLoad> gpu, std::span<const ExpertLoad> fetched,
                 std::span<const ExpertLoad> cpu, ExpertSchedule* schedule);

}  // namespace simrun
