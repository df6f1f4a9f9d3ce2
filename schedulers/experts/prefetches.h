// What to bring to the GPU ahead of its use. See expert_prefetch.h.
#pragma once

#include <memory>

#include "schedulers/expert_prefetch.h"

namespace simrun {

std::unique_ptr<ExpertPrefetch> MakeNoPrefetch();
// Heaviest predicted load of the nearest layer first.
std::unique_ptr<ExpertPrefetch> MakeNextLayerPrefetch();
// HybriMoE (arXiv 2504.05897): greedily the expert that shortens a layer's schedule most if it were resident, over all
// layers foreseen; an expert of a later layer only where it gains more. Equal loads of a layer are tried once.
std::unique_ptr<ExpertPrefetch> MakeImpactPrefetch();

}  // namespace simrun
