#include "cli/sweep_command.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "base/quantity_text.h"
#include "cli/progress.h"
#include "cli/query_command.h"
#include "cli/text.h"
#include "cli/together.h"
#include "planner/metrics.h"
#include "planner/results_file.h"
#include "planner/sweep.h"

namespace simrun {
namespace {

// More points than this are asked about first.
constexpr int64_t kManyPoints = 100'000;

bool ReadShard(const std::string& text, int* shard, int* shards) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return false;
  const absl::StatusOr<int64_t> i = ParseInteger(text.substr(0, slash)), n = ParseInteger(text.substr(slash + 1));
  if (!i.ok() || !n.ok() || *n < 1 || *n > 1'000'000 || *i < 1 || *i > *n) return false;
  *shard = static_cast<int>(*i);
  *shards = static_cast<int>(*n);
  return true;
}

}  // namespace

int SweepCommand(const SweepCommandOptions& options, Terminal terminal, planner::Team* team) {
  planner::SweepOptions sweep;
  if (!options.shard.empty() && !ReadShard(options.shard, &sweep.shard, &sweep.shards)) {
    return FailWith(kBadInput, fmt::format("--shard: \"{}\" is not i/n with i from 1 to n; write for example --shard 2/8", options.shard), terminal.err);
  }
  if (options.threads < 0 || options.threads > 4096) {
    return FailWith(kBadInput, fmt::format("--threads: {} is out of range; must be 1 to 4096", options.threads), terminal.err);
  }
  sweep.threads = ThreadsOf(options.threads, team);
  sweep.team = team;
  if (!options.by.empty()) {
    const auto metric = planner::FindMetric(options.by);
    if (!metric.ok()) return FailWith(kBadInput, "--by: " + std::string(metric.status().message()), terminal.err);
    sweep.best_by = (*metric)->name;
  }
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const absl::StatusOr<planner::SweepSpec> spec = planner::SweepSpec::FromFile(options.sweep, *catalog);
  if (!spec.ok()) return Fail(spec.status(), terminal.err);

  sweep.results_file = options.db;
  if (sweep.results_file.empty()) sweep.results_file = std::filesystem::path(options.sweep).stem().string() + ".db";
  const std::string points = Plural(static_cast<double>(spec->size()), "point");
  if (options.dry_run) {
    terminal.out << points << "; settings that vary: ";
    for (size_t i = 0; i < spec->columns().size(); ++i) terminal.out << (i > 0 ? ", " : "") << spec->columns()[i];
    terminal.out << '\n';
    return kDone;
  }
  if (spec->size() > kManyPoints && !options.yes) {
    return FailWith(kBadInput, fmt::format("{}: gives {}; add --yes to run them all, or a `sampling` section to run fewer", options.sweep, points), terminal.err);
  }

  absl::StatusOr<planner::SweepResult> result;
  {
    const InterruptGuard guard;
    ProgressLine line(terminal.err, options.quiet);
    sweep.cancelled = &InterruptGuard::interrupted;
    sweep.on_progress = [&](const planner::SweepProgress& p) {
      std::string text = line.Text(p.done, p.found, p.total, p.elapsed_s, "points");
      if (p.best) text += fmt::format(", best {} {}", sweep.best_by, NumberText(*p.best));
      line.Show(text, p.elapsed_s);
    };
    sweep.on_remark = [&](const std::string& text) { terminal.err << "simrun: " << text << std::endl; };
    result = planner::Sweep(*spec, sweep);
  }
  if (!result.ok()) {
    Fail(result.status(), terminal.err);
    return result.status().code() == absl::StatusCode::kFailedPrecondition ? kBadInput : kRunFailed;
  }
  if (team != nullptr && team->rank() > 0) return kDone;
  const planner::SweepProgress& p = result->progress;
  if (!options.csv.empty()) {
    if (const absl::Status s = planner::ExportCsv(sweep.results_file, options.csv); !s.ok()) return Fail(s, terminal.err);
  }
  if (result->cancelled) {
    return FailWith(kRunFailed, fmt::format("stopped: {} of {} are in {}; run the same command again to go on", CountText(static_cast<double>(p.done)),
                                            Plural(static_cast<double>(p.total), "point"), sweep.results_file), terminal.err);
  }
  const int64_t ran = p.done - p.found;
  terminal.out << fmt::format("{}: {}", sweep.results_file, Plural(static_cast<double>(p.total), "point"));
  if (p.found > 0) terminal.out << fmt::format(", {} found finished", CountText(static_cast<double>(p.found)));
  if (p.invalid > 0) terminal.out << fmt::format(", {} impossible", CountText(static_cast<double>(p.invalid)));
  if (p.failed > 0) terminal.out << fmt::format(", {} failed", CountText(static_cast<double>(p.failed)));
  if (ran > 0) terminal.out << fmt::format("; {} in {}", Plural(static_cast<double>(ran), "run"), DurationText(p.elapsed_s));
  terminal.out << '\n';
  if (!result->first_message.empty() && !options.quiet) {
    terminal.err << fmt::format("simrun: the first without a result: {}\n", result->first_message);
  }
  if (!sweep.best_by.empty()) {
    const auto best = planner::BestResults(sweep.results_file, sweep.best_by, 5);
    if (!best.ok()) return Fail(best.status(), terminal.err);
    terminal.out << ResultsText(*best);
  }
  return ran > 0 && p.invalid + p.failed == ran && p.found == 0 ? kRunFailed : kDone;
}

int MergeCommand(const MergeOptions& options, Terminal terminal) {
  const std::string& out = options.files.front();
  const absl::Status merged = planner::MergeResults(out, {options.files.begin() + 1, options.files.end()});
  if (!merged.ok()) {
    Fail(merged, terminal.err);
    return merged.code() == absl::StatusCode::kResourceExhausted ? kRunFailed : kBadInput;
  }
  const auto info = planner::InspectResults(out);
  if (!info.ok()) return Fail(info.status(), terminal.err);
  terminal.out << fmt::format("{}: {} of {}\n", out, CountText(static_cast<double>(info->done + info->invalid + info->failed)),
                              Plural(static_cast<double>(info->points), "point"));
  return kDone;
}

}  // namespace simrun
