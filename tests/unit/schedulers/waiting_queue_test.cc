#include "schedulers/waiting_queue.h"

#include <algorithm>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

// id = arrival order
WaitingRequest Waiting(uint32_t id, int64_t prompt, int64_t output, int64_t priority, int64_t deadline) {
  return {id, id, prompt, prompt, prompt + output - 1, priority, deadline};
}

std::vector<uint32_t> Drain(WaitingQueue q) {
  std::vector<uint32_t> walked, popped;
  for (WaitingQueue::Cursor c(q); !c.done(); c.Next()) walked.push_back(c.request().id);
  EXPECT_EQ(q.size(), walked.size());
  for (; !q.empty(); q.PopFront()) popped.push_back(q.front().id);
  EXPECT_EQ(walked, popped);
  return popped;
}

std::vector<uint32_t> OrderOf(QueueOrder order) {
  WaitingQueue q(order);
  q.Push(Waiting(0, 100, 50, 1, 900));   // 149 tokens to compute
  q.Push(Waiting(1, 10, 200, 0, 300));   // 209
  q.Push(Waiting(2, 20, 20, 1, 300));    // 39
  q.Push(Waiting(3, 30, 10, 2, 100));    // 39
  return Drain(std::move(q));
}

TEST(WaitingQueue, EachOrderByHand) {
  EXPECT_EQ(OrderOf(QueueOrder::kFcfs), (std::vector<uint32_t>{0, 1, 2, 3}));
  EXPECT_EQ(OrderOf(QueueOrder::kShortestJob), (std::vector<uint32_t>{2, 3, 0, 1}));
  EXPECT_EQ(OrderOf(QueueOrder::kPriority), (std::vector<uint32_t>{1, 0, 2, 3}));
  EXPECT_EQ(OrderOf(QueueOrder::kEarliestDeadline), (std::vector<uint32_t>{3, 1, 2, 0}));
}

TEST(WaitingQueue, APreemptedRequestGoesBackToItsPlace) {
  WaitingQueue q(QueueOrder::kFcfs);
  for (const uint32_t id : {2u, 5u, 8u}) q.Push(Waiting(id, 1, 1, 0, 0));
  q.Push(Waiting(6, 1, 1, 0, 0));
  q.Push(Waiting(1, 1, 1, 0, 0));
  q.Push(Waiting(9, 1, 1, 0, 0));
  EXPECT_EQ(Drain(std::move(q)), (std::vector<uint32_t>{1, 2, 5, 6, 8, 9}));
}

TEST(WaitingQueue, ShortestJobCountsWhatIsLeftToCompute) {
  WaitingQueue q(QueueOrder::kShortestJob);
  q.Push(Waiting(0, 50, 10, 0, 0));                       // 59
  // Swapped out with 100 tokens stored, at most 140: 40 left, and no prompt.
  q.Push({1, 1, 0, 100, 140, 0, 0});
  EXPECT_EQ(Drain(std::move(q)), (std::vector<uint32_t>{1, 0}));
}

TEST(WaitingQueue, RandomPushesStaySorted) {
  for (const QueueOrder order : {QueueOrder::kFcfs, QueueOrder::kShortestJob, QueueOrder::kPriority, QueueOrder::kEarliestDeadline}) {
    Rng rng(static_cast<uint64_t>(order), "queue");
    WaitingQueue q(order);
    std::vector<std::pair<int64_t, uint32_t>> naive;
    std::vector<uint32_t> ids(300);
    for (uint32_t i = 0; i < 300; ++i) ids[i] = i;
    for (size_t i = 299; i > 0; --i) std::swap(ids[i], ids[rng.Below(i + 1)]);
    for (const uint32_t id : ids) {
      const auto small = [&] { return 1 + static_cast<int64_t>(rng.Below(5)); };
      const WaitingRequest w = Waiting(id, small(), small(), small(), small());
      q.Push(w);
      const int64_t key = order == QueueOrder::kFcfs ? 0 : order == QueueOrder::kShortestJob ? w.max_kv_tokens
                          : order == QueueOrder::kPriority ? w.priority : w.deadline;
      naive.emplace_back(key, id);
    }
    std::sort(naive.begin(), naive.end());
    std::vector<uint32_t> expected;
    for (const auto& [key, id] : naive) expected.push_back(id);
    EXPECT_EQ(Drain(std::move(q)), expected);
  }
}

TEST(WaitingQueue, NamesParseAndAWrongOneSuggestsTheNearest) {
  EXPECT_EQ(*ParseQueueOrder("fcfs"), QueueOrder::kFcfs);
  EXPECT_EQ(*ParseQueueOrder("earliest-deadline"), QueueOrder::kEarliestDeadline);
  const auto bad = ParseQueueOrder("shortest-jobs");
  ASSERT_FALSE(bad.ok());
  EXPECT_NE(std::string(bad.status().message()).find("did you mean \"shortest-job\"?"), std::string::npos);
}

}  // namespace
}  // namespace simrun
