// Prefix caching from the scenario to the report: what is found follows from the traffic, and what is found is not paid for.
#include <cmath>
#include <fstream>

#include "gtest/gtest.h"
#include "sim/resolved.h"
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

// A prompt, another that takes its blocks, and the first one again: the host still has what the GPU gave up.
std::string ComesBack() {
  const std::string file = testing::TempDir() + "/comes_back.csv";
  std::ofstream(file) << "arrival_s,input_tokens,output_tokens,hash_ids\n0,1000,5,1 2 3 4 5 6 7 8 9 10\n100,1000,5,11 12 13 14 15 16 17 18 19 20\n200,1000,5,1 2 3 4 5 6 7 8 9 10\n";
  return "{trace: " + file + ", hash_block: 100}";
}

TEST(PrefixCaching, HostMemoryKeepsWhatTheGpuGivesUp) {
  LinearCost cost = Cost();
  const auto scenario = [](const char* size, const char* link) {
    return ScenarioOf(kOneByOne, {{"workload", ComesBack()}, {"engine.kv_blocks", "64"}, {"scheduler.block_size", "16"},
                                  {"scheduler.kv_offloading_size", size}, {"hardware.host_link_bandwidth", link}});
  };
  const auto run = [&](const char* size, const char* link) { return ReportOf(scenario(size, link), &cost); };
  // 1004 tokens are 63 blocks. Of the first prompt's 62 full ones the GPU keeps the first; a prompt computes a token at least.
  const Report none = run("0 B", "64 GB/s"), with = run("1 GB", "64 GB/s");
  EXPECT_EQ(none.prefix_cache.cached_tokens, 16);
  EXPECT_EQ(none.prefix_cache.fetched_tokens, 0);
  EXPECT_EQ(with.prefix_cache.cached_tokens, 992);
  EXPECT_EQ(with.prefix_cache.fetched_tokens, 976);
  EXPECT_NEAR((with.prefix_cache.miss_ttft - with.prefix_cache.hit_ttft).value(), 0.992, 1e-6);
  EXPECT_NEAR((none.ttft.mean - with.ttft.mean).value(), 0.976 / 3, 1e-6);
  // Each of three prompts copied what it has; the third has 62 blocks in common with the first, which stay where they are.
  const double block = 16 * 131072.0;
  ASSERT_EQ(with.memory.tiers.size(), 1u);
  EXPECT_EQ(with.memory.tiers[0].name, "dram");
  EXPECT_EQ(with.prefix_cache.offloaded_blocks, 62 + 62 + 3);
  EXPECT_DOUBLE_EQ(with.memory.tiers[0].prefix_peak.value(), block * (62 + 62 + 3));
  EXPECT_DOUBLE_EQ(with.memory.tiers[0].prefix_capacity.value(), std::floor(1e9 / block) * block);
  EXPECT_TRUE(none.memory.tiers.empty());
  // The copy takes longer than the step: 61 blocks over the link.
  const Machine slow = scenario("1 GB", "0.05 GB/s")->resolved().machine;
  const double seconds = 61 * block / (slow.host_link.bandwidth.value() * slow.host_link.efficiency);
  EXPECT_GT(seconds, 2);
  const Report late = run("1 GB", "0.05 GB/s");
  EXPECT_NEAR((late.ttft.mean - with.ttft.mean).value(), (seconds - 1.008) / 3, 1e-6);
  EXPECT_GT(late.bottleneck.at("link"), with.bottleneck.at("link"));
  // Room for one prompt: the second took the place of the first.
  EXPECT_EQ(run("133 MB", "64 GB/s").prefix_cache.fetched_tokens, 0);
}

// Fetched where that is faster than computing: with a slow link never, and then it is the run without a host that keeps blocks.
TEST(PrefixCaching, FetchesWhereThatIsFaster) {
  const auto run = [](const char* size, const char* link, const char* fetch) {
    return ReportOf(ScenarioOf(kOneByOne, {{"workload", ComesBack()}, {"engine.kv_blocks", "64"}, {"scheduler.kv_offloading_size", size},
                                           {"hardware.host_link_bandwidth", link}, {"scheduler.kv_offloading_fetch", fetch}}));
  };
  EXPECT_EQ(run("1 GB", "64 GB/s", "auto").ttft.mean, run("1 GB", "64 GB/s", "always").ttft.mean);
  EXPECT_LT(run("1 GB", "64 GB/s", "auto").ttft.mean, run("0 B", "64 GB/s", "auto").ttft.mean);
  EXPECT_EQ(run("1 GB", "0.05 GB/s", "auto").ttft.mean, run("0 B", "0.05 GB/s", "auto").ttft.mean);
  EXPECT_LT(run("1 GB", "0.05 GB/s", "auto").ttft.mean, run("1 GB", "0.05 GB/s", "always").ttft.mean);
}

// Conversations that GPU memory cannot keep: with host memory for all of them as much is found as with a GPU that has the room;
// attention ranks share the size.
TEST(PrefixCaching, ConversationsReturnFromTheHost) {
  const std::string scenario = R"(
model: deepseek-v2-lite
hardware: {node: dgx-h100}
plan: {dp: 2, ep: 2}
engine: {profile: vllm-0.19, kv_blocks: 400}
workload: {concurrency: 4, requests: 80, input_tokens: 500, output_tokens: 20, conversations: {active: 30, turns: 4}}
)";
  const Report small = ReportOf(ScenarioOf(scenario)), roomy = ReportOf(ScenarioOf(scenario, {{"engine.kv_blocks", "100000"}}));
  const Report host = ReportOf(ScenarioOf(scenario, {{"scheduler.kv_offloading_size", "64 GB"}}));
  EXPECT_LT(small.prefix_cache.hit_rate, 0.5 * roomy.prefix_cache.hit_rate);
  EXPECT_GT(host.prefix_cache.hit_rate, 0.9 * roomy.prefix_cache.hit_rate);
  EXPECT_GT(host.prefix_cache.fetched_tokens, 0);
  EXPECT_LE(host.prefix_cache.fetched_tokens, host.prefix_cache.cached_tokens + host.prefix_cache.resumed_tokens);
  EXPECT_LT(host.ttft.mean, small.ttft.mean);
  EXPECT_EQ(host.requests.completed, 80);
  const Report half = ReportOf(ScenarioOf(scenario, {{"scheduler.kv_offloading_size", "200 MB"}}));
  EXPECT_LE(half.memory.tiers.at(0).prefix_peak, half.memory.tiers.at(0).prefix_capacity);
  EXPECT_LT(half.prefix_cache.fetched_tokens, host.prefix_cache.fetched_tokens);
}

TEST(PrefixCaching, OffloadingThatCannotBeIsRefused) {
  const auto problem = [](const std::vector<std::pair<std::string, std::string>>& changes) {
    auto s = Scenario::FromYaml(kOneByOne);
    for (const auto& [path, value] : changes) {
      if (s.ok()) s = s->With(path, value);
    }
    return s.ok() ? std::string() : std::string(s.status().message());
  };
  EXPECT_NE(problem({{"scheduler.prefix_caching", "false"}, {"scheduler.kv_offloading_size", "1 GB"}}).find("set scheduler.prefix_caching: true"), std::string::npos);
  EXPECT_NE(problem({{"scheduler.kv_offloading_size", "1 MB"}}).find("or more"), std::string::npos);
  EXPECT_NE(problem({{"hardware.host_memory", "64 GB"}, {"scheduler.kv_offloading_size", "65 GB"}}).find("or raise hardware.host_memory"), std::string::npos);
  EXPECT_NE(problem({{"plan.placement", "[{tensors: kv, tier: dram, use: compute}]"}, {"scheduler.kv_offloading_size", "1 GB"}}).find("use one of the two"), std::string::npos);
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
