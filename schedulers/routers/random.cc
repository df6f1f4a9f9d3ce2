#include "schedulers/routers/random.h"

namespace simrun {
namespace {
class RandomRouter final : public Router {
 public:
  explicit RandomRouter(Rng rng) : rng_(rng) {}
  size_t Route(std::span<const ReplicaLoad> loads) override { return rng_.Below(loads.size()); }
  bool needs_load() const override { return false; }

 private:
  Rng rng_;
};
}  // namespace

std::unique_ptr<Router> MakeRandomRouter(Rng rng) { return std::make_unique<RandomRouter>(rng); }
}  // namespace simrun
