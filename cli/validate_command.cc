#include "cli/validate_command.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <fmt/ostream.h>

#include "base/status.h"
#include "calibration/accuracy_page.h"
#include "calibration/bench_result.h"
#include "calibration/cases.h"
#include "calibration/prediction_errors.h"
#include "calibration/validate.h"
#include "cli/progress.h"

namespace simrun {
namespace {

std::string Percent(double x) { return fmt::format("{:.1f}", 100 * x); }

void PrintSummaries(const std::vector<ErrorSummary>& summaries, std::ostream& out) {
  size_t width = 5;
  for (const ErrorSummary& s : summaries) width = std::max(width, s.group.size());
  fmt::print(out, "{:<{}}  {:>6} {:>7} {:>8} {:>8} {:>8} {:>10}\n", "group", width, "values", "missing", "median %", "p90 %", "bias %", "roofline %");
  for (const ErrorSummary& s : summaries) {
    if (s.rows == 0) {
      fmt::print(out, "{:<{}}  {:>6} {:>7} {:>8} {:>8} {:>8} {:>10}\n", s.group, width, 0, s.missing, "-", "-", "-", "-");
      continue;
    }
    fmt::print(out, "{:<{}}  {:>6} {:>7} {:>8} {:>8} {:>+8.1f} {:>10}\n", s.group, width, s.rows, s.missing, Percent(s.median), Percent(s.p90),
               100 * s.bias, s.baseline_median ? Percent(*s.baseline_median) : "-");
  }
}

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// kDone, or the failure said.
int WriteFile(const std::string& path, const std::string& text, Terminal terminal) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? kDone : FailWith(kRunFailed, fmt::format("{}: cannot be written", path), terminal.err);
}

// Writes or checks the accuracy page.
int PageCommand(const ValidateCommandOptions& options, const std::string& fresh, Terminal terminal) {
  if (!options.check.empty()) {
    const std::optional<std::string> committed = ReadFile(options.check);
    if (!committed) return FailWith(kBadInput, fmt::format("{}: cannot be read", options.check), terminal.err);
    const PageCheck check = CheckAccuracyPage(*committed, fresh);
    for (const std::string& w : check.worse) fmt::print(terminal.err, "worse: {}\n", w);
    for (size_t i = 0; i < std::min<size_t>(check.differing.size(), 10); ++i) fmt::print(terminal.err, "changed: {}\n", check.differing[i]);
    if (!check.worse.empty()) {
      return FailWith(kRunFailed, fmt::format("{} error figures grew by more than 5 % of themselves over {}", check.worse.size(), options.check), terminal.err);
    }
    if (!check.differing.empty()) {
      return FailWith(kRunFailed, fmt::format("{} lines of {} are out of date; --page {} renews it", check.differing.size(), options.check, options.check),
                      terminal.err);
    }
    fmt::print(terminal.out, "{} is up to date\n", options.check);
  }
  if (options.page.empty()) return kDone;
  // Renewing a page may hide that something became worse: say so.
  if (const std::optional<std::string> before = ReadFile(options.page)) {
    for (const std::string& w : CheckAccuracyPage(*before, fresh).worse) fmt::print(terminal.err, "worse: {}\n", w);
  }
  return WriteFile(options.page, fresh, terminal);
}

}  // namespace

int ValidateCommand(const ValidateCommandOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  std::vector<MeasuredCase> cases;
  std::string problems;
  for (const std::string& path : options.cases) {
    absl::StatusOr<std::vector<MeasuredCase>> read = ReadCaseFile(path, options.flags);
    if (!read.ok()) {
      if (!problems.empty()) problems += '\n';
      problems += std::string(read.status().message());
      continue;
    }
    for (MeasuredCase& c : *read) cases.push_back(std::move(c));
  }
  for (const std::string& path : options.settings) {
    const absl::Status added = AddSettings(path, &cases);
    if (added.ok()) continue;
    if (!problems.empty()) problems += '\n';
    problems += std::string(added.message());
  }
  if (!problems.empty()) return Fail(absl::InvalidArgumentError(problems), terminal.err);

  ValidateOptions validate;
  validate.traces_dir = options.traces;
  validate.threads = options.threads;
  std::vector<LedgerRow> rows;
  {
    ProgressLine progress(terminal.err, options.quiet);
    const auto start = std::chrono::steady_clock::now();
    validate.progress = [&](size_t done, size_t total) {
      progress.Show(fmt::format("{} of {} cases", done, total),
                    std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    };
    rows = Validate(cases, *catalog, validate);
  }
  if (!options.out.empty()) {
    if (const int rc = WriteFile(options.out, LedgerCsv(rows), terminal); rc != kDone) return rc;
  }
  if (!options.errors.empty()) {
    if (const int rc = WriteFile(options.errors, ErrorsYaml(ErrorGroupsOf(rows)), terminal); rc != kDone) return rc;
  }
  if (!options.page.empty() || !options.check.empty()) {
    const absl::StatusOr<std::string> page = AccuracyPage(cases, rows, *catalog);
    if (!page.ok()) return Fail(page.status(), terminal.err);
    return PageCommand(options, *page, terminal);
  }
  fmt::print(terminal.out, "{} cases, {} measured values. Errors are |predicted / measured - 1|; bias is the median of the signed error;\n"
                           "roofline is the median error of FLOPs over peak and bytes over bandwidth alone.\n\n", cases.size(), rows.size());
  PrintSummaries(Summarize(rows, [](const LedgerRow& r) {
                   return fmt::format("{}, {}, {}, {}", r.class_name, r.engine, r.gpu, r.metric);
                 }), terminal.out);
  fmt::print(terminal.out, "\nBy class\n");
  const std::vector<ErrorSummary> classes = Summarize(rows, [](const LedgerRow& r) { return r.class_name + ", " + r.metric; });
  PrintSummaries(classes, terminal.out);
  fmt::print(terminal.out, "\nWorst of each class\n");
  for (const ErrorSummary& s : classes) {
    for (const size_t i : s.worst) {
      const LedgerRow& r = rows[i];
      fmt::print(terminal.out, "{}  {}  {} {} {} {} {}: measured {:.4g}, predicted {:.4g} ({:+.0f} %)\n", s.group, r.case_id, r.model, r.gpu, r.engine,
                 r.metric, r.statistic, r.measured, *r.predicted, 100 * *r.error());
    }
  }
  std::map<std::string, int> reasons;
  for (const LedgerRow& r : rows) {
    if (!r.predicted) ++reasons[r.warnings];
  }
  if (!reasons.empty()) fmt::print(terminal.out, "\nNot expressed\n");
  for (const auto& [reason, count] : reasons) fmt::print(terminal.out, "{:>5} values: {}\n", count, reason);
  return kDone;
}

}  // namespace simrun
