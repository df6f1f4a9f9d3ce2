#include "models/dtype.h"

#include <array>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun {

namespace {
struct Row {
  std::string_view name;
  double bits;
  int width;  // of the multiply: more bits of mantissa and exponent rank higher
};
constexpr std::array<Row, kNumDTypes> kRows = {{
    {"fp32", 32, 5},
    {"tf32", 32, 4},
    {"bf16", 16, 3},
    {"fp16", 16, 3},
    {"fp8", 8, 2},
    {"int8", 8, 2},
    {"int4", 4, 1},
    {"mxfp4", 4.25, 1},
    {"nvfp4", 4.5, 1},
    {"q4_k_m", 4.85, 1},
    {"q5_0", 5.5, 1},
    {"q6_k", 6.5625, 1},
    {"q8_0", 8.5, 1},
}};
const Row& RowOf(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }
}  // namespace

std::string_view DTypeName(DType dtype) { return RowOf(dtype).name; }

std::vector<std::string> DTypeNames() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.emplace_back(row.name);
  return names;
}

absl::StatusOr<DType> ParseDType(std::string_view name) {
  for (int i = 0; i < kNumDTypes; ++i) {
    if (kRows[static_cast<size_t>(i)].name == name) return static_cast<DType>(i);
  }
  return absl::InvalidArgumentError(fmt::format("\"{}\" is no number format; {}", name, NameHint(name, DTypeNames())));
}

double BitsPerElement(DType dtype) { return RowOf(dtype).bits; }

DType ComputeDType(DType weights, DType activations) {
  return RowOf(weights).width > RowOf(activations).width ? weights : activations;
}

}  // namespace simrun
