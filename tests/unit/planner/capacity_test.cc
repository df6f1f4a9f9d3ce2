#include "planner/capacity.h"

#include <cmath>
#include <map>
#include <tuple>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "planner/metrics.h"
#include "sim/simulation.h"

namespace simrun::planner {
namespace {

using ::testing::HasSubstr;

// A step takes the same time whatever it does.
class ConstantStep : public StepCostModel {
 public:
  explicit ConstantStep(double seconds) : seconds_(seconds) {}
  int stages() const override { return 1; }
  void Predict(std::span<const StepWork>, StepCost* cost) override {
    cost->stage_seconds[0] = seconds_;
    cost->dynamic_joules = 0;
    cost->bound_seconds.fill(0);
  }

 private:
  double seconds_;
};

constexpr double kService = 0.1;

Scenario Make(const std::string& text) {
  const absl::StatusOr<Scenario> s = Scenario::FromYaml(text);
  EXPECT_TRUE(s.ok()) << s.status();
  return *s;
}

// One request at a time, one step each: every replica is a queue with deterministic service. A random router splits
// Poisson arrivals into independent Poisson streams, so each of the c replicas is an M/D/1 queue of load r = L D / c with
// mean wait D r / (2 (1 - r)).
Scenario MD1(double rate, int replicas, const std::string& router = "random") {
  return Make(fmt::format(R"(
model: llama-3.1-8b
hardware: {{gpu: h100-sxm-80gb}}
plan: {{replicas: {}}}
engine: {{profile: ideal}}
scheduler: {{max_num_seqs: 1, router: {}}}
workload: {{requests: 60000, arrivals: {{poisson: {{rate: {} /s}}}}, input_tokens: 1, output_tokens: 1}}
)", replicas, router, rate));
}

CapacityOptions MD1Options(double most_wait) {
  CapacityOptions options;
  options.targets = {*ParseSlo(fmt::format("queue_delay.mean={} ms", most_wait * 1e3))};
  options.simulate = [](const Scenario& s) {
    ConstantStep cost(kService);
    SimulateOptions simulate;
    simulate.step_cost = &cost;
    return Simulate(s, std::move(simulate));
  };
  return options;
}

double Wait(double rate, int replicas) {
  const double load = rate * kService / replicas;
  return load < 1 ? kService * load / (2 * (1 - load)) : INFINITY;
}

TEST(Capacity, FleetOfMD1QueuesIsTheAnalyticOne) {
  for (const double rate : {3.0, 27.0, 64.0, 140.0}) {
    for (const double limit : {0.02, 0.1, 0.3}) {
      int expected = 1;
      while (Wait(rate, expected) > limit) ++expected;
      // Too close to call by simulation: 60 000 requests give the mean wait to about 2 %.
      if (std::fabs(Wait(rate, expected) / limit - 1) < 0.06) continue;
      if (expected > 1 && std::fabs(Wait(rate, expected - 1) / limit - 1) < 0.06) continue;
      const absl::StatusOr<CapacityResult> r = FindCapacity(MD1(rate, 1), MD1Options(limit));
      ASSERT_TRUE(r.ok()) << r.status();
      ASSERT_TRUE(r->found) << r->why_not;
      EXPECT_EQ(r->x, expected) << "rate " << rate << " limit " << limit;
      EXPECT_EQ(r->gpus, expected);
    }
  }
}

TEST(Capacity, RateOfMD1QueuesIsTheAnalyticOne) {
  // D r / (2 (1 - r)) = w gives r = 2 w / (D + 2 w).
  const int replicas = 4;
  for (const double limit : {0.02, 0.1}) {
    const double load = 2 * limit / (kService + 2 * limit);
    CapacityOptions options = MD1Options(limit);
    options.find = Find::kRate;
    const absl::StatusOr<CapacityResult> r = FindCapacity(MD1(10, replicas), options);
    ASSERT_TRUE(r.ok()) << r.status();
    ASSERT_TRUE(r->found);
    EXPECT_NEAR(r->x * 10, load * replicas / kService, 0.03 * load * replicas / kService) << limit;
  }
}

TEST(Capacity, TheAnswerIsTheSmallestOfABruteForceScan) {
  const char* kChat = "input_tokens: {lognormal: {mean: 1000, p99: 4000, max: 8000}}, output_tokens: {lognormal: {mean: 200, p99: 600, max: 2000}}}";
  const char* kSummary = "input_tokens: {uniform: {min: 2000, max: 6000}}, output_tokens: {uniform: {min: 50, max: 200}}}";
  const char* kCreation = "input_tokens: 300, output_tokens: {uniform: {min: 500, max: 1500}}}";
  const std::vector<std::tuple<std::string, std::string>> cases = {
      {std::string("model: llama-3.1-8b\nhardware: {gpu: a100-sxm-80gb}\nworkload: {requests: 800, arrivals: {poisson: {rate: 30 /s}}, ") + kChat, "ttft.p99=400ms"},
      {std::string("model: llama-3.1-8b\nhardware: {gpu: l40s-48gb}\nworkload: {requests: 600, arrivals: {poisson: {rate: 8 /s}}, ") + kSummary, "e2e.p95=12s"},
      {std::string("model: llama-3.1-70b\nhardware: {node: dgx-h100}\nplan: {tp: 4}\nworkload: {requests: 600, arrivals: {poisson: {rate: 14 /s}}, ") + kChat, "tpot.p90=35ms"},
      {std::string("model: mixtral-8x7b\nhardware: {node: dgx-h100}\nplan: {tp: 2}\nworkload: {requests: 500, arrivals: {gamma: {rate: 12 /s, cv: 2}}, ") + kCreation, "e2e.p99=33s"},
      {std::string("model: llama-3.1-8b\nhardware: {gpu: h100-sxm-80gb}\nslo: {ttft: 300 ms, tpot: 12 ms}\nworkload: {requests: 800, arrivals: {poisson: {rate: 40 /s}}, ") + kChat, "attainment=0.95"}};
  for (const auto& [text, slo] : cases) {
    const Scenario scenario = Make(text);
    CapacityOptions options;
    options.targets = {*ParseSlo(slo)};
    const absl::StatusOr<CapacityResult> r = FindCapacity(scenario, options);
    ASSERT_TRUE(r.ok()) << r.status();
    ASSERT_TRUE(r->found) << r->why_not;
    // Every size up to the answer, all seeds, no shortcut.
    int smallest = 0;
    for (int n = 1; n <= static_cast<int>(r->x) + 1 && smallest == 0; ++n) {
      double sum = 0;
      const Metric* metric = *FindMetric(options.targets[0].metric);
      for (int seed = 1; seed <= 5; ++seed) {
        absl::StatusOr<Scenario> s = scenario.With("seed", fmt::format("{}", seed));
        if (!scenario.config().hardware.node.empty()) s = s->With("hardware.nodes", "64");
        s = s->With("plan.replicas", fmt::format("{}", n));
        sum += metric->value(*Simulate(*s));
      }
      const double mean = sum / 5;
      if (options.targets[0].at_least ? mean >= options.targets[0].limit : mean <= options.targets[0].limit) smallest = n;
    }
    EXPECT_EQ(r->x, smallest) << slo;
    EXPECT_GT(r->x, 1) << slo;
  }
}

TEST(Capacity, TheBestFleetOverEnginesIsThatOfAScan) {
  const char* text = "model: llama-3.1-8b\nhardware: {gpu: h100-sxm-80gb, count: 2}\nsearch: {gpu_types: [a100-sxm-80gb, h100-sxm-80gb, l40s-48gb], gpus: 2}\n"
                     "workload: {requests: 300, arrivals: {poisson: {rate: 25 /s}}, input_tokens: 600, output_tokens: {uniform: {min: 50, max: 250}}}";
  const YamlNode root = *ParseYaml(text, "test");
  Problems problems;
  SearchConfig search = ReadSearch(root, &problems);
  search.partial = true;
  const absl::StatusOr<PlanSpace> space = Enumerate(root, "", nullptr, search);
  ASSERT_TRUE(space.ok()) << space.status();
  CapacityOptions options;
  options.targets = {*ParseSlo("ttft.p95=400ms"), *ParseSlo("tpot.mean=30ms")};
  std::map<std::string, double> least = {{"gpus", INFINITY}, {"cost", INFINITY}, {"energy", INFINITY}, {"replicas", INFINITY}};
  int engines = 0;
  for (const Candidate& c : space->candidates) {
    if (!c.feasible() || c.replicas != 1) continue;
    ++engines;
    const CapacityResult r = *FindCapacity(*c.scenario, options);
    if (!r.found) continue;
    for (const Probe& p : r.probes) {
      if (p.x == r.x) least["energy"] = std::min(least["energy"], p.report.energy.per_output_token.value());
    }
    least["replicas"] = std::min(least["replicas"], r.x);
    least["gpus"] = std::min(least["gpus"], static_cast<double>(r.gpus));
    least["cost"] = std::min(least["cost"], r.usd_per_hour);
  }
  EXPECT_EQ(engines, 3 * 3);   // one GPU, tp 2, pp 2 of each type
  for (const std::string& name : MinimizeNames()) {
    const auto choices = FindBestFleet(*space, *FindMinimize(name), options);
    ASSERT_TRUE(choices.ok()) << choices.status();
    ASSERT_TRUE(choices->front().result.found);
    EXPECT_NEAR(choices->front().value, least[name], 1e-9 * least[name]) << name;
    EXPECT_EQ(choices->size(), 9u);
  }
  EXPECT_THAT(std::string(FindMinimize("money").status().message()), HasSubstr("unknown name \"money\""));
}

TEST(Capacity, LengthsAreKnobsToo) {
  const Scenario s = Make("model: llama-3.1-8b\nhardware: {gpu: a100-sxm-80gb}\nworkload: {requests: 100, arrivals: {poisson: {rate: 0.2 /s}}, "
                          "input_tokens: {uniform: {min: 4000, max: 8000}}, output_tokens: 10}");
  CapacityOptions options;
  options.targets = {*ParseSlo("ttft.mean=200ms")};
  bool found = false;
  const auto changes = WhatWouldHaveToChange(s, options);
  ASSERT_TRUE(changes.ok()) << changes.status();
  for (const Change& c : *changes) {
    if (c.setting != "workload.input_tokens") continue;
    found = c.found;
    // A prompt of 6000 tokens takes about 2 N t / peak: the time is nearly proportional to its length.
    EXPECT_NEAR(c.factor, 0.2 / Simulate(s)->ttft.mean.value(), 0.1);
  }
  EXPECT_TRUE(found);
}

TEST(Capacity, SaysWhenNoFleetIsEnough) {
  // A replica alone takes 0.1 s to its first token, however many there are.
  const double limit = kService / 2;
  CapacityOptions options = MD1Options(1);
  options.targets = {*ParseSlo(fmt::format("ttft.mean={} ms", limit * 1e3))};
  const absl::StatusOr<CapacityResult> r = FindCapacity(MD1(5, 1), options);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_FALSE(r->found);
  EXPECT_THAT(r->why_not, HasSubstr("ttft.mean_s is"));
  EXPECT_LT(r->probes.size(), 12u);
}

TEST(Capacity, AnOverloadedFleetIsSeenAfterOneRun) {
  const absl::StatusOr<CapacityResult> r = FindCapacity(MD1(64, 1), MD1Options(0.1));
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_TRUE(r->probes.front().saturated);
  EXPECT_EQ(r->probes.front().runs, 1);
}

TEST(Capacity, WhatWouldHaveToChangeMeetsTheTargetAndLessDoesNot) {
  const Scenario s = Make("model: llama-3.1-8b\nhardware: {gpu: a100-sxm-80gb}\n"
                          "workload: {requests: 200, arrivals: {poisson: {rate: 2 /s}}, input_tokens: 500, output_tokens: 100}");
  CapacityOptions options;
  options.targets = {*ParseSlo("tpot.mean=8ms")};
  const absl::StatusOr<std::vector<Change>> changes = WhatWouldHaveToChange(s, options);
  ASSERT_TRUE(changes.ok()) << changes.status();
  bool bandwidth = false;
  for (const Change& c : *changes) {
    if (c.setting == "hardware.price") {
      EXPECT_FALSE(c.found);  // money does not make tokens faster
    }
    if (c.setting != "hardware.memory_bandwidth") continue;
    bandwidth = true;
    ASSERT_TRUE(c.found);
    const double tpot_at = Simulate(s.With("hardware.memory_bandwidth", c.to))->tpot.mean.value();
    EXPECT_NEAR(tpot_at, 8e-3, 0.3e-3);
    EXPECT_GT(c.factor, 1.1);
  }
  EXPECT_TRUE(bandwidth);
  options.targets = {*ParseSlo("tpot.mean=1s")};
  EXPECT_TRUE(WhatWouldHaveToChange(s, options)->empty());
}

TEST(Capacity, TargetsAreReadWithTheirUnits) {
  const SloTarget t = *ParseSlo("ttft.p99=500ms");
  EXPECT_EQ(t.metric, "ttft.p99_s");
  EXPECT_EQ(t.limit, 0.5);
  EXPECT_FALSE(t.at_least);
  EXPECT_TRUE(ParseSlo("attainment=0.99")->at_least);
  const auto error = [](const char* text) { return std::string(ParseSlo(text).status().message()); };
  EXPECT_THAT(error("ttft.p98=500ms"), HasSubstr("unknown metric"));
  EXPECT_THAT(error("ttft.p99=500"), HasSubstr("has no unit"));
  EXPECT_THAT(error("ttft.p99"), HasSubstr("is not metric=limit"));
}

}  // namespace
}  // namespace simrun::planner
