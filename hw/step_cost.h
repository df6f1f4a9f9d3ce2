// What one engine step costs: time, energy, and which resource bound it.
//
// StepCostModel is what the simulator calls for every step. The compiled model (step_cost_compiled.h) folds all that
// depends on token counts into lazily filled tables; tests substitute closed-form models.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hw/machine.h"
#include "models/step_work.h"

namespace simrun {

// The resource a piece of a step's time is charged to. kWaiting (pipeline bubbles, rank imbalance) and kIdle are
// charged by the simulator.
enum class Bound { kCompute, kMemory, kSerial, kLink, kLaunch, kHost, kWaiting, kHostMemory, kHostCompute };
inline constexpr int kNumBounds = 9;
// "compute", "memory_bandwidth", "serial_depth", "link", "kernel_launch", "host", "waiting", "host_memory",
// "host_compute"
std::string_view BoundName(Bound b);

inline constexpr int kMaxStages = 64;

// Filled by StepCostModel::Predict. For pp stages, stage_seconds[s] is the time stage s is busy with this micro-batch,
// its share of the host work and the hand-over to the next stage included.
struct StepCost {
  std::array<double, kMaxStages> stage_seconds;  // only the first stages() entries are written
  double dynamic_joules = 0;                     // above idle, all GPUs of the engine together
  std::array<double, kNumBounds> bound_seconds;  // sums to the sum of stage_seconds
  // Of engines that prepare and launch a step while the GPU works on the one before. Set by the caller: how long before that
  // one ended the host was done with it (its `ahead`); 0 when the GPU was idle.
  double lead = 0;
  double ahead = 0;          // seconds the GPU still works when the host is done with this step
  double launched_late = 0;  // from the end of the step before until the host is done with this one
};

// Host work of a step: before the GPU starts, beside it, and after it.
struct HostSpan {
  double before = 0, beside = 0, after = 0;
  double Around(double gpu) const { return before + std::max(gpu, beside) + after; }
  // Of an engine that schedules asynchronously, host and GPU two servers in tandem: what is left of the work beside the GPU
  // when the step before has ended.
  HostSpan StartedEarly(StepCost* cost, double gpu) const {
    const double left = std::max(0.0, beside - cost->lead);
    cost->ahead = std::max(0.0, gpu - left);
    cost->launched_late = left;
    return {before, left, after};
  }
};

// What a link or a memory outside the GPUs has carried since the model was made.
struct ResourceUse {
  std::string name;       // "host link to GPU"
  double bytes = 0;
  double capacity = 0;    // bytes per second
  double joules = 0;
};

class StepCostModel {
 public:
  virtual ~StepCostModel() = default;
  // Pipeline stages of the engine.
  virtual int stages() const = 0;
  // `ranks`: the work of each of the engine's dp attention ranks; they step together. At least one rank has work.
  // Called once per step: no allocation, thread-safe only if each simulation owns its model.
  virtual void Predict(std::span<const StepWork> ranks, StepCost* cost) = 0;
  // How many pipeline stages of this engine and its neighbours on the host are at work from the next step on. Models of
  // engines that share nothing ignore it; the others take all to be at work before they are told.
  virtual void ShareHost(int /*stages*/) {}
  // Links and memories of plans that keep tensors outside GPU memory, and the time the host has computed; empty else.
  virtual std::vector<ResourceUse> Resources() const { return {}; }
  virtual double host_busy_seconds() const { return 0; }
  virtual double host_joules() const { return 0; }
};

}  // namespace simrun
