// FlexGen's loop over layers and batches. A turn is half a layer of one group. Beside it the weights of the next half layer
// cross (with the first group), the KV cache and activations of the next group, activations and new keys and values of the
// one before; then everything is waited for. What is not pinned is copied by the thread that launches the kernels, before it does.
#include "sim/placed_stage.h"

#include <utility>
#include <vector>

namespace simrun {
namespace {

// The first turn of a run finds its weights there.
class LockstepStage final : public PlacedStage {
 public:
  using PlacedStage::PlacedStage;

 private:
  bool StagesItself() const override { return true; }

  Task Stage(double bytes, Task after) {
    const Route& copy = memory_.HostCopy();
    return overlap_.Move(host_copy_lane_, kHostMemoryTag, copy.uses, bytes * plan_.tp * plan_.dp, copy.cap, 0, {after});
  }
  // Ends of copies that go on beside a turn. `staged` is the engine's own thread: it copies what is not pinned, then launches.
  Task LoadWeights(const std::vector<Streamed::Bytes>& part, Task since, Task* staged) {
    Task end = kNone;
    for (const Streamed::Bytes& b : part) {
      Task after = since;
      if (b.tier == TierKind::kDram && !profile_.pinned_memory) after = *staged = Stage(b.bytes, *staged);
      const Route& route = memory_.ToGpu(b.tier);
      end = Join(end, overlap_.Move(weight_lanes_[static_cast<size_t>(b.tier)], kLinkTag, route.uses, b.bytes, ArrivalCap(route), route.latency, {after}));
    }
    return end;
  }
  Task LoadKv(size_t l, double share, Task since, Task* staged) {
    const bool limited = layers_[l].limited;
    Task end = kNone;
    for (const KvPart& p : kv_parts_) {
      const RankBytes bytes = FetchedTokens(p, limited) * (share * (limited ? kv_bytes_limited_ : kv_bytes_));
      if (bytes.most <= 0) continue;
      Task after = since;
      if (p.tier == TierKind::kDram && !profile_.pinned_kv) after = *staged = Stage(bytes.most * bytes.even, *staged);
      end = Join(end, Move(kv_lanes_[static_cast<size_t>(p.tier)], memory_.ToGpu(p.tier), bytes, after));
    }
    return end;
  }

  void RunLayers(bool decodes, bool looks_back) override {
    const size_t groups = groups_.size(), halves = 2 * layers_.size();
    const double share = 1.0 / static_cast<double>(groups);
    const std::vector<Streamed::Bytes> nothing;
    const auto weights = [&](size_t half) -> const std::vector<Streamed::Bytes>& {
      if (half >= halves) return head_streams() ? streamed_.back().first : nothing;
      const int order = layers_[half / 2].streamed;
      if (order < 0) return nothing;
      const Streamed& s = streamed_[static_cast<size_t>(order)];
      return half % 2 == 0 ? s.first : s.second;
    };
    const bool fetches = (decodes && kv_stream_ > 0) || looks_back;
    stored_ = kNone;
    Task turn = Flush();
    for (size_t half = 0; half < halves; ++half) {
      const size_t l = half / 2;
      for (size_t k = 0; k < groups; ++k) {
        Group& g = groups_[k];
        Task staged = turn, end = stored_;
        stored_ = kNone;
        // The last turn before the head loads it; the head's turn is too short to matter for the first weights of the next step.
        if (k == 0) end = Join(end, LoadWeights(weights(half + 1), turn, &staged));
        if (k == 0 && half + 1 == halves) end = Join(end, LoadWeights(weights(0), turn, &staged));
        const bool last_group = k + 1 == groups;
        if (fetches && half % 2 == 0 && !last_group) end = Join(end, LoadKv(l, share, turn, &staged));
        if (fetches && half % 2 == 1 && last_group) end = Join(end, LoadKv((l + 1) % layers_.size(), share, turn, &staged));
        end = Join(end, FetchActivations(g, turn));
        end = Join(end, StoreActivations(g, turn));
        WaitFor(turn);
        WaitFor(staged);
        if (half % 2 == 0) {
          Attention(l, g);
        } else {
          FeedForward(l, g);
        }
        end = Join(end, Flush());
        for (const Task t : g.wait) end = Join(end, t);
        turn = end;
      }
    }
    WaitFor(Join(turn, stored_));
  }
};

}  // namespace

std::unique_ptr<PlacedStage> MakeLockstepStage(ModelSpec model, ParallelPlan plan, int stage, EngineProfile profile, Placement placement, HostCosts host) {
  return std::make_unique<LockstepStage>(std::move(model), std::move(plan), stage, std::move(profile), std::move(placement), std::move(host));
}

}  // namespace simrun
