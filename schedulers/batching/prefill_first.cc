#include "schedulers/batching/prefill_first.h"

namespace simrun {
namespace {

class PrefillFirst final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    int64_t budget = view.limits.max_num_batched_tokens;
    int64_t running = view.running();
    int64_t free = view.free_blocks;
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      if (running >= view.limits.max_num_seqs) break;
      const int64_t tokens = c.request().prompt_tokens;
      // A prompt longer than the budget runs alone: refusing it would strand the queue.
      if (tokens > budget && !batch->admitted_tokens.empty()) break;
      const int64_t need = view.BlocksFor(c.request());
      if (!FitsAboveWatermark(view, free, need, running)) break;
      batch->admitted_tokens.push_back(tokens);
      budget -= tokens;
      free -= need;
      ++running;
      if (budget <= 0) break;
    }
    if (batch->admitted_tokens.empty()) batch->decode = view.decode_seqs > 0;
  }
  bool stable_while_decoding() const override { return true; }
};

}  // namespace

std::unique_ptr<BatchingPolicy> MakePrefillFirst() { return std::make_unique<PrefillFirst>(); }

}  // namespace simrun
