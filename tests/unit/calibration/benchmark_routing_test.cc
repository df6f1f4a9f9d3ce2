#include "calibration/benchmark_routing.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace simrun {
namespace {

TEST(BenchmarkRoutingTest, BalancedTokensMeetEveryRankAlike) {
  // 1024 tokens x 8 of 128 experts on 16 ranks.
  const RankLoad load = LoadOfTimedRank({1024, 128, 8, 16, 0, false});
  EXPECT_EQ(load.rows, 512);
  EXPECT_EQ(load.active, 8);
  EXPECT_EQ(load.peak, 64);   // all alike
}

TEST(BenchmarkRoutingTest, BalancedTokensFewerThanExpertsAreCounted) {
  // One token goes to experts 0, 16, 32, ...: rank 0 of 64 holds experts 0 and 1.
  const RankLoad one = LoadOfTimedRank({1, 128, 8, 64, 0, false});
  EXPECT_EQ(one.rows, 1);
  EXPECT_EQ(one.active, 1);
  // 16 tokens t go to t, t + 16, ...: rank 0 of 8 holds 0 to 15, each hit once.
  const RankLoad sixteen = LoadOfTimedRank({16, 128, 8, 8, 0, false});
  EXPECT_EQ(sixteen.rows, 16);
  EXPECT_EQ(sixteen.active, 16);
  EXPECT_EQ(sixteen.peak, 1);
}

TEST(BenchmarkRoutingTest, LeftoversOfOneTokenGoToOneRankOrToAll) {
  // 22 rows on 512 experts round to nothing each. Older measurements put them all on the first experts, which lie on
  // one rank; newer ones deal them out to the 16 ranks in turn, so that some get two.
  const RankLoad old = LoadOfTimedRank({1, 512, 22, 16, 1.2, true});
  EXPECT_EQ(old.rows, 22);
  EXPECT_EQ(old.active, 22);
  const RankLoad dealt = LoadOfTimedRank({1, 512, 22, 16, 1.2, false});
  EXPECT_EQ(dealt.rows, 2);
  EXPECT_EQ(dealt.active, 2);
}

TEST(BenchmarkRoutingTest, PowerLawLoadsLieBetweenEvenAndEverything) {
  for (const int64_t tokens : {1, 7, 64, 1000, 65536}) {
    for (const int ep : {1, 2, 8, 32}) {
      for (const bool popular : {false, true}) {
        const double rows = static_cast<double>(tokens * 8);
        const RankLoad load = LoadOfTimedRank({tokens, 128, 8, ep, 1.01, popular});
        EXPECT_GE(load.rows, rows / ep * 0.999) << tokens << " tokens on " << ep;   // the busiest
        EXPECT_LE(load.rows, rows * 1.001);
        EXPECT_LE(load.active, std::min(load.rows + 1e-9, 128.0 / ep));
        EXPECT_GE(load.active, std::min(1.0, load.rows));
        EXPECT_GE(load.peak, load.rows / load.active * 0.999);   // the busiest expert has at least the mean
        EXPECT_LE(load.peak, static_cast<double>(tokens));       // a token chooses an expert once
      }
    }
  }
  // All rows stay when there is one rank.
  EXPECT_NEAR(LoadOfTimedRank({1000, 128, 8, 1, 1.2, false}).rows, 8000, 1e-6);
  // A steeper law is less even, between ranks and within one.
  EXPECT_GT(LoadOfTimedRank({4096, 128, 8, 1, 1.2, false}).peak, 1.2 * LoadOfTimedRank({4096, 128, 8, 1, 1.01, false}).peak);
  EXPECT_GT(LoadOfTimedRank({4096, 128, 8, 8, 2, false}).rows, LoadOfTimedRank({4096, 128, 8, 8, 1.01, false}).rows);
}

}  // namespace
}  // namespace simrun
