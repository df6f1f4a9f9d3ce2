#include "hw/power.h"

#include <cmath>

#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

GpuSpec Board(double tdp, double idle) {
  GpuSpec gpu;
  gpu.tdp = Watts(tdp);
  gpu.idle_power = Watts(idle);
  return gpu;
}

TEST(PowerTest, MatchesTheH200Fit) {
  const PowerModel power(Board(700, 129), std::nullopt);
  for (auto [t, uc, um] : std::vector<std::array<double, 3>>{{1e-5, 0.1, 0.3}, {1e-3, 0.4, 0.05}, {1e-4, 0.0, 0.8}}) {
    const double duty = t / (t + 9.5e-6);
    EXPECT_NEAR(power.KernelWatts(t, uc, um), duty * (35 + 625 * std::pow(uc, 0.62) + 459 * um), 1e-6);
  }
  EXPECT_EQ(power.KernelWatts(1, 1, 1), 700 - 129);  // never above TDP
  EXPECT_EQ(power.KernelWatts(0, 1, 1), 0);
}

TEST(PowerTest, OtherBoardsScaleWithTheirRange) {
  const PowerModel h200(Board(700, 129), std::nullopt), small(Board(350, 50), std::nullopt);
  EXPECT_NEAR(small.KernelWatts(1e-3, 0.2, 0.2) / h200.KernelWatts(1e-3, 0.2, 0.2), 300.0 / 571, 1e-9);
}

TEST(PowerTest, AttentionDrawsItsShareOfTdp) {
  const PowerModel power(Board(700, 75), std::nullopt);
  EXPECT_NEAR(power.DecodeAttentionWatts() + 75, 0.45 * 700, 1e-9);
  EXPECT_GT(power.PrefillAttentionWatts() + 75, 0.58 * 700);
  EXPECT_LT(power.PrefillAttentionWatts() + 75, 0.78 * 700);
}

TEST(PowerTest, ALimitLowersTheClock) {
  const PowerModel power(Board(700, 100), Watts(400));
  EXPECT_TRUE(power.limited());
  EXPECT_EQ(power.Clock(250), 1);  // draws less than the limit allows
  EXPECT_NEAR(power.Clock(600), std::pow(0.5, 1 / 2.4), 1e-9);
  EXPECT_EQ(power.Limited(600), 300);
  EXPECT_EQ(PowerModel(Board(700, 100), Watts(90)).Clock(600), PowerModel::kMinClock);  // below idle
  EXPECT_FALSE(PowerModel(Board(700, 100), Watts(900)).limited());
}

}  // namespace
}  // namespace simrun
