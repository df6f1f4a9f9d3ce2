// Speed of the planner: whole searches and sweeps, from the parsed scenario to the ranking.
//
//   bench/planner_bench [--benchmark_filter=...]
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include <benchmark/benchmark.h>

#include "planner/capacity.h"
#include "planner/deal.h"
#include "planner/evaluate.h"
#include "planner/plan_space.h"
#include "planner/sweep.h"
#include "sim/simulation.h"

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

// One question of a program that embeds the library: a scenario from its file's text to the report, 100 requests. With the
// argument 0 each brings a new catalogue, with 1 they share one.
void BM_OneQuestion(benchmark::State& state) {
  const auto kept = std::make_shared<const Catalog>(BuiltInCatalog());
  int64_t seed = 0;
  for (auto _ : state) {
    const auto base = Scenario::FromYaml(R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
workload: {requests: 100, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 100, output_tokens: 50}
)", "bench", "", state.range(0) > 0 ? kept : nullptr);
    const absl::StatusOr<Report> report = Simulate(base->With("seed", std::to_string(++seed)));
    if (!report.ok()) return state.SkipWithError(std::string(report.status().message()).c_str());
  }
}
BENCHMARK(BM_OneQuestion)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();

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

// Rank 0 of 1001 processes, the others simulated: each asks for points and answers at once with a ready result, so that
// rank 0 is never waited for. What is counted is all that rank 0 does: messages, dealing, and with the argument 1 the
// results file too.
class AnsweringTeam : public Team {
 public:
  AnsweringTeam(int ranks, std::string job, std::string result) : ranks_(ranks), job_(std::move(job)), result_(std::move(result)) {}
  int rank() const override { return 0; }
  int size() const override { return ranks_; }
  void Send(int to, std::string message) override {
    MessageReader in(message);
    if (in.Number() != 5) return;  // a deal
    const int64_t count = in.Number();
    MessageWriter out;
    out.Add(int64_t{1}).Add(int64_t{4}).Add(count);
    for (int64_t i = 0; i < count; ++i) out.Add(in.Number()).Add(result_);
    answers_.emplace_back(to, out.Take());
  }
  bool Receive(int* from, std::string* message) override {
    if (greeted_ + 1 < ranks_) {
      *from = ++greeted_;
      *message = MessageWriter().Add(int64_t{0}).Add(job_).Add("host").Add(int64_t{4}).Take();
      return true;
    }
    if (answers_.empty()) return false;
    *from = answers_.front().first;
    *message = std::move(answers_.front().second);
    answers_.pop_front();
    return true;
  }

 private:
  int ranks_, greeted_ = 0;
  std::string job_, result_;
  std::deque<std::pair<int, std::string>> answers_;
};

void BM_DealToThousandRanks(benchmark::State& state) {
  const auto spec = SweepSpec::FromYaml(R"(
base:
  model: llama-3.1-8b
  hardware: {gpu: h100-sxm-80gb}
  workload: {requests: 100, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 200, output_tokens: 20}
axes: [{path: workload.arrivals.poisson.rate, range: {from: 1 /s, to: 20 /s, points: 50000}}]
)", "bench", "");
  if (!spec.ok()) return state.SkipWithError(std::string(spec.status().message()).c_str());
  const std::string result = PackPoint(RunPoint(*spec, 0));
  for (auto _ : state) {
    AnsweringTeam team(1001, SweepJob(*spec), result);
    SweepOptions options;
    options.team = &team;
    options.threads = 0;
    if (state.range(0) > 0) {
      options.results_file = "/tmp/simrun_deal_bench.db";
      std::remove(options.results_file.c_str());
    }
    const auto swept = Sweep(*spec, options);
    if (!swept.ok() || swept->progress.done != spec->size()) return state.SkipWithError("the sweep is not complete");
    if (!options.results_file.empty()) std::remove(options.results_file.c_str());
  }
  state.counters["points/s"] = benchmark::Counter(static_cast<double>(spec->size()), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_DealToThousandRanks)->Arg(0)->Arg(1)->Unit(benchmark::kSecond)->Iterations(1)->MeasureProcessCPUTime();

}  // namespace
}  // namespace simrun::planner
