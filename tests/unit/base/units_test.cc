#include "base/units.h"

#include <type_traits>

#include <gtest/gtest.h>

#include "base/sim_time.h"

namespace simrun {
namespace {

using namespace literals;

TEST(Units, ProductsAndQuotientsHaveTheRightDimension) {
  static_assert(std::is_same_v<decltype(Bytes(1) / BytesPerSecond(1)), Seconds>);
  static_assert(std::is_same_v<decltype(FlopsPerSecond(1) * Seconds(1)), Flops>);
  static_assert(std::is_same_v<decltype(Joules(1) / Seconds(1)), Watts>);
  static_assert(std::is_same_v<decltype(Watts(1) * Seconds(1)), Joules>);
  static_assert(std::is_same_v<decltype(Seconds(1) / Seconds(1)), double>);
  static_assert(std::is_same_v<decltype(1.0 / Seconds(1)), PerSecond>);
  static_assert(std::is_same_v<decltype(PerSecond(1) * Seconds(1)), double>);
  static_assert(std::is_same_v<decltype(DollarsPerSecond(1) * Seconds(1)), Dollars>);
  // 3.35 TB read at 3.35 TB/s take one second.
  EXPECT_DOUBLE_EQ((3350_GB / 3.35_TBps).value(), 1.0);
  // 700 W for an hour are 0.7 kWh = 2.52 MJ.
  EXPECT_DOUBLE_EQ((700_W * 3600_s).value(), 2.52e6);
}

TEST(Units, SiAndIecPrefixesAreApart) {
  EXPECT_EQ((1_KB).value(), 1000);
  EXPECT_EQ((1_KiB).value(), 1024);
  EXPECT_EQ((80_GiB).value(), 80.0 * 1024 * 1024 * 1024);
  EXPECT_GT(80_GiB, 80_GB);
}

TEST(Units, ArithmeticWithinADimension) {
  Seconds t = 2_s;
  t += 500_ms;
  EXPECT_DOUBLE_EQ(t.value(), 2.5);
  t -= 1_s;
  t *= 4;
  t /= 3;
  EXPECT_DOUBLE_EQ(t.value(), 2.0);
  EXPECT_DOUBLE_EQ((-t).value(), -2.0);
  EXPECT_TRUE(1_ms < 1_s && 1_s > 1_ms && 1_s <= 1_s && 1_s >= 1_s && 1_s != 2_s && 1_s == 1000_ms);
}

TEST(Units, CostNoMoreThanADouble) {
  static_assert(sizeof(Seconds) == sizeof(double));
  static_assert(std::is_trivially_copyable_v<Seconds>);
  static_assert((3_s + 4_s).value() == 7);  // usable at compile time
}

TEST(Units, NoImplicitConversions) {
  static_assert(!std::is_convertible_v<double, Seconds>);
  static_assert(!std::is_convertible_v<Seconds, double>);
  static_assert(!std::is_convertible_v<Bytes, Seconds>);
  static_assert(!std::is_constructible_v<Seconds, Bytes>);
}

TEST(SimTime, CountsTenthsOfNanoseconds) {
  EXPECT_EQ(SimTime::From(1_s).ticks(), 10'000'000'000);
  EXPECT_EQ(SimTime::From(1_ns).ticks(), 10);
  EXPECT_EQ(SimTime::FromTicks(25).seconds().value(), 2.5e-9);
}

TEST(SimTime, RoundsToTheNearestTick) {
  EXPECT_EQ(SimTime::From(Seconds(1.4e-10)).ticks(), 1);
  EXPECT_EQ(SimTime::From(Seconds(1.6e-10)).ticks(), 2);
  EXPECT_EQ(SimTime::From(Seconds(-1.6e-10)).ticks(), -2);
}

TEST(SimTime, OrderAndArithmetic) {
  const SimTime a = SimTime::From(1_s), b = SimTime::From(2_s);
  EXPECT_LT(a, b);
  EXPECT_EQ(a + a, b);
  EXPECT_EQ(b - a, a);
  EXPECT_TRUE(a < 1.5_s);
  EXPECT_TRUE(a >= 1_s);
  EXPECT_TRUE(a <= 1_s);
  EXPECT_FALSE(a > 1_s);
}

TEST(SimTime, SumsDoNotDependOnTheOrder) {
  // As doubles, 0.1 s added to 1e7 s ten times is not the same as 1 s added once; as ticks it is.
  SimTime forwards = SimTime::From(1e7 * 1_s);
  for (int i = 0; i < 10; ++i) forwards = forwards + SimTime::From(100_ms);
  EXPECT_EQ(forwards, SimTime::From(1_s) + SimTime::From(1e7 * 1_s));
}

TEST(SimTime, NeverIsLaterThanEverything) {
  EXPECT_GT(SimTime::Infinite(), SimTime::From(Seconds(9e8)));
  EXPECT_EQ(SimTime::From(Seconds(1e30)), SimTime::Infinite());
  EXPECT_EQ(SimTime::From(Seconds(std::numeric_limits<double>::infinity())), SimTime::Infinite());
  // 28 years still fit.
  EXPECT_LT(SimTime::From(28 * 365.25 * 86400 * 1_s), SimTime::Infinite());
}

}  // namespace
}  // namespace simrun
