// Number formats and what one element of each costs in memory.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace simrun {

// Order matters: tables indexed by DType (peak rates of a device) use it.
enum class DType { kFp32, kTf32, kBf16, kFp16, kFp8, kInt8, kInt4, kMxfp4, kNvfp4, kQ4KM, kQ5, kQ6K, kQ8 };
inline constexpr int kNumDTypes = 13;

// "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "int4", "mxfp4", "nvfp4", "q4_k_m", "q5_0", "q6_k", "q8_0".
std::string_view DTypeName(DType dtype);
absl::StatusOr<DType> ParseDType(std::string_view name);
std::vector<std::string> DTypeNames();

// Bits one stored element takes, block scales included: mxfp4 4.25 (one 8-bit scale per 32), nvfp4 4.5 (one fp8 scale
// per 16), q4_k_m 4.85 (llama.cpp's mix of 4- and 6-bit blocks, over a whole model), q5_0 5.5, q6_k 6.5625 and q8_0 8.5 (its blocks with their scales); per-channel scales of fp8, int8 and int4 are below 0.1 % and left out. tf32 is stored as fp32.
double BitsPerElement(DType dtype);
inline double BytesPerElement(DType dtype) { return BitsPerElement(dtype) / 8; }

// The format the multiply runs in when weights and activations have these formats: the wider of the two, except that
// weight-only formats (int4, mxfp4, those of llama.cpp, and int8 under bf16 activations) are widened to the activation format.
DType ComputeDType(DType weights, DType activations);

}  // namespace simrun
