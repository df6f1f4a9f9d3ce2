#include "calibration/cases.h"

#include <fmt/format.h>

#include "base/csv.h"
#include "base/quantity_text.h"
#include "base/status.h"

namespace simrun {
namespace {

std::map<std::string, std::string> ParseNotes(std::string_view text) {
  std::map<std::string, std::string> notes;
  text = text.substr(0, text.find('#'));
  while (!text.empty()) {
    const size_t end = text.find(';');
    const std::string_view pair = text.substr(0, end);
    if (const size_t equals = pair.find('='); equals != std::string_view::npos) {
      notes.emplace(std::string(pair.substr(0, equals)), std::string(pair.substr(equals + 1)));
    }
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return notes;
}

constexpr const char* kColumns[] = {"case_id", "class", "model", "weights_dtype", "kv_dtype", "engine", "engine_version",
                                    "gpu", "n_gpus", "tp", "pp", "ep", "dp", "load_kind", "load_value", "num_requests",
                                    "isl", "osl", "trace", "metric", "statistic", "value", "unit", "notes"};

}  // namespace

std::optional<std::string> MeasuredCase::Note(const std::string& key) const {
  if (const auto it = settings.find(key); it != settings.end()) return it->second;
  for (const MeasuredValue& v : values) {
    if (const auto it = v.notes.find(key); it != v.notes.end()) return it->second;
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<MeasuredCase>> ReadCases(const std::string& path) {
  SIMRUN_ASSIGN_OR_RETURN(const CsvTable table, CsvTable::Read(path));
  Problems problems;
  std::map<std::string, size_t> column;
  for (const char* name : kColumns) {
    const std::optional<size_t> index = table.Column(name);
    if (!index) problems.Add({path, 1, 1}, "", fmt::format("column \"{}\" is missing", name), NameHint(name, table.columns()));
    column[name] = index.value_or(0);
  }
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());

  std::vector<MeasuredCase> cases;
  std::map<std::string, size_t> by_id;
  for (size_t row = 0; row < table.rows(); ++row) {
    const SourceLocation where{path, table.Line(row), 1};
    const auto text = [&](const char* name) -> const std::string& { return table.Cell(row, column.at(name)); };
    const auto number = [&](const char* name) -> std::optional<double> {
      if (text(name).empty()) return std::nullopt;
      const absl::StatusOr<double> value = ParseNumber(text(name));
      if (!value.ok() || *value < 0) {
        problems.Add(where, name, fmt::format("\"{}\" is not a number of at least 0", text(name)));
        return std::nullopt;
      }
      return *value;
    };
    const auto count = [&](const char* name) {
      const double value = number(name).value_or(1);
      if (value < 1 || value > 1e6) problems.Add(where, name, fmt::format("\"{}\" is not a count from 1 to 1000000", text(name)));
      return static_cast<int>(value);
    };
    const std::string& id = text("case_id");
    if (id.empty()) problems.Add(where, "case_id", "is empty");
    MeasuredValue v;
    v.metric = text("metric");
    v.statistic = text("statistic");
    v.unit = text("unit");
    v.class_name = text("class");
    v.notes = ParseNotes(text("notes"));
    const std::optional<double> value = number("value");
    if (!value || *value <= 0) {
      problems.Add(where, "value", "a measured value must be greater than 0");
      continue;
    }
    v.value = *value;
    const auto [it, is_new] = by_id.emplace(id, cases.size());
    if (is_new) {
      MeasuredCase c;
      c.id = id;
      c.model = text("model");
      c.weights_dtype = text("weights_dtype");
      c.kv_dtype = text("kv_dtype");
      c.engine = text("engine");
      c.engine_version = text("engine_version");
      c.gpu = text("gpu");
      c.n_gpus = count("n_gpus");
      c.tp = count("tp");
      c.pp = count("pp");
      c.ep = count("ep");
      c.dp = count("dp");
      c.load_kind = text("load_kind");
      c.load_value = number("load_value").value_or(0);
      c.num_requests = number("num_requests");
      c.isl = number("isl");
      c.osl = number("osl");
      c.trace = text("trace");
      c.file = path;
      c.line = table.Line(row);
      cases.push_back(std::move(c));
    }
    MeasuredCase& c = cases[it->second];
    if (c.class_name.empty() && v.class_name != "energy") c.class_name = v.class_name;
    c.values.push_back(std::move(v));
  }
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  return cases;
}

absl::Status AddSettings(const std::string& path, std::vector<MeasuredCase>* cases) {
  SIMRUN_ASSIGN_OR_RETURN(const CsvTable table, CsvTable::Read(path));
  Problems problems;
  const std::optional<size_t> id = table.Column("case_id"), notes = table.Column("notes");
  if (!id) problems.Add({path, 1, 1}, "", "column \"case_id\" is missing", NameHint("case_id", table.columns()));
  if (!notes) problems.Add({path, 1, 1}, "", "column \"notes\" is missing", NameHint("notes", table.columns()));
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  for (size_t row = 0; row < table.rows(); ++row) {
    const std::map<std::string, std::string> settings = ParseNotes(table.Cell(row, *notes));
    if (settings.empty()) problems.Add({path, table.Line(row), 1}, "notes", "hold no key=value pair");
    for (MeasuredCase& c : *cases) {
      if (c.id == table.Cell(row, *id)) c.settings.insert(settings.begin(), settings.end());
    }
  }
  return problems.ToStatus();
}

}  // namespace simrun
