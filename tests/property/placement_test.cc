// What holds for every placement: nothing moves faster than its link, no tier holds more than it can, time adds up.
#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "sim/resolved.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

TEST(Placement, LawsOfRandomPlacements) {
  Rng rng(5, "placements");
  const std::vector<std::string> weights = {"weights", "attention", "routed_experts", "embedding", "lm_head", "activations"};
  const std::vector<std::string> tiers = {"dram", "cxl", "nvme", "remote"};
  int ran = 0;
  for (int round = 0; round < 60; ++round) {
    std::string rules;
    for (int i = 0; i < 3; ++i) {
      const bool kv = rng.Uniform() < 0.3;
      const std::string tensors = kv ? "kv" : weights[rng.Below(weights.size())], tier = tiers[rng.Below(tiers.size())];
      const bool compute = (tier == "dram" || tier == "cxl") && tensors != "embedding" && tensors != "activations" && rng.Uniform() < 0.5;
      const bool cache = tensors == "routed_experts" && rng.Uniform() < 0.4;
      rules += fmt::format("{}{{tensors: {}, tier: {}, share: {:.3f}, use: {}}}", i > 0 ? ", " : "", tensors, tier, 0.05 + 0.45 * rng.Uniform(),
                           cache ? "cache" : compute ? "compute" : "stream");
    }
    const uint64_t tp = 1 + rng.Below(2), dp = 1 + rng.Below(2);
    const auto s = Scenario::FromYaml(fmt::format(R"(
model: mixtral-8x7b
hardware: {{gpu: h100-pcie-80gb, host_memory: 256 GB, cxl: {{capacity: 64 GB, cards: 2}}, nvme: {{capacity: 1 TB}}, remote_memory: 512 GB}}
plan: {{tp: {}, dp: {}, ep: {}, replicas: {}, placement: {{rules: [{}], window: {}, token_groups: {}}}}}
scheduler: {{max_num_seqs: 16, max_model_len: 2048, max_num_batched_tokens: 2048}}
workload: {{requests: 24, arrivals: {{poisson: {{rate: 3 /s}}}}, input_tokens: {{uniform: {{min: 10, max: 900}}}}, output_tokens: {{uniform: {{min: 1, max: 30}}}}}}
)", tp, dp, dp > 1 ? tp * dp : 1, 1 + rng.Below(2), rules, 1 + rng.Below(4), 1 + rng.Below(3)));
    if (!s.ok()) continue;  // too much for the GPU or a tier, or rules that take nothing
    if (s->resolved().memory.kv_blocks < 60) continue;  // no room for one request
    ++ran;
    SCOPED_TRACE(rules);
    const Report r = ReportOf(s);
    EXPECT_EQ(r.requests.completed, 24);
    double sum = 0;
    for (const auto& [name, share] : r.bottleneck) {
      EXPECT_GE(share, -1e-12) << name;
      sum += share;
    }
    EXPECT_NEAR(sum, 1, 1e-9);
    EXPECT_FALSE(r.links.empty());
    for (const Report::Link& l : r.links) {
      EXPECT_GT(l.bytes, 0) << l.name;
      EXPECT_LE(l.utilization, 1 + 1e-9) << l.name;
    }
    for (const Report::Memory::Tier& t : r.memory.tiers) {
      EXPECT_LE((t.weights + t.kv_peak).value(), t.capacity.value() + 1) << t.name;
      EXPECT_LE(t.kv_peak, t.kv_capacity) << t.name;
    }
    // Over time: never above the peak, which is reached, nor above capacity.
    double highest = 0;
    ASSERT_EQ(r.memory.timeline.kv_mean.size(), r.memory.timeline.kv_peak.size());
    ASSERT_FALSE(r.memory.timeline.kv_mean.empty());
    for (size_t i = 0; i < r.memory.timeline.kv_mean.size(); ++i) {
      EXPECT_GE(r.memory.timeline.kv_mean[i], 0);
      EXPECT_LE(r.memory.timeline.kv_mean[i], r.memory.timeline.kv_peak[i] * (1 + 1e-9));
      highest = std::max(highest, r.memory.timeline.kv_peak[i]);
    }
    // The fullest attention rank against all of them together.
    if (dp == 1) {
      EXPECT_NEAR(highest, r.memory.kv_peak_fraction, 1e-9);
    } else {
      EXPECT_LE(highest, r.memory.kv_peak_fraction + 1e-9);
    }
    for (const Report::Memory::Tier& t : r.memory.tiers) EXPECT_NEAR(t.kv_peak.value(), highest * t.kv_capacity.value(), 1e-6 * t.kv_capacity.value()) << t.name;
    EXPECT_GE(r.memory.timeline.interval.value() * static_cast<double>(r.memory.timeline.kv_mean.size()), r.simulation.simulated_s * (1 - 1e-9));
    EXPECT_LE(r.memory.weights + r.memory.activations + r.memory.reserve, r.memory.gpu);
  }
  EXPECT_GE(ran, 15);
}

}  // namespace
}  // namespace simrun
