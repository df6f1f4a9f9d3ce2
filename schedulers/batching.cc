#include "schedulers/batching.h"

#include "schedulers/batching/chunked_prefill.h"
#include "schedulers/batching/orca.h"
#include "schedulers/batching/pipeline_fill.h"
#include "schedulers/batching/prefill_first.h"
#include "schedulers/batching/static_batch.h"

namespace simrun {

const Registry<BatchingPolicyFactory>& BuiltInBatchingPolicies() {
  static const auto* const registry = [] {
    auto* r = new Registry<BatchingPolicyFactory>("batching policy");
    const auto add = [r](const char* name, const char* description, BatchingPolicyFactory factory) {
      SIM_CHECK(r->Add(name, description, std::move(factory)).ok());
    };
    add("chunked-prefill", "decodes first, then prompt chunks within the token budget (Sarathi, vLLM V1)", &MakeChunkedPrefill);
    add("prefill-first", "whole prompts before decodes, in steps of their own (vLLM V0)", &MakePrefillFirst);
    add("orca", "whole prompts beside decodes, KV reserved for the longest possible sequence (Orca)", &MakeOrca);
    add("pipeline-fill", "decodes, then as many whole prompts per step as keep the KV cache evenly full (MoE-Lens)", &MakePipelineFill);
    add("static", "one batch at a time, kept until its last sequence ends (FasterTransformer)", &MakeStaticBatch);
    return r;
  }();
  return *registry;
}

std::vector<std::string> BatchingPolicyNames() { return BuiltInBatchingPolicies().Names(); }

}  // namespace simrun
