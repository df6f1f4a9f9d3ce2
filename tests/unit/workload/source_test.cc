#include "workload/source.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <queue>

#include "tests/unit/workload/testing.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

constexpr char kTrace[] =
    "arrival_s,input_tokens,output_tokens,session\n1,10,1,a\n2,20,2,b\n2,30,3,a\n4,40,4,\n8,50,5,c\n";

std::vector<double> Times(const std::vector<Arrival>& arrivals) {
  std::vector<double> t;
  for (const Arrival& a : arrivals) t.push_back(a.at.seconds().value());
  return t;
}
std::vector<int64_t> Inputs(const std::vector<Arrival>& arrivals) {
  std::vector<int64_t> n;
  for (const Arrival& a : arrivals) n.push_back(a.input_tokens);
  return n;
}
std::vector<int64_t> Outputs(const std::vector<Arrival>& arrivals) {
  std::vector<int64_t> n;
  for (const Arrival& a : arrivals) n.push_back(a.output_tokens);
  return n;
}

class TraceSource : public ::testing::Test {
 protected:
  TraceSource() { dir_.Write("t.csv", kTrace); }
  std::vector<Arrival> Read(const std::string& settings) {
    return Arrivals("{trace: t.csv" + settings + "}", SIZE_MAX, 1, dir_.path());
  }
  TempDir dir_;
};

TEST_F(TraceSource, Replays) {
  const auto a = Read("");
  EXPECT_EQ(Times(a), (std::vector<double>{1, 2, 2, 4, 8}));
  EXPECT_EQ(Inputs(a), (std::vector<int64_t>{10, 20, 30, 40, 50}));
  EXPECT_EQ(Outputs(a), (std::vector<int64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(a[0].session, a[2].session);
  EXPECT_EQ(a[3].session, 0u);
  EXPECT_EQ(a[0].deadline, SimTime::Infinite());
  EXPECT_EQ(a[0].priority, 0);
}

TEST(PromptTexts, OfATraceWhenAsked) {
  TempDir dir;
  dir.Write("h.csv", "arrival_s,input_tokens,output_tokens,hash_ids\n0,50,1,5 6 4\n1,50,1,\n2,48,1,5 7 8\n");
  const auto read = [&](const std::string& settings, bool texts) {
    auto source = MakeSource(Config("{trace: h.csv" + settings + "}"), 1, dir.path(), texts);
    EXPECT_TRUE(source.ok()) << source.status();
    return Take(**source, 10);
  };
  for (const Arrival& a : read("", false)) EXPECT_EQ(a.text, nullptr);
  const auto arrivals = read("", true);
  ASSERT_EQ(arrivals.size(), 3u);
  EXPECT_EQ(arrivals[0].text->block_tokens, 16);
  EXPECT_EQ(arrivals[0].text->ids, (std::vector<uint64_t>{5, 6, 4}));
  EXPECT_EQ(arrivals[1].text, nullptr);
  EXPECT_EQ(arrivals[2].text->ids, (std::vector<uint64_t>{5, 7, 8}));
  EXPECT_EQ(read(", hash_block: 20", true)[0].text->block_tokens, 20);
  // Other lengths are of other prompts.
  for (const Arrival& a : read(", input_tokens: 30", true)) EXPECT_EQ(a.text, nullptr);
  EXPECT_EQ(read(", output_tokens: 30", true)[0].text->ids.size(), 3u);
  EXPECT_EQ(read(", shared_prefix: {tokens: 9}", true)[0].text->ids.size(), 1u);
}

TEST(PromptTexts, SystemPrompts) {
  const std::string traffic = "requests: 60000, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {uniform: {max: 9}}, output_tokens: 5";
  const auto take = [&](const std::string& prefix, bool texts) {
    auto source = MakeSource(Config("{" + traffic + prefix + "}"), 1, "", texts);
    EXPECT_TRUE(source.ok()) << source.status();
    return Take(**source, SIZE_MAX);
  };
  const auto plain = take("", true);
  const auto with = take(", shared_prefix: {tokens: 1000, groups: 4, exponent: 1}", true);
  const auto untold = take(", shared_prefix: {tokens: 1000, groups: 4, exponent: 1}", false);
  std::vector<double> count(4);
  for (size_t i = 0; i < with.size(); ++i) {
    ASSERT_EQ(with[i].at, plain[i].at);
    ASSERT_EQ(with[i].input_tokens, plain[i].input_tokens + 1000);
    ASSERT_EQ(untold[i].input_tokens, with[i].input_tokens);
    ASSERT_EQ(untold[i].text, nullptr);
    ASSERT_EQ(with[i].text->block_tokens, 1000);
    ASSERT_EQ(with[i].text->ids.size(), 1u);
    ++count[with[i].text->ids[0]];
  }
  // 1, 1/2, 1/3, 1/4 of 25/12. 3 degrees of freedom: P(chi2 > 30.7) = 1.0e-6; the seed is fixed.
  double chi2 = 0;
  for (size_t k = 0; k < 4; ++k) {
    const double expected = 60000 / static_cast<double>(k + 1) / (25.0 / 12);
    chi2 += (count[k] - expected) * (count[k] - expected) / expected;
  }
  EXPECT_LT(chi2, 30.7);
}

TEST(PromptTexts, Conversations) {
  auto source = MakeSource(Config("{requests: 4000, concurrency: 4000, input_tokens: {uniform: {max: 9}}, output_tokens: {uniform: {max: 9}}, "
                                  "shared_prefix: {tokens: 50, groups: 2}, conversations: {active: 7, turns: 5}}"), 1, "", true);
  auto plain = MakeSource(Config("{requests: 4000, concurrency: 4000, input_tokens: {uniform: {max: 9}}, output_tokens: {uniform: {max: 9}}}"), 1, "");
  ASSERT_TRUE(source.ok() && plain.ok());
  struct Said {
    int64_t tokens = 50, turns = 0;
    uint64_t group = 0;
  };
  std::map<uint64_t, Said> conversations;   // by the id behind that of the system prompt
  size_t open = 0, most_open = 0;
  Arrival words, a;
  for (int i = 0; i < 4000; ++i) {
    ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival);
    ASSERT_EQ(*(*plain)->Next(&words), NextResult::kArrival);
    ASSERT_TRUE(a.text->goes_on);
    ASSERT_EQ(a.text->block_tokens, 50);
    ASSERT_EQ(a.text->ids.size(), 2u);
    Said& said = conversations[a.text->ids[1]];
    if (said.turns == 0) said.group = a.text->ids[0], most_open = std::max(most_open, ++open);
    // The system prompt, prompts and answers so far, and the new words.
    ASSERT_EQ(a.input_tokens, said.tokens + words.input_tokens);
    ASSERT_EQ(a.output_tokens, words.output_tokens);
    ASSERT_EQ(a.text->ids[0], said.group);
    said.tokens = a.input_tokens + a.output_tokens;
    if (++said.turns == 5) --open;
  }
  EXPECT_EQ(most_open, 7u);
  for (const auto& [id, said] : conversations) EXPECT_LE(said.turns, 5);
  EXPECT_GE(conversations.size(), 4000u / 5);
  EXPECT_LE(conversations.size(), 4000u / 5 + 7);
}

TEST_F(TraceSource, StartScalesAndLimits) {
  EXPECT_EQ(Times(Read(", start: 2 s")), (std::vector<double>{0, 0, 2, 6}));
  EXPECT_EQ(Times(Read(", time_scale: 0.5")), (std::vector<double>{0.5, 1, 1, 2, 4}));
  EXPECT_EQ(Times(Read(", rate_scale: 4, start: 1 s")), (std::vector<double>{0, 0.25, 0.25, 0.75, 1.75}));
  EXPECT_EQ(Times(Read(", requests: 2")), (std::vector<double>{1, 2}));
  EXPECT_EQ(Times(Read(", duration: 4 s")), (std::vector<double>{1, 2, 2}));  // before 4 s, not at it
  EXPECT_EQ(Times(Read(", time_scale: 2, duration: 5 s")), (std::vector<double>{2, 4, 4}));
  EXPECT_EQ(Times(Read(", requests: 100")).size(), 5u);
}

TEST_F(TraceSource, MixesWithDistributions) {
  const auto own_times = Read(", output_tokens: 7");
  EXPECT_EQ(Times(own_times), (std::vector<double>{1, 2, 2, 4, 8}));
  EXPECT_EQ(Inputs(own_times), (std::vector<int64_t>{10, 20, 30, 40, 50}));
  EXPECT_EQ(Outputs(own_times), (std::vector<int64_t>(5, 7)));
  const auto own_lengths = Read(", arrivals: {constant: {rate: 2 /s}}");
  EXPECT_EQ(Times(own_lengths), (std::vector<double>{0, 0.5, 1, 1.5, 2}));
  EXPECT_EQ(Inputs(own_lengths), (std::vector<int64_t>{10, 20, 30, 40, 50}));
}

TEST_F(TraceSource, LengthsOnlyNeedArrivals) {
  dir_.Write("l.csv", "arrival_s,input_tokens,output_tokens\n,10,1\n,20,2\n");
  const auto source = MakeSource(Config("{trace: l.csv}"), 1, dir_.path());
  EXPECT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(source.status()), HasSubstr("l.csv:2: the trace has lengths but no times of arrival; add arrivals"));
  EXPECT_EQ(Inputs(Arrivals("{trace: l.csv, arrivals: all_at_once, requests: 9}", SIZE_MAX, 1, dir_.path())),
            (std::vector<int64_t>{10, 20}));
}

TEST_F(TraceSource, ErrorsAreMetWhenTheyAreDue) {
  dir_.Write("b.csv", "arrival_s,input_tokens,output_tokens\n1,10,1\n5,x,1\n");
  auto source = MakeSource(Config("{trace: b.csv}"), 1, dir_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  Arrival a;
  EXPECT_EQ(*(*source)->Next(&a), NextResult::kArrival);
  EXPECT_EQ((*source)->next_time(), a.at);
  for (int i = 0; i < 2; ++i) EXPECT_THAT(Message((*source)->Next(&a).status()), HasSubstr("b.csv:3: input_tokens \"x\" is not a number"));

  dir_.Write("c.csv", "arrival_s,input_tokens,output_tokens\n1,x,1\n");
  EXPECT_THAT(Message(MakeSource(Config("{trace: c.csv}"), 1, dir_.path()).status()), HasSubstr("c.csv:2: input_tokens"));
  EXPECT_EQ(MakeSource(Config("{trace: none.csv}"), 1, dir_.path()).status().code(), absl::StatusCode::kNotFound);
  dir_.Write("h.csv", "arrival_s,input_tokens,output_tokens\n");
  EXPECT_EQ(Message(MakeSource(Config("{trace: h.csv}"), 1, dir_.path()).status()), "h.csv: has no request");
  EXPECT_EQ(Message(MakeSource(Config("{trace: t.csv, start: 9 s}"), 1, dir_.path()).status()), "t.csv: has no request after `start`");
  EXPECT_THAT(Message(MakeSource(WorkloadConfig(), 1, "").status()), HasSubstr("workload: nothing says when"));
}

TEST_F(TraceSource, ClosedLoopMeetsErrorsToo) {
  dir_.Write("b.csv", "arrival_s,input_tokens,output_tokens\n1,10,1\n5,x,1\n");
  for (const char* loop : {"concurrency: 1", "static_batch: 1, batches: 3"}) {
    auto source = MakeSource(Config("{trace: b.csv, " + std::string(loop) + "}"), 1, dir_.path());
    ASSERT_TRUE(source.ok()) << source.status();
    Arrival a;
    ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival);
    EXPECT_EQ((*source)->next_time(), SimTime());
    EXPECT_FALSE((*source)->Next(&a).ok());
  }
}

TEST_F(TraceSource, SkippedRowsAreCounted) {
  dir_.Write("z.csv", "arrival_s,input_tokens,output_tokens\n1,10,1\n5,4,0\n6,4,1\n");
  auto source = MakeSource(Config("{trace: z.csv, skip_invalid: true}"), 1, dir_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(Take(**source, 9).size(), 2u);
  EXPECT_EQ((*source)->skipped(), 1);
}

TEST(SyntheticSource, CountDeadlineAndPriority) {
  const auto a = Arrivals("{requests: 30000, arrivals: {poisson: {rate: 100 /s}}, input_tokens: 10, output_tokens: 20, deadline: 2 s, priorities: {levels: 3}}");
  ASSERT_EQ(a.size(), 30000u);
  int64_t counts[3] = {};
  for (const Arrival& x : a) {
    EXPECT_EQ((x.deadline - x.at).seconds().value(), 2);
    ASSERT_TRUE(x.priority >= 0 && x.priority < 3);
    ++counts[x.priority];
  }
  // Binomial, 4.4 standard deviations: fails for one seed in 90 000.
  for (const int64_t n : counts) EXPECT_NEAR(static_cast<double>(n), 10000, 4.4 * std::sqrt(30000 * 2.0 / 9));
}

TEST(SyntheticSource, DurationEndsIt) {
  const auto a = Arrivals("{duration: 100 s, arrivals: {poisson: {rate: 100 /s}}, input_tokens: 10, output_tokens: 20}");
  EXPECT_NEAR(static_cast<double>(a.size()), 10000, 4.4 * 100);  // Poisson count, one seed in 90 000 fails
  EXPECT_LT(a.back().at, SimTime::From(Seconds(100)));
  // No arrival at all is possible and no error.
  EXPECT_TRUE(Arrivals("{duration: 1 ns, arrivals: {poisson: {rate: 1 /s}}, input_tokens: 10, output_tokens: 20}").empty());
}

TEST(SyntheticSource, NeverPassesTheEndOfSimulatedTime) {
  auto source = MakeSource(Config("{requests: 1000, arrivals: {poisson: {rate: 1e-8 /s}}, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  Arrival a;
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) status = (*source)->Next(&a).status();
  EXPECT_THAT(Message(status), HasSubstr("would arrive after more than 29 years"));
}

TEST(SyntheticSource, SeedsDecide) {
  const char* yaml = "{requests: 100, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {uniform: {max: 5000}}, output_tokens: 1}";
  const auto a = Arrivals(yaml, SIZE_MAX, 1), b = Arrivals(yaml, SIZE_MAX, 1), c = Arrivals(yaml, SIZE_MAX, 2);
  EXPECT_EQ(Times(a), Times(b));
  EXPECT_EQ(Inputs(a), Inputs(b));
  EXPECT_NE(Times(a), Times(c));
  EXPECT_NE(Inputs(a), Inputs(c));
}

TEST(SyntheticSource, StreamsDoNotShiftOneAnother) {
  const std::string uniform = "{uniform: {max: 5000}}", lognormal = "{lognormal: {mean: 100, sigma: 1}}";
  const auto make = [](const std::string& arrivals, const std::string& in, const std::string& out, const std::string& more = "") {
    return Arrivals("{requests: 200, arrivals: " + arrivals + ", input_tokens: " + in + ", output_tokens: " + out + more + "}");
  };
  const auto base = make("{poisson: {rate: 4 /s}}", uniform, uniform);
  EXPECT_NE(Inputs(base), Outputs(base));
  const auto other_input = make("{poisson: {rate: 4 /s}}", lognormal, uniform);
  EXPECT_EQ(Times(other_input), Times(base));
  EXPECT_EQ(Outputs(other_input), Outputs(base));
  const auto other_arrivals = make("{gamma: {rate: 4 /s, cv: 3}}", uniform, uniform, ", priorities: {levels: 4}");
  EXPECT_EQ(Inputs(other_arrivals), Inputs(base));
  EXPECT_EQ(Outputs(other_arrivals), Outputs(base));
}

TEST(SyntheticSource, InputAndOutputLengthsAreUncorrelated) {
  const size_t n = 100'000;
  const auto a = Arrivals("{requests: 100000, arrivals: all_at_once, input_tokens: {uniform: {max: 5000}}, output_tokens: {uniform: {max: 5000}}}");
  ASSERT_EQ(a.size(), n);
  double sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0;
  for (const Arrival& r : a) {
    const auto x = static_cast<double>(r.input_tokens), y = static_cast<double>(r.output_tokens);
    sx += x, sy += y, sxx += x * x, syy += y * y, sxy += x * y;
  }
  const double m = static_cast<double>(n);
  const double r = (sxy - sx * sy / m) / std::sqrt((sxx - sx * sx / m) * (syy - sy * sy / m));
  EXPECT_NEAR(r, 0, 4.4 / std::sqrt(m));  // one seed in 90 000 fails
}

// Serves every request in a time given by its id and tells the source.
struct LoopRun {
  std::vector<Arrival> arrivals;
  size_t most_in_flight = 0;
  size_t least_when_waiting = SIZE_MAX;
  SimTime end;
  NextResult last = NextResult::kArrival;
};
LoopRun RunLoop(ArrivalSource& source, const std::function<double(uint64_t)>& service_s) {
  LoopRun run;
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> finishing;
  SimTime now;
  while (true) {
    const SimTime done = finishing.empty() ? SimTime::Infinite() : SimTime::FromTicks(finishing.top());
    if (source.next_time() <= done && source.next_time() != SimTime::Infinite()) {
      const SimTime expected = source.next_time();
      EXPECT_GE(expected, now);
      Arrival a;
      const auto r = source.Next(&a);
      EXPECT_TRUE(r.ok()) << r.status();
      if (!r.ok() || *r != NextResult::kArrival) break;
      EXPECT_EQ(a.at, expected);
      EXPECT_EQ(a.id, run.arrivals.size());
      now = a.at;
      run.arrivals.push_back(a);
      finishing.push((now + SimTime::From(Seconds(service_s(a.id)))).ticks());
      run.most_in_flight = std::max(run.most_in_flight, finishing.size());
    } else {
      if (source.next_time() == SimTime::Infinite()) {
        Arrival none;
        const auto r = source.Next(&none);
        EXPECT_TRUE(r.ok() && *r != NextResult::kArrival);
        run.last = *r;
        if (*r == NextResult::kWaiting) run.least_when_waiting = std::min(run.least_when_waiting, finishing.size());
      }
      if (finishing.empty()) break;
      now = done;
      finishing.pop();
      source.OnFinished(now);
    }
  }
  run.end = now;
  return run;
}

TEST(ClosedLoop, KeepsExactlyItsConcurrencyInFlight) {
  auto source = MakeSource(Config("{concurrency: 7, requests: 1000, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  const LoopRun run = RunLoop(**source, [](uint64_t id) { return 0.5 + static_cast<double>(id * 7919 % 100) / 100; });
  EXPECT_EQ(run.arrivals.size(), 1000u);
  EXPECT_EQ(run.most_in_flight, 7u);
  EXPECT_EQ(run.least_when_waiting, 7u);  // it only waits when all clients do
  EXPECT_EQ(run.last, NextResult::kEnd);
}

TEST(ClosedLoop, FewerRequestsThanClients) {
  auto source = MakeSource(Config("{concurrency: 64, requests: 5, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(RunLoop(**source, [](uint64_t) { return 1.0; }).arrivals.size(), 5u);
}

TEST(ClosedLoop, ThinkTimeSetsThePace) {
  // One client, service 1 s, think time 2 s: a request every 3 s.
  auto one = MakeSource(Config("{concurrency: 1, requests: 4, think_time: 2 s, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(Times(RunLoop(**one, [](uint64_t) { return 1.0; }).arrivals), (std::vector<double>{0, 3, 6, 9}));
  // N clients with mean think time Z and service S: throughput N / (S + Z) (the interactive response time law).
  auto many = MakeSource(Config("{concurrency: 50, duration: 2000 s, think_time: {exponential: {mean: 4 s}}, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(many.ok()) << many.status();
  const LoopRun run = RunLoop(**many, [](uint64_t) { return 1.0; });
  EXPECT_LE(run.most_in_flight, 50u);
  // 20 000 cycles of 5 s with standard deviation 4 s: relative error 0.8 / sqrt(20 000); 4.4 of these and the start.
  EXPECT_NEAR(static_cast<double>(run.arrivals.size()), 2000 * 50 / 5.0, 20000 * 4.4 * 0.8 / std::sqrt(20000) + 50);
}

TEST(ClosedLoop, AShortThinkerOvertakesALongOne) {
  auto source = MakeSource(Config("{concurrency: 2, requests: 4, think_time: {exponential: {mean: 10 s}}, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  Arrival a;
  ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival);
  ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival);
  EXPECT_EQ(*(*source)->Next(&a), NextResult::kWaiting);
  EXPECT_EQ((*source)->next_time(), SimTime::Infinite());
  (*source)->OnFinished(SimTime::From(Seconds(1)));
  const SimTime first = (*source)->next_time();
  (*source)->OnFinished(SimTime::From(Seconds(1)));
  const SimTime both = (*source)->next_time();
  EXPECT_LE(both, first);
  ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival);
  EXPECT_EQ(a.at, both);
  ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival);
  EXPECT_EQ(a.at, std::max(first, a.at));
  EXPECT_EQ(*(*source)->Next(&a), NextResult::kEnd);
}

TEST(ClosedLoop, DurationStopsNewRequests) {
  auto source = MakeSource(Config("{concurrency: 3, duration: 10 s, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  const LoopRun run = RunLoop(**source, [](uint64_t) { return 4.0; });  // at 0, 4 and 8 s
  EXPECT_EQ(run.arrivals.size(), 9u);
  EXPECT_EQ(run.end, SimTime::From(Seconds(12)));
}

TEST(ClosedLoop, TakesLengthsFromATraceUntilItEnds) {
  TempDir dir;
  dir.Write("t.csv", kTrace);
  auto source = MakeSource(Config("{trace: t.csv, concurrency: 2}"), 1, dir.path());
  ASSERT_TRUE(source.ok()) << source.status();
  const LoopRun run = RunLoop(**source, [](uint64_t) { return 1.0; });
  EXPECT_EQ(Inputs(run.arrivals), (std::vector<int64_t>{10, 20, 30, 40, 50}));
  EXPECT_EQ(Times(run.arrivals), (std::vector<double>{0, 0, 1, 1, 2}));
  EXPECT_EQ(run.last, NextResult::kEnd);
}

TEST(StaticBatch, TheNextBatchWaitsForTheSlowest) {
  auto source = MakeSource(Config("{static_batch: 4, batches: 3, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  const LoopRun run = RunLoop(**source, [](uint64_t id) { return 1.0 + static_cast<double>(id % 4); });  // the slowest takes 4 s
  EXPECT_EQ(Times(run.arrivals), (std::vector<double>{0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8}));
  EXPECT_EQ(run.most_in_flight, 4u);
  EXPECT_EQ(run.last, NextResult::kEnd);
}

TEST(StaticBatch, OneBatchAndLimits) {
  auto one = MakeSource(Config("{static_batch: 16, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(Take(**one, 100).size(), 16u);
  auto limited = MakeSource(Config("{static_batch: 4, batches: 3, requests: 6, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(limited.ok()) << limited.status();
  EXPECT_EQ(RunLoop(**limited, [](uint64_t) { return 1.0; }).arrivals.size(), 6u);
}

TEST(StaticBatch, ARefusalAtTheSameInstantCountsAsFinished) {
  auto source = MakeSource(Config("{static_batch: 2, batches: 2, input_tokens: 1, output_tokens: 1}"), 1, "");
  ASSERT_TRUE(source.ok()) << source.status();
  Arrival a;
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(*(*source)->Next(&a), NextResult::kArrival) << i;
    EXPECT_EQ(a.at, SimTime());
    (*source)->OnFinished(a.at);
  }
  EXPECT_EQ(*(*source)->Next(&a), NextResult::kEnd);
}

}  // namespace
}  // namespace simrun
