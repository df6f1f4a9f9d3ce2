#include "base/status.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include <fmt/format.h>

namespace simrun {

namespace internal {
void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "simrun: internal error: %s does not hold at %s:%d\n", condition, file, line);
  std::abort();
}
}  // namespace internal

void Problems::Add(const SourceLocation& where, std::string_view path, std::string_view what, std::string_view hint) {
  std::string line;
  if (!where.file.empty()) {
    line = where.line > 0 ? fmt::format("{}:{}:{}: ", where.file, where.line, where.column)
                          : fmt::format("{}: ", where.file);
  }
  if (!path.empty()) line += fmt::format("{}: ", path);
  line += what;
  if (!hint.empty()) line += fmt::format("; {}", hint);
  lines_.push_back(std::move(line));
  order_.push_back({where.line, where.column});
}

absl::Status Problems::ToStatus() const {
  if (lines_.empty()) return absl::OkStatus();
  std::vector<size_t> index(lines_.size());
  std::iota(index.begin(), index.end(), size_t{0});
  std::stable_sort(index.begin(), index.end(), [&](size_t a, size_t b) {
    return std::pair(order_[a].line, order_[a].column) < std::pair(order_[b].line, order_[b].column);
  });
  std::string text;
  for (size_t i : index) {
    if (!text.empty()) text += '\n';
    text += lines_[i];
  }
  return absl::InvalidArgumentError(text);
}

namespace {
// Optimal string alignment distance: insertions, deletions, substitutions, adjacent swaps.
int EditDistance(std::string_view a, std::string_view b) {
  const size_t n = a.size(), m = b.size();
  std::vector<int> two(m + 1), one(m + 1), row(m + 1);
  std::iota(one.begin(), one.end(), 0);
  for (size_t i = 1; i <= n; ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= m; ++j) {
      const int substitution = one[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({one[j] + 1, row[j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], two[j - 2] + 1);
    }
    two.swap(one);
    one.swap(row);
  }
  return one[m];
}
}  // namespace

std::string NearestName(std::string_view name, const std::vector<std::string>& candidates) {
  if (name.empty() || name.size() > 200) return "";
  std::string best;
  int best_distance = 1 << 20;
  for (const std::string& c : candidates) {
    const int d = EditDistance(name, c);
    if (d < best_distance) {
      best_distance = d;
      best = c;
    }
  }
  const int limit = std::max<int>(2, static_cast<int>(name.size()) / 3);
  if (best_distance <= limit) return best;
  // A cut-short name ("h100" for "h100-sxm-80gb") is as likely as a typo.
  for (const std::string& c : candidates) {
    if (name.size() >= 3 && c.find(name) != std::string::npos) return c;
  }
  return "";
}

std::string NameHint(std::string_view name, const std::vector<std::string>& candidates) {
  if (const std::string near = NearestName(name, candidates); !near.empty()) {
    return fmt::format("did you mean \"{}\"?", near);
  }
  if (candidates.empty()) return "";
  std::string text = "one of: ";
  for (size_t i = 0; i < candidates.size() && i < 12; ++i) {
    if (i > 0) text += ", ";
    text += candidates[i];
  }
  if (candidates.size() > 12) text += ", ...";
  return text;
}

}  // namespace simrun
