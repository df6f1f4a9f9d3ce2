#include "hw/cost/residual_trees.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/rng.h"
#include "base/status.h"

namespace simrun {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr int kMaxDepth = 8;
constexpr int kZeroLeaf = 31;   // the character of a zero leaf

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  size_t at = 0;
  while (at < text.size()) {
    const size_t start = text.find_first_not_of(" \t\r\n", at);
    if (start == std::string_view::npos) break;
    const size_t stop = std::min(text.find_first_of(" \t\r\n", start), text.size());
    words.push_back(text.substr(start, stop - start));
    at = stop;
  }
  return words;
}

bool Number(std::string_view word, double* value) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), *value);
  return error == std::errc() && end == word.data() + word.size() && std::isfinite(*value);
}

absl::Status Bad(std::string what) { return absl::InvalidArgumentError("residual trees: " + what); }

}  // namespace

double ResidualTrees::LeafScale(int code) { return Exp(-0.6931471805599453 / 128 * code); }

int ResidualTrees::LeafScaleCode(double largest) {
  if (largest <= 0) return 4095;
  return std::clamp(static_cast<int>(-Ln(largest) * 128 / 0.6931471805599453), 0, 4095);
}

void ResidualTrees::Add(const Tree& tree, int scale_code) {
  trees_.push_back(tree);
  codes_.push_back(scale_code);
  for (const Split& s : tree.splits) flat_.push_back({edges[s.feature][s.edge], s.feature});
  for (const double leaf : tree.leaves) leaves_.push_back(static_cast<float>(leaf));
}

double ResidualTrees::Eval(std::span<const double> features) const {
  double sum = 0;
  const Flat* split = flat_.data();
  const float* leaf = leaves_.data();
  const size_t size = size_t{1} << depth;
  for (size_t t = 0; t < trees_.size(); ++t, leaf += size) {
    size_t at = 0;
    for (int level = 0; level < depth; ++level, ++split) {
      at = at * 2 + (features[static_cast<size_t>(split->feature)] >= split->edge ? 1 : 0);
    }
    sum += leaf[at];
  }
  double outside = 0;
  for (const Range& r : ranges) {
    const double x = features[static_cast<size_t>(r.feature)];
    outside += std::max({0.0, r.low - x, x - r.high});
  }
  return weight * sum / (1 + outside * outside);
}

absl::StatusOr<ResidualTrees> ResidualTrees::Parse(const ResidualTable& table, std::span<const std::string_view> names) {
  ResidualTrees out;
  out.weight = table.weight;
  out.depth = table.depth;
  out.edges.resize(names.size());
  if (table.depth < 0 || table.depth > kMaxDepth) return Bad(fmt::format("depth {} is not 0 to {}", table.depth, kMaxDepth));
  const auto feature = [&](std::string_view name) {
    return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  };
  std::vector<size_t> used;
  bool name_next = true;
  for (const std::string_view word : Words(table.features)) {
    if (word == "/") {
      name_next = true;
    } else if (name_next) {
      used.push_back(feature(word));
      if (used.back() == names.size()) return Bad(fmt::format("\"{}\" is no feature of this operator", word));
      if (!out.edges[used.back()].empty()) return Bad(fmt::format("feature \"{}\" stands twice", word));
      name_next = false;
    } else {
      double edge = 0;
      std::vector<double>& edges = out.edges[used.back()];
      if (!Number(word, &edge) || (!edges.empty() && edge <= edges.back())) {
        return Bad(fmt::format("\"{}\" is not an ascending edge", word));
      }
      edges.push_back(edge);
    }
  }
  for (const std::string& text : table.range) {
    const std::vector<std::string_view> words = Words(text);
    Range range;
    if (words.size() != 3 || feature(words[0]) == names.size() || !Number(words[1], &range.low) ||
        !Number(words[2], &range.high) || range.low > range.high) {
      return Bad(fmt::format("range \"{}\" is not a feature, its lowest and its highest value", text));
    }
    range.feature = static_cast<int>(feature(words[0]));
    out.ranges.push_back(range);
  }
  std::array<int, 256> value;
  value.fill(-1);
  for (size_t i = 0; i < kAlphabet.size(); ++i) value[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int>(i);
  std::vector<int> codes;
  codes.reserve(table.trees.size());
  for (const char c : table.trees) {
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') continue;
    const int v = value[static_cast<unsigned char>(c)];
    if (v < 0) return Bad(fmt::format("'{}' is no base-64 character", c));
    codes.push_back(v);
  }
  const size_t leaves = size_t{1} << table.depth;
  const size_t length = 2 * static_cast<size_t>(table.depth) + 2 + leaves;
  if (codes.size() % length != 0) return Bad(fmt::format("{} characters are no whole number of trees of {}", codes.size(), length));
  for (size_t at = 0; at < codes.size();) {
    Tree tree;
    for (int level = 0; level < table.depth; ++level) {
      const size_t slot = static_cast<size_t>(codes[at++]), edge = static_cast<size_t>(codes[at++]);
      if (slot >= used.size() || edge >= out.edges[used[slot]].size()) return Bad("a tree asks about an edge that is not listed");
      tree.splits.push_back({static_cast<uint8_t>(used[slot]), static_cast<uint8_t>(edge)});
    }
    const int code = codes[at] * 64 + codes[at + 1];
    at += 2;
    const double step = LeafScale(code) / kLeafSteps;
    for (size_t i = 0; i < leaves; ++i) tree.leaves.push_back((codes[at++] - kZeroLeaf) * step);
    out.Add(tree, code);
  }
  return out;
}

ResidualTable ResidualTrees::ToTable(std::span<const std::string_view> names) const {
  std::vector<std::vector<bool>> asked(edges.size());
  for (size_t f = 0; f < edges.size(); ++f) asked[f].assign(edges[f].size(), false);
  for (const Tree& tree : trees_) {
    for (const Split& s : tree.splits) asked[s.feature][s.edge] = true;
  }
  ResidualTable table;
  table.weight = weight;
  table.depth = depth;
  std::vector<int> slot(edges.size(), 0);
  std::vector<std::vector<int>> index(edges.size());
  int used = 0;
  for (size_t f = 0; f < edges.size(); ++f) {
    int next = 0;
    std::string text;
    for (size_t e = 0; e < edges[f].size(); ++e) {
      index[f].push_back(next);
      if (!asked[f][e]) continue;
      ++next;
      text += fmt::format(" {}", edges[f][e]);
    }
    if (next == 0) continue;
    slot[f] = used++;
    table.features += fmt::format("{}{}{}", table.features.empty() ? "" : " / ", names[f], text);
  }
  for (size_t t = 0; t < trees_.size(); ++t) {
    for (const Split& s : trees_[t].splits) {
      table.trees += kAlphabet[static_cast<size_t>(slot[s.feature])];
      table.trees += kAlphabet[static_cast<size_t>(index[s.feature][s.edge])];
    }
    table.trees += kAlphabet[static_cast<size_t>(codes_[t] / 64)];
    table.trees += kAlphabet[static_cast<size_t>(codes_[t] % 64)];
    const double step = LeafScale(codes_[t]) / kLeafSteps;
    for (const double leaf : trees_[t].leaves) {
      const int steps = static_cast<int>(std::lround(leaf / step));
      table.trees += kAlphabet[static_cast<size_t>(std::clamp(steps, -kLeafSteps, kLeafSteps + 1) + kZeroLeaf)];
    }
    table.trees += ' ';
  }
  if (!table.trees.empty()) table.trees.pop_back();
  for (const Range& r : ranges) table.range.push_back(fmt::format("{} {} {}", names[static_cast<size_t>(r.feature)], r.low, r.high));
  return table;
}

}  // namespace simrun
