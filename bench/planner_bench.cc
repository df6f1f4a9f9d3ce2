// Speed of the planner: whole searches and sweeps, from the parsed scenario to the ranking.
//
//   bench/planner_bench [--benchmark_filter=...]
#include <cstdlib>
#include <string>

#include <benchmark/benchmark.h>

#include "planner/capacity.h"
#include "planner/evaluate.h"
#include "planner/plan_space.h"
#include "planner/sweep.h"

namespace simrun::planner {
namespace {

constexpr const char* kChat =
    "workload: {requests: 1024, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, "
    "output_tokens: {lognormal: {mean: 211, p99: 601, max: 2048}}}\n";

// Enumerates and simulates everything on `threads` threads; the counters say how much that was.
void Search(benchmark::State& state, const std::string& text, int threads = 1) {
  const auto root = ParseYaml(text, "bench");
  if (!root.ok()) return state.SkipWithError(std::string(root.status().message()).c_str());
  Problems problems;
  const SearchConfig search = ReadSearch(*root, &problems);
  size_t plans = 0, candidates = 0;
  for (auto _ : state) {
    const auto catalog = std::make_shared<const Catalog>(BuiltInCatalog());
    const auto space = Enumerate(*root, "", catalog, search, threads);
    if (!space.ok()) return state.SkipWithError(std::string(space.status().message()).c_str());
    EvaluateOptions options;
    options.objective = *FindObjective("throughput");
    options.threads = threads;
    const auto result = Evaluate(*space, options);
    if (!result.ok()) return state.SkipWithError(std::string(result.status().message()).c_str());
    plans = result->ranked.size();
    candidates = space->candidates.size();
  }
  state.counters["plans"] = static_cast<double>(plans);
  state.counters["candidates"] = static_cast<double>(candidates);
  state.counters["plans/s"] = benchmark::Counter(static_cast<double>(plans), benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Llama70bOn8(benchmark::State& state) {
  Search(state, std::string("model: llama-3.1-70b\nhardware: {node: dgx-h100}\n") + kChat, static_cast<int>(state.range(0)));
}
BENCHMARK(BM_Llama70bOn8)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime()->MeasureProcessCPUTime();

void BM_Mixtral8x7bOn8(benchmark::State& state) {
  Search(state, std::string("model: mixtral-8x7b\nhardware: {node: dgx-h100}\n") + kChat, static_cast<int>(state.range(0)));
}
BENCHMARK(BM_Mixtral8x7bOn8)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime()->MeasureProcessCPUTime();

// Four GPU types, two formats of weights, two batch limits; with the argument 1 two formats of the KV cache and a third
// batch limit too, three times as many plans.
void BM_FourTypesOn32(benchmark::State& state) {
  const char* more = state.range(0) > 0 ? "kv_cache: [bf16, fp8], max_num_seqs: [64, 128, 256]" : "max_num_seqs: [128, 256]";
  Search(state, std::string("model: llama-3.1-70b\nhardware: {gpu: h100-sxm-80gb, count: 32}\nsearch: {gpu_types: [a100-sxm-80gb, h100-sxm-80gb, h200-sxm-141gb, "
                            "b200-sxm-180gb], weights: [bf16, fp8], ") + more + "}\n" + kChat);
}
BENCHMARK(BM_FourTypesOn32)->Arg(0)->Arg(1)->Unit(benchmark::kSecond)->Iterations(1)->MeasureProcessCPUTime();

void BM_KimiK2(benchmark::State& state) {
  Search(state, "model: kimi-k2\nhardware: {node: hgx-h200, nodes: " + std::to_string(state.range(0) / 8) + "}\n" + kChat);
}
BENCHMARK(BM_KimiK2)->Arg(64)->Arg(512)->Unit(benchmark::kSecond)->Iterations(1)->MeasureProcessCPUTime();

// 1000 points of 10 000 requests, results kept in memory.
void BM_SweepThousandPoints(benchmark::State& state) {
  const auto spec = SweepSpec::FromYaml(R"(
base:
  model: llama-3.1-70b
  hardware: {node: dgx-h100}
  plan: {tp: 4, replicas: 2}
  workload: {requests: 10000, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, output_tokens: {lognormal: {mean: 211, p99: 601, max: 2048}}}
axes:
  - {path: workload.arrivals.poisson.rate, range: {from: 1 /s, to: 6 /s, points: 25}}
  - {path: scheduler.max_num_seqs, values: [32, 64, 128, 256]}
  - {path: scheduler.max_num_batched_tokens, log_range: {from: 512, to: 8192, points: 10}}
)", "bench", "");
  if (!spec.ok()) return state.SkipWithError(std::string(spec.status().message()).c_str());
  for (auto _ : state) {
    SweepOptions options;
    options.threads = static_cast<int>(state.range(0));
    const auto result = Sweep(*spec, options);
    if (!result.ok() || result->progress.done != 1000 || result->progress.invalid + result->progress.failed > 0) {
      return state.SkipWithError("the sweep is not complete");
    }
  }
  state.counters["points"] = static_cast<double>(spec->size());
}
BENCHMARK(BM_SweepThousandPoints)->Arg(1)->Arg(2)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime()->MeasureProcessCPUTime();

}  // namespace
}  // namespace simrun::planner
