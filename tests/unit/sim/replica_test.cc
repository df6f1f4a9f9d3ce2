#include "sim/replica.h"

#include <map>
#include <utility>

#include "gtest/gtest.h"
#include "tests/support/engine_parts.h"

namespace simrun {
namespace {

// Steps of 10 ms of the GPU; launching one takes the host 2 ms, and 8 ms when it has prompts, of which it may have begun
// early what the step before left it.
struct HostedCost final : public StepCostModel {
  int stages() const override { return 1; }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override {
    const double host = ranks[0].chunks.empty() ? 2e-3 : 8e-3;
    leads.push_back(cost->lead);
    cost->launched_late = host;
    cost->ahead = 10e-3 - host;
    cost->stage_seconds[0] = 10e-3;
    cost->dynamic_joules = 0;
    cost->bound_seconds = {};
  }
  std::vector<double> leads;
};

SimTime Ms(double ms) { return SimTime::From(Seconds(1e-3 * ms)); }

EngineParams SmallEngine() {
  EngineParams params;
  params.limits.max_num_seqs = 8;
  params.limits.max_num_batched_tokens = 100;
  params.limits.block_size = 16;
  params.kv_blocks = 1000;
  return params;
}

std::vector<RequestRecord> Finished(bool holds_tokens, std::vector<double>* leads) {
  EngineParams params = SmallEngine();
  params.holds_tokens = holds_tokens;
  const auto policy = BuiltInPolicy("orca");
  HostedCost model;
  RunMetrics metrics(Slo{}, SimTime{});
  Replica engine(0, params, *policy, &model, &metrics);
  Collector collector;
  engine.set_observer(&collector);
  // Two prompts of which one fits into a step, then, when the engine has been idle, a third.
  EXPECT_TRUE(engine.Enqueue(MakeArrival(0, Ms(0), 80, 5)));
  EXPECT_TRUE(engine.Enqueue(MakeArrival(1, Ms(0), 80, 5)));
  engine.Issue(Ms(0));
  engine.Run(Ms(500));
  EXPECT_TRUE(engine.idle());
  EXPECT_TRUE(engine.Enqueue(MakeArrival(2, Ms(500), 80, 2)));
  engine.Issue(Ms(500));
  engine.Run(SimTime::Infinite());
  *leads = model.leads;
  // The gaps of a request add up to what is between its first and its last token.
  double gaps = 0;
  for (const RequestRecord& r : collector.finished) gaps += (r.e2e - r.ttft).seconds().value();
  EXPECT_NEAR(metrics.itl().Mean().value() * 9, gaps, 1e-9) << "4, 4 and 1 gaps";
  return collector.finished;
}

TEST(Replica, FirstTokensLeaveOnceTheNextStepIsLaunched) {
  std::vector<double> leads;
  std::vector<RequestRecord> r = Finished(false, &leads);
  ASSERT_EQ(r.size(), 3u);
  EXPECT_EQ(r[0].ttft, Ms(10));
  EXPECT_EQ(r[1].ttft, Ms(20));
  // Each step tells the next how far ahead the host was; after a pause the GPU waits for all of it.
  ASSERT_EQ(leads.size(), 8u);
  EXPECT_EQ(leads[0], 0);
  EXPECT_NEAR(leads[1], 2e-3, 1e-12);
  EXPECT_NEAR(leads[2], 2e-3, 1e-12);
  EXPECT_NEAR(leads[3], 8e-3, 1e-12);
  EXPECT_EQ(leads[6], 0);

  r = Finished(true, &leads);
  EXPECT_EQ(r[0].ttft, Ms(10 + 8)) << "another prompt is launched first";
  EXPECT_EQ(r[0].e2e, Ms(50)) << "what comes later is not held";
  EXPECT_EQ(r[0].tpot, SimTime::FromTicks(Ms(50 - 18).ticks() / 4));
  EXPECT_EQ(r[1].ttft, Ms(20 + 2));
  EXPECT_EQ(r[2].ttft, Ms(10 + 2));
}

// Steps of 10 ms. What comes while one runs joins the next, or the one after that where the next was planned when it began.
TEST(Replica, StepsThatArePlannedAheadMissWhatComesLater) {
  const auto first_tokens = [](bool plans_ahead, bool fast_forward) {
    EngineParams params = SmallEngine();
    params.plans_ahead = plans_ahead;
    params.fast_forward = fast_forward;
    const auto policy = BuiltInPolicy("chunked-prefill");
    HostedCost model;
    RunMetrics metrics(Slo{}, SimTime{});
    Replica engine(0, params, *policy, &model, &metrics);
    Collector collector;
    engine.set_observer(&collector);
    // Into an idle engine, in the middle of its step, and at the very end of one; all of them leave, then one more.
    for (const auto& [at, tokens] : {std::pair(0.0, 40), std::pair(35.0, 2), std::pair(70.0, 2), std::pair(1003.0, 2)}) {
      engine.Run(Ms(at));
      if (engine.next_event() == Ms(at)) engine.Complete(Ms(at));
      EXPECT_TRUE(engine.Enqueue(MakeArrival(static_cast<uint64_t>(at), Ms(at), 20, tokens)));
      if (engine.next_event() == SimTime::Infinite()) engine.Issue(Ms(at));
    }
    engine.Run(SimTime::Infinite());
    std::map<uint64_t, SimTime> ttft;
    for (const RequestRecord& r : collector.finished) ttft[r.id] = r.ttft;
    return ttft;
  };
  const std::map<uint64_t, SimTime> at_once = {{0, Ms(10)}, {35, Ms(15)}, {70, Ms(10)}, {1003, Ms(10)}};
  const std::map<uint64_t, SimTime> ahead = {{0, Ms(10)}, {35, Ms(25)}, {70, Ms(20)}, {1003, Ms(10)}};
  for (const bool fast_forward : {false, true}) {
    EXPECT_EQ(first_tokens(false, fast_forward), at_once);
    EXPECT_EQ(first_tokens(true, fast_forward), ahead);
  }
}

}  // namespace
}  // namespace simrun
