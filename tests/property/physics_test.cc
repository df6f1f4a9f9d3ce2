// No run beats its hardware: bounds that hold for every model, GPU and plan of the catalogue, with the engine that has no
// overhead. The bounds are computed here from parameter counts and datasheet figures alone.
#include <algorithm>
#include <cmath>
#include <set>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "models/lowering.h"
#include "sim/resolved.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

struct Drawn {
  absl::StatusOr<Scenario> scenario;
  int64_t input, output, sequences;
};

// A random model on a random GPU with the smallest random plan that fits; most draws do not, and are drawn again.
Drawn Draw(Rng& rng, const std::shared_ptr<const Catalog>& catalog) {
  const std::vector<std::string> models = catalog->Names("models"), gpus = catalog->Names("gpus");
  while (true) {
    const std::string model = models[rng.Below(models.size())], gpu = gpus[rng.Below(gpus.size())];
    const int tp = 1 << rng.Below(4), pp = 1 << rng.Below(2);
    Drawn d{absl::UnknownError(""), 1 + static_cast<int64_t>(rng.Below(900)), 2 + static_cast<int64_t>(rng.Below(30)),
            1 + static_cast<int64_t>(rng.Below(8))};
    std::string yaml = "model: " + model + "\nhardware: {gpu: " + gpu + "}\nplan: {tp: " + std::to_string(tp) + ", pp: " + std::to_string(pp) +
                       (rng.Below(3) == 0 ? ", weights: fp8" : "") + "}\nengine: {profile: ideal}\n";
    yaml += "scheduler: {policy: prefill-first, max_num_seqs: " + std::to_string(d.sequences) + ", max_num_batched_tokens: 8192, micro_batches: 1}\n";
    yaml += "workload: {requests: " + std::to_string(d.sequences) + ", arrivals: all_at_once, input_tokens: " + std::to_string(d.input) +
            ", output_tokens: " + std::to_string(d.output) + "}\n";
    d.scenario = Scenario::FromYaml(yaml, "scenario", "", catalog);
    if (!d.scenario.ok() || d.scenario->resolved().model.is_encoder()) continue;
    const EngineParams& engine = d.scenario->resolved().params;
    if (engine.limits.BlocksFor(d.input + d.output) > engine.kv_blocks) continue;
    return d;
  }
}

TEST(Physics, NoRunBeatsItsMemoryOrItsArithmetic) {
  const auto catalog = std::make_shared<const Catalog>(BuiltInCatalog());
  Rng rng(17, "physics");
  std::set<std::string> models, gpus;
  double closest_decode = 0, closest_prefill = 0;
  for (int i = 0; i < 150; ++i) {
    const Drawn d = Draw(rng, catalog);
    const ResolvedScenario& s = d.scenario->resolved();
    SCOPED_TRACE(d.scenario->ToYaml());
    models.insert(s.model.name);
    gpus.insert(s.machine.gpu.name);
    const Report r = ReportOf(*d.scenario);
    ASSERT_EQ(r.requests.completed, d.sequences);

    // Decode: each step reads every weight that a token uses, and the KV cache of each sequence. Windowed layers keep
    // at most a window. The stages of a pipeline work one after the other.
    const double parameters = static_cast<double>(ActiveParameterCount(s.model, false));
    double weight = BytesPerElement(s.plan.weights);
    if (s.model.expert_dtype) weight = std::min(weight, BytesPerElement(*s.model.expert_dtype));
    double kv = 0;
    for (int stage = 0; stage < s.plan.pp; ++stage) {
      const KvBytes b = KvBytesPerGpu(s.model, s.plan, stage);
      kv += b.per_token.value() * static_cast<double>(d.input) +
            b.per_token_windowed.value() * static_cast<double>(std::min(d.input, b.window));
    }
    const double bandwidth = s.machine.gpu.memory_bandwidth.value();
    const double read = parameters * weight / s.plan.tp + static_cast<double>(d.sequences) * kv;
    EXPECT_GE(r.itl.p50.value() * (1 + QuantileSketch::kRelativeError), read / bandwidth);
    closest_decode = std::max(closest_decode, read / bandwidth / r.tpot.mean.value());

    // Prefill: two operations per parameter and token, the LM head for the last token only. The last first token comes
    // when all prompts have passed through all stages.
    const double head = static_cast<double>(s.model.vocab * s.model.hidden);
    const double operations = 2 * std::max(0.0, parameters - head) * static_cast<double>(d.input * d.sequences);
    double peak = 0;
    for (const FlopsPerSecond p : s.machine.gpu.peak) peak = std::max(peak, p.value());
    if (s.plan.activations == DType::kBf16 && s.machine.gpu.peak[static_cast<size_t>(DType::kBf16)].value() > 0) {
      peak = s.machine.gpu.peak[static_cast<size_t>(DType::kBf16)].value();
    }
    EXPECT_GE(r.ttft.max.value(), operations / (peak * s.plan.tp));
    closest_prefill = std::max(closest_prefill, operations / (peak * s.plan.tp) / r.ttft.max.value());

    // Energy: never below idling, never above the power limit of the GPUs.
    const double idle = s.machine.gpu.idle_power.value() * r.simulation.simulated_s * s.plan.gpus();
    EXPECT_NEAR(r.energy.by_component.at("gpu_idle"), idle, 1e-9 * idle);
    EXPECT_GE(r.energy.total.value(), idle);
    EXPECT_LE(r.energy.by_component.at("gpu_active") + idle,
              s.machine.gpu.tdp.value() * r.simulation.simulated_s * s.plan.gpus() * (1 + 1e-9));

    // Memory: the parts are within the GPU.
    EXPECT_LE((r.memory.weights + r.memory.activations + r.memory.reserve).value(), r.memory.gpu.value());
    EXPECT_LE(r.memory.kv_peak_fraction, 1);
    EXPECT_GT(r.utilization.mfu, 0);
    EXPECT_LT(r.utilization.mfu, 1);
    if (HasFailure()) return;
  }
  // The draws are not all alike, and some come close: the bounds mean something.
  EXPECT_GT(models.size(), 30u);
  EXPECT_GT(gpus.size(), 20u);
  EXPECT_GT(closest_decode, 0.5);
  EXPECT_GT(closest_prefill, 0.3);
}

TEST(Physics, KvBytesByHand) {
  // Per token: 2 (K and V) x layers x KV heads x head width x 2 bytes; MLA keeps a latent of 512 and a key part of 64.
  const std::vector<std::pair<std::string, double>> expected = {
      {"llama-3.1-8b", 2 * 32 * 8 * 128 * 2}, {"llama-2-7b", 2 * 32 * 32 * 128 * 2}, {"qwen3-0.6b", 2 * 28 * 8 * 128 * 2},
      {"deepseek-v2-lite", 27 * (512 + 64) * 2}};
  for (const auto& [model, bytes] : expected) {
    const auto scenario = ScenarioOf("model: " + model + "\nhardware: {gpu: h100-sxm-80gb}\nengine: {profile: ideal}\nplan: {kv_cache: bf16}\n"
                                     "workload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}\n");
    const ResolvedScenario& s = scenario->resolved();
    EXPECT_DOUBLE_EQ(s.memory.kv_block.value() / static_cast<double>(s.params.limits.block_size), bytes) << model;
  }
}

// Twice the GPUs in the plan: weights and KV cache of each halve, up to what every GPU keeps a copy of.
TEST(Physics, TensorParallelismHalvesTheBytesOfAGpu) {
  const auto of = [](int tp) {
    return ScenarioOf("model: llama-3.1-70b\nhardware: {gpu: h200-sxm-141gb}\nplan: {tp: " + std::to_string(tp) + "}\n"
                      "workload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}\n")->resolved().memory;
  };
  EXPECT_NEAR(of(2).weights.value() / of(4).weights.value(), 2, 0.01);
  EXPECT_NEAR(of(2).kv_block.value() / of(4).kv_block.value(), 2, 1e-12);
}

}  // namespace
}  // namespace simrun
