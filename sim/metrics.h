// What a run measures, in memory that does not grow with the number of requests.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/sim_time.h"
#include "base/sketch.h"

namespace simrun {

// A finished request.
struct RequestRecord {
  uint64_t id = 0;
  SimTime arrival;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  SimTime ttft;           // first token - arrival, queueing included
  SimTime tpot;           // (last token - first token) / (output tokens - 1); 0 for one output token
  SimTime e2e;            // last token - arrival
  SimTime queue;          // start of the first step that works on it - arrival
  int32_t preemptions = 0;
  uint32_t replica = 0;
  int64_t cached_tokens = 0;   // of the prompt, found in the prefix cache when first admitted
};

// Why a request was turned away.
enum class Refusal { kContextLength, kKvMemory };
inline constexpr int kNumRefusals = 2;

// Means of a value over time, in at most 64 bins whose width doubles as the run grows.
class TimeBins {
 public:
  void Add(SimTime at, SimTime value);
  // Mean value over the part [from, to] of the time covered so far, 0 <= from < to <= 1; negative when nothing fell there.
  double MeanSeconds(double from, double to) const;
  uint64_t Count(double from, double to) const;

 private:
  static constexpr int kBins = 64;
  struct Bin {
    __extension__ __int128 sum = 0;
    uint64_t count = 0;
  };
  std::array<Bin, kBins> bins_{};
  int64_t width_ = static_cast<int64_t>(SimTime::kTicksPerSecond / 100);
  int64_t last_ = 0;
};

struct Slo {
  SimTime ttft = SimTime::Infinite();
  SimTime tpot = SimTime::Infinite();
};

class RunMetrics {
 public:
  // Requests that arrive before `warmup` are simulated but not counted in latencies, throughput and goodput.
  RunMetrics(Slo slo, SimTime warmup) : slo_(slo), warmup_(warmup) {}

  void OnArrived(SimTime at) {
    if (arrived_ == 0) first_arrival_ = at;
    last_arrival_ = at;
    ++arrived_;
    if (at >= warmup_) ++measured_arrivals_;
  }
  void OnRefused(Refusal why, SimTime arrival) {
    ++refused_[static_cast<size_t>(why)];
    if (arrival >= warmup_) ++measured_refused_;
  }
  void OnFinished(const RequestRecord& r, SimTime now) {
    ++completed_;
    input_tokens_ += r.input_tokens;
    output_tokens_ += r.output_tokens;
    if (now > last_completion_) last_completion_ = now;
    queue_over_time_.Add(r.arrival, r.queue);
    if (r.arrival < warmup_) return;
    ++measured_completed_;
    measured_input_tokens_ += r.input_tokens;
    measured_output_tokens_ += r.output_tokens;
    ttft_.Add(r.ttft);
    if (r.cached_tokens > 0) {
      ++cached_requests_;
      cached_ttft_ += r.ttft.seconds();
    }
    e2e_.Add(r.e2e);
    queue_.Add(r.queue);
    if (r.output_tokens > 1) tpot_.Add(r.tpot);
    if (r.ttft <= slo_.ttft && r.tpot <= slo_.tpot) ++attained_;
  }
  void OnTokenGap(SimTime gap, uint64_t sequences, SimTime now) {
    if (now >= warmup_) itl_.Add(gap, sequences);
  }

  const QuantileSketch& ttft() const { return ttft_; }
  const QuantileSketch& tpot() const { return tpot_; }
  const QuantileSketch& itl() const { return itl_; }
  const QuantileSketch& e2e() const { return e2e_; }
  const QuantileSketch& queue() const { return queue_; }
  const TimeBins& queue_over_time() const { return queue_over_time_; }
  const Slo& slo() const { return slo_; }

  int64_t arrived() const { return arrived_; }
  int64_t completed() const { return completed_; }
  int64_t refused(Refusal why) const { return refused_[static_cast<size_t>(why)]; }
  int64_t input_tokens() const { return input_tokens_; }
  int64_t output_tokens() const { return output_tokens_; }
  // After warm-up only.
  int64_t measured_arrivals() const { return measured_arrivals_; }
  int64_t measured_refused() const { return measured_refused_; }
  int64_t measured_completed() const { return measured_completed_; }
  int64_t measured_input_tokens() const { return measured_input_tokens_; }
  int64_t measured_output_tokens() const { return measured_output_tokens_; }
  int64_t attained() const { return attained_; }
  // Requests that found a part of their prompts cached, and the sum of their TTFTs.
  int64_t cached_requests() const { return cached_requests_; }
  Seconds cached_ttft() const { return cached_ttft_; }
  SimTime first_arrival() const { return first_arrival_; }
  SimTime last_arrival() const { return last_arrival_; }
  SimTime last_completion() const { return last_completion_; }
  SimTime warmup() const { return warmup_; }

 private:
  Slo slo_;
  SimTime warmup_;
  QuantileSketch ttft_, tpot_, itl_, e2e_, queue_;
  TimeBins queue_over_time_;
  int64_t arrived_ = 0, completed_ = 0, input_tokens_ = 0, output_tokens_ = 0;
  int64_t measured_arrivals_ = 0, measured_refused_ = 0, measured_completed_ = 0;
  int64_t measured_input_tokens_ = 0, measured_output_tokens_ = 0, attained_ = 0;
  int64_t cached_requests_ = 0;
  Seconds cached_ttft_;
  std::array<int64_t, kNumRefusals> refused_{};
  SimTime first_arrival_, last_arrival_, last_completion_;
};

}  // namespace simrun
