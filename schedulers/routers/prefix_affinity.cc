#include "schedulers/routers/prefix_affinity.h"

#include <algorithm>

namespace simrun {
namespace {

// Defaults of sgl-model-gateway: balance-abs-threshold, balance-rel-threshold, cache-threshold.
constexpr int64_t kMostAhead = 64;
constexpr double kMostTimes = 1.5;
constexpr double kLeastShare = 0.3;

class PrefixAffinity final : public Router {
 public:
  size_t Route(std::span<const ReplicaLoad> loads) override {
    size_t least = 0, match = 0;
    int64_t most = 0;
    for (size_t i = 0; i < loads.size(); ++i) {
      const ReplicaLoad& l = loads[i];
      most = std::max(most, l.outstanding());
      if (l.outstanding() < loads[least].outstanding()) least = i;
      if (l.cached_share > loads[match].cached_share ||
          (l.cached_share == loads[match].cached_share && l.outstanding() < loads[match].outstanding())) {
        match = i;
      }
    }
    const int64_t fewest = loads[least].outstanding();
    const bool uneven = most - fewest > kMostAhead && static_cast<double>(most) > kMostTimes * static_cast<double>(fewest);
    return uneven || loads[match].cached_share <= kLeastShare ? least : match;
  }
  bool needs_load() const override { return true; }
  bool needs_cached_share() const override { return true; }
};

}  // namespace

std::unique_ptr<Router> MakePrefixAffinity(Rng) { return std::make_unique<PrefixAffinity>(); }
}  // namespace simrun
