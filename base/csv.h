// Small CSV tables, read whole: a header line, comma separators, optional double quotes. Traces have their own
// streaming reader (workload/trace_reader.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace simrun {

class CsvTable {
 public:
  // `file` is the name used in messages. InvalidArgument "file:line: what; hint" for a row with another number of
  // fields than the header, an open quote, a duplicate column, or no header.
  static absl::StatusOr<CsvTable> Parse(std::string_view text, std::string_view file);
  // Reads a file of at most 256 MiB.
  static absl::StatusOr<CsvTable> Read(const std::string& path);

  const std::string& file() const { return file_; }
  const std::vector<std::string>& columns() const { return columns_; }
  size_t rows() const { return cells_.size() / columns_.size(); }
  // Index of a column, or nothing.
  std::optional<size_t> Column(std::string_view name) const;
  const std::string& Cell(size_t row, size_t column) const { return cells_[row * columns_.size() + column]; }
  // 1-based line of the file on which a row starts.
  int Line(size_t row) const { return lines_[row]; }

 private:
  std::string file_;
  std::vector<std::string> columns_;
  std::vector<std::string> cells_;
  std::vector<int> lines_;
};

// `text` as one CSV field: quoted when it holds a comma, a quote or a line break.
std::string CsvField(std::string_view text);

}  // namespace simrun
