// Whole scenarios through Simulate: fast-forward changes nothing, observers change nothing, a caller who owns the clock
// gets the same run, equal seeds give equal reports.
#include <cmath>
#include <sstream>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "sim/resolved.h"
#include "tests/support/engine_parts.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

// A random valid scenario over models with dense, windowed and expert layers.
std::string RandomScenario(uint64_t seed) {
  Rng rng(seed, "scenario");
  const auto pick = [&](std::vector<std::string> v) { return v[rng.Below(v.size())]; };
  const auto number = [&](int64_t low, int64_t high) { return low + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(high - low + 1))); };
  std::ostringstream y;
  const std::string model = pick({"llama-3.1-8b", "llama-3.2-1b", "gemma-2-9b", "mistral-7b-v0.1", "qwen3-30b-a3b", "gpt-oss-20b"});
  const bool experts = model == "qwen3-30b-a3b" || model == "gpt-oss-20b";
  const int64_t tp = number(0, 1) + 1, pp = rng.Below(3) == 0 ? 2 : 1;
  const int64_t dp = experts && rng.Below(2) == 0 ? 2 : 1;
  y << "model: " << model << "\nhardware: {gpu: " << pick({"h100-sxm-80gb", "a100-sxm-80gb", "mi300x-192gb"}) << "}\n";
  y << "plan: {tp: " << tp << ", pp: " << pp << ", dp: " << dp << ", replicas: " << number(1, 3) << (dp > 1 ? ", ep: " + std::to_string(tp * dp) : std::string()) << "}\n";
  y << "engine: {profile: " << pick({"ideal", "vllm-0.19", "vllm-0.6", "sglang-0.5", "trt-llm"});
  if (rng.Below(2) == 0) y << ", kv_blocks: " << number(130, 400);
  y << "}\n";
  const int64_t seqs = number(1, 64);
  y << "scheduler: {policy: " << pick({"chunked-prefill", "prefill-first", "orca", "static"}) << ", max_num_seqs: " << seqs
    << ", max_num_batched_tokens: " << seqs + number(32, 2000) << ", router: " << pick({"round-robin", "random", "least-outstanding", "power-of-two"})
    << ", queue_order: " << pick({"fcfs", "shortest-job", "priority", "earliest-deadline"}) << ", preemption: " << pick({"recompute", "swap", "auto"}) << "}\n";
  y << "workload: {requests: " << number(20, 150) << ", input_tokens: {uniform: {min: 1, max: " << number(10, 1500)
    << "}}, output_tokens: {uniform: {min: 1, max: " << number(1, 300) << "}}, priorities: {levels: 3}, deadline: 2 s, ";
  switch (rng.Below(4)) {
    case 0: y << "concurrency: " << number(1, 40); break;
    case 1: y << "arrivals: all_at_once"; break;
    default: y << "arrivals: {" << pick({"poisson: {rate: ", "constant: {rate: "}) << number(1, 60) << " /s}}";
  }
  y << "}\nslo: {ttft: 500 ms, tpot: 30 ms}\nseed: " << seed << "\n";
  if (rng.Below(3) == 0) y << "metrics: {warmup: 1 s}\n";
  return y.str();
}

class Scenarios : public testing::TestWithParam<uint64_t> {};

TEST_P(Scenarios, FastForwardAndObserversChangeNothing) {
  double fast_forwarded = 0, preemptions = 0;
  for (uint64_t seed = GetParam() * 1000; seed < GetParam() * 1000 + 20; ++seed) {
    const std::string yaml = RandomScenario(seed);
    SCOPED_TRACE(yaml);
    const auto scenario = ScenarioOf(yaml);
    ASSERT_TRUE(scenario.ok());
    const auto fast = Simulate(*scenario);
    ASSERT_TRUE(fast.ok());
    SimulateOptions every_step;
    every_step.fast_forward = false;
    const auto slow = Simulate(*scenario, std::move(every_step));
    Collector collector;
    SimulateOptions observed;
    observed.observer = &collector;
    const auto watched = Simulate(*scenario, std::move(observed));
    ASSERT_EQ(ResultsOf(*fast), ResultsOf(*slow));
    ASSERT_EQ(ResultsOf(*fast), ResultsOf(*watched));
    ASSERT_EQ(ResultsOf(*fast), ResultsOf(*Simulate(*scenario)));
    EXPECT_EQ(slow->simulation.fast_forwarded, 0);
    fast_forwarded += fast->simulation.fast_forwarded;
    preemptions += static_cast<double>(fast->requests.preemptions);

    // Conservation, and what the observer adds up to.
    EXPECT_EQ(fast->requests.arrived, fast->requests.completed + fast->requests.rejected);
    EXPECT_EQ(static_cast<int64_t>(collector.finished.size()), fast->requests.completed);
    EXPECT_EQ(static_cast<int64_t>(collector.refused.size()), fast->requests.rejected);
    int64_t outputs = 0, inputs = 0;
    for (const RequestRecord& r : collector.finished) {
      inputs += r.input_tokens;
      outputs += r.output_tokens;
      EXPECT_GE(r.queue, SimTime());
      EXPECT_GT(r.ttft, r.queue);
      EXPECT_GE(r.e2e, r.ttft);
    }
    EXPECT_EQ(inputs, fast->requests.input_tokens);
    EXPECT_EQ(outputs, fast->requests.output_tokens);
    EXPECT_EQ(static_cast<double>(collector.steps.size()), fast->simulation.iterations);
    EXPECT_LE(fast->memory.kv_peak_fraction, 1);
    EXPECT_LE(fast->utilization.stage_busy, 1 + 1e-9);
    double shares = 0;
    for (const auto& [name, share] : fast->bottleneck) shares += share;
    if (fast->requests.completed > 0) {
      EXPECT_NEAR(shares, 1, 1e-9);
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(fast_forwarded, 600);
  // Some sets hardly preempt; the first, which instrumented builds run too, does.
  if (GetParam() == 0) {
    EXPECT_GT(preemptions, 20);
  }
}

INSTANTIATE_TEST_SUITE_P(Random, Scenarios, testing::Range<uint64_t>(0, 12));

// Requests handed in one by one, while time is advanced by whatever steps the caller likes.
TEST(Simulation, SteppingEqualsOneRun) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    std::string yaml = RandomScenario(7000 + seed);
    SCOPED_TRACE(yaml);
    Rng rng(seed, "stepping");
    const auto scenario = ScenarioOf(yaml, {{"workload", "{requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}"}});
    ASSERT_TRUE(scenario.ok());
    std::vector<Submission> requests;
    double at = 0;
    for (int i = 0; i < 60; ++i) {
      if (rng.Below(4) > 0) at += rng.Uniform(0, 0.1);
      Submission s;
      s.at = Seconds(at);
      s.input = Tokens(static_cast<double>(1 + rng.Below(1500)));
      s.output = Tokens(static_cast<double>(1 + rng.Below(100)));
      s.priority = static_cast<int32_t>(rng.Below(3));
      requests.push_back(s);
    }
    const auto whole = Simulation::Create(*scenario);
    ASSERT_TRUE(whole.ok());
    for (const Submission& s : requests) ASSERT_TRUE((*whole)->Submit(s).ok());
    ASSERT_TRUE((*whole)->Drain().ok());

    const auto live = Simulation::Create(*scenario);
    ASSERT_TRUE(live.ok());
    int64_t finished = 0;
    if (seed % 2 == 0) (*live)->OnFinish([&](const RequestRecord&) { ++finished; });
    size_t next = 0;
    while (next < requests.size()) {
      // Submits all that arrive before the point to which time then advances; often exactly one event ahead.
      const SimTime event = (*live)->NextEventTime();
      SimTime target = rng.Below(2) == 0 || event == SimTime::Infinite() ? SimTime::From(Seconds((*live)->now().seconds().value() + rng.Uniform(0, 0.2))) : event;
      while (next < requests.size() && SimTime::From(requests[next].at) <= target) ASSERT_TRUE((*live)->Submit(requests[next++]).ok());
      ASSERT_TRUE((*live)->AdvanceTo(target).ok());
      EXPECT_EQ((*live)->now(), target);
      EXPECT_GT((*live)->NextEventTime(), target);
    }
    ASSERT_TRUE((*live)->Drain().ok());
    EXPECT_EQ((*live)->NextEventTime(), SimTime::Infinite());
    ASSERT_EQ(ResultsOf((*whole)->Snapshot()), ResultsOf((*live)->Snapshot()));
    if (seed % 2 == 0) {
      EXPECT_EQ(finished, (*live)->Snapshot().requests.completed);
    }
    for (const ReplicaLoad& load : (*live)->Loads()) EXPECT_EQ(load.outstanding(), 0);
  }
}

// The same arrivals handed in by a caller and by the workload section: constant gaps of 50 ms.
TEST(Simulation, EqualsSimulateOnTheSameRequests) {
  const std::string yaml = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
plan: {replicas: 2}
workload: {requests: 200, arrivals: {constant: {rate: 20 /s}}, input_tokens: 700, output_tokens: 90}
)";
  const auto scenario = ScenarioOf(yaml);
  Report expected = ReportOf(scenario);
  expected.intervals.clear();   // a caller's own traffic is not known to be like any that was measured
  const auto live = Simulation::Create(*scenario);
  ASSERT_TRUE(live.ok());
  for (int i = 0; i < 200; ++i) {
    Submission s;
    s.at = Seconds(i / 20.0);
    s.input = Tokens(700);
    s.output = Tokens(90);
    ASSERT_TRUE((*live)->Submit(s).ok());
  }
  ASSERT_TRUE((*live)->Drain().ok());
  EXPECT_EQ(ResultsOf((*live)->Snapshot()), ResultsOf(expected));
}

TEST(Simulation, RefusesWhatCannotBe) {
  const auto live = Simulation::Create(ScenarioOf("model: llama-3.1-8b\nhardware: {gpu: h100-sxm-80gb}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}\n"));
  ASSERT_TRUE(live.ok());
  ASSERT_TRUE((*live)->AdvanceTo(Seconds(5)).ok());
  const auto submit = [&](double at, double input, double output) {
    Submission s;
    s.at = Seconds(at);
    s.input = Tokens(input);
    s.output = Tokens(output);
    return (*live)->Submit(s).ok();
  };
  EXPECT_FALSE(submit(4.9, 10, 10));
  EXPECT_FALSE(submit(std::nan(""), 10, 10));
  EXPECT_FALSE(submit(INFINITY, 10, 10));
  EXPECT_FALSE(submit(6, 0, 10));
  EXPECT_FALSE(submit(6, 10, 0));
  EXPECT_FALSE(submit(6, -1, 10));
  EXPECT_FALSE(submit(6, std::nan(""), 10));
  EXPECT_FALSE(submit(6, 1e30, 10));
  EXPECT_TRUE(submit(5, 10, 10));
  // Time that has no end runs everything, and is not taken for a point in time.
  ASSERT_TRUE((*live)->AdvanceTo(SimTime::Infinite()).ok());
  EXPECT_EQ((*live)->Snapshot().requests.completed, 1);
  EXPECT_GT((*live)->now(), Seconds(5));
  EXPECT_FALSE(submit(5, 10, 10));
}

// A closed loop in which nothing can ever run: an error, not a run without end.
TEST(Simulate, ClientsWhoAreOnlyRefusedAreAnError) {
  const char yaml[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: ideal}
workload: {concurrency: 2, duration: 10 s, input_tokens: 200000, output_tokens: 10}
)";
  const auto endless = Simulate(ScenarioOf(yaml));
  ASSERT_FALSE(endless.ok());
  EXPECT_EQ(endless.status().code(), absl::StatusCode::kFailedPrecondition);
  // With time between the requests the run ends, and every request is counted: two clients, ten seconds, one each second.
  const Report r = ReportOf(ScenarioOf(yaml, {{"workload.think_time", "1 s"}}));
  EXPECT_EQ(r.requests.rejected_context_length, 20);
}

// What is fetched back and what is computed again: whichever is faster on this machine.
TEST(Simulate, PreemptionTakesTheFasterWay) {
  const char* const tight = "model: llama-3.1-8b\nhardware: {gpu: h100-sxm-80gb}\nengine: {kv_blocks: 200}\n"
                            "scheduler: {prefix_caching: false}\n"
                            "workload: {concurrency: 10, requests: 60, input_tokens: 800, output_tokens: 500}\n";
  struct Link {
    const char *bandwidth, *faster, *slower;
  };
  for (const Link& link : {Link{"64 GB/s", "swap", "recompute"}, Link{"0.5 GB/s", "recompute", "swap"}}) {
    const auto run = [&](const char* preemption) {
      return ReportOf(ScenarioOf(tight, {{"hardware.host_link_bandwidth", link.bandwidth}, {"scheduler.preemption", preemption}}));
    };
    const Report chosen = run("auto"), good = run(link.faster), bad = run(link.slower);
    EXPECT_GT(chosen.requests.preemptions, 0);
    EXPECT_EQ(chosen.e2e.mean.value(), good.e2e.mean.value()) << link.bandwidth;
    EXPECT_LT(chosen.e2e.mean.value(), bad.e2e.mean.value()) << link.bandwidth;
  }
}

}  // namespace
}  // namespace simrun
