#include "schedulers/experts/rankings.h"

namespace simrun {
namespace {

class Pinned final : public ExpertRanking {
 public:
  void Observe(const ExpertUse&, std::span<double>) const override {}
  bool admits() const override { return false; }
};

class Lru final : public ExpertRanking {
 public:
  void Observe(const ExpertUse& use, std::span<double> worth) const override {
    const double now = static_cast<double>(use.step + 1);
    for (const ExpertLoad& load : use.active) worth[static_cast<size_t>(load.expert)] = now;
  }
};

class Lfu final : public ExpertRanking {
 public:
  // Whole part: uses; fraction: the last use, which grows below 1.
  void Observe(const ExpertUse& use, std::span<double> worth) const override {
    const double recency = 1 - 1 / static_cast<double>(use.step + 2);
    for (const ExpertLoad& load : use.active) {
      double& w = worth[static_cast<size_t>(load.expert)];
      w = static_cast<double>(static_cast<int64_t>(w)) + 1 + recency;
    }
  }
};

class Score final : public ExpertRanking {
 public:
  explicit Score(double rate) : rate_(rate) {}
  void Observe(const ExpertUse& use, std::span<double> worth) const override {
    for (double& w : worth) w *= 1 - rate_;
    const double per_choice = use.choices > 0 ? rate_ / static_cast<double>(use.choices) : 0;
    for (const ExpertLoad& load : use.active) worth[static_cast<size_t>(load.expert)] += per_choice * load.tokens;
  }

 private:
  const double rate_;
};

class Oracle final : public ExpertRanking {
 public:
  void Observe(const ExpertUse& use, std::span<double> worth) const override {
    for (size_t e = 0; e < worth.size() && e < use.next_use.size(); ++e) worth[e] = -static_cast<double>(use.next_use[e]);
  }
  bool needs_future() const override { return true; }
};

}  // namespace

std::unique_ptr<ExpertRanking> MakePinnedRanking(const ExpertRankingParams&) { return std::make_unique<Pinned>(); }
std::unique_ptr<ExpertRanking> MakeLruRanking(const ExpertRankingParams&) { return std::make_unique<Lru>(); }
std::unique_ptr<ExpertRanking> MakeLfuRanking(const ExpertRankingParams&) { return std::make_unique<Lfu>(); }
std::unique_ptr<ExpertRanking> MakeScoreRanking(const ExpertRankingParams& params) {
  return std::make_unique<Score>(params.score_rate);
}
std::unique_ptr<ExpertRanking> MakeOracleRanking(const ExpertRankingParams&) { return std::make_unique<Oracle>(); }

}  // namespace simrun
