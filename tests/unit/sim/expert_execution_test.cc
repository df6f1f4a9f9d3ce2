#include "sim/expert_execution.h"

#include <algorithm>
#include <string>

#include "gtest/gtest.h"
#include "sim/resolved.h"
#include "sim/scenario.h"
#include "tests/support/expert_parts.h"

namespace simrun {
namespace {

// Eight layers whose CPU is so slow that the link could bring all experts of the coming layers; no expert is resident.
int MostAheadInTwoLayers(int buffer) {
  constexpr int kLayers = 8, kExperts = 16, kTopK = 4;
  const ExpertParts parts("static", "pinned", "impact");
  ExpertExecutionParams params = parts.Params();
  params.prefetch_layers = 3;
  params.prefetch_buffer = buffer;
  params.places.assign(kLayers, 0);
  RoutingLaw law{kTopK, UniformPopularity(kLayers, kExperts, kTopK), 0, 0, 0};
  ExpertExecution execution(params, MakeLawRouter(law, Rng(1, "routing")), Rng(1, "predictor"));
  ExpertCosts costs;
  costs.gpu_base = 1e-6;
  costs.cpu_base = 1e-3;
  costs.transfer = 1e-5;
  int most = 0, before = 0;
  for (int step = 0; step < 20; ++step) {
    execution.Begin(1, 0);
    before = 0;
    for (int l = 0; l < kLayers; ++l) {
      execution.Layer(l, costs, 0, 0, 0, 1e-3);
      most = std::max(most, execution.ahead() + before);
      before = execution.ahead();
    }
  }
  return most;
}

// What is brought ahead of one layer is given up when the layer for which it came has run: two layers one after the
// other bring at most twice the buffer, and the first layer of a step fills it.
TEST(ExpertExecution, NoMoreIsBroughtAheadThanTheBufferHolds) {
  for (const int buffer : {1, 3, 8}) {
    EXPECT_GE(MostAheadInTwoLayers(buffer), buffer);
    EXPECT_LE(MostAheadInTwoLayers(buffer), 2 * buffer);
  }
  // Three layers ahead have 12 active experts.
  EXPECT_EQ(MostAheadInTwoLayers(100), 12 + 4);
}

// Experts that cross the link take GPU memory: two of them where the policy fetches, and those brought ahead.
TEST(ExpertExecution, ExpertsThatCrossTheLinkTakeGpuMemory) {
  const auto window = [](const std::string& experts) {
    const auto s = Scenario::FromYaml(R"(
model: deepseek-v2-lite
hardware: {gpu: a100-sxm-80gb, host: xeon-8380}
plan: {placement: {rules: [{tensors: routed_experts, share: 0.75, tier: dram, use: compute}]}}
workload: {static_batch: 1, input_tokens: 100, output_tokens: 10}
scheduler: {max_model_len: 4096, experts: )" + experts + "}\n");
    EXPECT_TRUE(s.ok()) << s.status();
    return s->resolved().memory.window.value();
  };
  const double expert = 3.0 * 2048 * 1408 * 2;  // gate, up and down projections in bf16
  EXPECT_NEAR(window("static"), 0, 1);
  EXPECT_NEAR(window("hybrid"), 2 * expert, 1);
  EXPECT_NEAR(window("stream"), 2 * expert, 1);
  EXPECT_NEAR(window("{policy: static, prefetch: next-layer}"), 6 * expert, 1);  // 6 experts per token
  EXPECT_NEAR(window("{policy: hybrid, prefetch: impact, prefetch_buffer: 20}"), 22 * expert, 1);
}

}  // namespace
}  // namespace simrun
