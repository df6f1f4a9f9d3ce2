// The sequences of one attention rank that have their prompt computed and generate one token per decode step.
//
// They all advance together, so nothing is stored per sequence and step: a decode clock counts the steps, and a
// sequence is described by the clock and KV length at which it joined. Per step this class does O(1) work, whatever
// the number of sequences:
//   kv now    = kv at join + clock - clock at join
//   finishes  when clock reaches clock at join + steps
//   new block when (kv at join + clock - clock at join) is a multiple of the block size, that is when
//             clock = clock at join - kv at join (mod block size): a count per residue tells the blocks of a step
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace simrun {

class DecodeSet {
 public:
  // window: sliding window of the model in tokens, 0 when it has none.
  DecodeSet(int64_t block_size, int64_t window) : block_size_(block_size), window_(window), residues_(static_cast<size_t>(block_size)) {}

  struct Member {
    int64_t join_clock = 0;
    int64_t join_kv = 0;
    int64_t finish_clock = 0;
    int64_t leave_clock = 0;   // later than finish_clock for a sequence that pads a static batch
  };

  int64_t clock() const { return clock_; }
  int64_t seqs() const { return seqs_; }
  // Sums over the members of the KV length that the next step attends to (the new token included).
  int64_t next_kv_sum() const { return kv_sum_ + seqs_; }
  int64_t next_kv_sum_windowed() const { return window_ == 0 ? next_kv_sum() : windowed_sum_ + growing_; }
  int64_t next_kv_max() { return seqs_ == 0 ? 0 : MaxOffset() + clock_ + 1; }
  // KV blocks the next step must allocate.
  int64_t next_blocks() const { return residues_[phase_]; }
  // The same for the step after that, when nobody joins or leaves in between.
  int64_t blocks_after_next() const { return residues_[phase_ + 1 == residues_.size() ? 0 : phase_ + 1]; }
  int64_t KvOf(const Member& m) const { return m.join_kv + clock_ - m.join_clock; }
  // Clock at which the next member finishes; max when empty. Stale entries make it early, never late.
  int64_t next_finish_clock() const {
    return finish_.empty() ? std::numeric_limits<int64_t>::max() : finish_.front().first;
  }

  // Adds a sequence of KV length `kv` that will generate one token in each of the next `steps` steps and takes part in
  // `stay` >= steps of them. steps >= 1.
  Member Join(uint32_t id, int64_t kv, int64_t steps, int64_t stay) {
    const Member m{clock_, kv, clock_ + steps, clock_ + stay};
    ++seqs_;
    kv_sum_ += kv;
    finish_.emplace_back(m.finish_clock, id);
    std::push_heap(finish_.begin(), finish_.end(), std::greater<>());
    if (offsets_.size() > 64 && offsets_.size() > 4 * static_cast<size_t>(seqs_)) stale_offsets_ = true;
    offsets_.push_back({kv - clock_, m.leave_clock});
    std::push_heap(offsets_.begin(), offsets_.end());
    ++residues_[Residue(m)];
    if (window_ > 0) {
      windowed_sum_ += std::min(kv, window_);
      if (kv < window_) {
        ++growing_;
        crossings_.emplace_back(clock_ + window_ - kv, 1);
        std::push_heap(crossings_.begin(), crossings_.end(), std::greater<>());
      }
    }
    return m;
  }

  // Takes a member out: it finished, or was preempted. Its blocks are the caller's business.
  void Remove(const Member& m) {
    const int64_t kv = KvOf(m);
    --seqs_;
    kv_sum_ -= kv;
    --residues_[Residue(m)];
    if (m.leave_clock > clock_) {
      // Preempted early: the entry in `offsets_` would be taken for a live one, so it is named dead.
      dead_offsets_.push_back({m.join_kv - m.join_clock, m.leave_clock});
    }
    if (window_ > 0) {
      windowed_sum_ -= std::min(kv, window_);
      if (kv < window_) {
        --growing_;
        crossings_.emplace_back(m.join_clock + window_ - m.join_kv, -1);
        std::push_heap(crossings_.begin(), crossings_.end(), std::greater<>());
      }
    }
    if (seqs_ == 0) Reset();
  }

  // One decode step: every member grows by one token.
  void Advance() {
    ++clock_;
    if (++phase_ == residues_.size()) phase_ = 0;
    kv_sum_ += seqs_;
    if (window_ > 0) {
      windowed_sum_ += growing_;
      while (!crossings_.empty() && crossings_.front().first <= clock_) {
        growing_ -= crossings_.front().second;
        std::pop_heap(crossings_.begin(), crossings_.end(), std::greater<>());
        crossings_.pop_back();
      }
    }
  }

  // Calls f(id) for each entry that is due at the current clock, stale ones (preempted earlier) included.
  template <class F>
  void PopDue(F&& f) {
    while (!finish_.empty() && finish_.front().first <= clock_) {
      const uint32_t id = finish_.front().second;
      std::pop_heap(finish_.begin(), finish_.end(), std::greater<>());
      finish_.pop_back();
      f(id);
    }
  }

 private:
  struct Offset {
    int64_t offset;        // kv - clock, constant while a member
    int64_t leave_clock;   // from this clock on the entry is dead
    friend bool operator<(const Offset& a, const Offset& b) {
      return a.offset < b.offset || (a.offset == b.offset && a.leave_clock < b.leave_clock);
    }
    friend bool operator==(const Offset&, const Offset&) = default;
  };

  size_t Residue(const Member& m) const {
    const int64_t r = (m.join_clock - m.join_kv) % block_size_;
    return static_cast<size_t>(r < 0 ? r + block_size_ : r);
  }

  // Largest kv - clock among live members.
  int64_t MaxOffset() {
    if (stale_offsets_) Compact();
    while (true) {
      const Offset top = offsets_.front();
      bool dead = top.leave_clock <= clock_;
      if (!dead && !dead_offsets_.empty()) {
        const auto it = std::find(dead_offsets_.begin(), dead_offsets_.end(), top);
        if (it != dead_offsets_.end()) {
          *it = dead_offsets_.back();
          dead_offsets_.pop_back();
          dead = true;
        }
      }
      if (!dead) return top.offset;
      std::pop_heap(offsets_.begin(), offsets_.end());
      offsets_.pop_back();
    }
  }
  void Compact() {
    std::erase_if(offsets_, [this](const Offset& o) { return o.leave_clock <= clock_; });
    std::erase_if(dead_offsets_, [this](const Offset& o) { return o.leave_clock <= clock_; });
    for (const Offset& d : dead_offsets_) {
      const auto it = std::find(offsets_.begin(), offsets_.end(), d);
      if (it != offsets_.end()) offsets_.erase(it);
    }
    dead_offsets_.clear();
    std::make_heap(offsets_.begin(), offsets_.end());
    stale_offsets_ = false;
  }
  void Reset() {
    finish_.clear();
    offsets_.clear();
    dead_offsets_.clear();
    crossings_.clear();
    growing_ = windowed_sum_ = kv_sum_ = 0;
    stale_offsets_ = false;
  }

  int64_t block_size_;
  int64_t window_;
  int64_t clock_ = 0;
  size_t phase_ = 0;                                     // clock mod block size
  int64_t seqs_ = 0;
  int64_t kv_sum_ = 0;
  int64_t windowed_sum_ = 0;
  int64_t growing_ = 0;                                  // members shorter than the window
  std::vector<int64_t> residues_;                        // members per (join clock - join kv) mod block size
  std::vector<std::pair<int64_t, uint32_t>> finish_;     // min-heap of (finish clock, id)
  std::vector<Offset> offsets_;                          // max-heap
  std::vector<Offset> dead_offsets_;                     // preempted members still in offsets_
  std::vector<std::pair<int64_t, int64_t>> crossings_;   // min-heap of (clock, members that reach the window then)
  bool stale_offsets_ = false;
};

}  // namespace simrun
