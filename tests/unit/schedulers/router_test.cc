#include "schedulers/router.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace simrun {
namespace {

std::unique_ptr<Router> Make(const char* name, uint64_t seed = 1) { return (*BuiltInRouters().Find(name))(Rng(seed, "router")); }

TEST(RoundRobin, EachInTurn) {
  const auto router = Make("round-robin");
  const std::vector<ReplicaLoad> loads(3);
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(router->Route(loads), i % 3);
  EXPECT_FALSE(router->needs_load());
}

TEST(LeastOutstanding, TheFewestAndOnATieTheFirst) {
  const auto router = Make("least-outstanding");
  EXPECT_TRUE(router->needs_load());
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{5, 0}, {1, 3}, {0, 6}}), 1u);
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{2, 2}, {1, 3}, {0, 3}, {3, 0}}), 2u);
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{0, 0}}), 0u);
}

TEST(RandomRouter, EvenlyOverTheReplicas) {
  const auto router = Make("random");
  EXPECT_FALSE(router->needs_load());
  const std::vector<ReplicaLoad> loads(8);
  std::vector<double> count(8);
  constexpr double kDraws = 80000;
  for (int i = 0; i < kDraws; ++i) ++count[router->Route(loads)];
  double chi2 = 0;
  for (const double c : count) chi2 += (c - kDraws / 8) * (c - kDraws / 8) / (kDraws / 8);
  // 7 degrees of freedom: P(chi2 > 40.5) = 1.0e-6. The seed is fixed, so a failure means a change of the code.
  EXPECT_LT(chi2, 40.5);
}

TEST(PowerOfTwo, TheLessLoadedOfTwoDifferentOnes) {
  // The k-th least loaded of five wins against each busier one: of the 10 pairs 4 - k. The busiest wins none.
  const auto router = Make("power-of-two");
  const std::vector<ReplicaLoad> loads{{4, 0}, {2, 1}, {0, 2}, {1, 0}, {0, 0}};   // busiest first
  std::vector<double> count(5);
  constexpr double kDraws = 50000;
  for (int i = 0; i < kDraws; ++i) ++count[router->Route(loads)];
  EXPECT_EQ(count[0], 0);
  double chi2 = 0;
  for (size_t k = 0; k < 4; ++k) {
    const double expected = kDraws * static_cast<double>(4 - k) / 10;
    chi2 += (count[4 - k] - expected) * (count[4 - k] - expected) / expected;
  }
  EXPECT_LT(chi2, 30.7);  // 3 degrees of freedom: P = 1.0e-6
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{9, 9}}), 0u);
}

TEST(PrefixAffinity, TheReplicaThatHasMostOfThePromptUnlessItIsFarBehind) {
  const auto router = Make("prefix-affinity");
  EXPECT_TRUE(router->needs_load());
  EXPECT_TRUE(router->needs_cached_share());
  // waiting, running, share of the prompt
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{0, 1, 0}, {9, 9, 0.4}, {3, 3, 0.8}}), 2u);
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{0, 1, 0}, {9, 9, 0.8}, {3, 3, 0.8}}), 2u);   // the less loaded of two
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{2, 1, 0}, {0, 2, 0}, {3, 3, 0.3}}), 1u);     // too little
  // 64 more are even enough; 65 more are not, unless that is less than half as many again.
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{0, 10, 0}, {64, 10, 0.9}}), 1u);
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{0, 10, 0}, {65, 10, 0.9}}), 0u);
  EXPECT_EQ(router->Route(std::vector<ReplicaLoad>{{0, 200, 0}, {65, 200, 0.9}}), 1u);
}

// n balls into n bins: the fullest bin holds about ln n / ln ln n balls with one choice, log2 ln n with two
// (Mitzenmacher, 2001): for 10000, at least 5 and at most 4 in all but one of many thousand runs.
TEST(PowerOfTwo, KeepsTheFullestReplicaFarBelowRandom) {
  const auto fullest = [](const char* name) {
    const auto router = Make(name, 5);
    std::vector<ReplicaLoad> loads(10000);
    for (int i = 0; i < 10000; ++i) ++loads[router->Route(loads)].waiting;
    int64_t most = 0;
    for (const ReplicaLoad& l : loads) most = std::max(most, l.waiting);
    return most;
  };
  EXPECT_GE(fullest("random"), 5);
  EXPECT_LE(fullest("power-of-two"), 4);
}

TEST(Routers, TheSameSeedMakesTheSameChoices) {
  for (const char* name : {"random", "power-of-two"}) {
    const auto a = Make(name, 3), b = Make(name, 3), c = Make(name, 4);
    const std::vector<ReplicaLoad> loads(16);
    std::vector<size_t> from_a, from_b, from_c;
    for (int i = 0; i < 50; ++i) {
      from_a.push_back(a->Route(loads));
      from_b.push_back(b->Route(loads));
      from_c.push_back(c->Route(loads));
    }
    EXPECT_EQ(from_a, from_b) << name;
    EXPECT_NE(from_a, from_c) << name;
  }
}

}  // namespace
}  // namespace simrun
