#include "models/expert_load.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "tests/unit/models/testing.h"

namespace simrun {
namespace {

struct Routed {
  double imbalance = 0;  // busiest rank over mean rank
  double active = 0;     // share of experts with a token
};

// The slow, obvious way: draw popularities, route tokens without replacement, count. Mean of `rounds`.
Routed Simulate(int experts, int topk, int ep, int tokens, double cv, int rounds) {
  Rng rng(7, "routing");
  Routed mean;
  std::vector<double> popularity(static_cast<size_t>(experts));
  for (int round = 0; round < rounds; ++round) {
    for (double& p : popularity) p = cv > 0 ? rng.Gamma(1 / (cv * cv), cv * cv) : 1;
    const DiscreteSampler draw(popularity);
    std::vector<int> rank(static_cast<size_t>(ep)), expert(static_cast<size_t>(experts));
    for (int t = 0; t < tokens; ++t) {
      std::vector<size_t> chosen;
      while (chosen.size() < static_cast<size_t>(topk)) {
        const size_t e = draw.Draw(rng);
        if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
      }
      for (const size_t e : chosen) {
        ++expert[e];
        ++rank[e * static_cast<size_t>(ep) / static_cast<size_t>(experts)];
      }
    }
    const double per_rank = static_cast<double>(tokens) * topk / ep;
    mean.imbalance += *std::max_element(rank.begin(), rank.end()) / per_rank / rounds;
    mean.active += static_cast<double>(experts - std::count(expert.begin(), expert.end(), 0)) / experts / rounds;
  }
  return mean;
}

TEST(ExpertImbalance, UniformRouterMatchesSimulation) {
  // The mean of 400 rounds has a standard error below 0.01 here; the expansion is good to a few per cent.
  for (const int tokens : {64, 256, 4096}) {
    for (const int ep : {2, 4, 8, 16}) {
      const double want = Simulate(64, 6, ep, tokens, 0, tokens > 1000 ? 60 : 400).imbalance;
      EXPECT_NEAR(ExpertImbalance(64, 6, ep, tokens, 0), want, 0.03) << tokens << " tokens, ep " << ep;
    }
  }
  // Choices without replacement: with half of the experts chosen the draws are tamer, with all of them they are even.
  EXPECT_NEAR(ExpertImbalance(16, 8, 4, 64, 0), Simulate(16, 8, 4, 64, 0, 400).imbalance, 0.02);
  EXPECT_EQ(ExpertImbalance(8, 8, 4, 3, 0), 1);
  // Independent count in the reference notes: 1.21 at 64 tokens, 1.02 at 4096, EP8, top 6 of 64.
  EXPECT_NEAR(ExpertImbalance(64, 6, 8, 64, 0), 1.21, 0.02);
  EXPECT_NEAR(ExpertImbalance(64, 6, 8, 4096, 0), 1.02, 0.01);
}

TEST(ExpertImbalance, UnevenRouterMatchesSimulation) {
  // Choosing without replacement blunts strong preferences a little (the model does not), hence 8 %.
  for (const double cv : {0.13, 0.5, 0.83}) {
    for (const int ep : {4, 8, 32}) {
      const double want = Simulate(64, 2, ep, 512, cv, 300).imbalance;
      EXPECT_NEAR(ExpertImbalance(64, 2, ep, 512, cv) / want, 1, 0.08) << "cv " << cv << ", ep " << ep;
    }
  }
}

TEST(ExpertImbalance, MatchesMeasuredRoutingOfDeepSeekV2Lite) {
  const auto rows = ReadCsv(DataDir() + "/traces/moe_ep_imbalance_esft_dsv2lite.csv");
  if (rows.empty())
    GTEST_SKIP() << "no traces/moe_ep_imbalance_esft_dsv2lite.csv in " << DataDir() << "; set SIMRUN_DATA_DIR";
  std::map<std::pair<int, int>, std::vector<double>> measured;  // (ep, tokens) -> one value per task
  for (size_t r = 1; r < rows.size(); ++r) {
    measured[{std::stoi(rows[r][1]), std::stoi(rows[r][2])}].push_back(std::stod(rows[r][3]));
  }
  const double cv = Model("deepseek-v2-lite").moe->popularity_cv;
  ASSERT_EQ(measured.size(), 12u);
  for (const auto& [key, values] : measured) {
    double mean = 0;
    for (const double v : values) mean += v / static_cast<double>(values.size());
    EXPECT_NEAR(ExpertImbalance(64, 6, key.first, key.second, cv) / mean, 1, 0.05)
        << "ep " << key.first << ", tokens " << key.second;
  }
}

TEST(ExpertImbalance, CatalogueSpreadsComeFromTheRoutingData) {
  const auto mean_cv = [](const std::string& file, const std::vector<size_t>& group_columns, const std::string& model) {
    const auto rows = ReadCsv(DataDir() + "/traces/" + file);
    std::map<std::string, std::vector<double>> counts;
    for (size_t r = 1; r < rows.size(); ++r) {
      if (!model.empty() && rows[r][0] != model) continue;
      std::string key;
      for (const size_t c : group_columns) key += rows[r][c] + "/";
      counts[key].push_back(std::stod(rows[r].back()));
    }
    double sum = 0;
    for (const auto& [key, values] : counts) {
      double mean = 0, square = 0;
      for (const double v : values) mean += v / static_cast<double>(values.size());
      for (const double v : values) square += (v - mean) * (v - mean) / static_cast<double>(values.size());
      sum += std::sqrt(square) / mean / static_cast<double>(counts.size());
    }
    return sum;
  };
  const double mixtral = mean_cv("moe_popularity_olmoe_repo.csv", {1, 2}, "mixtral-8x7b");
  if (mixtral == 0)
    GTEST_SKIP() << "no traces/moe_popularity_olmoe_repo.csv in " << DataDir() << "; set SIMRUN_DATA_DIR";
  EXPECT_NEAR(Model("mixtral-8x7b").moe->popularity_cv, mixtral, 0.005);
  EXPECT_NEAR(Model("olmoe-1b-7b").moe->popularity_cv, mean_cv("moe_popularity_olmoe_repo.csv", {1, 2}, "olmoe"),
              0.005);
  EXPECT_NEAR(Model("deepseek-v2-lite").moe->popularity_cv, mean_cv("moe_popularity_esft_dsv2lite.csv", {0, 1}, ""),
              0.005);
}

TEST(ExpertImbalance, StaysWithinItsLimits) {
  EXPECT_EQ(ExpertImbalance(64, 6, 1, 100, 0.8), 1);
  EXPECT_EQ(ExpertImbalance(64, 6, 8, 0, 0.8), 1);
  // One token, top 1: everything on one rank.
  EXPECT_LE(ExpertImbalance(8, 1, 8, 1, 0), 8);
  for (const int ep : {2, 8, 64, 256}) {
    double before = 1e9;
    for (int64_t tokens = 1; tokens < 100000; tokens *= 3) {
      const double load = ExpertImbalance(256, 8, ep, tokens, 0.83);
      EXPECT_GE(load, 1);
      EXPECT_LE(load, before) << "more tokens even out the draws";
      before = load;
    }
  }
}

TEST(ActiveExpertShare, UniformIsTheClosedForm) {
  for (const int tokens : {1, 4, 16, 64}) {
    EXPECT_NEAR(ActiveExpertShare(64, 6, tokens, 0), 1 - std::pow(1 - 6.0 / 64, tokens), 1e-12);
  }
  EXPECT_EQ(ActiveExpertShare(8, 8, 1, 0), 1);
  EXPECT_EQ(ActiveExpertShare(8, 2, 0, 0), 0);
  EXPECT_EQ(ActiveExpertShare(128, 8, 1000000, 0.5), 1);
}

TEST(ActiveExpertShare, MatchesSimulationAndMeasurement) {
  for (const double cv : {0.3, 0.83}) {
    for (const int tokens : {4, 16, 64}) {
      EXPECT_NEAR(ActiveExpertShare(64, 6, tokens, cv), Simulate(64, 6, 2, tokens, cv, 400).active, 0.03)
          << cv << " " << tokens;
    }
  }
  // DeepSeek-V2-Lite, mean over four tasks: 42.6 experts by 16 random tokens, 59.7 by 64.
  EXPECT_NEAR(64 * ActiveExpertShare(64, 6, 16, 0.83), 42.6, 1.5);
  EXPECT_NEAR(64 * ActiveExpertShare(64, 6, 64, 0.83), 59.7, 1.5);
}

TEST(RanksPerToken, CountsDistinctRanks) {
  EXPECT_DOUBLE_EQ(RanksPerToken(64, 6, 1), 1);
  EXPECT_NEAR(RanksPerToken(8, 1, 4), 1, 1e-12);
  EXPECT_NEAR(RanksPerToken(8, 8, 4), 4, 1e-12);
  // Two of four experts on two ranks: both on one rank with probability 1/3.
  EXPECT_NEAR(RanksPerToken(4, 2, 2), 1.0 / 3 + 2 * 2.0 / 3, 1e-12);
  // One expert per rank: as many ranks as experts chosen.
  EXPECT_NEAR(RanksPerToken(256, 8, 256), 8, 1e-9);
}

}  // namespace
}  // namespace simrun
