// Iteration-level batching with whole prompts beside decodes, KV memory reserved for the longest possible
// sequence (Orca, OSDI 2022).
#pragma once
#include <memory>
#include "schedulers/batching.h"
namespace simrun {
std::unique_ptr<BatchingPolicy> MakeOrca();
}
