// Copies run ahead of the kernels as far as buffers go: weights through a window of layers, also from one step to the next, the KV
// cache a layer or two ahead.
#include "sim/placed_stage.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace simrun {
namespace {

class StreamedStage final : public PlacedStage {
 public:
  using PlacedStage::PlacedStage;

 private:
  void Started() override {
    arrived_.assign(streamed_.size(), {kNone, kNone});
    kv_arrived_.assign(layers_.size(), kNone);
    attended_.assign(layers_.size(), kNone);
    window_ = std::min<int>(placement_.window, static_cast<int>(streamed_.size()));
    for (int i = 0; i < window_; ++i) QueueWeights(i, kNone);
  }
  Task WeightsOf(size_t layer, int part) const override {
    const int order = layers_[layer].streamed;
    return order < 0 ? kNone : arrived_[static_cast<size_t>(order)][static_cast<size_t>(part)];
  }
  Task HeadWeights() const override { return head_streams() ? arrived_.back()[0] : kNone; }
  Task KvOf(size_t layer) const override { return kv_arrived_[layer]; }
  void BeforeAttention(size_t layer, Group& g) override {
    if (layer > 0) g.wait[3] = FetchActivations(g, g.out);
  }
  void KvRead(size_t layer, Task attended) override { attended_[layer] = attended; }
  void AfterFeedForward(size_t layer, Group& g) override {
    if (layers_[layer].streamed >= 0 && &g == &groups_.back()) Refill(layers_[layer].streamed);
    if (activations_away_ && layer + 1 < layers_.size()) g.out = StoreActivations(g, Flush());
  }
  void AfterHead() override {
    if (head_streams()) Refill(static_cast<int>(streamed_.size()) - 1);
  }

  // The slot that a layer, or the head, has left is for the one a window ahead.
  void Refill(int order) { QueueWeights((order + window_) % static_cast<int>(streamed_.size()), Flush()); }
  void QueueWeights(int order, Task slot) {
    const Streamed& s = streamed_[static_cast<size_t>(order)];
    for (int part = 0; part < 2; ++part) {
      Task last = kNone;
      for (const Streamed::Bytes& b : part == 0 ? s.first : s.second) {
        const Route& route = memory_.ToGpu(b.tier);
        // Tiers are read side by side; a part has arrived with the last of them.
        last = Join(last, overlap_.Move(weight_lanes_[static_cast<size_t>(b.tier)], kLinkTag, route.uses, b.bytes, ArrivalCap(route), route.latency, {slot}));
      }
      arrived_[static_cast<size_t>(order)][static_cast<size_t>(part)] = last;
    }
  }

  // The KV cache of a layer that crosses the link, of all groups: of sequences that decode, and of earlier chunks of
  // prompts. One layer ahead.
  void FetchKv(size_t l) {
    const bool limited = layers_[l].limited;
    const double per_token = limited ? kv_bytes_limited_ : kv_bytes_;
    Task last = kNone;
    for (const KvPart& p : kv_parts_) {
      const RankBytes tokens = FetchedTokens(p, limited);
      if (tokens.most <= 0) continue;
      last = Join(last, Move(kv_lanes_[static_cast<size_t>(p.tier)], memory_.ToGpu(p.tier), tokens * per_token, l >= 2 ? attended_[l - 2] : kNone));
    }
    kv_arrived_[l] = last;
  }

  void RunLayers(bool decodes, bool looks_back) override {
    const bool fetches_kv = kv_stream_ > 0 || (looks_back && kv_cpu_ > 0);
    std::fill(attended_.begin(), attended_.end(), kNone);
    std::fill(kv_arrived_.begin(), kv_arrived_.end(), kNone);
    // A group works on until it has to wait for the CPU; then the next group has its turn.
    const bool waits_in_attention = kv_cpu_ > 0 && decodes;
    if (fetches_kv) {
      FetchKv(0);
      if (layers_.size() > 1) FetchKv(1);
    }
    for (Group& g : groups_) Attention(0, g);
    for (size_t l = 0; l < layers_.size(); ++l) {
      if (fetches_kv && l + 2 < layers_.size()) FetchKv(l + 2);
      const bool more = l + 1 < layers_.size();
      if (waits_in_attention || groups_.size() == 1) {
        for (Group& g : groups_) {
          FeedForward(l, g);
          if (more) Attention(l + 1, g);
        }
      } else {
        for (Group& g : groups_) FeedForward(l, g);
        for (Group& g : groups_) {
          if (more) Attention(l + 1, g);
        }
      }
    }
  }

  int window_ = 2;
  std::vector<std::array<Task, 2>> arrived_;  // by position in the order of streaming: attention, feed-forward part
  std::vector<Task> kv_arrived_;              // of the layers
  std::vector<Task> attended_;                // GPU task after which a layer's fetched KV is free again
};

}  // namespace

std::unique_ptr<PlacedStage> MakeStreamedStage(ModelSpec model, ParallelPlan plan, int stage, EngineProfile profile, Placement placement, HostCosts host) {
  return std::make_unique<StreamedStage>(std::move(model), std::move(plan), stage, std::move(profile), std::move(placement), std::move(host));
}

}  // namespace simrun
