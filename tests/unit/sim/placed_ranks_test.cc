// Attention ranks (plan.dp) of one engine that keeps tensors outside GPU memory.
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

// DeepSeek-V2-Lite over four GPUs of one node.
std::string Shared(const std::string& plan, const std::string& rules) {
  return fmt::format(R"(
model: deepseek-v2-lite
hardware: {{node: dgx-h100}}
plan: {{{}, placement: [{}]}}
engine: {{profile: ideal}}
scheduler: {{max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 4096}}
workload: {{concurrency: 4, requests: 8, input_tokens: 100, output_tokens: 20}}
)", plan, rules);
}
const char kRanks[] = "dp: 4, ep: 4";

// All-to-alls, the busiest expert rank, the slowest attention rank: with next to nothing outside GPU memory a step is the
// resident plan's.
TEST(PlacedRanks, ATinyShareElsewhereCostsNothing) {
  for (const char* plan : {"dp: 4, ep: 4", "tp: 2, dp: 2, ep: 4", "tp: 4, ep: 4", "dp: 4, ep: 2"}) {
    PlacedModel tiny(ScenarioOf(Shared(plan, "{tensors: routed_experts, share: 0.0001, tier: dram, use: compute, layers: 3}"), {{"engine.cpu_operator", "0 s"}}));
    PlacedModel resident(ScenarioOf(Shared(plan, "{tensors: weights, tier: gpu}")));
    ASSERT_TRUE(resident.scenario.resolved().placement.resident);
    const size_t ranks = static_cast<size_t>(tiny.scenario.resolved().plan.dp);
    std::vector<StepWork> even(ranks, Decodes(16, 500)), uneven = even;
    uneven[0] = Decodes(48, 900);
    if (ranks > 1) uneven[1] = StepWork();
    const PrefillChunk chunk{2000, 1000};
    std::vector<StepWork> prompt = even;
    prompt.back().tokens = 2016;
    prompt.back().logits_rows = 17;
    prompt.back().chunks = {&chunk, 1};
    for (const auto& work : {even, uneven, prompt}) {
      const StepCost t = tiny.Steady(work), g = resident.Steady(work);
      EXPECT_NEAR(t.stage_seconds[0], g.stage_seconds[0], 0.005 * g.stage_seconds[0]) << plan;
      EXPECT_NEAR(t.dynamic_joules, g.dynamic_joules, 0.005 * g.dynamic_joules) << plan;
    }
  }
}

// Each GPU takes its rank's copy of what streams, experts cross once for all ranks, and the KV cache of every rank's own
// sequences: bytes of the host's memory are those placed there times their uses.
TEST(PlacedRanks, BytesMovedAreThosePlacedTimesUses) {
  const std::string rules = "{tensors: attention, share: 0.5, tier: dram}, {tensors: routed_experts, share: 0.25, tier: dram}, {tensors: kv, tier: dram}";
  PlacedModel m(ScenarioOf(Shared(kRanks, rules)));
  const ResolvedScenario& r = m.scenario.resolved();
  const ClassBytes one = WeightBytesByClass(r.model, r.plan, false);
  double moe = 0;
  for (int64_t l = 0; l < r.model.layers; ++l) moe += r.model.IsMoeLayer(l) ? 1 : 0;
  const double layers = static_cast<double>(r.model.layers);
  const double attention = 0.5 * (one.attention * layers + one.router * moe), experts = 0.25 * one.routed_experts * moe;
  EXPECT_NEAR(r.memory.tiers.at(0).weights.value(), 4 * attention + experts, 1e-6 * experts);
  const double token = KvPerTokenOnce(r.model, r.plan);
  EXPECT_NEAR(r.memory.tiers.at(0).kv_block.value(), 4 * token * static_cast<double>(r.params.limits.block_size), 1);

  const std::vector<StepWork> ranks = {Decodes(8, 1000), Decodes(2, 100), Decodes(5, 300), StepWork()};
  const double past = 8 * 1000 + 2 * 100 + 5 * 300, fresh = 8 + 2 + 5;
  const int steps = 50;
  StepCost cost;
  for (int i = 0; i < steps; ++i) m.step->Predict(ranks, &cost);
  const double step = 4 * attention + experts + (past + fresh) * token;
  // A window of two layers of the next step may be under way.
  const double window = 2 * (4 * 0.5 * (one.attention + one.router) + 0.25 * one.routed_experts);
  EXPECT_GE(m.Bytes("host memory"), steps * step - window);
  EXPECT_LE(m.Bytes("host memory"), steps * step + window);
  // The link that each GPU has to itself carries the busiest rank's.
  const double busiest = attention + experts / 4 + 8 * 1000 * token;
  EXPECT_NEAR(m.Bytes("host link to GPU"), steps * busiest, window);
}

// The KV cache of one rank crosses one GPU's link; in four ranks with a quarter each it crosses four, while the memory
// behind the links gives all that is asked.
TEST(PlacedRanks, TheBusiestRankIsWaitedFor) {
  PlacedModel m(ScenarioOf(Shared(kRanks, "{tensors: kv, tier: dram}"), {{"hardware.host_memory_bandwidth", "10 TB/s"}}));
  const ResolvedScenario& r = m.scenario.resolved();
  const double bytes = 64 * 4000 * KvPerTokenOnce(r.model, r.plan);
  const double alone = m.Steady({Decodes(64, 4000), StepWork(), StepWork(), StepWork()}).bound_seconds[static_cast<size_t>(Bound::kLink)];
  const double spread = m.Steady({Decodes(16, 4000), Decodes(16, 4000), Decodes(16, 4000), Decodes(16, 4000)}).bound_seconds[static_cast<size_t>(Bound::kLink)];
  EXPECT_GT(alone, 0.8 * bytes / 64e9);
  // Two of them hang on one PCIe switch.
  EXPECT_NEAR(spread, alone / 2, 0.05 * alone / 2);
}

// The CPU reads an expert once for the tokens of all ranks: two ranks with a token each ask for less than twice as much as one.
TEST(PlacedRanks, TheCpuServesTheTokensOfAllRanks) {
  const std::string rules = "{tensors: routed_experts, tier: dram, use: compute}";
  const auto bytes = [&](const char* experts, const std::vector<StepWork>& ranks) {
    PlacedModel m(ScenarioOf(Shared("dp: 2, ep: 2", rules), {{"scheduler.experts", experts}}));
    StepCost cost;
    for (int i = 0; i < 20; ++i) m.step->Predict(ranks, &cost);
    return m.Bytes("host memory");
  };
  for (const char* experts : {"{}", "static"}) {
    const double half = bytes(experts, {Decodes(16, 100), StepWork()}), both = bytes(experts, {Decodes(16, 100), Decodes(16, 100)});
    const double together = bytes(experts, {Decodes(32, 100), StepWork()});
    EXPECT_GT(both, 1.05 * half) << experts;
    EXPECT_LT(both, 1.9 * half) << experts;
    EXPECT_NEAR(both, together, 0.02 * together) << experts;  // hand-overs alike
  }
}

// Whole runs: every rank keeps its own KV cache, the experts of the engine are there once, and more ranks serve more.
TEST(PlacedRanks, RunsAreReported) {
  const std::string rules = "{tensors: routed_experts, share: 0.5, tier: dram, use: compute}, {tensors: kv, share: 0.5, tier: dram, use: compute}";
  const std::vector<std::pair<std::string, std::string>> load = {{"workload", "{requests: 64, arrivals: all_at_once, input_tokens: 200, output_tokens: 40}"},
                                                                 {"scheduler.experts", "{policy: hybrid, cache: lru}"},
                                                                 {"scheduler.max_num_seqs", "8"}};
  const Report one = ReportOf(ScenarioOf(Shared("dp: 1", rules), load)), four = ReportOf(ScenarioOf(Shared(kRanks, rules), load));
  EXPECT_EQ(four.requests.completed, 64);
  EXPECT_GT(four.throughput.output_tokens_per_s, 1.2 * one.throughput.output_tokens_per_s);
  ASSERT_EQ(one.memory.tiers.size(), 1u);
  ASSERT_EQ(four.memory.tiers.size(), 1u);
  EXPECT_NEAR(four.memory.tiers[0].weights.value(), one.memory.tiers[0].weights.value(), 1);
  EXPECT_LE((four.memory.tiers[0].weights + four.memory.tiers[0].kv_peak).value(), four.memory.tiers[0].capacity.value());
  EXPECT_GT(four.memory.tiers[0].kv_peak.value(), 0);
  EXPECT_EQ(four.experts.resident_share, one.experts.resident_share);
}

TEST(PlacedRanks, ExpertsMustBeShared) {
  const auto s = Scenario::FromYaml(Shared("dp: 4, ep: 1", "{tensors: routed_experts, tier: dram, use: compute}"));
  ASSERT_FALSE(s.ok());
  EXPECT_NE(std::string(s.status().message()).find("set plan.ep, for example to 4, or use plan.replicas: 4"), std::string::npos) << s.status();
}

// Rules that the search and `auto` write hold the copies of all ranks.
TEST(PlacedRanks, AutoAndOptimizeKnowTheRanks) {
  for (const char* policy : {"auto", "{policy: optimize}"}) {
    const auto changed = ScenarioOf(Shared("dp: 2, ep: 2", "{tensors: weights, tier: gpu}"),
                                    {{"plan.placement", policy}, {"hardware.host_memory", "40 GB"}, {"hardware.memory", "12 GB"}});
    ASSERT_TRUE(changed.ok()) << policy << changed.status();
    const ResolvedScenario& r = changed->resolved();
    EXPECT_FALSE(r.placement.resident) << policy;
    ASSERT_FALSE(r.memory.tiers.empty());
    EXPECT_LE((r.memory.tiers[0].weights + r.memory.tiers[0].kv_block * static_cast<double>(r.memory.kv_blocks)).value(), r.memory.tiers[0].capacity.value() + 1) << policy;
    EXPECT_EQ(ReportOf(changed).requests.completed, 8) << policy;
  }
}

// A dense model whose attention replicas share one MLP over all GPUs.
TEST(PlacedRanks, ASharedMlpIsThereOnce) {
  const auto text = [](const char* rules) {
    return fmt::format(R"(
model: llama-3.1-8b
hardware: {{node: dgx-h100}}
plan: {{dp: 2, ffn_tp: 2, placement: [{}]}}
engine: {{profile: ideal}}
scheduler: {{max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 4096}}
workload: {{concurrency: 4, requests: 8, input_tokens: 100, output_tokens: 20}}
)", rules);
  };
  const auto tiny = ScenarioOf(text("{tensors: dense_ffn, share: 0.0001, tier: dram, layers: 3}"));
  PlacedModel t(tiny), g(ScenarioOf(text("{tensors: weights, tier: gpu}")));
  for (const auto& work : {std::vector<StepWork>{Decodes(16, 500), Decodes(16, 500)}, std::vector<StepWork>{Decodes(60, 500), Decodes(4, 100)}}) {
    const double a = t.Steady(work).stage_seconds[0], b = g.Steady(work).stage_seconds[0];
    EXPECT_NEAR(a, b, 0.01 * b);
  }
  PlacedModel m(ScenarioOf(text("{tensors: weights, tier: dram}")));
  const ResolvedScenario& r = m.scenario.resolved();
  const ClassBytes b = WeightBytesByClass(r.model, r.plan, false);
  const double held = 2 * (32 * b.attention + b.lm_head + b.embedding) + 32 * b.dense_ffn;
  EXPECT_NEAR(r.memory.tiers.at(0).weights.value(), held, 1e-6 * held);
}

}  // namespace
}  // namespace simrun
