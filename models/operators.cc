#include "models/operators.h"

namespace simrun {

std::string_view OpKindName(OpKind kind) {
  switch (kind) {
    case OpKind::kGemm: return "gemm";
    case OpKind::kMoe: return "moe";
    case OpKind::kNorm: return "norm";
    case OpKind::kRope: return "rope";
    case OpKind::kActivation: return "activation";
    case OpKind::kAdd: return "add";
    case OpKind::kEmbedding: return "embedding";
    case OpKind::kSampling: return "sampling";
    case OpKind::kElementwise: return "elementwise";
    case OpKind::kQuantize: return "quantize";
    case OpKind::kPrefillAttention: return "prefill_attention";
    case OpKind::kDecodeAttention: return "decode_attention";
    case OpKind::kMlaPrefill: return "mla_prefill";
    case OpKind::kMlaDecode: return "mla_decode";
    case OpKind::kAllReduce: return "all_reduce";
    case OpKind::kAllGather: return "all_gather";
    case OpKind::kReduceScatter: return "reduce_scatter";
    case OpKind::kAllToAll: return "all_to_all";
    case OpKind::kSendRecv: return "send_recv";
  }
  return "unknown";
}

}  // namespace simrun
