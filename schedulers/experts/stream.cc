#include "schedulers/experts/stream.h"

namespace simrun {
namespace {
class StreamedExperts final : public ExpertPolicy {
 public:
  void Schedule(const ExpertLayerView& layer, ExpertSchedule* schedule) const override {
    SplitByPlace(layer.active, schedule);
    TimeExperts(layer, schedule->resident, schedule->remote, {}, schedule);
  }
  bool computes() const override { return false; }
};
}  // namespace

std::unique_ptr<ExpertPolicy> MakeStreamedExperts() { return std::make_unique<StreamedExperts>(); }
}  // namespace simrun
