#include "cli/calibrate_command.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/status.h"
#include "base/params.h"
#include "calibration/bench_result.h"
#include "calibration/cases.h"
#include "calibration/fit_device.h"
#include "calibration/fit_engine.h"
#include "calibration/operator_ledger.h"
#include "calibration/ops.h"
#include "cli/progress.h"
#include "cli/text.h"

namespace simrun {
namespace {

std::string Percent(double x) { return fmt::format("{:.1f}", 100 * x); }
std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

bool WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return static_cast<bool>(file);
}

// Parameters by how much the rows said about them.
std::string LearnedText(const OperatorReport& report) {
  std::string text;
  for (const FittedParameter& p : report.parameters) {
    text += fmt::format("{}{} {:.4g} ({:.0f} %)", text.empty() ? "" : ", ", p.name, p.value, 100 * p.learned());
  }
  return text;
}

}  // namespace

int CalibrateCommand(const CalibrateOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const absl::StatusOr<DeviceBase> base = LoadDeviceBase(options.device, **catalog);
  if (!base.ok()) return Fail(base.status(), terminal.err);
  absl::StatusOr<OpTable> table = ReadOps(options.ops, **catalog);
  if (!table.ok()) return Fail(table.status(), terminal.err);
  FindUngatedExperts(base->machine.gpu, &table->rows);

  CalibrationOptions calibration;
  calibration.threads = options.threads;
  calibration.cross_validate = !options.no_cross_validation;
  absl::StatusOr<Calibration> fitted = absl::InternalError("not run");
  {
    ProgressLine progress(terminal.err, options.quiet);
    const auto start = std::chrono::steady_clock::now();
    calibration.progress = [&](size_t done, size_t total) {
      progress.Show(fmt::format("{} of {} operators", done, total),
                    std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    };
    fitted = Calibrate(*base, table->rows, **catalog, calibration);
  }
  if (!fitted.ok()) return Fail(fitted.status(), terminal.err);
  const std::string comment = fmt::format("Operator parameters: {}", fitted->file.description);
  if (!WriteFile(options.out, OperatorFileYaml(fitted->file, comment))) {
    return FailWith(kRunFailed, fmt::format("{}: cannot be written", options.out), terminal.err);
  }

  terminal.out << fmt::format("{} rows. Errors are |predicted / measured - 1| of rows the fit had not seen, in per cent; new shapes: of weight\n"
                              "or head shapes it had not seen.\n\n", table->rows.size());
  TextTable errors("lllrrrrrrl");
  errors.Add({"operator", "format", "kernels", "rows", "formula", "mean", "median", "p90", "new shapes", "correction"});
  for (const OperatorReport& r : fitted->reports) {
    if (!r.skipped.empty()) {
      errors.Add({r.op, OrDash(r.dtype), OrDash(r.backend), fmt::format("{}", r.rows), "-", "-", "-", "-", "-", "not fitted: " + r.skipped});
      continue;
    }
    errors.Add({r.op, OrDash(r.dtype), OrDash(r.backend), fmt::format("{}", r.rows), Percent(r.formula.mape), Percent(r.by_row.mape),
                Percent(r.by_row.median), Percent(r.by_row.p90), r.by_shape.rows > 0 ? Percent(r.by_shape.mape) : "-", OrDash(r.correction)});
  }
  terminal.out << errors.ToText();
  terminal.out << "\nParameters in base units (s, fractions, tokens), and how much of what was uncertain before the rows settled.\n";
  TextTable parameters("llll");
  for (const OperatorReport& r : fitted->reports) {
    if (r.skipped.empty()) parameters.Add({r.op, OrDash(r.dtype), OrDash(r.backend), LearnedText(r)});
  }
  terminal.out << parameters.ToText();
  return kDone;
}

namespace {

std::vector<std::string> SplitCommas(const std::vector<std::string>& given) {
  std::vector<std::string> names;
  for (const std::string& list : given) {
    size_t begin = 0;
    while (begin <= list.size()) {
      const size_t end = std::min(list.find(',', begin), list.size());
      if (end > begin) names.push_back(list.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  return names;
}

// The value of a column of the case files.
std::optional<std::string> CaseColumn(const MeasuredCase& c, const std::string& column) {
  const std::pair<const char*, std::string> columns[] = {
      {"case_id", c.id}, {"class", c.class_name}, {"model", c.model}, {"weights_dtype", c.weights_dtype}, {"kv_dtype", c.kv_dtype},
      {"engine", c.engine}, {"engine_version", c.engine_version}, {"gpu", c.gpu}, {"tp", fmt::format("{}", c.tp)},
      {"pp", fmt::format("{}", c.pp)}, {"ep", fmt::format("{}", c.ep)}, {"dp", fmt::format("{}", c.dp)}, {"load_kind", c.load_kind},
      {"load_value", fmt::format("{:g}", c.load_value)}, {"isl", fmt::format("{:g}", c.isl.value_or(0))}, {"osl", fmt::format("{:g}", c.osl.value_or(0))}};
  for (const auto& [name, value] : columns) {
    if (column == name) return value;
  }
  return std::nullopt;
}

std::string FieldText(const std::string& name, double value) {
  if (name.find("factor") != std::string::npos) return fmt::format("{:.4g}", value);
  return value < 1e-3 ? fmt::format("{:.4g} us", value * 1e6) : fmt::format("{:.4g} ms", value * 1e3);
}

}  // namespace

int CalibrateEngineCommand(const CalibrateEngineOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  std::vector<MeasuredCase> cases;
  for (const std::string& path : options.cases) {
    absl::StatusOr<std::vector<MeasuredCase>> read = ReadCaseFile(path, options.flags);
    if (!read.ok()) return Fail(read.status(), terminal.err);
    for (MeasuredCase& c : *read) cases.push_back(std::move(c));
  }
  for (const std::string& condition : options.where) {
    const size_t equals = condition.find('=');
    const std::string column = condition.substr(0, equals);
    if (equals == std::string::npos || !CaseColumn(MeasuredCase(), column)) {
      return FailWith(kBadInput, fmt::format("--where {}: write COLUMN=VALUE with a column that describes the case, such as gpu or engine_version", condition), terminal.err);
    }
    // Several values may be joined by '|'.
    const std::string values = "|" + condition.substr(equals + 1) + "|";
    cases.erase(std::remove_if(cases.begin(), cases.end(), [&](const MeasuredCase& c) {
                  return values.find("|" + *CaseColumn(c, column) + "|") == std::string::npos;
                }), cases.end());
  }
  if (cases.empty()) return FailWith(kBadInput, "no case is left; check --where", terminal.err);

  FitEngineOptions fit;
  fit.fields = SplitCommas(options.fit);
  fit.metrics = SplitCommas(options.metrics);
  fit.architecture = options.architecture;
  fit.traces_dir = options.traces;
  fit.threads = options.threads;
  absl::StatusOr<EngineFitResult> result = absl::InternalError("not run");
  {
    ProgressLine progress(terminal.err, options.quiet);
    const auto start = std::chrono::steady_clock::now();
    fit.progress = [&](int step, double loss) {
      progress.Show(fmt::format("step {}, loss {:.4g}", step, loss), std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    };
    result = FitEngine(cases, options.profile, *catalog, fit);
  }
  if (!result.ok()) return Fail(result.status(), terminal.err);
  if (!options.out.empty() && !WriteFile(options.out, WriteParams(result->profile).ToYaml())) {
    return FailWith(kRunFailed, fmt::format("{}: cannot be written", options.out), terminal.err);
  }
  terminal.out << fmt::format("{} cases, {} values. |predicted / measured - 1|: median {} -> {} %, p90 {} -> {} %.\n\n", cases.size(), result->values,
                              Percent(result->median_before), Percent(result->median_after), Percent(result->p90_before), Percent(result->p90_after));
  TextTable table("lrrrrl");
  table.Add({"field", "before", "fitted", "+-", "settled", "remark"});
  for (const FittedEngineField& f : result->fields) {
    std::string remark;
    if (f.learned() < 0.5) remark = "these runs hardly show it";
    if (!f.twin.empty()) remark += fmt::format("{}hardly told from {}", remark.empty() ? "" : ", ", f.twin);
    table.Add({f.name, FieldText(f.name, f.start), FieldText(f.name, f.value), FieldText(f.name, f.sd), fmt::format("{:.0f} %", 100 * f.learned()), remark});
  }
  terminal.out << table.ToText();
  terminal.out << "\n+-: standard deviation given the runs. Settled: how much of what was uncertain before the runs they removed.\n";
  return kDone;
}

int ValidateOpsCommand(const ValidateOpsOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const absl::StatusOr<DeviceChoice> device = ChooseDevice(options.device, **catalog);
  if (!device.ok()) return Fail(device.status(), terminal.err);
  absl::StatusOr<OperatorParamSet> params = LoadOperatorParams(device->operators, **catalog);
  if (!params.ok()) return Fail(params.status(), terminal.err);
  absl::StatusOr<OpTable> table = ReadOps(options.ops, **catalog);
  if (!table.ok()) return Fail(table.status(), terminal.err);
  FindUngatedExperts(device->machine.gpu, &table->rows);
  const absl::StatusOr<OperatorPricer> pricer = OperatorPricer::Create(
      device->machine, std::make_shared<const OperatorParamSet>(*std::move(params)), options.backend, table->rows);
  if (!pricer.ok()) return Fail(pricer.status(), terminal.err);
  std::vector<OperatorPrediction> predictions;
  predictions.reserve(table->rows.size());
  for (const OpRow& row : table->rows) predictions.push_back(pricer->Price(row));
  if (!options.out.empty() && !WriteFile(options.out, OperatorLedgerCsv(*table, predictions))) {
    return FailWith(kRunFailed, fmt::format("{}: cannot be written", options.out), terminal.err);
  }
  terminal.out << fmt::format("{}, operators {}: {} rows. Errors are |predicted / measured - 1| in per cent, bias the median of the signed error;\n"
                              "roofline is FLOPs over peak or bytes over bandwidth alone. Rows a shipped fit was made from are not unseen: its\n"
                              "error on unseen rows is that of the catalogue: unseen, and its 90th percentile. Hardly settled: parameters of which the\n"
                              "rows removed less than a fifth of the prior's uncertainty.\n\n",
                              device->machine.gpu.name, device->operators, table->rows.size());
  TextTable text("lllrrrrrrrrrrl");
  text.Add({"operator", "format", "kernels", "rows", "missing", "mean", "median", "p90", "bias", "roofline", "power", "unseen", "unseen p90", "hardly settled"});
  std::string reasons;
  for (const OperatorSummary& s : SummarizeOperators(table->rows, predictions, *pricer)) {
    const std::string name = OrDash(s.op);
    if (s.missing > 0) reasons += fmt::format("  {} {} {}: {} rows: {}\n", name, s.format, s.backend, s.missing, s.reason);
    if (s.rows == 0) {
      text.Add({name, OrDash(s.format), OrDash(s.backend), "0", fmt::format("{}", s.missing), "-", "-", "-", "-", "-", "-", "-", "-", "-"});
      continue;
    }
    const OperatorParams* entry = s.entry;
    text.Add({name, OrDash(s.format), OrDash(s.backend), fmt::format("{}", s.rows), fmt::format("{}", s.missing), Percent(s.mape), Percent(s.median),
              Percent(s.p90), fmt::format("{:+.1f}", 100 * s.bias), s.baseline_mape.has_value() ? Percent(*s.baseline_mape) : "-",
              s.power_median >= 0 ? Percent(s.power_median) : "-",
              entry != nullptr && entry->mape > 0 ? fmt::format("{:.1f}", entry->mape) : "-",
              entry != nullptr && entry->p90_ape > 0 ? fmt::format("{:.1f}", entry->p90_ape) : "-", OrDash(entry != nullptr ? HardlySettled(*entry) : "")});
  }
  terminal.out << text.ToText();
  if (!reasons.empty()) terminal.out << "\nNot priced\n" << reasons;
  return kDone;
}

}  // namespace simrun
