#include "hw/operator_memo.h"

#include <algorithm>
#include <bit>

namespace simrun {
namespace {

uint64_t U(int64_t x) { return static_cast<uint64_t>(x); }
uint64_t U(double x) { return std::bit_cast<uint64_t>(x); }
uint64_t Two(int high, int low) { return uint64_t{static_cast<uint32_t>(high)} << 32 | static_cast<uint32_t>(low); }

}  // namespace

OpTime OperatorMemo::Cost(const OperatorCosts& costs, const Operator& op, const CommPath* path) {
  const CommPath wires = path != nullptr ? *path : CommPath{-1, -1, -1};
  // All of the operator but its name, count and place in the step.
  const uint64_t words[] = {U(op.m),         U(op.n),      U(op.k),
                   U(op.tokens),    U(op.hidden), U(op.topk),
                   U(op.experts),   U(op.inter),  U(op.imbalance),
                   U(op.heads),     U(op.window), U(op.active_experts),
                   U(op.flops),     U(op.bytes),  Two(op.tp, op.ep),
                   U(op.skew),      Two(static_cast<int>(op.kv_heads), static_cast<int>(op.head_dim)), Two(op.ranks, wires.ranks),
                   Two(wires.ranks_per_node, wires.nodes),
                   Two(static_cast<int>(op.kind) << 16 | static_cast<int>(op.weights) << 8 | static_cast<int>(op.activations),
                       static_cast<int>(op.kv) << 16 | static_cast<int>(op.group) << 8 | (op.on_engine ? 2 : 0) | (op.gated ? 1 : 0))};
  uint64_t a = 0x9e3779b97f4a7c15u, b = 0xc2b2ae3d27d4eb4fu;
  for (const uint64_t word : words) {
    a = (a ^ word) * 0xff51afd7ed558ccdu;
    b = (std::rotl(b, 27) ^ word) * 0xc4ceb9fe1a85ec53u;
    a ^= a >> 32;
    b ^= b >> 29;
  }
  const uint64_t low = a | 1;
  if (used_ * 4 >= slots_.size() * 3) Grow();
  const size_t mask = slots_.size() - 1;
  size_t at = (b >> 8) & mask;
  for (; slots_[at].low != 0; at = (at + 1) & mask) {
    if (slots_[at].low == low && slots_[at].high == b) return slots_[at].time;
  }
  Slot& slot = slots_[at];
  slot.low = low;
  slot.high = b;
  slot.time = costs.Cost(op, path);
  ++used_;
  return slot.time;
}

void OperatorMemo::Grow() {
  if (used_ >= kMost) {
    for (Slot& slot : slots_) slot.low = 0;
    used_ = 0;
    return;
  }
  std::vector<Slot> old = std::move(slots_);
  slots_.assign(std::max<size_t>(size_t{1} << 10, old.size() * 2), Slot());
  const size_t mask = slots_.size() - 1;
  for (Slot& slot : old) {
    if (slot.low == 0) continue;
    size_t at = (slot.high >> 8) & mask;
    while (slots_[at].low != 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

OperatorMemo& SharedPrices::Of(const Key& key) {
  const auto it = std::find_if(memos_.begin(), memos_.end(), [&](const auto& m) { return m.first == key; });
  if (it != memos_.end()) {
    std::rotate(memos_.begin(), it, it + 1);
  } else {
    if (memos_.size() == kMostKeys) memos_.pop_back();
    memos_.emplace(memos_.begin(), key, std::make_unique<OperatorMemo>());
  }
  return *memos_.front().second;
}

}  // namespace simrun
