#include "schedulers/batching/static_batch.h"

namespace simrun {
namespace {

class StaticBatch final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    if (view.running() > 0) {
      batch->decode = view.decode_seqs > 0;
      return;
    }
    int64_t running = 0;
    int64_t free = view.free_blocks;
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      if (running >= view.limits.max_num_seqs) return;
      const ReplicaView::Need need = view.NeedOf(c.request());
      if (!FitsAboveWatermark(view, free, need.blocks, running)) return;
      batch->admitted_tokens.push_back(need.tokens);
      free -= need.blocks;
      ++running;
    }
  }
  KvReservation reservation() const override { return KvReservation::kWholeLife; }
  bool holds_batch() const override { return true; }
  bool stable_while_decoding() const override { return true; }
};

}  // namespace

std::unique_ptr<BatchingPolicy> MakeStaticBatch() { return std::make_unique<StaticBatch>(); }

}  // namespace simrun
