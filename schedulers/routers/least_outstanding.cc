#include "schedulers/routers/least_outstanding.h"

namespace simrun {
namespace {
class LeastOutstanding final : public Router {
 public:
  size_t Route(std::span<const ReplicaLoad> loads) override {
    size_t best = 0;
    for (size_t i = 1; i < loads.size(); ++i) {
      if (loads[i].outstanding() < loads[best].outstanding()) best = i;
    }
    return best;
  }
  bool needs_load() const override { return true; }
};
}  // namespace

std::unique_ptr<Router> MakeLeastOutstanding(Rng) { return std::make_unique<LeastOutstanding>(); }
}  // namespace simrun
