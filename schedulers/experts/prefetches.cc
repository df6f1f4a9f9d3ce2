#include "schedulers/experts/prefetches.h"

#include <algorithm>

namespace simrun {
namespace {

class NoPrefetch final : public ExpertPrefetch {
 public:
  void Choose(const PrefetchView&, Scratch*, std::vector<Prefetched>* chosen) const override { chosen->clear(); }
  bool idle() const override { return true; }
};

class NextLayer final : public ExpertPrefetch {
 public:
  void Choose(const PrefetchView& view, Scratch* scratch, std::vector<Prefetched>* chosen) const override {
    chosen->clear();
    if (view.layers.empty()) return;
    std::vector<ExpertLoad>& loads = scratch->loads;
    loads.clear();
    for (const ExpertLoad& e : view.layers.front().active) {
      if (!e.on_gpu) loads.push_back(e);
    }
    const size_t n = std::min(loads.size(), static_cast<size_t>(std::max(0, view.transfers)));
    std::partial_sort(loads.begin(), loads.begin() + static_cast<std::ptrdiff_t>(n), loads.end(), [](const ExpertLoad& a, const ExpertLoad& b) {
      return a.tokens != b.tokens ? a.tokens > b.tokens : a.expert < b.expert;
    });
    for (size_t i = 0; i < n; ++i) chosen->push_back({0, loads[i].expert});
  }
};

class Impact final : public ExpertPrefetch {
 public:
  void Choose(const PrefetchView& view, Scratch* scratch, std::vector<Prefetched>* chosen) const override {
    chosen->clear();
    if (scratch->layers.size() < view.layers.size()) scratch->layers.resize(view.layers.size());
    scratch->makespans.clear();
    for (size_t l = 0; l < view.layers.size(); ++l) {
      std::vector<ExpertLoad>& loads = scratch->layers[l];
      loads.assign(view.layers[l].active.begin(), view.layers[l].active.end());
      std::sort(loads.begin(), loads.end(), [](const ExpertLoad& a, const ExpertLoad& b) {
        return a.tokens != b.tokens ? a.tokens > b.tokens : a.expert < b.expert;
      });
      scratch->makespans.push_back(Makespan(view, loads, scratch));
    }
    for (int i = 0; i < view.transfers; ++i) {
      double best = 0;
      size_t best_layer = 0, best_at = 0;
      for (size_t l = 0; l < view.layers.size(); ++l) {
        std::vector<ExpertLoad>& loads = scratch->layers[l];
        int32_t tried = -1;
        for (size_t at = 0; at < loads.size(); ++at) {
          if (loads[at].on_gpu || loads[at].tokens == tried) continue;
          tried = loads[at].tokens;
          loads[at].on_gpu = true;
          const double gain = scratch->makespans[l] - Makespan(view, loads, scratch);
          loads[at].on_gpu = false;
          if (gain > best * (1 + 1e-9) + 1e-15) {
            best = gain;
            best_layer = l;
            best_at = at;
          }
        }
      }
      if (best <= 0) return;
      ExpertLoad& e = scratch->layers[best_layer][best_at];
      e.on_gpu = true;
      scratch->makespans[best_layer] -= best;
      chosen->push_back({static_cast<int>(best_layer), e.expert});
    }
  }

 private:
  static double Makespan(const PrefetchView& view, const std::vector<ExpertLoad>& loads, Scratch* scratch) {
    ExpertLayerView layer{loads, view.costs};
    layer.gpu_ready = view.gpu_ready;
    layer.cpu_ready = view.cpu_ready;
    view.policy->Schedule(layer, &scratch->schedule);
    return scratch->schedule.makespan;
  }
};

}  // namespace

std::unique_ptr<ExpertPrefetch> MakeNoPrefetch() { return std::make_unique<NoPrefetch>(); }
std::unique_ptr<ExpertPrefetch> MakeNextLayerPrefetch() { return std::make_unique<NextLayer>(); }
std::unique_ptr<ExpertPrefetch> MakeImpactPrefetch() { return std::make_unique<Impact>(); }

}  // namespace simrun
