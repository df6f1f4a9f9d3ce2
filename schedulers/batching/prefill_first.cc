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
      const ReplicaView::Need need = view.NeedOf(c.request());
      // A prompt longer than the budget runs alone: refusing it would strand the queue.
      if (need.tokens > budget && !batch->admitted_tokens.empty()) break;
      if (!FitsAboveWatermark(view, free, need.blocks, running)) break;
      batch->admitted_tokens.push_back(need.tokens);
      budget -= need.tokens;
      free -= need.blocks;
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
