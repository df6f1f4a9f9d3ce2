// The parts of one layer: attention, feed-forward part and experts on GPU and CPU, and what crosses the links for them.
#include "sim/placed_stage.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace simrun {

double PlacedStage::ArrivalCap(const Route& route) const {
  if (profile_.arrival_copies <= 0) return route.cap;
  double way = 1 / route.cap;
  for (const FlowNetwork::Use& use : route.uses) way = std::max(way, use.per_byte / network_.capacity(use.resource));
  // Copies on the stream of the transfers: one ends before the next begins. Each reads and writes.
  return 1 / (way + 2 * profile_.arrival_copies / costs_->operators().WideningRate());
}

void PlacedStage::WaitFor(Task task) {
  if (task == kNone || overlap_.Done(task)) return;
  if (pending_ > 0 || pending_count_ == Overlap::kMostAfter) Flush();
  pending_after_[pending_count_++] = task;
}

PlacedStage::Task PlacedStage::Flush() {
  if (pending_ <= 0 && pending_count_ == 0 && last_gpu_ != kNone) return last_gpu_;
  const auto& a = pending_after_;
  const auto after = [&](size_t i) { return i < pending_count_ ? a[i] : kNone; };
  last_gpu_ = overlap_.Work(gpu_lane_, kGpuTag, pending_, {after(0), after(1), after(2), after(3), after(4), after(5)});
  pending_ = 0;
  pending_count_ = 0;
  return last_gpu_;
}

PlacedStage::Task PlacedStage::Cpu(TierKind tier, double bytes, double flops, Task after) {
  if (bytes <= 0) return after;
  const int tag = host_.BoundByArithmetic(tier, bytes, flops) ? kHostComputeTag : kHostMemoryTag;
  return overlap_.Move(cpu_lane_, tag, memory_.CpuRead(tier).uses, bytes, host_.Cap(tier, bytes, flops), host_.fixed(), {after});
}

// The KV cache of a layer that crosses the link, of all groups: of sequences that decode, and of earlier chunks of
// prompts. One layer ahead.
PlacedStage::RankBytes PlacedStage::FetchedTokens(const KvPart& part, bool limited) const {
  return BytesOf(past_, [&](const Past& rank) {
    return (part.use == TensorUse::kStream ? Attended(part, rank.decodes[false], rank.decodes[limited], limited) : 0) +
           Attended(part, rank.chunks[false], rank.chunks[limited], limited);
  });
}

double PlacedStage::AttendedByCpu(double all, double seen, bool limited) const {
  double tokens = 0;
  for (const KvPart& part : kv_parts_) tokens += part.use == TensorUse::kCompute ? Attended(part, all, seen, limited) : 0;
  return tokens;
}

void PlacedStage::Attention(size_t l, Group& g) {
  Layer& layer = layers_[l];
  BeforeAttention(l, g);
  for (Task& t : g.wait) WaitFor(std::exchange(t, kNone));
  WaitFor(WeightsOf(l, 0));
  WaitFor(KvOf(l));
  const double tokens = static_cast<double>(g.tokens);
  Task before = kNone;
  if (!layer.attention_cpu.empty()) before = Flush();
  const RankTime& attention = g.attention[layer.limited];
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
  const double on_cpu = AttendedByCpu(g.kv_sum, layer.limited ? g.kv_sum_windowed : g.kv_sum, layer.limited);
  const bool cpu = on_cpu > 0 && seqs > 0;
  if (!kv_parts_.empty()) {
    const Task done = Flush();
    KvRead(l, done);
    // New keys and values go where the cache lies: those the CPU is about to read together with the queries, the others
    // in the background.
    const double per_token = layer.limited ? kv_bytes_limited_ : kv_bytes_;
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
        const double of_part = Attended(p, g.kv_sum, layer.limited ? g.kv_sum_windowed : g.kv_sum, layer.limited);
        before = Cpu(p.tier, of_part * kv_host_bytes_[layer.limited], of_part * kv_flops_, before);
      }
      g.wait[1] = Receive(g.rank_seqs * query_bytes_, before);
    }
  }
}

PlacedStage::Task PlacedStage::MoveExperts(double ExpertWork::Tier::*bytes, Task after) {
  Task last = kNone;
  for (size_t t = 1; t < expert_work_.tiers.size(); ++t) {
    const double of_tier = expert_work_.tiers[t].*bytes;
    if (of_tier <= 0) continue;
    const Route& r = memory_.ToGpu(static_cast<TierKind>(t));
    last = Join(last, overlap_.Move(expert_lanes_[t], kLinkTag, r.uses, of_tier, r.cap, r.latency, {after}));
  }
  return last;
}

void PlacedStage::FeedForward(size_t l, Group& g) {
  Layer& layer = layers_[l];
  const double tokens = static_cast<double>(g.tokens);
  for (Task& t : g.wait) WaitFor(std::exchange(t, kNone));
  Gpu(g.attention[layer.limited].out, layer.attention_gpu);
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
      WaitFor(WeightsOf(l, 1));
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
    WaitFor(WeightsOf(l, 1));
    if (layer.moe) {
      Gpu(g.shared_experts, layer.ffn_gpu);
      Gpu(expert_work_.resident);
    } else {
      Gpu(g.dense_ffn, layer.ffn_gpu);
    }
  }
  AfterFeedForward(l, g);
}

PlacedStage::Task PlacedStage::FetchActivations(const Group& g, Task after) {
  Task last = kNone;
  for (const TensorPart& p : placement_.activations) {
    if (p.tier != TierKind::kGpu) last = Join(last, Move(receive_lane_, memory_.ToGpu(p.tier), g.rank_tokens * (hidden_bytes_ * p.share), after));
  }
  return last;
}

PlacedStage::Task PlacedStage::StoreActivations(const Group& g, Task after) {
  Task last = kNone;
  for (const TensorPart& p : placement_.activations) {
    if (p.tier != TierKind::kGpu) last = Join(last, Send(g.rank_tokens * (hidden_bytes_ * p.share), p.tier, after));
  }
  return last;
}

}  // namespace simrun
