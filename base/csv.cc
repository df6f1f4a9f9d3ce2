#include "base/csv.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/status.h"
#include "base/yaml.h"

namespace simrun {

absl::StatusOr<CsvTable> CsvTable::Read(const std::string& path) {
  SIMRUN_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, size_t{256} << 20));
  return Parse(text, path);
}

absl::StatusOr<CsvTable> CsvTable::Parse(std::string_view text, std::string_view file) {
  CsvTable table;
  table.file_ = std::string(file);
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);
  const auto fail = [&](int line, std::string what) {
    return absl::InvalidArgumentError(fmt::format("{}:{}: {}", file, line, what));
  };
  std::vector<std::string> row;
  int line = 1;
  size_t at = 0;
  while (at < text.size()) {
    row.clear();
    const int first_line = line;
    bool end_of_row = false;
    while (!end_of_row) {
      std::string field;
      if (at < text.size() && text[at] == '"') {
        ++at;
        while (true) {
          if (at >= text.size()) return fail(first_line, "a quote is not closed; add the missing \"");
          if (text[at] == '"' && at + 1 < text.size() && text[at + 1] == '"') {
            field += '"';
            at += 2;
          } else if (text[at] == '"') {
            ++at;
            break;
          } else {
            if (text[at] == '\n') ++line;
            field += text[at++];
          }
        }
      } else {
        const size_t stop = std::min(text.find_first_of(",\n", at), text.size());
        field = std::string(text.substr(at, stop - at));
        at = stop;
        if (!field.empty() && field.back() == '\r' && (at >= text.size() || text[at] == '\n')) field.pop_back();
      }
      row.push_back(std::move(field));
      if (at < text.size() && text[at] == '\r' && at + 1 < text.size() && text[at + 1] == '\n') ++at;
      if (at >= text.size()) {
        end_of_row = true;
      } else if (text[at] == '\n') {
        ++at;
        ++line;
        end_of_row = true;
      } else if (text[at] == ',') {
        ++at;
      } else {
        return fail(line, "text follows a closing quote; separate fields with a comma");
      }
    }
    if (row.size() == 1 && row[0].empty()) continue;  // blank line
    if (table.columns_.empty()) {
      for (size_t i = 0; i < row.size(); ++i) {
        if (std::find(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(i), row[i]) != row.begin() + static_cast<std::ptrdiff_t>(i)) {
          return fail(first_line, fmt::format("column \"{}\" stands twice in the header", row[i]));
        }
      }
      table.columns_ = row;
      continue;
    }
    if (row.size() != table.columns_.size()) {
      return fail(first_line, fmt::format("has {} fields but the header has {}", row.size(), table.columns_.size()));
    }
    table.lines_.push_back(first_line);
    for (std::string& field : row) table.cells_.push_back(std::move(field));
  }
  if (table.columns_.empty()) return fail(1, "is empty; a header line with column names is needed");
  return table;
}

std::optional<size_t> CsvTable::Column(std::string_view name) const {
  const auto it = std::find(columns_.begin(), columns_.end(), name);
  if (it == columns_.end()) return std::nullopt;
  return static_cast<size_t>(it - columns_.begin());
}

std::string CsvField(std::string_view text) {
  if (text.find_first_of(",\"\n\r") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace simrun
