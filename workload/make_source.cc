#include <algorithm>
#include <functional>
#include <optional>
#include <queue>
#include <vector>

#include <fmt/format.h>

#include "base/paths.h"
#include "base/status.h"
#include "workload/config.h"
#include "workload/distributions.h"
#include "workload/source.h"
#include "workload/trace_reader.h"

namespace simrun {
namespace {

// Puts a system prompt, and what was said before, in front of each prompt.
class PromptHistory {
 public:
  PromptHistory(const WorkloadConfig& config, uint64_t seed, bool texts)
      : texts_(texts), group_rng_(seed, "shared_prefix"), conversation_rng_(seed, "conversations") {
    if (config.shared_prefix) {
      tokens_ = config.shared_prefix->tokens;
      std::vector<double> weights(static_cast<size_t>(config.shared_prefix->groups));
      for (size_t i = 0; i < weights.size(); ++i) weights[i] = Exp(-config.shared_prefix->exponent * Ln(static_cast<double>(i + 1)));
      group_.emplace(weights);
      prefixes_.resize(weights.size());
    }
    if (config.conversations) {
      turns_ = config.conversations->turns;
      conversations_.resize(static_cast<size_t>(config.conversations->active));
    }
  }
  void AddTo(Arrival* out) {
    if (conversations_.empty()) {
      const size_t group = group_->Draw(group_rng_);
      out->input_tokens += tokens_;
      if (!texts_) return;
      if (prefixes_[group] == nullptr) prefixes_[group] = std::make_shared<const PromptText>(PromptText{tokens_, {group}});
      out->text = prefixes_[group];
      return;
    }
    Conversation& c = conversations_[conversation_rng_.Below(conversations_.size())];
    if (c.turn == 0) {
      c.said = tokens_;
      PromptText text{std::max<int64_t>(1, tokens_), {}, true};
      if (group_) text.ids.push_back(group_->Draw(group_rng_));
      text.ids.push_back(begun_++);
      if (texts_) c.text = std::make_shared<const PromptText>(std::move(text));
    }
    out->input_tokens += c.said;
    out->text = c.text;
    c.said = out->input_tokens + out->output_tokens;
    if (++c.turn == turns_) c.turn = 0;
  }

 private:
  struct Conversation {
    int64_t turn = 0;    // turns so far
    int64_t said = 0;    // tokens of these, and of the system prompt
    std::shared_ptr<const PromptText> text;
  };

  bool texts_;
  Rng group_rng_, conversation_rng_;
  int64_t tokens_ = 0;                                        // of a system prompt
  std::optional<DiscreteSampler> group_;
  std::vector<std::shared_ptr<const PromptText>> prefixes_;   // by group, made when first drawn
  int64_t turns_ = 1;
  uint64_t begun_ = 0;
  std::vector<Conversation> conversations_;
};

// Everything of a request but its time: a trace's rows, distributions, or some of each.
class RequestMaker {
 public:
  static absl::StatusOr<RequestMaker> Make(const WorkloadConfig& config, uint64_t seed, const std::string& base_dir, bool texts) {
    RequestMaker m(seed);
    // The ids speak of the trace's own prompts.
    const bool hash_ids = texts && !config.input_tokens && !config.shared_prefix && !config.conversations;
    if (!config.trace.empty()) {
      SIMRUN_ASSIGN_OR_RETURN(const TraceFormat format, ParseTraceFormat(config.format));
      SIMRUN_ASSIGN_OR_RETURN(m.trace_, TraceReader::Open(ResolvePath(base_dir, config.trace),
                                                          {.format = format, .skip_invalid = config.skip_invalid,
                                                           .hash_ids = hash_ids, .hash_block = config.hash_block.value_or(0)}));
    }
    if (config.input_tokens) {
      SIMRUN_ASSIGN_OR_RETURN(
          m.input_, LengthSampler::Make(*config.input_tokens, "input_tokens", base_dir, config.skip_invalid));
    }
    if (config.output_tokens) {
      SIMRUN_ASSIGN_OR_RETURN(
          m.output_, LengthSampler::Make(*config.output_tokens, "output_tokens", base_dir, config.skip_invalid));
    }
    if (config.shared_prefix || config.conversations) m.history_.emplace(config, seed, texts);
    if (config.priorities) m.levels_ = static_cast<uint64_t>(config.priorities->levels);
    if (config.deadline) m.deadline_ = SimTime::From(*config.deadline);
    return m;
  }

  // Fills *out but for id, time and deadline. False when the trace has ended.
  absl::StatusOr<bool> Next(Arrival* out) {
    if (trace_ != nullptr) {
      SIMRUN_ASSIGN_OR_RETURN(const bool more, trace_->Next(&row_));
      if (!more) return false;
      out->session = row_.session;
    }
    out->input_tokens = input_ ? input_->Draw(input_rng_) : row_.input_tokens;
    out->output_tokens = output_ ? output_->Draw(output_rng_) : row_.output_tokens;
    if (history_) {
      history_->AddTo(out);
    } else if (!row_.hash_ids.empty()) {
      out->text = std::make_shared<const PromptText>(PromptText{trace_->hash_block(), row_.hash_ids});
    } else if (out->text != nullptr) {
      out->text = nullptr;  // of the request before
    }
    if (levels_ > 1) out->priority = static_cast<int32_t>(priority_rng_.Below(levels_));
    return true;
  }
  // Sets the time and what follows from it.
  void SetTime(SimTime at, Arrival* out) const {
    out->at = at;
    out->deadline = AddSaturating(at, deadline_);
  }
  const TraceRow& row() const { return row_; }
  const TraceReader* trace() const { return trace_.get(); }

 private:
  explicit RequestMaker(uint64_t seed)
      : input_rng_(seed, "input_tokens"), output_rng_(seed, "output_tokens"), priority_rng_(seed, "priorities") {}

  std::unique_ptr<TraceReader> trace_;
  TraceRow row_;
  std::optional<LengthSampler> input_, output_;
  std::optional<PromptHistory> history_;
  Rng input_rng_, output_rng_, priority_rng_;
  uint64_t levels_ = 1;
  SimTime deadline_ = SimTime::Infinite();
};

// What all sources share: the next request, looked up ahead, and the limits on number and time.
class SourceBase : public ArrivalSource {
 public:
  int64_t skipped() const override { return maker_.trace() != nullptr ? maker_.trace()->skipped() : 0; }

 protected:
  SourceBase(RequestMaker maker, const WorkloadConfig& config)
      : maker_(std::move(maker)), limit_(static_cast<uint64_t>(config.requests.value_or(INT64_MAX))),
        end_(config.duration ? SimTime::From(*config.duration) : SimTime::Infinite()) {}

  // Looks up the request after the one handed out last; false when there is none or reading it failed.
  bool LookAhead() {
    has_pending_ = false;
    if (issued_ == limit_ || !error_.ok()) return false;
    absl::StatusOr<bool> more = maker_.Next(&pending_);
    if (!more.ok()) {
      SetError(more.status());
      return false;
    }
    has_pending_ = *more;
    return *more;
  }
  void SetError(absl::Status status) {
    error_ = std::move(status);
    has_pending_ = false;
  }
  // Hands the pending request out at time `at`.
  void Issue(SimTime at, Arrival* out) {
    maker_.SetTime(at, &pending_);
    pending_.id = issued_++;
    *out = std::move(pending_);
    last_ = at;
  }
  absl::Status TooLate() const {
    return absl::InvalidArgumentError(fmt::format(
        "request {} would arrive after more than 29 years; give a lower number of requests or a higher rate", issued_));
  }

  RequestMaker maker_;
  Arrival pending_;
  bool has_pending_ = false;
  uint64_t issued_ = 0;
  uint64_t limit_;
  SimTime end_;
  SimTime last_;
  absl::Status error_;
};

class OpenLoopSource final : public SourceBase {
 public:
  OpenLoopSource(RequestMaker maker, const WorkloadConfig& config, uint64_t seed)
      : SourceBase(std::move(maker), config), scale_(config.time_scale / config.rate_scale),
        start_(SimTime::From(config.start)) {
    if (config.arrivals) process_.emplace(*config.arrivals, scale_, seed);
    Advance();
  }
  const absl::Status& error() const { return error_; }

  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (!error_.ok()) return error_;
    if (!has_pending_) return NextResult::kEnd;
    Issue(at_, out);
    Advance();
    return NextResult::kArrival;
  }

 private:
  void Advance() {
    if (LookAhead()) SetPendingTime();
    // An error is due at once, see next_time().
    set_next_time(has_pending_ ? at_ : error_.ok() ? SimTime::Infinite() : last_);
  }
  void SetPendingTime() {
    if (process_) {
      at_ = process_->Next();
    } else {
      while (maker_.row().timed && maker_.row().at < start_) {
        if (!LookAhead()) return;
      }
      if (!maker_.row().timed) {
        return SetError(absl::InvalidArgumentError(fmt::format(
            "{}: the trace has lengths but no times of arrival; add arrivals, for example arrivals: {{poisson: {{rate: 4 /s}}}}",
            maker_.trace()->Place())));
      }
      at_ = maker_.row().at - start_;
      if (scale_ != 1) at_ = SimTime::From(at_.seconds() * scale_);
    }
    if (at_ >= end_) {
      if (end_ == SimTime::Infinite()) return SetError(TooLate());
      has_pending_ = false;
      limit_ = issued_;
    }
  }

  double scale_;
  SimTime start_;
  std::optional<ArrivalProcess> process_;
  SimTime at_;
};

// Clients that each wait for their request before they send the next.
class ClosedLoopSource final : public SourceBase {
 public:
  ClosedLoopSource(RequestMaker maker, const WorkloadConfig& config, uint64_t seed)
      : SourceBase(std::move(maker), config), think_(config.think_time, seed) {
    const double clients = static_cast<double>(*config.concurrency);
    for (uint64_t i = 0; i < std::min(limit_, static_cast<uint64_t>(*config.concurrency)); ++i) {
      ready_.push(SimTime::From(config.ramp_up * (static_cast<double>(i) / clients)).ticks());
    }
    LookAhead();
    Update();
  }
  const absl::Status& error() const { return error_; }

  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (!error_.ok()) return error_;
    if (next_time() == SimTime::Infinite()) {
      return has_pending_ && in_flight_ > 0 ? NextResult::kWaiting : NextResult::kEnd;
    }
    ready_.pop();
    Issue(next_time(), out);
    ++in_flight_;
    LookAhead();
    Update();
    return NextResult::kArrival;
  }

  void OnFinished(SimTime at) override {
    SIM_CHECK(in_flight_ > 0);
    --in_flight_;
    if (!has_pending_) return;
    const SimTime ready = AddSaturating(at, SimTime::From(think_.Draw()));
    if (ready == SimTime::Infinite() && end_ == SimTime::Infinite()) SetError(TooLate());
    ready_.push(ready.ticks());
    Update();
  }

 private:
  void Update() {
    SimTime next = SimTime::Infinite();
    if (!error_.ok()) {
      next = last_;
    } else if (has_pending_ && !ready_.empty() && SimTime::FromTicks(ready_.top()) < end_) {
      next = SimTime::FromTicks(ready_.top());
    }
    set_next_time(next);
  }

  ThinkTimeSampler think_;
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> ready_;  // when waiting clients send, ticks
  uint64_t in_flight_ = 0;
};

// Whole batches, each sent when the one before it has finished.
class StaticBatchSource final : public SourceBase {
 public:
  StaticBatchSource(RequestMaker maker, const WorkloadConfig& config)
      : SourceBase(std::move(maker), config), size_(static_cast<uint64_t>(*config.static_batch)), left_(size_),
        more_batches_(static_cast<uint64_t>(config.batches) - 1) {
    LookAhead();
    Update();
  }
  const absl::Status& error() const { return error_; }

  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (!error_.ok()) return error_;
    if (next_time() == SimTime::Infinite()) {
      return has_pending_ && more_batches_ > 0 && in_flight_ > 0 ? NextResult::kWaiting : NextResult::kEnd;
    }
    Issue(next_time(), out);
    ++in_flight_;
    --left_;
    if (left_ > 0 || more_batches_ > 0) {
      LookAhead();
    } else {
      has_pending_ = false;
    }
    Update();
    return NextResult::kArrival;
  }

  void OnFinished(SimTime at) override {
    SIM_CHECK(in_flight_ > 0);
    --in_flight_;
    if (in_flight_ > 0 || left_ > 0 || more_batches_ == 0) return;
    --more_batches_;
    left_ = size_;
    batch_time_ = at;
    Update();
  }

 private:
  void Update() {
    SimTime next = SimTime::Infinite();
    if (!error_.ok()) {
      next = last_;
    } else if (has_pending_ && left_ > 0 && batch_time_ < end_) {
      next = batch_time_;
    }
    set_next_time(next);
  }

  uint64_t size_;
  uint64_t left_;  // of the current batch
  uint64_t more_batches_;
  uint64_t in_flight_ = 0;
  SimTime batch_time_;
};

template <class Source, class... Args>
absl::StatusOr<std::unique_ptr<ArrivalSource>> Finish(const WorkloadConfig& config, Args&&... args) {
  auto source = std::make_unique<Source>(std::forward<Args>(args)...);
  if (!source->error().ok()) return source->error();
  if (source->next_time() == SimTime::Infinite()) {
    std::string text = fmt::format("{}: has no request", config.trace);
    if (config.start.value() != 0) text += " after `start`";
    if (config.duration) text += " within `duration`";
    // A synthetic workload may by chance have no arrival within its duration.
    if (!config.trace.empty()) return absl::InvalidArgumentError(text);
  }
  return source;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ArrivalSource>> MakeSource(const WorkloadConfig& config, uint64_t seed,
                                                          const std::string& base_dir, bool texts) {
  Problems problems;
  ValidateWorkload(config, "workload", nullptr, &problems);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  SIMRUN_ASSIGN_OR_RETURN(RequestMaker maker, RequestMaker::Make(config, seed, base_dir, texts));
  if (config.concurrency) return Finish<ClosedLoopSource>(config, std::move(maker), config, seed);
  if (config.static_batch) return Finish<StaticBatchSource>(config, std::move(maker), config);
  return Finish<OpenLoopSource>(config, std::move(maker), config, seed);
}

}  // namespace simrun
