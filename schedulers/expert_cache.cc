#include "schedulers/expert_cache.h"

#include <algorithm>
#include <numeric>

#include "schedulers/experts/rankings.h"

namespace simrun {

const Registry<ExpertRankingFactory>& BuiltInExpertRankings() {
  static const auto* const registry = [] {
    auto* r = new Registry<ExpertRankingFactory>("expert cache");
    const auto add = [r](const char* name, const char* description, ExpertRankingFactory factory) {
      SIM_CHECK(r->Add(name, description, std::move(factory)).ok());
    };
    add("pinned", "the experts it starts with stay", &MakePinnedRanking);
    add("lru", "gives up the expert that was used longest ago", &MakeLruRanking);
    add("lfu", "gives up the expert that was used in the fewest steps", &MakeLfuRanking);
    add("score", "gives up the expert with the lowest decayed share of routing choices (HybriMoE's MRS)", &MakeScoreRanking);
    add("oracle", "gives up the expert whose next use is farthest: the bound no cache passes", &MakeOracleRanking);
    return r;
  }();
  return *registry;
}

std::vector<std::string> ExpertRankingNames() { return BuiltInExpertRankings().Names(); }

ExpertCache::ExpertCache(int experts, std::span<const int> places, const ExpertRanking& ranking)
    : experts_(experts), ranking_(ranking), places_(places.begin(), places.end()) {
  const size_t all = places_.size() * static_cast<size_t>(experts);
  resident_.assign(all, 0);
  worth_.assign(all, 0.0);
  residents_.resize(places_.size());
  std::vector<int32_t> order(static_cast<size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  for (int l = 0; l < layers(); ++l) {
    places_[static_cast<size_t>(l)] = std::clamp(places_[static_cast<size_t>(l)], 0, experts);
    Fill(l, order);
  }
}

void ExpertCache::Fill(int layer, std::span<const int32_t> order) {
  std::vector<int32_t>& residents = residents_[static_cast<size_t>(layer)];
  for (const int32_t e : residents) resident_[Index(layer, e)] = 0;
  const size_t n = std::min(order.size(), static_cast<size_t>(places(layer)));
  residents.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n));
  for (const int32_t e : residents) resident_[Index(layer, e)] = 1;
}

void ExpertCache::Mark(int layer, std::span<ExpertLoad> active) const {
  const uint8_t* const resident = &resident_[Index(layer, 0)];
  for (ExpertLoad& load : active) load.on_gpu = resident[load.expert] != 0;
}

void ExpertCache::Observe(int layer, const ExpertUse& use) {
  int64_t hits = 0;
  for (const ExpertLoad& load : use.active) hits += load.on_gpu ? 1 : 0;
  hits_ += hits;
  misses_ += static_cast<int64_t>(use.active.size()) - hits;
  ranking_.Observe(use, std::span<double>(worth_).subspan(Index(layer, 0), static_cast<size_t>(experts_)));
}

int ExpertCache::Admit(int layer, std::span<const int32_t> arrived) {
  if (!ranking_.admits() || arrived.empty()) return 0;
  std::vector<int32_t>& residents = residents_[static_cast<size_t>(layer)];
  const size_t room = static_cast<size_t>(places(layer));
  const double* const worth = &worth_[Index(layer, 0)];
  uint8_t* const resident = &resident_[Index(layer, 0)];
  int kept = 0;
  candidates_.clear();
  for (const int32_t e : residents) candidates_.push_back({worth[e], e});
  for (const int32_t e : arrived) {
    if (resident[e] == 0) candidates_.push_back({worth[e], -1 - e});
  }
  if (candidates_.size() > room) {
    // Newcomers (negative) win ties against residents.
    const auto better = [](const Candidate& a, const Candidate& b) {
      if (a.worth != b.worth) return a.worth > b.worth;
      if ((a.expert < 0) != (b.expert < 0)) return a.expert < 0;
      return a.expert < 0 ? a.expert < b.expert : a.expert > b.expert;
    };
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(room), candidates_.end(), better);
    candidates_.resize(room);
  }
  for (const int32_t e : residents) resident[e] = 0;
  residents.clear();
  for (const Candidate& c : candidates_) {
    const int32_t e = c.expert < 0 ? -1 - c.expert : c.expert;
    if (c.expert < 0) ++kept;
    residents.push_back(e);
    resident[e] = 1;
  }
  return kept;
}

}  // namespace simrun
