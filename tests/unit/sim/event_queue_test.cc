#include "sim/event_queue.h"

#include <algorithm>
#include <tuple>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

TEST(EventQueue, SameInstantBandsThenFirstInFirstOut) {
  EventQueue q;
  const SimTime t = SimTime::FromTicks(5);
  q.Push({t, EventBand::kArrival, 1, 10});
  q.Push({t, EventBand::kStepEnd, 2, 20});
  q.Push({t, EventBand::kArrival, 3, 30});
  q.Push({t, EventBand::kStepEnd, 4, 40});
  q.Push({SimTime::FromTicks(4), EventBand::kArrival, 5, 50});
  std::vector<uint32_t> order;
  for (; !q.empty(); q.Pop()) order.push_back(q.Top().target);
  EXPECT_EQ(order, (std::vector<uint32_t>{5, 2, 4, 1, 3}));
}

TEST(EventQueue, EmptyMeansNever) {
  EventQueue q;
  EXPECT_TRUE(q.empty());
  EXPECT_EQ(q.NextTime(), SimTime::Infinite());
  q.Push({SimTime::FromTicks(1), EventBand::kStepEnd, 0, 0});
  q.Pop();
  EXPECT_EQ(q.NextTime(), SimTime::Infinite());
}

TEST(EventQueue, RandomPushesAndPopsAsFromASortedList) {
  Rng rng(3, "events");
  EventQueue q;
  std::vector<std::tuple<SimTime, EventBand, uint32_t>> sorted;  // payload counts pushes: first in, first out
  uint64_t pushed = 0;
  for (int i = 0; i < 20000; ++i) {
    if (rng.Below(100) < (i < 10000 ? 55u : 45u) || sorted.empty()) {
      const Event e{SimTime::FromTicks(static_cast<int64_t>(rng.Below(50))), rng.Below(2) == 0 ? EventBand::kStepEnd : EventBand::kArrival,
                    static_cast<uint32_t>(pushed % 7), static_cast<uint32_t>(pushed)};
      q.Push(e);
      sorted.emplace_back(e.time, e.band, pushed++);
      std::sort(sorted.begin(), sorted.end());
    } else {
      const Event top = q.Top();
      ASSERT_EQ(std::make_tuple(top.time, top.band, top.payload), sorted.front());
      ASSERT_EQ(top.target, top.payload % 7);
      q.Pop();
      sorted.erase(sorted.begin());
    }
    ASSERT_EQ(q.size(), sorted.size());
    ASSERT_EQ(q.NextTime(), sorted.empty() ? SimTime::Infinite() : std::get<0>(sorted.front()));
  }
}

}  // namespace
}  // namespace simrun
