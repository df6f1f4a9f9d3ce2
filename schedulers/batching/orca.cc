#include "schedulers/batching/orca.h"

namespace simrun {
namespace {

class Orca final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    batch->decode = view.decode_seqs > 0;
    Admit(view, batch);
    if (batch->admitted_tokens.empty() || !batch->decode || view.waited_steps >= view.limits.prompt_wait_steps) return;
    int64_t tokens = view.decode_seqs;
    for (const int64_t t : batch->admitted_tokens) tokens += t;
    if (static_cast<double>(tokens) >= view.limits.prompt_wait_fill * static_cast<double>(view.limits.max_num_batched_tokens)) return;
    batch->admitted_tokens.clear();
    batch->held_back = true;
  }
  KvReservation reservation() const override { return KvReservation::kWholeLife; }
  bool stable_while_decoding() const override { return true; }

 private:
  static void Admit(const ReplicaView& view, Batch* batch) {
    int64_t budget = view.limits.max_num_batched_tokens - view.decode_seqs;
    int64_t running = view.running();
    int64_t free = view.free_blocks;
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      if (running >= view.limits.max_num_seqs) return;
      const ReplicaView::Need need = view.NeedOf(c.request());
      if (need.tokens > budget && !batch->admitted_tokens.empty()) return;
      if (!FitsAboveWatermark(view, free, need.blocks, running)) return;
      batch->admitted_tokens.push_back(need.tokens);
      budget -= need.tokens;
      free -= need.blocks;
      ++running;
      if (budget <= 0) return;
    }
  }
};

}  // namespace

std::unique_ptr<BatchingPolicy> MakeOrca() { return std::make_unique<Orca>(); }

}  // namespace simrun
