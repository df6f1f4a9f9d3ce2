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

std::string Plural(double count, std::string_view noun, std::string_view plural) {
  if (count == 1) return fmt::format("1 {}", noun);
  return plural.empty() ? fmt::format("{} {}s", CountText(count), noun) : fmt::format("{} {}", CountText(count), plural);
}

namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// The words of a text, a number and the unit after it being one word.
std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  for (size_t from = 0; from < text.size();) {
    const size_t to = std::min(text.find(' ', from), text.size());
    const std::string_view word = text.substr(from, to - from);
    from = to + 1;
    if (word.empty()) continue;
    const bool is_unit = IsLetter(word[0]) || word[0] == '%';
    if (is_unit && !words.empty() && IsDigit(words.back().back())) {
      words.back() += ' ';
      words.back() += word;
    } else {
      words.emplace_back(word);
    }
  }
  return words;
}

}  // namespace

std::string LabelledText(std::string_view label, size_t indent, std::string_view text) {
  std::string out(label);
  size_t column = label.size();
  bool at_start = true;
  for (const std::string& word : Words(text)) {
    if (!at_start && column + 1 + word.size() > kTextWidth) {
      out += '\n';
      column = 0;
      at_start = true;
    }
    if (!at_start) {
      out += ' ';
      ++column;
    } else if (column < indent) {
      out.append(indent - column, ' ');
      column = indent;
    }
    out += word;
    column += word.size();
    at_start = false;
  }
  out += '\n';
  return out;
}

std::string TextTable::ToText(std::string_view indent) const {
  constexpr size_t kWidest = 44;
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      if (row[i].size() <= kWidest) widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line(indent);
    for (size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += "  ";
      const std::string pad(row[i].size() < widths[i] ? widths[i] - row[i].size() : 0, ' ');
      const bool right = alignment_[std::min(i, alignment_.size() - 1)] == 'r';
      line += right ? pad + row[i] : row[i] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

}  // namespace simrun
