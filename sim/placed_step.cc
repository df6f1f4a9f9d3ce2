#include "sim/placed_step.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "hw/flow_network.h"
#include "hw/overlap.h"
#include "models/tensors.h"
#include "sim/placed_pipeline.h"
#include "sim/routed_experts.h"

namespace simrun {
namespace {

using Task = Overlap::Task;
constexpr Task kNone = Overlap::kNone;

// Energy per byte above idle, assumed: about 15 pJ per bit for DRAM and its channel, 6 for a serial link, 60 for flash.
constexpr double kMemoryJoules = 120e-12, kLinkJoules = 50e-12, kDriveJoules = 500e-12;

enum Tag { kGpuTag, kLinkTag, kHostMemoryTag, kHostComputeTag };
constexpr size_t Index(Bound b) { return static_cast<size_t>(b); }

// Streamed weights that wait for one window slot: those of a layer, or the head.
struct Streamed {
  struct Bytes {
    TierKind tier;
    double bytes;  // per GPU
  };
  std::vector<Bytes> first, second;  // attention, then the feed-forward part
};

struct Layer {
  bool moe = false, windowed = false;
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

class PlacedStep final : public CompiledStepCost {
 public:
  PlacedStep(ModelSpec model, ParallelPlan plan, int stage, EngineProfile profile, Placement placement, HostCosts host)
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

 private:
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
    std::array<RankTime, 2> attention;         // full, windowed
    PartCost router, shared_experts, dense_ffn;
    // Tasks that its next GPU work waits for.
    std::array<Task, 4> wait;
    Task out = kNone;     // last of its activations sent away
    Task gpu = kNone;     // its last GPU task
  };

  void Compile();
  void QueueWeights(int order, Task slot);
  // A part of the KV cache outside GPU memory. Tokens of a sequence lie the farther away the older they are: `newer` of them lie nearer.
  struct KvPart {
    TierKind tier;
    TensorUse use;
    double share, newer;
  };
  // Of `all` tokens of the past, of which a layer attends to the newest `seen`, those that it finds in a part of the cache. Exact
  // for sequences of one length; `seen` and `all` are sums.
  static double Attended(const KvPart& part, double all, double seen, bool windowed) {
    return windowed ? std::clamp(seen - part.newer * all, 0.0, part.share * all) : part.share * all;
  }
  // And those that the CPU attends to.
  double AttendedByCpu(double all, double seen, bool windowed) const;
  // Tokens of the past whose keys and values a part of the cache sends to the GPU for one layer.
  RankBytes FetchedTokens(const KvPart& part, bool windowed) const;
  void FetchKv(size_t layer);
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
  // All layers of a step: copies run ahead of the kernels as far as buffers go; or, with `lockstep` engines, turn by turn.
  void StreamLayers(bool decodes, bool looks_back);
  void TakeTurns(bool decodes, bool looks_back);
  // Ends of copies that go on beside a turn. `staged` is the engine's own thread: it copies what is not pinned, then launches.
  Task LoadWeights(const std::vector<Streamed::Bytes>& part, Task since, Task* staged);
  Task LoadKv(size_t layer, double share, Task since, Task* staged);
  // Hidden states of a group to and from where placed activations lie.
  Task FetchActivations(const Group& g, Task after);
  Task StoreActivations(const Group& g, Task after);
  Task Stage(double bytes, Task after) {
    const Route& copy = memory_.HostCopy();
    return overlap_.Move(host_copy_lane_, kHostMemoryTag, copy.uses, bytes * plan_.tp * plan_.dp, copy.cap, 0, {after});
  }
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
  int window_ = 2;
  std::vector<std::array<Task, 2>> arrived_;  // by position in the order of streaming: attention, feed-forward part
  double kv_bytes_ = 0, kv_bytes_windowed_ = 0;            // per token, layer and GPU
  std::array<double, 2> kv_host_bytes_{};                  // per token and layer (full, windowed), held once
  double kv_flops_ = 0, hidden_bytes_ = 0, query_bytes_ = 0, head_parameters_ = 0, head_bytes_ = 0;
  std::vector<KvPart> kv_parts_;
  double kv_cpu_ = 0, kv_stream_ = 0;
  bool activations_away_ = false;
  int groups_wanted_ = 1;

  // Of the step being built.
  std::vector<Group> groups_;
  std::vector<int64_t> tokens_;         // of each rank in a group
  // KV tokens that cross the link, of full and windowed layers: those of sequences that decode, and those that prompt chunks
  // look back at; per rank.
  struct Past {
    std::array<double, 2> decodes{}, chunks{};
  };
  std::vector<Past> past_;
  std::array<std::vector<PartCost>, 2> prefill_;  // full, windowed; of each rank
  PartCost step_;
  double pending_ = 0;
  std::array<Task, Overlap::kMostAfter> pending_after_;
  size_t pending_count_ = 0;
  Task last_gpu_ = kNone;
  std::vector<Task> kv_arrived_;   // of the layers
  Task stored_ = kNone;            // last of the new keys and values sent away
  std::vector<Task> attended_;     // GPU task after which a layer's fetched KV is free again
  ExpertWork expert_work_;
  double host_busy_ = 0, host_joules_ = 0;
  ProvenanceNote provenance_of_experts_;
  std::vector<ProvenanceNote> provenance_;
  std::vector<std::string> warnings_;
  double launches_ = 0;
};

absl::Status PlacedStep::Build(const Machine& machine, const Catalog& catalog, const PlacedStepOptions& options) {
  SIMRUN_ASSIGN_OR_RETURN(costs_, LayerCosts::Create(model_, plan_, machine, profile_, catalog, options.cost));
  MemorySystemOptions memory;
  memory.first_gpu = options.first_gpu;
  memory.gpus = plan_.tp * plan_.dp;
  memory.engines_per_host = options.stages_per_host;
  // Engines in lockstep stage by themselves.
  memory.pinned = profile_.pinned_memory || profile_.lockstep;
  memory.link_efficiency = profile_.link_efficiency;
  SIMRUN_ASSIGN_OR_RETURN(memory_, MemorySystem::Create(machine, memory, &network_));
  for (int r = 0; r < network_.resources(); ++r) parts_.push_back(network_.capacity(r));
  stages_per_host_ = options.stages_per_host;
  stages_of_engines_ = options.engines_per_host * whole_plan_.pp;
  gpu_lane_ = overlap_.AddLane("GPU");
  cpu_lane_ = overlap_.AddLane("CPU");
  receive_lane_ = overlap_.AddLane("results to GPU");
  send_lane_ = overlap_.AddLane("data from GPU");
  kv_out_lane_ = overlap_.AddLane("KV cache from GPU");
  join_lane_ = overlap_.AddLane("weights complete");
  host_copy_lane_ = overlap_.AddLane("copies into pinned memory");
  for (int t = 1; t < kNumTiers; ++t) {
    if (!memory_.Has(static_cast<TierKind>(t))) continue;
    const auto lane_of = [&](const char* what) { return overlap_.AddLane(fmt::format("{} from {}", what, TierName(static_cast<TierKind>(t)))); };
    weight_lanes_[static_cast<size_t>(t)] = lane_of("weights");
    kv_lanes_[static_cast<size_t>(t)] = lane_of("KV cache");
    expert_lanes_[static_cast<size_t>(t)] = lane_of("experts");
  }
  if (model_.moe && options.experts.policy) {
    RoutedExpertsOptions routed;
    routed.config = options.experts;
    routed.routing = options.routing;
    routed.seed = options.seed;
    routed.engine = options.engine;
    routed.placement = &placement_;
    routed.layers = range_;
    routed.host = &host_;
    routed.to_gpu = RatesToGpu();
    SIMRUN_ASSIGN_OR_RETURN(experts_, MakeRoutedExperts(model_, plan_, costs_.get(), routed));
    provenance_of_experts_ = {"expert routing", options.routing->provenance() == "measured" ? Provenance::kMeasured : Provenance::kAssumed,
                              options.routing->detail()};
    if (options.experts.prefetch != "none") {
      warnings_.push_back(fmt::format("experts are foreseen with an assumed accuracy of {:.2g} (scheduler.experts.predictor_accuracy)",
                                      options.experts.predictor_accuracy));
    }
  } else if (model_.moe) {
    experts_ = MakeExpectedExperts(model_, plan_, costs_.get());
  }
  if (!last()) next_stage_ = GroupPath(machine, 2, plan_.tp * plan_.dp, options.first_gpu);
  Compile();
  provenance_ = costs_->Provenance();
  if (!provenance_of_experts_.part.empty()) provenance_.push_back(provenance_of_experts_);
  provenance_.push_back({fmt::format("links and host memory of {}", machine.host.name), Provenance::kDatasheet,
                         "catalogue rates and efficiencies of large transfers"});
  bool runs_experts = true;
  if (options.experts.policy) {
    SIMRUN_ASSIGN_OR_RETURN(const ExpertPolicyFactory policy, BuiltInExpertPolicies().Find(*options.experts.policy));
    runs_experts = policy()->computes();
  }
  if (kv_cpu_ > 0 || ShareOf(placement_.lm_head, TensorUse::kCompute) > 0 ||
      std::any_of(placement_.layers.begin(), placement_.layers.end(), [&](const LayerPlacement& l) {
        return ShareOf(l.attention, TensorUse::kCompute) + ShareOf(l.dense_ffn, TensorUse::kCompute) + ShareOf(l.shared_experts, TensorUse::kCompute) +
                   (runs_experts ? ShareOf(l.routed_experts, TensorUse::kCompute) : 0) > 0;
      })) {
    Provenance label = Provenance::kAssumed;
    std::string why = "roofline with assumed efficiencies";
    for (const EngineSource& source : profile_.sources) {
      if (source.of != "cpu_memory_efficiency") continue;
      why = source.source;
      if (source.provenance == "calibrated") label = Provenance::kCalibrated;
      if (source.provenance == "measured") label = Provenance::kMeasured;
    }
    provenance_.push_back({fmt::format("operators on {}", machine.host.name), label, why});
    if (label == Provenance::kAssumed) warnings_.push_back("work of the CPU is not calibrated: roofline with assumed efficiencies");
  }
  for (const EngineSource& source : profile_.sources) {
    provenance_.push_back(NoteOf(profile_, source));
  }
  return absl::OkStatus();
}

TierRates PlacedStep::RatesToGpu() const {
  TierRates rates{};
  for (int t = 1; t < kNumTiers; ++t) {
    if (!memory_.Has(static_cast<TierKind>(t))) continue;
    const Route& way = memory_.ToGpu(static_cast<TierKind>(t));
    double rate = way.cap;
    for (const FlowNetwork::Use& use : way.uses) rate = std::min(rate, network_.capacity(use.resource) / use.per_byte);
    rates[static_cast<size_t>(t)] = rate;
  }
  return rates;
}

void PlacedStep::ShareHost(int stages) {
  stages = std::clamp(stages, 1, stages_of_engines_);
  if (stages == sharing_) return;
  sharing_ = stages;
  // Of an engine of several hosts as many here as its other stages.
  const double away = stages_of_engines_ > stages_per_host_ ? (stages_per_host_ - 1.0) / (stages_of_engines_ - 1.0) : 1;
  const double here = 1 + (stages - 1) * away;
  memory_.Share(here, &network_);
  host_.Share(here);
  if (experts_ != nullptr) experts_->HostChanged(host_, RatesToGpu());
}

void PlacedStep::Compile() {
  const ClassBytes gpu = WeightBytesByClass(model_, plan_, true), all = WeightBytesByClass(model_, plan_, false);
  const double dense_element = BytesPerElement(DenseWeightDType(model_, plan_));
  const double stream_element = BytesPerElement(StreamDType(plan_));
  const auto split = [&](const TensorParts& parts, double per_gpu, double whole, double* gpu_share,
                         std::vector<Layer::Cpu>* cpu, std::vector<Streamed::Bytes>* streamed) {
    for (const TensorPart& p : parts) {
      if (p.use == TensorUse::kCompute && cpu != nullptr) {
        *gpu_share -= p.share;
        cpu->push_back({p.tier, whole * p.share, whole * p.share / dense_element});
      } else if (p.use == TensorUse::kStream) {
        streamed->push_back({p.tier, per_gpu * p.share});
      }
    }
  };
  for (int l = range_.first; l < range_.first + range_.count; ++l) {
    const LayerPlacement& p = placement_.layers[static_cast<size_t>(l)];
    Layer layer;
    layer.placement = &p;
    layer.moe = model_.IsMoeLayer(l);
    layer.windowed = model_.IsWindowedLayer(l);
    Streamed s;
    split(p.attention, gpu.attention + (layer.moe ? gpu.router : 0), all.attention + (layer.moe ? all.router : 0),
          &layer.attention_gpu, &layer.attention_cpu, &s.first);
    if (layer.moe) {
      if (all.shared_experts > 0) split(p.shared_experts, gpu.shared_experts, all.shared_experts, &layer.ffn_gpu, &layer.ffn_cpu, &s.second);
      split(p.routed_experts, gpu.routed_experts, all.routed_experts, nullptr, nullptr, &s.second);
    } else {
      split(p.dense_ffn, gpu.dense_ffn, all.dense_ffn, &layer.ffn_gpu, &layer.ffn_cpu, &s.second);
    }
    if (layer.attention_gpu < 1e-9) layer.attention_gpu = 0;
    if (layer.ffn_gpu < 1e-9) layer.ffn_gpu = 0;
    if (!s.first.empty() || !s.second.empty()) {
      layer.streamed = static_cast<int>(streamed_.size());
      streamed_.push_back(std::move(s));
    }
    layers_.push_back(std::move(layer));
  }
  Streamed head;
  for (const TensorPart& p : placement_.lm_head) {
    if (p.use == TensorUse::kStream) head.first.push_back({p.tier, gpu.lm_head * p.share});
  }
  if (!head.first.empty()) streamed_.push_back(std::move(head));
  arrived_.assign(streamed_.size(), {kNone, kNone});
  window_ = std::min<int>(placement_.window, static_cast<int>(streamed_.size()));
  head_bytes_ = static_cast<double>(model_.vocab * model_.hidden) * stream_element;
  head_parameters_ = static_cast<double>(model_.vocab * model_.hidden);

  const auto shapes = AttentionShapes(model_, plan_, 0);
  const KvBytes kv = KvBytesPerGpu(model_, plan_, 0);
  ParallelPlan whole = plan_;
  whole.tp = whole.ep = whole.dp = 1;
  const KvBytes held_once = KvBytesPerGpu(model_, whole, 0);
  for (const AttentionShape& s : shapes) {
    (s.window > 0 ? kv_bytes_windowed_ : kv_bytes_) = (s.window > 0 ? kv.per_token_windowed : kv.per_token).value() / s.layers;
    kv_host_bytes_[s.window > 0] = (s.window > 0 ? held_once.per_token_windowed : held_once.per_token).value() / s.layers;
  }
  const AttentionShape one = AttentionShapes(model_, whole, 0).front();
  kv_flops_ = DecodeAttentionFlops(one, 1);
  hidden_bytes_ = static_cast<double>(model_.hidden) * stream_element;
  const int64_t query = one.heads * (one.mla ? one.mla_latent + one.mla_rope : one.head_dim);
  query_bytes_ = static_cast<double>(query) * stream_element / plan_.tp;
  double newer = 0;
  for (const TierKind tier : {TierKind::kGpu, TierKind::kDram, TierKind::kCxl, TierKind::kRemote, TierKind::kNvme}) {
    for (const TensorPart& p : placement_.kv) {
      if (p.tier != tier) continue;
      if (tier != TierKind::kGpu) kv_parts_.push_back({p.tier, p.use, p.share, newer});
      newer += p.share;
      if (p.use == TensorUse::kCompute) kv_cpu_ += p.share;
      if (p.use == TensorUse::kStream) kv_stream_ += p.share;
    }
  }
  for (const TensorPart& p : placement_.activations) activations_away_ = activations_away_ || p.tier != TierKind::kGpu;
  groups_wanted_ = placement_.token_groups;
  kv_arrived_.assign(layers_.size(), kNone);
  attended_.assign(layers_.size(), kNone);
  for (const Layer& layer : layers_) launches_ += layer.moe ? costs_->launches_moe() : costs_->launches_dense();
  if (last()) launches_ += costs_->launches_ends();
  if (profile_.lockstep) return;  // the first turn of a run finds its weights there
  for (int i = 0; i < window_; ++i) QueueWeights(i, kNone);
}

double PlacedStep::ArrivalCap(const Route& route) const {
  if (profile_.arrival_copies <= 0) return route.cap;
  double way = 1 / route.cap;
  for (const FlowNetwork::Use& use : route.uses) way = std::max(way, use.per_byte / network_.capacity(use.resource));
  // Copies on the stream of the transfers: one ends before the next begins. Each reads and writes.
  return 1 / (way + 2 * profile_.arrival_copies / costs_->operators().WideningRate());
}

void PlacedStep::QueueWeights(int order, Task slot) {
  const Streamed& s = streamed_[static_cast<size_t>(order)];
  for (int part = 0; part < 2; ++part) {
    Task last = kNone;
    for (const Streamed::Bytes& b : part == 0 ? s.first : s.second) {
      const Route& route = memory_.ToGpu(b.tier);
      const Task moved = overlap_.Move(weight_lanes_[static_cast<size_t>(b.tier)], kLinkTag, route.uses, b.bytes, ArrivalCap(route),
                                       route.latency, {slot});
      // Tiers are read side by side; a part has arrived with the last of them.
      last = last == kNone ? moved : overlap_.Work(join_lane_, kLinkTag, 0, {last, moved});
    }
    arrived_[static_cast<size_t>(order)][static_cast<size_t>(part)] = last;
  }
}

void PlacedStep::WaitFor(Task task) {
  if (task == kNone || overlap_.Done(task)) return;
  if (pending_ > 0 || pending_count_ == Overlap::kMostAfter) Flush();
  pending_after_[pending_count_++] = task;
}

Task PlacedStep::Flush() {
  if (pending_ <= 0 && pending_count_ == 0 && last_gpu_ != kNone) return last_gpu_;
  const auto& a = pending_after_;
  const auto after = [&](size_t i) { return i < pending_count_ ? a[i] : kNone; };
  last_gpu_ = overlap_.Work(gpu_lane_, kGpuTag, pending_, {after(0), after(1), after(2), after(3), after(4), after(5)});
  pending_ = 0;
  pending_count_ = 0;
  return last_gpu_;
}

Task PlacedStep::Cpu(TierKind tier, double bytes, double flops, Task after) {
  if (bytes <= 0) return after;
  const int tag = host_.BoundByArithmetic(tier, bytes, flops) ? kHostComputeTag : kHostMemoryTag;
  return overlap_.Move(cpu_lane_, tag, memory_.CpuRead(tier).uses, bytes, host_.Cap(tier, bytes, flops), host_.fixed(), {after});
}

// The KV cache of a layer that crosses the link, of all groups: of sequences that decode, and of earlier chunks of
// prompts. One layer ahead.
PlacedStep::RankBytes PlacedStep::FetchedTokens(const KvPart& part, bool windowed) const {
  return BytesOf(past_, [&](const Past& rank) {
    return (part.use == TensorUse::kStream ? Attended(part, rank.decodes[false], rank.decodes[windowed], windowed) : 0) +
           Attended(part, rank.chunks[false], rank.chunks[windowed], windowed);
  });
}

double PlacedStep::AttendedByCpu(double all, double seen, bool windowed) const {
  double tokens = 0;
  for (const KvPart& part : kv_parts_) tokens += part.use == TensorUse::kCompute ? Attended(part, all, seen, windowed) : 0;
  return tokens;
}

void PlacedStep::FetchKv(size_t l) {
  const bool windowed = layers_[l].windowed;
  const double per_token = windowed ? kv_bytes_windowed_ : kv_bytes_;
  Task last = kNone;
  for (const KvPart& p : kv_parts_) {
    const RankBytes tokens = FetchedTokens(p, windowed);
    if (tokens.most <= 0) continue;
    last = Join(last, Move(kv_lanes_[static_cast<size_t>(p.tier)], memory_.ToGpu(p.tier), tokens * per_token, l >= 2 ? attended_[l - 2] : kNone));
  }
  kv_arrived_[l] = last;
}

void PlacedStep::Attention(size_t l, Group& g) {
  Layer& layer = layers_[l];
  if (l > 0 && !profile_.lockstep) g.wait[3] = FetchActivations(g, g.out);
  for (Task& t : g.wait) WaitFor(std::exchange(t, kNone));
  if (layer.streamed >= 0) WaitFor(arrived_[static_cast<size_t>(layer.streamed)][0]);
  WaitFor(kv_arrived_[l]);
  const double tokens = static_cast<double>(g.tokens);
  Task before = kNone;
  if (!layer.attention_cpu.empty()) before = Flush();
  const RankTime& attention = g.attention[layer.windowed];
  Gpu(attention.in, layer.attention_gpu);
  const double seqs = g.seqs;
  Gpu(attention.prompts);
  Gpu(attention.decodes);
  if (!layer.attention_cpu.empty()) {
    // Projections on the CPU: hidden states there, queries, keys and values back.
    Task t = Send(g.rank_tokens * (hidden_bytes_ / plan_.tp), before);
    for (const Layer::Cpu& c : layer.attention_cpu) t = Cpu(c.tier, c.bytes, 2 * c.parameters * tokens, t);
    g.wait[0] = Receive(g.rank_tokens * query_bytes_, t);
  }
  const double on_cpu = AttendedByCpu(g.kv_sum, layer.windowed ? g.kv_sum_windowed : g.kv_sum, layer.windowed);
  const bool cpu = on_cpu > 0 && seqs > 0;
  if (!kv_parts_.empty()) {
    const Task done = Flush();
    attended_[l] = done;
    // New keys and values go where the cache lies: those the CPU is about to read together with the queries, the others
    // in the background.
    const double per_token = layer.windowed ? kv_bytes_windowed_ : kv_bytes_;
    before = done;
    double queries = query_bytes_;
    for (const KvPart& p : kv_parts_) {
      const Route& r = memory_.FromGpu(p.tier);
      RankBytes later = g.rank_tokens;
      if (p.use == TensorUse::kCompute && cpu) {
        before = Join(before == done ? kNone : before, Move(send_lane_, r, g.rank_seqs * (p.share * per_token + std::exchange(queries, 0)), done));
        later = g.rank_prompt_tokens;
      }
      if (later.most > 0) {
        const double rate = profile_.kv_store_rate.value(), cap = rate > 0 ? std::min(r.cap, rate) : r.cap;
        const RankBytes bytes = later * (p.share * per_token);
        stored_ = overlap_.Move(kv_out_lane_, kLinkTag, r.uses, bytes.most, cap, r.latency, {done}, bytes.even, r.own);
      }
    }
    if (cpu) {
      for (const KvPart& p : kv_parts_) {
        if (p.use != TensorUse::kCompute) continue;
        const double of_part = Attended(p, g.kv_sum, layer.windowed ? g.kv_sum_windowed : g.kv_sum, layer.windowed);
        before = Cpu(p.tier, of_part * kv_host_bytes_[layer.windowed], of_part * kv_flops_, before);
      }
      g.wait[1] = Receive(g.rank_seqs * query_bytes_, before);
    }
  }
}

Task PlacedStep::MoveExperts(double ExpertWork::Tier::*bytes, Task after) {
  Task last = kNone;
  for (size_t t = 1; t < expert_work_.tiers.size(); ++t) {
    const double of_tier = expert_work_.tiers[t].*bytes;
    if (of_tier <= 0) continue;
    const Route& r = memory_.ToGpu(static_cast<TierKind>(t));
    last = Join(last, overlap_.Move(expert_lanes_[t], kLinkTag, r.uses, of_tier, r.cap, r.latency, {after}));
  }
  return last;
}

void PlacedStep::FeedForward(size_t l, Group& g) {
  Layer& layer = layers_[l];
  const double tokens = static_cast<double>(g.tokens);
  for (Task& t : g.wait) WaitFor(std::exchange(t, kNone));
  Gpu(g.attention[layer.windowed].out, layer.attention_gpu);
  if (layer.moe) Gpu(g.router);
  bool cpu = !layer.ffn_cpu.empty();
  if (layer.moe) {
    ExpertStageView view{range_.first + static_cast<int>(l), g.tokens, layer.placement};
    view.group = static_cast<int>(&g - groups_.data());
    view.decodes = std::min<int64_t>(g.tokens, std::llround(g.seqs));
    view.gpu_ready = g.shared_experts.seconds * layer.ffn_gpu;
    if (experts_->needs_times()) {
      // The policy decides when the router has ended: let time pass until then.
      overlap_.RunUntil(Flush());
      view.now = overlap_.now();
    }
    experts_->Run(view, &expert_work_);
    cpu = cpu || expert_work_.cpu_bytes > 0;
  }
  if (cpu || (layer.moe && expert_work_.fetch_bytes + expert_work_.ahead_bytes > 0)) {
    const Task routed = Flush();
    if (cpu) {
      Task t = Send(g.rank_tokens * (hidden_bytes_ / plan_.tp), routed);
      for (const Layer::Cpu& c : layer.ffn_cpu) t = Cpu(c.tier, c.bytes, 2 * c.parameters * tokens, t);
      if (layer.moe) {
        for (size_t tier = 1; tier < expert_work_.tiers.size(); ++tier) {
          t = Cpu(static_cast<TierKind>(tier), expert_work_.tiers[tier].cpu_bytes, expert_work_.tiers[tier].flops, t);
        }
      }
      g.wait[0] = Receive(g.rank_tokens * hidden_bytes_, t);
    }
    if (layer.moe && expert_work_.fetch_bytes > 0) {
      const Task fetched = MoveExperts(&ExpertWork::Tier::fetch_bytes, routed);
      if (layer.streamed >= 0) WaitFor(arrived_[static_cast<size_t>(layer.streamed)][1]);
      Gpu(g.shared_experts, layer.ffn_gpu);
      Gpu(expert_work_.resident);
      WaitFor(fetched);
      Gpu(expert_work_.fetched);
    }
    if (layer.moe && expert_work_.ahead_bytes > 0) {
      MoveExperts(&ExpertWork::Tier::ahead_bytes, routed);
    }
  }
  if (!layer.moe || expert_work_.fetch_bytes <= 0) {
    if (layer.streamed >= 0) WaitFor(arrived_[static_cast<size_t>(layer.streamed)][1]);
    if (layer.moe) {
      Gpu(g.shared_experts, layer.ffn_gpu);
      Gpu(expert_work_.resident);
    } else {
      Gpu(g.dense_ffn, layer.ffn_gpu);
    }
  }
  const bool last_group = &g == &groups_.back();
  if (layer.streamed >= 0 && last_group && !profile_.lockstep) {
    const int next = layer.streamed + window_, count = static_cast<int>(streamed_.size());
    QueueWeights(next % count, Flush());
  }
  if (activations_away_ && l + 1 < layers_.size() && !profile_.lockstep) g.out = StoreActivations(g, Flush());
}

Task PlacedStep::FetchActivations(const Group& g, Task after) {
  Task last = kNone;
  for (const TensorPart& p : placement_.activations) {
    if (p.tier != TierKind::kGpu) last = Join(last, Move(receive_lane_, memory_.ToGpu(p.tier), g.rank_tokens * (hidden_bytes_ * p.share), after));
  }
  return last;
}

Task PlacedStep::StoreActivations(const Group& g, Task after) {
  Task last = kNone;
  for (const TensorPart& p : placement_.activations) {
    if (p.tier != TierKind::kGpu) last = Join(last, Send(g.rank_tokens * (hidden_bytes_ * p.share), p.tier, after));
  }
  return last;
}

Task PlacedStep::LoadWeights(const std::vector<Streamed::Bytes>& part, Task since, Task* staged) {
  Task end = kNone;
  for (const Streamed::Bytes& b : part) {
    Task after = since;
    if (b.tier == TierKind::kDram && !profile_.pinned_memory) after = *staged = Stage(b.bytes, *staged);
    const Route& route = memory_.ToGpu(b.tier);
    end = Join(end, overlap_.Move(weight_lanes_[static_cast<size_t>(b.tier)], kLinkTag, route.uses, b.bytes, ArrivalCap(route), route.latency, {after}));
  }
  return end;
}

Task PlacedStep::LoadKv(size_t l, double share, Task since, Task* staged) {
  const bool windowed = layers_[l].windowed;
  Task end = kNone;
  for (const KvPart& p : kv_parts_) {
    const RankBytes bytes = FetchedTokens(p, windowed) * (share * (windowed ? kv_bytes_windowed_ : kv_bytes_));
    if (bytes.most <= 0) continue;
    Task after = since;
    if (p.tier == TierKind::kDram && !profile_.pinned_kv) after = *staged = Stage(bytes.most * bytes.even, *staged);
    end = Join(end, Move(kv_lanes_[static_cast<size_t>(p.tier)], memory_.ToGpu(p.tier), bytes, after));
  }
  return end;
}

void PlacedStep::StreamLayers(bool decodes, bool looks_back) {
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

// FlexGen's loop over layers and batches. A turn is half a layer of one group. Beside it the weights of the next half layer
// cross (with the first group), the KV cache and activations of the next group, activations and new keys and values of the
// one before; then everything is waited for. What is not pinned is copied by the thread that launches the kernels, before it does.
void PlacedStep::TakeTurns(bool decodes, bool looks_back) {
  const size_t groups = groups_.size(), halves = 2 * layers_.size();
  const double share = 1.0 / static_cast<double>(groups);
  const std::vector<Streamed::Bytes> nothing;
  const auto weights = [&](size_t half) -> const std::vector<Streamed::Bytes>& {
    if (half >= halves) return ShareOf(placement_.lm_head, TensorUse::kStream) > 0 ? streamed_.back().first : nothing;
    const int order = layers_[half / 2].streamed;
    if (order < 0) return nothing;
    const Streamed& s = streamed_[static_cast<size_t>(order)];
    return half % 2 == 0 ? s.first : s.second;
  };
  const bool fetches = (decodes && kv_stream_ > 0) || looks_back;
  std::fill(kv_arrived_.begin(), kv_arrived_.end(), kNone);
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

template <class Range, class Of>
PlacedStep::RankBytes PlacedStep::BytesOf(const Range& ranks, const Of& of) const {
  double most = 0, sum = 0;
  for (const auto& rank : ranks) {
    const double bytes = of(rank);
    most = std::max(most, bytes);
    sum += bytes;
  }
  const double all = most * static_cast<double>(plan_.dp);
  return {most, sum < all ? sum / all : 1};
}

PartCost PlacedStep::OfRanks(LayerPart part) {
  PartCost out;
  double joules = 0;
  int64_t tokens = 0;
  for (const int64_t t : tokens_) {
    const PartCost& of = costs_->Part(part, t);
    joules += of.joules;
    if (of.seconds > out.seconds) out = of;
    tokens += t;
  }
  out.joules = joules;
  if (costs_->shares_mlp()) out.Add(costs_->EnginePart(part, tokens));
  return out;
}

void PlacedStep::Deal(std::span<const StepWork> ranks) {
  int64_t most = 1;
  for (const StepWork& work : ranks) most = std::max(most, work.tokens);
  const int64_t count = std::clamp<int64_t>(groups_wanted_, 1, most);
  const double share = 1.0 / static_cast<double>(count);
  past_.assign(ranks.size(), {});
  for (size_t r = 0; r < ranks.size(); ++r) {
    past_[r].decodes = {static_cast<double>(ranks[r].decode_kv_sum), static_cast<double>(ranks[r].decode_kv_sum_windowed)};
    for (const PrefillChunk& c : ranks[r].chunks) {
      const auto past = static_cast<double>(c.past);
      past_[r].chunks[0] += past;
      past_[r].chunks[1] += model_.attention.window > 0 ? std::min(past, static_cast<double>(model_.attention.window)) : past;
    }
  }
  for (const bool windowed : {false, true}) {
    std::vector<PartCost>& prefill = prefill_[windowed];
    prefill.resize(ranks.size());
    for (size_t r = 0; r < ranks.size(); ++r) prefill[r] = costs_->PrefillAttention(windowed, ranks[r].chunks);
  }
  // Groups of equal size.
  groups_.resize(static_cast<size_t>(count));
  tokens_.resize(ranks.size());
  for (int64_t i = 0; i < count; ++i) {
    Group& g = groups_[static_cast<size_t>(i)];
    g = Group();
    g.wait.fill(kNone);
    for (size_t r = 0; r < ranks.size(); ++r) {
      const StepWork& work = ranks[r];
      tokens_[r] = work.tokens / count + (i < work.tokens % count ? 1 : 0);
      g.tokens += tokens_[r];
      g.seqs += static_cast<double>(work.decode_seqs) * share;
      g.kv_sum += static_cast<double>(work.decode_kv_sum) * share;
      g.kv_sum_windowed += static_cast<double>(work.decode_kv_sum_windowed) * share;
    }
    const auto seqs = [&](const StepWork& work) { return static_cast<double>(work.decode_seqs) * share; };
    g.rank_tokens = BytesOf(tokens_, [](int64_t t) { return static_cast<double>(t); });
    g.rank_seqs = BytesOf(ranks, seqs);
    g.rank_prompt_tokens = BytesOf(ranks, [&](const StepWork& work) {
      return std::max(0.0, static_cast<double>(tokens_[static_cast<size_t>(&work - ranks.data())]) - seqs(work));
    });
    for (const bool windowed : {false, true}) {
      RankTime& slowest = g.attention[windowed];
      double longest = -1, in = 0, prompts = 0, decodes = 0, out = 0;
      for (size_t r = 0; r < ranks.size(); ++r) {
        const StepWork& work = ranks[r];
        RankTime t;
        t.in = costs_->Part(LayerPart::kAttentionIn, tokens_[r]);
        t.prompts.Add(prefill_[windowed][r], share);
        const auto all = static_cast<double>(work.decode_kv_sum), seen = windowed ? static_cast<double>(work.decode_kv_sum_windowed) : all;
        const double on_gpu = seen > 0 ? 1 - AttendedByCpu(all, seen, windowed) / seen : 0;
        if (on_gpu > 1e-9) t.decodes = costs_->DecodeAttention(windowed, seqs(work), seen * share * on_gpu, static_cast<double>(work.decode_kv_max) * on_gpu);
        t.out = costs_->Part(LayerPart::kAttentionOut, tokens_[r]);
        in += t.in.joules, prompts += t.prompts.joules, decodes += t.decodes.joules, out += t.out.joules;
        const double seconds = t.in.seconds + t.prompts.seconds + t.decodes.seconds + t.out.seconds;
        if (seconds > longest) {
          longest = seconds;
          slowest = t;
        }
      }
      slowest.in.joules = in, slowest.prompts.joules = prompts, slowest.decodes.joules = decodes, slowest.out.joules = out;
      if (costs_->shares_mlp()) slowest.out.Add(costs_->EnginePart(LayerPart::kAttentionOut, g.tokens));
    }
    g.router = OfRanks(LayerPart::kRouter);
    g.shared_experts = OfRanks(LayerPart::kSharedExperts);
    g.dense_ffn = OfRanks(LayerPart::kDenseFfn);
  }
}

void PlacedStep::Predict(std::span<const StepWork> ranks, StepCost* cost) {
  overlap_.Rebase();
  overlap_.ClearWaits();
  const double cpu_before = overlap_.busy(cpu_lane_);
  step_ = PartCost();
  Deal(ranks);
  bool decodes = false;
  double looked_back = 0;
  int64_t rows = 0;
  for (const StepWork& work : ranks) {
    decodes = decodes || work.decode_seqs > 0;
    rows += work.logits_rows;
  }
  for (const Past& past : past_) looked_back += past.chunks[0];
  last_gpu_ = kNone;
  pending_ = 0;
  pending_count_ = 0;

  for (const TensorPart& p : embedding_) {
    if (p.tier == TierKind::kGpu) continue;
    WaitFor(Move(receive_lane_, memory_.ToGpu(p.tier),
                 BytesOf(ranks, [](const StepWork& work) { return static_cast<double>(work.tokens); }) * (hidden_bytes_ * p.share), kNone));
  }
  if (first()) {
    for (size_t r = 0; r < ranks.size(); ++r) tokens_[r] = ranks[r].tokens;
    Gpu(OfRanks(LayerPart::kEmbedding));
  }
  if (profile_.lockstep) {
    TakeTurns(decodes, looked_back > 0);
  } else {
    StreamLayers(decodes, looked_back > 0);
  }
  for (Group& g : groups_) {
    for (Task& t : g.wait) WaitFor(std::exchange(t, kNone));
  }
  if (!last()) Gpu(SendOn(ranks));
  if (rows > 0 && last()) {
    const double on_cpu = ShareOf(placement_.lm_head, TensorUse::kCompute);
    const bool streams = ShareOf(placement_.lm_head, TensorUse::kStream) > 0;
    if (streams) WaitFor(arrived_.back()[0]);
    if (on_cpu > 0) {
      const RankBytes of_ranks = BytesOf(ranks, [](const StepWork& work) { return static_cast<double>(work.logits_rows); });
      Task t = Send(of_ranks * (hidden_bytes_ / plan_.tp), Flush());
      for (const TensorPart& p : placement_.lm_head) {
        if (p.use == TensorUse::kCompute) t = Cpu(p.tier, p.share * head_bytes_, 2 * p.share * head_parameters_ * static_cast<double>(rows), t);
      }
      WaitFor(Receive(of_ranks * (static_cast<double>(model_.vocab) * 2 / plan_.tp), t));
    }
    PartCost head;
    double joules = 0;
    for (const StepWork& work : ranks) {
      if (work.logits_rows == 0) continue;
      const PartCost& of = costs_->Head(work.logits_rows, on_cpu < 1);
      joules += of.joules;
      if (of.seconds > head.seconds) head = of;
    }
    head.joules = joules;
    Gpu(head);
  }
  if (ShareOf(placement_.lm_head, TensorUse::kStream) > 0 && !profile_.lockstep) {
    const int count_streamed = static_cast<int>(streamed_.size());
    QueueWeights((count_streamed - 1 + window_) % count_streamed, Flush());
  }
  const double seconds = overlap_.RunUntil(Flush());

  host_busy_ += overlap_.busy(cpu_lane_) - cpu_before;
  host_joules_ += (overlap_.busy(cpu_lane_) - cpu_before) * host_.watts();
  cost->dynamic_joules = step_.joules;
  for (size_t i = 0; i < step_.bound.size(); ++i) cost->bound_seconds[i] = step_.bound[i];
  const auto& waits = overlap_.waits();
  cost->bound_seconds[Index(Bound::kLink)] += waits[kLinkTag];
  cost->bound_seconds[Index(Bound::kHostMemory)] += waits[kHostMemoryTag];
  cost->bound_seconds[Index(Bound::kHostCompute)] += waits[kHostComputeTag];
  // The host's own work for a step, as in every engine (hw/engine_profile.h): preparation is the first stage's, the work
  // afterwards the last one's.
  // Each attention rank has a process of its own; the busiest is waited for.
  double prepare = 0, issue = 0, post = 0;
  for (const StepWork& work : ranks) {
    const double sequences = static_cast<double>(work.decode_seqs) + static_cast<double>(work.chunks.size());
    const bool graph = profile_.cuda_graphs && work.tokens <= profile_.graph_max_tokens &&
                       (work.chunks.empty() || profile_.piecewise_graphs);
    issue = std::max(issue, graph ? profile_.graph_launch.value() : profile_.launch.value() * launches_);
    if (first()) {
      prepare = std::max(prepare, profile_.step_host.value() + profile_.sequence_host.value() * sequences +
                                      profile_.token_host.value() * static_cast<double>(work.tokens));
    }
    if (last()) post = std::max(post, profile_.post_step.value() + profile_.post_sequence.value() * static_cast<double>(work.logits_rows));
  }
  HostSpan host{prepare, issue, post};
  if (profile_.overlap) host = {0, prepare + issue, post};
  // With several stages steps do not follow one another, as in resident plans.
  const double total = (profile_.overlap && whole_plan_.pp == 1 ? host.StartedEarly(cost, seconds) : host).Around(seconds);
  cost->bound_seconds[Index(Bound::kHost)] += total - seconds;
  cost->stage_seconds[0] = total;
  cost->dynamic_joules += costs_->operators().power().active_watts() * plan_.tp * plan_.dp * total;
}

PartCost PlacedStep::SendOn(std::span<const StepWork> ranks) {
  PartCost out;
  double joules = 0;
  for (const StepWork& work : ranks) {
    if (work.tokens != sent_tokens_) {
      sent_tokens_ = work.tokens;
      sent_ = costs_->StageSend(LowerStageSend(model_, whole_plan_, stage_, work.tokens), next_stage_);
    }
    joules += sent_.joules;
    if (sent_.seconds > out.seconds) out = sent_;
  }
  out.joules = joules;
  return out;
}

std::vector<ResourceUse> PlacedStep::Resources() const {
  std::vector<ResourceUse> out;
  for (int r = 0; r < network_.resources(); ++r) {
    if (network_.moved(r) <= 0) continue;
    const std::string& name = network_.name(r);
    const double per_byte = name == "host memory" ? kMemoryJoules : name.rfind("NVMe", 0) == 0 ? kDriveJoules
                            : name.rfind("CXL", 0) == 0 ? kMemoryJoules + kLinkJoules : kLinkJoules;
    out.push_back({name, network_.moved(r), parts_[static_cast<size_t>(r)], network_.moved(r) * per_byte});
  }
  return out;
}

std::vector<StepOperator> PlacedStep::Explain(std::span<const StepWork> ranks) {
  // Twice, so that the window is as full as between steps that follow one another.
  StepCost cost;
  Predict(ranks, &cost);
  Predict(ranks, &cost);
  std::vector<StepOperator> out;
  const auto add = [&](const char* name, std::string shape, std::initializer_list<Bound> bounds) {
    StepOperator op;
    op.name = name;
    op.shape = std::move(shape);
    for (const Bound b : bounds) {
      op.time.bound[Index(b)] = cost.bound_seconds[Index(b)];
      op.time.seconds += cost.bound_seconds[Index(b)];
    }
    if (op.time.seconds > 0) out.push_back(std::move(op));
  };
  int64_t tokens = 0;
  for (const StepWork& work : ranks) tokens += work.tokens;
  add("GPU kernels", fmt::format("{} layers, {} tokens", layers_.size(), tokens),
      {Bound::kCompute, Bound::kMemory, Bound::kSerial, Bound::kLaunch, Bound::kWaiting});
  double moved = 0;
  for (const ResourceUse& r : Resources()) moved += r.name == "host link to GPU" ? r.bytes / 2 : 0;
  add("links", fmt::format("{} to each GPU; collectives, and transfers that the GPU waits for", Human(Bytes(moved))), {Bound::kLink});
  add("CPU, memory", "what the GPU waits for while the CPU reads its memory", {Bound::kHostMemory});
  add("CPU, arithmetic", "what the GPU waits for while the CPU computes", {Bound::kHostCompute});
  add("host", "preparation and launches that nothing hides", {Bound::kHost});
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledStepCost>> StepCostOf(const ResolvedScenario& r, const Catalog& catalog,
                                                             const StepCostOptions& options, int replica) {
  if (r.placement.resident) return CompileStepCost(r.model, r.plan, r.machine, r.engine, catalog, options);
  PlacedStepOptions placed;
  placed.cost = options;
  placed.first_gpu = replica * r.plan.gpus_per_engine();
  placed.stages_per_host = r.stages_per_host;
  placed.engines_per_host = r.EnginesPerHost();
  placed.experts = r.config.scheduler.experts;
  std::optional<ExpertRouting> own;
  if (placed.experts.policy && r.model.moe) {
    if (!r.routing) {
      SIMRUN_ASSIGN_OR_RETURN(own, ExpertRouting::Make(nullptr, r.model, ""));
    }
    placed.routing = r.routing ? &*r.routing : &*own;
  }
  placed.seed = static_cast<uint64_t>(r.config.seed);
  placed.engine = replica;
  return MakePlacedStepCost(r.model, r.plan, r.machine, r.engine, r.placement, catalog, placed);
}

absl::StatusOr<std::unique_ptr<CompiledStepCost>> MakePlacedStepCost(const ModelSpec& model, const ParallelPlan& plan,
                                                                     const Machine& machine, const EngineProfile& profile,
                                                                     const Placement& placement, const Catalog& catalog,
                                                                     const PlacedStepOptions& options) {
  std::vector<std::unique_ptr<CompiledStepCost>> stages;
  for (int stage = 0; stage < plan.pp; ++stage) {
    PlacedStepOptions own = options;
    own.first_gpu += stage * plan.tp * plan.dp;
    auto step = std::make_unique<PlacedStep>(model, plan, stage, profile, placement, HostCosts(machine, profile, options.stages_per_host));
    SIMRUN_RETURN_IF_ERROR(step->Build(machine, catalog, own));
    stages.push_back(std::move(step));
  }
  if (stages.size() == 1) return std::move(stages.front());
  return MakePlacedPipeline(std::move(stages));
}

}  // namespace simrun
