#include "schedulers/batching/orca.h"

namespace simrun {
namespace {

class Orca final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    batch->decode = view.decode_seqs > 0;
    int64_t budget = view.limits.max_num_batched_tokens - view.decode_seqs;
    int64_t running = view.running();
    int64_t free = view.free_blocks;
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      if (running >= view.limits.max_num_seqs) return;
      const int64_t tokens = c.request().prompt_tokens;
      if (tokens > budget && !batch->admitted_tokens.empty()) return;
      const int64_t need = view.BlocksFor(c.request());
      if (!FitsAboveWatermark(view, free, need, running)) return;
      batch->admitted_tokens.push_back(tokens);
      budget -= tokens;
      free -= need;
      ++running;
      if (budget <= 0) return;
    }
  }
  KvReservation reservation() const override { return KvReservation::kWholeLife; }
  bool stable_while_decoding() const override { return true; }
};

}  // namespace

std::unique_ptr<BatchingPolicy> MakeOrca() { return std::make_unique<Orca>(); }

}  // namespace simrun
