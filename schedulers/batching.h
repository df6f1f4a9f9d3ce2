// Batching policies: which sequences run in the next step of an engine. Pure decisions over a read-only view.
//
// In every policy all sequences that have their prompt computed ("decodes") advance together by one token, or none
// does: that is what iteration-level engines do, and it lets the simulator follow any number of them in O(1).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/registry.h"
#include "schedulers/config.h"
#include "schedulers/waiting_queue.h"

namespace simrun {

struct BatchLimits {
  int64_t max_num_seqs = 256;
  int64_t max_num_batched_tokens = 8192;
  int64_t block_size = 16;
  int64_t watermark_blocks = 0;   // kept free when admitting, unless nothing runs
  // Beside decodes, prompts wait for others so many steps, or until the step would fill that share of its tokens.
  int64_t prompt_wait_steps = 0;
  double prompt_wait_fill = 0.9;
  int64_t state_blocks = 0;       // that each sequence takes beside those of its tokens
  int64_t BlocksFor(int64_t tokens) const { return (tokens + block_size - 1) / block_size + state_blocks; }
};

// What KV memory a request takes when it is admitted: blocks for the prompt, grown token by token, or blocks for the
// longest it can become (never preempted).
enum class KvReservation { kPrompt, kWholeLife };

// What waiting requests find of their prompts in the KV memory of their rank (prefix caching).
class PrefixLookup {
 public:
  struct Found {
    int64_t tokens = 0;         // leading tokens that need not be computed; fewer than the prompt has
    int64_t blocks_in_use = 0;  // blocks of these that running sequences hold, so that they take no free ones
  };
  virtual ~PrefixLookup() = default;
  virtual Found Find(const WaitingRequest& request) const = 0;
};

// One attention rank of an engine, between two steps.
struct ReplicaView {
  BatchLimits limits;
  int64_t decode_seqs = 0;                // sequences whose prompt is computed
  int64_t held_seqs = 0;                  // finished sequences still padding a static batch
  std::span<const int64_t> partial;       // prompt tokens left of admitted requests, in admission order
  const WaitingQueue* waiting = nullptr;
  int64_t free_blocks = 0;                // after the blocks that the decodes of this step take
  int64_t total_blocks = 0;               // of the rank
  KvReservation reservation = KvReservation::kPrompt;
  int64_t waited_steps = 0;               // steps in a row for which prompts were held back
  const PrefixLookup* prefixes = nullptr; // null: every prompt is computed whole

  // What admitting a request takes: prompt tokens to compute, and free blocks.
  struct Need {
    int64_t tokens = 0, blocks = 0;
  };
  Need NeedOf(const WaitingRequest& r) const {
    const int64_t kv = reservation == KvReservation::kPrompt ? r.kv_tokens : r.max_kv_tokens;
    Need need{r.prompt_tokens, limits.BlocksFor(kv)};
    // A sequence that was swapped out has no prompt left and brings its own blocks back.
    if (prefixes != nullptr && r.prompt_tokens > 0) {
      const PrefixLookup::Found found = prefixes->Find(r);
      need.tokens -= found.tokens;
      need.blocks -= found.blocks_in_use;
    }
    return need;
  }
  int64_t BlocksFor(const WaitingRequest& r) const { return NeedOf(r).blocks; }
  int64_t running() const { return decode_seqs + held_seqs + static_cast<int64_t>(partial.size()); }
};

// The decision. Reused from step to step; Clear keeps capacity.
struct Batch {
  bool decode = false;                    // all decodes advance by one token
  std::vector<int64_t> partial_tokens;    // prompt tokens for partial[i]; may be shorter than partial
  std::vector<int64_t> admitted_tokens;   // for the first requests of the waiting queue: prompt tokens in this step, at most those left
  bool held_back = false;                 // prompts that there is room for wait for others
  void Clear() {
    decode = held_back = false;
    partial_tokens.clear();
    admitted_tokens.clear();
  }
  bool Empty() const { return !decode && partial_tokens.empty() && admitted_tokens.empty(); }
};

class BatchingPolicy {
 public:
  virtual ~BatchingPolicy() = default;
  // Fills `batch` (already cleared). Requests are admitted from the front of the queue, none is skipped.
  virtual void Plan(const ReplicaView& view, Batch* batch) const = 0;
  virtual KvReservation reservation() const { return KvReservation::kPrompt; }
  // True: a finished sequence keeps its place (and costs compute) until its whole batch has finished.
  virtual bool holds_batch() const { return false; }
  // True when a request that was not admitted stays so while only decode steps follow and nothing arrives or
  // finishes. Lets the simulator skip planning those steps; the built-in policies all qualify.
  virtual bool stable_while_decoding() const { return false; }
};

using BatchingPolicyFactory = std::function<std::unique_ptr<BatchingPolicy>()>;
// The built-in policies: static, orca, prefill-first, chunked-prefill, pipeline-fill.
const Registry<BatchingPolicyFactory>& BuiltInBatchingPolicies();

// Helper for policies: whether the blocks for `need` may be taken when `free` are left.
inline bool FitsAboveWatermark(const ReplicaView& view, int64_t free, int64_t need, int64_t running) {
  return running == 0 ? free >= need : free - need >= view.limits.watermark_blocks;
}

}  // namespace simrun
