// Closed forms of queueing theory, met by whole runs. Step times are constants given to Simulate, so that the theory
// applies exactly; what differs is sampling error, for which each test states its margin. Seeds are fixed.
#include <cmath>

#include "gtest/gtest.h"
#include "sim/cluster.h"
#include "tests/support/engine_parts.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

// One sequence at a time, one output token: a single server with constant service time D = 10 ms.
constexpr double kService = 0.01;
const char kOneServer[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: ideal}
scheduler: {policy: prefill-first, max_num_seqs: 1}
workload: {requests: 1000000, arrivals: {poisson: {rate: 50 /s}}, input_tokens: 10, output_tokens: 1}
)";

LinearCost Constant(double seconds, int stages = 1) {
  LinearCost cost(stages);
  cost.step = seconds;
  return cost;
}

// Pollaczek-Khinchine for constant service: W = rho D / (2 (1 - rho)). At rho = 0.5 the wait has mean D/2 and standard
// deviation 0.76 D; neighbours are correlated over about 10 requests, so the mean of a million has a standard error of
// 0.5 %: 2 % are four of them.
TEST(MD1, MeanWaitAtHalfLoad) {
  LinearCost cost = Constant(kService);
  const Report r = ReportOf(ScenarioOf(kOneServer), &cost);
  EXPECT_EQ(r.requests.completed, 1000000);
  EXPECT_NEAR(r.queue_delay.mean.value() / (0.5 * kService / (2 * 0.5)), 1, 0.02);
  EXPECT_NEAR(r.ttft.mean.value() - r.queue_delay.mean.value(), kService, 1e-9);
  EXPECT_NEAR(r.utilization.engine_busy, 0.5, 0.005);
}

TEST(MD1, MeanWaitAtEightTenths) {
  LinearCost cost = Constant(kService);
  const Report r = ReportOf(ScenarioOf(kOneServer, {{"workload.arrivals", "{poisson: {rate: 80 /s}}"}}), &cost);
  // The correlation grows as 1/(1 - rho)^2: standard error 1.2 %.
  EXPECT_NEAR(r.queue_delay.mean.value() / (0.8 * kService / (2 * 0.2)), 1, 0.05);
}

// A Poisson stream dealt out at random is Poisson at each of four engines; dealt in turn, it is more regular (Erlang-4
// gaps) and waits less.
TEST(MD1, RandomSplittingKeepsPoissonAndTurnsAreMoreRegular) {
  LinearCost cost = Constant(kService);
  const auto with = [&](const char* router) {
    return ReportOf(ScenarioOf(kOneServer, {{"workload.arrivals", "{poisson: {rate: 200 /s}}"}, {"plan.replicas", "4"},
                                       {"scheduler.router", router}}), &cost).queue_delay.mean.value();
  };
  EXPECT_NEAR(with("random") / (0.5 * kService / (2 * 0.5)), 1, 0.02);
  EXPECT_LT(with("round-robin"), 0.6 * with("random"));
  EXPECT_LT(with("power-of-two"), 0.6 * with("random"));
  EXPECT_LT(with("least-outstanding"), with("power-of-two"));
}

// Priorities without interruption (Cobham, 1954): with R = lambda D^2 / 2 the mean residual service,
// W0 = R / (1 - rho0), W1 = R / ((1 - rho0) (1 - rho)).
TEST(Priorities, CobhamsWaits) {
  struct ByPriority final : Collector {
    void OnFinish(const RequestRecord& r) override {
      const size_t p = priority->at(r.id);
      wait[p] += r.queue.seconds().value();
      ++count[p];
    }
    const std::vector<uint8_t>* priority = nullptr;
    double wait[2] = {0, 0}, count[2] = {0, 0};
  };
  Rng rng(11, "priorities");
  std::vector<Arrival> arrivals;
  std::vector<uint8_t> priority;
  double at = 0;
  for (uint64_t i = 0; i < 600000; ++i) {
    at += rng.Exponential(1 / 70.0);
    arrivals.push_back(MakeArrival(i, SimTime::From(Seconds(at)), 10, 1));
    arrivals.back().priority = static_cast<int32_t>(rng.Below(2));
    priority.push_back(static_cast<uint8_t>(arrivals.back().priority));
  }
  const auto waits = [&](QueueOrder order, double out[2]) {
    ClusterParams params;
    params.engine.limits.max_num_seqs = 1;
    params.engine.kv_blocks = 100;
    params.engine.queue_order = order;
    LinearCost cost = Constant(kService);
    RunMetrics metrics(Slo{}, SimTime());
    ListSource source(arrivals);
    const auto policy = BuiltInPolicy("prefill-first");
    Cluster cluster(params, *policy, &cost, BuiltInRouter("round-robin"), &source, &metrics);
    ByPriority observer;
    observer.priority = &priority;
    cluster.set_observer(&observer);
    ASSERT_TRUE(cluster.AdvanceTo(SimTime::Infinite()).ok());
    for (int p = 0; p < 2; ++p) out[p] = observer.wait[p] / observer.count[p];
  };
  const double residual = 70 * kService * kService / 2;
  double wait[2], fcfs[2];
  waits(QueueOrder::kPriority, wait);
  waits(QueueOrder::kFcfs, fcfs);
  EXPECT_NEAR(wait[0] / (residual / (1 - 0.35)), 1, 0.02);
  EXPECT_NEAR(wait[1] / (residual / ((1 - 0.35) * (1 - 0.7))), 1, 0.04);
  EXPECT_LT(wait[0], 0.5 * fcfs[0]);
  // The order does not change how much waiting there is: the mean over both is that of first come, first served.
  EXPECT_NEAR((wait[0] + wait[1]) / (fcfs[0] + fcfs[1]), 1, 0.01);
}

// L = lambda W for a batching engine: requests in the system, looked at 200000 times, against arrival rate times E2E.
TEST(LittlesLaw, RequestsInTheSystem) {
  Rng rng(5, "little");
  std::vector<Arrival> arrivals;
  double at = 0;
  for (uint64_t i = 0; i < 40000; ++i) {
    at += rng.Exponential(0.02);
    arrivals.push_back(MakeArrival(i, SimTime::From(Seconds(at)), 1 + static_cast<int64_t>(rng.Below(400)), 1 + static_cast<int64_t>(rng.Below(60))));
  }
  ClusterParams params;
  params.engine.limits = {.max_num_seqs = 64, .max_num_batched_tokens = 512, .block_size = 16, .watermark_blocks = 0};
  params.engine.kv_blocks = 1200;
  params.replicas = 2;
  LinearCost cost;
  cost.step = 0.004;
  cost.token = 2e-5;
  cost.kv = 2e-7;
  RunMetrics metrics(Slo{}, SimTime());
  ListSource source(arrivals);
  const auto policy = BuiltInPolicy("chunked-prefill");
  Cluster cluster(params, *policy, &cost, BuiltInRouter("round-robin"), &source, &metrics);
  double in_system = 0;
  int looks = 0;
  for (double t = 0.002; t < at; t += at / 200000) {
    ASSERT_TRUE(cluster.AdvanceTo(SimTime::From(Seconds(t))).ok());
    for (const auto& r : cluster.replicas()) in_system += static_cast<double>(r->load().outstanding());
    ++looks;
  }
  ASSERT_TRUE(cluster.AdvanceTo(SimTime::Infinite()).ok());
  const double little = static_cast<double>(arrivals.size()) / at * metrics.e2e().Mean().value();
  EXPECT_GT(little, 5);
  EXPECT_NEAR(in_system / looks / little, 1, 0.02);
}

// Work conserved and order changed: the shortest of the waiting first lowers the mean wait (Schrage, 1968), the soonest
// deadline first meets more deadlines than first come, first served while the load is below 1.
struct Outcome {
  double wait = 0, met = 0;
};
Outcome RunOrder(QueueOrder order) {
  Rng rng(21, "orders");
  struct Watch final : EngineObserver {
    void OnFinish(const RequestRecord& r) override {
      wait += r.queue.seconds().value();
      met += r.arrival + r.e2e <= deadline->at(r.id);
    }
    const std::vector<SimTime>* deadline = nullptr;
    double wait = 0, met = 0;
  } watch;
  std::vector<Arrival> arrivals;
  std::vector<SimTime> deadline;
  double at = 0;
  constexpr uint64_t kCount = 50000;
  for (uint64_t i = 0; i < kCount; ++i) {
    at += rng.Exponential(1 / 80.0);
    // 41 ms or 1 ms: 9 ms on average, load 0.72.
    Arrival a = MakeArrival(i, SimTime::From(Seconds(at)), rng.Below(5) == 0 ? 410 : 10, 1);
    a.deadline = a.at + SimTime::From(Seconds(rng.Below(2) == 0 ? 0.1 : 0.6));
    deadline.push_back(a.deadline);
    arrivals.push_back(a);
  }
  ClusterParams params;
  params.engine.limits.max_num_seqs = 1;
  params.engine.kv_blocks = 100;
  params.engine.queue_order = order;
  LinearCost cost;
  cost.token = 1e-4;
  RunMetrics metrics(Slo{}, SimTime());
  ListSource source(arrivals);
  const auto policy = BuiltInPolicy("prefill-first");
  Cluster cluster(params, *policy, &cost, BuiltInRouter("round-robin"), &source, &metrics);
  watch.deadline = &deadline;
  cluster.set_observer(&watch);
  EXPECT_TRUE(cluster.AdvanceTo(SimTime::Infinite()).ok());
  return {watch.wait / kCount, watch.met / kCount};
}

TEST(QueueOrders, ShortestJobWaitsLessAndEarliestDeadlineMeetsMore) {
  const Outcome fcfs = RunOrder(QueueOrder::kFcfs), shortest = RunOrder(QueueOrder::kShortestJob),
                deadline = RunOrder(QueueOrder::kEarliestDeadline);
  // Pollaczek-Khinchine: W = lambda E[S^2] / (2 (1 - rho)), E[S^2] = 0.8 * 1e-6 + 0.2 * 1681e-6.
  EXPECT_NEAR(fcfs.wait / (80 * (0.8e-6 + 0.2 * 1681e-6) / (2 * (1 - 0.72))), 1, 0.08);
  EXPECT_LT(shortest.wait, 0.6 * fcfs.wait);
  EXPECT_GT(deadline.met, fcfs.met + 0.05);
}

const char kLoad[] = R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: ideal}
scheduler: {policy: prefill-first, max_num_seqs: 1}
workload: {requests: 4000, arrivals: {poisson: {rate: 70 /s}}, input_tokens: 10, output_tokens: 1}
)";

TEST(Saturation, WarnedOfAtALoadOf1p3AndNotAt0p7) {
  for (const int seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
    for (const auto& [rate, saturated] : {std::pair<const char*, bool>{"70 /s", false}, {"130 /s", true}}) {
      LinearCost cost = Constant(kService);
      const Report r = ReportOf(ScenarioOf(kLoad, {{"seed", std::to_string(seed)}, {"workload.arrivals", std::string("{poisson: {rate: ") + rate + "}}"}}), &cost);
      EXPECT_EQ(Warns(r, "saturated"), saturated) << rate << " seed " << seed;
      // Beyond saturation the engine gives what it can: 100 requests/s.
      if (saturated) {
        EXPECT_NEAR(r.throughput.requests_per_s, 100, 0.5);
      }
    }
  }
}

TEST(WarmUp, LeavesOutRequestsAndNothingElse) {
  LinearCost cost = Constant(kService);
  const Report all = ReportOf(ScenarioOf(kLoad, {{"workload.arrivals", "{constant: {rate: 50 /s}}"}}), &cost);
  const Report after = ReportOf(ScenarioOf(kLoad, {{"workload.arrivals", "{constant: {rate: 50 /s}}"}, {"metrics.warmup", "20 s"}}), &cost);
  EXPECT_EQ(all.ttft.count, 4000);
  EXPECT_EQ(after.ttft.count, 3000);   // arrivals at 0.02 s x i: 1000 of them before 20 s
  EXPECT_EQ(after.requests.completed, 4000);
  // The span counts from the end of the warm-up: 3000 requests from 20 s to 79.99 s.
  EXPECT_NEAR(after.throughput.requests_per_s, 3000 / 59.99, 1e-9);
  EXPECT_EQ(after.energy.total.value(), all.energy.total.value());
}

}  // namespace
}  // namespace simrun
