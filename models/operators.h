// The operators a step is made of: shapes, FLOPs and bytes, without any notion of a device.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "models/dtype.h"

namespace simrun {

enum class OpKind {
  kGemm,  // m x k by k x n
  kMoe,   // routed experts: top-k choice, permutation, grouped GEMMs, activation, weighted sum (not the router's GEMM)
  kNorm,
  kRope,
  kActivation,
  kAdd,
  kEmbedding,
  kSampling,
  kElementwise,  // this and the six above are bound by bytes
  kQuantize,     // activations to 8 or fewer bits before a GEMM; free where the GEMM's own timing includes it
  kPrefillAttention,
  kDecodeAttention,
  kMlaPrefill,
  kMlaDecode,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kSendRecv,
};
std::string_view OpKindName(OpKind kind);

// The ranks a collective runs over, which decides the links it uses.
enum class CommGroup { kTensor, kFfn, kExpert, kPipeline, kData };

// One operator as one GPU executes it. Fields that do not apply to the kind are zero.
struct Operator {
  OpKind kind = OpKind::kGemm;
  const char* name = "";  // role: "qkv_proj", "attn_norm", "lm_head"
  double count = 1;       // executions per step on this stage (usually its number of layers)
  DType weights = DType::kBf16;
  DType activations = DType::kBf16;
  DType kv = DType::kBf16;

  int64_t m = 0, n = 0, k = 0;                // kGemm; kQuantize uses m, k
  int64_t tokens = 0;                         // kMoe: tokens entering the layer over all ep ranks together; kAllToAll:
                                              // those one rank sends
  int64_t hidden = 0, topk = 0, experts = 0;  // kMoe, and the all-to-alls around it
  int64_t inter = 0;                          // kMoe: inner width of a whole expert
  int tp = 1, ep = 1;                         // kMoe: ranks that share one expert's inner width; ranks of whole experts
  bool gated = true;                          // kMoe: three matrices per expert instead of two
  double imbalance = 1;                       // kMoe: load of the busiest ep rank over the mean, >= 1
  double active_experts = 0;                  // kMoe: experts of one ep rank that get at least one token
  double skew = 1;                            // kMoe: load of the busiest expert over the mean of its rank's, >= 1
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // attention, per GPU
  int64_t window = 0;                             // attention: sliding window, 0 = full
  int ranks = 1;                                  // collectives
  CommGroup group = CommGroup::kTensor;

  double flops = 0;  // of one execution on one GPU
  double bytes = 0;  // moved through device memory in one execution; for collectives the message size per rank:
                     // all-reduce the vector, all-gather and reduce-scatter the full gathered size, all-to-all what a
                     // rank sends, send-recv the message
  bool on_engine = false;  // works on the tokens of all attention replicas together
  int kernels = 1;   // kernels launched per execution by an eager engine
};

}  // namespace simrun
