// One decode step of the routed experts of DeepSeek-V3: 58 layers of 256 experts, 8 per token, 64 sequences, a quarter
// of the experts in GPU memory. Drawing the choices, hybrid scheduling of every layer, and the cache.
#include <benchmark/benchmark.h>

#include <string>

#include "models/expert_router.h"
#include "sim/expert_execution.h"
#include "sim/placed_step.h"
#include "sim/scenario.h"

namespace simrun {
namespace {

constexpr int kLayers = 58, kExperts = 256, kTopK = 8, kSequences = 64;

RoutingLaw Law() { return {kTopK, GammaPopularity(kLayers, kExperts, kTopK, 0.83, Rng(1, "popularity")), 0.215, 0.71, 0.3}; }

// 24.8 MB per expert in 4.5 bits: 0.13 ms from one socket's memory, 1 ms over PCIe 4, 14 us from HBM.
ExpertCosts Costs() {
  ExpertCosts c;
  c.gpu_base = 14e-6;
  c.gpu_per_token = 0.3e-6;
  c.cpu_first = 20e-6;
  c.cpu_base = 130e-6;
  c.cpu_per_token = 40e-6;
  c.transfer = 1e-3;
  return c;
}

void RoutedStep(benchmark::State& state, const char* policy_name, const char* cache, const char* prefetch_name) {
  const auto policy = (*BuiltInExpertPolicies().Find(policy_name))();
  const auto ranking = (*BuiltInExpertRankings().Find(cache))({});
  const auto prefetch = (*BuiltInExpertPrefetches().Find(prefetch_name))();
  ExpertExecutionParams params;
  params.policy = policy.get();
  params.ranking = ranking.get();
  params.prefetch = prefetch.get();
  params.places.assign(kLayers, kExperts / 4);
  ExpertExecution execution(params, MakeLawRouter(Law(), Rng(1, "routing")), Rng(1, "predictor"));
  const ExpertCosts costs = Costs();
  for (auto _ : state) {
    execution.Begin(kSequences, 0);
    double seconds = 0;
    for (int l = 0; l < kLayers; ++l) seconds += execution.Layer(l, costs, 50e-6, 0, 0, 0.5e-3).makespan;
    benchmark::DoNotOptimize(seconds);
  }
}
BENCHMARK_CAPTURE(RoutedStep, static_pinned, "static", "pinned", "none")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(RoutedStep, hybrid_pinned, "hybrid", "pinned", "none")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(RoutedStep, hybrid_lru, "hybrid", "lru", "none")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(RoutedStep, hybrid_score, "hybrid", "score", "none")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(RoutedStep, hybrid_score_impact, "hybrid", "score", "impact")->Unit(benchmark::kMicrosecond);

void Choices(benchmark::State& state) {
  auto router = MakeLawRouter(Law(), Rng(1, "routing"));
  for (auto _ : state) {
    router->Begin(kSequences, 0);
    for (int l = 0; l < kLayers; ++l) benchmark::DoNotOptimize(router->Layer(l).data());
  }
}
BENCHMARK(Choices)->Unit(benchmark::kMicrosecond);

// The whole step as a simulation prices it: attention, links and CPU too. The machine of a KTransformers server with an
// 80 GB card, which holds a tenth of the experts.
void PricedStep(benchmark::State& state, const char* experts) {
  const auto scenario = Scenario::FromYaml(std::string(R"(
model: deepseek-v3
hardware: {gpu: h100-pcie-80gb, host: xeon-6454s, host_memory: 1 TB}
plan: {weights: q4_k_m, placement: [{tensors: routed_experts, tier: dram, share: 0.9, use: compute}]}
workload: {static_batch: 64, input_tokens: 500, output_tokens: 200}
scheduler: {max_num_seqs: 64, max_model_len: 1024, max_num_batched_tokens: 2048, experts: )") + experts + "}\n");
  if (!scenario.ok()) return state.SkipWithError(std::string(scenario.status().message()).c_str());
  StepCostOptions options;
  options.max_tokens = 2048;
  options.max_rows = kSequences;
  const auto step = StepCostOf(scenario->resolved(), *scenario->catalog(), options);
  if (!step.ok()) return state.SkipWithError(std::string(step.status().message()).c_str());
  StepWork work;
  work.decode_seqs = work.tokens = work.logits_rows = kSequences;
  work.decode_kv_max = 600;
  work.decode_kv_sum = work.decode_kv_sum_windowed = 600 * kSequences;
  StepCost cost;
  for (auto _ : state) {
    (*step)->Predict({&work, 1}, &cost);
    benchmark::DoNotOptimize(cost.stage_seconds[0]);
  }
}
BENCHMARK_CAPTURE(PricedStep, in_expectation, "{}")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(PricedStep, static_pinned, "static")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(PricedStep, hybrid_pinned, "hybrid")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(PricedStep, hybrid_score, "{policy: hybrid, cache: score}")->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace simrun
