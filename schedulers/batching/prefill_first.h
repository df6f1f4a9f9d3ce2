// Whole prompts have priority over decodes and run in steps of their own (vLLM V0).
#pragma once
#include <memory>
#include "schedulers/batching.h"
namespace simrun {
std::unique_ptr<BatchingPolicy> MakePrefillFirst();
}
