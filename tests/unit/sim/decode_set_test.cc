// DecodeSet against a list of sequences that is walked in full for every answer.
#include "sim/decode_set.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

struct Sequence {
  uint32_t id = 0;
  int64_t kv = 0, steps_left = 0, stay_left = 0;
  DecodeSet::Member member;
};

class Naive {
 public:
  Naive(int64_t block, int64_t window) : block_(block), window_(window) {}
  std::vector<Sequence> all;
  int64_t KvSum() const {
    int64_t sum = 0;
    for (const Sequence& s : all) sum += s.kv + 1;
    return sum;
  }
  int64_t WindowedSum() const {
    int64_t sum = 0;
    for (const Sequence& s : all) sum += window_ == 0 ? s.kv + 1 : std::min(s.kv + 1, window_);
    return sum;
  }
  int64_t Max() const {
    int64_t most = 0;
    for (const Sequence& s : all) most = std::max(most, s.kv + 1);
    return most;
  }
  // Blocks that hold kv + ahead + 1 tokens beyond those that hold kv + ahead.
  int64_t NewBlocks(int64_t ahead) const {
    int64_t count = 0;
    for (const Sequence& s : all) count += Blocks(s.kv + ahead + 1) - Blocks(s.kv + ahead);
    return count;
  }

 private:
  int64_t Blocks(int64_t tokens) const { return (tokens + block_ - 1) / block_; }
  int64_t block_, window_;
};

void Compare(DecodeSet& fast, const Naive& slow, bool empty_too) {
  ASSERT_EQ(fast.seqs(), static_cast<int64_t>(slow.all.size()));
  if (slow.all.empty() && !empty_too) return;
  ASSERT_EQ(fast.next_kv_sum(), slow.KvSum());
  ASSERT_EQ(fast.next_kv_sum_windowed(), slow.WindowedSum());
  ASSERT_EQ(fast.next_kv_max(), slow.Max());
  ASSERT_EQ(fast.next_blocks(), slow.NewBlocks(0));
  ASSERT_EQ(fast.blocks_after_next(), slow.NewBlocks(1));
  int64_t soonest = INT64_MAX;
  for (const Sequence& s : slow.all) {
    ASSERT_EQ(fast.KvOf(s.member), s.kv);
    if (s.steps_left > 0) soonest = std::min(soonest, fast.clock() + s.steps_left);
  }
  ASSERT_LE(fast.next_finish_clock(), soonest);  // stale entries make it early, never late
}

class DecodeSetRandom : public testing::TestWithParam<std::tuple<int64_t, int64_t, bool>> {};

TEST_P(DecodeSetRandom, AnswersAsAListOfSequencesWould) {
  const auto [block, window, holds] = GetParam();
  Rng rng(static_cast<uint64_t>(block * 1000 + window * 2 + holds), "decode-set");
  DecodeSet fast(block, window);
  Naive slow(block, window);
  uint32_t next_id = 0;
  int64_t finished = 0, preempted = 0;
  for (int action = 0; action < 4000; ++action) {
    const uint64_t what = rng.Below(10);
    if (what < 3 && slow.all.size() < 200) {
      // Few values, so that equal lengths and equal ends are frequent.
      const int64_t kv = 1 + static_cast<int64_t>(rng.Below(40)), steps = 1 + static_cast<int64_t>(rng.Below(30));
      const int64_t stay = holds ? steps + static_cast<int64_t>(rng.Below(10)) : steps;
      Sequence s{next_id++, kv, steps, stay, {}};
      s.member = fast.Join(s.id, kv, steps, stay);
      slow.all.push_back(s);
    } else if (what < 4 && !slow.all.empty()) {
      const size_t i = rng.Below(slow.all.size());
      fast.Remove(slow.all[i].member);
      slow.all.erase(slow.all.begin() + static_cast<std::ptrdiff_t>(i));
      ++preempted;
    } else if (!slow.all.empty()) {
      fast.Advance();
      std::set<uint32_t> due, told;
      for (Sequence& s : slow.all) {
        ++s.kv;
        --s.steps_left;
        --s.stay_left;
        if (s.steps_left == 0) due.insert(s.id);
      }
      fast.PopDue([&](uint32_t id) {
        const auto it = std::find_if(slow.all.begin(), slow.all.end(), [&](const Sequence& s) { return s.id == id; });
        if (it == slow.all.end()) return;  // removed earlier: a stale entry
        EXPECT_EQ(it->member.finish_clock, fast.clock());
        told.insert(id);
      });
      ASSERT_EQ(told, due);
      finished += static_cast<int64_t>(due.size());
      for (size_t i = 0; i < slow.all.size();) {
        if (slow.all[i].stay_left > 0) {
          ++i;
          continue;
        }
        fast.Remove(slow.all[i].member);
        slow.all.erase(slow.all.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    // Not after every action, so that entries pile up between questions.
    if (rng.Below(3) == 0) Compare(fast, slow, true);
    if (HasFatalFailure()) FAIL() << "after action " << action;
  }
  EXPECT_GT(finished, 300);
  EXPECT_GT(preempted, 100);
}

INSTANTIATE_TEST_SUITE_P(BlocksAndWindows, DecodeSetRandom,
                         testing::Combine(testing::Values<int64_t>(1, 2, 3, 16, 64), testing::Values<int64_t>(0, 1, 7, 25, 1000),
                                          testing::Bool()));

TEST(DecodeSet, OneSequenceByHand) {
  // 30 tokens in blocks of 16: 2 blocks, full at 32. Tokens 31 and 32 fit; the third one needs a block.
  DecodeSet set(16, 0);
  const DecodeSet::Member m = set.Join(7, 30, 3, 3);
  EXPECT_EQ(set.next_kv_sum(), 31);
  EXPECT_EQ(set.next_blocks(), 0);
  set.Advance();
  EXPECT_EQ(set.KvOf(m), 31);
  EXPECT_EQ(set.next_blocks(), 0);
  EXPECT_EQ(set.blocks_after_next(), 1);
  set.Advance();
  EXPECT_EQ(set.KvOf(m), 32);
  EXPECT_EQ(set.next_blocks(), 1);
  std::vector<uint32_t> due;
  const auto note = [&](uint32_t id) { due.push_back(id); };
  set.PopDue(note);
  EXPECT_TRUE(due.empty());
  set.Advance();
  set.PopDue(note);
  EXPECT_EQ(due, std::vector<uint32_t>{7});
}

TEST(DecodeSet, AWindowStopsGrowingWhenItIsReached) {
  DecodeSet set(16, 10);
  set.Join(0, 8, 9, 9);    // attends to 9, 10, 10, ...
  set.Join(1, 50, 9, 9);   // attends to 10 at all times
  EXPECT_EQ(set.next_kv_sum_windowed(), 19);
  set.Advance();
  EXPECT_EQ(set.next_kv_sum_windowed(), 20);
  set.Advance();
  EXPECT_EQ(set.next_kv_sum_windowed(), 20);
  EXPECT_EQ(set.next_kv_sum(), 11 + 53);
}

}  // namespace
}  // namespace simrun
