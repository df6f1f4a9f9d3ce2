// Cost of one synthetic request and of one trace line.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "workload/byte_source.h"
#include "workload/config.h"
#include "workload/source.h"
#include "workload/trace_reader.h"

namespace simrun {
namespace {

WorkloadConfig Synthetic() {
  WorkloadConfig c;
  c.requests = INT64_MAX;
  c.arrivals.emplace().poisson.emplace().rate = PerSecond(1000);
  LognormalLength& in = c.input_tokens.emplace().lognormal.emplace();
  in.mean = 1155;
  in.p99 = 4142;
  in.max = 8192;
  c.output_tokens.emplace().fixed = 200;
  return c;
}

void Pull(benchmark::State& state, const WorkloadConfig& config) {
  auto source = MakeSource(config, 1, "");
  if (!source.ok()) return state.SkipWithError(std::string(source.status().message()).c_str());
  Arrival a;
  for (auto _ : state) {
    auto r = (*source)->Next(&a);
    if (!r.ok() || *r != NextResult::kArrival) return state.SkipWithError("the source ended");
    benchmark::DoNotOptimize(a);
  }
}

void BM_PoissonLognormal(benchmark::State& state) { Pull(state, Synthetic()); }
BENCHMARK(BM_PoissonLognormal);

void BM_PoissonTwoLognormals(benchmark::State& state) {
  WorkloadConfig c = Synthetic();
  c.output_tokens = c.input_tokens;
  Pull(state, c);
}
BENCHMARK(BM_PoissonTwoLognormals);

void BM_GammaLognormal(benchmark::State& state) {
  WorkloadConfig c = Synthetic();
  GammaArrivals& g = c.arrivals.emplace().gamma.emplace();
  g.rate = PerSecond(1000);
  g.cv = 2;
  Pull(state, c);
}
BENCHMARK(BM_GammaLognormal);

void BM_ConstantFixed(benchmark::State& state) {
  WorkloadConfig c = Synthetic();
  c.arrivals.emplace().constant.emplace().rate = PerSecond(1000);
  c.input_tokens.emplace().fixed = 100;
  Pull(state, c);
}
BENCHMARK(BM_ConstantFixed);

void BM_ClosedLoop(benchmark::State& state) {
  WorkloadConfig c = Synthetic();
  c.arrivals.reset();
  c.concurrency = state.range(0);
  c.think_time.emplace().exponential.emplace().mean = Seconds(1);
  auto source = MakeSource(c, 1, "");
  if (!source.ok()) return state.SkipWithError(std::string(source.status().message()).c_str());
  Arrival a;
  for (auto _ : state) {
    benchmark::DoNotOptimize((*source)->Next(&a).ok());
    (*source)->OnFinished(a.at);
  }
}
BENCHMARK(BM_ClosedLoop)->Arg(1)->Arg(64)->Arg(4096);

void BM_SolveSource(benchmark::State& state) {
  const WorkloadConfig c = Synthetic();
  for (auto _ : state) benchmark::DoNotOptimize(MakeSource(c, 1, "").ok());
}
BENCHMARK(BM_SolveSource)->Unit(benchmark::kMicrosecond);

constexpr int kLines = 100'000;

void ReadAll(benchmark::State& state, const std::string& text) {
  int64_t rows = 0;
  for (auto _ : state) {
    auto reader = TraceReader::Open(FromMemory(text), "bench", {});
    TraceRow row;
    while (true) {
      auto more = (*reader)->Next(&row);
      if (!more.ok()) return state.SkipWithError(std::string(more.status().message()).c_str());
      if (!*more) break;
      benchmark::DoNotOptimize(row);
    }
    rows += (*reader)->rows();
  }
  state.SetItemsProcessed(rows);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(text.size()));
}

void BM_GenericLine(benchmark::State& state) {
  std::string text = "arrival_s,input_tokens,output_tokens,session\n";
  for (int i = 0; i < kLines; ++i) text += fmt::format("{}.{:06},{},{},client{}\n", i / 10, i % 10 * 98765, 100 + i % 4000, 1 + i % 300, i % 50);
  ReadAll(state, text);
}
BENCHMARK(BM_GenericLine)->Unit(benchmark::kMillisecond);

void BM_GenericLineWithHashes(benchmark::State& state) {
  std::string text = "arrival_s,input_tokens,output_tokens,session,hash_ids\n";
  std::string hashes;
  for (int i = 0; i < 24; ++i) hashes += fmt::format("{} ", 100000 + i);
  for (int i = 0; i < kLines; ++i) text += fmt::format("{}.{},{},{},,{}\n", i / 10, i % 10, 12000 + i % 4000, 1 + i % 300, hashes);
  ReadAll(state, text);
}
BENCHMARK(BM_GenericLineWithHashes)->Unit(benchmark::kMillisecond);

void BM_AzureLine(benchmark::State& state) {
  std::string text = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  for (int i = 0; i < kLines; ++i) {
    text += fmt::format("2023-11-16 {:02}:{:02}:{:02}.{:07},{},{}\n", i / 36000, i / 600 % 60, i / 10 % 60, i % 10 * 987654, 100 + i % 4000, 1 + i % 300);
  }
  ReadAll(state, text);
}
BENCHMARK(BM_AzureLine)->Unit(benchmark::kMillisecond);

void BM_MooncakeLine(benchmark::State& state) {
  std::string text, hashes;
  for (int i = 0; i < 24; ++i) hashes += fmt::format("{}{}", i > 0 ? ", " : "", 100000 + i);
  for (int i = 0; i < kLines; ++i) {
    text += fmt::format("{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": {}, \"hash_ids\": [{}]}}\n", i * 30, 12000 + i % 4000, 1 + i % 300, hashes);
  }
  ReadAll(state, text);
}
BENCHMARK(BM_MooncakeLine)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace simrun
