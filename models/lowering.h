// From a model and a plan to the operators of one step on one GPU of one pipeline stage.
#pragma once

#include <cstdint>
#include <vector>

#include "base/units.h"
#include "models/model_spec.h"
#include "models/operators.h"
#include "models/parallel_plan.h"

namespace simrun {

// Layers [first, first + count) of a stage: as the plan says, else the first layers % pp stages hold one layer more.
struct StageLayers {
  int first = 0;
  int count = 0;
};
StageLayers LayersOfStage(const ModelSpec& model, const ParallelPlan& plan, int stage);
int LinearLayers(const ModelSpec& model, StageLayers layers);  // those of them with linear attention

// Operators that depend only on token counts: everything but attention itself, LM head and sampling.
//   rank_tokens: new tokens of this attention rank (dp > 1: of the busiest rank)
//   engine_tokens: new tokens of all dp ranks together; equal to rank_tokens when dp = 1. MoE layers see these when
//     ep > 1; with ep = 1 each attention replica has its own experts, split over its tp ranks. The MLP of a dense model
//     sees them when the attention replicas share it (ffn_tp = dp tp). Such operators are marked `on_engine`.
// Includes embedding (first stage), norms, projections, rope, KV write, MLP or MoE, tensor- and expert-parallel
// collectives, and the hand-over to the next stage (all but the last stage). Merged over identical layers via `count`.
//
// Choices, where engines differ:
//  - RMS norms are fused with the residual add before them (one kernel, 4 T h elements moved); layer norms are not
//    (add 3 T h, norm 2 T h). Rope and per-head norms count the full head width.
//  - One all-reduce of T h elements over tp after attention and one after the MLP or MoE; parallel blocks share one.
//    The vocabulary-parallel embedding needs one too. A norm over all heads (qk_norm: full) adds one of 8 bytes per
//    token.
//  - MLA: the down-projections are computed on every rank. W_UK and W_UV appear as the two batched products of the
//    absorbed form (per token 2 H d_c (d_nope + d_v) FLOPs). Expanding the latents of new tokens in prefill (kv_b_proj)
//    costs exactly as much, so the operators serve both; expanding the past is part of PrefillAttentionFlops.
//  - ep > 1, dp = 1: all tp ranks hold all tokens, each computes its own experts, and the all-reduce adds them up.
//  - ep > 1, dp > 1: each rank dispatches its T/tp tokens to the ranks that hold their experts, once per rank, and gets
//    one partial sum back from each: T/tp * (ep-1)/ep * RanksPerToken * (dp tp/ep) vectors of h each way. The way
//    there is in the activation format, the way back 16-bit. With tp > 1 an all-gather over tp follows.
//  - ffn_tp other than tp: the all-reduce after attention becomes a reduce-scatter over tp and an all-gather over the
//    ffn_tp ranks, that after the MLP a reduce-scatter over ffn_tp and an all-gather over tp. With dp > 1 the gathered
//    tokens are those of all attention replicas; with ffn_tp < tp each group of ffn_tp ranks gets ffn_tp / tp of them.
//  - Sparse attention: queries and keys of the indexer are rotated and narrowed to 8 bits in one pass over them.
//  - Linear attention: a convolution reads and writes queries, keys and values once; the gated norm of its output reads the
//    values and the gate and writes once. The state is part of AttentionShape.
//  - Activation formats below 16 bits add a kQuantize before each GEMM; kMoe includes its own.
//  - Hand-over: the hidden state, and the residual where it is still apart (fused RMS norms), each tp rank sending its
//    slice; the receiving stage's all-gather is listed with it.
std::vector<Operator> LowerTokenOperators(const ModelSpec& model, const ParallelPlan& plan, int stage,
                                          int64_t rank_tokens, int64_t engine_tokens);
// How uneven the ranks (op->ep) and experts of a kMoe operator are in a step of `tokens` tokens: its imbalance and skew.
void SetExpertLoad(const MoeSpec& moe, int64_t tokens, Operator* op);
// The hand-over of `tokens` tokens to the next stage alone.
std::vector<Operator> LowerStageSend(const ModelSpec& model, const ParallelPlan& plan, int stage, int64_t tokens);
// Final norm of the emitted rows, LM head, its collective, and sampling: last stage only, empty elsewhere.
std::vector<Operator> LowerHeadOperators(const ModelSpec& model, const ParallelPlan& plan, int stage, int64_t rows);

// Attention is priced in closed form from running sums; this is what does not change from step to step.
// A stage has up to two kinds of layers: full attention, and sliding-window, chunked or linear attention. Layers with sparse
// attention have two shapes each: the indexer, which sees every token, and latent attention to those it chose.
struct AttentionShape {
  double layers = 0;  // of this kind on this stage
  bool mla = false;
  bool linear = false;   // a state per sequence: heads are those of values, kv_heads those of keys
  bool indexer = false;  // of sparse attention: scores alone, without values
  int64_t top_k = 0;     // sparse latent attention: tokens that each token attends to; 0: all of them
  int64_t heads = 0;     // query heads per GPU
  int64_t kv_heads = 0;  // per GPU, at least 1
  int64_t head_dim = 0;  // of q and k
  int64_t v_head_dim = 0;
  int64_t mla_latent = 0;  // kv_lora_rank, MLA only
  int64_t mla_rope = 0;    // qk_rope, MLA only
  int64_t window = 0;      // 0: full
  bool chunked = false;    // the window is a fixed chunk of the sequence instead of the last tokens
  bool causal = true;      // encoders: false
  DType kv = DType::kBf16;     // of the cache; with `linear` of the state
  DType compute = DType::kBf16;
};
std::vector<AttentionShape> AttentionShapes(const ModelSpec& model, const ParallelPlan& plan, int stage);

// FLOPs of attention for one chunk over one layer on one GPU: 2 H (d + d_v) per query-key pair that the mask lets
// through; pairs = q past + q (q+1)/2 when causal and full. MLA: plus 2 past d_c H (d_nope + d_v) to expand the cached
// latents. And for one decode token at context length kv (new token included): 2 H (d + d_v) kv, or
// 2 H (2 d_c + d_rope) kv with MLA, absorbed. Decode counts a chunked layer as if its chunk were full. Linear attention,
// whatever came before: a token reads its state twice and updates it, 6 H d d_v; prompts go in chunks of C = kLinearChunk tokens
// whose products with each other cost 2 C H (3 d + 2 d_v) per token besides (gated delta rule, arXiv 2412.06464; less for
// Mamba-2). Sparse latent attention: 2 H (2 d_c + d_rope) top_k for every token, absorbed; the indexer 2 H d per pair.
inline constexpr int64_t kLinearChunk = 64;
double PrefillAttentionFlops(const AttentionShape& shape, int64_t tokens, int64_t past);
double DecodeAttentionFlops(const AttentionShape& shape, int64_t kv);

// Bytes of weights on each GPU of a stage (with tied embeddings the last stage holds a copy), and of KV cache per token
// and GPU of a stage (dense over all layers; window layers keep min(length, window) tokens, so their bytes are reported
// apart).
Bytes WeightBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int stage);
int64_t IndexBytes(const AttentionShape& indexer);  // of a token's key in one layer: 8 bits per element and a scale
struct KvBytes {
  Bytes per_token;           // full-attention layers
  Bytes per_token_windowed;  // sliding-window layers, for tokens inside the window
  int64_t window = 0;
};
KvBytes KvBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int stage);
// Bytes that each sequence keeps on a GPU of a stage whatever its length: states of linear attention and what their
// convolutions look back on.
Bytes StateBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int stage);
// Peak activation bytes per GPU of a step with `tokens` new tokens per attention rank and `rows` logits rows: hidden
// state and residual, plus the largest of attention, MLP or MoE intermediates, and the logits (16-bit and fp32). Kernels of
// experts take the tokens in pieces of `expert_chunk`; 0: all at once.
Bytes ActivationBytesPerGpu(const ModelSpec& model, const ParallelPlan& plan, int64_t tokens, int64_t rows, int64_t expert_chunk = 0);

// What is wrong with a plan for a model (does not divide, too many stages, dp without ...): problems with paths below
// "plan", at `where`.
void CheckPlan(const ModelSpec& model, const ParallelPlan& plan, const SourceLocation& where, Problems* problems);

}  // namespace simrun
