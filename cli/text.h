// Numbers and tables for people: fixed-width text without colour.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace simrun {

inline constexpr size_t kTextWidth = 80;

// "1,234,567".
std::string CountText(double count);
// Three significant digits without exponent below a million: "0.0123", "12.3", "1,230", "12.3 M".
std::string NumberText(double value);
// "87.3 %" of a fraction.
std::string PercentText(double fraction);
// "1 request", "2 requests"; `plural` for nouns that take more than an s.
std::string Plural(double count, std::string_view noun, std::string_view plural = {});

// A label, then text wrapped between words to kTextWidth; lines after the first start at column `indent`. A number stays
// with its unit. Ends with a newline.
std::string LabelledText(std::string_view label, size_t indent, std::string_view text);

// Columns padded to their widest cell. `alignment` has one letter per column, l or r; the last one holds for the rest.
// A cell of more than 44 characters does not widen its column; the rest of its row moves to the right.
class TextTable {
 public:
  explicit TextTable(std::string_view alignment) : alignment_(alignment) {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Each line starts with `indent` and ends without trailing blanks.
  std::string ToText(std::string_view indent = "") const;

 private:
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace simrun
