// Where the tensors of a model lie, and how those outside GPU memory are used: `plan.placement`.
//
// A rule names tensors, a share of them, a tier and a use; the first rules take first, what no rule takes stays in GPU
// memory. Uses of what lies elsewhere:
//   stream    the bytes cross to the GPU in every step, ahead of the layer that needs them, through a window of buffers
//   cache     routed experts: those that tokens choose cross when they are chosen, and may stay (scheduler.experts.cache)
//   compute   the CPU works on them where they lie
// KV cache: the oldest tokens of every sequence lie farthest away; `share` counts from there. Embedding rows are gathered.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/params.h"
#include "base/status.h"
#include "base/units.h"
#include "hw/tiers.h"
#include "models/model_spec.h"
#include "models/parallel_plan.h"

namespace simrun {

std::vector<std::string> PlacementPolicyNames();
std::vector<std::string> PlacedTensorNames();
std::vector<std::string> TensorUseNames();
std::vector<std::string> PlacementObjectiveNames();  // throughput, tpot, energy, cost

struct PlacementRule {
  std::string tensors;
  std::string layers;  // "3-60", "0,2-5"; empty: all
  double share = 1;
  std::string tier;
  std::optional<std::string> use;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("tensors", tensors, {.help = "which tensors; weights: all but KV cache and activations; attention: with norms and router",
                                 .required = true, .choices = &PlacedTensorNames});
    v.Field("layers", layers, {.help = "layers counted from 0; empty: all", .example = "3-60"});
    v.Field("share", share, {.help = "part of each of these tensors", .min = 0, .max = 1, .above_min = true});
    v.Field("tier", tier, {.help = "memory they lie in", .required = true, .choices = &TierNames});
    v.Field("use", use, {.help = "what happens to them there: stream: they cross to the GPU in every step; cache: routed experts cross when they "
                           "are chosen, and may stay (scheduler.experts.cache); compute: the CPU works on them in place; auto: pin on the "
                           "gpu, else stream", .choices = &TensorUseNames});
  }
};

// `placement: auto` and `placement: [rules]` are short for the maps.
struct PlacementConfig {
  std::string policy = "engine";
  std::string objective = "throughput";
  std::vector<PlacementRule> rules;
  std::optional<int64_t> window;
  std::optional<int64_t> token_groups;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("policy", policy, {.help = "used without rules: engine: what the engine profile does, mostly gpu; gpu: everything in "
                                       "GPU memory; auto: fill the tiers by bytes per use; optimize: search for the objective",
                               .choices = &PlacementPolicyNames});
    v.Field("objective", objective, {.help = "what optimize looks for", .choices = &PlacementObjectiveNames});
    v.Field("rules", rules, {.help = "which tensors lie where; the first match takes first, the rest stays on the gpu"});
    v.Field("window", window, {.help = "layers of buffers for streamed weights, the one in use included; auto: 2", .min = 1, .max = 64});
    v.Field("token_groups", token_groups, {.help = "groups that a step's sequences are split into, so that GPU and CPU work on "
                                                   "different groups at the same time; auto: 1",
                                           .min = 1, .max = 64});
  }
  absl::Status ReadScalar(const YamlNode& node);
  static constexpr const char* kListField = "rules";
};

enum class TensorUse : uint8_t { kPin, kStream, kCache, kCompute };
struct TensorPart {
  TierKind tier = TierKind::kGpu;
  TensorUse use = TensorUse::kPin;
  double share = 1;
  bool operator==(const TensorPart&) const = default;
};
// Shares sum to 1.
using TensorParts = std::vector<TensorPart>;
double ShareOf(const TensorParts& parts, TensorUse use);
// Routed experts outside GPU memory of which a step needs those that its tokens choose, not all.
bool LeavesExpertsToPolicy(const TensorPart& part);

struct LayerPlacement {
  TensorParts attention, dense_ffn, shared_experts, routed_experts;
  bool operator==(const LayerPlacement&) const = default;
};

struct Placement {
  bool resident = true;  // everything in GPU memory
  int window = 2, token_groups = 1;
  int expert_buffers = 0;  // single experts that GPU memory has room for beside those placed there, to cross the link
  bool experts_move = false;  // those in GPU memory change: where the others lie all have a copy
  std::vector<PlacementRule> rules;  // as applied
  std::vector<LayerPlacement> layers;
  TensorParts embedding, lm_head, kv, activations;
};

// Bytes of weights by class. Of one GPU (as the plan splits them), or of the whole engine, held once.
struct ClassBytes {
  double attention = 0;                         // of a layer
  double dense_ffn = 0;                         // of a layer without experts
  double router = 0, shared_experts = 0, routed_experts = 0;  // of a layer with experts; the router goes with attention
  double embedding = 0, lm_head = 0;            // the final norm goes with the head
  double tied = 0;                              // of both: one matrix that serves as embedding and head
};
ClassBytes WeightBytesByClass(const ModelSpec& model, const ParallelPlan& plan, bool per_gpu);
// Copies that an engine keeps of tensors of a class ("routed_experts", ...) outside GPU memory: every attention rank (plan.dp)
// is a process with its own copy of what it streams; experts and an MLP that the ranks share, and what one CPU computes for
// all, are there once.
int CopiesOf(const ParallelPlan& plan, std::string_view tensors, TensorUse use);
// Of one routed expert of one layer; 0 for models without.
double ExpertBytes(const ModelSpec& model, const ParallelPlan& plan, bool per_gpu);

// What a pipeline stage of a placement takes of each tier, KV cache left out.
struct PlacementUse {
  Bytes gpu_pinned, gpu_window;            // per GPU
  std::array<Bytes, kNumTiers> weights{};  // of an engine; index 0 unused
};
PlacementUse UseOf(const Placement& placement, const ModelSpec& model, const ParallelPlan& plan, int stage);

// Room for `auto`: what GPU memory weights and window may take, and what the engine may take of each other tier.
struct PlacementRoom {
  Bytes gpu;        // per GPU, after activations, reserve and the KV cache that is kept there
  Bytes kv;         // the KV cache that should fit on each GPU
  std::array<Bytes, kNumTiers> tiers{};
};
// Fills tiers by bytes per use, nearest first: attention, shared and dense layers, head, routed experts (used by top_k in
// `experts`), embedding (gathered). Experts that do not fit are computed by the CPU, other weights stream.
std::vector<PlacementRule> AutoRules(const ModelSpec& model, const ParallelPlan& plan, const PlacementRoom& room, int window);

// Where the user wrote a setting of a rule ("tier"; empty: the rule). The number behind the last rule: the placement.
using PlaceOfRule = std::function<SourceLocation(size_t rule, std::string_view setting)>;

// Applies rules. Problems (no such tensors, tier or layer; a use that the tier does not allow; a rule with nothing left to
// take; a plan that cannot be offloaded) are added with paths below `path`.
Placement ResolvePlacement(const PlacementConfig& config, std::vector<PlacementRule> rules, const ModelSpec& model,
                           const ParallelPlan& plan, const Machine& machine, const std::string& path,
                           const PlaceOfRule& where, Problems* problems);

}  // namespace simrun
