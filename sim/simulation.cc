#include "sim/simulation.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "sim/arrival_queue.h"
#include "sim/prediction_interval.h"
#include "sim/run.h"

namespace simrun {
namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Runs beside the one that is reported, each with the next seed.
absl::StatusOr<std::vector<Report>> FurtherSeeds(const Scenario& scenario, const Report& report, bool by_itself, bool fast_forward) {
  constexpr int64_t kAutoRuns = 5, kAutoRequests = 1000;
  const ScenarioConfig& config = scenario.config();
  const bool worth_it = by_itself && IsRandom(config.workload) && report.requests.arrived <= kAutoRequests;
  const int64_t runs = config.metrics.replications.value_or(worth_it ? kAutoRuns : 1);
  std::vector<Report> reports;
  for (int64_t i = 1; i < runs; ++i) {
    SimulateOptions options;
    options.fast_forward = fast_forward;
    options.intervals = false;
    SIMRUN_ASSIGN_OR_RETURN(Report further, Simulate(scenario.WithSeed(config.seed + i), std::move(options)));
    reports.push_back(std::move(further));
  }
  return reports;
}

}  // namespace

absl::StatusOr<Report> Simulate(const Scenario& scenario, SimulateOptions options) {
  const Stopwatch watch;
  const ResolvedScenario& r = scenario.resolved();
  SIMRUN_ASSIGN_OR_RETURN(const std::unique_ptr<ArrivalSource> source,
                          MakeSource(r.config.workload, static_cast<uint64_t>(r.config.seed), scenario.base_dir(), r.params.prefix_caching));
  const bool in_order = r.closed_loop || options.observer != nullptr;
  RunPeaks* const peaks = options.peaks;
  const bool intervals = options.intervals && options.step_cost == nullptr && options.policy == nullptr && options.router == nullptr;
  const bool fast_forward = options.fast_forward, auto_replications = options.auto_replications;
  SIMRUN_ASSIGN_OR_RETURN(const std::unique_ptr<Run> run, Run::Create(scenario, std::move(options), source.get()));
  SIMRUN_RETURN_IF_ERROR(in_order ? run->cluster().AdvanceTo(SimTime::Infinite()) : run->cluster().RunOpenLoop());
  Report report = run->MakeReport(watch.seconds(), run->metrics().last_completion());
  if (peaks != nullptr) {
    *peaks = RunPeaks();
    for (const auto& replica : run->cluster().replicas()) {
      const EngineTotals& t = replica->totals();
      peaks->outstanding = std::max(peaks->outstanding, t.peak_outstanding);
      peaks->blocks = std::max(peaks->blocks, t.peak_blocks);
      peaks->longest = std::max(peaks->longest, t.longest);
    }
  }
  if (source->skipped() > 0) {
    report.warnings.push_back(fmt::format("{} rows of the trace were left out: they have no input or output tokens", source->skipped()));
  }
  if (intervals) {
    SIMRUN_ASSIGN_OR_RETURN(const std::vector<Report> further, FurtherSeeds(scenario, report, auto_replications, fast_forward));
    SIMRUN_RETURN_IF_ERROR(FillIntervals(r, *scenario.catalog(), LoadKindOf(r), further, &report));
  }
  return report;
}

absl::StatusOr<Report> Simulate(const absl::StatusOr<Scenario>& scenario, SimulateOptions options) {
  if (!scenario.ok()) return scenario.status();
  return Simulate(*scenario, std::move(options));
}

namespace {

// Requests handed in by the caller, in order of time.
class SubmittedSource final : public ArrivalSource {
 public:
  void Add(const Arrival& arrival) {
    queue_.Push(arrival.at, arrival);
    set_next_time(queue_.NextTime());
  }
  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (queue_.empty()) return NextResult::kWaiting;
    *out = queue_.Pop();
    set_next_time(queue_.NextTime());
    return NextResult::kArrival;
  }

 private:
  ArrivalQueue queue_;
};

}  // namespace

class Simulation::Impl : public EngineObserver {
 public:
  void OnFinish(const RequestRecord& record) override {
    if (on_finish) on_finish(record);
    if (next != nullptr) next->OnFinish(record);
  }
  void OnRefuse(const Arrival& arrival, Refusal why) override {
    if (next != nullptr) next->OnRefuse(arrival, why);
  }
  void OnStep(const StepRecord& record) override {
    if (next != nullptr) next->OnStep(record);
  }

  SubmittedSource source;
  std::unique_ptr<Run> run;
  std::function<void(const RequestRecord&)> on_finish;
  EngineObserver* next = nullptr;   // the caller's own
  SimTime now;
  uint64_t next_id = 0;
  Stopwatch watch;
};

Simulation::Simulation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Simulation::~Simulation() = default;

absl::StatusOr<std::unique_ptr<Simulation>> Simulation::Create(const Scenario& scenario, SimulateOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->next = std::exchange(options.observer, nullptr);
  const bool observed = impl->next != nullptr;
  SIMRUN_ASSIGN_OR_RETURN(impl->run, Run::Create(scenario, std::move(options), &impl->source));
  if (observed) impl->run->cluster().set_observer(impl.get());
  return std::unique_ptr<Simulation>(new Simulation(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<Simulation>> Simulation::Create(const absl::StatusOr<Scenario>& scenario, SimulateOptions options) {
  if (!scenario.ok()) return scenario.status();
  return Create(*scenario, std::move(options));
}

absl::StatusOr<uint64_t> Simulation::Submit(const Submission& request) {
  constexpr double kMostTokens = 1e9;
  // Written so that NaN is refused too.
  if (!(request.at.value() <= kMaxWorkloadSeconds) || !(SimTime::From(request.at) >= impl_->now)) {
    return absl::InvalidArgumentError(fmt::format("a request at {} s does not arrive between the simulated time {} s and {} s",
                                                  request.at.value(), impl_->now.seconds().value(), kMaxWorkloadSeconds));
  }
  for (const Tokens tokens : {request.input, request.output}) {
    if (!(tokens.value() >= 1 && tokens.value() <= kMostTokens)) {
      return absl::InvalidArgumentError(fmt::format("a request needs 1 to {} input and output tokens, not {}", kMostTokens, tokens.value()));
    }
  }
  Arrival arrival;
  arrival.at = SimTime::From(request.at);
  arrival.input_tokens = static_cast<int64_t>(request.input.value());
  arrival.output_tokens = static_cast<int64_t>(request.output.value());
  arrival.priority = request.priority;
  arrival.text = request.text;
  if (request.deadline) arrival.deadline = SimTime::From(*request.deadline);
  arrival.id = impl_->next_id++;
  impl_->source.Add(arrival);
  return arrival.id;
}

SimTime Simulation::NextEventTime() const { return impl_->run->cluster().NextEventTime(); }

absl::Status Simulation::AdvanceTo(SimTime time) {
  if (time == SimTime::Infinite()) return Drain();
  SIMRUN_RETURN_IF_ERROR(impl_->run->cluster().AdvanceTo(time));
  impl_->now = std::max(impl_->now, time);
  return absl::OkStatus();
}

absl::Status Simulation::Drain() {
  SIMRUN_RETURN_IF_ERROR(impl_->run->cluster().AdvanceTo(SimTime::Infinite()));
  impl_->now = std::max(impl_->now, impl_->run->metrics().last_completion());
  return absl::OkStatus();
}

SimTime Simulation::now() const { return impl_->now; }

void Simulation::OnFinish(std::function<void(const RequestRecord&)> callback) {
  impl_->on_finish = std::move(callback);
  impl_->run->cluster().set_observer(impl_.get());
}

std::vector<ReplicaLoad> Simulation::Loads() const {
  std::vector<ReplicaLoad> loads;
  for (const auto& replica : impl_->run->cluster().replicas()) loads.push_back(replica->load());
  return loads;
}

Report Simulation::Snapshot() const { return impl_->run->MakeReport(impl_->watch.seconds(), impl_->now); }

}  // namespace simrun
