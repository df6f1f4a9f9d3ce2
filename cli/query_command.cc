#include "cli/query_command.h"

#include <charconv>

#include <fmt/format.h>

#include "cli/text.h"
#include "planner/metrics.h"

namespace simrun {
namespace {

// A number that is not whole, shortened.
std::string Short(const std::string& cell) {
  double value = 0;
  const auto [rest, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
  if (error != std::errc() || rest != cell.data() + cell.size() || cell.find_first_of(".e") == std::string::npos) return cell;
  return fmt::format("{:.4g}", value);
}

std::vector<std::string> SplitNames(const std::string& list) {
  std::vector<std::string> names;
  for (size_t from = 0; from <= list.size();) {
    const size_t to = std::min(list.find(',', from), list.size());
    if (to > from) names.push_back(list.substr(from, to - from));
    from = to + 1;
  }
  return names;
}

}  // namespace

std::string ResultsText(const planner::ResultsTable& table) {
  TextTable text("r");
  text.Add(table.columns);
  for (const std::vector<std::string>& row : table.rows) {
    std::vector<std::string> cells;
    for (const std::string& cell : row) cells.push_back(cell.empty() ? "-" : Short(cell));
    text.Add(std::move(cells));
  }
  return text.ToText();
}

int QueryCommand(const QueryOptions& options, Terminal terminal) {
  // Names first: a misspelt metric is the user's, whatever the file holds.
  const std::vector<std::string> front = SplitNames(options.pareto);
  std::vector<std::pair<const char*, std::string>> names;
  if (!options.by.empty()) names.emplace_back("--by", options.by);
  for (const std::string& name : front) names.emplace_back("--pareto", name);
  for (const auto& [option, name] : names) {
    if (const auto metric = planner::FindMetric(name); !metric.ok()) {
      return FailWith(kBadInput, fmt::format("{}: {}", option, std::string(metric.status().message())), terminal.err);
    }
  }
  if (options.top < 1) return FailWith(kBadInput, fmt::format("--top: {} is out of range; must be at least 1", options.top), terminal.err);
  if (!front.empty() && !options.by.empty()) return FailWith(kBadInput, "--by and --pareto: give one of the two", terminal.err);
  const auto info = planner::InspectResults(options.db);
  if (!info.ok()) {
    Fail(info.status(), terminal.err);
    return kBadInput;
  }
  if (!options.csv.empty()) {
    if (const absl::Status s = planner::ExportCsv(options.db, options.csv); !s.ok()) return Fail(s, terminal.err);
  }
  if (front.empty() && options.by.empty()) {
    terminal.out << fmt::format("{}: {} of {} done, {} impossible, {} failed\nsettings that vary:", options.db, CountText(static_cast<double>(info->done)),
                                Plural(static_cast<double>(info->points), "point"), info->invalid, info->failed);
    for (const std::string& s : info->settings) terminal.out << ' ' << s;
    terminal.out << "\nmetrics:";
    size_t column = 8;
    for (const planner::Metric& m : planner::Metrics()) {
      if (column + m.name.size() + 1 > kTextWidth) {
        terminal.out << "\n        ";
        column = 8;
      }
      terminal.out << ' ' << m.name;
      column += m.name.size() + 1;
    }
    terminal.out << '\n';
    return kDone;
  }
  const absl::StatusOr<planner::ResultsTable> table =
      front.empty() ? planner::BestResults(options.db, options.by, options.top) : planner::ParetoResults(options.db, front);
  if (!table.ok()) return Fail(table.status(), terminal.err);
  terminal.out << ResultsText(*table);
  return kDone;
}

}  // namespace simrun
