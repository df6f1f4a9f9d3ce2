// Parts of the simulation loop on their own.
#include <benchmark/benchmark.h>

#include "base/rng.h"
#include "sim/decode_set.h"
#include "sim/event_queue.h"

namespace simrun {
namespace {

// Hold model: pop the earliest event, push one an exponential time later, `pending` events in the queue.
void EventQueuePopPush(benchmark::State& state) {
  const auto pending = static_cast<size_t>(state.range(0));
  Rng rng(1, "events");
  std::vector<SimTime> gaps;
  for (int i = 0; i < 4096; ++i) gaps.push_back(SimTime::From(Seconds(rng.Exponential(1.0))));
  EventQueue queue;
  for (size_t i = 0; i < pending; ++i) queue.Push({gaps[i % gaps.size()], EventBand::kStepEnd, 0, static_cast<uint32_t>(i)});
  size_t next = 0;
  for (auto _ : state) {
    const Event e = queue.Top();
    queue.Pop();
    queue.Push({e.time + gaps[next++ & 4095], EventBand::kStepEnd, 0, e.payload});
  }
}
BENCHMARK(EventQueuePopPush)->Arg(100)->Arg(1000)->Arg(100000);

// One decode step with `seqs` sequences; a sequence leaves and one joins every 200 / seqs steps.
void DecodeSetStep(benchmark::State& state) {
  const int64_t seqs = state.range(0);
  DecodeSet set(16, 0);
  uint32_t id = 0;
  std::vector<DecodeSet::Member> members(static_cast<size_t>(seqs));
  for (auto& m : members) {
    const int64_t steps = 1 + static_cast<int64_t>(id) % 200;
    m = set.Join(id, 1000 + static_cast<int64_t>(id) % 500, steps, steps);
    ++id;
  }
  for (auto _ : state) {
    set.Advance();
    set.PopDue([&](uint32_t due) {
      set.Remove(members[due]);
      members[due] = set.Join(due, 1000, 200, 200);
    });
    benchmark::DoNotOptimize(set.next_kv_sum() + set.next_kv_max() + set.next_blocks());
  }
}
BENCHMARK(DecodeSetStep)->Arg(1)->Arg(32)->Arg(1024);

}  // namespace
}  // namespace simrun
