#include "models/model_names.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "base/paths.h"

namespace simrun {
namespace {

struct FormatWord {
  std::string_view word;
  DType format;
  int weight;  // of two words the heavier decides: "gptq-int8" is int8
};

constexpr FormatWord kFormats[] = {
    {"fp32", DType::kFp32, 2},     {"float32", DType::kFp32, 2}, {"bf16", DType::kBf16, 2},  {"bfloat16", DType::kBf16, 2}, {"fp16", DType::kFp16, 2},
    {"float16", DType::kFp16, 2},  {"half", DType::kFp16, 2},    {"fp8", DType::kFp8, 2},    {"float8", DType::kFp8, 2},    {"e4m3", DType::kFp8, 2},
    {"e5m2", DType::kFp8, 2},      {"int8", DType::kInt8, 2},    {"int4", DType::kInt4, 2},  {"mxfp4", DType::kMxfp4, 2},   {"nvfp4", DType::kNvfp4, 2},
    {"fp4", DType::kNvfp4, 2},     {"w8a8", DType::kInt8, 1},    {"w8a16", DType::kInt8, 1}, {"8bit", DType::kInt8, 1},     {"w4a16", DType::kInt4, 1},
    {"4bit", DType::kInt4, 1},     {"awq", DType::kInt4, 0},     {"gptq", DType::kInt4, 0},
};

// Words of checkpoints' names that leave the dimensions as they are.
constexpr std::string_view kSilent[] = {"meta",    "instruct", "chat",      "it",    "hf",  "base",   "thinking", "preview", "dynamic",
                                        "static",  "block",    "quantized", "quant", "kv",  "tensor", "per",      "channel", "qat",
                                        "g128",    "128g",     "marlin",    "gguf",  "bnb"};

const FormatWord* FormatOf(std::string_view word) {
  const auto* it = std::find_if(std::begin(kFormats), std::end(kFormats), [&](const FormatWord& f) { return f.word == word; });
  return it == std::end(kFormats) ? nullptr : it;
}

// "2407", "0528": year and month, or month and day.
bool IsDate(std::string_view word) {
  return word.size() == 4 && std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

}  // namespace

std::string ModelSpelling(std::string_view name) {
  std::string spelling;
  for (const std::string& word : NameWords(name.substr(name.rfind('/') + 1))) {
    const bool silent = std::find(std::begin(kSilent), std::end(kSilent), word) != std::end(kSilent);
    if (!silent && FormatOf(word) == nullptr && !IsDate(word)) spelling += word;
  }
  return spelling;
}

std::optional<DType> FormatIn(std::string_view text) {
  if (const absl::StatusOr<DType> exact = ParseDType(text); exact.ok()) return *exact;
  const FormatWord* best = nullptr;
  for (const std::string& word : NameWords(text)) {
    const FormatWord* found = FormatOf(word);
    if (found != nullptr && (best == nullptr || found->weight > best->weight)) best = found;
  }
  return best == nullptr ? std::nullopt : std::optional(best->format);
}

absl::StatusOr<std::string> ResolveModel(std::string_view name, const Catalog& catalog) {
  const bool path = !name.empty() && (name[0] == '/' || name[0] == '.');
  return catalog.Resolve("models", name, path ? PlainSpelling : ModelSpelling);
}

bool IsModelPath(const std::string& name, const std::string& base_dir, const Catalog& catalog) {
  if (IsEntryFile(name) || name.find(".json") != std::string::npos) return true;
  std::error_code ignored;
  return !catalog.Resolve("models", name).ok() && std::filesystem::is_directory(ResolvePath(base_dir, name), ignored);
}

}  // namespace simrun
