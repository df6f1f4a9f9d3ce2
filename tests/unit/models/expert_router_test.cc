#include "models/expert_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "models/expert_load.h"

namespace simrun {
namespace {

constexpr int kLayers = 6, kExperts = 64, kTopK = 6;

RoutingLaw Law(std::vector<std::vector<double>> popularity, double repeat = 0, double memory = 1, double affinity = 0) {
  return {kTopK, std::move(popularity), repeat, memory, affinity};
}

std::vector<std::vector<double>> Measured(ExpertRouter& router, int steps, int64_t decodes, int64_t prefill) {
  std::vector<std::vector<double>> share(static_cast<size_t>(router.layers()), std::vector<double>(static_cast<size_t>(router.experts()), 0.0));
  for (int s = 0; s < steps; ++s) {
    router.Begin(decodes, prefill);
    for (int l = 0; l < router.layers(); ++l) {
      const std::span<const uint32_t> counts = router.Layer(l);
      uint64_t sum = 0;
      for (size_t e = 0; e < counts.size(); ++e) {
        share[static_cast<size_t>(l)][e] += counts[e];
        sum += counts[e];
        EXPECT_LE(counts[e], static_cast<uint32_t>(decodes + prefill));  // a token chooses an expert once
      }
      EXPECT_EQ(sum, static_cast<uint64_t>(decodes + prefill) * kTopK);  // every choice is made
    }
  }
  for (auto& layer : share) {
    for (double& s : layer) s /= static_cast<double>(steps) * static_cast<double>(decodes + prefill);
  }
  return share;
}

// Shares agree with the law's within 5 standard errors (false alarm: 384 experts x 6e-7, the spread widened for
// correlated tokens), and 2 % of bias for experts that nearly every token chooses.
void ExpectShares(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& law, double tokens, double spread) {
  for (size_t l = 0; l < law.size(); ++l) {
    for (size_t e = 0; e < law[l].size(); ++e) {
      const double error = 5 * std::sqrt(spread * law[l][e] / tokens) + 0.02 * law[l][e] + 0.002;
      EXPECT_NEAR(got[l][e], law[l][e], error) << l << " " << e;
    }
  }
}

TEST(ExpertRouterTest, ChoicesFollowThePopularities) {
  const auto popularity = GammaPopularity(kLayers, kExperts, kTopK, 0.83, Rng(1, "popularity"));
  for (const auto& layer : popularity) EXPECT_NEAR(std::accumulate(layer.begin(), layer.end(), 0.0), kTopK, 1e-9);
  EXPECT_NEAR(PopularityCv(popularity), 0.83, 0.12);
  auto drawn = MakeLawRouter(Law(popularity), Rng(1, "routing"));
  ExpectShares(Measured(*drawn, 500, 16, 20), popularity, 500 * 36, 1);
  auto counted = MakeLawRouter(Law(popularity), Rng(2, "routing"));
  ExpectShares(Measured(*counted, 100, 0, 2000), popularity, 100 * 2000, 1);
}

TEST(ExpertRouterTest, CorrelationLeavesPopularityAlone) {
  const auto popularity = ZipfPopularity(kLayers, kExperts, kTopK, 0.6, Rng(1, "popularity"));
  auto router = MakeLawRouter(Law(popularity, 0.2, 0.5, 0.24), Rng(1, "routing"));
  ExpectShares(Measured(*router, 2000, 16, 0), popularity, 2000 * 16, 2);
}

// One sequence: agreement of tokens d apart is chance + r_d (1 - chance), r_d as in the header.
TEST(ExpertRouterTest, TokensAgreeAsTheLawSays) {
  const double repeat = 0.3, memory = 0.5;
  const auto popularity = UniformPopularity(1, kExperts, kTopK);
  auto router = MakeLawRouter(Law(popularity, repeat, memory), Rng(1, "routing"));
  std::vector<std::vector<uint32_t>> tokens;
  for (int i = 0; i < 40000; ++i) {
    router->Begin(1, 0);
    const auto counts = router->Layer(0);
    tokens.emplace_back(counts.begin(), counts.end());
  }
  const double chance = static_cast<double>(kTopK) / kExperts;
  for (int d = 1; d <= 4; ++d) {
    double same = 0;
    for (size_t i = static_cast<size_t>(d); i < tokens.size(); ++i) {
      for (size_t e = 0; e < kExperts; ++e) same += tokens[i][e] * tokens[i - static_cast<size_t>(d)][e];
    }
    same /= static_cast<double>(tokens.size() - static_cast<size_t>(d)) * kTopK;
    const double r = repeat * (memory + (1 - memory) * repeat) * std::pow(1 - memory * (1 - repeat), d - 1);
    // 240,000 choices: the standard error is below 0.001. A token has (k - 1)/2 of 64 choices behind it on average, which
    // takes 4 % or more of the repetitions.
    EXPECT_NEAR(same, chance + 0.96 * r * (1 - chance), 0.006) << d;
  }
}

TEST(ExpertRouterTest, ChoicesFollowTheLayerBefore) {
  // Equal popularities: partners have the same number.
  auto router = MakeLawRouter(Law(UniformPopularity(2, kExperts, kTopK), 0, 1, 0.4), Rng(1, "routing"));
  double same = 0;
  for (int i = 0; i < 20000; ++i) {
    router->Begin(1, 0);
    const auto first = router->Layer(0);
    const std::vector<uint32_t> before(first.begin(), first.end());
    const auto second = router->Layer(1);
    for (size_t e = 0; e < kExperts; ++e) same += before[e] * second[e];
  }
  const double chance = static_cast<double>(kTopK) / kExperts;
  EXPECT_NEAR(same / (20000 * kTopK), chance + 0.96 * 0.4 * (1 - chance), 0.006);
}

// The experts placed in order on 8 ranks: the busiest has 1.5 times the mean with the popularity measured for
// DeepSeek-V2-Lite, 1.02 with a uniform router, and expert_load.h expects the same.
TEST(ExpertRouterTest, ImbalanceOfExpertParallelRanks) {
  const auto imbalance = [](double cv, int64_t tokens) {
    double sum = 0;
    int n = 0;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      auto router = MakeLawRouter(Law(GammaPopularity(26, kExperts, kTopK, cv, Rng(seed, "popularity"))), Rng(seed, "routing"));
      router->Begin(0, tokens);
      for (int l = 0; l < router->layers(); ++l, ++n) {
        const auto counts = router->Layer(l);
        uint32_t most = 0;
        for (size_t r = 0; r < 8; ++r) most = std::max(most, std::accumulate(counts.begin() + static_cast<std::ptrdiff_t>(8 * r), counts.begin() + static_cast<std::ptrdiff_t>(8 * r + 8), 0u));
        sum += 8.0 * most / static_cast<double>(tokens * kTopK);
      }
    }
    return sum / n;
  };
  // 520 layers; the spread of one is about 0.2.
  EXPECT_NEAR(imbalance(0.83, 4096), 1.47, 0.05);
  EXPECT_NEAR(imbalance(0.83, 4096), ExpertImbalance(kExperts, kTopK, 8, 4096, 0.83), 0.05);
  EXPECT_NEAR(imbalance(0, 4096), 1.02, 0.01);
  EXPECT_NEAR(imbalance(0, 64), ExpertImbalance(kExperts, kTopK, 8, 64, 0), 0.03);
}

TEST(ExpertRouterTest, CloneMakesTheSameChoices) {
  auto a = MakeLawRouter(Law(UniformPopularity(kLayers, kExperts, kTopK), 0.2, 0.5, 0.2), Rng(1, "routing"));
  Measured(*a, 3, 5, 200);
  auto b = a->Clone();
  for (int i = 0; i < 5; ++i) {
    a->Begin(4 + i, 100);
    b->Begin(4 + i, 100);
    for (int l = 0; l < kLayers; ++l) {
      const auto x = a->Layer(l), y = b->Layer(l);
      ASSERT_TRUE(std::equal(x.begin(), x.end(), y.begin()));
    }
  }
}

TEST(ExpertRouterTest, RecordingIsReadTokenByToken) {
  // Two sequences, 2 and 3 tokens, one layer, one expert per token: 0 1 | 2 3 4.
  auto recording = std::make_shared<ExpertRecording>(ExpertRecording{1, 5, 1, {0, 2, 5}, {0, 1, 2, 3, 4}});
  EXPECT_EQ(PopularityOf(*recording)[0], (std::vector<double>{0.2, 0.2, 0.2, 0.2, 0.2}));
  auto router = MakeRecordedRouter(recording, Rng(1, "routing"));
  int last = -1;
  for (int i = 0; i < 50; ++i) {
    router->Begin(1, 0);
    const auto counts = router->Layer(0);
    const int e = static_cast<int>(std::max_element(counts.begin(), counts.end()) - counts.begin());
    if (last == -1 || last == 1 || last == 4) {
      EXPECT_TRUE(e == 0 || e == 2) << last;
    } else {
      EXPECT_EQ(e, last + 1);
    }
    last = e;
  }
  // A prompt longer than the recording: whole rounds and a part.
  router->Begin(0, 12);
  const auto counts = router->Layer(0);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0u), 12u);
  for (const uint32_t c : counts) EXPECT_TRUE(c == 2 || c == 3);
}

TEST(ExpertRouterTest, SharesNeverExceedOneToken) {
  const std::vector<double> weights = {1000, 10, 1, 1, 1, 1};
  const std::vector<double> shares = SharesOf(weights, 2);
  EXPECT_LE(*std::max_element(shares.begin(), shares.end()), 0.98);
  EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), 2, 1e-9);
}

}  // namespace
}  // namespace simrun
