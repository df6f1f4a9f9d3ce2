// Models straight from a Hugging Face config.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "models/model_spec.h"

namespace simrun {

// The model a config.json describes. `model_type` decides how the other fields are read; multimodal configs
// (llama4, gemma3) give their text model. Biases and norms that the file does not state are those of the architecture.
// `file` is the name used in messages.
// InvalidArgument: not JSON, nested deeper than 64, over 4 MiB, an unsupported architecture (the supported ones are
// named), missing or impossible fields (all of them reported).
absl::StatusOr<ModelSpec> ImportHuggingFaceConfig(std::string_view json_text, std::string_view file);

// The supported values of `model_type`, sorted.
std::vector<std::string> HuggingFaceArchitectures();

}  // namespace simrun
