#include "sim/placed_step.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "gtest/gtest.h"
#include "models/lowering.h"
#include "tests/support/placed_model.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

const char kStreamed[] = R"(
model: llama-3.1-8b
hardware: {gpu: rtx-4090, host: xeon-8380, sockets: 1}
plan: {placement: [{tensors: weights, tier: dram}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 4096}
workload: {static_batch: 8, input_tokens: 100, output_tokens: 20}
)";

double Weights(const ResolvedScenario& r) { return WeightBytesPerGpu(r.model, r.plan, 0).value(); }

TEST(PlacedStep, StreamedDecodeTakesTheLinkTimeOfTheWeights) {
  PlacedModel m(ScenarioOf(kStreamed));
  const ResolvedScenario& r = m.scenario.resolved();
  // All layers and the head cross a link of PCIe 4 x16 in every step; the embedding is gathered. Compute hides behind.
  const ClassBytes b = WeightBytesByClass(r.model, r.plan, true);
  const double bytes = 32 * (b.attention + b.dense_ffn) + b.lm_head;
  const double link = 31.5e9 * 0.794;
  const StepCost cost = m.Steady(Decodes(8, 100));
  EXPECT_NEAR(cost.stage_seconds[0], bytes / link, 0.01 * bytes / link);
  double sum = 0;
  for (const double s : cost.bound_seconds) sum += s;
  EXPECT_NEAR(sum, cost.stage_seconds[0], 1e-9 * sum);
  EXPECT_GT(cost.bound_seconds[static_cast<size_t>(Bound::kLink)], 0.9 * sum);
  EXPECT_NEAR(bytes + b.embedding, Weights(r), 1e-6 * bytes);
}

TEST(PlacedStep, BytesOfALinkAreThoseOfTheStreamsTimesTheSteps) {
  PlacedModel m(ScenarioOf(kStreamed));
  const ResolvedScenario& r = m.scenario.resolved();
  const ClassBytes b = WeightBytesByClass(r.model, r.plan, true);
  const double layer = b.attention + b.dense_ffn, step = 32 * layer + b.lm_head;
  const StepWork work = Decodes(8, 100);
  StepCost cost;
  const int steps = 40;
  for (int i = 0; i < steps; ++i) m.step->Predict({&work, 1}, &cost);
  // The embedding rows of 8 tokens per step; and up to a window of two layers of the next step is already there.
  const double rows = steps * 8 * 4096 * 2.0;
  EXPECT_GE(m.Bytes("host link to GPU"), steps * step + rows - 1);
  EXPECT_LE(m.Bytes("host link to GPU"), steps * step + 2 * layer + rows + 1);
  EXPECT_NEAR(m.Bytes("host memory"), m.Bytes("host link to GPU"), 1);
  EXPECT_EQ(m.Bytes("host link from GPU"), 0);
}

// With compute longer than transfer, streaming costs nothing: a step takes what the resident plan takes.
TEST(PlacedStep, StreamingHidesBehindLongCompute) {
  const std::vector<std::pair<std::string, std::string>> fast = {{"hardware.host_link", "nvlink-c2c"}, {"hardware.host_memory_bandwidth", "2 TB/s"}};
  PlacedModel streamed(ScenarioOf(kStreamed, fast));
  PlacedModel resident(ScenarioOf(ScenarioOf(kStreamed, fast)->ToYaml(), {{"plan.placement", "gpu"}}));
  StepWork work;
  const PrefillChunk chunk{4096, 0};
  work.tokens = 4096;
  work.logits_rows = 1;
  work.chunks = {&chunk, 1};
  const double s = streamed.Steady(work).stage_seconds[0], g = resident.Steady(work).stage_seconds[0];
  EXPECT_NEAR(s, g, 0.02 * g);
}

// A plan whose rules keep everything on the GPU is today's path; one that moves a hair's breadth costs the same.
TEST(PlacedStep, ATinyShareElsewhereCostsNothing) {
  PlacedModel tiny(ScenarioOf(kStreamed, {{"plan.placement", "[{tensors: dense_ffn, tier: dram, share: 0.0001, layers: 3}]"}}));
  PlacedModel resident(ScenarioOf(kStreamed, {{"plan.placement", "[{tensors: weights, tier: gpu}]"}}));
  EXPECT_TRUE(resident.scenario.resolved().placement.resident);
  EXPECT_FALSE(tiny.scenario.resolved().placement.resident);
  for (const int64_t seqs : {1, 16}) {
    const double t = tiny.Steady(Decodes(seqs, 500)).stage_seconds[0], g = resident.Steady(Decodes(seqs, 500)).stage_seconds[0];
    EXPECT_NEAR(t, g, 0.01 * g) << seqs;
  }
}

// The same for layers that attend in other ways, of which the placed step prices each kind apart: generated tokens, prompts and both.
TEST(PlacedStep, ATinyShareElsewhereCostsNothingWhateverTheAttention) {
  for (const char* model : {"gemma-3-12b", "qwen3.5-9b", "deepseek-v3.2"}) {
    const auto with = [&](const std::string& placement) {
      return ScenarioOf(fmt::format(R"(
model: {}
hardware: {{gpu: b300-sxm-288gb, host: xeon-8480c}}
plan: {{tp: 8, placement: {}}}
engine: {{profile: ideal}}
scheduler: {{max_num_seqs: 16, max_model_len: 8192, max_num_batched_tokens: 4096}}
workload: {{static_batch: 8, input_tokens: 100, output_tokens: 20}}
)", model, placement));
    };
    PlacedModel tiny(with("[{tensors: attention, tier: dram, share: 0.0001, layers: 3}]")), resident(with("[{tensors: weights, tier: gpu}]"));
    EXPECT_FALSE(tiny.scenario.resolved().placement.resident);
    const std::vector<PrefillChunk> chunks = {{900, 0}, {300, 2500}};
    StepWork prompts;
    prompts.tokens = 1200;
    prompts.logits_rows = 2;
    prompts.chunks = chunks;
    StepWork both = Decodes(8, 3000);
    both.tokens += 1200;
    both.chunks = chunks;
    for (const StepWork& work : {Decodes(8, 3000), prompts, both}) {
      const double t = tiny.Steady(work).stage_seconds[0], g = resident.Steady(work).stage_seconds[0];
      EXPECT_NEAR(t, g, 0.015 * g) << model << " " << work.tokens;
    }
  }
}

TEST(PlacedStep, ExpertsOnTheCpuReadTheirWeightsOncePerLayer) {
  PlacedModel m(ScenarioOf(R"(
model: mixtral-8x7b
hardware: {gpu: rtx-4090, host: xeon-8380, sockets: 1}
plan: {placement: [{tensors: routed_experts, tier: dram, use: compute}]}
engine: {profile: ideal, cpu_operator: 0 s, cpu_memory_efficiency: 1, cpu_compute_efficiency: 1}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 4096}
workload: {static_batch: 1, input_tokens: 100, output_tokens: 20}
)"));
  // One token: 2 of 8 experts of 3 x 4096 x 14336 bf16 weights in 32 layers, over 204.8 GB/s x 0.82. The rest of the step
  // is the GPU's: 3.2 GB of other weights at 1 TB/s, and hand-overs of 10 us in 32 layers each way.
  const double host = 32.0 * 2 * 3 * 4096 * 14336 * 2 / (204.8e9 * 0.82);
  const StepCost cost = m.Steady(Decodes(1, 100));
  EXPECT_NEAR(cost.bound_seconds[static_cast<size_t>(Bound::kHostMemory)], host, 0.01 * host);
  EXPECT_LT(cost.stage_seconds[0], host + 3.4e9 / 1.008e12 / 0.7 + 32 * 2 * 25e-6);
  EXPECT_GT(cost.stage_seconds[0], host + 3.2e9 / 1.008e12);
  EXPECT_NEAR(m.step->host_busy_seconds(), 3 * host, 0.01 * host);
}

TEST(PlacedStep, EveryReplicaHasItsOwnState) {
  const Report one = ReportOf(ScenarioOf(kStreamed, {{"workload", "{requests: 8, arrivals: all_at_once, input_tokens: 100, output_tokens: 20}"}}));
  const Report two = ReportOf(ScenarioOf(kStreamed, {{"workload", "{requests: 16, arrivals: all_at_once, input_tokens: 100, output_tokens: 20}"},
                                                     {"plan.replicas", "2"}, {"hardware.sockets", "2"}}));
  EXPECT_NEAR(two.tpot.mean.value(), one.tpot.mean.value(), 1e-3 * one.tpot.mean.value());
  ASSERT_FALSE(one.links.empty());
  EXPECT_EQ(one.links[0].name, two.links[0].name);
  EXPECT_NEAR(two.links[0].utilization, one.links[0].utilization, 0.01);
}

// Two GPUs of an engine behind one PCIe switch share its uplink.
TEST(PlacedStep, GpusBehindOneSwitchShareItsUplink) {
  const char text[] = R"(
model: llama-3.1-70b
hardware: {node: dgx-a100}
plan: {tp: 1, placement: [{tensors: weights, tier: dram, share: 0.8}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 4096}
workload: {static_batch: 1, input_tokens: 100, output_tokens: 20}
)";
  PlacedModel one(ScenarioOf(text)), two(ScenarioOf(text, {{"plan.tp", "2"}}));
  const double t1 = one.Steady(Decodes(1, 100)).stage_seconds[0], t2 = two.Steady(Decodes(1, 100)).stage_seconds[0];
  // Half the bytes each, at half the rate each.
  EXPECT_NEAR(t2, t1, 0.03 * t1);
}

// Eight engines of one GPU, two behind each PCIe switch: half an uplink each, not an eighth.
TEST(PlacedStep, EnginesShareTheLinksThatTheirGpusHangOn) {
  const char text[] = R"(
model: llama-3.1-8b
hardware: {node: dgx-a100}
plan: {tp: 1, placement: [{tensors: weights, tier: dram}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 4096}
workload: {static_batch: 1, input_tokens: 100, output_tokens: 20}
)";
  const auto seconds = [&](const char* replicas) {
    return PlacedModel(ScenarioOf(text, {{"plan.replicas", replicas}})).Steady(Decodes(1, 100)).stage_seconds[0];
  };
  const double one = seconds("1");
  EXPECT_NEAR(seconds("2"), 2 * one, 0.02 * one);  // behind the same switch
  EXPECT_NEAR(seconds("8"), 2 * one, 0.02 * one);
}

// Two engines on one socket: what the other does not use is an engine's own, of links, memory and cores.
TEST(PlacedStep, IdleNeighboursLeaveTheirPart) {
  const StepWork work = Decodes(8, 100);
  const std::vector<std::pair<std::string, std::string>> two = {{"plan.replicas", "2"}};
  const char on_cpu[] = R"(
model: mixtral-8x7b
hardware: {gpu: a100-sxm-80gb, host: xeon-8380, sockets: 1, host_memory: 512 GB}
plan: {placement: [{tensors: routed_experts, share: 0.9, tier: dram, use: compute}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 2048}
workload: {static_batch: 8, input_tokens: 100, output_tokens: 20}
)";
  for (const char* experts : {"{}", "static", "{policy: hybrid, cache: lru}"}) {
    PlacedModel lone(ScenarioOf(on_cpu, {{"scheduler.experts", experts}}));
    auto shared_plan = two;
    shared_plan.push_back({"scheduler.experts", experts});
    PlacedModel shared(ScenarioOf(on_cpu, shared_plan));
    const double alone = lone.Steady(work).stage_seconds[0], both = shared.Steady(work).stage_seconds[0];
    PlacedModel told(ScenarioOf(on_cpu, shared_plan));
    told.step->ShareHost(1);
    EXPECT_NEAR(told.Steady(work).stage_seconds[0], alone, 1e-9 * alone) << experts;
    EXPECT_GT(both, 1.5 * alone) << experts;
    // The same bytes, over the capacity that the report counts with: half of the host's, whoever takes it.
    EXPECT_NEAR(told.Bytes("host memory"), lone.Bytes("host memory"), 1e-6 * lone.Bytes("host memory")) << experts;
    EXPECT_NEAR(told.step->host_joules(), lone.step->host_joules(), 1e-9 * lone.step->host_joules()) << experts;
    told.step->ShareHost(2);
    shared.step->ShareHost(2);
    EXPECT_NEAR(told.Steady(work).stage_seconds[0], shared.Steady(work).stage_seconds[0], 0.1 * both) << experts;
  }
  // A run: one request at a time keeps one of the engines idle, two keep both at work. The uplink is theirs in common.
  const char streamed[] = R"(
model: llama-3.1-8b
hardware: {node: dgx-a100}
plan: {replicas: 2, placement: [{tensors: weights, tier: dram}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 4096, router: least-outstanding}
workload: {concurrency: 1, requests: 8, input_tokens: 100, output_tokens: 20}
)";
  const double one_at_a_time = ReportOf(ScenarioOf(streamed)).tpot.mean.value();
  const double lone = ReportOf(ScenarioOf(streamed, {{"plan.replicas", "1"}})).tpot.mean.value();
  const double two_at_a_time = ReportOf(ScenarioOf(streamed, {{"workload.concurrency", "2"}})).tpot.mean.value();
  EXPECT_NEAR(one_at_a_time, lone, 1e-3 * lone);
  EXPECT_NEAR(two_at_a_time, 2 * lone, 0.03 * lone);
  // Open loops too: arrivals so far apart that the requests never meet.
  const double apart = ReportOf(ScenarioOf(streamed, {{"workload", "{requests: 8, arrivals: {poisson: {rate: 0.005 /s}}, input_tokens: 100, output_tokens: 20}"}})).tpot.mean.value();
  EXPECT_NEAR(apart, lone, 1e-3 * lone);
}

TEST(Placement, ProblemsNameTheirPlaceAndAWayOut) {
  const auto problem = [](const std::string& placement) {
    auto s = Scenario::FromYaml(kStreamed);
    s = s->With("plan.placement", placement);
    return s.ok() ? std::string() : std::string(s.status().message());
  };
  EXPECT_NE(problem("[{tensors: routed_experts, tier: dram}]").find("has no experts"), std::string::npos);
  EXPECT_NE(problem("[{tensors: weights, tier: cxl}]").find("add hardware.cxl"), std::string::npos);
  EXPECT_NE(problem("[{tensors: weights, tier: dram, layers: 30-40}]").find("layers 0 to 31"), std::string::npos);
  EXPECT_NE(problem("[{tensors: weights, tier: dram, use: pin}]").find("does not go with"), std::string::npos);
  EXPECT_NE(problem("[{tensors: weights, tier: dram}, {tensors: attention, tier: dram}]").find("takes nothing"), std::string::npos);
  EXPECT_NE(problem("[{tensors: weights, tier: drum}]").find("dram"), std::string::npos);
  EXPECT_NE(problem("atuo").find("auto"), std::string::npos);
  auto small = Scenario::FromYaml(kStreamed)->With("hardware.host_memory", "10 GB");
  ASSERT_FALSE(small.ok());
  EXPECT_NE(std::string(small.status().message()).find("more: raise hardware.host_memory"), std::string::npos) << small.status().message();
}

TEST(Placement, AutoFillsTheGpuByBytesPerUse) {
  const auto s = ScenarioOf(R"(
model: mixtral-8x7b
hardware: {gpu: rtx-4090, host: xeon-8380}
plan: {placement: auto}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 2048}
workload: {static_batch: 1, input_tokens: 100, output_tokens: 20}
)");
  const ResolvedScenario& r = s->resolved();
  // Attention and head on the GPU; of the experts as many as fit, the others computed by the CPU.
  for (const LayerPlacement& l : r.placement.layers) {
    EXPECT_DOUBLE_EQ(ShareOf(l.attention, TensorUse::kPin), 1);
    EXPECT_GT(ShareOf(l.routed_experts, TensorUse::kPin), 0.02);
    EXPECT_GT(ShareOf(l.routed_experts, TensorUse::kCompute), 0.7);
  }
  EXPECT_LE(r.memory.weights + r.memory.activations + r.memory.reserve, r.memory.usable);
  EXPECT_GT(r.memory.kv_blocks, 0);
  // What is on no tier is nowhere: the parts add up.
  const ClassBytes all = WeightBytesByClass(r.model, r.plan, false);
  const double whole = 32 * (all.attention + all.router + all.routed_experts) + all.embedding + all.lm_head;
  double placed = r.memory.weights.value();
  for (const TierPlan& t : r.memory.tiers) placed += t.weights.value();
  EXPECT_NEAR(placed, whole, 1e-6 * whole);
}

// A pageable copy goes through a pinned buffer in turn: filled by one thread (8 GB/s of the reference host), then sent.
TEST(PlacedStep, PageableCopiesFillAndSendInTurn) {
  PlacedModel pinned(ScenarioOf(kStreamed)), pageable(ScenarioOf(kStreamed, {{"engine.pinned_memory", "false"}}));
  const double link = 31.5e9 * 0.794, fill = 8e9 * pageable.scenario.resolved().machine.host.single_thread;
  const double fast = pinned.Steady(Decodes(8, 100)).stage_seconds[0], slow = pageable.Steady(Decodes(8, 100)).stage_seconds[0];
  EXPECT_NEAR(slow / fast, (1 / link + 1 / fill) * link, 0.02 * slow / fast);
}

// A step after others like it, of the scenario's engine with some numbers of its profile changed.
template <class Change>
double StepWith(const char* text, const std::vector<std::pair<std::string, std::string>>& settings, const StepWork& work, const Change& change) {
  const absl::StatusOr<Scenario> scenario = ScenarioOf(text, settings);
  EXPECT_TRUE(scenario.ok()) << scenario.status().message();
  ResolvedScenario r = scenario->resolved();
  change(&r.engine);
  StepCostOptions options;
  options.max_tokens = r.params.limits.max_num_batched_tokens;
  options.max_rows = r.params.limits.max_num_seqs;
  auto step = StepCostOf(r, *scenario->catalog(), options);
  EXPECT_TRUE(step.ok()) << step.status().message();
  StepCost cost;
  for (int i = 0; i < 3; ++i) (*step)->Predict({&work, 1}, &cost);
  return cost.stage_seconds[0];
}

// Weights cross beside the first token group's turns only: the other groups' kernels come on top. Where the memory is not
// pinned, the thread that launches the kernels fills the pinned buffers before.
TEST(PlacedStep, TurnsInLockstepWaitForTheirCopies) {
  const auto lockstep = [](EngineProfile* e) { e->lockstep = true; };
  const ResolvedScenario r = ScenarioOf(kStreamed)->resolved();
  const ClassBytes b = WeightBytesByClass(r.model, r.plan, true);
  const double bytes = 32 * (b.attention + b.dense_ffn) + b.lm_head, link = 31.5e9 * 0.794, fill = 8e9 * r.machine.host.single_thread;
  PlacedModel resident(ScenarioOf(kStreamed, {{"plan.placement", "gpu"}}));
  const double one = StepWith(kStreamed, {}, Decodes(8, 100), lockstep);
  EXPECT_NEAR(one, bytes / link, 0.02 * one) << "kernels hide behind the copies, all but the head's";
  const double four = StepWith(kStreamed, {{"plan.placement", "{rules: [{tensors: weights, tier: dram}], token_groups: 4}"}}, Decodes(8, 100), lockstep);
  const double group = resident.Steady(Decodes(2, 100)).stage_seconds[0];
  EXPECT_NEAR(four, one + 3 * group, 0.1 * 3 * group);
  const double unpinned = StepWith(kStreamed, {{"engine.pinned_memory", "false"}}, Decodes(8, 100), lockstep);
  EXPECT_NEAR(unpinned, bytes / link + bytes / fill, 0.02 * unpinned);
}

TEST(PlacedStep, AKvCacheInLockstepCrossesAGroupAhead) {
  const char* away = "{rules: [{tensors: kv, tier: dram}], token_groups: 4}";
  const auto change = [](bool pinned) {
    return [pinned](EngineProfile* e) {
      e->lockstep = true;
      e->pinned_kv = pinned;
    };
  };
  const ResolvedScenario r = ScenarioOf(kStreamed, {{"plan.placement", away}})->resolved();
  const double bytes = 16.0 * 4000 * 32 * 2 * 8 * 128 * 2, link = 31.5e9 * 0.794, fill = 8e9 * r.machine.host.single_thread;
  // The copies of a group run beside the kernels of the one before: attention's of three groups, the feed-forward part's of one.
  PlacedModel resident(ScenarioOf(kStreamed, {{"plan.placement", "gpu"}}));
  const double kernels = 4 * resident.Steady(Decodes(4, 4000)).stage_seconds[0];
  const double pinned = StepWith(kStreamed, {{"plan.placement", away}}, Decodes(16, 4000), change(true));
  EXPECT_GT(pinned, bytes / link);
  EXPECT_LT(pinned, bytes / link + kernels);
  const double unpinned = StepWith(kStreamed, {{"plan.placement", away}}, Decodes(16, 4000), change(false));
  EXPECT_NEAR(unpinned - pinned, bytes / fill, 0.02 * unpinned) << "nothing runs beside the filling of a buffer";
}

TEST(PlacedStep, NewKeysAndValuesLeaveAtTheRateOfTheEngine) {
  StepWork work;
  const std::vector<PrefillChunk> chunks(4, PrefillChunk{1000, 0});
  work.tokens = 4000;
  work.logits_rows = 4;
  work.chunks = chunks;
  const double bytes = 4000.0 * 32 * 2 * 8 * 128 * 2;
  for (const bool lockstep : {false, true}) {
    const double slow = StepWith(kStreamed, {{"plan.placement", "[{tensors: kv, tier: dram}]"}}, work, [lockstep](EngineProfile* e) {
      e->lockstep = lockstep;
      e->kv_store_rate = BytesPerSecond(1e8);
    });
    // In lockstep a store is waited for beside the turn after its own; without, the step does not wait for it, the next one does.
    if (lockstep) {
      EXPECT_NEAR(slow, bytes / 1e8, 0.05 * slow);
    }
    const double fast = StepWith(kStreamed, {{"plan.placement", "[{tensors: kv, tier: dram}]"}}, work, [lockstep](EngineProfile* e) { e->lockstep = lockstep; });
    EXPECT_LT(fast, 0.5 * bytes / 1e8);
  }
}

TEST(PlacedStep, CopiesOnArrivalFollowTheTransfer) {
  const ResolvedScenario r = ScenarioOf(kStreamed)->resolved();
  const ClassBytes b = WeightBytesByClass(r.model, r.plan, true);
  const double bytes = 32 * (b.attention + b.dense_ffn) + b.lm_head, link = 31.5e9 * 0.794;
  const double twice = StepWith(kStreamed, {}, Decodes(8, 100), [](EngineProfile* e) { e->arrival_copies = 2; });
  // Each copy reads and writes: 4 passes at the rate of element-wise kernels, 0.9 of 1008 GB/s.
  EXPECT_NEAR(twice, bytes / link + 4 * bytes / (0.9 * 1.008e12), 0.02 * twice);
}

// An engine that schedules asynchronously is ahead of the GPU by up to a step, and one that answers after the next launch holds
// first tokens for as long, whether or not tensors lie outside GPU memory.
TEST(PlacedStep, TheHostRunsAStepAhead) {
  const char text[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb, host: xeon-8480c}
engine: {profile: trt-llm, launch: 100 us}
scheduler: {max_num_seqs: 16, max_model_len: 8192, max_num_batched_tokens: 2048}
workload: {concurrency: 6, requests: 60, input_tokens: 900, output_tokens: 30}
)";
  const char tiny[] = "[{tensors: dense_ffn, tier: dram, share: 0.0001, layers: 3}]";
  const Report placed = ReportOf(ScenarioOf(text, {{"plan.placement", tiny}})), resident = ReportOf(ScenarioOf(text));
  EXPECT_NEAR(placed.ttft.mean.value(), resident.ttft.mean.value(), 0.01 * resident.ttft.mean.value());
  EXPECT_NEAR(placed.tpot.mean.value(), resident.tpot.mean.value(), 0.01 * resident.tpot.mean.value());

  // Two servers in tandem, by hand: of h seconds of host work beside g of the GPU, min(h, lead) are done before.
  PlacedModel m(ScenarioOf(text, {{"plan.placement", tiny}, {"engine.cuda_graphs", "false"}}));
  const EngineProfile& e = m.scenario.resolved().engine;
  StepWork work = Decodes(8, 500);
  StepCost cost;
  const auto step = [&](double lead) {
    cost.lead = lead;
    m.step->Predict({&work, 1}, &cost);
    return cost.stage_seconds[0];
  };
  step(0);
  const double whole = step(0), left = cost.launched_late, post = e.post_step.value() + 8 * e.post_sequence.value();
  EXPECT_GT(left, 20e-3);  // some 200 kernels of 100 us
  EXPECT_NEAR(whole, left + post, 1e-9);
  EXPECT_NEAR(cost.ahead, 0, 1e-12);
  const double early = step(5e-3);
  EXPECT_NEAR(early, whole - 5e-3, 1e-9);
  const double gpu = step(1) - post;  // the host was done before
  EXPECT_NEAR(cost.launched_late, 0, 1e-12);
  EXPECT_NEAR(cost.ahead, gpu, 1e-9);
  EXPECT_LT(gpu, 15e-3);
}

// Two stages stream half of the weights each over links of their own, and hand the hidden states on.
TEST(PlacedStep, StagesDivideTheStep) {
  const std::vector<std::pair<std::string, std::string>> two = {{"plan.pp", "2"}, {"hardware.count", "2"}};
  PlacedModel one(ScenarioOf(kStreamed)), piped(ScenarioOf(kStreamed, two));
  ASSERT_EQ(piped.step->stages(), 2);
  const StepWork work = Decodes(8, 100);
  const StepCost whole = one.Steady(work), parts = piped.Steady(work);
  const ResolvedScenario& r = one.scenario.resolved();
  const ClassBytes b = WeightBytesByClass(r.model, r.plan, true);
  const double layers = 16 * (b.attention + b.dense_ffn), link = 31.5e9 * 0.794;
  EXPECT_NEAR(parts.stage_seconds[0], layers / link, 0.01 * parts.stage_seconds[0]);
  EXPECT_NEAR(parts.stage_seconds[1], (layers + b.lm_head) / link, 0.01 * parts.stage_seconds[1]);
  EXPECT_NEAR(parts.stage_seconds[0] + parts.stage_seconds[1], whole.stage_seconds[0], 0.01 * whole.stage_seconds[0]);
  // Steady() takes three steps; up to a window of two layers more is under way on each stage.
  const double layer = b.attention + b.dense_ffn;
  EXPECT_NEAR(piped.Bytes("host link to GPU"), one.Bytes("host link to GPU"), 4 * layer);
  double sum = 0;
  for (const double s : parts.bound_seconds) sum += s;
  EXPECT_NEAR(sum, parts.stage_seconds[0] + parts.stage_seconds[1], 1e-9 * sum);
  // What one GPU held of the model, two hold; the host has the same.
  const MemoryPlan &m1 = r.memory, &m2 = piped.scenario.resolved().memory;
  ASSERT_EQ(m1.tiers.size(), m2.tiers.size());
  EXPECT_NEAR(m2.tiers[0].weights.value(), m1.tiers[0].weights.value(), 1);
  // The stage with the head streams it too and holds the larger buffer; half of the layers have half of the KV cache.
  EXPECT_NEAR(m2.kv_block.value(), m1.kv_block.value() / 2, 1);
}

// Stages of one host share its memory while micro-batches keep them at work: one request is on one stage at a time and has
// the whole host there, two have half each.
TEST(PlacedStep, WaitingStagesLeaveTheirPart) {
  const char text[] = R"(
model: mixtral-8x7b
hardware: {gpu: a100-sxm-80gb, host: xeon-8380, sockets: 1, host_memory: 512 GB, count: 2}
plan: {pp: 2, placement: [{tensors: routed_experts, share: 0.9, tier: dram, use: compute}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 2048}
workload: {concurrency: 1, requests: 4, input_tokens: 100, output_tokens: 20}
)";
  const auto tpot = [&](std::vector<std::pair<std::string, std::string>> changes) { return ReportOf(ScenarioOf(text, changes)).tpot.mean.value(); };
  const double one = tpot({}), one_gpu = tpot({{"plan.pp", "1"}}), two = tpot({{"workload.concurrency", "2"}});
  EXPECT_NEAR(one, one_gpu, 0.03 * one_gpu);
  // Nearly all of the time is the CPU's; a prompt of one keeps the other waiting now and then.
  EXPECT_GT(two, 1.7 * one);
  EXPECT_LT(two, 2.1 * one);
  // With one micro-batch the second request shares the first one's steps, on one stage at a time.
  const double together = tpot({{"workload.concurrency", "2"}, {"scheduler.micro_batches", "1"}});
  EXPECT_NEAR(together, tpot({{"workload.concurrency", "2"}, {"plan.pp", "1"}}), 0.03 * together);
  // Two engines of two stages: four at work.
  const std::vector<std::pair<std::string, std::string>> four = {{"hardware.count", "4"}, {"plan.replicas", "2"}, {"workload.concurrency", "4"}, {"scheduler.router", "round-robin"}};
  EXPECT_GT(tpot(four), 1.7 * two);
  EXPECT_LT(tpot(four), 2.1 * two);
  for (const std::string& w : ReportOf(ScenarioOf(text)).warnings) EXPECT_EQ(w.find("stages"), std::string::npos) << w;
}

// An engine whose stages lie on several hosts: as many of the other stages are at work here as there.
TEST(PlacedStep, StagesOfOtherHostsTakeNothingHere) {
  const char text[] = R"(
model: llama-3.1-70b
hardware: {node: dgx-h100, nodes: 2}
plan: {tp: 8, pp: 2, placement: [{tensors: weights, tier: dram, share: 0.9}]}
engine: {profile: ideal}
workload: {concurrency: 4, requests: 4, input_tokens: 100, output_tokens: 10}
)";
  const StepWork work = Decodes(4, 100);
  PlacedModel untold(ScenarioOf(text)), alone(ScenarioOf(text)), both(ScenarioOf(text));
  alone.step->ShareHost(1);
  both.step->ShareHost(2);
  const double seconds = alone.Steady(work).stage_seconds[0];
  EXPECT_DOUBLE_EQ(both.Steady(work).stage_seconds[0], seconds);
  EXPECT_DOUBLE_EQ(untold.Steady(work).stage_seconds[0], seconds);
}

// Every layer's experts are followed on one stage or the other.
TEST(PlacedStep, StagesFollowTheExpertsOfTheirLayers) {
  const std::string scenario = R"(
model: mixtral-8x7b
hardware: {gpu: a100-sxm-80gb, host: xeon-8380, count: 2}
plan: {pp: 2, placement: [{tensors: routed_experts, share: 0.5, tier: dram, use: compute}]}
scheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 2048, experts: {policy: hybrid, cache: lru, prefetch: next-layer}}
workload: {concurrency: 1, requests: 2, input_tokens: 200, output_tokens: 20}
)";
  PlacedModel piped(ScenarioOf(scenario)), one(ScenarioOf(scenario, {{"plan.pp", "1"}}));
  const StepWork work = Decodes(16, 100);
  piped.Steady(work);
  one.Steady(work);
  const ExpertTotals a = *piped.step->Experts(), b = *one.step->Experts();
  EXPECT_EQ(a.uses, b.uses);  // the same choices
  EXPECT_EQ(a.experts, 32 * 8);
  EXPECT_EQ(a.places, 32 * 4);
  EXPECT_GT(a.on_cpu, 0);
}

// An engine of two nodes has the memory of both hosts.
TEST(PlacedStep, StagesOnSeveralHostsHaveTheMemoryOfAll) {
  const auto scenario = [&](int pp) {
    return Scenario::FromYaml(fmt::format(R"(
model: llama-3.1-70b
hardware: {{node: dgx-h100, nodes: {}, host_memory: 100 GB}}
plan: {{tp: 8, pp: {}, placement: [{{tensors: weights, tier: dram, share: 0.9}}]}}
workload: {{concurrency: 4, requests: 4, input_tokens: 100, output_tokens: 10}}
)", pp, pp));
  };
  const auto one = scenario(1), two = scenario(2);
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_FALSE(one.ok());  // 127 GB of weights
  EXPECT_EQ(two->resolved().memory.tiers[0].capacity, Bytes(2 * 0.95 * 100e9));
}

}  // namespace
}  // namespace simrun
