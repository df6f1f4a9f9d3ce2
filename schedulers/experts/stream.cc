#include "schedulers/experts/stream.h"

namespace simrun {
namespace {
class StreamedExperts final : public ExpertPolicy {
 public:
  void Schedule(const ExpertLayerView& layer, ExpertSchedule* schedule) const override {
    schedule->resident.clear();
    schedule->remote.clear();
    for (const ExpertLoad& e : layer.active) (e.on_gpu ? schedule->resident : schedule->remote).push_back(e);
    TimeExperts(layer, schedule->resident, schedule->remote, {}, schedule);
  }
};
}  // namespace

std::unique_ptr<ExpertPolicy> MakeStreamedExperts() { return std::make_unique<StreamedExperts>(); }
}  // namespace simrun
