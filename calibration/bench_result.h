// A benchmark result of `vllm bench serve` (--save-result) as a measured case.
//
// The JSON says how the server was loaded and what was measured; which server it was stands in a small YAML file beside it
// (result.json, result.yaml), or in one given by name:
//
//   gpu: h100-sxm-80gb          # required
//   model: llama-3.1-8b         # default: the last part of the JSON's model_id
//   tp: 2                       # also pp, dp, ep, engine, engine_version, weights_dtype, kv_dtype, random_range_ratio,
//                               # async_scheduling, moe_backend, max_num_seqs, max_num_batched_tokens, num_gpu_blocks,
//                               # block_size, max_model_len
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calibration/cases.h"

namespace simrun {

// One case. `flags`: the YAML file; empty: the one beside the JSON. InvalidArgument for a result without any value that can
// be compared, NotFound without flags.
absl::StatusOr<MeasuredCase> ReadBenchResult(const std::string& path, const std::string& flags = "");

// ReadCases for a table, ReadBenchResult for a file whose name ends with .json.
absl::StatusOr<std::vector<MeasuredCase>> ReadCaseFile(const std::string& path, const std::string& flags = "");

}  // namespace simrun
