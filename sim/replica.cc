#include "sim/replica.h"

#include <utility>

namespace simrun {

Replica::Replica(uint32_t index, const EngineParams& params, const BatchingPolicy& policy, StepCostModel* model,
                 RunMetrics* metrics)
    : index_(index),
      params_(params),
      policy_(policy),
      whole_life_(policy.reservation() == KvReservation::kWholeLife),
      stable_policy_(policy.stable_while_decoding() && params.limits.prompt_wait_steps == 0),
      model_(model),
      metrics_(metrics),
      stage_free_(static_cast<size_t>(model->stages())),
      works_(static_cast<size_t>(params.ranks)) {
  for (int r = 0; r < params.ranks; ++r) {
    ranks_.emplace_back(params.queue_order);
    ranks_.back().free_blocks = params.kv_blocks;
    ranks_.back().free_swap_blocks = params.swap_blocks;
  }
  lanes_.resize(static_cast<size_t>(params.lanes));
  for (Lane& lane : lanes_) {
    for (int r = 0; r < params.ranks; ++r) lane.groups.emplace_back(params.limits.block_size, params.window);
  }
}

int64_t Replica::blocks_in_use() const {
  int64_t used = 0;
  for (const Rank& rank : ranks_) used += params_.kv_blocks - rank.free_blocks;
  return used;
}

int Replica::stages_at_work() const {
  int64_t requests = 0;
  for (const Rank& rank : ranks_) requests = std::max(requests, rank.outstanding);
  return static_cast<int>(std::min<int64_t>({requests, static_cast<int64_t>(lanes_.size()), static_cast<int64_t>(stage_free_.size())}));
}

int64_t Replica::evicted_blocks() const {
  int64_t evicted = 0;
  for (const Rank& rank : ranks_) evicted += rank.prefixes != nullptr ? rank.prefixes->evictions() : 0;
  return evicted;
}

int64_t Replica::cached_blocks() const {
  int64_t cached = 0;
  for (const Rank& rank : ranks_) cached += rank.prefixes != nullptr ? rank.prefixes->named() : 0;
  return cached;
}

int64_t Replica::offloaded_blocks() const {
  int64_t blocks = 0;
  for (const Rank& rank : ranks_) blocks += rank.prefixes != nullptr ? rank.prefixes->offloaded() : 0;
  return blocks;
}

int64_t Replica::host_blocks() const {
  // Nothing leaves but for something else.
  int64_t blocks = 0;
  for (const Rank& rank : ranks_) blocks += rank.prefixes != nullptr ? std::min(rank.prefixes->offloaded(), params_.host_prefix_blocks) : 0;
  return blocks;
}

uint32_t Replica::NewRequest() {
  if (free_ids_.empty()) {
    requests_.emplace_back();
    return static_cast<uint32_t>(requests_.size() - 1);
  }
  const uint32_t id = free_ids_.back();
  free_ids_.pop_back();
  requests_[id] = Request();
  return id;
}

size_t Replica::LeastLoadedRank() const {
  size_t rank = 0;
  for (size_t r = 1; r < ranks_.size(); ++r) {
    if (ranks_[r].outstanding < ranks_[rank].outstanding) rank = r;
  }
  return rank;
}

void Replica::UpdateNextEvent() {
  next_event_ = lanes_[0].end;
  for (size_t i = 1; i < lanes_.size(); ++i) next_event_ = std::min(next_event_, lanes_[i].end);
}

bool Replica::Enqueue(const Arrival& arrival) {
  const int64_t max_kv = arrival.input_tokens + arrival.output_tokens - 1;
  Refusal why{};
  bool refused = false;
  if (params_.max_model_len > 0 && arrival.input_tokens + arrival.output_tokens > params_.max_model_len) {
    why = Refusal::kContextLength;
    refused = true;
  } else if (BlocksFor(max_kv) > params_.kv_blocks) {
    why = Refusal::kKvMemory;
    refused = true;
  }
  if (refused) {
    metrics_->OnRefused(why, arrival.at);
    if (observer_ != nullptr) observer_->OnRefuse(arrival, why);
    return false;
  }
  const size_t rank = LeastLoadedRank();
  if (arrival.text != nullptr && params_.prefix_caching) {
    totals_.has_texts = true;
    if (!CachesPrefixes()) StartPrefixCaching();
  }
  const uint32_t id = NewRequest();
  Request& r = requests_[id];
  r.id = arrival.id;
  r.order = next_order_++;
  r.arrival = arrival.at;
  r.deadline = arrival.deadline;
  r.input = arrival.input_tokens;
  r.output = arrival.output_tokens;
  r.prompt = arrival.input_tokens;
  r.priority = arrival.priority;
  r.rank = static_cast<uint16_t>(rank);
  r.state = State::kWaiting;
  if (ranks_[rank].prefixes != nullptr) {
    if (prompts_.size() <= id) prompts_.resize(id + 1);
    prompts_[id] = {{BlockNames(arrival.text, r.input, r.id, params_.limits.block_size), {}, 0}, -1};
  }
  const WaitingRequest waiting{id, r.order, r.prompt, r.prompt, max_kv, r.priority, r.deadline.ticks()};
  if (params_.plans_ahead) {
    unseen_.emplace_back(static_cast<uint16_t>(rank), waiting);
  } else {
    ranks_[rank].waiting.Push(waiting);
  }
  totals_.peak_outstanding = std::max(totals_.peak_outstanding, ++ranks_[rank].outstanding);
  totals_.longest = std::max(totals_.longest, max_kv + 1);
  ++load_.waiting;
  for (Lane& lane : lanes_) lane.steady = false;  // the queue changed: plan the next step
  return true;
}

void Replica::Run(SimTime horizon) {
  while (true) {
    if (lanes_.size() == 1 && lanes_[0].steady) FastForward(lanes_[0], horizon);
    if (next_event_ >= horizon) return;
    const SimTime now = next_event_;
    Complete(now);
    Issue(now);
  }
}

void Replica::RunWithoutFinish(SimTime horizon) {
  while (true) {
    if (lanes_.size() == 1 && lanes_[0].steady) FastForward(lanes_[0], horizon);
    if (next_event_ >= horizon) return;
    for (const Lane& lane : lanes_) {
      if (lane.end == next_event_ && MayFinish(lane)) return;
    }
    const SimTime now = next_event_;
    Complete(now);
    Issue(now);
  }
}

bool Replica::MayFinish(const Lane& lane) const {
  for (const Group& g : lane.groups) {
    if (g.batch.decode && g.decodes.next_finish_clock() <= g.decodes.clock() + 1) return true;
    for (size_t i = 0; i < g.chunk_ids.size(); ++i) {
      const Request& r = requests_[g.chunk_ids[i]];
      if (r.prefilled + g.chunks[i].tokens == r.prompt && r.generated + 1 == r.output) return true;
    }
  }
  return false;
}

int Replica::Complete(SimTime now) {
  int finished = 0;
  for (Lane& lane : lanes_) {
    if (lane.end == now) finished += CompleteLane(lane);
  }
  UpdateNextEvent();
  return finished;
}

void Replica::Issue(SimTime now) {
  for (Lane& lane : lanes_) {
    if (lane.end == SimTime::Infinite()) IssueLane(lane, now);
  }
  UpdateNextEvent();
}

bool Replica::SeeArrivals() {
  if (unseen_.empty()) return false;
  for (const auto& [rank, waiting] : unseen_) ranks_[rank].waiting.Push(waiting);
  unseen_.clear();
  return true;
}

bool Replica::PlanLane(Lane& lane, SimTime now, double* swap_seconds, bool* steady) {
  int64_t tokens = 0;
  bool swap_ins = false;
  const size_t lane_index = static_cast<size_t>(&lane - lanes_.data());
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    PlanGroup(lane_index, rank, now, swap_seconds, steady);
    tokens += lane.groups[rank].work.tokens;
    swap_ins = swap_ins || !lane.groups[rank].swap_ins.empty();
  }
  return tokens > 0 || swap_ins;
}

bool Replica::IssueLane(Lane& lane, SimTime now) {
  double swap_seconds = lane.owed_swap_seconds;
  bool steady = params_.fast_forward && lanes_.size() == 1;
  bool work = PlanLane(lane, now, &swap_seconds, &steady);
  // This step was planned when the one before began. Without one, or with nothing to do, the engine looks again.
  if (SeeArrivals()) {
    steady = false;
    if (!work) work = PlanLane(lane, now, &swap_seconds, &steady);
  }
  lane.owed_swap_seconds = swap_seconds;
  if (!work) return false;
  lane.owed_swap_seconds = 0;
  lane.steady = steady;
  StartStep(lane, now, swap_seconds);
  return true;
}

void Replica::FillDecodeWork(Group& g, int64_t prefill_rows, int64_t prefill_tokens) {
  StepWork& w = g.work;
  w.decode_seqs = g.batch.decode ? g.decodes.seqs() : 0;
  w.tokens = w.decode_seqs + prefill_tokens;
  w.logits_rows = w.decode_seqs + prefill_rows;
  if (w.decode_seqs > 0) {
    w.decode_kv_sum = g.decodes.next_kv_sum();
    w.decode_kv_sum_windowed = g.decodes.next_kv_sum_windowed();
    w.decode_kv_max = g.decodes.next_kv_max();
  } else {
    w.decode_kv_sum = w.decode_kv_sum_windowed = w.decode_kv_max = 0;
  }
  w.chunks = g.chunks;
}

// What the waiting requests of one rank find in its cache.
class Replica::RankPrefixes final : public PrefixLookup {
 public:
  RankPrefixes(const Replica& replica, const Rank& rank) : replica_(replica), rank_(rank) {}
  Found Find(const WaitingRequest& r) const override {
    const BlockNames& names = replica_.prompts_[r.id].sequence.names;
    const PrefixCache::Found found = rank_.prefixes->Find(names, r.prompt_tokens);
    return {(found.blocks + replica_.Fetched(found)) * names.block_size(), found.in_use};
  }

 private:
  const Replica& replica_;
  const Rank& rank_;
};

void Replica::PlanGroup(size_t lane_index, size_t rank_index, SimTime now, double* swap_seconds, bool* steady) {
  Group& g = lanes_[lane_index].groups[rank_index];
  Rank& rank = ranks_[rank_index];
  g.batch.Clear();
  g.chunks.clear();
  g.chunk_ids.clear();
  g.swap_ins.clear();
  g.fetched = 0;
  // Of many attention ranks most have nothing to do most of the time, and no policy anything to decide.
  if (g.members.empty() && rank.waiting.empty()) {
    FillDecodeWork(g, 0, 0);
    return;
  }
  const RankPrefixes prefixes(*this, rank);
  const auto view_now = [&](const WaitingQueue* waiting) {
    ReplicaView view;
    view.limits = params_.limits;
    if (lanes_.size() > 1) {
      // Spread the sequences evenly over the micro-batches, or the first one would take them all.
      const int64_t lanes = static_cast<int64_t>(lanes_.size());
      const int64_t total = rank.running + static_cast<int64_t>(rank.waiting.size());
      const int64_t share = (std::min(params_.limits.max_num_seqs, total) + lanes - 1) / lanes;
      const int64_t own = static_cast<int64_t>(g.members.size());
      view.limits.max_num_seqs = std::min(share, own + params_.limits.max_num_seqs - rank.running);
    }
    view.held_seqs = g.held;
    view.decode_seqs = g.decodes.seqs() - g.held;
    view.partial = g.partial_left;
    view.waiting = waiting;
    view.reservation = policy_.reservation();
    view.total_blocks = params_.kv_blocks;
    view.waited_steps = rank.waited_steps;
    if (rank.prefixes != nullptr) {
      rank.prefixes->Shrink(rank.free_blocks);
      view.prefixes = &prefixes;
    }
    view.free_blocks = std::max<int64_t>(0, rank.free_blocks - (whole_life_ ? 0 : g.decodes.next_blocks()));
    return view;
  };
  policy_.Plan(view_now(&rank.waiting), &g.batch);
  if (g.batch.decode && !whole_life_ && g.decodes.next_blocks() > rank.free_blocks) {
    // Not enough memory for the next token of everyone. Whoever is preempted now is not admitted again in this step.
    *steady = false;
    const bool room = MakeRoomForDecodes(g, rank_index, swap_seconds);
    g.batch.Clear();
    if (room) policy_.Plan(view_now(&no_waiting_), &g.batch);
  }
  rank.waited_steps = g.batch.held_back ? rank.waited_steps + 1 : 0;
  SIM_CHECK(g.batch.partial_tokens.size() <= g.partial.size() && g.batch.admitted_tokens.size() <= rank.waiting.size());
  if (g.batch.decode && g.decodes.seqs() == 0) g.batch.decode = false;
  if (rank.prefixes != nullptr) TakeCached(rank, g.batch.admitted_tokens.size());
  if (g.batch.decode && !whole_life_) {
    rank.free_blocks -= g.decodes.next_blocks();
    NotePeak(rank);
  }
  int64_t prefill_tokens = 0, prefill_rows = 0;
  for (size_t i = 0; i < g.batch.partial_tokens.size(); ++i) {
    const int64_t tokens = g.batch.partial_tokens[i];
    const uint32_t id = g.partial[i];
    const Request& r = requests_[id];
    if (tokens == 0) continue;
    g.chunk_ids.push_back(id);
    g.chunks.push_back({tokens, r.prefilled});
    if (rank.prefixes != nullptr) NameBlocks(rank, id, r.prefilled + tokens, false);
  }
  for (const int64_t tokens : g.batch.admitted_tokens) Admit(lane_index, rank_index, tokens, now, swap_seconds);
  SIM_CHECK(rank.free_blocks >= 0);  // or the policy admitted more than there is room for
  for (size_t i = 0; i < g.chunks.size(); ++i) {
    prefill_tokens += g.chunks[i].tokens;
    const Request& r = requests_[g.chunk_ids[i]];
    if (r.prefilled + g.chunks[i].tokens == r.prompt) ++prefill_rows;
  }
  FillDecodeWork(g, prefill_rows, prefill_tokens);
  // A pure decode step repeats until something happens, unless the policy may change its mind about the queue.
  if (!g.chunks.empty() || !g.swap_ins.empty() || !g.partial.empty() || (!rank.waiting.empty() && !stable_policy_) ||
      (g.decodes.seqs() > 0 && !g.batch.decode)) {
    *steady = false;
  }
}

void Replica::Admit(size_t lane_index, size_t rank_index, int64_t tokens, SimTime now, double* swap_seconds) {
  Group& g = lanes_[lane_index].groups[rank_index];
  Rank& rank = ranks_[rank_index];
  const WaitingRequest w = rank.waiting.front();
  rank.waiting.PopFront();
  Request& r = requests_[w.id];
  r.lane = static_cast<uint16_t>(lane_index);
  if (!r.started) {
    r.started = true;
    totals_.looked_up_tokens += r.prompt;
    r.first_start = now;
  }
  r.position = static_cast<uint32_t>(g.members.size());
  g.members.push_back(w.id);
  ++rank.running;
  --load_.waiting;
  ++load_.running;
  if (r.state == State::kSwapped) {
    rank.free_swap_blocks += r.blocks;
    *swap_seconds += static_cast<double>(r.blocks) * params_.swap_seconds_per_block;
    totals_.swapped_blocks += r.blocks;
  }
  r.blocks = BlocksFor(whole_life_ ? w.max_kv_tokens : w.kv_tokens);
  r.prefilled = 0;
  int64_t new_blocks = r.blocks;
  if (rank.prefixes != nullptr && r.state != State::kSwapped) {
    new_blocks -= AdmitCached(g, rank, w.id);
    tokens = std::min(tokens, r.prompt - r.prefilled);
  }
  rank.free_blocks -= new_blocks;
  NotePeak(rank);
  if (r.state == State::kSwapped) {
    r.state = State::kDecode;
    g.swap_ins.push_back(w.id);
    return;
  }
  r.state = State::kPrefill;
  g.partial.push_back(w.id);
  g.partial_left.push_back(r.prompt - r.prefilled);
  if (tokens > 0) {
    g.chunk_ids.push_back(w.id);
    g.chunks.push_back({tokens, r.prefilled});
  }
  if (rank.prefixes != nullptr) NameBlocks(rank, w.id, r.prefilled + tokens, false);
}

void Replica::StartStep(Lane& lane, SimTime now, double extra_seconds) {
  int64_t tokens = 0;
  std::span<const StepWork> works = works_;
  if (works_.size() == 1) {
    works = {&lane.groups[0].work, 1};
    tokens = works[0].tokens;
  } else {
    for (size_t r = 0; r < works_.size(); ++r) {
      works_[r] = lane.groups[r].work;
      tokens += works_[r].tokens;
    }
  }
  const size_t stages = stage_free_.size();
  double fetch_seconds = 0;
  if (params_.host_prefix_blocks > 0) {
    for (const Group& g : lane.groups) fetch_seconds = std::max(fetch_seconds, static_cast<double>(g.fetched) * params_.fetch_seconds_per_block);
  }
  SimTime end = now;
  cost_.lead = lanes_.size() == 1 && now == ended_ ? cost_.ahead : 0;
  cost_.ahead = cost_.launched_late = 0;
  if (tokens > 0) {
    if (!host_.empty()) {
      int at_work = 0;
      for (const auto& replica : host_) at_work += replica->stages_at_work();
      model_->ShareHost(at_work);
    }
    model_->Predict(works, &cost_);
    totals_.dynamic_joules += cost_.dynamic_joules;
    for (int b = 0; b < kNumBounds; ++b) totals_.bound_seconds[b] += cost_.bound_seconds[b];
  } else {
    for (size_t s = 0; s < stages; ++s) cost_.stage_seconds[s] = 0;
  }
  for (size_t s = 0; s < stages; ++s) {
    double seconds = cost_.stage_seconds[s];
    if (s == 0 && extra_seconds > 0) {
      seconds += extra_seconds;
      totals_.bound_seconds[static_cast<int>(Bound::kLink)] += extra_seconds;
    }
    // Prompts fetched from the host arrive layer by layer beside the step.
    if (s == 0 && fetch_seconds > seconds) {
      totals_.bound_seconds[static_cast<int>(Bound::kLink)] += fetch_seconds - seconds;
      seconds = fetch_seconds;
    }
    const SimTime duration = std::max(SimTime::From(Seconds(seconds)), SimTime::FromTicks(1));
    const SimTime start = std::max(end, stage_free_[s]);
    if (s == 0) lane.start = start;
    end = start + duration;
    stage_free_[s] = end;
    totals_.stage_busy = totals_.stage_busy + duration;
  }
  lane.end = end;
  if (!fresh_.empty()) HoldFirstTokens(lane, now, std::min(end, now + SimTime::From(Seconds(cost_.launched_late))));
  if (params_.track_memory) memory_.Set(now.seconds().value(), static_cast<double>(blocks_in_use()));
  ++totals_.steps;
  if (lanes_in_flight_++ == 0) busy_since_ = now;
}

void Replica::HoldFirstTokens(Lane& lane, SimTime computed, SimTime sent) {
  for (const uint32_t id : fresh_) requests_[id].first_token = requests_[id].last_token = sent;
  fresh_.clear();
  for (Group& g : lane.groups) {
    for (Group::Joined& j : g.joined) {
      if (j.first && j.at == computed) j.at = sent;
    }
  }
}

int Replica::CompleteLane(Lane& lane) {
  const SimTime now = lane.end;
  ended_ = now;
  const size_t lane_index = static_cast<size_t>(&lane - lanes_.data());
  if (observer_ != nullptr) {
    StepRecord record{index_, static_cast<int>(lane_index), lane.start, now};
    for (const Group& g : lane.groups) {
      record.tokens += g.work.tokens;
      record.decode_seqs += g.work.decode_seqs;
      record.prefill_tokens += g.work.tokens - g.work.decode_seqs;
      record.chunks += static_cast<int64_t>(g.chunks.size());
    }
    observer_->OnStep(record);
  }
  lane.end = SimTime::Infinite();
  lane.steady = false;
  if (--lanes_in_flight_ == 0) totals_.busy = totals_.busy + (now - busy_since_);
  int finished = 0;
  for (Group& g : lane.groups) finished += CompleteGroup(g, lane_index, now);
  if (params_.track_memory) memory_.Set(now.seconds().value(), static_cast<double>(blocks_in_use()));
  return finished;
}

void Replica::RecordDecodeGaps(Group& g, SimTime now) {
  int64_t continuing = g.decodes.seqs() - g.held;
  totals_.decode_tokens += continuing;
  for (const Group::Joined& j : g.joined) {
    continuing -= j.count;
    if (j.count > 0) metrics_->OnTokenGap(now - j.at, static_cast<uint64_t>(j.count), now);
  }
  g.joined.clear();
  if (continuing > 0) metrics_->OnTokenGap(now - g.last_decode, static_cast<uint64_t>(continuing), now);
  g.last_decode = now;
}

int Replica::CompleteGroup(Group& g, size_t lane_index, SimTime now) {
  int finished = 0;
  if (g.batch.decode) {
    g.decodes.Advance();
    RecordDecodeGaps(g, now);
    const int64_t clock = g.decodes.clock();
    const bool in_order = CachesPrefixes();
    due_.clear();
    g.decodes.PopDue([&](uint32_t id) {
      const Request& r = requests_[id];
      // An id may stand for a request that was preempted, or for a later one in its place.
      if (r.state != State::kDecode || r.lane != lane_index || r.member.finish_clock != clock) return;
      if (&lanes_[r.lane].groups[r.rank] != &g) return;
      // A sequence that was preempted and came back may have two entries, one after the other.
      if (in_order && !due_.empty() && due_.back() == id) return;
      ++finished;
      if (in_order) {
        due_.push_back(id);
      } else {
        FinishRequest(g, id, now);
      }
    });
    if (in_order) {
      SortByOrder(&due_);
      for (const uint32_t id : due_) FinishRequest(g, id, now);
    }
  }
  if (!g.chunks.empty()) {
    int64_t stay = 0;  // decode steps until the last of a held batch finishes
    for (size_t i = 0; i < g.chunks.size(); ++i) {
      Request& r = requests_[g.chunk_ids[i]];
      r.prefilled += g.chunks[i].tokens;
      totals_.prefill_tokens += g.chunks[i].tokens;
      if (r.prefilled == r.prompt) stay = std::max(stay, r.output - r.generated - 1);
    }
    for (const uint32_t id : g.chunk_ids) {
      Request& r = requests_[id];
      if (r.prefilled < r.prompt) continue;
      if (r.generated == 0) {
        r.first_token = now;
      } else {
        metrics_->OnTokenGap(now - r.last_token, 1, now);
      }
      r.last_token = now;
      ++r.generated;
      const int64_t steps = r.output - r.generated;
      if (steps == 0) {
        FinishRequest(g, id, now);
        ++finished;
        continue;
      }
      r.state = State::kDecode;
      r.member = g.decodes.Join(id, r.prompt, steps, policy_.holds_batch() ? stay : steps);
      const bool first = params_.holds_tokens && r.generated == 1;
      if (first) fresh_.push_back(id);
      if (!g.joined.empty() && g.joined.back().at == now && g.joined.back().first == first) {
        ++g.joined.back().count;
      } else {
        g.joined.push_back({now, 1, first});
      }
    }
    size_t kept = 0;
    for (size_t i = 0; i < g.partial.size(); ++i) {
      const uint32_t id = g.partial[i];
      const Request& r = requests_[id];
      if (r.state != State::kPrefill || r.prefilled >= r.prompt) continue;
      g.partial[kept] = id;
      g.partial_left[kept] = r.prompt - r.prefilled;
      ++kept;
    }
    g.partial.resize(kept);
    g.partial_left.resize(kept);
  }
  for (const uint32_t id : g.swap_ins) {
    Request& r = requests_[id];
    const int64_t kv = r.input + r.generated - 1;
    const int64_t steps = r.output - r.generated;
    r.member = g.decodes.Join(id, kv, steps, steps);
    g.joined.push_back({r.last_token, 1, false});
  }
  if (g.held > 0 && g.held == static_cast<int64_t>(g.members.size())) {
    due_.assign(g.members.rbegin(), g.members.rend());
    if (CachesPrefixes()) SortByOrder(&due_);
    for (const uint32_t id : due_) {
      if (CachesPrefixes()) NameBlocks(ranks_[requests_[id].rank], id, requests_[id].input + requests_[id].output - 1, false);
      ReleaseBlocks(g, id);
      g.decodes.Remove(requests_[id].member);
      FreeRequest(g, id);
    }
    g.held = 0;
  }
  return finished;
}

void Replica::SortByOrder(std::vector<uint32_t>* ids) const {
  std::sort(ids->begin(), ids->end(), [this](uint32_t a, uint32_t b) { return requests_[a].order < requests_[b].order; });
}

void Replica::RemoveMember(Group& g, uint32_t id) {
  const uint32_t position = requests_[id].position;
  g.members[position] = g.members.back();
  requests_[g.members[position]].position = position;
  g.members.pop_back();
  --ranks_[requests_[id].rank].running;
}

void Replica::FreeRequest(Group& g, uint32_t id) {
  RemoveMember(g, id);
  if (CachesPrefixes()) ForgetPrompt(id);
  requests_[id].state = State::kFree;
  free_ids_.push_back(id);
}

void Replica::FinishRequest(Group& g, uint32_t id, SimTime now) {
  Request& r = requests_[id];
  RequestRecord record;
  record.id = r.id;
  record.arrival = r.arrival;
  record.input_tokens = r.input;
  record.output_tokens = r.output;
  record.ttft = r.first_token - r.arrival;
  record.e2e = now - r.arrival;
  record.queue = r.first_start - r.arrival;
  if (r.output > 1) record.tpot = SimTime::FromTicks(((now - r.first_token).ticks() + (r.output - 1) / 2) / (r.output - 1));
  record.preemptions = r.preemptions;
  record.replica = index_;
  if (ranks_[r.rank].prefixes != nullptr) record.cached_tokens = std::max<int64_t>(0, prompts_[id].cached);
  metrics_->OnFinished(record, now);
  --load_.running;
  --ranks_[r.rank].outstanding;
  if (r.state == State::kDecode && policy_.holds_batch()) {
    r.state = State::kHeld;
    ++g.held;
  } else {
    // A next turn finds the answer too.
    if (CachesPrefixes()) NameBlocks(ranks_[r.rank], id, r.state == State::kDecode ? g.decodes.KvOf(r.member) : r.prefilled, false);
    ReleaseBlocks(g, id);
    if (r.state == State::kDecode) g.decodes.Remove(r.member);
    FreeRequest(g, id);
  }
  if (observer_ != nullptr) observer_->OnFinish(record);
}

void Replica::FastForward(Lane& lane, SimTime horizon) {
  while (lane.end < horizon) {
    for (size_t i = 0; i < ranks_.size(); ++i) {
      const Group& g = lane.groups[i];
      if (!g.batch.decode) continue;
      if (g.decodes.next_finish_clock() <= g.decodes.clock() + 1) return;
      if (!whole_life_ && g.decodes.blocks_after_next() > ranks_[i].free_blocks) return;
    }
    const SimTime now = lane.end;
    if (observer_ != nullptr) return;  // observers see every step through the ordinary path
    for (size_t i = 0; i < ranks_.size(); ++i) {
      Group& g = lane.groups[i];
      if (!g.batch.decode) continue;
      g.decodes.Advance();
      RecordDecodeGaps(g, now);
      if (!whole_life_) {
        ranks_[i].free_blocks -= g.decodes.next_blocks();
        NotePeak(ranks_[i]);
      }
      g.work.decode_kv_sum = g.decodes.next_kv_sum();
      g.work.decode_kv_sum_windowed = g.decodes.next_kv_sum_windowed();
      g.work.decode_kv_max = g.decodes.next_kv_max();
    }
    if (--lanes_in_flight_ == 0) totals_.busy = totals_.busy + (now - busy_since_);
    ended_ = now;
    StartStep(lane, now, 0);
    ++totals_.fast_forwarded;
    next_event_ = lane.end;
  }
}

}  // namespace simrun
