// Which routed experts stay in GPU memory from step to step. A cache has a fixed number of places per layer; a ranking
// says what each expert is worth keeping.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/registry.h"
#include "schedulers/expert_scheduling.h"

namespace simrun {

// One layer of one step, after the router has chosen.
struct ExpertUse {
  int64_t step = 0;                       // 0, 1, 2, ...
  std::span<const ExpertLoad> active;
  int64_t choices = 0;                    // tokens x experts per token: sum of the loads
  // Steps until each expert of the layer is used next, for rankings that need the future; empty otherwise.
  std::span<const int32_t> next_use;
};

class ExpertRanking {
 public:
  virtual ~ExpertRanking() = default;
  // Updates the worth of the layer's experts, all 0 before the first use. The least worth is given up first; among
  // equals the lower number.
  virtual void Observe(const ExpertUse& use, std::span<double> worth) const = 0;
  virtual bool needs_future() const { return false; }
  // False: residents stay, whatever arrives.
  virtual bool admits() const { return true; }
};

struct ExpertRankingParams {
  double score_rate = 0.02;   // score: weight of the newest step
};
using ExpertRankingFactory = std::function<std::unique_ptr<ExpertRanking>(const ExpertRankingParams&)>;
// The built-in rankings: pinned, lru, lfu, score, oracle.
const Registry<ExpertRankingFactory>& BuiltInExpertRankings();
std::vector<std::string> ExpertRankingNames();

// The residents of all layers of one replica.
class ExpertCache {
 public:
  // `places[l]`: experts of layer l that GPU memory holds, at most `experts`. Starts full, with the experts given by
  // Fill or, without it, those of the lowest numbers. `ranking` must outlive the cache.
  ExpertCache(int experts, std::span<const int> places, const ExpertRanking& ranking);

  int layers() const { return static_cast<int>(places_.size()); }
  int experts() const { return experts_; }
  int places(int layer) const { return places_[static_cast<size_t>(layer)]; }
  int residents(int layer) const { return static_cast<int>(residents_[static_cast<size_t>(layer)].size()); }
  bool Resident(int layer, int32_t expert) const { return resident_[Index(layer, expert)] != 0; }
  double Worth(int layer, int32_t expert) const { return worth_[Index(layer, expert)]; }

  // Makes the first places(layer) of `order` the residents of a layer.
  void Fill(int layer, std::span<const int32_t> order);
  // Sets `on_gpu` of the loads of a layer.
  void Mark(int layer, std::span<ExpertLoad> active) const;
  // The layer ran with these loads, marked: counts hits and misses, updates the ranking.
  void Observe(int layer, const ExpertUse& use);
  // Experts that came over the link take the places of residents worth less; those worth less than every resident are
  // not kept, and a newcomer goes before a resident of equal worth. Returns how many were kept.
  int Admit(int layer, std::span<const int32_t> arrived);

  // Expert uses (one per active expert, layer and step) that found their expert resident, or not.
  int64_t hits() const { return hits_; }
  int64_t misses() const { return misses_; }

 private:
  size_t Index(int layer, int32_t expert) const {
    return static_cast<size_t>(layer) * static_cast<size_t>(experts_) + static_cast<size_t>(expert);
  }

  const int experts_;
  const ExpertRanking& ranking_;
  std::vector<int> places_;
  std::vector<std::vector<int32_t>> residents_;
  std::vector<uint8_t> resident_;
  std::vector<double> worth_;
  std::vector<uint64_t> candidates_;
  int64_t hits_ = 0, misses_ = 0;
};

}  // namespace simrun
