// Parts from which tests put an engine together without hardware: a closed-form step cost, arrivals from a list, a
// closed loop over a list, and a collector of what an observer sees.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/rng.h"
#include "hw/step_cost.h"
#include "schedulers/batching.h"
#include "schedulers/router.h"
#include "sim/replica.h"
#include "workload/source.h"

namespace simrun {

// Seconds of a step, spread evenly over the stages (stage s takes 1 + s * skew times the first one's time):
//   step + token * tokens + row * logits rows + kv * sum of decode KV + window_kv * windowed sum + kv_max * longest
//        + pair * sum over chunks of tokens * (past + tokens),
// of the slowest rank. Every field of StepWork has a coefficient, so that a mistake in any of them moves the clock.
struct LinearCost final : public StepCostModel {
  explicit LinearCost(int count = 1) : stage_count(count) {}
  int stages() const override { return stage_count; }
  double RankSeconds(const StepWork& w) const {
    double seconds = step + token * static_cast<double>(w.tokens) + row * static_cast<double>(w.logits_rows) +
                     kv * static_cast<double>(w.decode_kv_sum) + window_kv * static_cast<double>(w.decode_kv_sum_windowed) +
                     kv_max * static_cast<double>(w.decode_kv_max) + sequence * static_cast<double>(w.decode_seqs);
    for (const PrefillChunk& c : w.chunks) {
      seconds += pair * static_cast<double>(c.tokens) * static_cast<double>(c.past + c.tokens);
    }
    return seconds;
  }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override {
    double seconds = 0, joules = 0;
    for (const StepWork& w : ranks) {
      const double rank = w.tokens > 0 ? RankSeconds(w) : 0;
      seconds = std::max(seconds, rank);
      joules += watts * rank;
    }
    cost->dynamic_joules = joules;
    cost->bound_seconds = {};
    for (int s = 0; s < stage_count; ++s) {
      const double stage = seconds / stage_count * (1 + s * skew);
      cost->stage_seconds[static_cast<size_t>(s)] = stage;
      cost->bound_seconds[static_cast<size_t>(s % 2)] += stage;
    }
    ++predictions;
  }

  int stage_count;
  double step = 0, token = 0, row = 0, kv = 0, window_kv = 0, kv_max = 0, pair = 0, sequence = 0;
  double skew = 0, watts = 0;
  int64_t predictions = 0;
};

inline Arrival MakeArrival(uint64_t id, SimTime at, int64_t input, int64_t output) {
  Arrival a;
  a.id = id;
  a.at = at;
  a.input_tokens = input;
  a.output_tokens = output;
  return a;
}

// Hands out a list of arrivals, sorted by time.
class ListSource final : public ArrivalSource {
 public:
  explicit ListSource(std::vector<Arrival> arrivals) : arrivals_(std::move(arrivals)) { Update(); }
  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (next_ == arrivals_.size()) return NextResult::kEnd;
    *out = arrivals_[next_++];
    Update();
    return NextResult::kArrival;
  }
  void OnFinished(SimTime) override { ++finished; }

  int64_t finished = 0;

 private:
  void Update() { set_next_time(next_ == arrivals_.size() ? SimTime::Infinite() : arrivals_[next_].at); }
  std::vector<Arrival> arrivals_;
  size_t next_ = 0;
};

// `clients` clients share a list: each sends the next request of the list `think` after its last one finished.
// The times in the list are ignored.
class LoopSource final : public ArrivalSource {
 public:
  LoopSource(std::vector<Arrival> arrivals, int64_t clients, SimTime think) : arrivals_(std::move(arrivals)), think_(think) {
    for (int64_t i = 0; i < clients; ++i) ready_.push_back(SimTime());
    Update();
  }
  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (next_ == arrivals_.size()) return NextResult::kEnd;
    if (ready_.empty()) return NextResult::kWaiting;
    *out = arrivals_[next_++];
    out->at = ready_.front();
    ready_.erase(ready_.begin());
    in_flight = in_flight + 1;
    most_in_flight = std::max(most_in_flight, in_flight);
    Update();
    return NextResult::kArrival;
  }
  void OnFinished(SimTime at) override {
    --in_flight;
    const SimTime ready = at + think_;
    ready_.insert(std::upper_bound(ready_.begin(), ready_.end(), ready), ready);
    Update();
  }

  int64_t in_flight = 0, most_in_flight = 0;

 private:
  void Update() { set_next_time(next_ == arrivals_.size() || ready_.empty() ? SimTime::Infinite() : ready_.front()); }
  std::vector<Arrival> arrivals_;
  std::vector<SimTime> ready_;
  SimTime think_;
  size_t next_ = 0;
};

// Keeps everything an observer is told.
class Collector : public EngineObserver {
 public:
  void OnFinish(const RequestRecord& r) override {
    finished.push_back(r);
    records[r.id] = r;
  }
  void OnRefuse(const Arrival& a, Refusal why) override { refused[a.id] = why; }
  void OnStep(const StepRecord& s) override { steps.push_back(s); }

  std::vector<RequestRecord> finished;   // in the order told
  std::map<uint64_t, RequestRecord> records;
  std::map<uint64_t, Refusal> refused;
  std::vector<StepRecord> steps;
};

inline std::unique_ptr<BatchingPolicy> BuiltInPolicy(std::string_view name) {
  return (*BuiltInBatchingPolicies().Find(name))();
}
inline std::unique_ptr<Router> BuiltInRouter(std::string_view name, uint64_t seed = 1) {
  return (*BuiltInRouters().Find(name))(Rng(seed, "router"));
}

}  // namespace simrun
