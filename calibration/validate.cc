#include "calibration/validate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "base/csv.h"
#include "base/status.h"
#include "calibration/case_scenario.h"
#include "calibration/roofline.h"
#include "hw/engine_profile.h"
#include "sim/prediction_interval.h"
#include "sim/resolved.h"
#include "sim/simulation.h"

namespace simrun {
namespace {

// Provenance kinds from the surest to the least sure.
int Rank(std::string_view kind) {
  constexpr std::string_view kOrder[] = {"measured", "calibrated", "transferred", "datasheet", "assumed"};
  for (int i = 0; i < 5; ++i) {
    if (kOrder[i] == kind) return i;
  }
  return 4;
}

std::string LeastSure(const Report& report) {
  std::string worst = "measured";
  for (const Report::Provenance& p : report.provenance) {
    if (Rank(p.kind) > Rank(worst)) worst = p.kind;
  }
  return worst;
}

std::string OneLine(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// A steady state, measured long after the start: clients begin evenly over the time of one request, and what counts comes
// after that.
absl::StatusOr<Scenario> Staggered(const Scenario& scenario, const Report& first) {
  const Seconds ramp = first.e2e.mean;
  SIMRUN_ASSIGN_OR_RETURN(const Scenario ramped, scenario.With("workload.ramp_up", fmt::format("{} s", ramp.value())));
  return ramped.With("metrics.warmup", fmt::format("{} s", 1.5 * ramp.value()));
}

// One of the declarations in the profile covers this value.
bool FittedOn(const EngineProfile& profile, const MeasuredCase& c, const MeasuredValue& v) {
  const auto covers = [](const std::string& wanted, const std::string& given) { return wanted.empty() || wanted == given; };
  for (const EngineFit& f : profile.fitted_on) {
    const bool version = f.version == "unstated" ? c.engine_version.empty() : c.engine_version.rfind(f.version, 0) == 0;
    if (version && covers(f.gpu, c.gpu) && covers(f.model, c.model) && covers(f.load, c.load_kind) && covers(f.metric, v.metric)) {
      return true;
    }
  }
  return false;
}

std::vector<LedgerRow> RunCase(const MeasuredCase& c, const std::shared_ptr<const Catalog>& catalog, const ValidateOptions& options) {
  std::string traces_dir = options.traces_dir;
  if (traces_dir.empty()) {
    const size_t slash = c.file.rfind('/');
    traces_dir = (slash == std::string::npos ? std::string(".") : c.file.substr(0, slash)) + "/../traces";
  }
  std::vector<LedgerRow> rows;
  for (const MeasuredValue& v : c.values) {
    LedgerRow row;
    row.case_id = c.id;
    row.class_name = v.class_name;
    row.model = c.model;
    row.gpu = c.gpu;
    row.engine = c.engine_version.empty() ? c.engine : c.engine + " " + c.engine_version;
    row.metric = v.metric;
    row.statistic = v.statistic;
    row.measured = v.value;
    rows.push_back(std::move(row));
  }
  const auto give_up = [&](const absl::Status& status) {
    for (LedgerRow& row : rows) row.warnings = OneLine(std::string(status.message()));
    return rows;
  };
  absl::StatusOr<CaseScenario> scenario = ScenarioOfCase(c, traces_dir, catalog, options.profile);
  if (!scenario.ok()) return give_up(scenario.status());
  absl::StatusOr<Report> report = Simulate(scenario->scenario, {.intervals = false});
  if (!report.ok()) return give_up(report.status());
  if (c.load_kind == "saturated_batch") {
    absl::StatusOr<Scenario> staggered = Staggered(scenario->scenario, *report);
    if (!staggered.ok()) return give_up(staggered.status());
    scenario->scenario = *std::move(staggered);
    report = Simulate(scenario->scenario, {.intervals = false});
    if (!report.ok()) return give_up(report.status());
  }
  const ResolvedScenario& resolved = scenario->scenario.resolved();
  std::optional<Report> baseline;
  if (options.baseline) {
    const std::unique_ptr<StepCostModel> roofline = MakeRooflineBaseline(resolved.model, resolved.plan, resolved.machine);
    SimulateOptions baseline_options;
    baseline_options.step_cost = roofline.get();
    baseline_options.intervals = false;
    const absl::StatusOr<Scenario> bare = scenario->scenario.With("engine.front_end", "0 s");
    absl::StatusOr<Report> run = Simulate(bare, std::move(baseline_options));
    if (run.ok()) baseline = *std::move(run);
  }

  std::vector<std::string> warnings = scenario->assumptions;
  warnings.insert(warnings.end(), report->warnings.begin(), report->warnings.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    LedgerRow& row = rows[i];
    row.engine_profile = resolved.engine.name;
    row.engine_family = resolved.engine.engine;
    row.load = LoadKindOf(resolved);
    row.fitted = FittedOn(resolved.engine, scenario->measured, c.values[i]);
    row.predicted = PredictedValue(scenario->measured, c.values[i], *report);
    const bool is_energy = IsEnergyMetric(row.metric);
    if (baseline && !is_energy) row.baseline = PredictedValue(scenario->measured, c.values[i], *baseline);
    row.provenance = LeastSure(*report);
    row.warnings = OneLine(fmt::format("{}", fmt::join(warnings, "; ")));
    if (!row.predicted && row.warnings.empty()) row.warnings = "the report has no such value";
  }
  return rows;
}

}  // namespace

bool IsEnergyMetric(std::string_view metric) { return metric == "power" || metric.substr(0, 6) == "energy"; }

double QuantileOf(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const size_t rank = static_cast<size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

std::optional<double> LedgerRow::error() const {
  if (!predicted) return std::nullopt;
  return *predicted / measured - 1;
}
std::optional<double> LedgerRow::baseline_error() const {
  if (!baseline) return std::nullopt;
  return *baseline / measured - 1;
}

std::vector<LedgerRow> Validate(const std::vector<MeasuredCase>& cases, const std::shared_ptr<const Catalog>& catalog,
                                const ValidateOptions& options) {
  std::vector<std::vector<LedgerRow>> results(cases.size());
  std::atomic<size_t> next{0};
  std::mutex mutex;
  size_t done = 0;
  const auto work = [&] {
    for (size_t i = next++; i < cases.size(); i = next++) {
      results[i] = RunCase(cases[i], catalog, options);
      const std::lock_guard<std::mutex> lock(mutex);
      ++done;
      if (options.progress) options.progress(done, cases.size());
    }
  };
  int threads = options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  threads = std::clamp(threads, 1, static_cast<int>(std::max<size_t>(cases.size(), 1)));
  {
    std::vector<std::jthread> pool;
    for (int t = 1; t < threads; ++t) pool.emplace_back(work);
    work();
  }
  std::vector<LedgerRow> rows;
  for (size_t i = 0; i < results.size(); ++i) {
    for (LedgerRow& row : results[i]) {
      row.case_index = i;
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

std::vector<ErrorSummary> Summarize(const std::vector<LedgerRow>& rows, const std::function<std::string(const LedgerRow&)>& key) {
  std::map<std::string, std::vector<size_t>> groups;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (std::string name = key(rows[i]); !name.empty()) groups[name].push_back(i);
  }
  std::vector<ErrorSummary> summaries;
  for (const auto& [name, members] : groups) {
    ErrorSummary s;
    s.group = name;
    std::vector<double> absolute, signed_errors, baseline, unseen;
    std::vector<size_t> order;
    for (const size_t i : members) {
      const std::optional<double> e = rows[i].error();
      if (!e) {
        ++s.missing;
        continue;
      }
      absolute.push_back(std::abs(*e));
      if (!rows[i].fitted) unseen.push_back(std::abs(*e));
      signed_errors.push_back(*e);
      order.push_back(i);
      if (const std::optional<double> b = rows[i].baseline_error()) baseline.push_back(std::abs(*b));
    }
    s.rows = static_cast<int64_t>(absolute.size());
    if (!absolute.empty()) {
      s.median = QuantileOf(absolute, 0.5);
      s.p90 = QuantileOf(absolute, 0.9);
      s.bias = QuantileOf(signed_errors, 0.5);
    }
    s.unseen = static_cast<int64_t>(unseen.size());
    if (!unseen.empty()) s.unseen_median = QuantileOf(unseen, 0.5);
    if (!baseline.empty()) s.baseline_median = QuantileOf(baseline, 0.5);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::abs(*rows[a].error()) > std::abs(*rows[b].error());
    });
    order.resize(std::min<size_t>(order.size(), 5));
    s.worst = std::move(order);
    summaries.push_back(std::move(s));
  }
  return summaries;
}

std::string LedgerCsv(const std::vector<LedgerRow>& rows) {
  std::string csv = "case_id,class,model,gpu,engine,metric,statistic,measured,predicted,baseline,error,provenance,warnings\n";
  const auto number = [](const std::optional<double>& value) { return value ? fmt::format("{:.6g}", *value) : std::string(); };
  for (const LedgerRow& r : rows) {
    csv += fmt::format("{},{},{},{},{},{},{},{:.6g},{},{},{},{},{}\n", CsvField(r.case_id), CsvField(r.class_name), CsvField(r.model),
                       CsvField(r.gpu), CsvField(r.engine), CsvField(r.metric), CsvField(r.statistic), r.measured, number(r.predicted),
                       number(r.baseline), number(r.error()), CsvField(r.provenance), CsvField(r.warnings));
  }
  return csv;
}

}  // namespace simrun
