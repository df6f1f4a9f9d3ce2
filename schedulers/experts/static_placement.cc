#include "schedulers/experts/static_placement.h"

namespace simrun {
namespace {
class StaticExperts final : public ExpertPolicy {
 public:
  void Schedule(const ExpertLayerView& layer, ExpertSchedule* schedule) const override {
    SplitByPlace(layer.active, schedule);
    TimeExperts(layer, schedule->resident, {}, schedule->remote, schedule);
  }
  bool fetches() const override { return false; }
};
}  // namespace

std::unique_ptr<ExpertPolicy> MakeStaticExperts() { return std::make_unique<StaticExperts>(); }
}  // namespace simrun
