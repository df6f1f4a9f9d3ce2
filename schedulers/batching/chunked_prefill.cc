#include "schedulers/batching/chunked_prefill.h"

#include <algorithm>

namespace simrun {
namespace {

class ChunkedPrefill final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    int64_t budget = view.limits.max_num_batched_tokens;
    if (view.decode_seqs > 0) {
      batch->decode = true;
      budget -= view.decode_seqs;
    }
    for (const int64_t left : view.partial) {
      if (budget <= 0) return;
      const int64_t tokens = std::min(left, budget);
      batch->partial_tokens.push_back(tokens);
      budget -= tokens;
    }
    int64_t running = view.running();
    int64_t free = view.free_blocks;
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      if (running >= view.limits.max_num_seqs || budget <= 0) return;
      const ReplicaView::Need need = view.NeedOf(c.request());
      if (!FitsAboveWatermark(view, free, need.blocks, running)) return;
      const int64_t tokens = std::min(need.tokens, budget);
      batch->admitted_tokens.push_back(tokens);
      budget -= tokens;
      free -= need.blocks;
      ++running;
    }
  }
  bool stable_while_decoding() const override { return true; }
};

}  // namespace

std::unique_ptr<BatchingPolicy> MakeChunkedPrefill() { return std::make_unique<ChunkedPrefill>(); }

}  // namespace simrun
