// Decodes first, then prompt chunks within the token budget (Sarathi-Serve, OSDI 2024; vLLM V1; SGLang).
#pragma once
#include <memory>
#include "schedulers/batching.h"
namespace simrun {
std::unique_ptr<BatchingPolicy> MakeChunkedPrefill();
}
