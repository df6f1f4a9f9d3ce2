// Hugging Face config.json: any bytes give a checked model or an error, and a model can be counted and lowered.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/hf_import.h"
#include "models/lowering.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto model = simrun::ImportHuggingFaceConfig(text, "config.json");
  if (!model.ok()) {
    if (model.status().message().empty()) std::abort();
    return 0;
  }
  if (model->layers > 1000) return 0;  // counting is linear in the layers
  simrun::ParallelPlan plan;
  simrun::Problems problems;
  simrun::CheckPlan(*model, plan, {}, &problems);
  if (!problems.empty()) std::abort();  // one GPU can always be planned
  if (simrun::ParameterCount(*model) <= 0) std::abort();
  for (const simrun::Operator& op : simrun::LowerTokenOperators(*model, plan, 0, 8, 8)) {
    if (!(op.flops >= 0) || !(op.bytes >= 0)) std::abort();
  }
  if (!(simrun::WeightBytesPerGpu(*model, plan, 0).value() > 0)) std::abort();
  return 0;
}
