// The KV blocks of a replica: who holds them, what prompts find of others' (prefix caching), and who gives them up when
// decodes need room (preemption).
#include <algorithm>
#include <memory>

#include "sim/replica.h"

namespace simrun {

void Replica::StartPrefixCaching() {
  // Requests that are there already have nothing in common with others, or caching would have begun with them.
  for (Rank& rank : ranks_) rank.prefixes = std::make_unique<PrefixCache>(rank.free_blocks, params_.host_prefix_blocks);
  prompts_.resize(requests_.size());
  for (size_t id = 0; id < requests_.size(); ++id) {
    const Request& r = requests_[id];
    prompts_[id].sequence.names = BlockNames(nullptr, r.input, r.id, params_.limits.block_size);
    if (r.started) prompts_[id].cached = 0;
  }
}

double Replica::CachedShare(const Arrival& arrival) {
  Rank& rank = ranks_[LeastLoadedRank()];
  if (rank.prefixes == nullptr || arrival.text == nullptr) return 0;
  rank.prefixes->Shrink(rank.free_blocks);
  const int64_t block = params_.limits.block_size;
  const BlockNames names(arrival.text, arrival.input_tokens, arrival.id, block);
  const PrefixCache::Found found = rank.prefixes->Find(names, arrival.input_tokens);
  return static_cast<double>((found.blocks + Fetched(found)) * block) / static_cast<double>(arrival.input_tokens);
}

int64_t Replica::Fetched(const PrefixCache::Found& found) const {
  if (!params_.fetch_cheapest || found.on_host == 0) return found.on_host;
  const auto block = static_cast<double>(params_.limits.block_size);
  const double again = params_.RecomputeSeconds(static_cast<double>(found.blocks) * block, static_cast<double>(found.blocks + found.on_host) * block);
  return static_cast<double>(found.on_host) * params_.fetch_seconds_per_block < again ? found.on_host : 0;
}

void Replica::TakeCached(Rank& rank, size_t count) {
  rank.prefixes->Shrink(rank.free_blocks);
  WaitingQueue::Cursor c(rank.waiting);
  for (size_t i = 0; i < count; ++i, c.Next()) {
    const WaitingRequest& w = c.request();
    if (w.prompt_tokens == 0) continue;
    Prompt& prompt = prompts_[w.id];
    if (params_.host_prefix_blocks > 0) {
      const PrefixCache::Found found = rank.prefixes->Find(prompt.sequence.names, w.prompt_tokens);
      prompt.fetch_to = found.blocks + Fetched(found);
    }
    rank.free_blocks -= rank.prefixes->Take(&prompt.sequence, w.prompt_tokens);
  }
}

int64_t Replica::AdmitCached(Group& g, Rank& rank, uint32_t id) {
  Request& r = requests_[id];
  Prompt& prompt = prompts_[id];
  rank.prefixes->Shrink(rank.free_blocks);
  rank.free_blocks -= rank.prefixes->Take(&prompt.sequence, r.prompt);
  const auto blocks = static_cast<int64_t>(prompt.sequence.blocks.size());
  // What the host has goes into new blocks, which are still to be taken.
  const int64_t fetched = params_.host_prefix_blocks > 0 ? rank.prefixes->Fetch(&prompt.sequence, prompt.fetch_to) : 0;
  g.fetched += fetched;
  totals_.fetched_tokens += fetched * params_.limits.block_size;
  r.prefilled = (blocks + fetched) * params_.limits.block_size;
  if (prompt.cached < 0) {
    prompt.cached = r.prefilled;
    totals_.cached_tokens += r.prefilled;
  } else {
    totals_.resumed_tokens += r.prefilled;
  }
  return blocks;
}

void Replica::NameBlocks(Rank& rank, uint32_t id, int64_t tokens, bool all) {
  SIM_CHECK(rank.free_blocks >= 0);  // or the policy admitted more than there is room for
  rank.prefixes->Shrink(rank.free_blocks);
  rank.prefixes->Name(&prompts_[id].sequence, tokens, all);
}

bool Replica::MakeRoomForDecodes(Group& g, size_t rank_index, double* swap_seconds) {
  Rank& rank = ranks_[rank_index];
  while (g.decodes.next_blocks() > rank.free_blocks) {
    // The victim is the sequence that matters least among those that no step in flight works on, in whatever lane: were
    // idle lanes spared, two of them could wait for each other's blocks for ever.
    Group* victim_group = nullptr;
    uint32_t victim = 0;
    size_t candidates = 0;
    for (Lane& lane : lanes_) {
      Group& other = lane.groups[rank_index];
      if (&other != &g && lane.end != SimTime::Infinite() && !other.Resting()) continue;
      candidates += other.members.size();
      for (const uint32_t id : other.members) {
        const Request& a = requests_[id];
        const Request& b = requests_[victim];
        const bool later = params_.queue_order == QueueOrder::kPriority && a.priority != b.priority
                               ? a.priority > b.priority
                               : a.order > b.order;
        if (victim_group == nullptr || later) {
          victim = id;
          victim_group = &other;
        }
      }
    }
    if (candidates <= 1 && rank.running > 1) return false;  // the rest is held by batches in flight
    SIM_CHECK(candidates > 1);  // a request that cannot fit alone is refused on arrival
    Preempt(*victim_group, rank, victim, swap_seconds);
  }
  return true;
}

bool Replica::Swaps(int64_t tokens, int64_t blocks) const {
  if (params_.preemption != Preemption::kCheapest) return params_.preemption == Preemption::kSwap;
  const double out_and_in = 2 * static_cast<double>(blocks) * params_.swap_seconds_per_block;
  return out_and_in < params_.RecomputeSeconds(0, static_cast<double>(tokens));
}

void Replica::Preempt(Group& g, Rank& rank, uint32_t id, double* swap_seconds) {
  Request& r = requests_[id];
  ++r.preemptions;
  ++totals_.preemptions;
  const int64_t blocks = BlocksHeld(g, r);
  const int64_t kv = r.state == State::kDecode ? g.decodes.KvOf(r.member) : r.prefilled;
  const bool swapped = r.state == State::kDecode && rank.free_swap_blocks >= blocks && Swaps(kv, blocks);
  // Until they are taken, its blocks save it computing them again.
  if (params_.prefix_caching && !swapped && rank.prefixes == nullptr) StartPrefixCaching();
  if (rank.prefixes != nullptr && !swapped) NameBlocks(rank, id, kv, true);
  ReleaseBlocks(g, id);
  if (r.state == State::kDecode) {
    if (r.member.join_clock == g.decodes.clock()) {
      // Its last token is not one of the last decode step: take it out of the list that says so.
      for (Group::Joined& j : g.joined) {
        if (j.at == r.last_token && j.count > 0) {
          --j.count;
          break;
        }
      }
    } else {
      r.generated += g.decodes.clock() - r.member.join_clock;
      r.last_token = g.last_decode;
    }
    g.decodes.Remove(r.member);
    r.member = {};  // or a swapped-in sequence could be taken for the one whose entry is still in the finish heap
    if (swapped) {
      rank.free_swap_blocks -= blocks;
      *swap_seconds += static_cast<double>(blocks) * params_.swap_seconds_per_block;
      totals_.swapped_blocks += blocks;
    } else {
      r.prompt = r.input + r.generated;
    }
  } else {
    const auto at = static_cast<size_t>(std::find(g.partial.begin(), g.partial.end(), id) - g.partial.begin());
    g.partial.erase(g.partial.begin() + static_cast<std::ptrdiff_t>(at));
    g.partial_left.erase(g.partial_left.begin() + static_cast<std::ptrdiff_t>(at));
  }
  if (!swapped) totals_.recomputed_tokens += r.state == State::kDecode ? r.prompt : r.prefilled;
  r.blocks = swapped ? blocks : 0;
  r.state = swapped ? State::kSwapped : State::kWaiting;
  RemoveMember(g, id);
  --load_.running;
  ++load_.waiting;
  rank.waiting.Push({id, r.order, swapped ? 0 : r.prompt, swapped ? kv : r.prompt, r.input + r.output - 1, r.priority,
                     r.deadline.ticks()});
}

int64_t Replica::BlocksHeld(const Group& g, const Request& r) const {
  if (whole_life_ || r.state == State::kPrefill) return r.blocks;
  return r.state == State::kDecode || r.state == State::kHeld ? BlocksFor(g.decodes.KvOf(r.member)) : 0;
}

void Replica::ReleaseBlocks(const Group& g, uint32_t id) {
  const Request& r = requests_[id];
  Rank& rank = ranks_[r.rank];
  const int64_t blocks = BlocksHeld(g, r);
  rank.free_blocks += rank.prefixes == nullptr ? blocks : LeaveBlocks(rank, id, blocks);
}

int64_t Replica::LeaveBlocks(Rank& rank, uint32_t id, int64_t blocks) {
  rank.prefixes->Shrink(rank.free_blocks);
  return rank.prefixes->Leave(&prompts_[id].sequence, blocks);
}
}  // namespace simrun
