#include "hw/power.h"

#include <cmath>

#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

constexpr double kActive = 40, kCompute = 600, kMemory = 400, kRamp = 8e-6, kCeiling = 0.98;

GpuSpec Board(double tdp = 700, double idle = 100) {
  GpuSpec gpu;
  gpu.tdp = Watts(tdp);
  gpu.idle_power = Watts(idle);
  gpu.boost_clock = PerSecond(2e9);
  gpu.power.active = Watts(kActive);
  gpu.power.compute = Watts(kCompute);
  gpu.power.memory = Watts(kMemory);
  gpu.power.link = Watts(90);
  gpu.power.ramp = Seconds(kRamp);
  gpu.power.ceiling = kCeiling;
  return gpu;
}

double JoulesOf(const PowerModel& power, const PowerModel::Work& w) {
  const PowerModel::Setting s = power.At(w);
  return power.Joules(s, w.seconds, w.compute, w.memory);
}

TEST(PowerTest, IsTheFormula) {
  const PowerModel power(Board());
  for (auto [t, uc, um] : std::vector<std::array<double, 3>>{{1e-5, 0.1, 0.3}, {1e-3, 0.2, 0.05}, {1e-4, 0.0, 0.8}}) {
    const double duty = t / (t + kRamp);
    EXPECT_NEAR(JoulesOf(power, {t, uc * t, um * t}), t * duty * (kCompute * uc + kMemory * um), 1e-9 * t);
  }
  // Never above the ceiling of the board.
  EXPECT_NEAR(JoulesOf(power, {1, 1, 1}), kCeiling * 700 - 100 - kActive, 1e-9);
  EXPECT_EQ(JoulesOf(power, {0, 0, 0}), 0);
}

TEST(PowerTest, AttentionKernelsDrawMoreForTheSameWork) {
  GpuSpec board = Board();
  const PowerModel::Work other{1e-3, 1e-4, 5e-4};
  PowerModel::Work attention = other;
  attention.attention = true;
  EXPECT_EQ(JoulesOf(PowerModel(board), attention), JoulesOf(PowerModel(board), other));
  board.power.attention = 1.3;
  EXPECT_NEAR(JoulesOf(PowerModel(board), attention) / JoulesOf(PowerModel(board), other), 1.3, 1e-12);
}

TEST(PowerTest, EntriesOfNoBoardScaleWithTheRange) {
  GpuSpec board;
  board.tdp = Watts(700);
  board.idle_power = Watts(75);
  const PowerSpec same = *LoadPower("generic", board, TestCatalog());
  board.tdp = Watts(350);
  board.idle_power = Watts(37.5);
  const PowerSpec half = *LoadPower("generic", board, TestCatalog());
  EXPECT_EQ(half.provenance, Provenance::kTransferred);
  EXPECT_NEAR(half.memory / same.memory, 0.5, 1e-12);
  EXPECT_NEAR(half.compute / same.compute, 0.5, 1e-12);
  EXPECT_NEAR(half.active / same.active, 0.5, 1e-12);
  EXPECT_EQ(half.ramp, same.ramp);
  EXPECT_FALSE(LoadPower("h300", board, TestCatalog()).ok());
}

TEST(PowerTest, ADieKeepsTheEnergyOfItsOperations) {
  const GpuSpec sxm = *LoadGpu("h100-sxm-80gb", TestCatalog());
  EXPECT_EQ(sxm.power.provenance, Provenance::kCalibrated);
  const PowerSpec own = *LoadPower("h100", sxm, TestCatalog());
  EXPECT_NEAR(own.settled.value(), 790, 1e-6) << "the board itself settles where it was measured";
  EXPECT_EQ(LoadGpu("h800-sxm-80gb", TestCatalog())->power.provenance, Provenance::kTransferred);

  // Half the units and three quarters of the bandwidth at the same clock and limits: watts at the full rates follow, and
  // its long work, which fills less of the board, is never held back.
  GpuSpec cut = sxm;
  for (FlopsPerSecond& peak : cut.peak) peak = peak / 2;
  cut.memory_bandwidth = cut.memory_bandwidth * 0.75;
  PowerSpec p = *LoadPower("h100", cut, TestCatalog());
  EXPECT_EQ(p.provenance, Provenance::kTransferred);
  EXPECT_NEAR(p.compute / own.compute, 0.5, 1e-12);
  EXPECT_NEAR(p.memory / own.memory, 0.75, 1e-12);
  EXPECT_EQ(p.active, own.active);
  EXPECT_LT(PowerModel([&] { cut.power = p; return cut; }()).SettledSeconds({1, 0.7, 0.3}), 1);

  // The same die under a higher limit: V^2 f of its clock rises with the room.
  GpuSpec high = sxm;
  high.tdp = Watts(800);
  p = *LoadPower("h100", high, TestCatalog());
  EXPECT_EQ(p.compute, own.compute);
  EXPECT_TRUE(p.own_rates);
  const auto room = [&](const GpuSpec& g) { return 0.98 * g.tdp.value() - g.idle_power.value() - own.active.value(); };
  const auto fills = [&](const PowerSpec& spec) {
    const double volts = std::sqrt(spec.settled / own.compute);
    return spec.settled.value() * (volts - 0.5) / 0.5;
  };
  EXPECT_NEAR(fills(p) / fills(own), room(high) / room(sxm), 1e-9);
  high.power = p;
  const double faster = PowerModel(sxm).SettledSeconds({1, 0.7, 0}) / PowerModel(high).SettledSeconds({1, 0.7, 0});
  EXPECT_GT(faster, 1.02);
  EXPECT_LT(faster, room(high) / room(sxm)) << "the higher clock costs energy";

  // Under a lower limit every kernel runs slower than on the board that was measured.
  GpuSpec low = sxm;
  low.tdp = Watts(400);
  low.power = p = *LoadPower("h100", low, TestCatalog());
  EXPECT_EQ(p.compute, own.compute);
  EXPECT_FALSE(p.own_rates);
  EXPECT_LT(PowerModel(low).At({1, 0.7, 0.3}).speed, 0.8);
  EXPECT_EQ(PowerModel(sxm).At({1, 0.7, 0.3}).speed, 1);

  // A lower boost clock: a lower voltage at it, 0.5 + 0.5 x 0.9.
  GpuSpec slow = sxm;
  slow.boost_clock = slow.boost_clock * 0.9;
  for (FlopsPerSecond& peak : slow.peak) peak = peak * 0.9;
  p = *LoadPower("h100", slow, TestCatalog());
  EXPECT_NEAR(p.compute / own.compute, 0.9 * 0.95 * 0.95, 1e-12);
  EXPECT_NEAR(p.voltage_floor, 0.5 / 0.95, 1e-12);
  EXPECT_NEAR(p.settled / own.settled, 0.9, 0.005) << "it settles at the same clock, but for the watts of its context";
}

TEST(PowerTest, ALimitLowersTheClockOfKernelsThatDrawMore) {
  const PowerModel full(Board()), power(Board(), Watts(400));
  EXPECT_TRUE(power.limited());
  EXPECT_FALSE(full.limited());
  const double room = kCeiling * 400 - 100 - kActive;   // 252 W
  const PowerModel::Work light{1, 0, 0.5}, heavy{1, 0.7, 0};
  EXPECT_EQ(power.At(light).speed, 1);   // 200 W
  // 600 x 0.7 = 420 W at full clock; f V^2 with V = 0.5 + 0.5 f.
  const double demand = kCompute * 0.7 / (1 + kRamp);
  const double f = power.At(heavy).speed;
  EXPECT_NEAR(demand * f * std::pow(0.5 + 0.5 * f, 2), room, 1e-3 * room);
  // It runs 1 / f times as long at the limit.
  EXPECT_NEAR(power.Joules(power.At(heavy), 1 / f, 0.7, 0) * f, room, 1e-3 * room);
  EXPECT_NEAR(PowerModel(Board(), Watts(145)).At(heavy).speed, PowerModel::kMinClock, 1e-6);   // hardly above idle
}

TEST(PowerTest, ALockedClockSlowsComputeAndSavesEnergy) {
  const PowerModel full(Board()), slow(Board(), std::nullopt, PerSecond(1e9));
  const PowerModel::Work compute{1, 0.5, 0}, memory{1, 0, 0.9};
  EXPECT_NEAR(slow.At(compute).speed, 0.5, 1e-12);
  // V = 0.75: an operation costs 0.5625 of its energy, whatever its time.
  const double v2 = 0.75 * 0.75;
  EXPECT_NEAR(slow.Joules(slow.At(compute), 2, 0.5, 0) / full.Joules(full.At(compute), 1, 0.5, 0), v2, 1e-4);
  // Of the memory watts 0.4 stay.
  EXPECT_NEAR(JoulesOf(slow, memory) / JoulesOf(full, memory), 0.4 + 0.6 * v2, 1e-9);
  EXPECT_NEAR(slow.active_watts(), kActive * 0.5 * v2, 1e-9);
  EXPECT_LT(slow.link_watts(), full.link_watts());
}

TEST(PowerTest, AKernelAtTheCeilingWasMeasuredBelowTheBoostClock) {
  // 600 x 0.9 + 400 x 0.5 = 740 W do not fit into 546 W: the board lowered the clock already when it was measured.
  const PowerModel::Work heavy{1, 0.9, 0.5};
  const double at_boost = PowerModel(Board(), std::nullopt, PerSecond(2e9)).At(heavy).speed;
  EXPECT_EQ(at_boost, 1);
  EXPECT_EQ(PowerModel(Board(), std::nullopt, PerSecond(1.8e9)).At(heavy).speed, 1);
  const double slower = PowerModel(Board(), std::nullopt, PerSecond(1e9)).At(heavy).speed;
  EXPECT_GT(slower, 0.5);   // relative to less than 2 GHz
  EXPECT_LT(slower, 0.7);
}

TEST(PowerTest, LongWorkTakesWhatTheCeilingLeavesForIt) {
  GpuSpec board = Board();
  const PowerModel::Work work{1, 0.8, 0.3};
  EXPECT_EQ(PowerModel(board).SettledSeconds(work), 0);   // not known
  board.power.settled = Watts(450);
  // Core voltage squared is 450 / 600 of that at boost, so of the memory watts 0.4 + 0.6 x 0.75 stay.
  const double watts = 450 * 0.8 + kMemory * (0.4 + 0.6 * 0.75) * 0.3, room = kCeiling * 700 - 100 - kActive;
  const double seconds = PowerModel(board).SettledSeconds(work);
  EXPECT_NEAR(seconds, watts / room / (1 + kRamp), 1e-9);
  // A kernel as short as the ramp draws half.
  EXPECT_NEAR(PowerModel(board).SettledSeconds({kRamp, 0.8 * kRamp, 0.3 * kRamp}), kRamp * watts / room / 2, 1e-9 * kRamp);
  // Operands of 8 bits at watts of their own, where they are known.
  const PowerModel::Work narrow{1, 0.8, 0.3, false, true};
  EXPECT_EQ(PowerModel(board).SettledSeconds(narrow), seconds);
  board.power.settled_narrow = Watts(500);
  EXPECT_NEAR(PowerModel(board).SettledSeconds(narrow), (watts + 50 * 0.8) / room / (1 + kRamp), 1e-9);
  EXPECT_EQ(PowerModel(board).SettledSeconds(work), seconds);
}

}  // namespace
}  // namespace simrun
