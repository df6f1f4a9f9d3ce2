// One decode step of the routed experts of DeepSeek-V3: 58 layers of 256 experts, 8 per token, 64 sequences, a quarter
// of the experts in GPU memory. Drawing the choices, hybrid scheduling of every layer, and the cache.
#include <benchmark/benchmark.h>

#include <string>

#include "models/expert_router.h"
#include "sim/expert_execution.h"

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

}  // namespace
}  // namespace simrun
