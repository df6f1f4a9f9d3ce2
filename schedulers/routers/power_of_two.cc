#include "schedulers/routers/power_of_two.h"

namespace simrun {
namespace {
class PowerOfTwo final : public Router {
 public:
  explicit PowerOfTwo(Rng rng) : rng_(rng) {}
  size_t Route(std::span<const ReplicaLoad> loads) override {
    if (loads.size() == 1) return 0;
    const size_t a = rng_.Below(loads.size());
    size_t b = rng_.Below(loads.size() - 1);
    if (b >= a) ++b;  // two different replicas, every pair equally likely
    return loads[b].outstanding() < loads[a].outstanding() ? b : a;
  }
  bool needs_load() const override { return true; }

 private:
  Rng rng_;
};
}  // namespace

std::unique_ptr<Router> MakePowerOfTwo(Rng rng) { return std::make_unique<PowerOfTwo>(rng); }
}  // namespace simrun
