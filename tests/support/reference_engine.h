// A slow and obvious serving engine beside the fast one of sim/: an object per request that records the time of every
// token, a table of KV block numbers per sequence, the tokens in every block that can be found by them, loops over all sequences in every step, no fast-forward, no sums kept
// from step to step, no heaps. It shares with sim/ only plain inputs (EngineParams, Arrival, StepCostModel, Router).
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/sketch.h"
#include "hw/step_cost.h"
#include "schedulers/batching.h"
#include "schedulers/router.h"
#include "sim/replica.h"
#include "workload/source.h"

namespace simrun {

enum class ReferencePolicy {
  kChunkedPrefill,
  kPrefillFirst,
  kOrca,
  kStatic,
  kCustom,   // the BatchingPolicy given, called with a view built here
};

struct ReferenceRequest {
  enum class State { kWaiting, kSwapped, kPrompt, kDecode, kHeld, kDone, kRefused };
  Arrival arrival;
  uint64_t order = 0;
  size_t replica = 0, rank = 0, lane = 0;
  State state = State::kWaiting;
  int64_t to_prefill = 0;             // prompt tokens of this life
  int64_t prefilled = 0;
  int64_t kv = 0;                     // tokens whose keys and values are stored (decode and held)
  std::vector<int64_t> blocks;        // block numbers held on the GPU
  int64_t named_blocks = 0;           // of these, leading ones that can be found, or were when another block could
  int64_t hit_tokens = -1;            // found in the prefix cache when first admitted
  int64_t swapped_blocks = 0;
  std::vector<SimTime> tokens;        // when each output token came out
  SimTime first_start = SimTime::Infinite();
  int32_t preemptions = 0;
  bool in_step = false;               // a step in flight works on it

  int64_t max_kv() const { return arrival.input_tokens + arrival.output_tokens - 1; }
  bool resident() const { return state == State::kPrompt || state == State::kDecode || state == State::kHeld; }
};

class ReferenceEngine {
 public:
  ReferenceEngine(uint32_t index, const EngineParams& params, ReferencePolicy policy, const BatchingPolicy* custom,
                  StepCostModel* model)
      : index_(index), p_(params), policy_(policy), custom_(custom), model_(model) {
    whole_life_ = policy == ReferencePolicy::kOrca || policy == ReferencePolicy::kStatic ||
                  (custom != nullptr && custom->reservation() == KvReservation::kWholeLife);
    holds_ = policy == ReferencePolicy::kStatic;
    free_.resize(static_cast<size_t>(p_.ranks));
    swap_free_.assign(static_cast<size_t>(p_.ranks), p_.swap_blocks);
    contents_.resize(free_.size());
    for (auto& pool : free_) {
      for (int64_t b = 0; b < p_.kv_blocks; ++b) pool.push_back(b);
    }
    lanes_.resize(static_cast<size_t>(p_.lanes));
    stage_free_.resize(static_cast<size_t>(model->stages()));
  }

  bool Enqueue(ReferenceRequest* r) {
    const Arrival& a = r->arrival;
    if (p_.max_model_len > 0 && a.input_tokens + a.output_tokens > p_.max_model_len) return false;
    if (Blocks(r->max_kv()) > p_.kv_blocks) return false;
    // The rank with the fewest unfinished requests.
    std::vector<int64_t> unfinished(free_.size());
    for (const ReferenceRequest* q : all_) {
      if (q->state != ReferenceRequest::State::kDone && q->state != ReferenceRequest::State::kHeld) ++unfinished[q->rank];
    }
    r->rank = static_cast<size_t>(std::min_element(unfinished.begin(), unfinished.end()) - unfinished.begin());
    r->replica = index_;
    r->order = all_.size();
    r->to_prefill = a.input_tokens;
    // Nothing is kept of requests before the first that says what its prompt has in common with others, or is preempted.
    if (p_.prefix_caching && a.text != nullptr) caching_ = true;
    all_.push_back(r);
    return true;
  }

  SimTime NextEnd() const {
    SimTime end = SimTime::Infinite();
    for (const Lane& lane : lanes_) end = std::min(end, lane.busy ? lane.end : SimTime::Infinite());
    return end;
  }

  // Ends the steps that end now; returns how many requests finished.
  int EndSteps(SimTime now) {
    int finished = 0;
    for (Lane& lane : lanes_) {
      if (lane.busy && lane.end == now) finished += EndStep(lane, now);
    }
    return finished;
  }

  void PlanIdleLanes(SimTime now) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
      if (!lanes_[i].busy) PlanLane(i, now);
    }
  }

  ReplicaLoad Load() const {
    ReplicaLoad load;
    for (const ReferenceRequest* q : all_) {
      load.waiting += q->state == ReferenceRequest::State::kWaiting || q->state == ReferenceRequest::State::kSwapped;
      load.running += q->state == ReferenceRequest::State::kPrompt || q->state == ReferenceRequest::State::kDecode;
    }
    return load;
  }

  int64_t BlocksInUse() const {
    int64_t used = 0;
    for (const auto& pool : free_) used += p_.kv_blocks - static_cast<int64_t>(pool.size());
    return used;
  }

  int64_t CachedBlocks() const {
    size_t cached = 0;
    for (const auto& contents : contents_) cached += contents.size();
    return static_cast<int64_t>(cached);
  }

  EngineTotals totals;                  // busy is not kept
  int64_t evicted_blocks = 0;
  std::vector<StepRecord> steps;
  QuantileSketch gaps;                  // between consecutive tokens of one request

 private:
  using State = ReferenceRequest::State;
  struct Work {                         // of one rank in the step in flight
    std::vector<ReferenceRequest*> decodes;               // held ones included
    std::vector<std::pair<ReferenceRequest*, PrefillChunk>> prompts;
    std::vector<ReferenceRequest*> swap_ins;
    std::vector<PrefillChunk> chunks;
  };
  struct Lane {
    bool busy = false;
    SimTime start, end;
    std::vector<Work> work;
    double owed_swap_seconds = 0;       // swapped out for a step that then had nothing to do
  };
  struct Decision {
    bool decode = false;
    std::vector<int64_t> partial, admitted;
  };

  int64_t Blocks(int64_t tokens) const { return (tokens + p_.limits.block_size - 1) / p_.limits.block_size + p_.limits.state_blocks; }

  void Allocate(ReferenceRequest* r, int64_t count) {
    auto& pool = free_[r->rank];
    for (int64_t i = 0; i < count; ++i) {
      SIM_CHECK(!pool.empty());
      r->blocks.push_back(pool.front());
      evicted_blocks += static_cast<int64_t>(contents_[r->rank].erase(pool.front()));
      pool.pop_front();
    }
    totals.peak_blocks = std::max(totals.peak_blocks, p_.kv_blocks - static_cast<int64_t>(pool.size()));
  }
  void Release(ReferenceRequest* r) {
    r->named_blocks = 0;
    while (!r->blocks.empty()) {
      const int64_t block = r->blocks.back();
      r->blocks.pop_back();
      if (Users(r->rank, block) == 0) free_[r->rank].push_back(block);
    }
  }

  // Prefix caching. A token is told by where it stands and what says so: an id of the text, or the request.
  using Tokens = std::vector<std::tuple<bool, uint64_t, int64_t>>;
  static Tokens FirstTokens(const ReferenceRequest* r, int64_t count) {
    Tokens tokens;
    for (int64_t i = 0; i < count; ++i) {
      const PromptText* text = r->arrival.text.get();
      size_t block = text == nullptr ? 0 : static_cast<size_t>(i / text->block_tokens);
      const bool goes_on = text != nullptr && text->goes_on;
      if (goes_on) block = std::min(block, text->ids.size() - 1);
      const bool shared = goes_on || (text != nullptr && i < r->arrival.input_tokens && block < text->ids.size());
      tokens.emplace_back(shared, shared ? text->ids[block] : r->arrival.id, i);
    }
    return tokens;
  }
  int64_t Users(size_t rank, int64_t block) const {
    int64_t users = 0;
    for (const ReferenceRequest* r : all_) users += r->rank == rank && std::count(r->blocks.begin(), r->blocks.end(), block) > 0;
    return users;
  }
  // The block that holds the last of these tokens behind the others; -1: none.
  int64_t Holder(size_t rank, const Tokens& tokens) const {
    for (const auto& [block, content] : contents_[rank]) {
      if (content == tokens) return block;
    }
    return -1;
  }
  // Cached blocks of the sequence from block `from` on. One token at least is computed.
  std::vector<int64_t> Cached(const ReferenceRequest* r, int64_t from) const {
    std::vector<int64_t> found;
    if (!caching_ || r->state == State::kSwapped) return found;
    for (int64_t i = from; (i + 1) * p_.limits.block_size < r->to_prefill; ++i) {
      const int64_t block = Holder(r->rank, FirstTokens(r, (i + 1) * p_.limits.block_size));
      if (block < 0) break;
      found.push_back(block);
    }
    return found;
  }
  void TakeCached(ReferenceRequest* r) {
    for (const int64_t block : Cached(r, static_cast<int64_t>(r->blocks.size()))) {
      auto& pool = free_[r->rank];
      pool.erase(std::remove(pool.begin(), pool.end(), block), pool.end());
      r->blocks.push_back(block);
      ++r->named_blocks;
    }
  }
  // The first `computed` tokens are, or will be by the end of the step: their full blocks can be found from now on. A
  // preempted sequence looks for all of its blocks again; others can find what is within the text.
  void Remember(ReferenceRequest* r, int64_t computed, bool own) {
    if (!caching_) return;
    const PromptText* text = r->arrival.text.get();
    int64_t shared = text == nullptr ? 0 : std::min(r->arrival.input_tokens, text->block_tokens * static_cast<int64_t>(text->ids.size()));
    if (text != nullptr && text->goes_on) shared = computed;
    auto& contents = contents_[r->rank];
    for (int64_t& i = r->named_blocks; (i + 1) * p_.limits.block_size <= (own ? computed : std::min(computed, shared)); ++i) {
      const int64_t block = r->blocks[static_cast<size_t>(i)];
      const Tokens tokens = FirstTokens(r, (i + 1) * p_.limits.block_size);
      const int64_t other = Holder(r->rank, tokens);
      if (other >= 0 && Users(r->rank, other) > 0) continue;
      if (other >= 0) contents.erase(other);
      contents[block] = tokens;
    }
  }
  class Lookup final : public PrefixLookup {
   public:
    Lookup(const ReferenceEngine* engine, const std::vector<ReferenceRequest*>& waiting) : engine_(engine), waiting_(waiting) {}
    Found Find(const WaitingRequest& w) const override {
      const ReferenceRequest* r = waiting_[w.id];
      const std::vector<int64_t> blocks = engine_->Cached(r, 0);
      return {static_cast<int64_t>(blocks.size()) * engine_->p_.limits.block_size, engine_->InUse(r, blocks)};
    }

   private:
    const ReferenceEngine* engine_;
    const std::vector<ReferenceRequest*>& waiting_;
  };
  int64_t InUse(const ReferenceRequest* r, const std::vector<int64_t>& blocks) const {
    int64_t used = 0;
    for (const int64_t block : blocks) used += Users(r->rank, block) > 0;
    return used;
  }

  std::vector<ReferenceRequest*> Waiting(size_t rank) const {
    std::vector<ReferenceRequest*> waiting;
    for (ReferenceRequest* r : all_) {
      if (r->rank == rank && (r->state == State::kWaiting || r->state == State::kSwapped)) waiting.push_back(r);
    }
    const auto key = [this](const ReferenceRequest* r) -> int64_t {
      switch (p_.queue_order) {
        case QueueOrder::kFcfs: return 0;
        // Tokens it still computes: the prompt of this life and every output token but one.
        case QueueOrder::kShortestJob: {
          const int64_t prompt = r->state == State::kSwapped ? 0 : r->to_prefill;
          const int64_t stored = r->state == State::kSwapped ? r->kv : r->to_prefill;
          return prompt + r->max_kv() - stored;
        }
        case QueueOrder::kPriority: return r->arrival.priority;
        case QueueOrder::kEarliestDeadline: return r->arrival.deadline.ticks();
      }
      return 0;
    };
    std::stable_sort(waiting.begin(), waiting.end(), [&](const ReferenceRequest* a, const ReferenceRequest* b) {
      return std::make_pair(key(a), a->order) < std::make_pair(key(b), b->order);
    });
    return waiting;
  }
  std::vector<ReferenceRequest*> Residents(size_t rank, size_t lane, State state) const {
    std::vector<ReferenceRequest*> found;
    for (ReferenceRequest* r : all_) {
      if (r->state == state && r->rank == rank && r->lane == lane) found.push_back(r);
    }
    return found;
  }
  // Admission order, kept apart because a preempted request may be admitted again.
  std::vector<ReferenceRequest*> Partial(size_t rank, size_t lane) const {
    std::vector<ReferenceRequest*> found = Residents(rank, lane, State::kPrompt);
    std::sort(found.begin(), found.end(), [this](const ReferenceRequest* a, const ReferenceRequest* b) {
      return admitted_at_.at(a) < admitted_at_.at(b);
    });
    return found;
  }

  int64_t NewBlocks(const std::vector<ReferenceRequest*>& decodes) const {
    if (whole_life_) return 0;
    int64_t count = 0;
    for (const ReferenceRequest* r : decodes) count += Blocks(r->kv + 1) - static_cast<int64_t>(r->blocks.size());
    return count;
  }

  Decision Decide(size_t lane, size_t rank, bool may_admit) const {
    const std::vector<ReferenceRequest*> decodes = Residents(rank, lane, State::kDecode);
    const std::vector<ReferenceRequest*> held = Residents(rank, lane, State::kHeld);
    const std::vector<ReferenceRequest*> partial = Partial(rank, lane);
    const std::vector<ReferenceRequest*> waiting = Waiting(rank);
    int64_t resident = 0;
    for (const ReferenceRequest* r : all_) resident += r->rank == rank && r->resident();
    BatchLimits limits = p_.limits;
    if (lanes_.size() > 1) {
      const int64_t lanes = static_cast<int64_t>(lanes_.size());
      const int64_t total = std::min(limits.max_num_seqs, resident + static_cast<int64_t>(waiting.size()));
      const int64_t own = static_cast<int64_t>(decodes.size() + held.size() + partial.size());
      // An even share of the sequences, and never more than the limit over all lanes.
      limits.max_num_seqs = std::min((total + lanes - 1) / lanes, limits.max_num_seqs - (resident - own));
    }
    int64_t free = std::max<int64_t>(0, static_cast<int64_t>(free_[rank].size()) - NewBlocks(decodes));
    int64_t running = static_cast<int64_t>(decodes.size() + held.size() + partial.size());

    if (policy_ == ReferencePolicy::kCustom) {
      WaitingQueue queue(p_.queue_order);
      if (may_admit) {
        for (uint32_t i = 0; i < waiting.size(); ++i) {
          const ReferenceRequest* r = waiting[i];
          const bool swapped = r->state == State::kSwapped;
          queue.Push({i, r->order, swapped ? 0 : r->to_prefill, swapped ? r->kv : r->to_prefill, r->max_kv(),
                      r->arrival.priority, r->arrival.deadline.ticks()});
        }
      }
      std::vector<int64_t> left;
      for (const ReferenceRequest* r : partial) left.push_back(r->to_prefill - r->prefilled);
      ReplicaView view;
      view.limits = limits;
      view.decode_seqs = static_cast<int64_t>(decodes.size());
      view.held_seqs = static_cast<int64_t>(held.size());
      view.partial = left;
      view.waiting = &queue;
      view.free_blocks = free;
      view.reservation = custom_->reservation();
      const Lookup lookup(this, waiting);
      view.prefixes = &lookup;
      Batch batch;
      custom_->Plan(view, &batch);
      return {batch.decode, batch.partial_tokens, batch.admitted_tokens};
    }

    Decision d;
    const bool chunked = policy_ == ReferencePolicy::kChunkedPrefill;
    int64_t budget = limits.max_num_batched_tokens;
    if (policy_ == ReferencePolicy::kStatic) {
      budget = INT64_MAX;
      if (running > 0) {
        d.decode = !decodes.empty();
        return d;
      }
    }
    if (chunked || policy_ == ReferencePolicy::kOrca) {
      d.decode = !decodes.empty();
      budget -= static_cast<int64_t>(decodes.size());
    }
    for (const ReferenceRequest* r : partial) {
      if (!chunked || budget <= 0) break;
      d.partial.push_back(std::min(r->to_prefill - r->prefilled, budget));
      budget -= d.partial.back();
    }
    for (size_t i = 0; may_admit && i < waiting.size(); ++i) {
      const ReferenceRequest* r = waiting[i];
      const std::vector<int64_t> cached = Cached(r, 0);
      const int64_t prompt = r->state == State::kSwapped ? 0 : r->to_prefill - static_cast<int64_t>(cached.size()) * limits.block_size;
      const int64_t stored = whole_life_ ? r->max_kv() : r->state == State::kSwapped ? r->kv : r->to_prefill;
      const int64_t blocks = Blocks(stored) - InUse(r, cached);
      if (running >= limits.max_num_seqs) break;
      if (chunked && budget <= 0) break;
      // Whole prompts: one that is over the budget may only be the first of its step.
      if (!chunked && !d.admitted.empty() && (prompt > budget || budget <= 0)) break;
      const int64_t keep = running == 0 ? 0 : limits.watermark_blocks;
      if (free - blocks < keep) break;
      const int64_t now = chunked ? std::min(prompt, budget) : prompt;
      d.admitted.push_back(now);
      budget -= now;
      free -= blocks;
      ++running;
    }
    if (policy_ == ReferencePolicy::kPrefillFirst && d.admitted.empty()) d.decode = !decodes.empty();
    return d;
  }

  // The sequences of a rank in lanes where no step in flight works on any of them; the victim is the one that matters
  // least. None when there is only one: the others are in steps in flight and will make room.
  ReferenceRequest* Victim(size_t rank) const {
    ReferenceRequest* victim = nullptr;
    int candidates = 0;
    std::set<size_t> working;
    for (const ReferenceRequest* r : all_) {
      if (r->rank == rank && r->in_step) working.insert(r->lane);
    }
    for (ReferenceRequest* r : all_) {
      if (r->rank != rank || !r->resident() || working.count(r->lane) > 0) continue;
      ++candidates;
      const auto key = [this](const ReferenceRequest* q) {
        return std::make_pair(p_.queue_order == QueueOrder::kPriority ? q->arrival.priority : 0, q->order);
      };
      if (victim == nullptr || key(r) > key(victim)) victim = r;
    }
    return candidates > 1 ? victim : nullptr;
  }

  void Preempt(ReferenceRequest* r, double* swap_seconds) {
    ++r->preemptions;
    ++totals.preemptions;
    const int64_t held = static_cast<int64_t>(r->blocks.size());
    const bool swap = r->state == State::kDecode && p_.preemption == Preemption::kSwap && swap_free_[r->rank] >= held;
    if (!swap && p_.prefix_caching) caching_ = true;
    if (!swap) Remember(r, r->state == State::kDecode ? r->kv : r->prefilled, true);
    Release(r);
    if (swap) {
      swap_free_[r->rank] -= held;
      r->swapped_blocks = held;
      totals.swapped_blocks += held;
      *swap_seconds += static_cast<double>(held) * p_.swap_seconds_per_block;
      r->state = State::kSwapped;
      return;
    }
    if (r->state == State::kDecode) {
      r->to_prefill = r->arrival.input_tokens + static_cast<int64_t>(r->tokens.size());
      totals.recomputed_tokens += r->to_prefill;
    } else {
      totals.recomputed_tokens += r->prefilled;
    }
    r->prefilled = 0;
    r->kv = 0;
    r->state = State::kWaiting;
  }

  void PlanRank(size_t lane_index, size_t rank, SimTime now, Work* work, double* swap_seconds) {
    const auto decodes = [&] {
      std::vector<ReferenceRequest*> all = Residents(rank, lane_index, State::kDecode);
      for (ReferenceRequest* r : Residents(rank, lane_index, State::kHeld)) all.push_back(r);
      return all;
    };
    Decision d = Decide(lane_index, rank, true);
    if (d.decode && NewBlocks(decodes()) > static_cast<int64_t>(free_[rank].size())) {
      bool room = true;
      while (room && NewBlocks(decodes()) > static_cast<int64_t>(free_[rank].size())) {
        ReferenceRequest* victim = Victim(rank);
        if (victim == nullptr) {
          room = false;
        } else {
          Preempt(victim, swap_seconds);
        }
      }
      d = room ? Decide(lane_index, rank, false) : Decision();
    }
    const std::vector<ReferenceRequest*> partial = Partial(rank, lane_index);
    const std::vector<ReferenceRequest*> waiting = Waiting(rank);
    for (size_t i = 0; i < d.admitted.size(); ++i) TakeCached(waiting[i]);
    if (d.decode) {
      work->decodes = decodes();
      for (ReferenceRequest* r : work->decodes) {
        if (!whole_life_) Allocate(r, Blocks(r->kv + 1) - static_cast<int64_t>(r->blocks.size()));
      }
    }
    for (size_t i = 0; i < d.partial.size(); ++i) {
      if (d.partial[i] == 0) continue;
      work->prompts.push_back({partial[i], {d.partial[i], partial[i]->prefilled}});
      Remember(partial[i], partial[i]->prefilled + d.partial[i], false);
    }
    for (size_t i = 0; i < d.admitted.size(); ++i) {
      ReferenceRequest* r = waiting[i];
      r->lane = lane_index;
      r->first_start = std::min(r->first_start, now);
      const bool swapped = r->state == State::kSwapped;
      TakeCached(r);
      const int64_t cached = static_cast<int64_t>(r->blocks.size());
      Allocate(r, Blocks(whole_life_ ? r->max_kv() : swapped ? r->kv : r->to_prefill) - cached);
      admitted_at_[r] = ++admissions_;
      if (swapped) {
        swap_free_[rank] += r->swapped_blocks;
        totals.swapped_blocks += r->swapped_blocks;
        *swap_seconds += static_cast<double>(r->swapped_blocks) * p_.swap_seconds_per_block;
        r->swapped_blocks = 0;
        r->state = State::kDecode;
        work->swap_ins.push_back(r);
      } else {
        r->state = State::kPrompt;
        r->prefilled = cached * p_.limits.block_size;
        const bool first = r->hit_tokens < 0;
        if (first) {
          r->hit_tokens = r->prefilled;
          totals.looked_up_tokens += r->to_prefill;
        }
        if (first && caching_) {
          totals.cached_tokens += r->prefilled;
        } else {
          totals.resumed_tokens += r->prefilled;
        }
        const int64_t now_tokens = std::min(d.admitted[i], r->to_prefill - r->prefilled);
        if (now_tokens > 0) work->prompts.push_back({r, {now_tokens, r->prefilled}});
        Remember(r, r->prefilled + now_tokens, false);
      }
    }
    for (ReferenceRequest* r : work->decodes) r->in_step = true;
    for (auto& [r, chunk] : work->prompts) r->in_step = true;
    for (ReferenceRequest* r : work->swap_ins) r->in_step = true;
    for (auto& [r, chunk] : work->prompts) work->chunks.push_back(chunk);
  }

  StepWork Describe(const Work& work) const {
    StepWork w;
    for (const ReferenceRequest* r : work.decodes) {
      const int64_t kv = r->kv + 1;
      ++w.decode_seqs;
      ++w.logits_rows;
      ++w.tokens;
      w.decode_kv_sum += kv;
      w.decode_kv_sum_windowed += p_.window > 0 ? std::min(kv, p_.window) : kv;
      w.decode_kv_max = std::max(w.decode_kv_max, kv);
    }
    for (const auto& [r, chunk] : work.prompts) {
      w.tokens += chunk.tokens;
      w.logits_rows += chunk.past + chunk.tokens == r->to_prefill;
    }
    w.chunks = work.chunks;
    return w;
  }

  void PlanLane(size_t lane_index, SimTime now) {
    Lane& lane = lanes_[lane_index];
    lane.work.assign(free_.size(), Work());
    double swap_seconds = lane.owed_swap_seconds;
    int64_t tokens = 0;
    bool swap_ins = false;
    std::vector<StepWork> works;
    for (size_t rank = 0; rank < free_.size(); ++rank) {
      PlanRank(lane_index, rank, now, &lane.work[rank], &swap_seconds);
      works.push_back(Describe(lane.work[rank]));
      tokens += works.back().tokens;
      swap_ins = swap_ins || !lane.work[rank].swap_ins.empty();
    }
    lane.owed_swap_seconds = swap_seconds;
    if (tokens == 0 && !swap_ins) return;
    lane.owed_swap_seconds = 0;
    StepCost cost;
    if (tokens > 0) {
      model_->Predict(works, &cost);
      totals.dynamic_joules += cost.dynamic_joules;
      for (size_t b = 0; b < kNumBounds; ++b) totals.bound_seconds[b] += cost.bound_seconds[b];
    } else {
      cost.stage_seconds = {};
    }
    if (swap_seconds > 0) {
      cost.stage_seconds[0] += swap_seconds;
      totals.bound_seconds[static_cast<size_t>(Bound::kLink)] += swap_seconds;
    }
    SimTime at = now;
    for (size_t s = 0; s < stage_free_.size(); ++s) {
      SimTime duration = SimTime::From(Seconds(cost.stage_seconds[s]));
      if (duration.ticks() < 1) duration = SimTime::FromTicks(1);
      at = std::max(at, stage_free_[s]);
      if (s == 0) lane.start = at;
      at = at + duration;
      stage_free_[s] = at;
      totals.stage_busy = totals.stage_busy + duration;
    }
    lane.busy = true;
    lane.end = at;
    ++totals.steps;
    StepRecord record{index_, static_cast<int>(lane_index), lane.start, lane.end};
    for (const StepWork& w : works) {
      record.tokens += w.tokens;
      record.decode_seqs += w.decode_seqs;
      record.chunks += static_cast<int64_t>(w.chunks.size());
    }
    record.prefill_tokens = record.tokens - record.decode_seqs;
    planned_[lane_index] = record;
  }

  int Emit(ReferenceRequest* r, SimTime now) {
    if (!r->tokens.empty()) gaps.Add(now - r->tokens.back());
    r->tokens.push_back(now);
    if (static_cast<int64_t>(r->tokens.size()) < r->arrival.output_tokens) return 0;
    if (holds_ && r->state == State::kDecode) {
      r->state = State::kHeld;
    } else {
      r->state = State::kDone;
      Remember(r, r->kv, false);
      Release(r);
    }
    return 1;
  }

  int EndStep(Lane& lane, SimTime now) {
    const size_t lane_index = static_cast<size_t>(&lane - lanes_.data());
    steps.push_back(planned_[lane_index]);
    lane.busy = false;
    int finished = 0;
    for (size_t rank = 0; rank < lane.work.size(); ++rank) {
      Work& work = lane.work[rank];
      for (ReferenceRequest* r : work.decodes) {
        r->in_step = false;
        ++r->kv;
        if (r->state == State::kHeld) continue;
        ++totals.decode_tokens;
        finished += Emit(r, now);
      }
      for (auto& [r, chunk] : work.prompts) {
        r->in_step = false;
        r->prefilled += chunk.tokens;
        totals.prefill_tokens += chunk.tokens;
        if (r->prefilled < r->to_prefill) continue;
        r->kv = r->to_prefill;
        const int done = Emit(r, now);
        finished += done;
        if (done == 0) r->state = State::kDecode;
      }
      for (ReferenceRequest* r : work.swap_ins) r->in_step = false;
      work = Work();
      // A held batch is let go when nothing of it runs any more.
      const std::vector<ReferenceRequest*> held = Residents(rank, lane_index, State::kHeld);
      if (Residents(rank, lane_index, State::kDecode).empty() && Residents(rank, lane_index, State::kPrompt).empty()) {
        for (ReferenceRequest* r : held) {
          r->state = State::kDone;
          Remember(r, r->max_kv(), false);
          Release(r);
        }
      }
    }
    return finished;
  }

  uint32_t index_;
  EngineParams p_;
  ReferencePolicy policy_;
  const BatchingPolicy* custom_;
  StepCostModel* model_;
  bool whole_life_ = false, holds_ = false;
  std::vector<ReferenceRequest*> all_;
  std::vector<std::deque<int64_t>> free_;                   // by rank, the next to be taken first
  std::vector<std::map<int64_t, Tokens>> contents_;         // by rank: all tokens up to the end of a block that can be found
  bool caching_ = false;
  std::vector<int64_t> swap_free_;
  std::vector<Lane> lanes_;
  std::vector<SimTime> stage_free_;
  std::map<size_t, StepRecord> planned_;
  std::map<const ReferenceRequest*, uint64_t> admitted_at_;
  uint64_t admissions_ = 0;
};

// Engines behind a router. At each instant: steps end, then requests arrive until none is left, then steps are planned.
class ReferenceCluster {
 public:
  ReferenceCluster(const EngineParams& params, int replicas, SimTime front_end, SimTime front_end_token,
                   ReferencePolicy policy, const BatchingPolicy* custom, StepCostModel* model, std::unique_ptr<Router> router,
                   ArrivalSource* source)
      : front_end_(front_end), front_end_token_(front_end_token), server_free_(static_cast<size_t>(replicas)),
        router_(std::move(router)), source_(source) {
    for (int i = 0; i < replicas; ++i) {
      engines.push_back(std::make_unique<ReferenceEngine>(static_cast<uint32_t>(i), params, policy, custom, model));
    }
  }

  void Run() {
    std::multimap<SimTime, ReferenceRequest*> on_the_way;   // equal keys keep their order of insertion
    while (true) {
      SimTime now = source_->next_time();
      if (!on_the_way.empty()) now = std::min(now, on_the_way.begin()->first);
      for (const auto& e : engines) now = std::min(now, e->NextEnd());
      if (now == SimTime::Infinite()) break;
      std::set<ReferenceEngine*> to_plan;   // where a step ended or a request came
      for (const auto& e : engines) {
        if (e->NextEnd() == now) to_plan.insert(e.get());
        const int finished = e->EndSteps(now);
        for (int i = 0; i < finished; ++i) source_->OnFinished(now);
      }
      bool more = true;
      while (more) {
        more = false;
        while (source_->next_time() <= now) {
          requests.emplace_back();
          ReferenceRequest* r = &requests.back();
          SIM_CHECK(*source_->Next(&r->arrival) == NextResult::kArrival);
          const Arrival& a = r->arrival;
          SimTime& free = *std::min_element(server_free_.begin(), server_free_.end());
          free = std::max(free, a.at) + SimTime::FromTicks(front_end_token_.ticks() * a.input_tokens);
          on_the_way.emplace(free + front_end_, r);
        }
        while (!on_the_way.empty() && on_the_way.begin()->first <= now) {
          ReferenceRequest* r = on_the_way.begin()->second;
          on_the_way.erase(on_the_way.begin());
          std::vector<ReplicaLoad> loads;
          for (const auto& e : engines) loads.push_back(e->Load());
          const size_t target = engines.size() == 1 ? 0 : router_->Route(loads);
          if (engines[target]->Enqueue(r)) {
            to_plan.insert(engines[target].get());
          } else {
            r->state = ReferenceRequest::State::kRefused;
            source_->OnFinished(now);
            more = true;
          }
        }
      }
      for (ReferenceEngine* e : to_plan) e->PlanIdleLanes(now);
    }
  }

  std::vector<std::unique_ptr<ReferenceEngine>> engines;
  std::deque<ReferenceRequest> requests;   // in the order in which they arrived

 private:
  SimTime front_end_, front_end_token_;
  std::vector<SimTime> server_free_;   // when each server has done what it has taken
  std::unique_ptr<Router> router_;
  ArrivalSource* source_;
};

}  // namespace simrun
