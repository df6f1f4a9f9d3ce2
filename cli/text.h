// Numbers and tables for people: fixed-width text without colour.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace simrun {

inline constexpr size_t kTextWidth = 80;

// "1,234,567".
std::string CountText(double count);
// Three significant digits without exponent below a million: "0.0123", "12.3", "1,230", "12.3 M".
std::string NumberText(double value);
// "87.3 %" of a fraction.
std::string PercentText(double fraction);
// "1 request", "2 requests".
std::string Plural(double count, std::string_view noun);

// A label, then text wrapped between words to kTextWidth, following lines indented like the first. Ends with a newline.
std::string LabelledText(std::string_view label, size_t indent, std::string_view text);

// Columns padded to the widest cell; the first `left` columns are aligned left, the others right.
class TextTable {
 public:
  explicit TextTable(size_t left = 1) : left_(left) {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Each line starts with `indent` and ends without trailing blanks.
  std::string ToText(std::string_view indent = "") const;

 private:
  size_t left_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace simrun
