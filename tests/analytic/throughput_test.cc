// Throughput, pipelines, closed loops and energy against arithmetic that is exact.
#include "gtest/gtest.h"
#include "sim/cluster.h"
#include "sim/resolved.h"
#include "tests/support/engine_parts.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

// p equal stages of time t, m micro-batches of one prompt each: (m + p - 1) t in all, of which each stage works m t.
TEST(Pipeline, BubbleIsPMinusOneOverMPlusPMinusOne) {
  for (const int p : {1, 2, 4, 8}) {
    for (const int m : {1, 2, 4, 9, 32}) {
      for (const int lanes : {p, m}) {
        if (lanes < p && m > lanes) continue;   // too few in flight to fill the stages
        ClusterParams params;
        params.engine.lanes = lanes;
        params.engine.kv_blocks = 1000;
        params.engine.limits.max_num_batched_tokens = 256;
        LinearCost cost(p);
        cost.step = 0.01 * p;
        std::vector<Arrival> arrivals;
        for (int i = 0; i < m; ++i) arrivals.push_back(MakeArrival(static_cast<uint64_t>(i), SimTime(), 256, 1));
        RunMetrics metrics(Slo{}, SimTime());
        ListSource source(arrivals);
        const auto policy = BuiltInPolicy("chunked-prefill");
        Cluster cluster(params, *policy, &cost, BuiltInRouter("round-robin"), &source, &metrics);
        ASSERT_TRUE(cluster.RunOpenLoop().ok());
        const EngineTotals& t = cluster.replicas()[0]->totals();
        EXPECT_EQ(metrics.last_completion(), SimTime::From(Seconds(0.01 * (m + p - 1)))) << p << " stages, " << m << " micro-batches";
        EXPECT_EQ(t.busy, metrics.last_completion());
        const double bubble = 1 - static_cast<double>(t.stage_busy.ticks()) / (p * static_cast<double>(t.busy.ticks()));
        EXPECT_NEAR(bubble, static_cast<double>(p - 1) / (m + p - 1), 1e-12);
      }
    }
  }
}

const char kClosed[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: ideal}
scheduler: {policy: chunked-prefill, max_num_seqs: 16, max_num_batched_tokens: 2048}
workload: {concurrency: 16, requests: 1600, input_tokens: 8, output_tokens: 50}
)";

// 16 clients, a step of 20 ms whatever is in it: the first token comes with the prompt's step, so a request takes 50
// steps and 16 run at a time: 16 / 20 ms = 800 tokens/s, and 100 rounds of 50 steps in all.
TEST(ClosedLoop, ThroughputIsBatchOverStepTimeAndConcurrencyOverLatency) {
  LinearCost cost;
  cost.step = 0.02;
  const Report r = ReportOf(ScenarioOf(kClosed), &cost);
  EXPECT_EQ(r.requests.completed, 1600);
  EXPECT_NEAR(r.simulation.simulated_s, 100 * 50 * 0.02, 1e-6);
  EXPECT_NEAR(r.throughput.output_tokens_per_s, 800, 1e-6);
  EXPECT_NEAR(r.throughput.requests_per_s, 16 / r.e2e.mean.value(), 1e-6);
  EXPECT_NEAR(r.tpot.mean.value(), 0.02, 1e-9);
  EXPECT_EQ(r.itl.count, 1600 * 49);
  EXPECT_EQ(r.simulation.iterations, 5000);
}

TEST(ClosedLoop, ThinkTimeAddsToTheCycle) {
  LinearCost cost;
  cost.step = 0.02;
  // A cycle is 50 steps and 1 s of thinking; all clients move together.
  const Report r = ReportOf(ScenarioOf(kClosed, {{"workload.think_time", "1 s"}}), &cost);
  EXPECT_NEAR(r.simulation.simulated_s, 100 * 50 * 0.02 + 99 * 1.0, 1e-6);
  EXPECT_NEAR(r.e2e.mean.value(), 1, 1e-9);
}

TEST(ClosedLoop, NeverMoreInFlightThanClients) {
  std::vector<Arrival> arrivals;
  Rng rng(9, "closed");
  for (uint64_t i = 0; i < 2000; ++i) {
    arrivals.push_back(MakeArrival(i, SimTime(), 1 + static_cast<int64_t>(rng.Below(300)), 1 + static_cast<int64_t>(rng.Below(40))));
  }
  ClusterParams params;
  params.engine.kv_blocks = 200;
  params.replicas = 3;
  LinearCost cost;
  cost.step = 0.003;
  cost.token = 1e-5;
  RunMetrics metrics(Slo{}, SimTime());
  LoopSource source(arrivals, 24, SimTime());
  const auto policy = BuiltInPolicy("chunked-prefill");
  Cluster cluster(params, *policy, &cost, BuiltInRouter("least-outstanding"), &source, &metrics);
  int64_t most = 0;
  while (cluster.NextEventTime() != SimTime::Infinite()) {
    ASSERT_TRUE(cluster.AdvanceTo(cluster.NextEventTime()).ok());
    int64_t in_flight = 0;
    for (const auto& r : cluster.replicas()) in_flight += r->load().outstanding();
    most = std::max(most, in_flight);
  }
  EXPECT_EQ(most, 24);
  EXPECT_EQ(source.most_in_flight, 24);
  EXPECT_EQ(metrics.completed(), 2000);
  // Little's law without thinking: throughput = clients / latency, up to the start and the end of the run.
  const double throughput = 2000 / metrics.last_completion().seconds().value();
  EXPECT_NEAR(throughput / (24 / metrics.e2e().Mean().value()), 1, 0.03);
}

TEST(StaticBatch, BatchesFollowOneAnother) {
  LinearCost cost;
  cost.step = 0.02;
  const Report r = ReportOf(ScenarioOf(R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: ideal}
scheduler: {policy: static, max_num_seqs: 16, max_num_batched_tokens: 2048}
workload: {static_batch: 8, batches: 5, input_tokens: 8, output_tokens: 50}
)"), &cost);
  EXPECT_EQ(r.requests.completed, 40);
  EXPECT_NEAR(r.simulation.simulated_s, 5 * 50 * 0.02, 1e-9);
  EXPECT_NEAR(r.e2e.max.value(), 50 * 0.02, 1e-9);
}

// Idle power x time x GPUs, and what the steps draw above it.
TEST(Energy, IdlePlusDynamic) {
  for (const int replicas : {1, 3}) {
    LinearCost cost;
    cost.step = 0.02;
    cost.watts = 450;
    const auto scenario = ScenarioOf(kClosed, {{"plan.replicas", std::to_string(replicas)}, {"hardware.price", "3.6 USD/h"}, {"workload.concurrency", std::to_string(16 * replicas)}});
    const Report r = ReportOf(scenario, &cost);
    const double seconds = r.simulation.simulated_s, steps = r.simulation.iterations;
    const double idle = scenario->resolved().machine.gpu.idle_power.value() * seconds * replicas;
    EXPECT_GT(idle, 0);
    EXPECT_NEAR(r.energy.by_component.at("gpu_idle"), idle, 1e-6 * idle);
    EXPECT_NEAR(r.energy.by_component.at("gpu_active"), 450 * 0.02 * steps, 1e-6);
    double sum = 0;
    for (const auto& [name, joules] : r.energy.by_component) sum += joules;
    EXPECT_NEAR(r.energy.total.value(), sum, 1e-6 * sum);
    EXPECT_NEAR(r.energy.mean_power.value(), sum / seconds, 1e-6 * sum / seconds);
    EXPECT_NEAR(r.energy.per_request.value(), sum / 1600, 1e-6 * sum);
    EXPECT_NEAR(r.energy.per_output_token.value(), sum / 80000, 1e-6 * sum);
    EXPECT_NEAR(r.cost.usd.value(), 0.001 * seconds * replicas, 1e-9);
    EXPECT_NEAR(r.cost.usd_per_million_output_tokens.value(), 0.001 * seconds * replicas / 0.08, 1e-9);
  }
}

// The report's KV memory by hand: Llama 3.1 8B stores 2 x 32 layers x 8 heads x 128 values of 2 bytes per token.
TEST(Memory, KvCapacityByHand) {
  const auto scenario = ScenarioOf(kClosed, {{"hardware.memory", "80 GB"}});
  const ResolvedScenario& s = scenario->resolved();
  const double per_token = 2 * 32 * 8 * 128 * 2;
  // The ideal engine takes all of the memory and no reserve.
  const double budget = 80e9 - s.memory.weights.value() - s.memory.activations.value();
  EXPECT_EQ(s.memory.kv_blocks, static_cast<int64_t>(budget / (per_token * 16)));
  // 8.03e9 parameters of 2 bytes.
  EXPECT_NEAR(s.memory.weights.value(), 16.06e9, 0.01e9);
  LinearCost cost;
  cost.step = 0.02;
  const Report r = ReportOf(scenario, &cost);
  EXPECT_EQ(r.memory.kv_capacity_tokens, static_cast<double>(s.memory.kv_blocks * 16));
  // 16 sequences of at most 8 + 50 - 1 tokens: 4 blocks each.
  EXPECT_NEAR(r.memory.kv_peak_fraction, 16 * 4 / static_cast<double>(s.memory.kv_blocks), 1e-12);
}

}  // namespace
}  // namespace simrun
