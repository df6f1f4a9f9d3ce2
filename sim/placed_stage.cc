#include "sim/placed_stage.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "hw/host_work.h"
#include "models/tensors.h"
#include "sim/routed_experts.h"

namespace simrun {
namespace {
// Energy per byte above idle, assumed: about 15 pJ per bit for DRAM and its channel, 6 for a serial link, 60 for flash.
constexpr double kMemoryJoules = 120e-12, kLinkJoules = 50e-12, kDriveJoules = 500e-12;

constexpr size_t Index(Bound b) { return static_cast<size_t>(b); }
}  // namespace

absl::Status PlacedStage::Build(const Machine& machine, const Catalog& catalog, const PlacedStepOptions& options) {
  SIMRUN_ASSIGN_OR_RETURN(costs_, LayerCosts::Create(model_, plan_, machine, profile_, catalog, options.cost));
  MemorySystemOptions memory;
  memory.first_gpu = options.first_gpu;
  memory.gpus = plan_.tp * plan_.dp;
  memory.engines_per_host = options.stages_per_host;
  memory.pinned = profile_.pinned_memory || StagesItself();
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
  Started();
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

TierRates PlacedStage::RatesToGpu() const {
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

void PlacedStage::ShareHost(int stages) {
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

void PlacedStage::Compile() {
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
    layer.limited = model_.IsWindowedLayer(l) || model_.IsLinearLayer(l);
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
  head_bytes_ = static_cast<double>(model_.vocab * model_.hidden) * stream_element;
  head_parameters_ = static_cast<double>(model_.vocab * model_.hidden);

  const auto shapes = AttentionShapes(model_, plan_, 0);
  const KvBytes kv = KvBytesPerGpu(model_, plan_, 0);
  ParallelPlan whole = plan_;
  whole.tp = whole.ep = whole.dp = 1;
  const KvBytes held_once = KvBytesPerGpu(model_, whole, 0);
  for (const AttentionShape& s : shapes) {
    if (s.linear) continue;
    (s.window > 0 ? kv_bytes_limited_ : kv_bytes_) = (s.window > 0 ? kv.per_token_windowed : kv.per_token).value() / s.layers;
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
  for (const Layer& layer : layers_) launches_ += layer.moe ? costs_->launches_moe() : costs_->launches_dense();
  if (last()) launches_ += costs_->launches_ends();
}

PartCost PlacedStage::OfRanks(LayerPart part) {
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

void PlacedStage::Deal(std::span<const StepWork> ranks) {
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
  for (const bool limited : {false, true}) {
    std::vector<PartCost>& prefill = prefill_[limited];
    prefill.resize(ranks.size());
    for (size_t r = 0; r < ranks.size(); ++r) prefill[r] = costs_->PrefillAttention(limited, ranks[r].chunks);
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
    for (const bool limited : {false, true}) {
      RankTime& slowest = g.attention[limited];
      double longest = -1, in = 0, prompts = 0, decodes = 0, out = 0;
      for (size_t r = 0; r < ranks.size(); ++r) {
        const StepWork& work = ranks[r];
        RankTime t;
        t.in = costs_->Part(LayerPart::kAttentionIn, tokens_[r]);
        t.prompts.Add(prefill_[limited][r], share);
        const auto all = static_cast<double>(work.decode_kv_sum), seen = limited ? static_cast<double>(work.decode_kv_sum_windowed) : all;
        // Linear attention has no keys to see; it stays on the GPU with all of the cache.
        const double on_gpu = kv_cpu_ == 0 ? 1 : seen > 0 ? 1 - AttendedByCpu(all, seen, limited) / seen : 0;
        if (on_gpu > 1e-9) t.decodes = costs_->DecodeAttention(limited, seqs(work), seen * share * on_gpu, static_cast<double>(work.decode_kv_max) * on_gpu);
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

void PlacedStage::Predict(std::span<const StepWork> ranks, StepCost* cost) {
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
  RunLayers(decodes, looked_back > 0);
  for (Group& g : groups_) {
    for (Task& t : g.wait) WaitFor(std::exchange(t, kNone));
  }
  if (!last()) Gpu(SendOn(ranks));
  if (rows > 0 && last()) {
    const double on_cpu = ShareOf(placement_.lm_head, TensorUse::kCompute);
    WaitFor(HeadWeights());
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
  AfterHead();
  const double seconds = overlap_.RunUntil(Flush());

  host_busy_ += overlap_.busy(cpu_lane_) - cpu_before;
  host_joules_ += (overlap_.busy(cpu_lane_) - cpu_before) * host_.watts();
  cost->dynamic_joules = step_.joules;
  for (size_t i = 0; i < step_.bound.size(); ++i) cost->bound_seconds[i] = step_.bound[i];
  const auto& waits = overlap_.waits();
  cost->bound_seconds[Index(Bound::kLink)] += waits[kLinkTag];
  cost->bound_seconds[Index(Bound::kHostMemory)] += waits[kHostMemoryTag];
  cost->bound_seconds[Index(Bound::kHostCompute)] += waits[kHostComputeTag];
  const auto replays_graph = [&](const StepWork& work) {
    return profile_.cuda_graphs && work.tokens <= profile_.graph_max_tokens && (work.chunks.empty() || profile_.piecewise_graphs);
  };
  const HostSpan host = HostWork::Of(profile_, ranks, replays_graph).SpanOf(profile_, first(), last(), launches_);
  // With several stages steps do not follow one another, as in resident plans.
  const double total = (profile_.overlap && whole_plan_.pp == 1 ? host.StartedEarly(cost, seconds) : host).Around(seconds);
  cost->bound_seconds[Index(Bound::kHost)] += total - seconds;
  cost->stage_seconds[0] = total;
  cost->dynamic_joules += costs_->operators().power().active_watts() * plan_.tp * plan_.dp * total;
}

PartCost PlacedStage::SendOn(std::span<const StepWork> ranks) {
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

std::vector<ResourceUse> PlacedStage::Resources() const {
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

std::vector<StepOperator> PlacedStage::Explain(std::span<const StepWork> ranks) {
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

}  // namespace simrun
