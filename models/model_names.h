// What the names of models and of number formats say.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "models/dtype.h"

namespace simrun {

// What is left of "meta-llama/Llama-3.1-8B-Instruct-FP8" without what does not change its dimensions: owner, tuning, number
// format, date of release, spelling.
std::string ModelSpelling(std::string_view name);

// The format that words of a name or of a quantisation method ask for: "Qwen3-8B-FP8", "bfloat16", "gptq-int8", "w4a16";
// nothing where none does.
std::optional<DType> FormatIn(std::string_view text);

// The catalogue's name for a model: as it is written there, else by ModelSpelling, if `name` is no path ("./x", "/x"). NotFound
// with the nearest name.
absl::StatusOr<std::string> ResolveModel(std::string_view name, const Catalog& catalog);

// Whether it is a file's path, or a folder's below `base_dir`: a name as the catalogue writes it goes before a folder, and that
// before a name of the same spelling.
bool IsModelPath(const std::string& name, const std::string& base_dir, const Catalog& catalog);

}  // namespace simrun
