#include "cli/calibrate_command.h"

#include <chrono>
#include <fstream>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "base/status.h"
#include "calibration/fit_device.h"
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
  const absl::StatusOr<OpTable> table = ReadOps(options.ops, **catalog);
  if (!table.ok()) return Fail(table.status(), terminal.err);

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

int ValidateOpsCommand(const ValidateOpsOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const absl::StatusOr<DeviceChoice> device = ChooseDevice(options.device, **catalog);
  if (!device.ok()) return Fail(device.status(), terminal.err);
  absl::StatusOr<OperatorParamSet> params = LoadOperatorParams(device->operators, **catalog);
  if (!params.ok()) return Fail(params.status(), terminal.err);
  const absl::StatusOr<OpTable> table = ReadOps(options.ops, **catalog);
  if (!table.ok()) return Fail(table.status(), terminal.err);
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
                              "error on unseen rows stands in the catalogue (simrun explain).\n\n",
                              device->machine.gpu.name, device->operators, table->rows.size());
  TextTable text("lllrrrrrrrr");
  text.Add({"operator", "format", "kernels", "rows", "missing", "mean", "median", "p90", "bias", "roofline", "power"});
  std::string reasons;
  for (const OperatorSummary& s : SummarizeOperators(table->rows, predictions, *pricer)) {
    const std::string name = OrDash(s.op);
    if (s.missing > 0) reasons += fmt::format("  {} {} {}: {} rows: {}\n", name, s.format, s.backend, s.missing, s.reason);
    if (s.rows == 0) {
      text.Add({name, OrDash(s.format), OrDash(s.backend), "0", fmt::format("{}", s.missing), "-", "-", "-", "-", "-", "-"});
      continue;
    }
    text.Add({name, OrDash(s.format), OrDash(s.backend), fmt::format("{}", s.rows), fmt::format("{}", s.missing), Percent(s.mape), Percent(s.median),
              Percent(s.p90), fmt::format("{:+.1f}", 100 * s.bias), s.baseline_mape.has_value() ? Percent(*s.baseline_mape) : "-",
              s.power_median >= 0 ? Percent(s.power_median) : "-"});
  }
  terminal.out << text.ToText();
  if (!reasons.empty()) terminal.out << "\nNot priced\n" << reasons;
  return kDone;
}

}  // namespace simrun
