// One pipeline stage of a plan that keeps tensors outside GPU memory (sim/placed_step.h): what lies where, and the parts of a
// step as tasks of GPU, CPU and copy engines. In which order copies and kernels follow one another is left to what derives
// from it: copies that run ahead of the kernels (sim/streamed_stage.cc), or turns (sim/lockstep_stage.cc).
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hw/flow_network.h"
#include "hw/host_cost.h"
#include "hw/layer_cost.h"
#include "hw/overlap.h"
#include "hw/placement.h"
#include "hw/step_cost_compiled.h"
#include "hw/tiers.h"
#include "sim/expert_stage.h"
#include "sim/placed_step.h"

namespace simrun {

class PlacedStage : public CompiledStepCost {
 public:
  PlacedStage(ModelSpec model, ParallelPlan plan, int stage, EngineProfile profile, Placement placement, HostCosts host)
      : model_(std::move(model)), whole_plan_(plan), plan_(std::move(plan)), stage_(stage), profile_(std::move(profile)),
        placement_(std::move(placement)), host_(std::move(host)), range_(LayersOfStage(model_, whole_plan_, stage)), overlap_(&network_) {
    // Layers cost the same on every stage.
    plan_.pp = 1;
    plan_.stage_layers.clear();
    if (first()) {
      // Rows of a tied matrix that has no copy for the purpose are gathered where the head has it.
      const bool with_head = model_.tie_embeddings && ShareOf(placement_.embedding, TensorUse::kPin) >= 1;
      embedding_ = with_head ? placement_.lm_head : placement_.embedding;
    }
    if (!last()) placement_.lm_head = {TensorPart{}};
  }

  absl::Status Build(const Machine& machine, const Catalog& catalog, const PlacedStepOptions& options);

  int stages() const override { return 1; }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override;
  std::vector<StepOperator> Explain(std::span<const StepWork> ranks) override;
  const std::vector<ProvenanceNote>& provenance() const override { return provenance_; }
  std::vector<std::string> Warnings() const override { return warnings_; }
  std::vector<ResourceUse> Resources() const override;
  void ShareHost(int stages) override;
  double host_busy_seconds() const override { return host_busy_; }
  const ExpertTotals* Experts() const override { return experts_ != nullptr ? experts_->totals() : nullptr; }
  double host_joules() const override { return host_joules_; }

 protected:
  using Task = Overlap::Task;
  static constexpr Task kNone = Overlap::kNone;
  enum Tag { kGpuTag, kLinkTag, kHostMemoryTag, kHostComputeTag };

  // Streamed weights that wait for one window slot: those of a layer, or the head.
  struct Streamed {
    struct Bytes {
      TierKind tier;
      double bytes;  // per GPU
    };
    std::vector<Bytes> first, second;  // attention, then the feed-forward part
  };

  struct Layer {
    bool moe = false, limited = false;  // limited: a window, a chunk or a state instead of all tokens
    int streamed = -1;  // position in the order of streaming
    // Shares of the projections and feed-forward matrices that the CPU computes, and their bytes and parameters there.
    struct Cpu {
      TierKind tier;
      double bytes, parameters;
    };
    double attention_gpu = 1, ffn_gpu = 1;
    std::vector<Cpu> attention_cpu, ffn_cpu;
    const LayerPlacement* placement = nullptr;
  };

  // What the attention ranks do side by side: the time of the slowest, the energy of all.
  struct RankTime {
    PartCost in, prompts, decodes, out;  // around and in the core of attention
  };
  // Bytes that the ranks move side by side: those of the busiest, and the mean over that.
  struct RankBytes {
    double most = 0, even = 1;
    RankBytes operator*(double by) const { return {most * by, even}; }
  };
  template <class Range, class Of>
  RankBytes BytesOf(const Range& ranks, const Of& of) const;

  // The work of one token group in this step, all ranks together.
  struct Group {
    int64_t tokens = 0;
    double seqs = 0, kv_sum = 0, kv_sum_windowed = 0;
    RankBytes rank_tokens, rank_seqs, rank_prompt_tokens;  // of one rank, for what is proportional to them
    std::array<RankTime, 2> attention;         // full, limited
    PartCost router, shared_experts, dense_ffn;
    // Tasks that its next GPU work waits for.
    std::array<Task, 4> wait;
    Task out = kNone;     // last of its activations sent away
  };

  // The order of copies and kernels, which engines differ in.
  virtual void Started() {}                                      // ready for the first step
  virtual void RunLayers(bool decodes, bool looks_back) = 0;     // `looks_back`: prompts attend to earlier chunks
  // What the next GPU work has to wait for: weights of a layer's attention (part 0) or feed-forward part (1), those of the head,
  // the KV cache of a layer.
  virtual Task WeightsOf(size_t /*layer*/, int /*part*/) const { return kNone; }
  virtual Task HeadWeights() const { return kNone; }
  virtual Task KvOf(size_t /*layer*/) const { return kNone; }
  virtual void BeforeAttention(size_t /*layer*/, Group& /*g*/) {}
  virtual void KvRead(size_t /*layer*/, Task /*attended*/) {}
  virtual void AfterFeedForward(size_t /*layer*/, Group& /*g*/) {}
  virtual void AfterHead() {}
  // True: copies of memory that is not pinned are staged by the engine's own thread, as tasks; else by the driver, which slows them.
  virtual bool StagesItself() const { return false; }

  void Compile();
  // A part of the KV cache outside GPU memory. Tokens of a sequence lie the farther away the older they are: `newer` of them lie nearer.
  struct KvPart {
    TierKind tier;
    TensorUse use;
    double share, newer;
  };
  // Of `all` tokens of the past, of which a layer attends to the newest `seen`, those that it finds in a part of the cache. Exact
  // for sequences of one length; `seen` and `all` are sums.
  static double Attended(const KvPart& part, double all, double seen, bool limited) {
    return limited ? std::clamp(seen - part.newer * all, 0.0, part.share * all) : part.share * all;
  }
  // And those that the CPU attends to.
  double AttendedByCpu(double all, double seen, bool limited) const;
  // Tokens of the past whose keys and values a part of the cache sends to the GPU for one layer.
  RankBytes FetchedTokens(const KvPart& part, bool limited) const;
  void Deal(std::span<const StepWork> ranks);  // into groups
  // One part over the tokens of every rank, those of a token group or all.
  PartCost OfRanks(LayerPart part);
  // Experts to the GPU, tiers side by side; their last arrival.
  Task MoveExperts(double ExpertWork::Tier::*bytes, Task after);
  void Attention(size_t layer, Group& g);     // up to and with its core
  void FeedForward(size_t layer, Group& g);   // output projection to the end of the layer
  // GPU work is gathered until something waits for it or it has to wait.
  void Gpu(const PartCost& cost, double times = 1) {
    step_.Add(cost, times);
    pending_ += cost.seconds * times;
  }
  void WaitFor(Task task);
  Task Flush();
  // Hidden states of a group to and from where placed activations lie.
  Task FetchActivations(const Group& g, Task after);
  Task StoreActivations(const Group& g, Task after);
  Task Join(Task a, Task b) {
    return a == kNone ? b : b == kNone ? a : overlap_.Work(join_lane_, kLinkTag, 0, {a, b});
  }
  // The way of bytes that are copied once more within GPU memory on arrival.
  double ArrivalCap(const Route& route) const;
  // A CPU operator over `bytes` of a tier; kNone when there is nothing to do.
  Task Cpu(TierKind tier, double bytes, double flops, Task after);
  // GPUs move their bytes side by side.
  Task Move(int lane, const Route& route, RankBytes bytes, Task after) {
    return overlap_.Move(lane, kLinkTag, route.uses, bytes.most, route.cap, route.latency, {after}, bytes.even, route.own);
  }
  Task Send(RankBytes bytes, TierKind to, Task after) { return Move(send_lane_, memory_.FromGpu(to), bytes, after); }
  Task Send(RankBytes bytes, Task after) { return Send(bytes, TierKind::kDram, after); }
  Task Receive(RankBytes bytes, Task after) { return Move(receive_lane_, memory_.ToGpu(TierKind::kDram), bytes, after); }

  bool first() const { return stage_ == 0; }
  bool last() const { return stage_ + 1 == whole_plan_.pp; }
  bool head_streams() const { return ShareOf(placement_.lm_head, TensorUse::kStream) > 0; }
  PartCost SendOn(std::span<const StepWork> ranks);  // to the next stage
  TierRates RatesToGpu() const;     // bytes per second to each GPU

  ModelSpec model_;
  ParallelPlan whole_plan_, plan_;  // the plan, and the same with one stage
  const int stage_;
  EngineProfile profile_;
  Placement placement_;
  TensorParts embedding_;  // of the first stage: where its rows are gathered
  HostCosts host_;
  const StageLayers range_;
  std::unique_ptr<LayerCosts> costs_;
  CommPath next_stage_;
  int64_t sent_tokens_ = -1;
  PartCost sent_;  // of one rank
  std::unique_ptr<ExpertStage> experts_;
  FlowNetwork network_;
  Overlap overlap_;
  MemorySystem memory_;
  int stages_per_host_ = 1, stages_of_engines_ = 1;  // of those engines also what lies on other hosts
  int sharing_ = 0;                                  // of them at work; 0: not told yet, all
  std::vector<double> parts_;  // capacities of the network's resources when all have
  int gpu_lane_ = 0, cpu_lane_ = 0, receive_lane_ = 0, send_lane_ = 0;
  int kv_out_lane_ = 0, join_lane_ = 0, host_copy_lane_ = 0;
  std::array<int, kNumTiers> weight_lanes_{}, kv_lanes_{}, expert_lanes_{};  // from the tiers

  std::vector<Layer> layers_;
  std::vector<Streamed> streamed_;
  double kv_bytes_ = 0, kv_bytes_limited_ = 0;            // per token, layer and GPU
  std::array<double, 2> kv_host_bytes_{};                  // per token and layer (full, limited), held once
  double kv_flops_ = 0, hidden_bytes_ = 0, query_bytes_ = 0, head_parameters_ = 0, head_bytes_ = 0;
  std::vector<KvPart> kv_parts_;
  double kv_cpu_ = 0, kv_stream_ = 0;
  bool activations_away_ = false;
  int groups_wanted_ = 1;

  // Of the step being built.
  std::vector<Group> groups_;
  std::vector<int64_t> tokens_;         // of each rank in a group
  // KV tokens that cross the link, of full and limited layers: those of sequences that decode, and those that prompt chunks
  // look back at; per rank.
  struct Past {
    std::array<double, 2> decodes{}, chunks{};
  };
  std::vector<Past> past_;
  std::array<std::vector<PartCost>, 2> prefill_;  // full, limited; of each rank
  PartCost step_;
  double pending_ = 0;
  std::array<Task, Overlap::kMostAfter> pending_after_;
  size_t pending_count_ = 0;
  Task last_gpu_ = kNone;
  Task stored_ = kNone;            // last of the new keys and values sent away
  ExpertWork expert_work_;
  double host_busy_ = 0, host_joules_ = 0;
  ProvenanceNote provenance_of_experts_;
  std::vector<ProvenanceNote> provenance_;
  std::vector<std::string> warnings_;
  double launches_ = 0;
};

template <class Range, class Of>
PlacedStage::RankBytes PlacedStage::BytesOf(const Range& ranks, const Of& of) const {
  double most = 0, sum = 0;
  for (const auto& rank : ranks) {
    const double bytes = of(rank);
    most = std::max(most, bytes);
    sum += bytes;
  }
  const double all = most * static_cast<double>(plan_.dp);
  return {most, sum < all ? sum / all : 1};
}

// Arguments of the constructor.
std::unique_ptr<PlacedStage> MakeStreamedStage(ModelSpec model, ParallelPlan plan, int stage, EngineProfile profile, Placement placement, HostCosts host);
std::unique_ptr<PlacedStage> MakeLockstepStage(ModelSpec model, ParallelPlan plan, int stage, EngineProfile profile, Placement placement, HostCosts host);

}  // namespace simrun
