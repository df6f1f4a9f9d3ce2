// Which experts of the layers to come cross the link while it has nothing else to do. Pure decisions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/registry.h"
#include "schedulers/expert_scheduling.h"

namespace simrun {

// What is foreseen of one layer to come, the nearest first.
struct ForeseenLayer {
  std::span<const ExpertLoad> active;  // as predicted; on_gpu also where already on its way
};
struct PrefetchView {
  std::span<const ForeseenLayer> layers;
  ExpertCosts costs;
  double gpu_ready = 0, cpu_ready = 0;  // of each layer, from its start, as in ExpertLayerView
  int transfers = 0;                    // that the link has time for, at least 1
  const ExpertPolicy* policy = nullptr; // that will run the layers
};
struct Prefetched {
  int layer = 0;  // index into layers
  int32_t expert = 0;
};

class ExpertPrefetch {
 public:
  virtual ~ExpertPrefetch() = default;
  // Fills `chosen` with at most `transfers` experts that are not on the GPU, in the order in which they are to cross.
  // `scratch` is working memory.
  struct Scratch {
    std::vector<ExpertLoad> loads;
    ExpertSchedule schedule;
    std::vector<std::vector<ExpertLoad>> layers;
    std::vector<double> makespans;
  };
  virtual void Choose(const PrefetchView& view, Scratch* scratch, std::vector<Prefetched>* chosen) const = 0;
  virtual bool idle() const { return false; }  // true: never chooses anything
};

using ExpertPrefetchFactory = std::function<std::unique_ptr<ExpertPrefetch>()>;
// The built-in kinds: none, next-layer, impact.
const Registry<ExpertPrefetchFactory>& BuiltInExpertPrefetches();
std::vector<std::string> ExpertPrefetchNames();

}  // namespace simrun
