// Measured operator times: one CSV row per measurement.
//
// Columns by kind of row (others are kept for --out and otherwise ignored); `op`, `time_us`, `source` in all of them:
//   gemm                          dtype m n k
//   attn_prefill, attn_decode     dtype kv_dtype batch q_len kv_len heads kv_heads head_dim
//   mla_prefill, mla_decode       dtype kv_dtype batch q_len kv_len heads
//   moe                           dtype tokens hidden inter topk experts tp ep dist [kernel]
//   all_reduce, allreduce_custom, all_gather, reduce_scatter, alltoall, send_recv
//                                 dtype bytes n_ranks [nodes | dev_per_node]
//   deepep_*                      nodes hidden tokens topk experts [sms]
//   quantize                      dtype m k
//   rmsnorm, add, act_mul, rope, embedding           tokens width bytes
// Files without `op`: mixed attention (prefill_chunk kv_prefill n_decode kv_decode heads kv_heads head_dim) and layers of
// a catalogue model (layer tokens model tp).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "base/csv.h"
#include "hw/operator_cost.h"
#include "models/lowering.h"
#include "models/operators.h"

namespace simrun {

struct OpRow {
  std::string op;          // catalogue name of the operator: gemm, prefill, decode, moe, all_reduce, ...
  std::string format;      // dtype column; of attention the cache's
  std::string dtype;       // entry that prices it: "bf16", "fp8", ...; empty: any
  std::string backend;     // kernels: vllm, sglang, trtllm, nccl, vidur, ...; "-eager" added when launched one by one
  std::string version;
  std::string kernels;     // backend with its version, "vllm-0.14.0-eager"
  std::string source;
  std::string group;       // rows of one group share a weight or head shape
  double seconds = 0;
  std::optional<double> watts;
  std::string problem;     // why it cannot be priced; empty: it can

  Operator work;                             // all but attention
  CommPath path;                             // collectives
  double rows = 0, width = 0;                // kernels bound by bytes
  std::optional<AttentionShape> shape;       // attention, one layer
  AttentionPoint point;
  int64_t past = 0;                          // prefill: keys before the new tokens
  std::optional<AttentionPoint> decode;      // mixed rows: the decode half; `point` is the prefill chunk
  bool mixed = false;
  bool cold = false;         // measured inside a running model: nothing was left in the cache

  bool attention() const { return shape.has_value(); }
  bool prefill() const { return op == "prefill" || op == "mla_prefill"; }

  size_t table = 0, line = 0;                // place in OpTable: file and row of it
};

struct OpTable {
  std::vector<CsvTable> tables;              // one per file
  std::vector<OpRow> rows;                   // in the order of the files; every row is here, priced or not
};

// Reads the files. InvalidArgument naming every bad number and missing column; a kind of row that is not known keeps its
// row with `problem`.
absl::StatusOr<OpTable> ReadOps(const std::vector<std::string>& paths, const Catalog& catalog);

// Experts without a gate have two matrices instead of three, which files do not say. Rows of a shape and kernel that took
// less time than three could be read in from memory, on the GPU they were measured on, had two.
void FindUngatedExperts(const GpuSpec& gpu, std::vector<OpRow>* rows);

}  // namespace simrun
