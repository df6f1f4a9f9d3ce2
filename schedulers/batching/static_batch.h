// A batch is formed when the engine is empty, prefilled in one step, and kept until its last sequence ends
// (FasterTransformer and early serving stacks). The token budget does not apply.
#pragma once
#include <memory>
#include "schedulers/batching.h"
namespace simrun {
std::unique_ptr<BatchingPolicy> MakeStaticBatch();
}
