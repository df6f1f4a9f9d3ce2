#include "cli/text.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace simrun {

std::string CountText(double count) {
  const std::string digits = fmt::format("{:.0f}", count);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    const size_t left = digits.size() - i;
    if (i > 0 && left % 3 == 0 && digits[i - 1] != '-') out += ',';
    out += digits[i];
  }
  return out;
}

std::string NumberText(double value) {
  const double size = std::fabs(value);
  if (size == 0) return "0";
  if (size >= 999.5e6) return fmt::format("{:.3g} G", value / 1e9);
  if (size >= 999.5e3) return fmt::format("{:.3g} M", value / 1e6);
  if (size >= 999.5) {
    const double step = std::pow(10.0, std::floor(std::log10(size)) - 2);
    return CountText(std::round(value / step) * step);
  }
  return fmt::format("{:.3g}", value);
}

std::string PercentText(double fraction) {
  const double percent = fraction * 100;
  if (percent != 0 && std::fabs(percent) < 0.05) return percent > 0 ? "< 0.1 %" : "0 %";
  return fmt::format("{:.1f} %", percent);
}

std::string Plural(double count, std::string_view noun) {
  return fmt::format("{} {}{}", CountText(count), noun, count == 1 ? "" : "s");
}

std::string LabelledText(std::string_view label, size_t indent, std::string_view text) {
  std::string out(label);
  size_t column = label.size();
  bool at_start = true;
  for (size_t from = 0; from < text.size();) {
    const size_t to = std::min(text.find(' ', from), text.size());
    const std::string_view word = text.substr(from, to - from);
    from = to + 1;
    if (word.empty()) continue;
    if (!at_start && column + 1 + word.size() > kTextWidth) {
      out += '\n';
      column = 0;
      at_start = true;
    }
    if (at_start) {
      if (column < indent) out.append(indent - column, ' ');
      column = std::max(column, indent);
    } else {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    at_start = false;
  }
  out += '\n';
  return out;
}

std::string TextTable::ToText(std::string_view indent) const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line(indent);
    for (size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += "  ";
      line += i < left_ ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("{:>{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

}  // namespace simrun
