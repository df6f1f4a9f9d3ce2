#include "models/lowering.h"

#include <algorithm>
#include <array>

#include "models/expert_load.h"
#include "models/tensors.h"

namespace simrun {

void SetExpertLoad(const MoeSpec& moe, int64_t tokens, Operator* op) {
  op->imbalance = ExpertImbalance(moe.experts, moe.top_k, op->ep, tokens, moe.popularity_cv);
  // The busiest expert is the busiest of as many ranks as there are experts.
  op->skew = std::max(1.0, ExpertImbalance(moe.experts, moe.top_k, static_cast<int>(moe.experts), tokens, moe.popularity_cv) / op->imbalance);
}

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t KvHeadsPerGpu(const ModelSpec& model, const ParallelPlan& plan) {
  return CeilDiv(model.attention.kv_heads, plan.tp);
}

// A 16-bit activation format runs in the format of the residual stream.
DType Runs(DType activations, DType stream) { return BitsPerElement(activations) < 16 ? activations : stream; }

// Appends the operators of one stage.
class Builder {
 public:
  Builder(const ModelSpec& model, const ParallelPlan& plan)
      : model_(model), plan_(plan), stream_(StreamDType(plan)), e_(BytesPerElement(stream_)) {}

  double element_bytes() const { return e_; }
  DType stream() const { return stream_; }

  // Rows m of a linear layer, its input quantised first where the plan says so. `dense`: in the plan's formats, else in
  // that of the residual stream.
  Operator& Gemm(const char* name, double count, int64_t m, int64_t n, int64_t k, bool dense) {
    const DType weights = dense ? DenseWeightDType(model_, plan_) : stream_;
    const DType activations = dense ? Runs(DenseActivationDType(model_, plan_), stream_) : stream_;
    if (BitsPerElement(activations) < 16) {
      Operator& q = Bytes(OpKind::kQuantize, "quantize", count,
                          static_cast<double>(m) * static_cast<double>(k) * (e_ + BytesPerElement(activations)));
      q.activations = activations;
      q.m = m;
      q.k = k;
    }
    Operator op;
    op.kind = OpKind::kGemm;
    op.name = name;
    op.count = count;
    op.weights = weights;
    op.activations = activations;
    op.m = m;
    op.n = n;
    op.k = k;
    const double dm = static_cast<double>(m), dn = static_cast<double>(n), dk = static_cast<double>(k);
    op.flops = 2 * dm * dn * dk;
    op.bytes = BytesPerElement(activations) * dm * dk + BytesPerElement(weights) * dn * dk + e_ * dm * dn;
    return Add(op);
  }

  // An operator bound by the bytes it moves.
  Operator& Bytes(OpKind kind, const char* name, double count, double bytes, int kernels = 1) {
    Operator op;
    op.kind = kind;
    op.name = name;
    op.count = count;
    op.weights = op.activations = stream_;
    op.bytes = bytes;
    op.kernels = kernels;
    return Add(op);
  }

  void Collective(OpKind kind, const char* name, double count, int ranks, double bytes,
                  CommGroup group = CommGroup::kTensor) {
    if (ranks <= 1) return;
    Operator& op = Bytes(kind, name, count, bytes);
    op.ranks = ranks;
    op.group = group;
  }

  // `heads` x (m x k by k x n): the batched products of absorbed MLA, as one GEMM of the same FLOPs and weights.
  void Batched(const char* name, double count, int64_t m, int64_t n, int64_t k, int64_t heads) {
    Operator op;
    op.kind = OpKind::kGemm;
    op.name = name;
    op.count = count;
    op.weights = DenseWeightDType(model_, plan_);
    op.activations = stream_;
    op.m = m;
    op.n = n * heads;
    op.k = k;
    const double dm = static_cast<double>(m), dn = static_cast<double>(op.n), dk = static_cast<double>(k);
    op.flops = 2 * dm * dn * dk;
    op.bytes = e_ * dm * dk * static_cast<double>(heads) + BytesPerElement(op.weights) * dn * dk + e_ * dm * dn;
    Add(op);
  }

  Operator& Add(const Operator& op) {
    ops_.push_back(op);
    return ops_.back();
  }
  std::vector<Operator> Take() { return std::move(ops_); }
  size_t size() const { return ops_.size(); }
  // Operators from the `from`-th on work on the tokens of all attention replicas.
  void MarkOnEngine(size_t from) {
    for (size_t i = from; i < ops_.size(); ++i) ops_[i].on_engine = true;
  }

 private:
  const ModelSpec& model_;
  const ParallelPlan& plan_;
  DType stream_;
  double e_;
  std::vector<Operator> ops_;
};

void AddEmbedding(const ModelSpec& model, const ParallelPlan& plan, int64_t tokens, Builder* b) {
  const double row = static_cast<double>(tokens) * static_cast<double>(model.hidden) * b->element_bytes();
  // Rows of other ranks' part of the vocabulary are written as zeros without being read.
  b->Bytes(OpKind::kEmbedding, "embedding", 1, row * (1 + 1.0 / plan.tp));
  b->Collective(OpKind::kAllReduce, "embedding_all_reduce", 1, plan.tp, row);
  int extra = 0;
  if (model.positions.rows > 0) ++extra;
  if (model.positions.token_types > 0) ++extra;
  // Gather a row of the small table (read, write), then add it (two reads, one write).
  if (extra > 0) b->Bytes(OpKind::kEmbedding, "position_embedding", 1, 5.0 * extra * row, 2 * extra);
  if (model.norm.embedding) b->Bytes(OpKind::kNorm, "embedding_norm", 1, 2 * row);
}

// Norms and residual adds around attention and MLP of `count` layers.
void AddNorms(const ModelSpec& model, double count, int64_t tokens, Builder* b) {
  const double x = static_cast<double>(tokens) * static_cast<double>(model.hidden) * b->element_bytes();
  if (model.parallel_blocks) {
    // One input, one or two norms; the two outputs and the residual are summed in two adds.
    b->Bytes(OpKind::kNorm, "layer_norm", count * static_cast<double>(model.norm.per_layer), 2 * x);
    b->Bytes(OpKind::kAdd, "residual_add", 2 * count, 3 * x);
    return;
  }
  if (model.norm.kind == "rms") {
    b->Bytes(OpKind::kNorm, "attn_norm", count, 4 * x);
    b->Bytes(OpKind::kNorm, "mlp_norm", count, 4 * x);
  } else {
    b->Bytes(OpKind::kNorm, "attn_norm", count, 2 * x);
    b->Bytes(OpKind::kNorm, "mlp_norm", count, 2 * x);
    b->Bytes(OpKind::kAdd, "residual_add", 2 * count, 3 * x);
  }
  if (model.norm.per_layer == 4) b->Bytes(OpKind::kNorm, "post_norm", 2 * count, 2 * x);
}

void AddMlaAttention(const ModelSpec& model, const ParallelPlan& plan, double count, int64_t tokens, Builder* b) {
  const MlaSpec& m = *model.attention.mla;
  const int64_t heads = CeilDiv(model.attention.heads, plan.tp);
  const double t = static_cast<double>(tokens), e = b->element_bytes();
  const int64_t latent = m.kv_lora_rank + m.qk_rope;
  if (m.q_lora_rank > 0) {
    b->Gemm("qkv_a_proj", count, tokens, m.q_lora_rank + latent, model.hidden, true);
    b->Bytes(OpKind::kNorm, "qkv_a_norm", count, 2 * t * static_cast<double>(m.q_lora_rank + m.kv_lora_rank) * e, 2);
    b->Gemm("q_b_proj", count, tokens, heads * (m.qk_nope + m.qk_rope), m.q_lora_rank, true);
  } else {
    b->Gemm("q_proj", count, tokens, heads * (m.qk_nope + m.qk_rope), model.hidden, true);
    b->Gemm("kv_a_proj", count, tokens, latent, model.hidden, true);
    b->Bytes(OpKind::kNorm, "kv_a_norm", count, 2 * t * static_cast<double>(m.kv_lora_rank) * e);
  }
  b->Bytes(OpKind::kRope, "rope", count, 2 * t * static_cast<double>((heads + 1) * m.qk_rope) * e);
  b->Bytes(OpKind::kElementwise, "kv_write", count,
           t * static_cast<double>(latent) * (e + BytesPerElement(plan.kv_cache)));
  if (model.has_sparse()) {
    const SparseAttentionSpec& i = *model.attention.sparse;
    b->Gemm("index_q_proj", count, tokens, i.index_heads * i.index_dim, m.q_lora_rank, true);
    b->Gemm("index_k_proj", count, tokens, i.index_dim, model.hidden, true);
    b->Gemm("index_weights_proj", count, tokens, i.index_heads, model.hidden, false);
    b->Bytes(OpKind::kElementwise, "index_narrow", count, t * static_cast<double>((i.index_heads + 1) * i.index_dim) * (e + 1));
  }
  b->Batched("mla_uk", count, tokens, m.kv_lora_rank, m.qk_nope, heads);
  b->Batched("mla_uv", count, tokens, m.v_head, m.kv_lora_rank, heads);
  b->Gemm("o_proj", count, tokens, model.hidden, heads * m.v_head, true);
}

void AddLinearAttention(const ModelSpec& model, const ParallelPlan& plan, double count, int64_t tokens, Builder* b) {
  const LinearAttentionSpec& l = *model.attention.linear;
  const double t = static_cast<double>(tokens), e = b->element_bytes();
  const int64_t keys = l.keys() / plan.tp, values = l.values() / plan.tp;
  b->Gemm("linear_in_proj", count, tokens, 2 * (keys + values), model.hidden, true);
  if (l.gates > 0) b->Gemm("linear_gate_proj", count, tokens, l.gates * l.value_heads / plan.tp, model.hidden, false);
  if (l.conv > 0) b->Bytes(OpKind::kElementwise, "linear_conv", count, 2 * t * static_cast<double>(2 * keys + values) * e);
  b->Bytes(OpKind::kNorm, "linear_norm", count, 3 * t * static_cast<double>(values) * e);
  b->Gemm("o_proj", count, tokens, model.hidden, values, true);
}

// The sum over the tensor-parallel ranks after attention of `count` layers of any kind.
void AddAttentionSum(const ModelSpec& model, const ParallelPlan& plan, double count, int64_t tokens, Builder* b) {
  const double x = static_cast<double>(tokens) * static_cast<double>(model.hidden) * b->element_bytes();
  if (plan.separate_ffn()) {
    b->Collective(OpKind::kReduceScatter, "attn_reduce_scatter", count, plan.tp, x);
  } else if (!model.parallel_blocks) {
    b->Collective(OpKind::kAllReduce, "attn_all_reduce", count, plan.tp, x);
  }
}

void AddAttention(const ModelSpec& model, const ParallelPlan& plan, double count, int64_t tokens, Builder* b) {
  if (model.has_mla()) {
    AddMlaAttention(model, plan, count, tokens, b);
  } else {
    const AttentionSpec& a = model.attention;
    const int64_t heads = CeilDiv(a.heads, plan.tp), kv_heads = KvHeadsPerGpu(model, plan);
    const double t = static_cast<double>(tokens), e = b->element_bytes();
    const double qk = 2 * t * static_cast<double>((heads + kv_heads) * a.head_dim) * e;
    const int64_t gates = a.output_gate ? heads : 0;
    b->Gemm("qkv_proj", count, tokens, (heads + gates + 2 * kv_heads) * a.head_dim, model.hidden, true);
    if (a.qk_norm != "none") b->Bytes(OpKind::kNorm, "qk_norm", count, qk, 2);
    if (a.qk_norm == "full") b->Collective(OpKind::kAllReduce, "qk_norm_all_reduce", count, plan.tp, 8 * t);
    if (model.positions.kind == "rope") b->Bytes(OpKind::kRope, "rope", count, qk);
    if (!model.is_encoder()) {
      b->Bytes(OpKind::kElementwise, "kv_write", count,
               2 * t * static_cast<double>(kv_heads * a.head_dim) * (e + BytesPerElement(plan.kv_cache)));
    }
    if (gates > 0) b->Bytes(OpKind::kElementwise, "attn_gate", count, 3 * t * static_cast<double>(heads * a.head_dim) * e);
    b->Gemm("o_proj", count, tokens, model.hidden, heads * a.head_dim, true);
  }
}

void AddMlpGemms(const ModelSpec& model, const char* up, const char* act, const char* down, int64_t ffn, double count,
                 int64_t tokens, Builder* b) {
  const int up_matrices = model.mlp.gated ? 2 : 1;
  b->Gemm(up, count, tokens, up_matrices * ffn, model.hidden, true);
  b->Bytes(OpKind::kActivation, act, count,
           static_cast<double>(tokens) * static_cast<double>(ffn) * (up_matrices + 1) * b->element_bytes());
  b->Gemm(down, count, tokens, model.hidden, ffn, true);
}

void AddMoe(const ModelSpec& model, const ParallelPlan& plan, double count, int64_t tokens, int64_t engine_tokens,
            Builder* b) {
  const MoeSpec& m = *model.moe;
  const bool exchange = plan.ep > 1 && plan.dp > 1;
  const int64_t rows = exchange ? CeilDiv(tokens, plan.tp) : tokens;  // this rank routes
  const int64_t all = exchange ? engine_tokens : tokens;              // enter the layer
  const int inner = ExpertTensorRanks(plan);
  const double e = b->element_bytes(), h = static_cast<double>(model.hidden);
  const double x = static_cast<double>(tokens) * h * e;
  const DType activations = Runs(plan.activations, b->stream());

  b->Gemm("router", count, rows, m.experts, model.hidden, false);

  const auto all_to_all = [&](const char* name, double element) {
    const double copies = RanksPerToken(m.experts, m.top_k, plan.ep) * (plan.ep - 1) / plan.ep * inner;
    Operator op;
    op.kind = OpKind::kAllToAll;
    op.name = name;
    op.count = count;
    op.weights = op.activations = b->stream();
    op.tokens = rows;
    op.hidden = model.hidden;
    op.topk = m.top_k;
    op.experts = m.experts;
    op.ep = plan.ep;
    op.tp = inner;
    op.ranks = plan.dp * plan.tp;
    op.group = CommGroup::kExpert;
    op.bytes = static_cast<double>(rows) * copies * h * element;
    b->Add(op);
  };
  if (exchange) all_to_all("dispatch", BytesPerElement(activations));

  Operator op;
  op.kind = OpKind::kMoe;
  op.name = "experts";
  op.count = count;
  op.weights = plan.weights;
  op.activations = activations;
  op.tokens = all;
  op.hidden = model.hidden;
  op.inter = m.ffn;
  op.topk = m.top_k;
  op.experts = m.experts;
  op.tp = inner;
  op.ep = plan.ep;
  op.gated = model.mlp.gated;
  SetExpertLoad(m, all, &op);
  const double local = static_cast<double>(m.experts) / plan.ep;
  op.active_experts =
      std::max(std::min(1.0, local), local * ActiveExpertShare(m.experts, m.top_k, all, m.popularity_cv));
  const double matrices = op.gated ? 3 : 2, up = op.gated ? 2 : 1;
  const double width = static_cast<double>(m.ffn) / inner;
  const double work = static_cast<double>(all) * static_cast<double>(m.top_k) / plan.ep * op.imbalance;
  // Permute and sum read or write every resident token and every row once; GEMMs and activation read and write rows.
  const double resident = exchange ? work : static_cast<double>(all);
  op.flops = 2 * matrices * h * width * work;
  op.bytes = op.active_experts * matrices * h * width * BytesPerElement(plan.weights) +
             e * (2 * resident * h + 4 * work * h + (2 * up + 2) * work * width);
  op.on_engine = exchange;
  op.kernels = 6;  // top-k, sort, GEMM, activation, GEMM, weighted sum
  b->Add(op);

  if (exchange) {
    all_to_all("combine", e);
    b->Collective(OpKind::kAllGather, "moe_all_gather", count, plan.tp, x);
  }
  if (m.shared_ffn > 0) {
    AddMlpGemms(model, "shared_up_proj", "shared_act", "shared_down_proj", CeilDiv(m.shared_ffn, plan.tp), count,
                tokens, b);
    if (m.shared_gate) b->Bytes(OpKind::kElementwise, "shared_gate", count, 2 * x, 2);
    b->Bytes(OpKind::kAdd, "shared_add", count, 3 * x);
    if (exchange) b->Collective(OpKind::kAllReduce, "shared_all_reduce", count, plan.tp, x);
  }
  if (!exchange) b->Collective(OpKind::kAllReduce, "moe_all_reduce", count, plan.tp, x);
}

// Sum over query tokens past+1 .. past+tokens of the keys each sees.
double Pairs(const AttentionShape& shape, double tokens, double past) {
  if (!shape.causal) return tokens * (past + tokens);
  const auto full = [](double q, double before) { return q * before + q * (q + 1) / 2; };
  if (shape.window <= 0) return full(tokens, past);
  const double w = static_cast<double>(shape.window);
  if (!shape.chunked) {
    const double growing = std::clamp(w - past, 0.0, tokens);  // tokens that still see everything
    return full(growing, past) + (tokens - growing) * w;
  }
  // Sum of the first n terms of 1, 2, ..., w, 1, 2, ..., w, ...
  const auto sum = [w](double n) {
    const double chunks = static_cast<double>(static_cast<int64_t>(n / w)), rest = n - chunks * w;
    return chunks * w * (w + 1) / 2 + rest * (rest + 1) / 2;
  };
  return sum(past + tokens) - sum(past);
}

// The hand-over to the next stage.
void AddStageSend(const ModelSpec& model, const ParallelPlan& plan, int stage, int64_t tokens, Builder* b) {
  if (stage + 1 >= plan.pp) return;
  const bool apart = model.norm.kind == "rms" && !model.parallel_blocks;
  const double message = (apart ? 2 : 1) * static_cast<double>(tokens) * static_cast<double>(model.hidden) * b->element_bytes();
  b->Collective(OpKind::kSendRecv, "stage_send", 1, 2, message / plan.tp, CommGroup::kPipeline);
  b->Collective(OpKind::kAllGather, "stage_all_gather", 1, plan.tp, message);
}

}  // namespace

int LinearLayers(const ModelSpec& model, StageLayers layers) {
  int linear = 0;
  for (int i = layers.first; i < layers.first + layers.count; ++i) linear += model.IsLinearLayer(i) ? 1 : 0;
  return linear;
}

StageLayers LayersOfStage(const ModelSpec& model, const ParallelPlan& plan, int stage) {
  if (!plan.stage_layers.empty()) {
    StageLayers layers;
    for (int s = 0; s < stage; ++s) layers.first += plan.stage_layers[static_cast<size_t>(s)];
    layers.count = plan.stage_layers[static_cast<size_t>(stage)];
    return layers;
  }
  const int pp = plan.pp;
  const int layers = static_cast<int>(model.layers);
  const int base = layers / pp, more = layers % pp;
  return {stage * base + std::min(stage, more), base + (stage < more ? 1 : 0)};
}

std::vector<Operator> LowerTokenOperators(const ModelSpec& model, const ParallelPlan& plan, int stage,
                                          int64_t rank_tokens, int64_t engine_tokens) {
  Builder b(model, plan);
  const StageLayers range = LayersOfStage(model, plan, stage);
  double moe = 0;
  for (int i = range.first; i < range.first + range.count; ++i) moe += model.IsMoeLayer(i) ? 1 : 0;
  const double count = range.count, dense = count - moe;

  if (stage == 0) AddEmbedding(model, plan, rank_tokens, &b);
  if (count > 0) {
    AddNorms(model, count, rank_tokens, &b);
    const double linear = LinearLayers(model, range);
    if (count > linear) AddAttention(model, plan, count - linear, rank_tokens, &b);
    if (linear > 0) AddLinearAttention(model, plan, linear, rank_tokens, &b);
    AddAttentionSum(model, plan, count, rank_tokens, &b);
  }
  const double x = static_cast<double>(rank_tokens) * static_cast<double>(model.hidden) * b.element_bytes();
  if (dense > 0) {
    const int64_t columns = CeilDiv(model.mlp.ffn, plan.ffn_ranks());
    if (plan.separate_ffn()) {
      // Tokens of one group of MLP ranks: those of all attention replicas, or its part of this replica's.
      const bool shared = plan.dp > 1;
      const int64_t tokens = shared ? engine_tokens : CeilDiv(rank_tokens * plan.ffn_ranks(), plan.tp);
      const double gathered = static_cast<double>(tokens) * static_cast<double>(model.hidden) * b.element_bytes();
      const size_t before = b.size();
      b.Collective(OpKind::kAllGather, "mlp_all_gather", dense, plan.ffn_ranks(), gathered, CommGroup::kFfn);
      AddMlpGemms(model, "up_proj", "act", "down_proj", columns, dense, tokens, &b);
      b.Collective(OpKind::kReduceScatter, "mlp_reduce_scatter", dense, plan.ffn_ranks(), gathered, CommGroup::kFfn);
      if (shared) b.MarkOnEngine(before);
      b.Collective(OpKind::kAllGather, "attn_all_gather", dense, plan.tp, x);
    } else {
      AddMlpGemms(model, "up_proj", "act", "down_proj", columns, dense, rank_tokens, &b);
      b.Collective(OpKind::kAllReduce, "mlp_all_reduce", dense, plan.tp, x);
    }
  }
  if (moe > 0) AddMoe(model, plan, moe, rank_tokens, engine_tokens, &b);
  AddStageSend(model, plan, stage, rank_tokens, &b);
  return b.Take();
}

std::vector<Operator> LowerStageSend(const ModelSpec& model, const ParallelPlan& plan, int stage, int64_t tokens) {
  Builder b(model, plan);
  AddStageSend(model, plan, stage, tokens, &b);
  return b.Take();
}

std::vector<Operator> LowerHeadOperators(const ModelSpec& model, const ParallelPlan& plan, int stage, int64_t rows) {
  Builder b(model, plan);
  if (stage + 1 != plan.pp || rows <= 0) return b.Take();
  const double r = static_cast<double>(rows), v = static_cast<double>(model.vocab), e = b.element_bytes();
  if (model.norm.final) {
    b.Bytes(OpKind::kNorm, "final_norm", 1,
            (model.norm.kind == "rms" ? 4 : 2) * r * static_cast<double>(model.hidden) * e);
  }
  if (model.is_encoder()) {
    if (model.pooler) b.Gemm("pooler", 1, rows, model.hidden, model.hidden, false);
    return b.Take();
  }
  b.Gemm("lm_head", 1, rows, CeilDiv(model.vocab, plan.tp), model.hidden, false);
  b.Collective(OpKind::kAllGather, "logits_all_gather", 1, plan.tp, r * v * e);
  // To fp32, then two passes (maximum or threshold, then the choice).
  Operator& sampling = b.Bytes(OpKind::kSampling, "sampling", 1, r * v * (e + 4 + 8), 4);
  sampling.m = rows;
  sampling.n = model.vocab;
  return b.Take();
}

std::vector<AttentionShape> AttentionShapes(const ModelSpec& model, const ParallelPlan& plan, int stage) {
  const StageLayers range = LayersOfStage(model, plan, stage);
  const double linear = LinearLayers(model, range);
  double windowed = 0;
  for (int i = range.first; i < range.first + range.count; ++i) windowed += model.IsWindowedLayer(i) ? 1 : 0;
  AttentionShape shape;
  shape.mla = model.has_mla();
  shape.heads = CeilDiv(model.attention.heads, plan.tp);
  shape.kv_heads = shape.mla ? 1 : KvHeadsPerGpu(model, plan);
  shape.head_dim = model.attention.head_dim;
  shape.v_head_dim = model.v_head_dim();
  if (shape.mla) {
    shape.mla_latent = model.attention.mla->kv_lora_rank;
    shape.mla_rope = model.attention.mla->qk_rope;
  }
  shape.causal = !model.is_encoder();
  shape.kv = plan.kv_cache;
  shape.compute = StreamDType(plan);
  std::vector<AttentionShape> shapes;
  if (range.count - windowed - linear > 0) {
    shape.layers = range.count - windowed - linear;
    if (model.has_sparse()) {
      const SparseAttentionSpec& i = *model.attention.sparse;
      AttentionShape index;
      index.layers = shape.layers;
      index.indexer = true;
      index.heads = i.index_heads;
      index.kv_heads = 1;
      index.head_dim = i.index_dim;
      index.kv = index.compute = DType::kFp8;
      shapes.push_back(index);
      shape.top_k = i.top_k;
    }
    shapes.push_back(shape);
  }
  if (linear > 0) {
    const LinearAttentionSpec& l = *model.attention.linear;
    AttentionShape state;
    state.layers = linear;
    state.linear = true;
    state.heads = l.value_heads / plan.tp;
    state.kv_heads = l.key_heads / plan.tp;
    state.head_dim = l.key_dim;
    state.v_head_dim = l.value_dim;
    state.kv = l.state;
    state.compute = shape.compute;
    shapes.push_back(state);
  }
  if (windowed > 0) {
    shape.layers = windowed;
    shape.window = model.attention.window;
    shape.chunked = model.attention.pattern == "chunked";
    shapes.push_back(shape);
  }
  return shapes;
}

int64_t IndexBytes(const AttentionShape& indexer) { return indexer.head_dim + 4; }

double PrefillAttentionFlops(const AttentionShape& shape, int64_t tokens, int64_t past) {
  const double heads = static_cast<double>(shape.heads);
  if (shape.linear) {
    const double d = static_cast<double>(shape.head_dim), dv = static_cast<double>(shape.v_head_dim);
    const double chunk = static_cast<double>(std::min(tokens, kLinearChunk));
    return 2 * heads * static_cast<double>(tokens) * (3 * d * dv + chunk * (3 * d + 2 * dv));
  }
  const double widths = static_cast<double>(shape.head_dim + shape.v_head_dim);
  if (shape.top_k > 0) return static_cast<double>(tokens) * DecodeAttentionFlops(shape, shape.top_k);
  double flops = 2 * heads * widths * Pairs(shape, static_cast<double>(tokens), static_cast<double>(past));
  if (shape.mla) {
    const double expanded = static_cast<double>(shape.head_dim - shape.mla_rope + shape.v_head_dim);
    flops += 2 * static_cast<double>(past) * static_cast<double>(shape.mla_latent) * heads * expanded;
  }
  return flops;
}

double DecodeAttentionFlops(const AttentionShape& shape, int64_t kv) {
  if (shape.linear) return 6 * static_cast<double>(shape.heads * shape.head_dim * shape.v_head_dim);
  const double widths =
      static_cast<double>(shape.mla ? 2 * shape.mla_latent + shape.mla_rope : shape.head_dim + shape.v_head_dim);
  const int64_t seen = shape.top_k > 0 ? shape.top_k : shape.window > 0 ? std::min(kv, shape.window) : kv;
  return 2 * static_cast<double>(shape.heads) * widths * static_cast<double>(seen);
}

Bytes WeightBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int stage) {
  const double matrix = BytesPerElement(DenseWeightDType(model, plan));
  const double expert = BytesPerElement(plan.weights);
  const double other = BytesPerElement(StreamDType(plan));
  const auto bytes = [&](const std::vector<Tensor>& tensors) {
    double sum = 0;
    for (const Tensor& t : tensors) {
      const double element = !t.matrix ? other : t.shard == Shard::kExpert ? expert : matrix;
      sum += static_cast<double>(ElementsPerGpu(t, model, plan)) * element;
    }
    return sum;
  };
  const StageLayers range = LayersOfStage(model, plan, stage);
  std::array<std::array<double, 2>, 2> layers{};  // by experts, linear attention
  for (int i = range.first; i < range.first + range.count; ++i) ++layers[model.IsMoeLayer(i)][model.IsLinearLayer(i)];
  double total = 0;
  for (const bool moe : {false, true}) {
    for (const bool linear : {false, true}) {
      if (layers[moe][linear] > 0) total += layers[moe][linear] * bytes(LayerTensors(model, {moe, linear}));
    }
  }
  if (stage == 0) total += bytes(EmbeddingTensors(model));
  if (stage + 1 == plan.pp) {
    total += bytes(HeadTensors(model));
    if (model.tie_embeddings && plan.pp > 1 && !model.is_encoder()) {
      total += bytes({{"embedding", model.vocab * model.hidden, Shard::kVocab, false}});
    }
  }
  return Bytes(total);
}

KvBytes KvBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int stage) {
  KvBytes kv;
  if (model.is_encoder()) return kv;
  for (const AttentionShape& s : AttentionShapes(model, plan, stage)) {
    if (s.linear) continue;
    const int64_t elements = s.mla ? s.mla_latent + s.mla_rope : s.kv_heads * (s.head_dim + s.v_head_dim);
    const double of_token = s.indexer ? static_cast<double>(IndexBytes(s)) : static_cast<double>(elements) * BytesPerElement(plan.kv_cache);
    const Bytes bytes(s.layers * of_token);
    if (s.window > 0) {
      kv.per_token_windowed += bytes;
      kv.window = s.window;
    } else {
      kv.per_token += bytes;
    }
  }
  return kv;
}

Bytes StateBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int stage) {
  if (!model.has_linear()) return Bytes(0);
  const LinearAttentionSpec& l = *model.attention.linear;
  const double layers = LinearLayers(model, LayersOfStage(model, plan, stage));
  const double state = static_cast<double>(l.values() * l.key_dim) * BytesPerElement(l.state);
  const double looked_back = static_cast<double>(std::max<int64_t>(0, l.conv - 1) * (2 * l.keys() + l.values())) * BytesPerElement(StreamDType(plan));
  return Bytes(layers * (state + looked_back) / plan.tp);
}

Bytes ActivationBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int64_t tokens, int64_t rows, int64_t expert_chunk) {
  const double t = static_cast<double>(tokens), e = BytesPerElement(StreamDType(plan)),
               h = static_cast<double>(model.hidden);
  const int up = model.mlp.gated ? 2 : 1;
  const int64_t heads = CeilDiv(model.attention.heads, plan.tp);
  const int64_t kv_heads = model.has_mla() ? heads : KvHeadsPerGpu(model, plan);
  const int64_t attention_width =
      (heads + kv_heads) * model.attention.head_dim + (kv_heads + heads) * model.v_head_dim();
  double peak = t * static_cast<double>(attention_width) * e;
  if (model.has_linear()) {
    // Queries, keys, values and gate, and values again.
    const LinearAttentionSpec& l = *model.attention.linear;
    peak = std::max(peak, t * static_cast<double>(2 * l.keys() + 3 * l.values()) / plan.tp * e);
  }
  // Tokens of an MLP, gathered from all its ranks when they are split in another way than attention.
  const double mlp_tokens = t * plan.ffn_ranks() / plan.tp;
  const double gathered = plan.separate_ffn() ? 2 * mlp_tokens * h : 0;
  peak = std::max(peak, (mlp_tokens * (up + 1) * static_cast<double>(CeilDiv(model.mlp.ffn, plan.ffn_ranks())) + gathered) * e);
  if (model.moe.has_value()) {
    const MoeSpec& m = *model.moe;
    const bool exchange = plan.ep > 1 && plan.dp > 1;
    const double all = exchange ? t * plan.dp : t;
    const double piece = expert_chunk > 0 ? std::min(all, static_cast<double>(expert_chunk)) : all;
    // Kernels of experts have room for every choice, also of experts on other ranks; what was gathered and what is given back
    // lies beside the pieces.
    const double chosen = piece * static_cast<double>(m.top_k);
    const double width = static_cast<double>(m.ffn) / ExpertTensorRanks(plan);
    peak = std::max(peak, (chosen * (2 * h + (up + 1) * width) + (piece < all ? 2 * all * h : 0)) * e);
  }
  if (!model.is_encoder())
    peak = std::max(peak, static_cast<double>(rows) * static_cast<double>(model.vocab) * (e + 4));
  return Bytes(2 * t * h * e + peak);
}

}  // namespace simrun
