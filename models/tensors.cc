#include "models/tensors.h"

#include <algorithm>

namespace simrun {

namespace {

void AddNorm(const ModelSpec& model, const char* name, int64_t count, std::vector<Tensor>* out) {
  const int64_t width = model.hidden * (model.norm.bias ? 2 : 1);
  out->push_back({name, count * width, Shard::kReplicated, false});
}

void AddLinearAttention(const ModelSpec& model, std::vector<Tensor>* out) {
  const LinearAttentionSpec& l = *model.attention.linear;
  const int64_t h = model.hidden;
  out->push_back({"linear_in_proj", h * 2 * (l.keys() + l.values()), Shard::kTensor, true});
  if (l.gates > 0) {
    out->push_back({"linear_gate_proj", h * l.gates * l.value_heads, Shard::kTensor, false});
    out->push_back({"linear_decay", 2 * l.value_heads, Shard::kTensor, false});  // a rate and a bias per head
  }
  if (l.conv > 0) out->push_back({"linear_conv", l.conv * (2 * l.keys() + l.values()), Shard::kTensor, false});
  out->push_back({"linear_norm", l.value_dim, Shard::kReplicated, false});
  out->push_back({"o_proj", l.values() * h, Shard::kTensor, true});
}

void AddAttention(const ModelSpec& model, std::vector<Tensor>* out) {
  const AttentionSpec& a = model.attention;
  const int64_t h = model.hidden;
  if (a.mla.has_value()) {
    const MlaSpec& m = *a.mla;
    const int64_t qk = m.qk_nope + m.qk_rope;
    if (m.q_lora_rank > 0) {
      out->push_back({"q_a_proj", h * m.q_lora_rank, Shard::kReplicated, true});
      out->push_back({"q_a_norm", m.q_lora_rank, Shard::kReplicated, false});
      out->push_back({"q_b_proj", m.q_lora_rank * a.heads * qk, Shard::kTensor, true});
    } else {
      out->push_back({"q_proj", h * a.heads * qk, Shard::kTensor, true});
    }
    out->push_back({"kv_a_proj", h * (m.kv_lora_rank + m.qk_rope), Shard::kReplicated, true});
    out->push_back({"kv_a_norm", m.kv_lora_rank, Shard::kReplicated, false});
    out->push_back({"kv_b_proj", m.kv_lora_rank * a.heads * (m.qk_nope + m.v_head), Shard::kTensor, true});
    out->push_back({"o_proj", a.heads * m.v_head * h, Shard::kTensor, true});
    if (a.sparse.has_value()) {
      const SparseAttentionSpec& i = *a.sparse;
      out->push_back({"index_q_proj", m.q_lora_rank * i.index_heads * i.index_dim, Shard::kReplicated, true});
      out->push_back({"index_k_proj", h * i.index_dim, Shard::kReplicated, true});
      out->push_back({"index_k_norm", 2 * i.index_dim, Shard::kReplicated, false});
      out->push_back({"index_weights_proj", h * i.index_heads, Shard::kReplicated, false});
    }
    return;
  }
  const int64_t q = a.heads * a.head_dim, kv = a.kv_heads * a.head_dim;
  out->push_back({"q_proj", h * q * (a.output_gate ? 2 : 1), Shard::kTensor, true});
  out->push_back({"kv_proj", h * 2 * kv, Shard::kKvHeads, true});
  out->push_back({"o_proj", q * h, Shard::kTensor, true});
  if (a.qkv_bias) {
    out->push_back({"q_bias", q, Shard::kTensor, false});
    out->push_back({"kv_bias", 2 * kv, Shard::kKvHeads, false});
  }
  if (a.output_bias) out->push_back({"o_bias", h, Shard::kReplicated, false});
  if (a.sinks) out->push_back({"sinks", a.heads, Shard::kTensor, false});
  if (a.qk_norm == "per-head") out->push_back({"qk_norm", 2 * a.head_dim, Shard::kReplicated, false});
  if (a.qk_norm == "full") {
    out->push_back({"q_norm", q, Shard::kTensor, false});
    out->push_back({"k_norm", kv, Shard::kKvHeads, false});
  }
}

void AddMlp(const ModelSpec& model, int64_t ffn, std::vector<Tensor>* out) {
  const int64_t up = (model.mlp.gated ? 2 : 1) * ffn;
  out->push_back({"up_proj", model.hidden * up, Shard::kFfn, true});
  out->push_back({"down_proj", ffn * model.hidden, Shard::kFfn, true});
  if (model.mlp.bias) {
    out->push_back({"up_bias", up, Shard::kFfn, false});
    out->push_back({"down_bias", model.hidden, Shard::kReplicated, false});
  }
}

void AddMoe(const ModelSpec& model, std::vector<Tensor>* out) {
  const MoeSpec& m = *model.moe;
  const int64_t h = model.hidden;
  const int64_t up = (model.mlp.gated ? 2 : 1) * m.ffn;
  out->push_back({"router", h * m.experts, Shard::kReplicated, false});
  if (m.router_bias) out->push_back({"router_bias", m.experts, Shard::kReplicated, false});
  out->push_back({"expert_up_proj", m.experts * h * up, Shard::kExpert, true});
  out->push_back({"expert_down_proj", m.experts * m.ffn * h, Shard::kExpert, true});
  if (m.expert_bias) {
    out->push_back({"expert_up_bias", m.experts * up, Shard::kExpert, false});
    out->push_back({"expert_down_bias", m.experts * h, Shard::kExpertBias, false});
  }
  if (m.shared_ffn > 0) AddMlp(model, m.shared_ffn, out);
  if (m.shared_gate) out->push_back({"shared_gate", h, Shard::kReplicated, false});
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Sum(const std::vector<Tensor>& tensors) {
  int64_t sum = 0;
  for (const Tensor& t : tensors) sum += t.elements;
  return sum;
}

}  // namespace

std::vector<Tensor> EmbeddingTensors(const ModelSpec& model) {
  std::vector<Tensor> out;
  out.push_back({"embedding", model.vocab * model.hidden, Shard::kVocab, false});
  if (model.positions.rows > 0) {
    out.push_back({"position_embedding", model.positions.rows * model.hidden, Shard::kReplicated, false});
  }
  if (model.positions.token_types > 0) {
    out.push_back({"token_type_embedding", model.positions.token_types * model.hidden, Shard::kReplicated, false});
  }
  if (model.norm.embedding) AddNorm(model, "embedding_norm", 1, &out);
  return out;
}

std::vector<Tensor> LayerTensors(const ModelSpec& model, LayerKind kind) {
  std::vector<Tensor> out;
  AddNorm(model, "layer_norms", model.norm.per_layer, &out);
  if (kind.linear) {
    AddLinearAttention(model, &out);
  } else {
    AddAttention(model, &out);
  }
  if (kind.moe) {
    AddMoe(model, &out);
  } else {
    AddMlp(model, model.mlp.ffn, &out);
  }
  return out;
}

std::vector<Tensor> HeadTensors(const ModelSpec& model) {
  std::vector<Tensor> out;
  if (model.norm.final) AddNorm(model, "final_norm", 1, &out);
  if (model.is_encoder()) {
    if (model.pooler) out.push_back({"pooler", model.hidden * (model.hidden + 1), Shard::kReplicated, false});
    return out;
  }
  if (!model.tie_embeddings) out.push_back({"lm_head", model.vocab * model.hidden, Shard::kVocab, false});
  if (model.lm_head_bias) out.push_back({"lm_head_bias", model.vocab, Shard::kVocab, false});
  return out;
}

int64_t ElementsPerGpu(const Tensor& tensor, const ModelSpec& model, const ParallelPlan& plan) {
  switch (tensor.shard) {
    case Shard::kReplicated:
      return tensor.elements;
    case Shard::kTensor:
      return CeilDiv(tensor.elements, plan.tp);
    case Shard::kFfn:
      return CeilDiv(tensor.elements, plan.ffn_ranks());
    case Shard::kKvHeads: {
      const int64_t heads = model.attention.kv_heads;
      return tensor.elements / heads * CeilDiv(heads, plan.tp);
    }
    case Shard::kVocab:
      return tensor.elements / model.vocab * CeilDiv(model.vocab, plan.tp);
    case Shard::kExpert:
      return CeilDiv(tensor.elements, static_cast<int64_t>(plan.ep) * ExpertTensorRanks(plan));
    case Shard::kExpertBias:
      return CeilDiv(tensor.elements, plan.ep);
  }
  return tensor.elements;
}

int ExpertTensorRanks(const ParallelPlan& plan) {
  return plan.ep > 1 ? std::max(1, plan.dp * plan.tp / plan.ep) : plan.tp;
}

DType StreamDType(const ParallelPlan& plan) {
  if (plan.weights == DType::kFp32 || plan.weights == DType::kTf32) return DType::kFp32;
  const bool fp16 = plan.weights == DType::kFp16 || plan.activations == DType::kFp16;
  return fp16 ? DType::kFp16 : DType::kBf16;
}

DType DenseWeightDType(const ModelSpec& model, const ParallelPlan& plan) {
  return model.expert_dtype.has_value() && plan.weights == *model.expert_dtype ? model.native_dtype : plan.weights;
}

DType DenseActivationDType(const ModelSpec& model, const ParallelPlan& plan) {
  return model.expert_dtype.has_value() && plan.weights == *model.expert_dtype ? StreamDType(plan) : plan.activations;
}

int64_t ParameterCount(const ModelSpec& model) {
  int64_t total = Sum(EmbeddingTensors(model)) + Sum(HeadTensors(model));
  for (int64_t i = 0; i < model.layers; ++i) total += Sum(LayerTensors(model, KindOfLayer(model, i)));
  return total;
}

int64_t ActiveParameterCount(const ModelSpec& model, bool count_input_embedding) {
  int64_t total = ParameterCount(model);
  if (!count_input_embedding && !model.tie_embeddings) total -= model.vocab * model.hidden;
  if (!model.moe.has_value()) return total;
  int64_t idle = 0;
  for (const Tensor& t : LayerTensors(model, {true, false})) {
    if (t.shard == Shard::kExpert || t.shard == Shard::kExpertBias) {
      idle += t.elements / model.moe->experts * (model.moe->experts - model.moe->top_k);
    }
  }
  for (int64_t i = 0; i < model.layers; ++i) total -= model.IsMoeLayer(i) ? idle : 0;
  return total;
}

}  // namespace simrun
