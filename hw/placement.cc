#include "hw/placement.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "models/lowering.h"
#include "models/tensors.h"

namespace simrun {
namespace {

size_t Index(TierKind tier) { return static_cast<size_t>(tier); }

// "3-60", "0,2-5" as a mask over `layers`; an error message or empty.
std::string ParseLayers(const std::string& text, int64_t layers, std::vector<char>* out) {
  out->assign(static_cast<size_t>(layers), text.empty() ? 1 : 0);
  size_t at = 0;
  while (!text.empty() && at <= text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    std::string part = text.substr(at, comma - at);
    while (!part.empty() && part.front() == ' ') part.erase(0, 1);
    while (!part.empty() && part.back() == ' ') part.pop_back();
    const size_t dash = part.find('-');
    const absl::StatusOr<int64_t> first = ParseInteger(part.substr(0, dash));
    const absl::StatusOr<int64_t> last = dash == std::string::npos ? first : ParseInteger(part.substr(dash + 1));
    if (!first.ok() || !last.ok() || *first < 0 || *last < *first) {
      return fmt::format("\"{}\" names no layers; write for example 3-60 or 0,2-5", text);
    }
    if (*last >= layers) return fmt::format("layer {} does not exist: the model has layers 0 to {}", *last, layers - 1);
    for (int64_t l = *first; l <= *last; ++l) (*out)[static_cast<size_t>(l)] = 1;
    at = comma + 1;
  }
  return "";
}

// Takes up to `share` of what earlier rules left; the last part is the rest on the GPU.
double Take(const TensorPart& wanted, TensorParts* parts) {
  TensorPart& rest = parts->back();
  const double taken = std::min(wanted.share, rest.share);
  if (taken <= 0) return 0;
  rest.share -= taken;
  if (rest.share < 1e-9) rest.share = 0;
  TensorPart part = wanted;
  part.share = taken;
  parts->insert(parts->end() - 1, part);
  return taken;
}

void DropEmpty(TensorParts* parts) {
  std::erase_if(*parts, [](const TensorPart& p) { return p.share <= 0; });
}

}  // namespace

std::vector<std::string> PlacementPolicyNames() { return {"engine", "gpu", "auto", "optimize"}; }
std::vector<std::string> PlacedTensorNames() {
  return {"weights", "attention", "dense_ffn", "shared_experts", "routed_experts", "embedding", "lm_head", "kv", "activations"};
}
std::vector<std::string> PlacementObjectiveNames() { return {"throughput", "tpot", "energy", "cost"}; }
std::vector<std::string> TensorUseNames() { return {"pin", "stream", "cache", "compute"}; }

absl::Status PlacementConfig::ReadScalar(const YamlNode& node) {
  const std::vector<std::string> names = PlacementPolicyNames();
  if (std::find(names.begin(), names.end(), node.text()) == names.end()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is no placement; {}, or give a list of rules", node.text(), NameHint(node.text(), names)));
  }
  policy = node.text();
  return absl::OkStatus();
}

double ShareOf(const TensorParts& parts, TensorUse use) {
  double share = 0;
  for (const TensorPart& p : parts) share += p.use == use ? p.share : 0;
  return share;
}

bool LeavesExpertsToPolicy(const TensorPart& part) { return part.use == TensorUse::kCache || part.use == TensorUse::kCompute; }

ClassBytes WeightBytesByClass(const ModelSpec& model, const ParallelPlan& plan, bool per_gpu) {
  const double matrix = BytesPerElement(DenseWeightDType(model, plan));
  const double expert = BytesPerElement(plan.weights);
  const double other = BytesPerElement(StreamDType(plan));
  const auto bytes = [&](const Tensor& t) {
    const double element = !t.matrix ? other : t.shard == Shard::kExpert ? expert : matrix;
    return static_cast<double>(per_gpu ? ElementsPerGpu(t, model, plan) : t.elements) * element;
  };
  const auto is = [](const Tensor& t, std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), std::string_view(t.name)) != names.end();
  };
  ClassBytes out;
  // Where layers attend in different ways each counts as the mean of them.
  const int layers = static_cast<int>(model.layers);
  const double linear_share = static_cast<double>(LinearLayers(model, {0, layers})) / layers;
  for (const bool linear : {false, true}) {
    const double share = linear ? linear_share : 1 - linear_share;
    if (share <= 0) continue;
    for (const Tensor& t : LayerTensors(model, {false, linear})) {
      (is(t, {"up_proj", "down_proj", "up_bias", "down_bias"}) ? out.dense_ffn : out.attention) += bytes(t) * share;
    }
  }
  if (model.moe) {
    for (const Tensor& t : LayerTensors(model, {true, false})) {
      if (t.shard == Shard::kExpert || t.shard == Shard::kExpertBias) {
        out.routed_experts += bytes(t);
      } else if (is(t, {"up_proj", "down_proj", "up_bias", "down_bias", "shared_gate"})) {
        out.shared_experts += bytes(t);
      } else if (is(t, {"router", "router_bias"})) {
        out.router += bytes(t);
      }
    }
  }
  for (const Tensor& t : EmbeddingTensors(model)) out.embedding += bytes(t);
  for (const Tensor& t : HeadTensors(model)) out.lm_head += bytes(t);
  if (model.tie_embeddings && !model.is_encoder()) {
    // In every step the head needs all of it, the embedding a few rows: it is the head's.
    out.tied = bytes(EmbeddingTensors(model).front());
    out.lm_head += out.tied;
  }
  return out;
}

int CopiesOf(const ParallelPlan& plan, std::string_view tensors, TensorUse use) {
  const bool shared = tensors == "routed_experts" || (tensors == "dense_ffn" && plan.separate_ffn());
  return shared || use == TensorUse::kCompute ? 1 : plan.dp;
}

double ExpertBytes(const ModelSpec& model, const ParallelPlan& plan, bool per_gpu) {
  return model.moe ? WeightBytesByClass(model, plan, per_gpu).routed_experts / static_cast<double>(model.moe->experts) : 0;
}

PlacementUse UseOf(const Placement& placement, const ModelSpec& model, const ParallelPlan& plan, int stage) {
  PlacementUse use;
  const ClassBytes gpu = WeightBytesByClass(model, plan, true), all = WeightBytesByClass(model, plan, false);
  double largest = 0;
  const auto add = [&](const TensorParts& parts, double per_gpu, double whole, double* streamed, std::string_view tensors) {
    for (const TensorPart& p : parts) {
      if (p.tier == TierKind::kGpu) {
        use.gpu_pinned += Bytes(per_gpu * p.share);
        continue;
      }
      use.weights[Index(p.tier)] += Bytes(whole * p.share * CopiesOf(plan, tensors, p.use));
      if (p.use == TensorUse::kStream && streamed != nullptr) *streamed += per_gpu * p.share;
    }
  };
  const StageLayers range = LayersOfStage(model, plan, stage);
  for (size_t l = static_cast<size_t>(range.first); l < static_cast<size_t>(range.first + range.count); ++l) {
    const LayerPlacement& layer = placement.layers[l];
    const bool moe = model.IsMoeLayer(static_cast<int64_t>(l));
    double streamed = 0;
    add(layer.attention, gpu.attention + (moe ? gpu.router : 0), all.attention + (moe ? all.router : 0), &streamed, "attention");
    if (moe) {
      add(layer.shared_experts, gpu.shared_experts, all.shared_experts, &streamed, "shared_experts");
      add(layer.routed_experts, gpu.routed_experts, all.routed_experts, &streamed, "routed_experts");
      if (placement.experts_move) {
        // Nothing is written back: those in GPU memory are copies.
        for (const TensorPart& p : layer.routed_experts) {
          if (!LeavesExpertsToPolicy(p)) continue;
          use.weights[Index(p.tier)] += Bytes(all.routed_experts * ShareOf(layer.routed_experts, TensorUse::kPin));
          break;
        }
      }
    } else {
      add(layer.dense_ffn, gpu.dense_ffn, all.dense_ffn, &streamed, "dense_ffn");
    }
    largest = std::max(largest, streamed);
  }
  double head = 0;
  const bool last = stage + 1 == plan.pp;
  if (stage == 0) {
    // Of a tied matrix an embedding that lies elsewhere is a copy; the first stage has another where the last one has the head.
    add(placement.embedding, gpu.embedding - gpu.tied, all.embedding, nullptr, "embedding");
    if (!last) use.gpu_pinned += Bytes(gpu.tied * ShareOf(placement.embedding, TensorUse::kPin) * ShareOf(placement.lm_head, TensorUse::kPin));
  }
  if (last) add(placement.lm_head, gpu.lm_head, all.lm_head, &head, "lm_head");
  use.gpu_window = Bytes(largest * placement.window + head + placement.expert_buffers * ExpertBytes(model, plan, true));
  return use;
}

std::vector<PlacementRule> AutoRules(const ModelSpec& model, const ParallelPlan& plan, const PlacementRoom& room, int window) {
  const ClassBytes gpu = WeightBytesByClass(model, plan, true), all = WeightBytesByClass(model, plan, false);
  double moe = 0;
  for (int64_t l = 0; l < model.layers; ++l) moe += model.IsMoeLayer(l) ? 1 : 0;
  const double layers = static_cast<double>(model.layers), dense = layers - moe, stages = plan.pp;
  struct Class {
    const char* name;
    double per_gpu, whole, largest_layer;
    const char* use;
    double density;  // uses of a byte per step
  };
  std::vector<Class> classes = {
      {"attention", (gpu.attention * layers + gpu.router * moe) / stages, all.attention * layers + all.router * moe, gpu.attention + gpu.router, "stream", 1},
      {"shared_experts", gpu.shared_experts * moe / stages, all.shared_experts * moe, gpu.shared_experts, "stream", 1},
      {"dense_ffn", gpu.dense_ffn * dense / stages, all.dense_ffn * dense, gpu.dense_ffn, "stream", 1},
      {"lm_head", gpu.lm_head, all.lm_head, gpu.lm_head, "stream", 1},
  };
  if (model.moe) {
    classes.push_back({"routed_experts", gpu.routed_experts * moe / stages, all.routed_experts * moe, gpu.routed_experts, "compute",
                       static_cast<double>(model.moe->top_k) / static_cast<double>(model.moe->experts)});
  }
  if (!model.tie_embeddings) classes.push_back({"embedding", gpu.embedding, all.embedding, 0, "stream", 0});
  std::erase_if(classes, [](const Class& c) { return c.whole <= 0; });
  for (Class& c : classes) c.whole *= CopiesOf(plan, c.name, TensorUse::kStream);
  std::stable_sort(classes.begin(), classes.end(), [](const Class& a, const Class& b) { return a.density > b.density; });

  double total = 0;
  for (const Class& c : classes) total += c.per_gpu;
  if (model.tie_embeddings) total += gpu.embedding - gpu.tied;
  std::vector<PlacementRule> rules;
  double free_gpu = room.gpu.value() - room.kv.value();
  // The KV cache goes to host memory when the GPU has no room for the little that is asked.
  const bool fits = total <= free_gpu;
  if (fits) return rules;
  if (model.tie_embeddings) free_gpu -= gpu.embedding - gpu.tied;
  // Buffers for the classes that do not fit whole and stream; they take room themselves, so look again.
  double buffer = 0;
  for (size_t round = 0; round <= classes.size(); ++round) {
    double left = free_gpu - buffer, needed = 0;
    for (const Class& c : classes) {
      if (c.per_gpu > left && std::string_view(c.use) == "stream") {
        needed += c.largest_layer * (std::string_view(c.name) == "lm_head" ? 1 : window);
      }
      left -= c.per_gpu;
    }
    if (needed <= buffer) break;
    buffer = needed;
  }
  free_gpu = std::max(0.0, free_gpu - buffer);
  std::array<double, kNumTiers> tiers{};
  for (size_t i = 1; i < tiers.size(); ++i) tiers[i] = room.tiers[i].value();
  for (const Class& c : classes) {
    double share = 1;
    const double on_gpu = std::min(1.0, std::max(0.0, free_gpu) / std::max(c.per_gpu, 1.0));
    if (on_gpu > 0) {
      free_gpu -= on_gpu * c.per_gpu;
      share -= on_gpu;
      if (share < 1e-6) continue;
      PlacementRule rule;
      rule.tensors = c.name, rule.tier = "gpu", rule.share = on_gpu;
      rules.push_back(std::move(rule));
    }
    for (const TierKind tier : {TierKind::kDram, TierKind::kCxl, TierKind::kRemote, TierKind::kNvme}) {
      double& free = tiers[Index(tier)];
      const double part = std::min(share, std::max(0.0, free) / c.whole);
      if (part <= 1e-6) continue;
      free -= part * c.whole;
      share -= part;
      const bool addressable = tier == TierKind::kDram || tier == TierKind::kCxl;
      PlacementRule rule;
      rule.tensors = c.name, rule.tier = std::string(TierName(tier)), rule.share = share < 1e-6 ? 1.0 : part;
      rule.use = addressable ? c.use : "stream";
      rules.push_back(std::move(rule));
      if (share < 1e-6) break;
    }
  }
  return rules;
}

Placement ResolvePlacement(const PlacementConfig& config, std::vector<PlacementRule> rules, const ModelSpec& model,
                           const ParallelPlan& plan, const Machine& machine, const std::string& path,
                           const PlaceOfRule& where, Problems* problems) {
  Placement out;
  out.window = static_cast<int>(config.window.value_or(2));
  out.token_groups = static_cast<int>(config.token_groups.value_or(1));
  const MemoryTiers tiers = TiersOf(machine);
  const TensorParts whole = {TensorPart{}};
  out.embedding = out.lm_head = out.kv = out.activations = whole;
  LayerPlacement everything;
  everything.attention = everything.dense_ffn = everything.shared_experts = everything.routed_experts = whole;
  out.layers.assign(static_cast<size_t>(model.layers), everything);
  const ClassBytes all = WeightBytesByClass(model, plan, false);
  const size_t before = problems->size();
  for (size_t i = 0; i < rules.size(); ++i) {
    const PlacementRule& rule = rules[i];
    const std::string at = fmt::format("{}.rules.{}", path, i);
    const auto fail = [&](std::string_view field, std::string what, std::string_view hint = {}) {
      problems->Add(where(i, field), at + (field.empty() ? "" : ".") + std::string(field), what, hint);
    };
    const std::optional<TierKind> tier = ParseTier(rule.tier);
    if (!tier) continue;  // a bad name was reported when the rule was read
    TensorPart part;
    part.tier = *tier;
    part.share = rule.share;
    const std::string use = rule.use.value_or(*tier == TierKind::kGpu ? "pin" : "stream");
    part.use = use == "pin" ? TensorUse::kPin : use == "compute" ? TensorUse::kCompute : use == "cache" ? TensorUse::kCache : TensorUse::kStream;
    const bool fixed = rule.tensors == "kv" || rule.tensors == "activations" || rule.tensors == "embedding" || rule.tensors == "lm_head";
    if (tiers[Index(*tier)].capacity <= Bytes(0)) {
      fail("tier", fmt::format("the machine has no {} memory", rule.tier),
           *tier == TierKind::kCxl ? "add hardware.cxl" : *tier == TierKind::kNvme ? "add hardware.nvme"
           : *tier == TierKind::kRemote ? "add hardware.remote_memory" : "add hardware.host_memory");
      continue;
    }
    if ((*tier == TierKind::kGpu) != (part.use == TensorUse::kPin)) {
      fail("use", fmt::format("\"{}\" does not go with tier {}", use, rule.tier),
           *tier == TierKind::kGpu ? "on the gpu tensors are pinned" : "use stream, cache or compute there");
      continue;
    }
    if (rule.tensors == "kv" && *tier != TierKind::kGpu && (model.has_linear() || model.has_sparse())) {
      fail("tensors", fmt::format("{} has {} attention, whose cache is only modelled on the gpu", model.name, model.has_linear() ? "linear" : "sparse"),
           "leave kv on the gpu");
      continue;
    }
    if (part.use == TensorUse::kCache && rule.tensors != "routed_experts") {
      fail("use", fmt::format("{} are needed in every step", rule.tensors), "only routed_experts can be cached; use stream");
      continue;
    }
    if (part.use == TensorUse::kCompute && !tiers[Index(*tier)].addressable()) {
      fail("use", fmt::format("the CPU cannot compute on {} memory", rule.tier), "use stream, or tier dram or cxl");
      continue;
    }
    if (part.use == TensorUse::kCompute && (rule.tensors == "activations" || rule.tensors == "embedding")) {
      fail("use", fmt::format("{} are only moved", rule.tensors), "use stream");
      continue;
    }
    if (fixed && !rule.layers.empty()) {
      fail("layers", fmt::format("{} belong to no single layer", rule.tensors), "remove it");
      continue;
    }
    const bool experts = rule.tensors == "routed_experts" || rule.tensors == "shared_experts";
    if (experts && !model.moe) {
      fail("tensors", fmt::format("{} has no experts", model.name), "use dense_ffn");
      continue;
    }
    if (rule.tensors == "shared_experts" && all.shared_experts <= 0) {
      fail("tensors", fmt::format("{} has no shared experts", model.name), "remove it");
      continue;
    }
    std::vector<char> layers;
    if (const std::string error = ParseLayers(rule.layers, model.layers, &layers); !error.empty()) {
      fail("layers", error);
      continue;
    }
    double taken = 0;
    const bool weights = rule.tensors == "weights";
    for (size_t l = 0; l < layers.size(); ++l) {
      if (!layers[l]) continue;
      const bool moe = model.IsMoeLayer(static_cast<int64_t>(l));
      LayerPlacement& layer = out.layers[l];
      if (weights || rule.tensors == "attention") taken += Take(part, &layer.attention);
      if (!moe && (weights || rule.tensors == "dense_ffn")) taken += Take(part, &layer.dense_ffn);
      if (moe && (weights || rule.tensors == "shared_experts")) taken += Take(part, &layer.shared_experts);
      if (moe && (weights || rule.tensors == "routed_experts")) taken += Take(part, &layer.routed_experts);
    }
    if ((weights && rule.layers.empty() && part.use != TensorUse::kCompute && !model.tie_embeddings) || rule.tensors == "embedding") taken += Take(part, &out.embedding);
    if ((weights && rule.layers.empty()) || rule.tensors == "lm_head") taken += Take(part, &out.lm_head);
    if (rule.tensors == "kv") taken += Take(part, &out.kv);
    if (rule.tensors == "activations") taken += Take(part, &out.activations);
    if (taken <= 0) {
      fail("", "takes nothing", rule.tensors == "dense_ffn" && model.moe ? "none of these layers has a dense feed-forward part"
                                                                         : "earlier rules take all of these tensors; remove it or move it up");
    }
    if (*tier != TierKind::kGpu) out.resident = false;
  }
  for (LayerPlacement& layer : out.layers) {
    for (TensorParts* parts : {&layer.attention, &layer.dense_ffn, &layer.shared_experts, &layer.routed_experts}) DropEmpty(parts);
  }
  for (TensorParts* parts : {&out.embedding, &out.lm_head, &out.kv, &out.activations}) DropEmpty(parts);
  if (!out.resident && problems->size() == before) {
    if (plan.dp > 1 && model.moe && plan.ep == 1) {
      problems->Add(where(rules.size(), ""), path, fmt::format("the {} attention ranks of plan.dp have all experts each: tensors outside GPU memory need experts that they share", plan.dp),
                    fmt::format("set plan.ep, for example to {}, or use plan.replicas: {}", plan.tp * plan.dp, plan.dp));
    }
    if (model.is_encoder()) problems->Add(where(rules.size(), ""), path, "encoders are served from GPU memory only");
  }
  out.rules = std::move(rules);
  return out;
}

}  // namespace simrun
