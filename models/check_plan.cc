#include <fmt/format.h>

#include "models/lowering.h"
#include "models/tensors.h"

namespace simrun {

namespace {

// "1, 2, 4, 8": the ranks up to 1024 that divide n.
std::string Divisors(int64_t n) {
  std::string text;
  int listed = 0;
  for (int64_t d = 1; d <= n && d <= 1024 && listed < 12; ++d) {
    if (n % d != 0) continue;
    text += fmt::format("{}{}", listed > 0 ? ", " : "", d);
    ++listed;
  }
  return text;
}

}  // namespace

void CheckPlan(const ModelSpec& model, const ParallelPlan& plan, const SourceLocation& where, Problems* problems) {
  const auto fail = [&](const char* field, const std::string& what, const std::string& hint = {}) {
    problems->Add(where, std::string("plan.") + field, what, hint);
  };
  const auto at_least_one = [&](const char* field, int value) {
    if (value < 1) fail(field, fmt::format("{} is less than 1", value));
    return value >= 1;
  };
  bool sized = true;
  sized &= at_least_one("tp", plan.tp);
  sized &= at_least_one("pp", plan.pp);
  sized &= at_least_one("dp", plan.dp);
  sized &= at_least_one("ep", plan.ep);
  sized &= at_least_one("replicas", plan.replicas);
  if (!sized) return;

  const AttentionSpec& a = model.attention;
  const auto divides_tp = [&](int64_t n, const char* what) {
    if (n % plan.tp != 0) {
      fail("tp", fmt::format("{} does not divide the {} {} of {}", plan.tp, n, what, model.name),
           fmt::format("tp can be {}", Divisors(n)));
    }
  };
  divides_tp(a.heads, "attention heads");
  if (!model.has_mla() && a.kv_heads % plan.tp != 0 && plan.tp % a.kv_heads != 0) {
    fail("tp", fmt::format("{} ranks cannot share the {} key-value heads of {}", plan.tp, a.kv_heads, model.name),
         "one must be a multiple of the other");
  }
  if (model.has_linear()) divides_tp(a.linear->key_heads, "key heads of linear attention");
  const bool any_dense = !model.moe.has_value() || model.moe->first_dense_layers > 0 || model.moe->every > 1;
  if (any_dense && plan.ffn_tp == 0) divides_tp(model.mlp.ffn, "columns of the MLP");
  if (plan.ffn_tp != 0) {
    if (model.moe.has_value()) {
      fail("ffn_tp", fmt::format("{} has experts, whose ranks are set by ep", model.name), "leave ffn_tp out");
    } else if (model.parallel_blocks && plan.separate_ffn()) {
      fail("ffn_tp", fmt::format("attention and MLP of {} work side by side and are split alike", model.name), "leave ffn_tp out");
    } else if (plan.ffn_tp < 1 || (plan.ffn_tp != plan.tp * plan.dp && (plan.dp > 1 || plan.tp % plan.ffn_tp != 0))) {
      fail("ffn_tp", fmt::format("{} ranks cannot share the MLP of an engine with tp {} and dp {}", plan.ffn_tp, plan.tp, plan.dp),
           plan.dp > 1 ? fmt::format("it can be {}: all ranks of the engine", plan.tp * plan.dp) : fmt::format("it can be {}", Divisors(plan.tp)));
    } else if (model.mlp.ffn % plan.ffn_tp != 0) {
      fail("ffn_tp", fmt::format("{} does not divide the {} columns of the MLP of {}", plan.ffn_tp, model.mlp.ffn, model.name),
           fmt::format("it can be {}", Divisors(model.mlp.ffn)));
    }
  }
  if (!plan.stage_layers.empty()) {
    int64_t sum = 0;
    bool all = true;
    for (const int layers : plan.stage_layers) {
      sum += layers;
      all = all && layers >= 1;
    }
    if (plan.stage_layers.size() != static_cast<size_t>(plan.pp)) {
      fail("layers_per_stage", fmt::format("has {} numbers for {} stages", plan.stage_layers.size(), plan.pp), "give one per stage of plan.pp");
    } else if (!all || sum != model.layers) {
      fail("layers_per_stage", fmt::format("adds up to {} layers, but {} has {}", sum, model.name, model.layers), "give every stage at least one");
    }
  }
  if (plan.pp > model.layers) {
    fail("pp", fmt::format("{} stages for the {} layers of {}", plan.pp, model.layers, model.name),
         fmt::format("at most {}", model.layers));
  }
  if (model.has_linear() && problems->empty()) {
    for (int stage = 0; stage < plan.pp; ++stage) {
      const StageLayers range = LayersOfStage(model, plan, stage);
      if (LinearLayers(model, range) < range.count) continue;
      fail("pp", fmt::format("stage {} would hold linear attention alone: {} attends fully in every layer number {}", stage + 1, model.name, a.full_every),
           fmt::format("at most {} stages", model.layers / a.full_every));
      break;
    }
  }
  if (model.moe.has_value()) {
    const MoeSpec& m = *model.moe;
    if (m.shared_ffn > 0) divides_tp(m.shared_ffn, "columns of the shared experts");
    const int64_t ranks = static_cast<int64_t>(plan.dp) * plan.tp;
    if (plan.ep > 1 && ranks % plan.ep != 0) {
      fail("ep", fmt::format("{} does not divide the dp x tp = {} ranks of the engine", plan.ep, ranks),
           fmt::format("ep can be {}", Divisors(ranks)));
    } else if (m.experts % plan.ep != 0) {
      fail("ep", fmt::format("{} does not divide the {} experts of {}", plan.ep, m.experts, model.name),
           fmt::format("ep can be {}", Divisors(m.experts)));
    } else if (const int inner = ExpertTensorRanks(plan); m.ffn % inner != 0) {
      fail(plan.ep > 1 ? "ep" : "tp",
           fmt::format("leaves {} ranks to share one expert, which do not divide its {} columns", inner, m.ffn));
    }
  } else if (plan.ep > 1) {
    fail("ep", fmt::format("{} has no experts to spread", model.name), "set ep: 1");
  }

  const std::string weights(DTypeName(plan.weights)), activations(DTypeName(plan.activations)),
      kv(DTypeName(plan.kv_cache));
  if (plan.weights == DType::kTf32) {
    fail("weights", "tf32 is a multiply format, not a storage format", "set weights: fp32 and activations: tf32");
  }
  if (BitsPerElement(plan.activations) < 16) {
    // 4-bit formats differ in their block scales, so compare the bits of the number itself.
    const auto bits = [](DType d) { return static_cast<int>(BitsPerElement(d)) & ~3; };
    if (bits(plan.weights) > bits(plan.activations)) {
      fail("activations", fmt::format("{} is narrower than the {} weights", activations, weights),
           fmt::format("set weights: {} too", activations));
    }
  }
  if (plan.kv_cache == DType::kTf32 || plan.kv_cache == DType::kMxfp4) {
    fail("kv_cache", fmt::format("no engine keeps a {} cache", kv), "one of: fp32, bf16, fp16, fp8, int8, int4, nvfp4");
  }
}

}  // namespace simrun
