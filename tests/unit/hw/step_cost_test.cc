#include <cmath>
#include <numeric>

#include "hw/step_cost_compiled.h"
#include "models/lowering.h"
#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

EngineProfile Profile(std::string_view name, const Machine& machine, const EngineConfig& config = {}) {
  auto profile = LoadEngineProfile(name, FormulaCatalog());
  EXPECT_TRUE(profile.ok()) << profile.status();
  return ApplyEngineConfig(*profile, config, machine);
}

std::unique_ptr<CompiledStepCost> Compile(const ModelSpec& model, const ParallelPlan& plan, const Machine& machine,
                                          const EngineProfile& profile, StepCostOptions options = {}) {
  auto compiled = CompileStepCost(model, plan, machine, profile, FormulaCatalog(), options);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return *std::move(compiled);
}

StepWork Decode(int64_t seqs, int64_t kv) {
  StepWork work;
  work.tokens = work.logits_rows = work.decode_seqs = seqs;
  work.decode_kv_sum = work.decode_kv_sum_windowed = seqs * kv;
  work.decode_kv_max = kv;
  return work;
}

StepCost Predict(CompiledStepCost& model, std::span<const StepWork> ranks) {
  StepCost cost;
  model.Predict(ranks, &cost);
  return cost;
}
StepCost Predict(CompiledStepCost& model, const StepWork& work) { return Predict(model, {&work, 1}); }

double Total(const CompiledStepCost& model, const StepCost& cost) {
  return std::accumulate(cost.stage_seconds.begin(), cost.stage_seconds.begin() + model.stages(), 0.0);
}

// Sums of the operators of one decode step worked out by hand from the fits (reference/operator models): Llama-3.1-70B,
// 16-bit, batch 32, KV 2048, TP4.
TEST(StepCostTest, DecodeOfA70BModelMatchesTheReferenceSums) {
  const ModelSpec model = TestModel("llama-3.1-70b");
  ParallelPlan plan;
  plan.tp = 4;
  for (auto [gpu, expected] : std::vector<std::pair<const char*, double>>{{"a100-sxm-80gb", 34.1e-3},
                                                                          {"h100-sxm-80gb", 18.0e-3},
                                                                          {"h200-sxm-141gb", 13.8e-3},
                                                                          {"b200-sxm-180gb", 10.6e-3}}) {
    const Machine machine = TestMachine(gpu);
    auto compiled = Compile(model, plan, machine, Profile("ideal", machine));
    const StepCost cost = Predict(*compiled, Decode(32, 2048));
    EXPECT_NEAR(cost.stage_seconds[0], expected, 0.07 * expected) << gpu;
    // No faster than reading the weights of a GPU and the KV cache once.
    const double bytes =
        WeightBytesPerGpu(model, plan, 0).value() + 32 * 2048 * KvBytesPerGpu(model, plan, 0).per_token.value();
    const double embedding = 128256.0 * 8192 / 4 * 2;  // gathered, not read through
    EXPECT_GT(cost.stage_seconds[0], (bytes - embedding) / machine.gpu.memory_bandwidth.value());
  }
}

// The compiled step against a slow sum over the lowered operators.
TEST(StepCostTest, EqualsTheSumOfItsOperators) {
  for (const char* name : {"llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", "qwen3-30b-a3b"}) {
    const ModelSpec model = TestModel(name);
    ParallelPlan plan;
    plan.tp = 2;
    const Machine machine = TestMachine("h100-sxm-80gb");
    auto compiled = Compile(model, plan, machine, Profile("ideal", machine));
    const std::vector<PrefillChunk> chunks = {{300, 0}, {128, 4096}};
    StepWork work = Decode(20, 3000);
    work.decode_kv_sum_windowed =
        20 * std::min<int64_t>(3000, model.attention.window > 0 ? model.attention.window : 3000);
    work.tokens += 428;
    work.logits_rows += 1;
    work.chunks = chunks;

    auto costs = OperatorCosts::Create(machine, FormulaCatalog(), {});
    ASSERT_TRUE(costs.ok());
    double seconds = 0, joules = 0;
    std::vector<Operator> ops = LowerTokenOperators(model, plan, 0, work.tokens, work.tokens);
    for (const Operator& op : LowerHeadOperators(model, plan, 0, work.logits_rows)) ops.push_back(op);
    for (const Operator& op : ops) {
      const OpTime t = costs->Cost(op);
      seconds += t.seconds * op.count;
      joules += t.joules * op.count;
    }
    for (const AttentionShape& shape : AttentionShapes(model, plan, 0)) {
      AttentionSplit split;
      const double kv = shape.window > 0 ? std::min<double>(3000, static_cast<double>(shape.window)) : 3000;
      costs->Attention(shape).AddDecode(20, 20 * kv, kv, &split);
      costs->Attention(shape).AddPrefill(chunks, &split);
      seconds += split.seconds();
      joules += split.joules;
    }
    const StepCost cost = Predict(*compiled, work);
    EXPECT_NEAR(cost.stage_seconds[0], seconds, 1e-9 * seconds) << name;
    // Two GPUs, and what they draw all the time.
    EXPECT_NEAR(cost.dynamic_joules, 2 * (joules + costs->power().active_watts() * seconds), 1e-9 * joules) << name;
    // Again from the filled table, and the explanation adds up to it.
    EXPECT_EQ(Predict(*compiled, work).stage_seconds[0], cost.stage_seconds[0]);
    double explained = 0;
    for (const StepOperator& op : compiled->Explain({&work, 1})) {
      explained += op.time.seconds;
      EXPECT_NEAR(std::accumulate(op.time.bound.begin(), op.time.bound.end(), 0.0), op.time.seconds, 1e-9 * seconds);
    }
    EXPECT_NEAR(explained, seconds, 1e-9 * seconds) << name;
  }
}

TEST(StepCostTest, BoundsAddUpAndEnergyStaysBelowTdp) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  for (const char* engine : {"ideal", "vllm-0.19", "vllm-0.6", "eager-2023", "trt-llm"}) {
    for (const int pp : {1, 2}) {
      ParallelPlan plan;
      plan.tp = 2;
      plan.pp = pp;
      auto compiled = Compile(TestModel("mixtral-8x7b"), plan, machine, Profile(engine, machine));
      ASSERT_EQ(compiled->stages(), pp);
      for (const int64_t seqs : {1, 7, 64, 300}) {
        const StepCost cost = Predict(*compiled, Decode(seqs, 700));
        const double total = Total(*compiled, cost);
        EXPECT_NEAR(std::accumulate(cost.bound_seconds.begin(), cost.bound_seconds.end(), 0.0), total, 1e-12) << engine;
        for (const double b : cost.bound_seconds) EXPECT_GE(b, -1e-15);
        EXPECT_LE(cost.dynamic_joules, total * 2 * (machine.gpu.tdp.value() - machine.gpu.idle_power.value()));
        EXPECT_GT(cost.dynamic_joules, 0);
      }
    }
  }
}

TEST(StepCostTest, HostTermsAct) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const ModelSpec model = TestModel("llama-3.1-8b");
  const double gpu = Predict(*Compile(model, {}, machine, Profile("ideal", machine)), Decode(16, 500)).stage_seconds[0];
  EngineProfile p = Profile("ideal", machine);
  p.step_host = Seconds(3e-3);
  p.sequence_host = Seconds(1e-5);
  p.post_step = Seconds(1e-3);
  p.post_sequence = Seconds(1e-4);
  p.overlap = false;
  const double serial = 3e-3 + 16 * 1e-5 + gpu + 1e-3 + 16 * 1e-4;
  StepCost cost = Predict(*Compile(model, {}, machine, p), Decode(16, 500));
  EXPECT_NEAR(cost.stage_seconds[0], serial, 1e-9);
  EXPECT_NEAR(cost.bound_seconds[static_cast<size_t>(Bound::kHost)], serial - gpu, 1e-9);
  // Overlapped, the host hides behind the GPU until it is the slower one.
  p.overlap = true;
  EXPECT_NEAR(Predict(*Compile(model, {}, machine, p), Decode(16, 500)).stage_seconds[0], gpu + 1e-3 + 16 * 1e-4, 1e-9);
  p.step_host = Seconds(0.1);
  EXPECT_NEAR(Predict(*Compile(model, {}, machine, p), Decode(16, 500)).stage_seconds[0],
              0.1 + 16 * 1e-5 + 1e-3 + 16 * 1e-4, 1e-9);
  // Eager mode launches every kernel: twice the cost, twice the time when launches bound the step.
  p = Profile("ideal", machine);
  p.cuda_graphs = false;
  p.launch = Seconds(1e-4);
  const double once = Predict(*Compile(model, {}, machine, p), Decode(1, 10)).stage_seconds[0];
  p.launch = Seconds(2e-4);
  EXPECT_NEAR(Predict(*Compile(model, {}, machine, p), Decode(1, 10)).stage_seconds[0], 2 * once, 1e-9);
  EXPECT_GT(once, 32 * 8 * 1e-4);  // at least 8 kernels a layer
  p.gpu_time_factor = 2;
  p.launch = Seconds(0);
  EXPECT_NEAR(Predict(*Compile(model, {}, machine, p), Decode(16, 500)).stage_seconds[0], 2 * gpu, 1e-9);
}

// Host and GPU are servers in tandem: the host begins with a step while the GPU works on the one before.
TEST(StepCostTest, AnOverlappedHostMayBeAStepAhead) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const ModelSpec model = TestModel("llama-3.1-8b");
  EngineProfile p = Profile("ideal", machine);
  const StepWork decode = Decode(16, 500);
  PrefillChunk chunk{900, 0};
  StepWork prompt = Decode(16, 500);
  prompt.tokens += chunk.tokens;
  prompt.logits_rows += 1;
  prompt.chunks = {&chunk, 1};
  for (const StepWork& work : {decode, prompt}) {
    p.overlap = true;
    p.step_host = Seconds(0);
    const double gpu = Predict(*Compile(model, {}, machine, p), work).stage_seconds[0];
    const double host = gpu / 4;
    p.step_host = Seconds(host);
    const auto step = [&](double lead) {
      StepCost cost;
      cost.lead = lead;
      Compile(model, {}, machine, p)->Predict({&work, 1}, &cost);
      double sum = 0;
      for (const double b : cost.bound_seconds) sum += b;
      EXPECT_NEAR(sum, cost.stage_seconds[0], 1e-12);
      return cost;
    };
    // The GPU decides: what the host is done with early, the next step has for its own.
    EXPECT_NEAR(step(0).ahead, gpu - host, 1e-9);
    EXPECT_NEAR(step(0).launched_late, host, 1e-9);
    EXPECT_NEAR(step(host / 2).ahead, gpu - host / 2, 1e-9);
    EXPECT_NEAR(step(gpu).launched_late, 0, 1e-12);
    EXPECT_NEAR(step(gpu).stage_seconds[0], gpu, 1e-9);
    // The host decides: the step is shorter by what was begun early.
    p.step_host = Seconds(3 * gpu);
    EXPECT_NEAR(step(0).stage_seconds[0], 3 * gpu, 1e-9);
    EXPECT_EQ(step(0).ahead, 0);
    EXPECT_NEAR(step(gpu / 2).stage_seconds[0], 2.5 * gpu, 1e-9);
    EXPECT_NEAR(step(gpu / 2).launched_late, 2.5 * gpu, 1e-9);
    p.overlap = false;
    EXPECT_NEAR(step(gpu / 2).stage_seconds[0], 4 * gpu, 1e-9) << "a serial host begins when the step before has ended";
    EXPECT_EQ(step(gpu / 2).ahead, 0);
  }
}

TEST(StepCostTest, TwoDoublingsOfWorkTellHostFromGpu) {
  // Below the transition a GPU twice as fast changes little; above it, half the host cost changes nothing.
  HardwareConfig config;
  config.gpu = "h100-sxm-80gb";
  const Machine machine = TestMachine(config);
  config.peak_flops = FlopsPerSecond(2 * 989.4e12);
  config.memory_bandwidth = BytesPerSecond(2 * 3.352e12);
  const Machine fast = TestMachine(config);
  const ModelSpec model = TestModel("llama-3.2-1b");
  EngineProfile eager = Profile("ideal", machine);
  eager.cuda_graphs = false;
  eager.launch = Seconds(30e-6);
  const auto prefill = [&](const Machine& m, const EngineProfile& p, int64_t tokens) {
    const PrefillChunk chunk{tokens, 0};
    StepWork work;
    work.tokens = tokens;
    work.logits_rows = 1;
    work.chunks = {&chunk, 1};
    return Predict(*Compile(model, {}, m, p), work).stage_seconds[0];
  };
  EXPECT_NEAR(prefill(fast, eager, 64) / prefill(machine, eager, 64), 1, 0.01);
  EngineProfile half = eager;
  half.launch = Seconds(15e-6);
  EXPECT_NEAR(prefill(machine, half, 8192) / prefill(machine, eager, 8192), 1, 0.01);
  EXPECT_LT(prefill(machine, half, 64), 0.6 * prefill(machine, eager, 64));
}

TEST(StepCostTest, GraphsPadTheBatch) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  EngineProfile p = Profile("ideal", machine);
  p.graph_step = 64;
  p.graph_max_tokens = 512;
  auto compiled = Compile(TestModel("llama-3.1-8b"), {}, machine, p);
  // 65 and 128 tokens run the same GEMMs; only rows and attention differ.
  StepWork a = Decode(65, 100), b = Decode(128, 100);
  b.logits_rows = a.logits_rows;
  b.decode_seqs = a.decode_seqs;
  b.decode_kv_sum = a.decode_kv_sum;
  EXPECT_EQ(Predict(*compiled, a).stage_seconds[0], Predict(*compiled, b).stage_seconds[0]);
}

TEST(StepCostTest, TablesAndDirectEvaluationAgree) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  StepCostOptions small;
  small.max_tokens = 16;
  small.max_rows = 4;
  EngineProfile p = Profile("ideal", machine);
  p.cuda_graphs = false;
  auto tabulated = Compile(TestModel("llama-3.1-8b"), {}, machine, p);
  auto direct = Compile(TestModel("llama-3.1-8b"), {}, machine, p, small);
  for (const int64_t seqs : {1, 16, 17, 400, 20000}) {
    EXPECT_EQ(Predict(*tabulated, Decode(seqs, 64)).stage_seconds[0],
              Predict(*direct, Decode(seqs, 64)).stage_seconds[0]);
  }
}

TEST(StepCostTest, PipelineStagesSplitTheLayers) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const ModelSpec model = TestModel("llama-3.1-70b");
  ParallelPlan whole, piped;
  whole.tp = piped.tp = 2;
  piped.pp = 4;
  auto one = Compile(model, whole, machine, Profile("ideal", machine));
  auto four = Compile(model, piped, machine, Profile("ideal", machine));
  const StepCost a = Predict(*one, Decode(32, 1024)), b = Predict(*four, Decode(32, 1024));
  const double sum = Total(*four, b);
  // The same layers plus three hand-overs of 0.5 MB.
  EXPECT_GT(sum, a.stage_seconds[0]);
  EXPECT_LT(sum, a.stage_seconds[0] + 3 * 100e-6);
  EXPECT_GT(b.stage_seconds[3], b.stage_seconds[1]);  // LM head
  EXPECT_NEAR(b.dynamic_joules, a.dynamic_joules, 0.02 * a.dynamic_joules);
}

TEST(StepCostTest, AttentionRanksWaitForTheSlowestAndShareExperts) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const ModelSpec model = TestModel("deepseek-v2-lite");
  ParallelPlan plan;
  plan.dp = plan.ep = 4;
  auto compiled = Compile(model, plan, machine, Profile("ideal", machine));
  std::vector<StepWork> even(4, Decode(16, 1000)), skewed = even;
  skewed[2] = Decode(16, 60000);
  const double balanced = Predict(*compiled, even).stage_seconds[0];
  const double slow = Predict(*compiled, skewed).stage_seconds[0];
  EXPECT_GT(slow, balanced);
  // Where the slow rank stands does not matter, nor do ranks without work.
  std::swap(skewed[0], skewed[2]);
  EXPECT_EQ(Predict(*compiled, skewed).stage_seconds[0], slow);
  std::vector<StepWork> alone(4);
  alone[3] = Decode(16, 1000);
  EXPECT_LT(Predict(*compiled, alone).stage_seconds[0], balanced);
  EXPECT_GT(Predict(*compiled, alone).stage_seconds[0], 0);
  double explained = 0;
  for (const StepOperator& op : compiled->Explain(skewed)) explained += op.time.seconds;
  EXPECT_NEAR(explained, slow, 1e-9 * slow);
  // A given imbalance makes the experts wait.
  StepCostOptions options;
  options.expert_imbalance = 3;
  auto uneven = Compile(model, plan, machine, Profile("ideal", machine), options);
  options.expert_imbalance = 1;
  auto uniform = Compile(model, plan, machine, Profile("ideal", machine), options);
  std::vector<StepWork> many(4, Decode(400, 100));
  const StepCost with = Predict(*uneven, many), without = Predict(*uniform, many);
  EXPECT_GT(with.stage_seconds[0], without.stage_seconds[0]);
  EXPECT_EQ(without.bound_seconds[static_cast<size_t>(Bound::kWaiting)], 0);
  EXPECT_NEAR(with.bound_seconds[static_cast<size_t>(Bound::kWaiting)],
              with.stage_seconds[0] - without.stage_seconds[0], 1e-9);
}

TEST(StepCostTest, LongerContextsAndBiggerBatchesTakeLonger) {
  const Machine machine = TestMachine("a100-sxm-80gb");
  auto compiled = Compile(TestModel("qwen2.5-7b"), {}, machine, Profile("vllm-0.19", machine));
  double last = 0;
  for (int64_t seqs = 1; seqs <= 2000; seqs = seqs * 5 / 4 + 1) {
    const double t = Predict(*compiled, Decode(seqs, 1000)).stage_seconds[0];
    EXPECT_GE(t, last) << seqs;
    last = t;
  }
  last = 0;
  for (int64_t kv = 1; kv <= 500000; kv = kv * 3 / 2 + 1) {
    const double t = Predict(*compiled, Decode(8, kv)).stage_seconds[0];
    EXPECT_GE(t, last) << kv;
    last = t;
  }
}

TEST(StepCostTest, SourcesAndExtrapolationAreReported) {
  const Machine h100 = TestMachine("h100-sxm-80gb");
  auto compiled = Compile(TestModel("llama-3.1-8b"), {}, h100, Profile("vllm-0.19", h100));
  EXPECT_TRUE(compiled->Warnings().empty()) << compiled->Warnings().front();
  bool gemm = false, host = false;
  for (const ProvenanceNote& note : compiled->provenance()) {
    if (note.part == "gemm bf16") gemm = note.provenance == Provenance::kCalibrated && !note.detail.empty();
    if (note.part == "engine vllm-0.19, launch") host = note.provenance == Provenance::kAssumed;
  }
  EXPECT_TRUE(gemm);
  EXPECT_TRUE(host);
  Predict(*compiled, Decode(1, 1000000));
  ASSERT_EQ(compiled->Warnings().size(), 1u);
  EXPECT_THAT(compiled->Warnings()[0], ::testing::HasSubstr("1000000"));
  const Machine mi300x = TestMachine("mi300x-192gb");
  EXPECT_FALSE(Compile(TestModel("llama-3.1-8b"), {}, mi300x, Profile("vllm-0.19", mi300x))->Warnings().empty());
}

TEST(StepCostTest, BadPlansAreErrors) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  ParallelPlan plan;
  plan.pp = 100;
  EXPECT_FALSE(CompileStepCost(TestModel("llama-3.1-8b"), plan, machine, {}, FormulaCatalog(), {}).ok());
}

}  // namespace
}  // namespace simrun
