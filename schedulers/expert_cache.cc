#include "schedulers/expert_cache.h"

#include <algorithm>
#include <bit>
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

namespace {
constexpr uint64_t kNewcomer = 1u << 15, kLowBits = 16;

// A number in the order of `worth`, to 36 bits of mantissa; room for the expert below.
uint64_t Ordered(double worth) {
  const uint64_t bits = std::bit_cast<uint64_t>(worth + 0.0);  // -0 is 0
  const uint64_t sign = bits >> 63;
  return (bits ^ (sign != 0 ? ~uint64_t{0} : uint64_t{1} << 63)) >> kLowBits << kLowBits;
}

// Brings the `count` least of n different keys to the front. Quickselect without a branch on a comparison: whether
// an expert is worth more than another one is a coin toss, which costs a processor more than the rest of the work.
void SelectLeast(uint64_t* keys, size_t n, size_t count) {
  size_t low = 0, high = n;
  while (count > low && count < high && high - low > 1) {
    const uint64_t a = keys[low], b = keys[low + (high - low) / 2], c = keys[high - 1];
    const uint64_t pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    size_t less = low;
    for (size_t i = low; i < high; ++i) {
      const uint64_t key = keys[i];
      keys[i] = keys[less];
      keys[less] = key;
      less += key < pivot ? 1 : 0;
    }
    // The pivot itself next: all before are less, all behind are more.
    for (size_t i = less; i < high; ++i) {
      if (keys[i] == pivot) {
        std::swap(keys[i], keys[less]);
        break;
      }
    }
    if (less == count || less + 1 == count) return;
    (less < count ? low : high) = less < count ? less + 1 : less;
  }
}
}  // namespace

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
  const double* const worth = &worth_[Index(layer, 0)];
  uint8_t* const resident = &resident_[Index(layer, 0)];
  // One number per candidate orders them: its worth, then newcomers before residents, then by number.
  candidates_.resize(residents.size() + arrived.size());
  size_t n = 0;
  for (const int32_t e : residents) candidates_[n++] = Ordered(worth[e]) | static_cast<uint64_t>(e);
  for (const int32_t e : arrived) {
    candidates_[n] = Ordered(worth[e]) | kNewcomer | (kNewcomer - 1 - static_cast<uint64_t>(e));
    n += resident[e] == 0 ? 1 : 0;
  }
  const size_t goes = n - std::min(n, static_cast<size_t>(places(layer)));
  SelectLeast(candidates_.data(), n, goes);
  for (const int32_t e : residents) resident[e] = 0;
  residents.resize(n - goes);
  int kept = 0;
  for (size_t i = goes; i < n; ++i) {
    const uint64_t low = candidates_[i] & (kNewcomer - 1);
    const bool newcomer = (candidates_[i] & kNewcomer) != 0;
    const int32_t e = static_cast<int32_t>(newcomer ? kNewcomer - 1 - low : low);
    kept += newcomer ? 1 : 0;
    residents[i - goes] = e;
    resident[e] = 1;
  }
  return kept;
}

}  // namespace simrun
