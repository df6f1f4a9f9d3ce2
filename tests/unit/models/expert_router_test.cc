#include "models/expert_router.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

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

// Nor do partners of another popularity, and choices that a token has made already, with the figures that models have: the most
// popular experts of every layer are chosen as often as the law says, of gamma shares and of steep ones.
TEST(ExpertRouterTest, PopularExpertsAreChosenAsOftenAsTheLawSays) {
  for (const auto& popularity : {GammaPopularity(12, kExperts, kTopK, 0.83, Rng(1, "popularity")), GammaPopularity(12, kExperts, kTopK, 1.5, Rng(1, "popularity")),
                                 ZipfPopularity(12, kExperts, kTopK, 1.2, Rng(1, "popularity"))}) {
    auto router = MakeLawRouter(Law(popularity, 0.215, 0.71, 0.3), Rng(1, "routing"));
    const auto got = Measured(*router, 1500, 32, 0);
    double squares = 0, all = 0;
    for (size_t l = 0; l < popularity.size(); ++l) {
      for (size_t e = 0; e < kExperts; ++e) {
        squares += (got[l][e] - popularity[l][e]) * (got[l][e] - popularity[l][e]);
        all += popularity[l][e] * popularity[l][e];
        if (popularity[l][e] > 0.3) {
          EXPECT_NEAR(got[l][e], popularity[l][e], 0.05 * popularity[l][e]) << l;
        }
      }
    }
    EXPECT_LT(std::sqrt(squares / all), 0.025);  // weights of -ln(1 - pi): 0.06 to 0.07
  }
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

// The law as its header tells it, token by token and draw by draw.
class ObviousRouter {
 public:
  ObviousRouter(RoutingLaw law, uint64_t seed) : law_(std::move(law)), weights_(FreshWeights(law_)), rng_(seed, "obvious"), memory_(law_.popularity.size()) {}
  // Tokens of each expert of each layer, for a step of `decodes` sequences or of one new prompt of `prefill` tokens.
  std::vector<std::vector<double>> Step(size_t decodes, size_t prefill) {
    std::vector<std::vector<double>> counts;
    std::vector<std::vector<int>> before;
    const size_t tokens = decodes + prefill;
    for (size_t l = 0; l < law_.popularity.size(); ++l) {
      const std::vector<double>& share = law_.popularity[l];
      counts.emplace_back(share.size(), 0.0);
      std::vector<std::vector<int>> now(tokens);
      memory_[l].resize(decodes, std::vector<int>(static_cast<size_t>(law_.top_k), -1));
      std::vector<int> prompt(static_cast<size_t>(law_.top_k), -1);
      for (size_t t = 0; t < tokens; ++t) {
        std::vector<int>& memory = t < decodes ? memory_[l][t] : prompt;
        for (size_t j = 0; j < static_cast<size_t>(law_.top_k); ++j) {
          const double kind = rng_.Uniform();
          int e = Fresh(weights_[l]);
          if (kind < law_.repeat) {
            if (memory[j] >= 0) e = memory[j];
          } else if (kind < law_.repeat + law_.affinity && l > 0) {
            e = Partner(l, before[t][j]);
          }
          while (std::find(now[t].begin(), now[t].end(), e) != now[t].end()) e = Fresh(weights_[l]);
          now[t].push_back(e);
          counts[l][static_cast<size_t>(e)] += 1;
          if (rng_.Uniform() < law_.memory) memory[j] = e;
        }
      }
      before = now;
    }
    return counts;
  }

 private:
  int Fresh(const std::vector<double>& weights) {
    double at = rng_.Uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
    for (size_t e = 0; e + 1 < weights.size(); ++e) {
      at -= weights[e];
      if (at < 0) return static_cast<int>(e);
    }
    return static_cast<int>(weights.size()) - 1;
  }
  // Of the same rank by popularity.
  int Partner(size_t layer, int expert) const {
    const auto order = [](const std::vector<double>& share) {
      std::vector<int> o(share.size());
      std::iota(o.begin(), o.end(), 0);
      std::stable_sort(o.begin(), o.end(), [&](int a, int b) { return share[static_cast<size_t>(a)] > share[static_cast<size_t>(b)]; });
      return o;
    };
    const std::vector<int> before = order(law_.popularity[layer - 1]), here = order(law_.popularity[layer]);
    return here[static_cast<size_t>(std::find(before.begin(), before.end(), expert) - before.begin())];
  }

  RoutingLaw law_;
  std::vector<std::vector<double>> weights_;
  Rng rng_;
  std::vector<std::vector<std::vector<int>>> memory_;
};

// First and second moments of what a step chooses: mean and variance of every count, its covariance with the count of
// the step before and with the counts of the next layer.
struct Moments {
  std::map<std::string, std::vector<double>> of;
};
template <class Step>
Moments MomentsOf(const Step& step, size_t layers, size_t experts, int steps) {
  Moments m;
  std::vector<std::vector<std::vector<double>>> all;
  for (int s = 0; s < steps; ++s) all.push_back(step());
  const double n = steps;
  std::vector<std::vector<double>> mean(layers, std::vector<double>(experts, 0.0));
  for (const auto& counts : all) {
    for (size_t l = 0; l < layers; ++l) {
      for (size_t e = 0; e < experts; ++e) mean[l][e] += counts[l][e] / n;
    }
  }
  const auto covariance = [&](size_t l, size_t a, size_t k, size_t b, size_t lag) {
    double sum = 0;
    for (size_t s = lag; s < all.size(); ++s) sum += (all[s][l][a] - mean[l][a]) * (all[s - lag][k][b] - mean[k][b]);
    return sum / (n - static_cast<double>(lag));
  };
  for (size_t l = 0; l < layers; ++l) {
    for (size_t e = 0; e < experts; ++e) {
      m.of["mean"].push_back(mean[l][e]);
      m.of["variance"].push_back(covariance(l, e, l, e, 0));
      m.of["with the step before"].push_back(covariance(l, e, l, e, 1));
      for (size_t b = 0; b < experts; ++b) {
        m.of["within the layer"].push_back(covariance(l, e, l, b, 0));
        if (l + 1 < layers) m.of["with the next layer"].push_back(covariance(l, e, l + 1, b, 0));
      }
    }
  }
  return m;
}

// Drawing in passes over all tokens chooses as the law does: all 2500 moments agree within 3.5 times the largest standard
// error of their kind, as ten runs with different seeds show it. The largest is well above the typical one: a false
// alarm is about as likely as 5 standard errors.
TEST(ExpertRouterTest, DrawsAsTheObviousReferenceDoes) {
  const size_t experts = 12;
  RoutingLaw law{3, GammaPopularity(3, static_cast<int>(experts), 3, 0.7, Rng(1, "popularity")), 0.3, 0.6, 0.35};
  const int steps = 4000, runs = 10;
  struct Case {
    const char* name;
    size_t decodes, prefill, kept_steps;
  };
  for (const auto& [name_of_case, decodes, prefill, kept_steps] :
       {Case{"sequences", 5, 0, 0}, {"prompts", 0, 9, 0}, {"sequences that walk", 5, 0, 4000}}) {
    SCOPED_TRACE(name_of_case);
    std::map<std::string, std::vector<std::vector<double>>> slow, fast;
    for (int run = 0; run < runs; ++run) {
      ObviousRouter obvious(law, static_cast<uint64_t>(run));
      // 9 choices of a byte per token and 5 tokens per step are kept, then walked over.
      auto router = MakeLawRouter(law, Rng(static_cast<uint64_t>(run), "routing"), kept_steps > 0 ? 9 * 5 * kept_steps : kKeptChoiceBytes);
      for (size_t i = 0; i < kept_steps; ++i) {
        router->Begin(5, 0);
        for (int l = 0; l < 3; ++l) router->Layer(l);
      }
      for (auto& [name, values] : MomentsOf([&obvious, n = decodes, p = prefill] { return obvious.Step(n, p); }, 3, experts, steps).of) slow[name].push_back(values);
      const auto step = [&router, n = static_cast<int64_t>(decodes), p = static_cast<int64_t>(prefill)] {
        router->Begin(n, p);
        std::vector<std::vector<double>> counts;
        for (int l = 0; l < 3; ++l) {
          const auto c = router->Layer(l);
          counts.emplace_back(c.begin(), c.end());
        }
        return counts;
      };
      for (auto& [name, values] : MomentsOf(step, 3, experts, steps).of) fast[name].push_back(values);
    }
    for (const auto& [name, values] : slow) {
      // One standard error for all figures of a kind: that of one figure from ten runs is too rough.
      double spread = 0, worst = 0;
      const size_t n = values.front().size();
      std::vector<double> difference(n, 0.0);
      for (size_t i = 0; i < n; ++i) {
        double mean = 0, square = 0;
        for (int r = 0; r < runs; ++r) {
          const double d = fast.at(name)[static_cast<size_t>(r)][i] - values[static_cast<size_t>(r)][i];
          mean += d / runs;
          square += d * d / runs;
        }
        difference[i] = mean;
        spread = std::max(spread, std::sqrt(std::max(0.0, square - mean * mean) / (runs - 1)));
      }
      for (const double d : difference) worst = std::max(worst, std::fabs(d));
      EXPECT_LT(worst, 3.5 * spread) << name;
    }
  }
}

TEST(ExpertRouterTest, CloneMakesTheSameChoices) {
  // Copied while choices are drawn, while the last of those to be kept are, and while they are walked over.
  for (const size_t kept_tokens : {size_t{1} << 20, size_t{30}, size_t{10}}) {
    SCOPED_TRACE(kept_tokens);
    auto a = MakeLawRouter(Law(UniformPopularity(kLayers, kExperts, kTopK), 0.2, 0.5, 0.2), Rng(1, "routing"), kept_tokens * kLayers * kTopK);
    Measured(*a, kept_tokens == 10 ? 20 : 3, 5, 20);
    auto b = a->Clone();
    for (int i = 0; i < 20; ++i) {
      std::vector<uint32_t> first;
      for (ExpertRouter* const r : {a.get(), b.get()}) {
        r->Begin(4 + i % 3, 20);
        std::vector<uint32_t> all;
        for (int l = 0; l < kLayers; ++l) {
          const auto counts = r->Layer(l);
          all.insert(all.end(), counts.begin(), counts.end());
        }
        if (r == a.get()) first = all;
        ASSERT_EQ(all, first);
      }
    }
  }
}

// Once enough choices are kept, each sequence walks over those of one sequence after another: every step's choices of all
// layers are those of a token drawn before, and next to one another what was next to one another, but for the ends.
TEST(ExpertRouterTest, SequencesWalkOverKeptChoices) {
  constexpr size_t kSequences = 4, kSteps = 100;
  auto router = MakeLawRouter(Law(UniformPopularity(kLayers, kExperts, kTopK), 0.2, 0.5, 0.2), Rng(1, "routing"), kSequences * kSteps * kLayers * kTopK);
  const auto step = [&router](int64_t decodes, int64_t prefill) {
    router->Begin(decodes, prefill);
    std::vector<uint32_t> all;
    for (int l = 0; l < kLayers; ++l) {
      const auto counts = router->Layer(l);
      all.insert(all.end(), counts.begin(), counts.end());
    }
    return all;
  };
  // One sequence at a time, so that a step's counts tell its token: four sequences of 100 tokens.
  std::map<std::vector<uint32_t>, std::pair<size_t, size_t>> drawn;
  for (size_t q = 0; q < kSequences; ++q) {
    for (size_t t = 0; t < kSteps; ++t) drawn[step(1, 0)] = {q, t};
    if (q + 1 < kSequences) step(0, 0);  // the sequence ends
  }
  ASSERT_EQ(drawn.size(), kSequences * kSteps);  // 64^36 ways: none twice
  std::pair<size_t, size_t> at{};
  std::map<std::pair<size_t, size_t>, int> visits;
  for (size_t i = 0; i < 100 * kSequences * kSteps; ++i) {
    const auto found = drawn.find(step(1, 0));
    ASSERT_NE(found, drawn.end()) << i;
    const auto to = found->second;
    if (i > 0) {
      EXPECT_EQ(to.second, (at.second + 1) % kSteps);  // on, or to the start of any sequence
      EXPECT_TRUE(to.second == 0 || to.first == at.first) << i;
    }
    at = to;
    ++visits[to];
  }
  // 400 walks over one of four sequences: 100 each, standard deviation 8.7. Five of those, four times: 2e-6.
  for (const auto& [token, n] : visits) EXPECT_NEAR(n, 100, 44);
  // A prompt reads tokens in a row.
  const std::vector<uint32_t> counts = step(0, 3);
  bool any = false;
  for (const auto& [a, place] : drawn) {
    std::vector<uint32_t> sum(a.size(), 0);
    for (size_t d = 0; d < 3; ++d) {
      for (const auto& [b, other] : drawn) {
        if (other != std::pair(place.first, place.second + d)) continue;
        for (size_t e = 0; e < sum.size(); ++e) sum[e] += b[e];
      }
    }
    any = any || sum == counts;
  }
  EXPECT_TRUE(any);
}

// N kept tokens choose expert e of share p in N p +- sqrt(s N p) cases, s the sequences' own correlation. With what is kept
// by default a model of 58 layers, 256 experts and 8 per token keeps 18,000 tokens: each popularity is off by
// sqrt(1.5 x 32 / 18,000) = 5 %, which a cv of 0.83 turns into 0.832.
TEST(ExpertRouterTest, WalkingKeepsPopularityWithinTheNoiseOfWhatIsKept) {
  const auto popularity = ZipfPopularity(kLayers, kExperts, kTopK, 0.6, Rng(1, "popularity"));
  constexpr size_t kTokens = 18000;
  auto router = MakeLawRouter(Law(popularity, 0.2, 0.5, 0.24), Rng(1, "routing"), kTokens * kLayers * kTopK);
  Measured(*router, kTokens / 16, 16, 0);
  const auto walked = Measured(*router, 10000, 16, 0);
  ExpectShares(walked, popularity, kTokens, 2);
  auto drawing = MakeLawRouter(Law(popularity, 0.2, 0.5, 0.24), Rng(2, "routing"));
  EXPECT_NEAR(PopularityCv(walked), PopularityCv(Measured(*drawing, 10000, 16, 0)), 0.01);
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
