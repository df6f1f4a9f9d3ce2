// The fast engine of sim/ against a slow, obvious one: several hundred random small scenarios, every way of driving the
// fast one, and equality to the tick of all that is measured.
#include <sstream>

#include "gtest/gtest.h"
#include "sim/cluster.h"
#include "tests/support/engine_parts.h"
#include "tests/support/reference_engine.h"

namespace simrun {
namespace {

// A policy that changes its mind about the same queue: it admits at most one request, and only when the free blocks are
// not a multiple of three. Such a policy must be asked before every step.
class Fickle final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    batch->decode = view.decode_seqs > 0;
    int64_t budget = view.limits.max_num_batched_tokens;
    for (const int64_t left : view.partial) {
      const int64_t tokens = std::min({left, budget, int64_t{7}});
      batch->partial_tokens.push_back(tokens);
      budget -= tokens;
    }
    const WaitingQueue::Cursor c(*view.waiting);
    if (c.done() || view.running() >= view.limits.max_num_seqs) return;
    if (view.running() > 0 && view.free_blocks % 3 == 0) return;
    if (!FitsAboveWatermark(view, view.free_blocks, view.BlocksFor(c.request()), view.running())) return;
    batch->admitted_tokens.push_back(std::min(c.request().prompt_tokens, budget));
  }
};

struct EngineCase {
  ClusterParams params;
  ReferencePolicy policy = ReferencePolicy::kChunkedPrefill;
  std::string policy_name, router;
  int stages = 1;
  LinearCost cost;
  std::vector<Arrival> arrivals;
  int64_t clients = 0;   // > 0: closed loop
  SimTime think;

  std::unique_ptr<BatchingPolicy> MakePolicy() const {
    if (policy == ReferencePolicy::kCustom) return std::make_unique<Fickle>();
    return BuiltInPolicy(policy_name);
  }
  std::unique_ptr<ArrivalSource> MakeArrivals() const {
    if (clients > 0) return std::make_unique<LoopSource>(arrivals, clients, think);
    return std::make_unique<ListSource>(arrivals);
  }
  std::string Text() const {
    std::ostringstream s;
    const EngineParams& e = params.engine;
    s << policy_name << " router " << router << " replicas " << params.replicas << " lanes " << e.lanes << " stages " << stages
      << " ranks " << e.ranks << " seqs " << e.limits.max_num_seqs << " budget " << e.limits.max_num_batched_tokens << " block "
      << e.limits.block_size << " watermark " << e.limits.watermark_blocks << " kv_blocks " << e.kv_blocks << " window "
      << e.window << " caching " << e.prefix_caching << " order " << static_cast<int>(e.queue_order) << " swap " << (e.preemption == Preemption::kSwap) << " "
      << e.swap_blocks << " max_len " << e.max_model_len << " clients " << clients << " requests " << arrivals.size();
    return s.str();
  }
};

// In half of the cases prompts begin alike: two requests of one family have as many leading ids in common as the shorter
// common part of the two, and blocks of the text are shorter, as long or longer than those of the engine.
void AddTexts(uint64_t seed, int64_t longest_input, EngineCase* s) {
  Rng rng(seed, "texts");
  const bool texts = rng.Uniform() >= 0.5;
  s->params.engine.prefix_caching = rng.Uniform() < (texts ? 0.9 : 0.5);
  if (!texts) return;
  const int64_t block = std::vector<int64_t>{1, 2, 3, 5, 16, 61}[rng.Below(6)];
  const uint64_t families = 1 + rng.Below(3);
  const uint64_t first = rng.Uniform() < 0.3 ? rng.Below(10) : 0;   // request that says so first
  const bool conversations = rng.Uniform() < 0.3;
  uint64_t own = 1000;
  for (Arrival& a : s->arrivals) {
    if (a.id < first || rng.Uniform() < 0.15) continue;
    if (rng.Uniform() < 0.3) a.input_tokens = std::max<int64_t>(1, a.input_tokens / block * block);   // ends with a block
    auto text = std::make_shared<PromptText>();
    text->block_tokens = block;
    const uint64_t family = rng.Below(families);
    const uint64_t ids = rng.Below(static_cast<uint64_t>((longest_input + block - 1) / block) + 1);
    const uint64_t common = rng.Uniform() < 0.6 ? ids : rng.Below(ids + 1);
    for (uint64_t i = 0; i < ids; ++i) text->ids.push_back(i < common ? 100 * family + i : ++own);
    text->goes_on = conversations && ids > 0;
    a.text = text;
  }
}

EngineCase RandomCase(uint64_t seed) {
  Rng rng(seed, "setup");
  const auto pick = [&](int64_t low, int64_t high) { return low + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(high - low + 1))); };
  const auto chance = [&](double p) { return rng.Uniform() < p; };
  EngineCase s;
  s.policy = static_cast<ReferencePolicy>(rng.Below(5));
  s.policy_name = std::vector<std::string>{"chunked-prefill", "prefill-first", "orca", "static", "fickle"}[static_cast<size_t>(s.policy)];
  s.router = std::vector<std::string>{"round-robin", "random", "least-outstanding", "power-of-two"}[rng.Below(4)];
  s.params.replicas = static_cast<int>(chance(0.5) ? 1 : pick(2, 4));
  EngineParams& e = s.params.engine;
  // Half of the engines are plain: those fast-forward.
  const bool plain = chance(0.5);
  e.lanes = static_cast<int>(plain ? 1 : pick(1, 4));
  s.stages = static_cast<int>(plain ? 1 : pick(1, 4));
  e.ranks = static_cast<int>(chance(0.6) ? 1 : pick(2, 4));
  e.limits.block_size = std::vector<int64_t>{1, 2, 3, 16}[rng.Below(4)];
  e.limits.max_num_seqs = chance(0.3) ? pick(1, 3) : pick(4, 24);
  e.limits.max_num_batched_tokens = std::max(e.limits.max_num_seqs, chance(0.5) ? pick(4, 40) : pick(40, 400));
  const int64_t longest_input = pick(1, 60), longest_output = chance(0.3) ? pick(1, 4) : pick(2, 60);
  const int64_t blocks_of_longest = (longest_input + longest_output) / e.limits.block_size + 1;
  // From memory for hardly one request (some are refused) to memory for all.
  e.kv_blocks = std::max<int64_t>(1, chance(0.75) ? blocks_of_longest * pick(8, 25) / 10 : blocks_of_longest * 12);
  e.limits.watermark_blocks = chance(0.5) ? 0 : pick(0, e.kv_blocks / 4);
  e.window = chance(0.4) ? pick(1, 40) : 0;
  e.queue_order = static_cast<QueueOrder>(rng.Below(4));
  e.preemption = chance(0.4) ? Preemption::kSwap : Preemption::kRecompute;
  e.swap_blocks = e.preemption == Preemption::kSwap ? pick(0, 2 * e.kv_blocks) : 0;
  e.swap_seconds_per_block = 0.001 * static_cast<double>(pick(0, 3));
  e.max_model_len = chance(0.2) ? std::max<int64_t>(2, (longest_input + longest_output) * 3 / 4) : 0;
  if (chance(0.3)) s.params.front_end = SimTime::From(Seconds(0.001 * static_cast<double>(pick(1, 5))));
  if (chance(0.3)) s.params.front_end_token = SimTime::From(Seconds(0.0005 * static_cast<double>(pick(1, 4))));

  s.cost = LinearCost(s.stages);
  if (chance(0.5)) {
    // Whole milliseconds: steps of different replicas and arrivals meet at the same instant.
    s.cost.step = 0.001 * s.stages * static_cast<double>(pick(1, 8));
    if (chance(0.3)) s.cost.sequence = 0.001 * s.stages;
  } else {
    s.cost.step = rng.Uniform(1e-4, 1e-2);
    s.cost.token = rng.Uniform(0, 1e-3);
    s.cost.row = rng.Uniform(0, 1e-3);
    s.cost.kv = rng.Uniform(0, 1e-4);
    s.cost.window_kv = rng.Uniform(0, 1e-4);
    s.cost.kv_max = rng.Uniform(0, 1e-4);
    s.cost.pair = rng.Uniform(0, 1e-5);
    s.cost.skew = rng.Uniform(0, 0.5);
  }
  s.cost.watts = 300;

  const int64_t count = pick(1, 45);
  const int64_t busy_ms = pick(1, 12);   // mean gap
  int64_t at_ms = pick(0, 3);
  for (int64_t i = 0; i < count; ++i) {
    Arrival a = MakeArrival(static_cast<uint64_t>(i), SimTime::From(Seconds(0.001 * static_cast<double>(at_ms))), pick(1, longest_input),
                            chance(0.15) ? 1 : pick(1, longest_output));
    a.priority = static_cast<int32_t>(pick(0, 2));
    if (chance(0.7)) a.deadline = a.at + SimTime::From(Seconds(0.01 * static_cast<double>(pick(1, 20))));
    s.arrivals.push_back(a);
    if (!chance(0.3)) at_ms += pick(0, 2 * busy_ms);          // else a tie
    if (chance(0.03)) at_ms += 400;                            // the engine runs dry
  }
  if (chance(0.25)) {
    s.clients = pick(1, 12);
    s.think = SimTime::From(Seconds(0.001 * static_cast<double>(pick(0, 3))));
  }
  AddTexts(seed, longest_input, &s);
  if (chance(0.25)) {
    e.limits.state_blocks = pick(1, 4);
    e.kv_blocks += e.limits.state_blocks * pick(1, 6);
  }
  return s;
}

// Everything measured, from either side.
struct Outcome {
  QuantileSketch ttft, tpot, e2e, queue, itl;
  int64_t arrived = 0, completed = 0, refused = 0, input_tokens = 0, output_tokens = 0;
  std::vector<EngineTotals> engines;
  std::vector<int64_t> blocks_in_use, evicted_blocks, cached_blocks;
  std::map<uint64_t, RequestRecord> records;
  std::vector<StepRecord> steps;
};

enum class Drive { kOpenLoop, kOrdered, kIncrements };

Outcome RunFast(const EngineCase& setup, Drive drive, bool observed, bool fast_forward, uint64_t seed) {
  EngineCase s = setup;
  s.params.engine.fast_forward = fast_forward;
  const auto policy = s.MakePolicy();
  const auto source = s.MakeArrivals();
  RunMetrics metrics(Slo{}, SimTime());
  Cluster cluster(s.params, *policy, &s.cost, BuiltInRouter(s.router, 7), source.get(), &metrics);
  Collector collector;
  if (observed) cluster.set_observer(&collector);
  if (drive == Drive::kOpenLoop) {
    EXPECT_TRUE(cluster.RunOpenLoop().ok());
  } else if (drive == Drive::kOrdered) {
    EXPECT_TRUE(cluster.AdvanceTo(SimTime::Infinite()).ok());
  } else {
    Rng rng(seed, "increments");
    SimTime limit;
    while (cluster.NextEventTime() != SimTime::Infinite()) {
      // Sometimes exactly to an event, sometimes between events, sometimes far.
      const uint64_t how = rng.Below(3);
      if (how == 0) limit = std::max(limit, cluster.NextEventTime());
      if (how == 1) limit = limit + SimTime::From(Seconds(rng.Uniform(0, 0.02)));
      if (how == 2) limit = limit + SimTime::From(Seconds(rng.Uniform(0, 0.5)));
      EXPECT_TRUE(cluster.AdvanceTo(limit).ok());
      EXPECT_GT(cluster.NextEventTime(), limit);
    }
  }
  Outcome out;
  out.ttft = metrics.ttft();
  out.tpot = metrics.tpot();
  out.e2e = metrics.e2e();
  out.queue = metrics.queue();
  out.itl = metrics.itl();
  out.arrived = metrics.arrived();
  out.completed = metrics.completed();
  out.refused = metrics.refused(Refusal::kContextLength) + metrics.refused(Refusal::kKvMemory);
  out.input_tokens = metrics.input_tokens();
  out.output_tokens = metrics.output_tokens();
  for (const auto& r : cluster.replicas()) {
    out.engines.push_back(r->totals());
    out.blocks_in_use.push_back(r->blocks_in_use());
    out.evicted_blocks.push_back(r->evicted_blocks());
    out.cached_blocks.push_back(r->cached_blocks());
    EXPECT_TRUE(r->idle());
  }
  out.records = collector.records;
  out.steps = collector.steps;
  return out;
}

Outcome RunReference(const EngineCase& setup) {
  EngineCase s = setup;
  const auto policy = s.MakePolicy();
  const auto source = s.MakeArrivals();
  ReferenceCluster cluster(s.params.engine, s.params.replicas, s.params.front_end, s.params.front_end_token, s.policy,
                           s.policy == ReferencePolicy::kCustom ? policy.get() : nullptr, &s.cost, BuiltInRouter(s.router, 7),
                           source.get());
  cluster.Run();
  Outcome out;
  for (const ReferenceRequest& r : cluster.requests) {
    ++out.arrived;
    if (r.state == ReferenceRequest::State::kRefused) {
      ++out.refused;
      continue;
    }
    EXPECT_EQ(r.state, ReferenceRequest::State::kDone) << "request " << r.arrival.id << " never finished";
    if (r.state != ReferenceRequest::State::kDone) continue;
    EXPECT_EQ(static_cast<int64_t>(r.tokens.size()), r.arrival.output_tokens);
    ++out.completed;
    out.input_tokens += r.arrival.input_tokens;
    out.output_tokens += static_cast<int64_t>(r.tokens.size());
    RequestRecord record;
    record.ttft = r.tokens.front() - r.arrival.at;
    record.e2e = r.tokens.back() - r.arrival.at;
    record.queue = r.first_start - r.arrival.at;
    record.preemptions = r.preemptions;
    record.cached_tokens = std::max<int64_t>(0, r.hit_tokens);
    record.replica = static_cast<uint32_t>(r.replica);
    if (r.tokens.size() > 1) {
      const double gaps = static_cast<double>(r.tokens.size() - 1);
      const double ticks = static_cast<double>((r.tokens.back() - r.tokens.front()).ticks());
      record.tpot = SimTime::FromTicks(static_cast<int64_t>(ticks / gaps + 0.5));
      out.tpot.Add(record.tpot);
    }
    out.ttft.Add(record.ttft);
    out.e2e.Add(record.e2e);
    out.queue.Add(record.queue);
    out.records[r.arrival.id] = record;
  }
  for (const auto& e : cluster.engines) {
    out.engines.push_back(e->totals);
    out.blocks_in_use.push_back(e->BlocksInUse());
    out.evicted_blocks.push_back(e->evicted_blocks);
    out.cached_blocks.push_back(e->CachedBlocks());
    out.itl.Merge(e->gaps);
    out.steps.insert(out.steps.end(), e->steps.begin(), e->steps.end());
  }
  return out;
}

void ExpectSameSketch(const QuantileSketch& a, const QuantileSketch& b, const char* what) {
  EXPECT_EQ(a.count(), b.count()) << what;
  EXPECT_EQ(a.Sum().value(), b.Sum().value()) << what;
  EXPECT_EQ(a.Max().value(), b.Max().value()) << what;
  EXPECT_EQ(a.Min().value(), b.Min().value()) << what;
  for (int i = 1; i < 8; ++i) EXPECT_EQ(a.Quantile(i / 8.0).value(), b.Quantile(i / 8.0).value()) << what << " " << i << "/8";
}

void ExpectSame(const Outcome& fast, const Outcome& slow, bool observed) {
  EXPECT_EQ(fast.arrived, slow.arrived);
  EXPECT_EQ(fast.completed, slow.completed);
  EXPECT_EQ(fast.refused, slow.refused);
  EXPECT_EQ(fast.input_tokens, slow.input_tokens);
  EXPECT_EQ(fast.output_tokens, slow.output_tokens);
  EXPECT_EQ(fast.arrived, fast.completed + fast.refused);
  ExpectSameSketch(fast.ttft, slow.ttft, "ttft");
  ExpectSameSketch(fast.tpot, slow.tpot, "tpot");
  ExpectSameSketch(fast.e2e, slow.e2e, "e2e");
  ExpectSameSketch(fast.queue, slow.queue, "queue");
  ExpectSameSketch(fast.itl, slow.itl, "itl");
  ASSERT_EQ(fast.engines.size(), slow.engines.size());
  for (size_t i = 0; i < fast.engines.size(); ++i) {
    const EngineTotals &f = fast.engines[i], &r = slow.engines[i];
    EXPECT_EQ(f.steps, r.steps);
    EXPECT_EQ(f.prefill_tokens, r.prefill_tokens);
    EXPECT_EQ(f.recomputed_tokens, r.recomputed_tokens);
    EXPECT_EQ(f.decode_tokens, r.decode_tokens);
    EXPECT_EQ(f.preemptions, r.preemptions);
    EXPECT_EQ(f.swapped_blocks, r.swapped_blocks);
    EXPECT_EQ(f.peak_blocks, r.peak_blocks);
    EXPECT_EQ(f.stage_busy, r.stage_busy);
    EXPECT_EQ(f.dynamic_joules, r.dynamic_joules);
    EXPECT_EQ(f.bound_seconds, r.bound_seconds);
    EXPECT_EQ(f.looked_up_tokens, r.looked_up_tokens);
    EXPECT_EQ(f.cached_tokens, r.cached_tokens);
    EXPECT_EQ(f.resumed_tokens, r.resumed_tokens);
    EXPECT_EQ(fast.evicted_blocks[i], slow.evicted_blocks[i]);
    EXPECT_EQ(fast.cached_blocks[i], slow.cached_blocks[i]);
    EXPECT_EQ(fast.blocks_in_use[i], 0);
    EXPECT_EQ(slow.blocks_in_use[i], 0);
  }
  if (!observed) return;
  EXPECT_EQ(fast.records.size(), slow.records.size());
  for (const auto& [id, theirs] : slow.records) {
    if (fast.records.count(id) == 0) {
      ADD_FAILURE() << "request " << id << " is missing";
      continue;
    }
    const RequestRecord& ours = fast.records.at(id);
    EXPECT_EQ(ours.ttft, theirs.ttft) << "request " << id;
    EXPECT_EQ(ours.tpot, theirs.tpot) << "request " << id;
    EXPECT_EQ(ours.e2e, theirs.e2e) << "request " << id;
    EXPECT_EQ(ours.queue, theirs.queue) << "request " << id;
    EXPECT_EQ(ours.preemptions, theirs.preemptions) << "request " << id;
    EXPECT_EQ(ours.cached_tokens, theirs.cached_tokens) << "request " << id;
    EXPECT_EQ(ours.replica, theirs.replica) << "request " << id;
  }
  auto steps_of = [](const Outcome& o, uint32_t replica) {
    std::vector<std::tuple<int, SimTime, SimTime, int64_t, int64_t, int64_t, int64_t>> steps;
    for (const StepRecord& s : o.steps) {
      if (s.replica == replica) steps.emplace_back(s.lane, s.start, s.end, s.tokens, s.decode_seqs, s.prefill_tokens, s.chunks);
    }
    return steps;
  };
  for (uint32_t i = 0; i < fast.engines.size(); ++i) EXPECT_TRUE(steps_of(fast, i) == steps_of(slow, i)) << "steps of replica " << i;
}

class EngineReference : public testing::TestWithParam<int> {};

TEST_P(EngineReference, SameToTheTick) {
  int64_t preemptions = 0, fast_forwarded = 0, refused = 0, swapped = 0, cached = 0, resumed = 0, evicted = 0;
  for (int i = 0; i < 100; ++i) {
    const uint64_t seed = static_cast<uint64_t>(GetParam() * 1000 + i);
    const EngineCase setup = RandomCase(seed);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + setup.Text());
    const Outcome slow = RunReference(setup);
    const EngineParams& e = setup.params.engine;
    EXPECT_LE(slow.engines[0].peak_blocks, e.kv_blocks);
    // Every way to run the fast engine.
    struct Way { const char* name; Drive drive; bool observed, fast_forward; };
    const Way ways[] = {{"open loop", Drive::kOpenLoop, false, true},
                        {"open loop, observed", Drive::kOpenLoop, true, true},
                        {"open loop, every step planned", Drive::kOpenLoop, false, false},
                        {"ordered", Drive::kOrdered, false, true},
                        {"ordered, observed", Drive::kOrdered, true, true},
                        {"ordered, every step planned", Drive::kOrdered, false, false},
                        {"increments", Drive::kIncrements, false, true},
                        {"increments, observed", Drive::kIncrements, true, false}};
    SimTime busy;
    for (const Way& way : ways) {
      if (way.drive == Drive::kOpenLoop && setup.clients > 0) continue;
      SCOPED_TRACE(way.name);
      const Outcome fast = RunFast(setup, way.drive, way.observed, way.fast_forward, seed);
      ExpectSame(fast, slow, way.observed);
      SimTime total;
      for (const EngineTotals& t : fast.engines) {
        total = total + t.busy;
        fast_forwarded += t.fast_forwarded;
        EXPECT_TRUE(way.fast_forward || t.fast_forwarded == 0);
      }
      if (busy == SimTime()) busy = total;
      EXPECT_EQ(total, busy);
    }
    for (const EngineTotals& t : slow.engines) {
      preemptions += t.preemptions;
      swapped += t.swapped_blocks;
    }
    // Every prompt token is computed or found, those that preemption gave up too.
    int64_t computed = 0, admitted = slow.input_tokens;
    for (size_t r = 0; r < slow.engines.size(); ++r) {
      const EngineTotals& t = slow.engines[r];
      cached += t.cached_tokens;
      resumed += t.resumed_tokens;
      evicted += slow.evicted_blocks[r];
      computed += t.prefill_tokens + t.cached_tokens + t.resumed_tokens;
      admitted += t.recomputed_tokens;
      EXPECT_LE(slow.cached_blocks[r], e.kv_blocks * e.ranks);
    }
    EXPECT_EQ(computed, admitted);
    refused += slow.refused;
    if (HasFailure()) return;  // one broken scenario says enough
  }
  // The scenarios reach what they are meant to reach.
  EXPECT_GT(preemptions, 25);
  EXPECT_GT(swapped, 10);
  EXPECT_GT(fast_forwarded, 2000);
  EXPECT_GT(refused, 20);
  EXPECT_GT(cached, 1000);
  EXPECT_GT(resumed, 200);
  EXPECT_GT(evicted, 200);
}

INSTANTIATE_TEST_SUITE_P(Scenarios, EngineReference, testing::Range(0, 4));

}  // namespace
}  // namespace simrun
