#include "schedulers/batching/pipeline_fill.h"

#include <algorithm>
#include <cmath>

namespace simrun {
namespace {

// All decodes, then whole prompts. A sequence holds (kv + max_kv)/2 tokens of KV cache on average over the max_kv - kv + 1
// steps of its life, so memory for `total` blocks keeps up with total / (steps x mean blocks) new sequences per step.
// Admitting that many in each step, and not as many as fit at once, keeps sequences of all ages in memory: the cache is
// full without running over (MoE-Lens, arXiv 2504.09345).
class PipelineFill final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    batch->decode = view.decode_seqs > 0;
    int64_t budget = view.limits.max_num_batched_tokens - view.decode_seqs;
    for (const int64_t left : view.partial) {
      const int64_t tokens = std::min(left, std::max<int64_t>(budget, 0));
      batch->partial_tokens.push_back(tokens);
      budget -= tokens;
    }
    int64_t running = view.running();
    int64_t free = view.free_blocks;
    double share = 1;  // of this step's admissions
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      if (running >= view.limits.max_num_seqs) return;
      const WaitingRequest& r = c.request();
      const ReplicaView::Need need = view.NeedOf(r);
      if (!FitsAboveWatermark(view, free, need.blocks, running)) return;
      if (need.tokens > budget && running > 0) return;
      const double block = static_cast<double>(view.limits.block_size);
      const double steps = static_cast<double>(std::max<int64_t>(1, r.max_kv_tokens - r.kv_tokens + 1));
      const double mean = std::max(1.0, (static_cast<double>(r.kv_tokens + r.max_kv_tokens) + block) / (2 * block)) + static_cast<double>(view.limits.state_blocks);
      share -= steps * mean / static_cast<double>(std::max<int64_t>(1, view.total_blocks));
      if (share < 0 && !batch->admitted_tokens.empty()) return;
      batch->admitted_tokens.push_back(need.tokens);
      budget -= need.tokens;
      free -= need.blocks;
      ++running;
    }
  }
};

}  // namespace

std::unique_ptr<BatchingPolicy> MakePipelineFill() { return std::make_unique<PipelineFill>(); }

}  // namespace simrun
