#include "calibration/accuracy_page.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "absl/strings/str_split.h"
#include "base/status.h"
#include "calibration/prediction_errors.h"
#include "hw/cost/operator_params.h"
#include "hw/engine_profile.h"

namespace simrun {
namespace {

std::string Percent(double x) { return fmt::format("{:.1f}", 100 * x); }
std::string Percent(const std::optional<double>& x) { return x ? Percent(*x) : "-"; }
std::string Signed(double x) { return fmt::format("{:+.1f}", 100 * x); }

bool IsEnergy(const LedgerRow& r) { return IsEnergyMetric(r.metric); }

// A cell must not end the table's column.
std::string Cell(std::string text) {
  std::replace(text.begin(), text.end(), '|', '/');
  return text;
}

std::string TableRow(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& c : cells) line += fmt::format(" {} |", Cell(c));
  return line + "\n";
}

// Text columns, then `numbers` right-aligned ones.
std::string TableHead(const std::vector<std::string>& text, const std::vector<std::string>& numbers) {
  std::vector<std::string> all = text;
  all.insert(all.end(), numbers.begin(), numbers.end());
  std::string line = TableRow(all) + "|";
  for (size_t i = 0; i < text.size(); ++i) line += "---|";
  for (size_t i = 0; i < numbers.size(); ++i) line += "---:|";
  return line + "\n";
}

const std::vector<std::string>& ErrorColumns() {
  static const std::vector<std::string>* const columns =
      new std::vector<std::string>{"values", "median %", "p90 %", "bias %", "unseen values", "unseen median %", "roofline %"};
  return *columns;
}

std::vector<std::string> ErrorCells(const ErrorSummary& s) {
  return {fmt::format("{}", s.rows), Percent(s.median), Percent(s.p90), Signed(s.bias), fmt::format("{}", s.unseen),
          Percent(s.unseen_median), Percent(s.baseline_median)};
}

// Groups whose name is several cells joined by '|'.
std::string ErrorTable(const std::vector<LedgerRow>& rows, const std::vector<std::string>& names,
                       const std::function<std::string(const LedgerRow&)>& key) {
  std::string text = TableHead(names, ErrorColumns());
  for (const ErrorSummary& s : Summarize(rows, key)) {
    if (s.rows == 0) continue;
    std::vector<std::string> cells = absl::StrSplit(s.group, '|');
    for (std::string& c : ErrorCells(s)) cells.push_back(std::move(c));
    text += TableRow(cells);
  }
  return text;
}

std::string OrderTable(const std::vector<MeasuredCase>& cases, const std::vector<LedgerRow>& rows) {
  struct Pool {
    int64_t groups = 0, good = 0, pairs = 0, concordant = 0;
  };
  std::map<std::string, Pool> pools;
  std::map<std::string, const MeasuredCase*> case_of;
  for (const MeasuredCase& c : cases) {
    if (const auto group = c.Note("plan_group")) case_of.emplace(*group, &c);
  }
  for (const PlanOrder& o : PlanOrders(cases, rows)) {
    const MeasuredCase& c = *case_of.at(o.group);
    Pool& p = pools[fmt::format("{} {}|{}|{}", c.engine, c.engine_version, c.gpu, o.metric)];
    ++p.groups;
    p.good += o.tau() >= 0.9;
    p.pairs += o.pairs;
    p.concordant += o.concordant;
  }
  std::string text = TableHead({"engine", "GPU", "metric"}, {"groups", "pairs", "tau over all pairs", "groups with tau >= 0.9, %"});
  for (const auto& [name, p] : pools) {
    std::vector<std::string> cells = absl::StrSplit(name, '|');
    cells.push_back(fmt::format("{}", p.groups));
    cells.push_back(fmt::format("{}", p.pairs));
    cells.push_back(fmt::format("{:.2f}", static_cast<double>(2 * p.concordant - p.pairs) / static_cast<double>(p.pairs)));
    cells.push_back(Percent(static_cast<double>(p.good) / static_cast<double>(p.groups)));
    text += TableRow(cells);
  }
  return text;
}

std::string CoverageTable(const std::vector<LedgerRow>& rows) {
  std::string text = TableHead({"metric", "load"}, {"values", "held, new model %", "held, new engine %", "width"});
  for (const IntervalCoverage& c : CoverageOf(rows)) {
    text += TableRow({c.metric, c.load.empty() ? "all" : c.load, fmt::format("{}", c.values), Percent(c.new_model), Percent(c.new_engine),
                      fmt::format("{:.2f}", c.width)});
  }
  return text;
}

absl::StatusOr<std::string> OperatorTable(const Catalog& catalog) {
  std::string text = TableHead({"device", "operator", "format", "kernels"},
                               {"rows", "mean %", "median %", "p90 %", "new shapes %"});
  for (const std::string& name : catalog.Names("operators")) {
    SIMRUN_ASSIGN_OR_RETURN(const OperatorParamSet set, LoadOperatorParams(name, catalog));
    for (const OperatorParams& p : set.entries) {
      if (p.device != name || p.mape <= 0) continue;
      const auto stated = [](double x) { return x > 0 ? fmt::format("{:.1f}", x) : std::string("-"); };
      text += TableRow({name, p.op, p.dtype.empty() ? "any" : p.dtype, p.backend.empty() ? "any" : p.backend,
                        p.rows > 0 ? fmt::format("{}", p.rows) : "-", stated(p.mape), stated(p.median_ape), stated(p.p90_ape),
                        stated(p.new_shape_mape)});
    }
  }
  return text;
}

std::string Selector(const EngineFit& f) {
  std::string text = f.version.empty() ? "any version" : f.version == "unstated" ? "version not stated" : fmt::format("version {}*", f.version);
  for (const std::string* part : {&f.gpu, &f.model, &f.load, &f.metric}) {
    if (!part->empty()) text += fmt::format(", {}", *part);
  }
  return text;
}

absl::StatusOr<std::string> FittedTable(const Catalog& catalog) {
  std::string text = TableHead({"profile", "fitted on", "fitted numbers", "taken over or assumed"}, {});
  for (const std::string& name : catalog.Names("engines")) {
    SIMRUN_ASSIGN_OR_RETURN(const EngineProfile profile, LoadEngineProfile(name, catalog));
    if (profile.engine.empty()) continue;
    std::string on, fitted, other;
    for (const EngineFit& f : profile.fitted_on) on += fmt::format("{}{}", on.empty() ? "" : "; ", Selector(f));
    for (const EngineSource& s : profile.sources) {
      std::string& list = s.provenance == "calibrated" ? fitted : other;
      if (!list.empty()) list.append(", ");
      list += s.provenance == "calibrated" ? s.of : fmt::format("{} ({})", s.of, s.provenance);
    }
    const auto dash = [](const std::string& t) { return t.empty() ? std::string("-") : t; };
    text += TableRow({name, dash(on), dash(fitted), dash(other)});
  }
  return text;
}

// Cells measured under several versions of one engine: everything else equal.
std::string VersionSpread(const std::vector<MeasuredCase>& cases) {
  std::map<std::string, std::map<std::string, double>> cells;
  for (const MeasuredCase& c : cases) {
    if (c.engine_version.empty()) continue;
    for (const MeasuredValue& v : c.values) {
      cells[fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {}|{} on {}", c.model, c.weights_dtype, c.kv_dtype, c.tp, c.pp, c.ep, c.dp, c.load_kind, c.load_value,
                        c.isl.value_or(0), c.osl.value_or(0), c.trace, v.metric, v.statistic, c.engine, c.gpu)][c.engine_version] = v.value;
    }
  }
  std::map<std::string, std::vector<double>> changes;
  for (const auto& [key, versions] : cells) {
    for (auto it = versions.begin(); it != versions.end() && std::next(it) != versions.end(); ++it) {
      changes[key.substr(key.find('|') + 1)].push_back(std::next(it)->second / it->second - 1);
    }
  }
  if (changes.empty()) return "No cell was measured with two versions.\n";
  std::string text = TableHead({"engine and GPU"}, {"pairs of successive versions", "lowest %", "p10 %", "median %", "p90 %", "highest %"});
  for (const auto& [name, c] : changes) {
    text += TableRow({name, fmt::format("{}", c.size()), Signed(QuantileOf(c, 0)), Signed(QuantileOf(c, 0.1)), Signed(QuantileOf(c, 0.5)),
                      Signed(QuantileOf(c, 0.9)), Signed(QuantileOf(c, 1))});
  }
  return text;
}

std::string ProvenanceTable(const std::vector<LedgerRow>& rows) {
  std::string text = TableHead({"least certain part of the prediction"}, {"values", "median %", "p90 %", "bias %"});
  for (const ErrorSummary& s : Summarize(rows, [](const LedgerRow& r) { return r.provenance; })) {
    if (s.rows > 0) text += TableRow({s.group, fmt::format("{}", s.rows), Percent(s.median), Percent(s.p90), Signed(s.bias)});
  }
  const auto extrapolated = Summarize(rows, [](const LedgerRow& r) {
    return r.warnings.find("extrapolated") != std::string::npos ? std::string("any, with sizes beyond the measured range") : std::string();
  });
  for (const ErrorSummary& s : extrapolated) {
    if (s.rows > 0) text += TableRow({s.group, fmt::format("{}", s.rows), Percent(s.median), Percent(s.p90), Signed(s.bias)});
  }
  return text;
}

std::string WorstTable(const std::vector<LedgerRow>& rows) {
  std::string text = TableHead({"class", "metric", "case", "model", "GPU", "engine"}, {"measured", "predicted", "error %"});
  for (const ErrorSummary& s : Summarize(rows, [](const LedgerRow& r) { return r.class_name + "|" + r.metric; })) {
    for (const size_t i : s.worst) {
      const LedgerRow& r = rows[i];
      text += TableRow({r.class_name, r.metric + " " + r.statistic, r.case_id, r.model, r.gpu, r.engine, fmt::format("{:.3g}", r.measured),
                        fmt::format("{:.3g}", *r.predicted), fmt::format("{:+.0f}", 100 * *r.error())});
    }
  }
  return text;
}

std::string MissingList(const std::vector<LedgerRow>& rows) {
  std::map<std::string, int> reasons;
  for (const LedgerRow& r : rows) {
    if (!r.predicted) ++reasons[r.warnings];
  }
  if (reasons.empty()) return "None: every case is expressed.\n";
  std::string text;
  for (const auto& [reason, count] : reasons) text += fmt::format("- {} values: {}\n", count, reason);
  return text;
}

// One line of a table: its cells, outer blanks removed. Empty for any other line.
std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells;
  if (line.size() < 3 || line[0] != '|') return cells;
  for (std::string cell : std::vector<std::string>(absl::StrSplit(line.substr(1, line.size() - 2), '|'))) {
    const size_t begin = cell.find_first_not_of(' ');
    cells.push_back(begin == std::string::npos ? "" : cell.substr(begin, cell.find_last_not_of(' ') - begin + 1));
  }
  return cells;
}

// Figures of every table with error columns: "section | cell | cell" and column to text.
std::map<std::string, std::map<std::string, std::string>> ErrorFigures(const std::string& page) {
  std::map<std::string, std::map<std::string, std::string>> figures;
  std::string section;
  std::vector<std::string> head;
  size_t names = 0;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(page, '\n'))) {
    if (line.rfind("## ", 0) == 0) section = line.substr(3);
    const std::vector<std::string> cells = Cells(line);
    if (cells.empty()) {
      head.clear();
      continue;
    }
    if (head.empty()) {
      head = cells;
      names = static_cast<size_t>(std::find(head.begin(), head.end(), "values") - head.begin());
      if (names == head.size()) names = 0;
      continue;
    }
    if (names == 0 || cells.size() != head.size() || cells[0].rfind("---", 0) == 0) continue;
    std::string name = section;
    for (size_t i = 0; i < names; ++i) name += fmt::format(" | {}", cells[i]);
    for (size_t i = names; i < cells.size(); ++i) figures[name][head[i]] = cells[i];
  }
  return figures;
}

bool IsNumberChar(char c) { return (c >= '0' && c <= '9') || c == '.'; }

// Numbers within one unit of the last digit written; everything else equal.
bool SameLine(const std::string& a, const std::string& b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (IsNumberChar(a[i]) && IsNumberChar(b[j])) {
      size_t ie = i, je = j;
      while (ie < a.size() && IsNumberChar(a[ie])) ++ie;
      while (je < b.size() && IsNumberChar(b[je])) ++je;
      const std::string x = a.substr(i, ie - i), y = b.substr(j, je - j);
      if (x != y) {
        const size_t dot = x.find('.');
        const double unit = dot == std::string::npos ? 0 : std::pow(10, -static_cast<double>(x.size() - dot - 1));
        if (std::abs(std::strtod(x.c_str(), nullptr) - std::strtod(y.c_str(), nullptr)) > 1.01 * unit) return false;
      }
      i = ie;
      j = je;
    } else if (a[i] != b[j]) {
      // A figure that rounds to zero may lose its sign.
      if (!((a[i] == '+' && b[j] == '-') || (a[i] == '-' && b[j] == '+')) || a.compare(i + 1, 3, "0.0") != 0) return false;
      ++i;
      ++j;
    } else {
      ++i;
      ++j;
    }
  }
  return i == a.size() && j == b.size();
}

}  // namespace

double PlanOrder::tau() const { return static_cast<double>(2 * concordant - pairs) / static_cast<double>(pairs); }

std::vector<PlanOrder> PlanOrders(const std::vector<MeasuredCase>& cases, const std::vector<LedgerRow>& rows) {
  struct Member {
    std::string plan;
    double measured, predicted, spread;
  };
  std::map<std::pair<std::string, std::string>, std::vector<Member>> groups;
  size_t value = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    value = i > 0 && rows[i - 1].case_index == rows[i].case_index ? value + 1 : 0;
    const LedgerRow& r = rows[i];
    const MeasuredCase& c = cases[r.case_index];
    const std::optional<std::string> group = c.Note("plan_group");
    // Power says nothing about which plan is better.
    if (!group || !r.predicted || IsEnergy(r)) continue;
    double spread = 0;
    for (const char* key : {"rel_spread", "rel_std"}) {
      const auto it = c.values[value].notes.find(key);
      if (it != c.values[value].notes.end()) spread = std::max(spread, std::strtod(it->second.c_str(), nullptr));
    }
    groups[{*group, r.metric}].push_back({fmt::format("{} {} {} {} {}", c.n_gpus, c.tp, c.pp, c.ep, c.dp), r.measured, *r.predicted, spread});
  }
  std::vector<PlanOrder> orders;
  for (const auto& [key, members] : groups) {
    PlanOrder order{key.first, key.second, 0, 0};
    for (size_t a = 0; a < members.size(); ++a) {
      for (size_t b = a + 1; b < members.size(); ++b) {
        const Member &x = members[a], &y = members[b];
        if (x.plan == y.plan || std::abs(std::log(x.measured / y.measured)) <= std::max(x.spread, y.spread)) continue;
        ++order.pairs;
        order.concordant += (x.measured < y.measured) == (x.predicted < y.predicted);
      }
    }
    if (order.pairs > 0) orders.push_back(std::move(order));
  }
  return orders;
}

absl::StatusOr<std::string> AccuracyPage(const std::vector<MeasuredCase>& cases, const std::vector<LedgerRow>& rows,
                                         const std::shared_ptr<const Catalog>& catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const std::string operators, OperatorTable(*catalog));
  SIMRUN_ASSIGN_OR_RETURN(const std::string fitted, FittedTable(*catalog));
  size_t predicted = 0;
  for (const LedgerRow& r : rows) predicted += r.predicted.has_value();
  std::string page = fmt::format(
      "# Accuracy\n\n"
      "Written by `simrun validate CASES.csv... --page docs/accuracy.md`; never edited. `simrun validate CASES.csv... --check\n"
      "docs/accuracy.md` runs everything again and fails when this page is out of date or an error grew by more than 5 % of\n"
      "itself.\n\n"
      "{} measured runs with {} values, {} of them predicted. Errors are |predicted / measured - 1| in per cent; bias is the\n"
      "median of the signed error. *Unseen* values are those that no number of the engine profile was fitted to.\n"
      "*Roofline* is the median error of FLOPs over the peak and bytes over the bandwidth alone.\n\n",
      cases.size(), rows.size(), predicted);
  page += "## Serving, by class\n\n<!-- begin summary -->\n";
  page += ErrorTable(rows, {"class", "metric"}, [](const LedgerRow& r) { return IsEnergy(r) ? std::string() : r.class_name + "|" + r.metric; });
  page += "<!-- end summary -->\n\n## Serving, by engine and GPU\n\n";
  page += ErrorTable(rows, {"class", "engine", "GPU", "metric"}, [](const LedgerRow& r) {
    return IsEnergy(r) ? std::string() : r.class_name + "|" + r.engine + "|" + r.gpu + "|" + r.metric;
  });
  page += "\n## Energy\n\nPower is that of the GPU boards.\n\n";
  page += ErrorTable(rows, {"metric", "engine", "GPU"}, [](const LedgerRow& r) {
    return IsEnergy(r) ? r.metric + "|" + r.engine + "|" + r.gpu : std::string();
  });
  page += "\n## Order of plans\n\n"
          "Kendall's tau between the measured and the predicted order of parallel plans that differ in nothing else. Pairs whose\n"
          "measured values differ by no more than their repeat spread are left out.\n\n";
  page += OrderTable(cases, rows);
  page += fmt::format(
      "\n## Prediction intervals\n\n"
      "A report's intervals are meant to hold {:.0f} % of measured values. Here each measured value is compared with an interval made\n"
      "without its own kind: *new model*: no run of that model with that engine version on that GPU was seen; *new engine*: no\n"
      "run with that engine version on that GPU. Width: high over low.\n\n", 100 * kIntervalLevel);
  page += CoverageTable(rows);
  page += "\n## Operators\n\n"
          "Errors of the fits on measured rows they had not seen, as the catalogue states them; `simrun validate --ops` compares\n"
          "rows with them. New shapes: weight or head shapes the fit had not seen.\n\n";
  page += operators;
  page += "\n## What was fitted on what\n\n"
          "Operators are fitted to kernel measurements, never to serving runs. The numbers of an engine profile come from:\n\n";
  page += fitted;
  page += "\n## What is extrapolated\n\n";
  page += ProvenanceTable(rows);
  page += "\n## How far the real systems differ from themselves\n\n"
          "The same run measured with two successive versions of one engine: change of the value from the older to the newer.\n\n";
  page += VersionSpread(cases);
  page += "\n## Worst cases\n\n";
  page += WorstTable(rows);
  page += "\n## Not expressed\n\n";
  page += MissingList(rows);
  return page;
}

PageCheck CheckAccuracyPage(const std::string& committed, const std::string& fresh) {
  PageCheck check;
  const auto before = ErrorFigures(committed);
  for (const auto& [name, figures] : ErrorFigures(fresh)) {
    const auto old = before.find(name);
    if (old == before.end()) continue;
    for (const char* column : {"median %", "p90 %", "unseen median %"}) {
      const auto now = figures.find(column), then = old->second.find(column);
      if (now == figures.end() || then == old->second.end()) continue;
      const double a = std::strtod(then->second.c_str(), nullptr), b = std::strtod(now->second.c_str(), nullptr);
      if (b > a * 1.05 + 0.051) check.worse.push_back(fmt::format("{}: {} {} -> {}", name, column, then->second, now->second));
    }
  }
  const std::vector<std::string> a = absl::StrSplit(committed, '\n'), b = absl::StrSplit(fresh, '\n');
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    if (i < a.size() && i < b.size() && SameLine(a[i], b[i])) continue;
    check.differing.push_back(i < a.size() ? a[i] : b[i]);
  }
  return check;
}

}  // namespace simrun
