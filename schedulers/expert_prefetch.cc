#include "schedulers/expert_prefetch.h"

#include "schedulers/experts/prefetches.h"

namespace simrun {

const Registry<ExpertPrefetchFactory>& BuiltInExpertPrefetches() {
  static const auto* const registry = [] {
    auto* r = new Registry<ExpertPrefetchFactory>("expert prefetch");
    const auto add = [r](const char* name, const char* description, ExpertPrefetchFactory factory) {
      SIM_CHECK(r->Add(name, description, std::move(factory)).ok());
    };
    add("none", "experts cross the link only when a layer needs them", &MakeNoPrefetch);
    add("next-layer", "the experts that most tokens of the next layer are expected to choose", &MakeNextLayerPrefetch);
    add("impact", "those whose presence shortens a coming layer most (HybriMoE)", &MakeImpactPrefetch);
    return r;
  }();
  return *registry;
}

std::vector<std::string> ExpertPrefetchNames() { return BuiltInExpertPrefetches().Names(); }

}  // namespace simrun
