// Prefix caching from the scenario to the report: what is found follows from the traffic, and what is found is not paid for.
#include <fstream>

#include "gtest/gtest.h"
#include "tests/support/engine_parts.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

// One request at a time: all that was said before it is there.
constexpr char kOneByOne[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: vllm-0.19}
workload: {concurrency: 1, requests: 40, input_tokens: 300, output_tokens: 20}
)";
// A step takes 1 s, a prompt token 1 ms.
LinearCost Cost() {
  LinearCost cost;
  cost.step = 1;
  cost.token = 1e-3;
  return cost;
}

TEST(PrefixCaching, SystemPromptsAreComputedOnce) {
  LinearCost cost = Cost();
  // 1000 tokens are 62 full blocks of 16. Each of 40 requests but the first finds them.
  const Report r = ReportOf(ScenarioOf(kOneByOne, {{"workload.shared_prefix", "{tokens: 1000}"}}), &cost);
  EXPECT_EQ(r.prefix_cache.looked_up_tokens, 40 * 1300);
  EXPECT_EQ(r.prefix_cache.cached_tokens, 39 * 992);
  EXPECT_DOUBLE_EQ(r.prefix_cache.hit_rate, 39 * 992 / (40 * 1300.0));
  EXPECT_EQ(r.prefix_cache.hit_requests, 39);
  EXPECT_EQ(r.prefix_cache.evicted_blocks, 0);
  EXPECT_EQ(r.prefix_cache.cached_blocks, 62);
  // The first turn pays for 1300 tokens, the others for 308.
  EXPECT_NEAR((r.prefix_cache.miss_ttft - r.prefix_cache.hit_ttft).value(), 0.992, 1e-6);
  EXPECT_EQ(r.requests.input_tokens, 40 * 1300);

  const Report without = ReportOf(ScenarioOf(kOneByOne, {{"workload.shared_prefix", "{tokens: 1000}"}, {"scheduler.prefix_caching", "false"}}), &cost);
  EXPECT_FALSE(without.prefix_cache.used);
  EXPECT_NEAR((without.ttft.mean - r.ttft.mean).value(), 0.992 * 39 / 40, 1e-6);
  // Nothing in common: the same run, caching or not.
  for (const char* caching : {"false", "true"}) {
    Report plain = ReportOf(ScenarioOf(kOneByOne, {{"workload.input_tokens", "1300"}, {"scheduler.prefix_caching", caching}}), &cost);
    EXPECT_EQ(plain.ttft.mean, without.ttft.mean);
    EXPECT_FALSE(plain.prefix_cache.used);
  }
}

TEST(PrefixCaching, ANextTurnFindsPromptsAndAnswers) {
  LinearCost cost = Cost();
  // Turn k of a conversation has 300 k + 20 (k - 1) prompt tokens, of which the first 320 (k - 1) - 1 have keys and values:
  // the last token of an answer has none before it is read.
  const Report r = ReportOf(ScenarioOf(kOneByOne, {{"workload.conversations", "{active: 1, turns: 4}"}}), &cost);
  int64_t prompts = 0, cached = 0;
  for (int64_t k = 1; k <= 4; ++k) {
    prompts += 320 * k - 20;
    if (k > 1) cached += (320 * (k - 1) - 1) / 16 * 16;
  }
  EXPECT_EQ(r.prefix_cache.looked_up_tokens, 10 * prompts);
  EXPECT_EQ(r.prefix_cache.cached_tokens, 10 * cached);
}

TEST(PrefixCaching, RouterKeepsConversationsWhereTheyAre) {
  const std::string scenario = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
plan: {replicas: 4}
engine: {profile: vllm-0.19}
workload: {requests: 400, arrivals: {poisson: {rate: 2 /s}}, input_tokens: 500, output_tokens: 20, conversations: {active: 40, turns: 8}}
)";
  const auto rate = [&](const char* router) {
    return ReportOf(ScenarioOf(scenario, {{"scheduler.router", router}})).prefix_cache.hit_rate;
  };
  // By turns or by load a next turn meets its conversation's replica once in four times.
  const double kept = rate("prefix-affinity");
  EXPECT_GT(kept, 0.7);
  EXPECT_LT(rate("round-robin"), 0.6 * kept);
  EXPECT_LT(rate("least-outstanding"), kept);
}

// A preempted request finds what is left of its own blocks; nothing else in this traffic is alike.
TEST(PrefixCaching, PreemptedRequestsFindTheirBlocks) {
  const std::string scenario = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: vllm-0.19, kv_blocks: 200}
workload: {concurrency: 10, requests: 60, input_tokens: 800, output_tokens: 500}
)";
  const Report with = ReportOf(ScenarioOf(scenario)), without = ReportOf(ScenarioOf(scenario, {{"scheduler.prefix_caching", "false"}}));
  EXPECT_GT(with.requests.preemptions, 0);
  EXPECT_GT(with.prefix_cache.resumed_tokens, 0);
  EXPECT_EQ(with.prefix_cache.looked_up_tokens, 60 * 800);  // also those from before the first preemption
  EXPECT_EQ(with.prefix_cache.cached_tokens, 0);
  EXPECT_FALSE(without.prefix_cache.used);
  EXPECT_LT(with.simulation.simulated_s, without.simulation.simulated_s);
}

// Blocks of the trace of 100 tokens on an engine with blocks of 16, 100 and 256.
TEST(PrefixCaching, HashIdsOfATraceInBlocksOfAnotherSize) {
  const std::string file = testing::TempDir() + "/prefix_hash_ids.csv";
  std::ofstream(file) << "arrival_s,input_tokens,output_tokens,hash_ids\n0,1000,5,1 2 3 4 5 6 7 8 9 10\n100,700,5,1 2 3 4 5 6 7\n200,1000,5,1 2 3 4 5 6 7 8 11 12\n";
  LinearCost cost = Cost();
  const auto cached = [&](const char* block) {
    return ReportOf(ScenarioOf(kOneByOne, {{"workload", "{trace: " + file + ", hash_block: 100}"}, {"scheduler.block_size", block}}), &cost).prefix_cache.cached_tokens;
  };
  // The second has 700 tokens in common and computes at least one, the third 800.
  EXPECT_EQ(cached("16"), 699 / 16 * 16 + 800 / 16 * 16);
  EXPECT_EQ(cached("100"), 600 + 800);
  EXPECT_EQ(cached("256"), 512 + 768);
  std::remove(file.c_str());
}

}  // namespace
}  // namespace simrun
