#include "schedulers/expert_cache.h"

#include <algorithm>
#include <set>

#include "base/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

std::unique_ptr<ExpertRanking> Ranking(const std::string& name, double rate = 0.1) {
  return (*BuiltInExpertRankings().Find(name))({.score_rate = rate});
}

// One layer, demand filled: every miss crosses the link and asks for a place.
struct Demand {
  Demand(const std::string& name, int experts, int places, double rate = 0.1)
      : ranking(Ranking(name, rate)), cache(experts, std::vector<int>{places}, *ranking) {}
  void Use(std::vector<int32_t> experts, std::vector<int32_t> next_use = {}, int32_t tokens = 1) {
    std::vector<ExpertLoad> active;
    for (const int32_t e : experts) active.push_back({e, tokens, false});
    cache.Mark(0, active);
    std::vector<int32_t> missing;
    for (const ExpertLoad& e : active) {
      if (!e.on_gpu) missing.push_back(e.expert);
    }
    cache.Observe(0, {step++, active, static_cast<int64_t>(experts.size()) * tokens, next_use});
    cache.Admit(0, missing);
  }
  std::set<int32_t> Residents() const {
    std::set<int32_t> r;
    for (int32_t e = 0; e < cache.experts(); ++e) {
      if (cache.Resident(0, e)) r.insert(e);
    }
    return r;
  }
  std::unique_ptr<ExpertRanking> ranking;
  ExpertCache cache;
  int64_t step = 0;
};
using Set = std::set<int32_t>;

TEST(ExpertCacheTest, StartsWithTheGivenExperts) {
  Demand d("pinned", 8, 3);
  EXPECT_EQ(d.Residents(), (Set{0, 1, 2}));
  d.cache.Fill(0, std::vector<int32_t>{5, 4, 3, 2});
  EXPECT_EQ(d.Residents(), (Set{3, 4, 5}));
  d.Use({0, 1, 5});
  EXPECT_EQ(d.Residents(), (Set{3, 4, 5}));
  EXPECT_EQ(d.cache.hits(), 1);
  EXPECT_EQ(d.cache.misses(), 2);
}

TEST(ExpertCacheTest, LruGivesUpTheOneUsedLongestAgo) {
  Demand d("lru", 8, 2);
  d.Use({0});
  d.Use({1});
  d.Use({0});
  d.Use({5});  // 1 was used longest ago
  EXPECT_EQ(d.Residents(), (Set{0, 5}));
}

TEST(ExpertCacheTest, LfuGivesUpTheOneUsedLeast) {
  Demand d("lfu", 8, 2);
  d.Use({0});
  d.Use({0});
  d.Use({1});
  d.Use({5});  // 5 and 1 were used once, 5 last
  EXPECT_EQ(d.Residents(), (Set{0, 5}));
  d.Use({1});
  EXPECT_EQ(d.Residents(), (Set{0, 1}));  // twice against once
}

TEST(ExpertCacheTest, ScoreIsTheDecayedShareOfChoices) {
  Demand d("score", 4, 2, 0.25);
  d.Use({0, 1});  // 1/8 each
  d.Use({1, 2});  // 0: 3/32; 1: 3/32 + 1/8; 2: 1/8
  EXPECT_DOUBLE_EQ(d.cache.Worth(0, 0), 3.0 / 32);
  EXPECT_DOUBLE_EQ(d.cache.Worth(0, 1), 7.0 / 32);
  EXPECT_DOUBLE_EQ(d.cache.Worth(0, 2), 1.0 / 8);
  EXPECT_EQ(d.Residents(), (Set{1, 2}));
}

TEST(ExpertCacheTest, OracleGivesUpTheFarthestNextUse) {
  Demand d("oracle", 4, 2);
  d.Use({2}, {5, 3, 1, 9});
  EXPECT_EQ(d.Residents(), (Set{1, 2}));
  // 3 comes back later than both residents: not kept.
  d.Use({3}, {5, 2, 1, 9});
  EXPECT_EQ(d.Residents(), (Set{1, 2}));
}

// Belady's rule with bypass is optimal: on short sequences over few experts no choice of residents misses less.
int FewestMisses(const std::vector<int32_t>& uses, size_t i, uint32_t residents, int experts) {
  if (i == uses.size()) return 0;
  const uint32_t bit = 1u << uses[i];
  if ((residents & bit) != 0) return FewestMisses(uses, i + 1, residents, experts);
  int best = FewestMisses(uses, i + 1, residents, experts);
  for (int e = 0; e < experts; ++e) {
    if ((residents >> e & 1u) != 0) best = std::min(best, FewestMisses(uses, i + 1, (residents & ~(1u << e)) | bit, experts));
  }
  return best + 1;
}
std::vector<int32_t> NextUse(const std::vector<int32_t>& uses, size_t now, int experts) {
  std::vector<int32_t> next(static_cast<size_t>(experts), 1000);
  for (size_t j = uses.size(); j-- > now + 1;) next[static_cast<size_t>(uses[j])] = static_cast<int32_t>(j - now);
  return next;
}
TEST(ExpertCacheTest, OracleMissesLeast) {
  Rng rng(1, "uses");
  for (int round = 0; round < 60; ++round) {
    std::vector<int32_t> uses;
    for (int i = 0; i < 9; ++i) uses.push_back(static_cast<int32_t>(rng.Below(5)));
    const int fewest = FewestMisses(uses, 0, 0b11, 5);
    for (const std::string& name : ExpertRankingNames()) {
      Demand d(name, 5, 2);
      for (size_t i = 0; i < uses.size(); ++i) d.Use({uses[i]}, NextUse(uses, i, 5));
      if (name == "oracle") {
        EXPECT_EQ(d.cache.misses(), fewest) << round;
      } else {
        EXPECT_GE(d.cache.misses(), fewest) << name << round;
      }
    }
  }
}

TEST(ExpertCacheTest, NeverAboveItsPlacesAndEveryUseHitsOrMisses) {
  Rng rng(2, "uses");
  for (const std::string& name : ExpertRankingNames()) {
    for (const int places : {0, 1, 7, 16}) {
      Demand d(name, 16, places);
      int64_t uses = 0;
      for (int i = 0; i < 200; ++i) {
        Set chosen;
        for (uint64_t n = rng.Below(12); n-- > 0;) chosen.insert(static_cast<int32_t>(rng.Below(16)));
        std::vector<int32_t> next;
        for (int e = 0; e < 16; ++e) next.push_back(static_cast<int32_t>(rng.Below(50)));
        d.Use({chosen.begin(), chosen.end()}, next, 1 + static_cast<int32_t>(rng.Below(3)));
        uses += static_cast<int64_t>(chosen.size());
        ASSERT_EQ(d.Residents().size(), static_cast<size_t>(d.cache.residents(0))) << name;
        ASSERT_EQ(d.cache.residents(0), places) << name;
      }
      EXPECT_EQ(d.cache.hits() + d.cache.misses(), uses) << name;
      if (places == 0) {
        EXPECT_EQ(d.cache.hits(), 0);
      }
      if (places == 16) {
        EXPECT_EQ(d.cache.misses(), 0);
      }
    }
  }
}

// Admitting a list at once keeps the best of residents and newcomers.
TEST(ExpertCacheTest, AdmitKeepsTheMostWorth) {
  Rng rng(3, "uses");
  for (int round = 0; round < 50; ++round) {
    Demand d("score", 32, 8, 0.3);
    for (int i = 0; i < 20; ++i) {
      Set chosen;
      for (int n = 0; n < 12; ++n) chosen.insert(static_cast<int32_t>(rng.Below(32)));
      const Set before = d.Residents();
      d.Use({chosen.begin(), chosen.end()});
      Set candidates = before;
      candidates.insert(chosen.begin(), chosen.end());
      const Set after = d.Residents();
      double least_kept = 1e9, most_left = -1;
      for (const int32_t e : candidates) {
        double& bound = after.contains(e) ? least_kept : most_left;
        bound = after.contains(e) ? std::min(bound, d.cache.Worth(0, e)) : std::max(bound, d.cache.Worth(0, e));
      }
      ASSERT_GE(least_kept, most_left);
      ASSERT_TRUE(std::includes(candidates.begin(), candidates.end(), after.begin(), after.end()));
    }
  }
}

}  // namespace
}  // namespace simrun
