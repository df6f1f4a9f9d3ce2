// Cost of pricing one engine step: Llama-3.1-70B on four H100, tables filled unless said otherwise.
#include <benchmark/benchmark.h>

#include "hw/machine.h"
#include "hw/step_cost_compiled.h"
#include "models/model_spec.h"

namespace simrun {
namespace {

const Catalog& BenchCatalog() {
  static const auto* const catalog = [] {
    auto* c = new Catalog;
    c->AddEmbedded(HardwareCatalogFiles());
    c->AddEmbedded(ModelCatalogFiles());
    return c;
  }();
  return *catalog;
}

std::unique_ptr<CompiledStepCost> Compile(benchmark::State& state, const char* model_name, const ParallelPlan& plan) {
  HardwareConfig config;
  config.gpu = "h100-sxm-80gb";
  Problems problems;
  const Machine machine = BuildMachine(config, BenchCatalog(), {}, &problems);
  auto model = LoadModel(model_name, BenchCatalog());
  auto profile = LoadEngineProfile("vllm-0.19", BenchCatalog());
  if (!problems.empty() || !model.ok() || !profile.ok()) {
    state.SkipWithError("catalogue");
    return nullptr;
  }
  auto compiled = CompileStepCost(*model, plan, machine, ApplyEngineConfig(*profile, {}, machine), BenchCatalog(), {});
  if (!compiled.ok()) {
    state.SkipWithError("compile");
    return nullptr;
  }
  return *std::move(compiled);
}

StepWork Decode(int64_t seqs, int64_t kv) {
  StepWork work;
  work.tokens = work.logits_rows = work.decode_seqs = seqs;
  work.decode_kv_sum = work.decode_kv_sum_windowed = seqs * kv;
  work.decode_kv_max = kv;
  return work;
}

ParallelPlan Plan(int tp, int pp) {
  ParallelPlan plan;
  plan.tp = tp;
  plan.pp = pp;
  return plan;
}

void DecodeStep(benchmark::State& state) {
  auto model = Compile(state, "llama-3.1-70b", Plan(4, static_cast<int>(state.range(0))));
  if (model == nullptr) return;
  StepWork work = Decode(48, 1500);
  StepCost cost;
  model->Predict({&work, 1}, &cost);
  for (auto _ : state) {
    work.decode_kv_sum += work.decode_seqs;
    ++work.decode_kv_max;
    model->Predict({&work, 1}, &cost);
    benchmark::DoNotOptimize(cost);
  }
}
BENCHMARK(DecodeStep)->Arg(1)->Arg(4);

// The batch size changes in every step, as it does under load.
void DecodeStepOfChangingSize(benchmark::State& state) {
  auto model = Compile(state, "llama-3.1-70b", Plan(4, 1));
  if (model == nullptr) return;
  StepCost cost;
  for (int64_t seqs = 1; seqs <= 256; ++seqs) {
    const StepWork work = Decode(seqs, 1);
    model->Predict({&work, 1}, &cost);
  }
  int64_t seqs = 1;
  for (auto _ : state) {
    const StepWork work = Decode(seqs, 1000);
    seqs = seqs * 5 % 257;
    model->Predict({&work, 1}, &cost);
    benchmark::DoNotOptimize(cost);
  }
}
BENCHMARK(DecodeStepOfChangingSize);

void MixedStep(benchmark::State& state) {
  auto model = Compile(state, "llama-3.1-70b", Plan(4, 1));
  if (model == nullptr) return;
  const PrefillChunk chunks[] = {{1500, 0}, {500, 4096}};
  StepWork work = Decode(48, 1500);
  work.tokens += 2000;
  work.chunks = chunks;
  StepCost cost;
  model->Predict({&work, 1}, &cost);
  for (auto _ : state) {
    ++work.decode_kv_sum;
    model->Predict({&work, 1}, &cost);
    benchmark::DoNotOptimize(cost);
  }
}
BENCHMARK(MixedStep);

// One entry of the token table: lowering and pricing about 14 operators.
void FillEntry(benchmark::State& state) {
  auto model = Compile(state, state.range(0) == 0 ? "llama-3.1-70b" : "deepseek-v3", Plan(8, 1));
  if (model == nullptr) return;
  StepCost cost;
  int64_t tokens = 1 << 20;  // beyond the table: priced anew every time
  for (auto _ : state) {
    StepWork work = Decode(++tokens, 1);
    work.logits_rows = 0;
    model->Predict({&work, 1}, &cost);
    benchmark::DoNotOptimize(cost);
  }
}
BENCHMARK(FillEntry)->Arg(0)->Arg(1);

void CompileModel(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(Compile(state, "llama-3.1-70b", Plan(4, 1)));
}
BENCHMARK(CompileModel)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace simrun
