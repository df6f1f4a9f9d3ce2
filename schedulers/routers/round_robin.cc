#include "schedulers/routers/round_robin.h"

namespace simrun {
namespace {
class RoundRobin final : public Router {
 public:
  size_t Route(std::span<const ReplicaLoad> loads) override { return next_++ % loads.size(); }
  bool needs_load() const override { return false; }

 private:
  size_t next_ = 0;
};
}  // namespace

std::unique_ptr<Router> MakeRoundRobin(Rng) { return std::make_unique<RoundRobin>(); }
}  // namespace simrun
