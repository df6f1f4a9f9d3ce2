#include "models/model_spec.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include "base/paths.h"
#include "models/hf_import.h"
#include "models/model_names.h"
#include "models/tensors.h"

namespace simrun {

namespace {

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

absl::StatusOr<ModelSpec> ReadHuggingFaceFile(const std::string& path) {
  SIMRUN_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, size_t{4} << 20));
  SIMRUN_ASSIGN_OR_RETURN(ModelSpec model, ImportHuggingFaceConfig(text, path));
  const std::filesystem::path p(path);
  // .../Llama-3.1-8B/config.json is called by its directory, anything else by its file name.
  const std::string parent = p.parent_path().filename().string();
  model.name = p.filename() == "config.json" && !parent.empty() ? parent : p.stem().string();
  return model;
}

}  // namespace

bool ModelSpec::IsMoeLayer(int64_t layer) const {
  if (!moe.has_value() || layer < moe->first_dense_layers) return false;
  return (layer - moe->first_dense_layers + 1) % moe->every == 0;
}

bool ModelSpec::IsWindowedLayer(int64_t layer) const {
  if (attention.pattern == "full" || attention.window == 0) return false;
  return attention.full_every == 0 || (layer + 1) % attention.full_every != 0;
}

bool ModelSpec::IsLinearLayer(int64_t layer) const {
  return has_linear() && (layer + 1) % attention.full_every != 0;
}

int64_t ModelSpec::KvElementsPerTokenPerLayer() const {
  if (is_encoder()) return 0;
  if (has_mla()) return attention.mla->kv_lora_rank + attention.mla->qk_rope;
  return 2 * attention.kv_heads * attention.head_dim;
}

void FinishModel(const SourceLocation& where, Problems* problems, ModelSpec* model) {
  const auto fail = [&](std::string_view path, const std::string& what, std::string_view hint = {}) {
    problems->Add(where, path, what, hint);
  };
  AttentionSpec& a = model->attention;
  if (auto dtype = ParseDType(model->dtype); dtype.ok()) {
    model->native_dtype = *dtype;
  } else {
    fail("dtype", std::string(dtype.status().message()));
  }
  // The same limits as in Describe, for models that do not come from YAML; they keep all products within 64 bits.
  const auto within = [&](const char* path, int64_t value, int64_t min, int64_t max) {
    if (value < min || value > max) fail(path, fmt::format("{} is not from {} to {}", value, min, max));
  };
  within("hidden", model->hidden, 1, 1'000'000);
  within("layers", model->layers, 1, 10'000);
  within("vocab", model->vocab, 1, 100'000'000);
  within("max_positions", model->max_positions, 1, 1'000'000'000);
  within("positions.rows", model->positions.rows, 0, 100'000'000);
  within("positions.token_types", model->positions.token_types, 0, 1'000'000);
  within("attention.heads", a.heads, 1, 100'000);
  within("attention.kv_heads", a.kv_heads, 1, 100'000);
  within("attention.head_dim", a.head_dim, 1, 100'000);
  within("mlp.ffn", model->mlp.ffn, 0, 10'000'000);
  if (a.heads >= 1 && a.kv_heads >= 1 && a.heads % a.kv_heads != 0) {
    fail("attention.kv_heads", fmt::format("{} does not divide the {} query heads", a.kv_heads, a.heads));
  }
  if (a.pattern == "full" && (a.window != 0 || a.full_every != 0)) {
    fail("attention.window", "has no meaning with full attention", "set pattern: sliding or chunked");
  }
  const bool linear = a.pattern == "linear";
  if (a.pattern != "full" && !linear && a.window < 1) fail("attention.window", "is required with this pattern");
  if (linear && a.window != 0) fail("attention.window", "has no meaning with linear attention");
  if (linear != a.linear.has_value()) {
    fail("attention.linear", linear ? "is required with pattern: linear" : "has no meaning with this pattern", linear ? "" : "set pattern: linear");
  }
  if (a.linear.has_value()) {
    LinearAttentionSpec& l = *a.linear;
    within("attention.linear.key_heads", l.key_heads, 1, 100'000);
    within("attention.linear.value_heads", l.value_heads, 1, 100'000);
    within("attention.linear.key_dim", l.key_dim, 1, 100'000);
    within("attention.linear.value_dim", l.value_dim, 1, 100'000);
    within("attention.linear.conv", l.conv, 0, 1024);
    within("attention.linear.gates", l.gates, 0, 16);
    if (l.key_heads >= 1 && l.value_heads % l.key_heads != 0) {
      fail("attention.linear.key_heads", fmt::format("{} does not divide the {} value heads", l.key_heads, l.value_heads));
    }
    if (auto dtype = ParseDType(l.state_dtype); dtype.ok()) {
      l.state = *dtype;
    } else {
      fail("attention.linear.state_dtype", std::string(dtype.status().message()));
    }
    if (linear && (a.full_every < 2 || a.full_every > model->layers)) {
      fail("attention.full_every", "must leave at least one layer with full attention", "models without any are not supported");
    }
    if (model->is_encoder()) fail("attention.pattern", "linear attention is not supported for encoders");
    if (model->parallel_blocks) fail("parallel_blocks", "is not supported together with linear attention");
  }
  if (a.full_every == 1) fail("attention.full_every", "would make every layer full", "set pattern: full");
  if (a.mla.has_value()) {
    const MlaSpec& m = *a.mla;
    within("attention.mla.q_lora_rank", m.q_lora_rank, 0, 1'000'000);
    within("attention.mla.kv_lora_rank", m.kv_lora_rank, 1, 1'000'000);
    within("attention.mla.qk_nope", m.qk_nope, 1, 1'000'000);
    within("attention.mla.qk_rope", m.qk_rope, 1, 1'000'000);
    within("attention.mla.v_head", m.v_head, 1, 1'000'000);
    if (a.head_dim != m.qk_nope + m.qk_rope) {
      fail("attention.head_dim", fmt::format("{} is not qk_nope + qk_rope = {}", a.head_dim, m.qk_nope + m.qk_rope));
    }
    if (a.heads != a.kv_heads) fail("attention.kv_heads", "must equal heads with MLA");
    if (a.pattern != "full" && !linear) fail("attention.pattern", "must be full or linear with MLA");
    if (a.qk_norm != "none" || a.qkv_bias || a.output_bias || a.sinks || a.output_gate) {
      fail("attention", "biases, sinks, output_gate and qk_norm are not supported with MLA");
    }
  }
  if (a.sparse.has_value()) {
    const SparseAttentionSpec& i = *a.sparse;
    within("attention.sparse.index_heads", i.index_heads, 1, 100'000);
    within("attention.sparse.index_dim", i.index_dim, 1, 100'000);
    within("attention.sparse.top_k", i.top_k, 1, 1'000'000'000);
    if (!a.mla.has_value() || a.mla->q_lora_rank < 1) fail("attention.sparse", "needs latent attention with compressed queries", "set attention.mla with a q_lora_rank");
    if (a.pattern != "full") fail("attention.pattern", "must be full with sparse attention");
  }
  bool any_dense = true;
  if (model->moe.has_value()) {
    MoeSpec& m = *model->moe;
    within("moe.experts", m.experts, 1, 100'000);
    within("moe.top_k", m.top_k, 1, 100'000);
    within("moe.ffn", m.ffn, 1, 10'000'000);
    within("moe.shared", m.shared, 0, 100'000);
    within("moe.shared_ffn", m.shared_ffn, 0, 10'000'000);
    within("moe.every", m.every, 1, 1'000'000);
    if (m.top_k > m.experts) fail("moe.top_k", fmt::format("{} is more than the {} experts", m.top_k, m.experts));
    if ((m.shared > 0) != (m.shared_ffn > 0)) {
      fail("moe.shared_ffn", "shared and shared_ffn go together");
    }
    if (m.shared_gate && m.shared == 0) fail("moe.shared_gate", "there is no shared expert to gate");
    if (m.first_dense_layers < 0 || m.first_dense_layers >= model->layers) {
      fail("moe.first_dense_layers", "leaves no layer for the experts");
    }
    if (model->parallel_blocks) fail("parallel_blocks", "is not supported together with experts");
    if (m.dtype != "same") {
      if (auto dtype = ParseDType(m.dtype); dtype.ok()) {
        model->expert_dtype = *dtype;
      } else {
        fail("moe.dtype", std::string(dtype.status().message()));
      }
    }
    any_dense = m.first_dense_layers > 0 || m.every > 1;
  }
  if (any_dense && model->mlp.ffn < 1) fail("mlp.ffn", "is required: the model has dense layers");
  if (model->positions.kind == "learned" && model->positions.rows < 1) {
    fail("positions.rows", "is required with learned positions");
  }
  if (model->positions.kind != "learned" && model->positions.rows > 0) {
    fail("positions.rows", "has no meaning without learned positions");
  }
  if (model->norm.per_layer == 3) fail("norm.per_layer", "must be 1, 2 or 4");
  if (model->norm.per_layer == 1 && !model->parallel_blocks) {
    fail("norm.per_layer", "one norm per layer needs parallel_blocks");
  }
  if (model->pooler && !model->is_encoder()) fail("pooler", "is only for encoders");
  if (model->moe.has_value() && model->is_encoder()) fail("moe", "is not supported for encoders");
  if (!problems->empty()) return;
  double layer = 0;
  for (const LayerKind kind : {LayerKind{model->moe.has_value(), false}, LayerKind{model->moe.has_value(), model->has_linear()}}) {
    double elements = 0;
    for (const Tensor& t : LayerTensors(*model, kind)) elements += static_cast<double>(t.elements);
    layer = std::max(layer, elements);
  }
  if (layer * static_cast<double>(model->layers) > 1e18) fail("layers", "the model has more than 1e18 parameters");
}

absl::StatusOr<ModelSpec> ReadModel(const YamlNode& node, std::string name) {
  ModelSpec model;
  Problems problems;
  ReadParams(node, "", &problems, &model);
  if (problems.empty()) FinishModel(node.location(), &problems, &model);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  model.name = std::move(name);
  return model;
}

absl::StatusOr<ModelSpec> LoadModel(std::string_view name_or_path, const Catalog& catalog, const std::string& base_dir) {
  const std::string given(name_or_path);
  const std::string path = ResolvePath(base_dir, given);
  if (EndsWith(given, ".json")) return ReadHuggingFaceFile(path);
  if (IsEntryFile(given)) {
    SIMRUN_ASSIGN_OR_RETURN(const YamlNode node, ReadYamlFile(path));
    return ReadModel(node, EntryName(path));
  }
  if (IsModelPath(given, base_dir, catalog)) return ReadHuggingFaceFile((std::filesystem::path(path) / "config.json").string());
  SIMRUN_ASSIGN_OR_RETURN(const std::string name, ResolveModel(given, catalog));
  SIMRUN_ASSIGN_OR_RETURN(const YamlNode node, catalog.Load("models", name));
  absl::StatusOr<ModelSpec> model = ReadModel(node, name);
  if (!model.ok() || given == name) return model;
  // A checkpoint that is called "...-FP8" is in that format, whatever its model was released in. Experts alone may be.
  if (const std::optional<DType> format = FormatIn(given); format && model->expert_dtype != format) {
    model->native_dtype = *format;
    model->dtype = DTypeName(*format);
  }
  return model;
}

std::vector<std::string> ExpertDTypeNames() {
  std::vector<std::string> names = DTypeNames();
  names.insert(names.begin(), "same");
  return names;
}
std::vector<std::string> ModelKindNames() { return {"decoder", "encoder"}; }
std::vector<std::string> AttentionPatternNames() { return {"full", "sliding", "chunked", "linear"}; }
std::vector<std::string> StateDTypeNames() { return {"bf16", "fp16", "fp32"}; }
std::vector<std::string> QkNormNames() { return {"none", "per-head", "full"}; }
std::vector<std::string> NormKindNames() { return {"rms", "layer"}; }
std::vector<std::string> PositionKindNames() { return {"rope", "learned", "alibi"}; }
std::vector<std::string> PublishedBasisNames() { return {"exact", "headline"}; }
std::vector<std::string> ConfidenceNames() { return {"A", "B", "C"}; }

}  // namespace simrun
