#include "cli/progress.h"

#include <sstream>

#include <gtest/gtest.h>

namespace simrun {
namespace {

TEST(ProgressLine, TheRateIsThatOfTheLaterHalf) {
  std::ostringstream err;
  ProgressLine line(err, true);
  // 1,000 points in the first second, 10 a second after it.
  std::string text;
  for (int tenth = 1; tenth <= 100; ++tenth) {
    const double t = 0.1 * tenth;
    const auto done = static_cast<int64_t>(t <= 1 ? 1000 * t + 0.5 : 1000 + 10 * (t - 1) + 0.5);
    text = line.Text(done, 0, 2000, t, "points");
  }
  EXPECT_EQ(text, "1,090/2,000 points, 10 points/s, 1 min 31 s left");
}

TEST(ProgressLine, PointsFoundFinishedTookNoTime) {
  std::ostringstream err;
  ProgressLine line(err, true);
  EXPECT_EQ(line.Text(520, 500, 600, 2, "points"), "520/600 points, 10 points/s, 8 s left");
}

TEST(ProgressLine, NothingDoneHasNoTimeLeft) {
  std::ostringstream err;
  ProgressLine line(err, true);
  EXPECT_EQ(line.Text(0, 0, 600, 0, "points"), "0/600 points, 0 points/s");
}

}  // namespace
}  // namespace simrun
