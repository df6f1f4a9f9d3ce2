#include "models/hf_import.h"

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <rapidjson/document.h>
#include <rapidjson/error/en.h>

#include "models/expert_load.h"

namespace simrun {

namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;
constexpr int kMaxDepth = 64;
constexpr int64_t kMaxDimension = 1'000'000'000;

using Json = rapidjson::Value;

// Typed access to one JSON object. A value of null counts as absent, as in the files themselves.
class Config {
 public:
  Config(const Json& object, std::string prefix, std::string architecture, const SourceLocation& where,
         Problems* problems)
      : object_(object),
        prefix_(std::move(prefix)),
        architecture_(std::move(architecture)),
        where_(where),
        problems_(problems) {}

  using Names = std::initializer_list<const char*>;  // current name first, then older ones

  const Json* Find(Names names) const {
    for (const char* name : names) {
      const auto it = object_.FindMember(name);
      if (it != object_.MemberEnd() && !it->value.IsNull()) return &it->value;
    }
    return nullptr;
  }
  bool Has(Names names) const { return Find(names) != nullptr; }

  int64_t Int(Names names, int64_t min = 1) const { return IntOr(names, std::nullopt, min); }
  int64_t IntOr(Names names, std::optional<int64_t> fallback, int64_t min = 1) const {
    const Json* value = Find(names);
    if (value == nullptr) {
      if (fallback.has_value()) return *fallback;
      Fail(*names.begin(), "is missing", fmt::format("needed for model_type \"{}\"", architecture_));
      return min;
    }
    if (!value->IsInt64() || value->GetInt64() < min || value->GetInt64() > kMaxDimension) {
      Fail(*names.begin(), fmt::format("must be a whole number from {} to {}", min, kMaxDimension));
      return min;
    }
    return value->GetInt64();
  }
  bool BoolOr(Names names, bool fallback) const {
    const Json* value = Find(names);
    if (value == nullptr) return fallback;
    if (!value->IsBool()) {
      Fail(*names.begin(), "must be true or false");
      return fallback;
    }
    return value->GetBool();
  }
  std::string TextOr(Names names, const std::string& fallback) const {
    const Json* value = Find(names);
    if (value == nullptr) return fallback;
    if (!value->IsString()) {
      Fail(*names.begin(), "must be text");
      return fallback;
    }
    return std::string(value->GetString(), value->GetStringLength());
  }
  // The object under `name`; an empty one, with a problem noted, when it is not there.
  Config Object(const char* name) const {
    static const Json empty(rapidjson::kObjectType);
    const Json* value = Find({name});
    if (value == nullptr) {
      Fail(name, "is missing", fmt::format("needed for model_type \"{}\"", architecture_));
    } else if (!value->IsObject()) {
      Fail(name, "must be an object");
      value = nullptr;
    }
    return Config(value != nullptr ? *value : empty, Path(name), architecture_, where_, problems_);
  }
  // Whole numbers of an array; nullopt when absent or not such an array.
  std::optional<std::vector<int64_t>> Ints(const char* name) const {
    const Json* value = Find({name});
    if (value == nullptr) return std::nullopt;
    std::vector<int64_t> out;
    if (value->IsArray()) {
      for (const Json& item : value->GetArray()) {
        if (!item.IsInt64()) break;
        out.push_back(item.GetInt64());
      }
      if (out.size() == value->Size()) return out;
    }
    Fail(name, "must be a list of whole numbers");
    return std::nullopt;
  }
  void Fail(const std::string& name, const std::string& what, const std::string& hint = {}) const {
    problems_->Add(where_, Path(name), what, hint);
  }

 private:
  std::string Path(const std::string& name) const { return prefix_.empty() ? name : prefix_ + "." + name; }

  const Json& object_;
  std::string prefix_;
  std::string architecture_;
  SourceLocation where_;
  Problems* problems_;
};

// ---- parts that many architectures share ----

void ReadSizes(const Config& c, ModelSpec* m) {
  m->hidden = c.Int({"hidden_size", "n_embd", "n_embed", "d_model"});
  m->layers = c.Int({"num_hidden_layers", "n_layer", "n_layers"});
  m->vocab = c.Int({"vocab_size"});
  m->attention.heads = c.Int({"num_attention_heads", "n_head", "n_heads"});
  m->attention.kv_heads = c.IntOr({"num_key_value_heads"}, m->attention.heads);
  m->attention.head_dim = c.IntOr({"head_dim"}, std::max<int64_t>(1, m->hidden / m->attention.heads));
}

// A window that covers every position is no window.
void SetWindow(const char* pattern, int64_t window, int64_t full_every, ModelSpec* m) {
  if (window <= 0 || window >= m->max_positions || full_every == 1) return;
  m->attention.pattern = pattern;
  m->attention.window = window;
  m->attention.full_every = full_every;
}

void SetMoe(int64_t experts, int64_t top_k, int64_t ffn, ModelSpec* m) {
  m->moe.emplace();
  m->moe->experts = experts;
  m->moe->top_k = top_k;
  m->moe->ffn = ffn;
  m->moe->popularity_cv = TypicalPopularityCv(experts);
  m->moe->popularity_source = "C: typical of models with as many experts";
}

// Llama's block: RMS norms, rotary positions, gated SiLU MLP, no biases unless stated.
void LlamaFields(const Config& c, ModelSpec* m) {
  ReadSizes(c, m);
  m->max_positions = c.Int({"max_position_embeddings"});
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, false);
  m->mlp.activation = c.TextOr({"hidden_act", "hidden_activation"}, "silu");
}

void Llama(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  m->mlp.ffn = c.Int({"intermediate_size"});
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias", "bias"}, false);
  m->mlp.bias = c.BoolOr({"mlp_bias"}, false);
}

void Mistral(const Config& c, ModelSpec* m) {
  Llama(c, m);
  SetWindow("sliding", c.IntOr({"sliding_window"}, 0, 0), 0, m);
}

void Mixtral(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  SetMoe(c.Int({"num_local_experts"}), c.Int({"num_experts_per_tok"}), c.Int({"intermediate_size"}), m);
  SetWindow("sliding", c.IntOr({"sliding_window"}, 0, 0), 0, m);
}

void QwenWindow(const Config& c, ModelSpec* m) {
  if (!c.BoolOr({"use_sliding_window"}, false)) return;
  const int64_t full_layers = c.IntOr({"max_window_layers"}, 0, 0);  // leading layers without a window
  if (full_layers >= m->layers) return;
  if (full_layers > 0) c.Fail("max_window_layers", "a window on the last layers alone is not supported");
  SetWindow("sliding", c.IntOr({"sliding_window"}, 0, 0), 0, m);
}

void Qwen2(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  m->mlp.ffn = c.Int({"intermediate_size"});
  m->attention.qkv_bias = true;
  QwenWindow(c, m);
}

void Qwen3(const Config& c, ModelSpec* m) {
  Llama(c, m);
  m->attention.qk_norm = "per-head";
  QwenWindow(c, m);
}

// Which layers of a Qwen MoE are dense: those off the sparse step, and listed leading ones.
void QwenMoe(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  SetMoe(c.Int({"num_experts"}), c.Int({"num_experts_per_tok"}), c.Int({"moe_intermediate_size"}), m);
  m->moe->every = c.IntOr({"decoder_sparse_step"}, 1);
  if (const auto dense = c.Ints("mlp_only_layers"); dense.has_value() && !dense->empty()) {
    for (size_t i = 0; i < dense->size(); ++i) {
      if ((*dense)[i] != static_cast<int64_t>(i) || m->moe->every != 1) {
        c.Fail("mlp_only_layers", "dense layers other than the first ones are not supported");
        break;
      }
    }
    m->moe->first_dense_layers = static_cast<int64_t>(dense->size());
  }
  if (m->moe->first_dense_layers > 0 || m->moe->every > 1) m->mlp.ffn = c.Int({"intermediate_size"});
  QwenWindow(c, m);
}

void Qwen2Moe(const Config& c, ModelSpec* m) {
  QwenMoe(c, m);
  m->attention.qkv_bias = true;
  m->moe->shared_ffn = c.Int({"shared_expert_intermediate_size"});
  m->moe->shared = 1;
  m->moe->shared_gate = true;
}

void Qwen3Moe(const Config& c, ModelSpec* m) {
  QwenMoe(c, m);
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias"}, false);
  m->attention.qk_norm = "per-head";
}

// Gated delta rule in all but every n-th layer, and an output gate in those.
void QwenLinear(const Config& c, ModelSpec* m) {
  AttentionSpec& a = m->attention;
  a.qk_norm = "per-head";
  a.output_gate = c.BoolOr({"attn_output_gate"}, true);
  a.pattern = "linear";
  a.full_every = c.IntOr({"full_attention_interval"}, 4);
  LinearAttentionSpec linear;
  linear.key_heads = c.Int({"linear_num_key_heads"});
  linear.value_heads = c.Int({"linear_num_value_heads"});
  linear.key_dim = c.Int({"linear_key_head_dim"});
  linear.value_dim = c.Int({"linear_value_head_dim"});
  linear.conv = c.IntOr({"linear_conv_kernel_dim"}, 4, 0);
  if (c.TextOr({"mamba_ssm_dtype"}, "") == "float32") linear.state_dtype = "fp32";
  a.linear = linear;
}

void Qwen35(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  m->mlp.ffn = c.Int({"intermediate_size"});
  QwenLinear(c, m);
}

void Qwen3Next(const Config& c, ModelSpec* m) {
  Qwen2Moe(c, m);
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias"}, false);
  QwenLinear(c, m);
}

// Routed and shared experts after some dense layers, as DeepSeek names them.
void DeepSeekMoe(const Config& c, ModelSpec* m) {
  SetMoe(c.Int({"n_routed_experts"}), c.Int({"num_experts_per_tok"}), c.Int({"moe_intermediate_size"}), m);
  m->moe->shared = c.IntOr({"n_shared_experts"}, 0, 0);
  m->moe->shared_ffn = m->moe->shared * m->moe->ffn;
  m->moe->first_dense_layers = c.IntOr({"first_k_dense_replace"}, 0, 0);
  if (c.IntOr({"moe_layer_freq"}, 1) != 1) c.Fail("moe_layer_freq", "only 1 is supported");
  if (m->moe->first_dense_layers > 0) m->mlp.ffn = c.Int({"intermediate_size"});
}

void DeepSeekV2(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  MlaSpec mla;
  mla.q_lora_rank = c.IntOr({"q_lora_rank"}, 0, 0);
  mla.kv_lora_rank = c.Int({"kv_lora_rank"});
  mla.qk_nope = c.Int({"qk_nope_head_dim"});
  mla.qk_rope = c.Int({"qk_rope_head_dim"});
  mla.v_head = c.Int({"v_head_dim"});
  m->attention.head_dim = mla.qk_nope + mla.qk_rope;
  m->attention.kv_heads = m->attention.heads;
  m->attention.mla = mla;
  DeepSeekMoe(c, m);
}

void DeepSeekV3(const Config& c, ModelSpec* m) {
  DeepSeekV2(c, m);
  m->moe->router_bias = true;
}

void DeepSeekV32(const Config& c, ModelSpec* m) {
  DeepSeekV3(c, m);
  m->attention.sparse = SparseAttentionSpec{c.Int({"index_n_heads"}), c.Int({"index_head_dim"}), c.Int({"index_topk"})};
}

void Glm4Moe(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  m->attention.qkv_bias = c.BoolOr({"attention_bias"}, false);
  if (c.BoolOr({"use_qk_norm"}, false)) m->attention.qk_norm = "per-head";
  DeepSeekMoe(c, m);
  m->moe->router_bias = true;
}

void GptOss(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias"}, true);
  m->attention.sinks = true;
  SetWindow("sliding", c.IntOr({"sliding_window"}, 0, 0), 2, m);
  SetMoe(c.Int({"num_local_experts"}), c.Int({"num_experts_per_tok", "experts_per_token"}),
         c.Int({"intermediate_size"}), m);
  m->moe->router_bias = m->moe->expert_bias = true;
}

void Llama4(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  SetMoe(c.Int({"num_local_experts"}), c.Int({"num_experts_per_tok"}), c.Int({"intermediate_size"}), m);
  m->moe->shared = 1;
  m->moe->shared_ffn = m->moe->ffn;
  m->moe->every = c.IntOr({"interleave_moe_layer_step"}, 1);
  if (m->moe->every > 1) m->mlp.ffn = c.Int({"intermediate_size_mlp"});
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias"}, false);
  // Layers without rotary positions see everything: every fourth.
  SetWindow("chunked", c.IntOr({"attention_chunk_size"}, 0, 0), c.IntOr({"no_rope_layer_interval"}, 4), m);
}

void Gemma2(const Config& c, ModelSpec* m) {
  Llama(c, m);
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, true);
  m->norm.per_layer = 4;
  m->mlp.activation = "gelu_tanh";
  SetWindow("sliding", c.IntOr({"sliding_window"}, 4096, 0), 2, m);
}

// Published Gemma-3 files leave out fields that equal the architecture's defaults.
void Gemma3(const Config& c, ModelSpec* m) {
  m->hidden = c.Int({"hidden_size"});
  m->layers = c.Int({"num_hidden_layers"});
  m->vocab = c.IntOr({"vocab_size"}, 262208);
  m->attention.heads = c.IntOr({"num_attention_heads"}, 8);
  m->attention.kv_heads = c.IntOr({"num_key_value_heads"}, 4);
  m->attention.head_dim = c.IntOr({"head_dim"}, 256);
  m->attention.qk_norm = "per-head";
  m->mlp.ffn = c.Int({"intermediate_size"});
  m->mlp.activation = "gelu_tanh";
  m->norm.per_layer = 4;
  m->max_positions = c.IntOr({"max_position_embeddings"}, 131072);
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, true);
  SetWindow("sliding", c.IntOr({"sliding_window"}, 4096, 0), c.IntOr({"sliding_window_pattern"}, 6), m);
}

void OlmoE(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  m->attention.qk_norm = "full";
  SetMoe(c.Int({"num_experts"}), c.Int({"num_experts_per_tok"}), c.Int({"intermediate_size"}), m);
}

void MiniMaxM2(const Config& c, ModelSpec* m) {
  LlamaFields(c, m);
  if (c.BoolOr({"use_qk_norm"}, true)) m->attention.qk_norm = "full";
  SetMoe(c.Int({"num_local_experts"}), c.Int({"num_experts_per_tok"}), c.Int({"intermediate_size"}), m);
  m->moe->router_bias = c.BoolOr({"use_routing_bias"}, true);
  m->moe->shared_ffn = c.IntOr({"shared_intermediate_size"}, 0, 0);
  m->moe->shared = m->moe->shared_ffn > 0 ? 1 : 0;
}

void LayerNorm(bool bias, ModelSpec* m) {
  m->norm.kind = "layer";
  m->norm.bias = bias;
}

void PhiMoe(const Config& c, ModelSpec* m) {
  Mixtral(c, m);
  LayerNorm(true, m);
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias"}, false);
  m->lm_head_bias = c.BoolOr({"lm_head_bias"}, false);
}

void Dbrx(const Config& c, ModelSpec* m) {
  ReadSizes(c, m);
  m->max_positions = c.Int({"max_seq_len"});
  m->attention.kv_heads = c.Object("attn_config").IntOr({"kv_n_heads"}, 1);
  const Config ffn = c.Object("ffn_config");
  SetMoe(ffn.Int({"moe_num_experts"}), ffn.Int({"moe_top_k"}), ffn.Int({"ffn_hidden_size"}), m);
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, false);
  LayerNorm(false, m);
}

// The GPT block: layer norms, two-matrix GELU MLP, four times as wide unless stated, every matrix with a bias.
void GptFields(const Config& c, ModelSpec* m) {
  ReadSizes(c, m);
  LayerNorm(true, m);
  m->mlp.gated = false;
  m->mlp.bias = true;
  m->attention.qkv_bias = m->attention.output_bias = true;
  m->mlp.activation = c.TextOr({"activation_function", "hidden_act", "activation"}, "gelu");
  m->mlp.ffn = c.IntOr({"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, 4 * m->hidden);
}

void LearnedPositions(int64_t rows, ModelSpec* m) {
  m->positions.kind = "learned";
  m->positions.rows = rows;
}

void Gpt2(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->max_positions = c.Int({"n_positions", "n_ctx"});
  LearnedPositions(m->max_positions, m);
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, true);
}

void GptJ(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->attention.qkv_bias = m->attention.output_bias = false;
  m->max_positions = c.Int({"n_positions"});
  m->parallel_blocks = true;
  m->norm.per_layer = 1;
  m->lm_head_bias = true;
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, false);
}

void GptNeoX(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"attention_bias"}, true);
  m->max_positions = c.Int({"max_position_embeddings"});
  m->parallel_blocks = c.BoolOr({"use_parallel_residual"}, true);
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, false);
}

void Opt(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->mlp.bias = m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"enable_bias"}, true);
  m->max_positions = c.Int({"max_position_embeddings"});
  LearnedPositions(m->max_positions + 2, m);  // the first two rows are never used
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, true);
  if (c.IntOr({"word_embed_proj_dim"}, m->hidden) != m->hidden) {
    c.Fail("word_embed_proj_dim", "an embedding of another width than hidden_size is not supported");
  }
}

void Bloom(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->max_positions = c.IntOr({"seq_length"}, 2048);
  m->positions.kind = "alibi";
  m->norm.embedding = true;
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, true);
}

void Falcon(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->mlp.bias = m->attention.qkv_bias = m->attention.output_bias = c.BoolOr({"bias"}, false);
  const bool grouped = c.BoolOr({"new_decoder_architecture"}, false);
  if (grouped) {
    m->attention.kv_heads = c.Int({"num_kv_heads", "n_head_kv"});
  } else if (c.BoolOr({"multi_query"}, true)) {
    m->attention.kv_heads = 1;
  }
  m->parallel_blocks = grouped || c.BoolOr({"parallel_attn"}, true);
  if (m->parallel_blocks) m->norm.per_layer = c.IntOr({"num_ln_in_parallel_attn"}, grouped ? 2 : 1);
  m->max_positions = c.IntOr({"max_position_embeddings"}, 2048);
  if (c.BoolOr({"alibi"}, false)) m->positions.kind = "alibi";
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, false);  // checkpoints store the LM head apart
}

void Phi(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->max_positions = c.Int({"max_position_embeddings"});
  m->parallel_blocks = true;
  m->norm.per_layer = 1;
  m->lm_head_bias = true;
  m->tie_embeddings = c.BoolOr({"tie_word_embeddings"}, false);
}

void Bert(const Config& c, ModelSpec* m) {
  GptFields(c, m);
  m->kind = "encoder";
  m->max_positions = c.Int({"max_position_embeddings"});
  LearnedPositions(m->max_positions, m);
  m->positions.token_types = c.IntOr({"type_vocab_size"}, 2, 0);
  m->norm.final = false;
  m->norm.embedding = true;
  m->pooler = true;
}

void Roberta(const Config& c, ModelSpec* m) {
  Bert(c, m);
  m->max_positions -= 2;  // rows up to and including the padding id are never used
}

// ---- the table ----

struct Architecture {
  std::string_view model_type;
  const char* nested;  // the object that holds the text model, when there is one
  void (*read)(const Config&, ModelSpec*);
};
constexpr Architecture kArchitectures[] = {
    {"Yi", nullptr, Llama},
    {"bert", nullptr, Bert},
    {"bloom", nullptr, Bloom},
    {"dbrx", nullptr, Dbrx},
    {"deepseek_v2", nullptr, DeepSeekV2},
    {"deepseek_v3", nullptr, DeepSeekV3},
    {"deepseek_v32", nullptr, DeepSeekV32},
    {"falcon", nullptr, Falcon},
    {"gemma2", nullptr, Gemma2},
    {"gemma3", "text_config", Gemma3},
    {"gemma3_text", nullptr, Gemma3},
    {"glm4_moe", nullptr, Glm4Moe},
    {"glm_moe_dsa", nullptr, DeepSeekV32},
    {"gpt2", nullptr, Gpt2},
    {"gpt_neox", nullptr, GptNeoX},
    {"gpt_oss", nullptr, GptOss},
    {"gptj", nullptr, GptJ},
    {"internlm", nullptr, Llama},
    {"kimi_k2", nullptr, DeepSeekV3},
    {"llama", nullptr, Llama},
    {"llama4", "text_config", Llama4},
    {"llama4_text", nullptr, Llama4},
    {"minimax_m2", nullptr, MiniMaxM2},
    {"mistral", nullptr, Mistral},
    {"mixtral", nullptr, Mixtral},
    {"olmoe", nullptr, OlmoE},
    {"opt", nullptr, Opt},
    {"phi", nullptr, Phi},
    {"phi3", nullptr, Mistral},
    {"phimoe", nullptr, PhiMoe},
    {"qwen2", nullptr, Qwen2},
    {"qwen2_moe", nullptr, Qwen2Moe},
    {"qwen3", nullptr, Qwen3},
    {"qwen3_5", "text_config", Qwen35},
    {"qwen3_5_moe", "text_config", Qwen3Next},
    {"qwen3_5_moe_text", nullptr, Qwen3Next},
    {"qwen3_5_text", nullptr, Qwen35},
    {"qwen3_moe", nullptr, Qwen3Moe},
    {"qwen3_next", nullptr, Qwen3Next},
    {"roberta", nullptr, Roberta},
    {"xlm-roberta", nullptr, Roberta},
};

// Brackets nested deeper than kMaxDepth, outside strings.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char ch = text[i];
    if (in_string) {
      if (ch == '\\') ++i;
      if (ch == '"') in_string = false;
    } else if (ch == '"') {
      in_string = true;
    } else if (ch == '{' || ch == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (ch == '}' || ch == ']') {
      --depth;
    }
  }
  return false;
}

SourceLocation LocationOf(std::string_view text, size_t offset, std::string_view file) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const size_t newline = before.rfind('\n');
  SourceLocation where;
  where.file = std::string(file);
  where.line = 1 + static_cast<int>(std::count(before.begin(), before.end(), '\n'));
  where.column = 1 + static_cast<int>(newline == std::string_view::npos ? before.size() : before.size() - newline - 1);
  return where;
}

// The released weight format of a quantised checkpoint, or nullopt when it is none of ours.
std::optional<DType> QuantizedFormat(const Config& q) {
  const auto by_bits = [](int64_t bits) -> std::optional<DType> {
    if (bits == 4) return DType::kInt4;
    if (bits == 8) return DType::kInt8;
    return std::nullopt;
  };
  const std::string method = q.TextOr({"quant_method"}, "");
  if (method == "fp8" || method == "fbgemm_fp8") return DType::kFp8;
  if (method == "mxfp4") return DType::kMxfp4;
  if (method == "awq" || method == "gptq") return by_bits(q.IntOr({"bits", "w_bit"}, 4));
  if (method == "bitsandbytes") return q.BoolOr({"load_in_4bit"}, false) ? DType::kInt4 : DType::kInt8;
  if (method == "modelopt") {
    const std::string algorithm = q.TextOr({"quant_algo"}, "");
    if (algorithm == "FP8") return DType::kFp8;
    if (algorithm == "NVFP4") return DType::kNvfp4;
    return std::nullopt;
  }
  if (method == "compressed-tensors" && q.Has({"config_groups"})) {
    const Config groups = q.Object("config_groups");
    if (!groups.Has({"group_0"})) return std::nullopt;
    const Config group = groups.Object("group_0");
    if (!group.Has({"weights"})) return std::nullopt;
    const Config weights = group.Object("weights");
    const int64_t bits = weights.IntOr({"num_bits"}, 0, 0);
    if (weights.TextOr({"type"}, "int") == "float") {
      if (bits == 8) return DType::kFp8;
      return std::nullopt;
    }
    return by_bits(bits);
  }
  return std::nullopt;
}

void ReadFormats(const Config& top, const Config& text, ModelSpec* m) {
  const std::string name = text.TextOr({"torch_dtype", "dtype"}, top.TextOr({"torch_dtype", "dtype"}, "float32"));
  if (name == "bfloat16") {
    m->dtype = "bf16";
  } else if (name == "float16" || name == "half") {
    m->dtype = "fp16";
  } else if (name == "float32" || name == "float") {
    m->dtype = "fp32";
  } else if (name == "float8_e4m3fn") {
    m->dtype = "fp8";
  } else {
    top.Fail("torch_dtype", fmt::format("\"{}\" is no weight format", name),
             "one of: bfloat16, float16, float32, float8_e4m3fn");
  }
  const bool nested = !top.Has({"quantization_config"}) && text.Has({"quantization_config"});
  if (!nested && !top.Has({"quantization_config"})) return;
  const Config q = (nested ? text : top).Object("quantization_config");
  const std::optional<DType> format = QuantizedFormat(q);
  if (!format.has_value()) {
    m->note = fmt::format("quantization method \"{}\" is not known; weights taken as {}",
                          q.TextOr({"quant_method"}, ""), m->dtype);
  } else if (*format == DType::kMxfp4 && m->moe.has_value()) {
    m->moe->dtype = "mxfp4";
  } else {
    m->dtype = std::string(DTypeName(*format));
  }
}

}  // namespace

std::vector<std::string> HuggingFaceArchitectures() {
  std::vector<std::string> names;
  for (const Architecture& a : kArchitectures) names.emplace_back(a.model_type);
  return names;
}

absl::StatusOr<ModelSpec> ImportHuggingFaceConfig(std::string_view json_text, std::string_view file) {
  Problems problems;
  SourceLocation where;
  where.file = std::string(file);
  const auto refuse = [&](const SourceLocation& at, std::string_view path, const std::string& what,
                          const std::string& hint = {}) {
    problems.Add(at, path, what, hint);
    return problems.ToStatus();
  };
  if (json_text.size() > kMaxBytes) return refuse(where, "", "is larger than 4 MiB");
  if (TooDeep(json_text)) return refuse(where, "", fmt::format("is nested deeper than {} levels", kMaxDepth));
  rapidjson::Document document;
  document.Parse<rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag>(json_text.data(),
                                                                                         json_text.size());
  if (document.HasParseError()) {
    return refuse(LocationOf(json_text, document.GetErrorOffset(), file), "",
                  fmt::format("is not JSON: {}", rapidjson::GetParseError_En(document.GetParseError())));
  }
  if (!document.IsObject()) return refuse(where, "", "must be a JSON object");

  const Config untyped(document, "", "", where, &problems);
  const std::string model_type = untyped.TextOr({"model_type"}, "");
  if (!problems.empty()) return problems.ToStatus();
  const auto* architecture = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                          [&](const Architecture& a) { return a.model_type == model_type; });
  if (architecture == std::end(kArchitectures)) {
    std::string all;
    for (const Architecture& a : kArchitectures) all += fmt::format("{}{}", all.empty() ? "" : ", ", a.model_type);
    const std::string what =
        model_type.empty() ? "is missing" : fmt::format("\"{}\" is not supported", model_type.substr(0, 64));
    return refuse(where, "model_type", what, fmt::format("supported: {}", all));
  }

  const Config top(document, "", model_type, where, &problems);
  const Config text = architecture->nested != nullptr ? top.Object(architecture->nested) : top;
  if (!problems.empty()) return problems.ToStatus();
  ModelSpec model;
  architecture->read(text, &model);
  if (architecture->nested != nullptr) model.tie_embeddings = top.BoolOr({"tie_word_embeddings"}, model.tie_embeddings);
  ReadFormats(top, text, &model);
  if (problems.empty()) FinishModel(where, &problems, &model);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  model.name = model_type;
  model.source = fmt::format("Hugging Face config, model_type {}", model_type);
  model.confidence = "A";
  return model;
}

}  // namespace simrun
