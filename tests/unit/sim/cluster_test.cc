#include "sim/cluster.h"

#include <map>
#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "tests/support/engine_parts.h"

namespace simrun {
namespace {

SimTime Ms(double ms) { return SimTime::From(Seconds(1e-3 * ms)); }

// Times until the first tokens of prompts that come at once, by their place. Steps take 1 us.
std::map<uint64_t, double> FirstTokens(const ClusterParams& given, const std::vector<int64_t>& prompts, bool open_loop) {
  ClusterParams params = given;
  params.engine.limits.max_num_seqs = 8;
  params.engine.limits.max_num_batched_tokens = 10000;
  params.engine.kv_blocks = 10000;
  std::vector<Arrival> arrivals;
  for (const int64_t tokens : prompts) arrivals.push_back(MakeArrival(arrivals.size(), Ms(0), tokens, 1));
  ListSource source(arrivals);
  const auto policy = BuiltInPolicy("orca");
  LinearCost model;
  model.step = 1e-6;
  RunMetrics metrics(Slo{}, SimTime{});
  Cluster cluster(params, *policy, &model, BuiltInRouter("round-robin", 1), &source, &metrics);
  Collector collector;
  cluster.set_observer(&collector);
  EXPECT_TRUE((open_loop ? cluster.RunOpenLoop() : cluster.AdvanceTo(SimTime::Infinite())).ok());
  std::map<uint64_t, double> ttft;
  for (const RequestRecord& r : collector.finished) ttft[r.id] = r.ttft.seconds().value();
  return ttft;
}

TEST(Cluster, AServerTakesOneRequestAfterTheOtherInOrderOfArrival) {
  for (const bool open_loop : {false, true}) {
    ClusterParams params;
    params.front_end = Ms(100);
    std::map<uint64_t, double> ttft = FirstTokens(params, {1000, 10, 10}, open_loop);
    for (const uint64_t id : {0, 1, 2}) EXPECT_NEAR(ttft[id], 0.1, 1e-5) << "passes beside the others'";

    params.front_end_token = Ms(0.01);
    ttft = FirstTokens(params, {1000, 10, 10}, open_loop);
    EXPECT_NEAR(ttft[0], 0.11, 1e-5);
    EXPECT_NEAR(ttft[1], 0.1101, 1e-5) << "behind the long prompt";
    EXPECT_NEAR(ttft[2], 0.1102, 1e-5);

    params.replicas = 2;
    ttft = FirstTokens(params, {1000, 10, 10}, open_loop);
    EXPECT_NEAR(ttft[0], 0.11, 1e-5);
    EXPECT_NEAR(ttft[1], 0.1001, 1e-5) << "by the second server";
    EXPECT_NEAR(ttft[2], 0.1002, 1e-5) << "which is free first";
  }
}

}  // namespace
}  // namespace simrun
