// Costs of the base library: what a simulated token or a configuration file pays.
#include <string>

#include <benchmark/benchmark.h>

#include "base/quantity_text.h"
#include "base/rng.h"
#include "base/sketch.h"
#include "base/yaml.h"

namespace simrun {
namespace {

void BM_SketchAdd(benchmark::State& state) {
  Rng rng(1, "bench");
  std::vector<SimTime> values;
  for (int i = 0; i < 4096; ++i) values.push_back(SimTime::From(Seconds(rng.LogNormal(-4, 0.5))));
  QuantileSketch sketch;
  size_t i = 0;
  for (auto _ : state) sketch.Add(values[i++ & 4095]);
  benchmark::DoNotOptimize(sketch.count());
}
BENCHMARK(BM_SketchAdd);

void BM_SketchQuantile(benchmark::State& state) {
  Rng rng(1, "bench");
  QuantileSketch sketch;
  for (int i = 0; i < 100'000; ++i) sketch.Add(SimTime::From(Seconds(rng.LogNormal(-4, 0.5))));
  for (auto _ : state) benchmark::DoNotOptimize(sketch.Quantile(0.99));
}
BENCHMARK(BM_SketchQuantile);

template <class Draw>
void RunDraws(benchmark::State& state, Draw draw) {
  Rng rng(1, "bench");
  for (auto _ : state) benchmark::DoNotOptimize(draw(rng));
}
void BM_RngBits(benchmark::State& s) { RunDraws(s, [](Rng& r) { return r.NextBits(); }); }
void BM_RngUniform(benchmark::State& s) { RunDraws(s, [](Rng& r) { return r.Uniform(); }); }
void BM_RngExponential(benchmark::State& s) { RunDraws(s, [](Rng& r) { return r.Exponential(2); }); }
void BM_RngNormal(benchmark::State& s) { RunDraws(s, [](Rng& r) { return r.Normal(); }); }
void BM_RngLogNormal(benchmark::State& s) { RunDraws(s, [](Rng& r) { return r.LogNormal(1, 0.5); }); }
void BM_RngGamma(benchmark::State& s) { RunDraws(s, [](Rng& r) { return r.Gamma(2.5, 1); }); }
BENCHMARK(BM_RngBits);
BENCHMARK(BM_RngUniform);
BENCHMARK(BM_RngExponential);
BENCHMARK(BM_RngNormal);
BENCHMARK(BM_RngLogNormal);
BENCHMARK(BM_RngGamma);

void BM_DiscreteDraw(benchmark::State& state) {
  const DiscreteSampler sampler(std::vector<double>(128, 1.0));
  RunDraws(state, [&](Rng& r) { return sampler.Draw(r); });
}
BENCHMARK(BM_DiscreteDraw);

void BM_ParseYaml100Lines(benchmark::State& state) {
  std::string text;
  for (int i = 0; i < 20; ++i) {
    text += "section" + std::to_string(i) + ":\n  rate: 4 /s\n  deadline: 500 ms\n  plan: {tp: 4, pp: 1}\n  note: \"text\"\n";
  }
  for (auto _ : state) benchmark::DoNotOptimize(ParseYaml(text, "bench.yaml").ok());
}
BENCHMARK(BM_ParseYaml100Lines);

void BM_ParseQuantity(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(ParseQuantity<BytesPerSecond>("3.35 TB/s").ok());
}
BENCHMARK(BM_ParseQuantity);

}  // namespace
}  // namespace simrun
