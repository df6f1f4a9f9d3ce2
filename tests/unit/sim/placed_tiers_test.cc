// Tensors that lie on several tiers at once: each byte moves on the way from where it lies, whatever the order of the rules.
#include <cmath>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "gtest/gtest.h"
#include "models/lowering.h"
#include "sim/simulation.h"
#include "tests/support/placed_model.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

const char kDense[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-pcie-80gb, host: xeon-8480c, cxl: {capacity: 512 GB}, nvme: {capacity: 4 TB}}
plan: {placement: [{tensors: kv, tier: dram}]}
engine: {profile: ideal}
scheduler: {max_num_seqs: 16, max_model_len: 8192, max_num_batched_tokens: 8192}
workload: {static_batch: 4, input_tokens: 100, output_tokens: 20}
)";

const char kExperts[] = R"(
model: mixtral-8x7b
hardware: {gpu: h100-pcie-80gb, host: xeon-8480c, cxl: {capacity: 512 GB}, nvme: {capacity: 4 TB}}
plan: {placement: [{tensors: routed_experts, tier: dram, share: 0.5, use: compute}]}
scheduler: {max_num_seqs: 16, max_model_len: 2048, max_num_batched_tokens: 2048}
workload: {concurrency: 4, requests: 8, input_tokens: 100, output_tokens: 100, routing: {uniform: {}}}
)";
constexpr double kExpertBytes = 3.0 * 4096 * 14336 * 2;

// Bytes that a step like others moves over a link.
double PerStep(PlacedModel* m, const std::string& link, const StepWork& work) {
  m->Steady(work);
  const double before = m->Bytes(link);
  StepCost cost;
  for (int i = 0; i < 4; ++i) m->step->Predict(std::vector<StepWork>{work}, &cost);
  return (m->Bytes(link) - before) / 4;
}
double LinkBytes(const Report& r, const std::string& name) {
  for (const Report::Link& l : r.links) {
    if (l.name == name) return l.bytes;
  }
  return 0;
}
std::string ProblemOf(const char* base, const std::vector<std::pair<std::string, std::string>>& changes) {
  auto s = Scenario::FromYaml(base);
  for (const auto& [path, value] : changes) {
    if (s.ok()) s = s->With(path, value);
  }
  return s.ok() ? std::string() : std::string(s.status().message());
}

// 8 key-value heads of 128 in bf16, keys and values, 32 layers.
constexpr double kKvPerToken = 2.0 * 8 * 128 * 2 * 32;

TEST(PlacedTiers, TheCpuAttendsWhereEachPartOfTheCacheLies) {
  std::vector<double> seconds;
  for (const char* rules : {"[{tensors: kv, tier: dram, share: 0.25, use: compute}, {tensors: kv, tier: cxl, share: 0.75, use: compute}]",
                            "[{tensors: kv, tier: cxl, share: 0.75, use: compute}, {tensors: kv, tier: dram, share: 0.25, use: compute}]"}) {
    PlacedModel m(ScenarioOf(kDense, {{"plan.placement", rules}}));
    const StepWork work = Decodes(4, 1000);
    EXPECT_NEAR(PerStep(&m, "CXL read", work), 0.75 * 4 * 1000 * kKvPerToken, 1e3) << rules;
    // Queries go there and results come back, once for each sequence and layer whatever the number of parts; new keys and values follow.
    EXPECT_NEAR(PerStep(&m, "host link from GPU", work), 4 * (32 * 4096.0 * 2 + kKvPerToken), 1e3) << rules;
    seconds.push_back(m.Steady(work).stage_seconds[0]);
  }
  EXPECT_NEAR(seconds[0], seconds[1], 1e-9 * seconds[0]);
}

TEST(PlacedTiers, ACacheOnTwoTiersIsReadFromBothAtOnce) {
  const auto seconds = [](const char* rules) {
    PlacedModel m(ScenarioOf(kDense, {{"plan.placement", rules}}));
    return m.Steady(Decodes(16, 8000)).stage_seconds[0];
  };
  // One drive of 7 GB/s: half of the cache takes half the time, and the other half crosses meanwhile.
  const double drive = seconds("[{tensors: kv, tier: nvme}]"), both = seconds("[{tensors: kv, tier: nvme, share: 0.5}, {tensors: kv, tier: dram, share: 0.5}]");
  EXPECT_NEAR(both, drive / 2, 0.02 * drive);
}

TEST(PlacedTiers, ActivationsGoWhereTheirPartsLie) {
  for (const char* rules : {"[{tensors: activations, tier: dram, share: 0.75}, {tensors: activations, tier: nvme, share: 0.25}]",
                            "[{tensors: activations, tier: nvme, share: 0.25}, {tensors: activations, tier: dram, share: 0.75}]"}) {
    PlacedModel m(ScenarioOf(kDense, {{"plan.placement", rules}}));
    const double hidden = 16 * 4096.0 * 2 * 31;  // between 32 layers
    EXPECT_NEAR(PerStep(&m, "NVMe write", Decodes(16, 100)), 0.25 * hidden, 1) << rules;
    EXPECT_NEAR(PerStep(&m, "host link from GPU", Decodes(16, 100)), hidden, 1) << rules;
  }
}

// Old tokens lie farthest away; layers with a sliding window see the newest alone.
TEST(PlacedTiers, LayersWithAWindowNeedNothingOfTheOldTokens) {
  const auto crosses = [](double share, int64_t kv) {
    PlacedModel m(ScenarioOf(kDense, {{"model", "gpt-oss-20b"}, {"scheduler.max_num_batched_tokens", "8192"},
                                      {"plan.placement", fmt::format("[{{tensors: kv, tier: dram, share: {}}}]", share)}}));
    StepWork work = Decodes(4, kv);
    work.decode_kv_sum_windowed = 4 * std::min<int64_t>(kv, 128);
    return PerStep(&m, "host link to GPU", work);
  };
  const double layer = 2.0 * 8 * 64 * 2;  // per token; 12 layers see all, 12 the last 128 tokens
  EXPECT_NEAR(crosses(0.5, 8000), 4 * 12 * layer * 4000, 1e3);
  EXPECT_NEAR(crosses(1, 8000), 4 * 12 * layer * (8000 + 128), 1e3);
  // Of 160 tokens the 80 oldest are away, of which the window reaches 48.
  EXPECT_NEAR(crosses(0.5, 160), 4 * 12 * layer * (80 + 48), 1e3);
}

TEST(PlacedTiers, ExpertsAreReadWhereTheyLie) {
  for (const char* policy : {"static", "stream", "hybrid"}) {
    for (const bool by_layer : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {}", policy, by_layer));
      // A quarter of the experts in each memory, of every layer or of one half of the layers.
      const char* rules = by_layer ? "[{tensors: routed_experts, layers: 0-15, tier: dram, share: 0.5, use: compute}, {tensors: routed_experts, layers: 16-31, tier: cxl, share: 0.5, use: compute}]"
                                   : "[{tensors: routed_experts, tier: dram, share: 0.25, use: compute}, {tensors: routed_experts, tier: cxl, share: 0.25, use: compute}]";
      const Report r = ReportOf(ScenarioOf(kExperts, {{"plan.placement", rules}, {"scheduler.experts", policy}}));
      const double used = (r.experts.on_cpu + r.experts.fetched) * static_cast<double>(r.experts.uses) * kExpertBytes, cxl = LinkBytes(r, "CXL read");
      // Equally popular experts: half of the uses, 900 steps of 16 or 32 layers and about 2 of 4 experts each: 1 % of noise.
      EXPECT_NEAR(cxl, 0.5 * used, 0.02 * used);
      // The rest is read from DRAM, beside activations on their way to the CPU and back.
      EXPECT_NEAR(cxl + LinkBytes(r, "host memory"), used, 0.01 * used);
    }
  }
}

// The most popular experts lie where the first rule says.
TEST(PlacedTiers, TheFirstRuleTakesTheMorePopularExperts) {
  const auto cxl = [](const char* first, const char* second) {
    const Report r = ReportOf(ScenarioOf(kExperts, {{"workload.routing", "{zipf: {exponent: 1}}"}, {"scheduler.experts", "static"},
        {"plan.placement", fmt::format("[{{tensors: routed_experts, tier: {}, share: 0.25, use: compute}}, {{tensors: routed_experts, tier: {}, share: 0.25, use: compute}}]", first, second)}}));
    return LinkBytes(r, "CXL read");
  };
  EXPECT_GT(cxl("cxl", "dram"), 1.2 * cxl("dram", "cxl"));
}

TEST(PlacedTiers, CachedExpertsCrossWhenTheyAreChosen) {
  const auto run = [](const char* rules, const char* experts) {
    return ReportOf(ScenarioOf(kExperts, {{"plan.placement", rules}, {"scheduler.experts", experts}}));
  };
  const char* cached = "[{tensors: routed_experts, tier: nvme, share: 0.5, use: cache}]";
  const Report r = ReportOf(ScenarioOf(kExperts, {{"plan.placement", cached}}));
  EXPECT_EQ(r.experts.policy, "stream");
  EXPECT_DOUBLE_EQ(r.experts.on_cpu, 0);
  EXPECT_GT(r.experts.fetched, 0.4);
  EXPECT_NEAR(LinkBytes(r, "NVMe read"), r.experts.fetched_bytes.value(), 1e-6 * r.experts.fetched_bytes.value());
  for (const std::string& warning : r.warnings) EXPECT_EQ(warning.find("work of the CPU"), std::string::npos) << warning;
  // All of them in every step, on the other hand, when they stream.
  EXPECT_LT(LinkBytes(r, "NVMe read"), 0.9 * LinkBytes(ReportOf(ScenarioOf(kExperts, {{"plan.placement", "[{tensors: routed_experts, tier: nvme, share: 0.5, use: stream}]"}})), "NVMe read"));
  // The same as experts that the CPU might run and a policy that does not let it.
  EXPECT_DOUBLE_EQ(run("[{tensors: routed_experts, tier: dram, share: 0.5, use: cache}]", "stream").tpot.mean.value(),
                   run("[{tensors: routed_experts, tier: dram, share: 0.5, use: compute}]", "stream").tpot.mean.value());
  // Experts that take the place of others are copies.
  const auto held = [&](const char* cache) { return run(cached, fmt::format("{{policy: stream, cache: {}}}", cache).c_str()).memory.tiers.front().weights.value(); };
  EXPECT_NEAR(held("pinned"), 0.5 * 8 * 32 * kExpertBytes, 1);
  EXPECT_NEAR(held("lru"), 8 * 32 * kExpertBytes, 1);
}

// One matrix is embedding and head: it crosses for the head in every step, and GPU memory has it no more.
TEST(PlacedTiers, ATiedHeadStreams) {
  const std::vector<std::pair<std::string, std::string>> tied = {{"model", "llama-3.2-1b"}, {"plan.placement", "[{tensors: lm_head, tier: dram}]"}};
  PlacedModel m(ScenarioOf(kDense, tied));
  const double head = 128256.0 * 2048 * 2;
  EXPECT_NEAR(PerStep(&m, "host link to GPU", Decodes(4, 100)), head + 4 * 2048 * 2, 0.001 * head);
  const MemoryPlan& away = m.scenario.resolved().memory;
  ASSERT_EQ(away.tiers.size(), 1u);
  EXPECT_NEAR(away.tiers[0].weights.value(), head, 0.001 * head);
  const auto resident = ScenarioOf(kDense, {{"model", "llama-3.2-1b"}, {"plan.placement", "gpu"}});
  EXPECT_NEAR((away.weights - away.window).value(), resident->resolved().memory.weights.value() - head, 0.001 * head);
  // A copy of its own for looking tokens up leaves the head where it is.
  const auto copy = ScenarioOf(kDense, {{"model", "llama-3.2-1b"}, {"plan.placement", "[{tensors: embedding, tier: dram}]"}});
  EXPECT_NEAR(copy->resolved().memory.weights.value(), resident->resolved().memory.weights.value(), 1);
}

TEST(PlacedTiers, SettingsThatNothingLooksAtAreProblems) {
  const auto find = [](const std::string& text, const std::string& what) { EXPECT_NE(text.find(what), std::string::npos) << text; };
  find(ProblemOf(kExperts, {{"scheduler.experts", "{cache: lru}"}}), "scheduler.experts.cache: experts are not followed");
  find(ProblemOf(kExperts, {{"plan.placement", "[{tensors: shared_experts, tier: dram}]"}}), "has no shared experts");
  find(ProblemOf(kExperts, {{"plan.placement", "[{tensors: attention, tier: dram, use: cache}]"}}), "only routed_experts can be cached");
  find(ProblemOf(kExperts, {{"plan.placement", "[{tensors: routed_experts, tier: dram, use: cache}]"}, {"scheduler.experts", "static"}}), "runs experts on the CPU");
  find(ProblemOf(kExperts, {{"plan.placement", "[{tensors: routed_experts, tier: dram, share: 0.3, use: cache}, {tensors: routed_experts, tier: dram, share: 0.3, use: compute}]"}}),
       "nothing says how a layer is shared");
  find(ProblemOf(kDense, {{"plan.placement", "{policy: auto, rules: [{tensors: kv, tier: dram}]}"}}), "two placements");
  find(ProblemOf(kDense, {{"plan.placement", "{policy: auto, objective: tpot}"}}), "only a search has one");
  find(ProblemOf(kDense, {{"plan.placement", "[{tensors: attention, tier: dram, layers: \"1,\"}]"}}), "names no layers");
  find(ProblemOf(kDense, {{"hardware", "{cpu: xeon-8480c}"}, {"engine.profile", "cpu"}}), "the CPU is the device");
  // GPUs of one engine behind two hosts, as a wrong plan, not as a failed run.
  find(ProblemOf(kDense, {{"plan.tp", "2"}, {"hardware", "{gpu: h100-pcie-80gb, host: xeon-8480c, count: 2, gpus_per_node: 1}"}}), "on one host");
}

TEST(PlacedTiers, ProblemsOfARuleStandWhereItWasWritten) {
  const auto s = Scenario::FromYaml(R"(model: llama-3.1-8b
hardware: {gpu: h100-pcie-80gb}
plan:
  placement:
    window: 3
    rules:
      - {tensors: kv, tier: dram}
      - tensors: attention
        tier: cxl
      - {tensors: kv, tier: dram}
workload: {static_batch: 4, input_tokens: 100, output_tokens: 20}
)");
  ASSERT_FALSE(s.ok());
  const std::string text(s.status().message());
  EXPECT_NE(text.find(":9:15: plan.placement.rules.1.tier: "), std::string::npos) << text;
  EXPECT_NE(text.find(":10:9: plan.placement.rules.2: takes nothing"), std::string::npos) << text;
}

TEST(PlacedTiers, WhatIsMissingIsSaid) {
  // Mixtral in 4 bits, 23.75 GB, on a card that may use 22.84 GB, beside 0.95 GB.
  for (const auto& [policy, what] : {std::pair("auto", "the other memories are full: give the engine 1."), std::pair("optimize", "the nearest lacks 1.")}) {
    const auto s = Scenario::FromYaml(fmt::format(R"(
model: mixtral-8x7b
hardware: {{gpu: rtx-4090, host_memory: 1 GB}}
plan: {{weights: int4, placement: {}}}
workload: {{static_batch: 4, input_tokens: 100, output_tokens: 20}}
)", policy));
    ASSERT_FALSE(s.ok());
    EXPECT_NE(std::string(s.status().message()).find(what), std::string::npos) << s.status();
  }
}

}  // namespace
}  // namespace simrun
