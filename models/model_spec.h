// What a model is: its dimensions, as a value. Everything a step costs follows from this and a ParallelPlan.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "base/params.h"
#include "models/dtype.h"

namespace simrun {

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values are compressed to one latent vector of
// kv_lora_rank plus one shared rotary key of qk_rope per token, and that is what the KV cache holds.
struct MlaSpec {
  int64_t q_lora_rank = 0;  // 0: queries are projected directly
  int64_t kv_lora_rank = 0;
  int64_t qk_nope = 0;  // per head, without position
  int64_t qk_rope = 0;  // per head, rotary
  int64_t v_head = 0;   // per head
  template <class Visitor>
  void Describe(Visitor& v);
};

// Layers that keep a state of fixed size per sequence instead of a KV cache: gated delta rule (Qwen3-Next, Qwen3.5), Mamba-2
// (Granite 4), lightning attention (MiniMax-01). Each value head holds a matrix of key_dim x value_dim. One projection gives
// queries and keys (2 key_heads x key_dim), values and an output gate (2 value_heads x value_dim) and `gates` numbers per value
// head; in Mamba-2 key_heads are its groups and key_dim its state size.
struct LinearAttentionSpec {
  int64_t key_heads = 0;
  int64_t value_heads = 0;
  int64_t key_dim = 0;    // per head
  int64_t value_dim = 0;  // per head
  int64_t conv = 4;       // tokens a causal convolution over queries, keys and values spans; 0: none
  int64_t gates = 2;      // decay and write strength; Mamba-2 1, lightning attention 0
  std::string state_dtype = "bf16";  // format of the state between steps
  int64_t keys() const { return key_heads * key_dim; }
  int64_t values() const { return value_heads * value_dim; }
  // Filled by FinishModel: `state_dtype`.
  DType state = DType::kBf16;
  template <class Visitor>
  void Describe(Visitor& v);
};

// Latent attention of each token to the `top_k` earlier ones that an indexer scores highest (DeepSeek-V3.2). The indexer holds
// one key of index_dim per token, in 8 bits with a scale, and index_heads queries; every rank computes all of it.
struct SparseAttentionSpec {
  int64_t index_heads = 0;
  int64_t index_dim = 0;
  int64_t top_k = 0;
  template <class Visitor>
  void Describe(Visitor& v);
};

struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // heads: multi-head; 1: multi-query; between: grouped-query
  int64_t head_dim = 0;  // of queries and keys; with MLA qk_nope + qk_rope
  bool qkv_bias = false;
  bool output_bias = false;
  bool sinks = false;            // one learned logit per head (gpt-oss)
  bool output_gate = false;      // the query projection is twice as wide and gates the output (Qwen3-Next)
  std::string qk_norm = "none";  // none, per-head (weights of head_dim), full (weights over all heads)
  // "full"; "sliding": a token sees the last `window` tokens; "chunked": it sees its own chunk of `window` tokens; "linear":
  // see LinearAttentionSpec.
  std::string pattern = "full";
  int64_t window = 0;
  int64_t full_every = 0;  // other than full: layers n, 2n, 3n, ... (from 1) see everything; 0: no layer does
  std::optional<MlaSpec> mla;
  std::optional<LinearAttentionSpec> linear;
  std::optional<SparseAttentionSpec> sparse;
  template <class Visitor>
  void Describe(Visitor& v);
};

struct MlpSpec {
  int64_t ffn = 0;    // inner width of the dense layers; 0 when every layer is a mixture of experts
  bool gated = true;  // three matrices (gate, up, down) instead of two
  bool bias = false;
  std::string activation = "silu";
  template <class Visitor>
  void Describe(Visitor& v);
};

struct MoeSpec {
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t ffn = 0;     // inner width of one expert
  int64_t shared = 0;  // experts every token passes; they count together as one MLP of shared_ffn
  int64_t shared_ffn = 0;
  bool shared_gate = false;  // a sigmoid gate on the shared output, `hidden` weights (Qwen MoE)
  int64_t first_dense_layers = 0;
  int64_t every = 1;         // after those, layers every, 2*every, ... (from 1) are MoE and the rest dense
  bool router_bias = false;  // one number per expert: a bias, or DeepSeek's balancing correction
  bool expert_bias = false;
  // Format the experts alone were released in ("mxfp4" for gpt-oss), or "same" as the other matrices. A plan whose
  // `weights` are this format leaves the other matrices at the model's own `dtype`, as the released checkpoint does.
  std::string dtype = "same";
  // Standard deviation over mean of how often an expert is chosen; see expert_load.h.
  double popularity_cv = 0;
  std::string popularity_source;
  // How the choices of a sequence's next token and of the next layer follow; see expert_router.h. The defaults are
  // those of DeepSeek-V2-Lite.
  double token_repeat = 0.195;
  double token_memory = 0.71;
  double layer_affinity = 0.3;
  std::string correlation_source;
  template <class Visitor>
  void Describe(Visitor& v);
};

struct NormSpec {
  std::string kind = "rms";  // rms, layer
  bool bias = false;
  int64_t per_layer = 2;   // 1: attention and MLP share one (parallel blocks); 4: also after each block (Gemma)
  bool final = true;       // one after the last layer
  bool embedding = false;  // one after the embedding (BLOOM, BERT)
  template <class Visitor>
  void Describe(Visitor& v);
};

struct PositionSpec {
  std::string kind = "rope";  // rope, learned, alibi
  int64_t rows = 0;           // learned: rows of the table
  int64_t token_types = 0;    // rows of a token-type table (BERT)
  template <class Visitor>
  void Describe(Visitor& v);
};

// What the publisher says, to check the dimensions against.
struct PublishedSpec {
  double parameters = 0;           // total
  double active_parameters = 0;    // per token, MoE only; 0: not stated
  std::string basis = "headline";  // exact: the checkpoint's count; headline: a rounded figure
  double not_modelled = 0;         // of `parameters`: parts outside the text model, such as a vision tower
  bool flagged = false;            // the dimensions do not give the published total within 1 %; `note` says why
  std::string note;
  template <class Visitor>
  void Describe(Visitor& v);
};

struct ModelSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::string kind = "decoder";  // decoder, encoder
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t vocab = 0;
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<MoeSpec> moe;
  bool parallel_blocks = false;  // attention and MLP read the same input and are summed (GPT-J, Falcon)
  NormSpec norm;
  PositionSpec positions;
  int64_t max_positions = 0;    // longest sequence, prompt and output together
  bool tie_embeddings = false;  // LM head and input embedding are one matrix
  bool lm_head_bias = false;
  bool pooler = false;         // encoder: one hidden x hidden layer on the first token
  std::string dtype = "bf16";  // format of the released weights
  PublishedSpec published;
  std::string source;
  std::string confidence = "C";  // A read in a source, B vendor figure from prior knowledge, C estimate
  std::string note;

  // Filled by LoadModel and Finish, not by YAML.
  DType native_dtype = DType::kBf16;  // `dtype`
  std::optional<DType> expert_dtype;  // `moe.dtype` unless "same"

  bool is_encoder() const { return kind == "encoder"; }
  bool has_mla() const { return attention.mla.has_value(); }
  // Width of one value head: head_dim, or MLA's own.
  int64_t v_head_dim() const { return has_mla() ? attention.mla->v_head : attention.head_dim; }
  bool has_linear() const { return attention.linear.has_value(); }
  bool has_sparse() const { return attention.sparse.has_value(); }
  // `layer` counts from 0.
  bool IsMoeLayer(int64_t layer) const;
  bool IsWindowedLayer(int64_t layer) const;
  bool IsLinearLayer(int64_t layer) const;
  // Elements of K and V the cache holds per token and layer, all heads: 2*Hkv*d, or kv_lora_rank + qk_rope with MLA;
  // 0 for encoders.
  int64_t KvElementsPerTokenPerLayer() const;

  template <class Visitor>
  void Describe(Visitor& v);
};

// A catalogue name or alias, or the name of a checkpoint of such a model (models/model_names.h); or the path of a model in this
// format (*.yaml), of a Hugging Face config.json (*.json), or of a directory that holds one; relative paths are taken from
// `base_dir`. NotFound with the nearest catalogue name; InvalidArgument with every problem of a file.
absl::StatusOr<ModelSpec> LoadModel(std::string_view name_or_path, const Catalog& catalog, const std::string& base_dir = "");
// Reads and checks a spec in this format.
absl::StatusOr<ModelSpec> ReadModel(const YamlNode& node, std::string name);
// Checks that the dimensions make a model (heads % kv_heads, positive sizes, known formats, ...) and fills the parsed
// formats. Problems carry paths such as "attention.kv_heads".
void FinishModel(const SourceLocation& where, Problems* problems, ModelSpec* model);

// All weights of the model, and those one token is multiplied with: with MoE only the top_k routed and the shared
// experts. Active counts follow no convention, so the caller says whether the input embedding is counted (a tied one is
// counted once in any case, as the LM head).
int64_t ParameterCount(const ModelSpec& model);
int64_t ActiveParameterCount(const ModelSpec& model, bool count_input_embedding);

// Files under models/catalog, compiled in.
const std::vector<EmbeddedFile>& ModelCatalogFiles();

std::vector<std::string> ModelKindNames();
std::vector<std::string> ExpertDTypeNames();
std::vector<std::string> AttentionPatternNames();
std::vector<std::string> StateDTypeNames();
std::vector<std::string> QkNormNames();
std::vector<std::string> NormKindNames();
std::vector<std::string> PositionKindNames();
std::vector<std::string> PublishedBasisNames();
std::vector<std::string> ConfidenceNames();

// ---- declarations of the parameters ----

template <class Visitor>
void MlaSpec::Describe(Visitor& v) {
  v.Field("q_lora_rank", q_lora_rank, {.help = "rank of the query compression; 0: none", .min = 0, .max = 1e6});
  v.Field("kv_lora_rank", kv_lora_rank,
          {.help = "rank of the key-value compression", .min = 1, .max = 1e6, .required = true});
  v.Field("qk_nope", qk_nope,
          {.help = "query/key width per head without position", .min = 1, .max = 1e6, .required = true});
  v.Field("qk_rope", qk_rope, {.help = "rotary query/key width per head", .min = 1, .max = 1e6, .required = true});
  v.Field("v_head", v_head, {.help = "value width per head", .min = 1, .max = 1e6, .required = true});
}

template <class Visitor>
void LinearAttentionSpec::Describe(Visitor& v) {
  v.Field("key_heads", key_heads, {.help = "heads of queries and keys; groups of Mamba-2", .min = 1, .max = 1e5, .required = true});
  v.Field("value_heads", value_heads, {.help = "heads of values, each with a state", .min = 1, .max = 1e5, .required = true});
  v.Field("key_dim", key_dim, {.help = "width of a query or key head; state size of Mamba-2", .min = 1, .max = 1e5, .required = true});
  v.Field("value_dim", value_dim, {.help = "width of a value head", .min = 1, .max = 1e5, .required = true});
  v.Field("conv", conv, {.help = "tokens the causal convolution spans; 0: none", .min = 0, .max = 1024});
  v.Field("gates", gates, {.help = "numbers per value head that gate the state", .min = 0, .max = 16});
  v.Field("state_dtype", state_dtype, {.help = "format of the state between steps", .choices = &StateDTypeNames});
}

template <class Visitor>
void SparseAttentionSpec::Describe(Visitor& v) {
  v.Field("index_heads", index_heads, {.help = "query heads of the indexer", .min = 1, .max = 1e5, .required = true});
  v.Field("index_dim", index_dim, {.help = "width of one of its heads and of its key", .min = 1, .max = 1e5, .required = true});
  v.Field("top_k", top_k, {.help = "tokens that a token attends to", .min = 1, .max = 1e9, .required = true});
}

template <class Visitor>
void AttentionSpec::Describe(Visitor& v) {
  v.Field("heads", heads, {.help = "query heads", .min = 1, .max = 1e5, .required = true});
  v.Field("kv_heads", kv_heads, {.help = "key-value heads", .min = 1, .max = 1e5, .required = true});
  v.Field("head_dim", head_dim, {.help = "width of one query or key head", .min = 1, .max = 1e5, .required = true});
  v.Field("qkv_bias", qkv_bias, {.help = "query, key and value projections have biases"});
  v.Field("output_bias", output_bias, {.help = "the output projection has a bias"});
  v.Field("sinks", sinks, {.help = "one learned sink logit per head"});
  v.Field("output_gate", output_gate, {.help = "the query projection also gives a gate on the output"});
  v.Field("qk_norm", qk_norm, {.help = "normalisation of queries and keys", .choices = &QkNormNames});
  v.Field("pattern", pattern, {.help = "which earlier tokens a token sees", .choices = &AttentionPatternNames});
  v.Field("window", window, {.help = "sliding window or chunk, in tokens", .min = 0, .max = 1e9});
  v.Field("full_every", full_every,
          {.help = "every n-th layer sees all tokens although the others are windowed or linear; 0: none", .min = 0, .max = 1e6});
  v.Field("mla", mla, {.help = "multi-head latent attention"});
  v.Field("linear", linear, {.help = "layers with a state of fixed size, with pattern: linear"});
  v.Field("sparse", sparse, {.help = "an indexer chooses the tokens that latent attention sees"});
}

template <class Visitor>
void MlpSpec::Describe(Visitor& v) {
  v.Field("ffn", ffn, {.help = "inner width of dense layers", .min = 0, .max = 1e7});
  v.Field("gated", gated, {.help = "gate, up and down matrices instead of up and down; experts too"});
  v.Field("bias", bias, {.help = "the matrices have biases"});
  v.Field("activation", activation, {.help = "name of the non-linearity"});
}

template <class Visitor>
void MoeSpec::Describe(Visitor& v) {
  v.Field("experts", experts, {.help = "routed experts per layer", .min = 1, .max = 1e5, .required = true});
  v.Field("top_k", top_k, {.help = "routed experts per token", .min = 1, .max = 1e5, .required = true});
  v.Field("ffn", ffn, {.help = "inner width of one routed expert", .min = 1, .max = 1e7, .required = true});
  v.Field("shared", shared, {.help = "shared experts", .min = 0, .max = 1e5});
  v.Field("shared_ffn", shared_ffn, {.help = "inner width of all shared experts together", .min = 0, .max = 1e7});
  v.Field("shared_gate", shared_gate, {.help = "sigmoid gate on the shared experts"});
  v.Field("first_dense_layers", first_dense_layers, {.help = "leading layers without experts", .min = 0, .max = 1e6});
  v.Field("every", every, {.help = "one in this many of the other layers has experts", .min = 1, .max = 1e6});
  v.Field("router_bias", router_bias, {.help = "one bias per expert in the router"});
  v.Field("expert_bias", expert_bias, {.help = "expert matrices have biases"});
  v.Field("dtype", dtype, {.help = "released format of the experts alone, or same", .choices = &ExpertDTypeNames});
  v.Field("popularity_cv", popularity_cv,
          {.help = "standard deviation over mean of expert popularity", .min = 0, .max = 10});
  v.Field("popularity_source", popularity_source, {.help = "where popularity_cv comes from, with its confidence"});
  v.Field("token_repeat", token_repeat,
          {.help = "part of a token's choices that repeat experts of the sequence's memory", .min = 0, .max = 1});
  v.Field("token_memory", token_memory, {.help = "part of the choices that enter that memory", .min = 0, .max = 1});
  v.Field("layer_affinity", layer_affinity,
          {.help = "part of the choices that follow the token's choice in the layer before", .min = 0, .max = 1});
  v.Field("correlation_source", correlation_source, {.help = "where these three come from, with their confidence"});
}

template <class Visitor>
void NormSpec::Describe(Visitor& v) {
  v.Field("kind", kind, {.help = "root-mean-square or layer normalisation", .choices = &NormKindNames});
  v.Field("bias", bias, {.help = "norms have biases"});
  v.Field("per_layer", per_layer, {.help = "norms in one layer", .min = 1, .max = 4});
  v.Field("final", final, {.help = "a norm after the last layer"});
  v.Field("embedding", embedding, {.help = "a norm after the embedding"});
}

template <class Visitor>
void PositionSpec::Describe(Visitor& v) {
  v.Field("kind", kind, {.help = "how positions enter", .choices = &PositionKindNames});
  v.Field("rows", rows, {.help = "rows of a learned position table", .min = 0, .max = 1e8});
  v.Field("token_types", token_types, {.help = "rows of a token-type table", .min = 0, .max = 1e6});
}

template <class Visitor>
void PublishedSpec::Describe(Visitor& v) {
  v.Field("parameters", parameters, {.help = "published total", .min = 0});
  v.Field("active_parameters", active_parameters, {.help = "published count per token", .min = 0});
  v.Field("basis", basis, {.help = "exact checkpoint count or headline", .choices = &PublishedBasisNames});
  v.Field("not_modelled", not_modelled, {.help = "published parameters outside the text model", .min = 0});
  v.Field("flagged", flagged, {.help = "dimensions and published total differ by more than 1 %; see note"});
  v.Field("note", note, {.help = "what the published figure counts"});
}

template <class Visitor>
void ModelSpec::Describe(Visitor& v) {
  v.Field("aliases", aliases, {.help = "other names, such as Hugging Face ids"});
  v.Field("kind", kind, {.help = "decoder generates with a KV cache; encoder reads once", .choices = &ModelKindNames});
  v.Field("hidden", hidden, {.help = "width of the residual stream", .min = 1, .max = 1e6, .required = true});
  v.Field("layers", layers, {.help = "transformer layers", .min = 1, .max = 1e4, .required = true});
  v.Field("vocab", vocab, {.help = "rows of the embedding", .min = 1, .max = 1e8, .required = true});
  v.Field("attention", attention, {.help = "heads and what they see", .required = true});
  v.Field("mlp", mlp, {.help = "dense feed-forward layers"});
  v.Field("moe", moe, {.help = "mixture of experts"});
  v.Field("parallel_blocks", parallel_blocks, {.help = "attention and MLP side by side"});
  v.Field("norm", norm, {.help = "normalisation"});
  v.Field("positions", positions, {.help = "position information"});
  v.Field("max_positions", max_positions,
          {.help = "longest sequence in tokens", .min = 1, .max = 1e9, .required = true});
  v.Field("tie_embeddings", tie_embeddings, {.help = "LM head and embedding are one matrix"});
  v.Field("lm_head_bias", lm_head_bias, {.help = "the LM head has a bias"});
  v.Field("pooler", pooler, {.help = "encoder with a pooling layer"});
  v.Field("dtype", dtype, {.help = "format of the released weights", .choices = &DTypeNames});
  v.Field("published", published, {.help = "published parameter counts"});
  v.Field("source", source, {.help = "where the dimensions come from"});
  v.Field(
      "confidence", confidence,
      {.help = "A read in a source, B vendor figure from prior knowledge, C estimate", .choices = &ConfidenceNames});
  v.Field("note", note, {.help = "what to know about this entry"});
}

}  // namespace simrun
