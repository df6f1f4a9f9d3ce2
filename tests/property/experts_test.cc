// Experts outside GPU memory, followed one by one: every use is accounted for, and the searched placement is never worse
// than the built-in ones.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "gtest/gtest.h"
#include "sim/simulation.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

const char* const kHalf = R"(
model: mixtral-8x7b
hardware: {gpu: a100-sxm-80gb, host: xeon-8380}
plan: {placement: {rules: [{tensors: routed_experts, share: 0.5, tier: dram, use: compute}]}}
scheduler: {max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 2048, experts: {policy: static}}
workload: {concurrency: 1, requests: 3, input_tokens: 200, output_tokens: 60}
)";
constexpr double kExpertBytes = 3.0 * 4096 * 14336 * 2;

TEST(Experts, EveryUseIsAHitOrBroughtOrRunByTheCpu) {
  for (const char* policy : {"static", "stream", "hybrid"}) {
    for (const char* cache : {"pinned", "lru", "score", "oracle"}) {
      SCOPED_TRACE(std::string(policy) + " " + cache);
      const Report r = ReportOf(ScenarioOf(kHalf, {{"scheduler.experts", fmt::format("{{policy: {}, cache: {}}}", policy, cache)}}));
      const Report::Experts& e = r.experts;
      ASSERT_GT(e.uses, 0);
      EXPECT_DOUBLE_EQ(e.resident_share, 0.5);
      if (std::string(policy) == "static") {
        EXPECT_DOUBLE_EQ(e.fetched, 0);
        EXPECT_NEAR(e.hit_rate + e.on_cpu, 1, 1e-12);
      } else if (std::string(policy) == "stream") {
        EXPECT_DOUBLE_EQ(e.on_cpu, 0);
        EXPECT_NEAR(e.hit_rate + e.fetched, 1, 1e-12);
      } else {
        EXPECT_GE(e.hit_rate + e.fetched + e.on_cpu, 1 - 1e-12);  // some hits are stolen by the CPU
      }
      // What crossed the link is what was fetched and sent ahead, whole experts.
      EXPECT_NEAR(e.fetched_bytes.value(), e.fetched * e.uses * kExpertBytes, 1e-6 * e.fetched_bytes.value());
      EXPECT_EQ(r.requests.completed, 3);
    }
  }
}

// Only whole experts are resident. A tenth of eight experts is one in some layers and none in others, a tenth in all.
TEST(Experts, SharesThatAreNotWholeExpertsEvenOutOverTheLayers) {
  for (const double away : {0.9, 0.95, 0.3, 0.99}) {
    const Report r = ReportOf(ScenarioOf(kHalf, {{"plan.placement", fmt::format("[{{tensors: routed_experts, share: {}, tier: dram, use: compute}}]", away)}}));
    EXPECT_NEAR(r.experts.resident_share, std::floor((1 - away) * 8 * 32 + 1e-6) / (8 * 32), 1e-9) << away;
  }
}

// Experts that stream are on the GPU when their layer needs them, and nowhere near between.
TEST(Experts, StreamedOnesAreNotResident) {
  const Report r = ReportOf(ScenarioOf(kHalf, {{"plan.placement", "[{tensors: routed_experts, layers: 0-15, tier: dram, use: compute}, "
                                                                  "{tensors: routed_experts, layers: 16-31, share: 0.5, tier: dram, use: stream}]"}}));
  EXPECT_DOUBLE_EQ(r.experts.resident_share, 0.25);
  EXPECT_NEAR(r.experts.hit_rate, 0.5, 0.01);
}

// Uniform choices, half of the experts on the GPU: the steps drawn one by one take as long on average as the step in
// expectation. 180 steps of 64 uses; the CPU's share has a standard error of 0.5 %.
TEST(Experts, DrawnStepsAverageToTheExpectedStep) {
  const auto base = ScenarioOf(kHalf, {{"workload.routing", "uniform"}});
  const Report drawn = ReportOf(base);
  const Report expected = ReportOf(base->With("scheduler.experts", "{}"));
  EXPECT_NEAR(drawn.experts.hit_rate, 0.5, 0.02);
  EXPECT_EQ(expected.experts.uses, 0);
  // One sequence uses two experts per layer, of which none, one or two lie on the CPU's side. The CPU's work averages to
  // that of one; where it has none the GPU's own work is not hidden behind it, so that the mean of the longer of the two is
  // above the longer of the means.
  EXPECT_GT(drawn.tpot.mean.value() / expected.tpot.mean.value(), 0.98);
  EXPECT_LT(drawn.tpot.mean.value() / expected.tpot.mean.value(), 1.12);
}

TEST(Experts, BetterCachesAndSharedWorkAreFaster) {
  const auto tpot = [](const char* experts) {
    return ReportOf(ScenarioOf(kHalf, {{"scheduler.experts", experts}})).tpot.mean.value();
  };
  EXPECT_LT(tpot("{policy: stream, cache: oracle}"), tpot("{policy: stream, cache: lru}"));
  EXPECT_LE(tpot("{policy: hybrid, cache: oracle}"), tpot("{policy: stream, cache: oracle}") * 1.01);
  EXPECT_LE(tpot("hybrid"), tpot("static") * 1.01);
}

TEST(Experts, TheSameSeedIsTheSameRun) {
  const auto scenario = ScenarioOf(kHalf, {{"scheduler.experts", "{policy: hybrid, cache: score, prefetch: impact}"}});
  const Report a = ReportOf(scenario), b = ReportOf(scenario), c = ReportOf(scenario->With("seed", "2"));
  EXPECT_EQ(a.tpot.mean.value(), b.tpot.mean.value());
  EXPECT_NE(a.tpot.mean.value(), c.tpot.mean.value());
}

TEST(Experts, AskedForWhereThereAreNone) {
  EXPECT_FALSE(Scenario::FromYaml("model: llama-3.1-8b\nhardware: {gpu: h100-sxm-80gb}\nscheduler: {experts: hybrid}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}\n").ok());
  const auto resident = Scenario::FromYaml("model: mixtral-8x7b\nhardware: {gpu: h200-sxm-141gb}\nscheduler: {experts: hybrid}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}\n");
  ASSERT_FALSE(resident.ok());
  EXPECT_NE(std::string(resident.status().message()).find("all experts lie in GPU memory"), std::string::npos) << resident.status();
  // A placement that simrun finds may leave nothing outside; then there is nothing to follow.
  for (const char* placement : {"auto", "optimize"}) {
    const Report r = ReportOf(ScenarioOf(fmt::format("model: mixtral-8x7b\nhardware: {{gpu: h200-sxm-141gb}}\nplan: {{placement: {}}}\nscheduler: {{experts: hybrid}}\n"
                                                     "workload: {{requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 2}}\n", placement)));
    EXPECT_TRUE(r.experts.policy.empty());
    EXPECT_TRUE(std::any_of(r.warnings.begin(), r.warnings.end(), [](const std::string& w) { return w.find("scheduler.experts has nothing to do") != std::string::npos; }));
  }
}

// The objective as simulated, against every built-in placement that fits. The search prices steps, the run also queues
// and chunks: 3 % are allowed.
TEST(Experts, TheSearchedPlacementIsNeverWorseThanTheBuiltInOnes) {
  const std::vector<std::string> scenarios = {
      // Experts that do not fit, one sequence and many.
      "model: mixtral-8x7b\nhardware: {gpu: rtx-4090, host: xeon-8380}\nscheduler: {max_num_seqs: 32, max_model_len: 2048, max_num_batched_tokens: 1024}\n"
      "workload: {concurrency: 1, requests: 2, input_tokens: 300, output_tokens: 40}\n",
      "model: mixtral-8x7b\nhardware: {gpu: rtx-4090, host: xeon-8380}\nscheduler: {max_num_seqs: 32, max_model_len: 2048, max_num_batched_tokens: 1024}\n"
      "workload: {concurrency: 32, requests: 32, input_tokens: 300, output_tokens: 40}\n",
      // A dense model that does not fit, and one that does.
      "model: llama-2-13b\nhardware: {gpu: rtx-4090, host: xeon-8380}\nscheduler: {max_num_seqs: 16, max_model_len: 2048, max_num_batched_tokens: 1024}\n"
      "workload: {concurrency: 16, requests: 16, input_tokens: 300, output_tokens: 40}\n",
      "model: llama-3.1-8b\nhardware: {gpu: rtx-4090, host: xeon-8380}\nscheduler: {max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 1024}\n"
      "workload: {concurrency: 48, requests: 48, input_tokens: 1000, output_tokens: 60}\n",
  };
  const std::map<std::string, double (*)(const Report&)> objectives = {
      {"throughput", [](const Report& r) { return 1 / r.throughput.output_tokens_per_s; }},
      {"tpot", [](const Report& r) { return r.tpot.mean.value(); }},
      {"energy", [](const Report& r) { return r.energy.per_output_token.value(); }},
      {"cost", [](const Report& r) { return r.cost.usd_per_million_output_tokens.value(); }},
  };
  for (const std::string& text : scenarios) {
    SCOPED_TRACE(text);
    const auto base = Scenario::FromYaml(text + "plan: {placement: auto}\n");
    ASSERT_TRUE(base.ok()) << base.status();
    std::map<std::string, Report> built_in;
    for (const char* policy : {"gpu", "auto"}) {
      const auto scenario = base->With("plan.placement", policy);
      if (scenario.ok()) built_in[policy] = ReportOf(scenario);
    }
    ASSERT_FALSE(built_in.empty());
    for (const auto& [objective, value] : objectives) {
      if (objective != "throughput" && objective != "tpot" && &text != &scenarios.front()) continue;
      const auto scenario = base->With("plan.placement", fmt::format("{{policy: optimize, objective: {}}}", objective));
      ASSERT_TRUE(scenario.ok()) << scenario.status();
      const Report found = ReportOf(scenario);
      EXPECT_EQ(found.placement.objective, objective);
      EXPECT_GT(found.placement.candidates, 10);
      for (const auto& [policy, report] : built_in) EXPECT_LE(value(found), 1.03 * value(report)) << objective << " against " << policy;
      for (const Report::Placement::Marginal& m : found.placement.marginal) EXPECT_GE(m.per_gib, 0) << m.tier;
    }
  }
}

// What the search calls energy and cost is what reports call so, with the CPU and what moves bytes: the placement for an objective
// serves it best.
TEST(Experts, EachObjectiveIsServedBestByItsPlacement) {
  const auto base = Scenario::FromYaml(R"(
model: mixtral-8x7b
hardware: {gpu: rtx-4090, host: xeon-8480c}
plan: {weights: int4, placement: auto}
workload: {concurrency: 4, requests: 16, input_tokens: 512, output_tokens: 64}
)");
  ASSERT_TRUE(base.ok()) << base.status();
  const auto placed = [&](const char* objective, const char* price, const char* electricity) {
    auto s = base->With("hardware.price", price);
    s = s->With("hardware.electricity_usd_per_kwh", electricity);
    return ReportOf(s->With("plan.placement", fmt::format("{{policy: optimize, objective: {}}}", objective)));
  };
  const Report fast = placed("throughput", "1 USD/h", "0"), frugal = placed("energy", "1 USD/h", "0");
  // The CPU draws 700 W while it computes experts, the GPU hardly more when it has more of them.
  EXPECT_LT(frugal.energy.per_output_token.value(), 0.95 * fast.energy.per_output_token.value());
  EXPECT_GT(fast.throughput.output_tokens_per_s, frugal.throughput.output_tokens_per_s);
  // Where the machine is paid for by the hour the cheapest is the fastest, where its electricity is, the most frugal.
  EXPECT_EQ(placed("cost", "1 USD/h", "0").placement.rules, fast.placement.rules);
  EXPECT_EQ(placed("cost", "0.0001 USD/h", "10").placement.rules, frugal.placement.rules);
}

// Weights that do not fit on GPU and host lie on another node, 10 times as fast as the one drive, and on the drive.
TEST(Experts, TheSearchedPlacementSaysWhatEachMemoryIsWorth) {
  const auto scenario = Scenario::FromYaml(R"(
model: llama-3.1-70b
hardware: {gpu: rtx-4090, host: xeon-8380, sockets: 1, host_memory: 64 GB, network: ib-ndr-400, remote_memory: 20 GB, nvme: {drives: 1, capacity: 1 TB}}
plan: {placement: optimize}
scheduler: {max_num_seqs: 4, max_model_len: 1024, max_num_batched_tokens: 512}
workload: {concurrency: 4, requests: 4, input_tokens: 100, output_tokens: 20}
)");
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  std::map<std::string, double> gain;
  for (const Report::Placement::Marginal& m : ReportOf(scenario).placement.marginal) gain[m.tier] = m.per_gib;
  ASSERT_EQ(gain.size(), 4u);
  // One more GiB of any faster memory spares reading it from the drive, a hundredth or so of what lies there; the nearer
  // the faster. The drive has room to spare.
  EXPECT_GT(gain.at("remote"), 0.005);
  EXPECT_LT(gain.at("remote"), 0.05);
  EXPECT_GE(gain.at("dram"), gain.at("remote") * 0.99);
  EXPECT_GE(gain.at("gpu"), gain.at("dram") * 0.99);
  EXPECT_NEAR(gain.at("nvme"), 0, 1e-9);
}

}  // namespace
}  // namespace simrun
