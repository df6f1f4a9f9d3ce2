#include "sim/level_timeline.h"

#include <algorithm>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

TEST(LevelTimelineTest, MeanAndPeakOfEverySlot) {
  LevelTimeline t;
  t.Set(0, 10);
  t.Set(16, 30);
  t.Set(16, 20);   // at once: a peak that lasts no time
  t.Set(40, 0);
  t.Close(50);
  // 64 slots of 1/1024 s doubled until 50 s fit: 1 s each.
  EXPECT_DOUBLE_EQ(t.width(), 1);
  ASSERT_EQ(t.slots(), 50u);
  EXPECT_DOUBLE_EQ(t.Mean(3), 10);
  EXPECT_DOUBLE_EQ(t.Mean(16), 20);
  EXPECT_DOUBLE_EQ(t.Peak(16), 30);
  EXPECT_DOUBLE_EQ(t.Peak(17), 20);
  EXPECT_DOUBLE_EQ(t.Mean(45), 0);
}

TEST(LevelTimelineTest, NothingIsLostWhenSlotsDouble) {
  Rng rng(1, "levels");
  for (int round = 0; round < 50; ++round) {
    LevelTimeline t;
    double now = 0, area = 0, level = 0, peak = 0;
    for (int i = 0; i < 300; ++i) {
      const double step = rng.Exponential(0.1 * (1 + round));
      area += level * step;
      now += step;
      level = 100 * rng.Uniform();
      peak = std::max(peak, level);
      t.Set(now, level);
    }
    t.Close(now);
    EXPECT_GE(t.slots(), LevelTimeline::kSlots / 2);
    EXPECT_LE(t.slots(), LevelTimeline::kSlots);
    double sum = 0, most = 0;
    for (size_t i = 0; i < t.slots(); ++i) {
      const double width = std::min(now, static_cast<double>(i + 1) * t.width()) - static_cast<double>(i) * t.width();
      sum += t.Mean(i) * width;
      most = std::max(most, t.Peak(i));
      EXPECT_LE(t.Mean(i), t.Peak(i) * (1 + 1e-9));
    }
    EXPECT_NEAR(sum, area, 1e-6 * area);
    EXPECT_DOUBLE_EQ(most, peak);
  }
}

}  // namespace
}  // namespace simrun
