// Batching that fills a long pipeline evenly, for engines whose step takes as long whatever it holds (streamed weights).
#pragma once

#include <memory>

#include "schedulers/batching.h"

namespace simrun {

std::unique_ptr<BatchingPolicy> MakePipelineFill();

}  // namespace simrun
