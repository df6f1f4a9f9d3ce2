#include "hw/cost/residual_trees.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/rng.h"
#include "base/status.h"
#include "hw/cost/tree_text.h"

namespace simrun {
namespace {

constexpr int kMaxDepth = 8, kMostTrees = 4096;
constexpr size_t kWord = 103;  // characters of packed text between spaces, where a file may break the line
constexpr double kLn2 = 0.6931471805599453;

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

double ResidualTrees::EdgeAt(double low, double high, int code) { return low + (high - low) * code / 4095; }

double ResidualTrees::LeafScale(int code) {
  const double scale = Exp(-kLn2 / 64 * (code / 2));
  return code % 2 == 0 ? scale : -scale;
}

int ResidualTrees::LeafScaleCode(double scale) {
  const int negative = scale < 0 ? 1 : 0;
  if (scale == 0) return 4094;
  return std::clamp(static_cast<int>(std::lround(-Ln(std::fabs(scale)) * 64 / kLn2)), 0, 2047) * 2 + negative;
}

size_t ResidualTrees::NearestLevel(double share) {
  size_t best = 0;
  for (size_t i = 1; i < kLeafLevels.size(); ++i) {
    if (std::fabs(kLeafLevels[i] - share) < std::fabs(kLeafLevels[best] - share)) best = i;
  }
  return best;
}

void ResidualTrees::Add(const Tree& tree, int scale_code) {
  trees_.push_back(tree);
  codes_.push_back(scale_code);
  for (const Split& s : tree.splits) flat_.push_back({edges[s.feature].values[s.edge], s.feature});
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
  return weight * sum / Fade(features.data());
}

double ResidualTrees::Fade(const double* features) const {
  double outside = 0;
  for (const Range& r : ranges) {
    const double x = features[r.feature];
    outside += std::max({0.0, r.low - x, x - r.high});
  }
  return 1 + outside * outside;
}

std::vector<double> ResidualTrees::EvalMany(std::span<const double> points, size_t stride) const {
  const size_t count = points.size() / stride;
  // How many edges of a feature each point has reached.
  std::vector<std::vector<uint8_t>> reached(edges.size());
  for (size_t f = 0; f < edges.size(); ++f) {
    const std::vector<double>& values = edges[f].values;
    if (values.empty()) continue;
    reached[f].resize(count);
    for (size_t i = 0; i < count; ++i) {
      reached[f][i] = static_cast<uint8_t>(std::upper_bound(values.begin(), values.end(), points[i * stride + f]) - values.begin());
    }
  }
  std::vector<double> sums(count, 0.0);
  std::vector<uint8_t> leaf(count);
  const size_t size = size_t{1} << depth;
  for (size_t t = 0; t < trees_.size(); ++t) {
    std::fill(leaf.begin(), leaf.end(), uint8_t{0});
    for (const Split& s : trees_[t].splits) {
      const uint8_t* at = reached[s.feature].data();
      for (size_t i = 0; i < count; ++i) leaf[i] = static_cast<uint8_t>(leaf[i] * 2 + (at[i] > s.edge ? 1 : 0));
    }
    const float* leaves = leaves_.data() + t * size;
    for (size_t i = 0; i < count; ++i) sums[i] += leaves[leaf[i]];
  }
  for (size_t i = 0; i < count; ++i) sums[i] = weight * sums[i] / Fade(points.data() + i * stride);
  return sums;
}

std::vector<size_t> ResidualTrees::LeavesOf(std::span<const double> features) const {
  std::vector<size_t> leaves;
  for (const Tree& tree : trees_) {
    size_t at = 0;
    for (const Split& s : tree.splits) at = at * 2 + (features[s.feature] >= edges[s.feature].values[s.edge] ? 1 : 0);
    leaves.push_back(at);
  }
  return leaves;
}

std::vector<double> ResidualTrees::PartialSums(std::span<const double> features) const {
  std::vector<double> sums = {0.0};
  for (const Tree& tree : trees_) {
    size_t at = 0;
    for (const Split& s : tree.splits) at = at * 2 + (features[s.feature] >= edges[s.feature].values[s.edge] ? 1 : 0);
    sums.push_back(sums.back() + tree.leaves[at]);
  }
  return sums;
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
  std::array<int, 256> value;
  value.fill(-1);
  for (size_t i = 0; i < kBase64.size(); ++i) value[static_cast<unsigned char>(kBase64[i])] = static_cast<int>(i);
  const auto digit = [&value](char c) { return value[static_cast<unsigned char>(c)]; };
  std::vector<size_t> used;
  const std::vector<std::string_view> words = Words(table.features);
  for (size_t at = 0; at < words.size(); at += 5) {
    if (at + 4 > words.size() || (at + 4 < words.size() && words[at + 4] != "/")) {
      return Bad("features are a name, the lowest and the highest edge and the edges, with / between features");
    }
    used.push_back(feature(words[at]));
    if (used.back() == names.size()) return Bad(fmt::format("\"{}\" is no feature of this operator", words[at]));
    Edges& edges = out.edges[used.back()];
    if (!edges.codes.empty()) return Bad(fmt::format("feature \"{}\" stands twice", words[at]));
    const std::string_view codes = words[at + 3];
    if (!Number(words[at + 1], &edges.low) || !Number(words[at + 2], &edges.high) || edges.low > edges.high || codes.size() % 2 != 0) {
      return Bad(fmt::format("the edges of \"{}\" need a lowest, a highest and pairs of characters", words[at]));
    }
    for (size_t i = 0; i < codes.size(); i += 2) {
      const int high = digit(codes[i]), low = digit(codes[i + 1]);
      if (high < 0 || low < 0) return Bad(fmt::format("\"{}\" is no base-64 text", codes));
      if (!edges.codes.empty() && high * 64 + low <= edges.codes.back()) return Bad(fmt::format("the edges of \"{}\" are not ascending", words[at]));
      edges.Add(high * 64 + low);
    }
  }
  for (const std::string& text : table.range) {
    const std::vector<std::string_view> parts = Words(text);
    Range range;
    if (parts.size() != 3 || feature(parts[0]) == names.size() || !Number(parts[1], &range.low) ||
        !Number(parts[2], &range.high) || range.low > range.high) {
      return Bad(fmt::format("range \"{}\" is not a feature, its lowest and its highest value", text));
    }
    range.feature = static_cast<int>(feature(parts[0]));
    out.ranges.push_back(range);
  }
  std::vector<int> codes;
  const size_t leaves = size_t{1} << table.depth;
  TreeAlphabet alphabet;
  alphabet.depth = table.depth;
  for (const size_t f : used) alphabet.edges.push_back(static_cast<int>(out.edges[f].codes.size()));
  const size_t length = alphabet.length();
  if (table.count > 0) {
    if (table.count > kMostTrees) return Bad(fmt::format("{} trees are more than {}", table.count, kMostTrees));
    if (alphabet.edges.empty() || std::count(alphabet.edges.begin(), alphabet.edges.end(), 0) > 0) return Bad("trees need features with edges");
    absl::StatusOr<std::vector<int>> unpacked = UnpackTrees(table.trees, static_cast<size_t>(table.count), alphabet);
    if (!unpacked.ok()) return Bad(std::string(unpacked.status().message()));
    codes = *std::move(unpacked);
  }
  if (table.count == 0) {
    for (const char c : table.trees) {
      if (c == ' ' || c == '\n' || c == '\t' || c == '\r') continue;
      const int v = digit(c);
      if (v < 0) return Bad(fmt::format("'{}' is no base-64 character", c));
      codes.push_back(v);
    }
  }
  if (codes.size() % length != 0) return Bad(fmt::format("{} characters are no whole number of trees of {}", codes.size(), length));
  for (size_t at = 0; at < codes.size();) {
    Tree tree;
    for (int level = 0; level < table.depth; ++level) {
      const size_t slot = static_cast<size_t>(codes[at++]), edge = static_cast<size_t>(codes[at++]);
      if (slot >= used.size() || edge >= out.edges[used[slot]].codes.size()) return Bad("a tree asks about an edge that is not listed");
      tree.splits.push_back({static_cast<uint8_t>(used[slot]), static_cast<uint8_t>(edge)});
    }
    const int code = codes[at] * 64 + codes[at + 1];
    at += 2;
    const double scale = LeafScale(code);
    for (size_t i = 0; i < leaves; i += 2) {
      const size_t pair = static_cast<size_t>(codes[at++]);
      tree.leaves.push_back(scale * kLeafLevels[pair / 8]);
      if (i + 1 < leaves) tree.leaves.push_back(scale * kLeafLevels[pair % 8]);
    }
    out.Add(tree, code);
  }
  return out;
}

ResidualTable ResidualTrees::ToTable(std::span<const std::string_view> names) const {
  std::vector<std::vector<bool>> asked(edges.size());
  for (size_t f = 0; f < edges.size(); ++f) asked[f].assign(edges[f].codes.size(), false);
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
    for (size_t e = 0; e < edges[f].codes.size(); ++e) {
      index[f].push_back(next);
      if (!asked[f][e]) continue;
      ++next;
      text += kBase64[static_cast<size_t>(edges[f].codes[e] / 64)];
      text += kBase64[static_cast<size_t>(edges[f].codes[e] % 64)];
    }
    if (next == 0) continue;
    slot[f] = used++;
    table.features += fmt::format("{}{} {} {} {}", table.features.empty() ? "" : " / ", names[f], edges[f].low, edges[f].high, text);
  }
  std::vector<int> values;
  for (size_t t = 0; t < trees_.size(); ++t) {
    for (const Split& s : trees_[t].splits) {
      values.push_back(slot[s.feature]);
      values.push_back(index[s.feature][s.edge]);
    }
    values.push_back(codes_[t] / 64);
    values.push_back(codes_[t] % 64);
    const double scale = LeafScale(codes_[t]);
    const std::vector<double>& leaves = trees_[t].leaves;
    for (size_t i = 0; i < leaves.size(); i += 2) {
      const size_t second = i + 1 < leaves.size() ? NearestLevel(leaves[i + 1] / scale) : 0;
      values.push_back(static_cast<int>(NearestLevel(leaves[i] / scale) * 8 + second));
    }
  }
  TreeAlphabet alphabet;
  alphabet.depth = depth;
  for (size_t f = 0; f < edges.size(); ++f) {
    const int named = static_cast<int>(std::count(asked[f].begin(), asked[f].end(), true));
    if (named > 0) alphabet.edges.push_back(named);
  }
  table.count = static_cast<int>(trees_.size());
  if (table.count > 0) {
    const std::string packed = PackTrees(values, alphabet);
    for (size_t at = 0; at < packed.size(); at += kWord) table.trees += (at > 0 ? " " : "") + packed.substr(at, kWord);
  }
  for (const Range& r : ranges) table.range.push_back(fmt::format("{} {} {}", names[static_cast<size_t>(r.feature)], r.low, r.high));
  return table;
}

}  // namespace simrun
