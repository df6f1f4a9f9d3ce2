#include "sim/metrics.h"

#include <cmath>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

SimTime Sec(double s) { return SimTime::From(Seconds(s)); }

RequestRecord Record(double arrival, double ttft, double tpot, int64_t output, double queue = 0) {
  RequestRecord r;
  r.arrival = Sec(arrival);
  r.input_tokens = 100;
  r.output_tokens = output;
  r.ttft = Sec(ttft);
  r.tpot = Sec(tpot);
  r.e2e = Sec(ttft + tpot * static_cast<double>(output - 1));
  r.queue = Sec(queue);
  return r;
}

TEST(RunMetrics, ARequestIsGoodWhenBothTargetsHoldLimitIncluded) {
  RunMetrics m(Slo{Sec(0.5), Sec(0.05)}, SimTime());
  m.OnFinished(Record(0, 0.5, 0.05, 10), Sec(1));     // both at their limit: good
  m.OnFinished(Record(0, 0.51, 0.01, 10), Sec(1));    // TTFT too long
  m.OnFinished(Record(0, 0.1, 0.051, 10), Sec(1));    // TPOT too long
  m.OnFinished(Record(0, 0.1, 0, 1), Sec(1));         // one token: TTFT alone counts
  EXPECT_EQ(m.attained(), 2);
  EXPECT_EQ(m.tpot().count(), 3u);                    // one token has no TPOT
  EXPECT_EQ(m.ttft().count(), 4u);
}

TEST(RunMetrics, WithoutTargetsEveryRequestIsGood) {
  RunMetrics m(Slo{}, SimTime());
  m.OnFinished(Record(0, 1e6, 1e3, 10), Sec(2e6));
  EXPECT_EQ(m.attained(), 1);
}

TEST(RunMetrics, WarmUpLeavesOutWhatArrivesBeforeIt) {
  RunMetrics m(Slo{}, Sec(10));
  for (const double at : {0.0, 9.999, 10.0, 20.0}) m.OnArrived(Sec(at));
  m.OnFinished(Record(0, 5, 0.1, 11), Sec(6));
  m.OnFinished(Record(9.999, 5, 0.1, 11), Sec(16));   // finishes after the warm-up, yet arrived before
  m.OnFinished(Record(10, 1, 0.1, 11), Sec(12));
  m.OnRefused(Refusal::kKvMemory, Sec(9));
  m.OnRefused(Refusal::kContextLength, Sec(20));
  EXPECT_EQ(m.arrived(), 4);
  EXPECT_EQ(m.completed(), 3);
  EXPECT_EQ(m.output_tokens(), 33);
  EXPECT_EQ(m.measured_arrivals(), 2);
  EXPECT_EQ(m.measured_completed(), 1);
  EXPECT_EQ(m.measured_input_tokens(), 100);
  EXPECT_EQ(m.measured_output_tokens(), 11);
  EXPECT_EQ(m.measured_refused(), 1);
  EXPECT_EQ(m.refused(Refusal::kKvMemory), 1);
  EXPECT_EQ(m.refused(Refusal::kContextLength), 1);
  EXPECT_EQ(m.attained(), 1);
  EXPECT_EQ(m.ttft().count(), 1u);
  EXPECT_DOUBLE_EQ(m.ttft().Mean().value(), 1);
  EXPECT_DOUBLE_EQ(m.e2e().Mean().value(), 2);
  EXPECT_EQ(m.first_arrival(), Sec(0));
  EXPECT_EQ(m.last_arrival(), Sec(20));
  EXPECT_EQ(m.last_completion(), Sec(16));
}

TEST(RunMetrics, TokenGapsCountFromTheEndOfTheWarmUp) {
  RunMetrics m(Slo{}, Sec(10));
  m.OnTokenGap(Sec(0.1), 5, Sec(9.9));
  m.OnTokenGap(Sec(0.2), 3, Sec(10));
  EXPECT_EQ(m.itl().count(), 3u);
  EXPECT_DOUBLE_EQ(m.itl().Mean().value(), 0.2);
}

TEST(TimeBins, MeanAndCountOfQuartersByHand) {
  TimeBins bins;
  // Waits 1, 2, 3, 4 s in the four quarters of 400 s; the exact edges lie inside bins, so stay away from them.
  for (int i = 0; i < 400; ++i) bins.Add(Sec(i + 0.5), Sec(1 + i / 100));
  for (int q = 0; q < 4; ++q) {
    EXPECT_NEAR(bins.MeanSeconds(q * 0.25, (q + 1) * 0.25), q + 1, 0.1) << q;
    EXPECT_NEAR(static_cast<double>(bins.Count(q * 0.25, (q + 1) * 0.25)), 100, 8) << q;
  }
  EXPECT_EQ(bins.Count(0, 1), 400u);
  EXPECT_DOUBLE_EQ(bins.MeanSeconds(0, 1), 2.5);
}

TEST(TimeBins, NothingThereIsNegative) {
  TimeBins bins;
  EXPECT_LT(bins.MeanSeconds(0, 1), 0);
  bins.Add(Sec(100), Sec(1));
  EXPECT_LT(bins.MeanSeconds(0, 0.25), 0);
  EXPECT_DOUBLE_EQ(bins.MeanSeconds(0.75, 1), 1);
}

TEST(TimeBins, TotalsDoNotDependOnOrderOrOnHowFarTimeHasGone) {
  Rng rng(1, "bins");
  std::vector<std::pair<double, double>> values;
  double sum = 0;
  for (int i = 0; i < 1000; ++i) {
    values.emplace_back(std::pow(10, rng.Uniform(-3, 6)), rng.Uniform());
    sum += values.back().second;
  }
  TimeBins forward, backward;
  for (size_t i = 0; i < values.size(); ++i) {
    forward.Add(Sec(values[i].first), Sec(values[i].second));
    backward.Add(Sec(values[values.size() - 1 - i].first), Sec(values[values.size() - 1 - i].second));
  }
  EXPECT_EQ(forward.Count(0, 1), 1000u);
  EXPECT_NEAR(forward.MeanSeconds(0, 1), sum / 1000, 1e-9);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(forward.Count(i / 8.0, (i + 1) / 8.0), backward.Count(i / 8.0, (i + 1) / 8.0));
    EXPECT_EQ(forward.MeanSeconds(i / 8.0, (i + 1) / 8.0), backward.MeanSeconds(i / 8.0, (i + 1) / 8.0));
  }
}

}  // namespace
}  // namespace simrun
