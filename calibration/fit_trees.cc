#include "calibration/fit_trees.h"

#include <algorithm>
#include <cmath>

#include <Eigen/Dense>

#include "base/rng.h"

namespace simrun {
namespace {

constexpr size_t kFewSamples = 20;
constexpr double kPassRidges[] = {3, 10, 30};   // tried for the passes after boosting
constexpr double kLeastGain = 0.0005;   // of a mean error, in log time: 0.05 % that no one would see

double RoundTo(double x, int digits) {
  if (x == 0) return 0;
  const double scale = std::pow(10.0, digits - 1 - static_cast<int>(std::floor(std::log10(std::fabs(x)))));
  return std::round(x * scale) / scale;
}

// Halves between distinct values at evenly spaced ranks, on the grid of the text form.
ResidualTrees::Edges FindEdges(std::vector<double> values, int most) {
  std::sort(values.begin(), values.end());
  std::vector<double> distinct = values;
  distinct.erase(std::unique(distinct.begin(), distinct.end(), [](double a, double b) { return b - a < 1e-9; }), distinct.end());
  ResidualTrees::Edges edges;
  edges.low = RoundTo(distinct.front(), 4);
  edges.high = RoundTo(distinct.back(), 4);
  if (edges.high <= edges.low) return edges;
  const auto add = [&](size_t i) {
    const double share = ((distinct[i - 1] + distinct[i]) / 2 - edges.low) / (edges.high - edges.low);
    const int code = std::clamp(static_cast<int>(std::lround(share * 4095)), 0, 4095);
    const double edge = ResidualTrees::EdgeAt(edges.low, edges.high, code);
    if (edge > distinct[i - 1] && edge <= distinct[i] && (edges.codes.empty() || code > edges.codes.back())) edges.Add(code);
  };
  if (distinct.size() <= static_cast<size_t>(most) + 1) {
    for (size_t i = 1; i < distinct.size(); ++i) add(i);
    return edges;
  }
  for (int b = 1; b <= most; ++b) {
    const double at = values[values.size() * static_cast<size_t>(b) / static_cast<size_t>(most + 1)];
    const size_t i = static_cast<size_t>(std::lower_bound(distinct.begin(), distinct.end(), at - 1e-9) - distinct.begin());
    if (i > 0 && i < distinct.size()) add(i);
  }
  return edges;
}

// Rounds leaves to what the text form stores, at the scale and sign that do least harm to leaves of these weights; returns
// their code.
int RoundLeaves(std::vector<double>* leaves, const std::vector<double>& weights) {
  double largest = 0;
  for (const double v : *leaves) largest = std::max(largest, std::fabs(v));
  int code = ResidualTrees::LeafScaleCode(largest);
  double least = -1;
  const auto rounded = [](double v, double scale) { return scale * ResidualTrees::kLeafLevels[ResidualTrees::NearestLevel(v / scale)]; };
  for (int tenths = 4; tenths <= 10 && largest > 0; ++tenths) {
    for (const double sign : {1.0, -1.0}) {
      const int tried = ResidualTrees::LeafScaleCode(sign * largest * tenths / 10);
      const double scale = ResidualTrees::LeafScale(tried);
      double harm = 0;
      for (size_t l = 0; l < leaves->size(); ++l) {
        const double off = (*leaves)[l] - rounded((*leaves)[l], scale);
        harm += weights[l] * off * off;
      }
      if (least < 0 || harm < least) least = harm, code = tried;
    }
  }
  for (double& v : *leaves) v = rounded(v, ResidualTrees::LeafScale(code));
  return code;
}

}  // namespace

namespace {

// Trees while they are fitted: samples by the interval of every feature they fall in, and what the trees say of them.
class Boosting {
 public:
  Boosting(const std::vector<TreeSample>& samples, size_t features, const TreeFitOptions& options)
      : samples_(samples), options_(options), edges_(features), bins_(features, std::vector<uint8_t>(samples.size())),
        fitted_(samples.size(), 0.0), leaf_(samples.size()) {
    std::vector<double> values(samples.size());
    for (size_t f = 0; f < features; ++f) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = samples[i].features[f];
      edges_[f] = FindEdges(values, options.edges);
      const std::vector<double>& edges = edges_[f].values;
      for (size_t i = 0; i < values.size(); ++i) {
        bins_[f][i] = static_cast<uint8_t>(std::upper_bound(edges.begin(), edges.end(), values[i]) - edges.begin());
      }
    }
  }

  void AddTrees() {
    const size_t count = samples_.size(), features = edges_.size();
    Rng rng(options_.seed, "trees");
    std::vector<double> error(count), gains;
    std::vector<bool> open(features);
    for (int t = 0; t < options_.trees; ++t) {
      const double clip = Clip();
      for (size_t i = 0; i < count; ++i) {
        error[i] = std::clamp(samples_[i].target - fitted_[i], -clip, clip);
        leaf_[i] = 0;
      }
      for (size_t f = 0; f < features; ++f) open[f] = !edges_[f].codes.empty() && rng.Uniform() < options_.feature_share;
      ResidualTrees::Tree tree;
      for (int level = 0; level < options_.depth; ++level) {
        const size_t leaves = size_t{1} << level;
        double best = -1;
        size_t best_feature = features, best_edge = 0;
        for (size_t f = 0; f < features; ++f) {
          if (!open[f]) continue;
          const size_t cells = edges_[f].codes.size() + 1;
          sums_.assign(leaves * cells, 0.0);
          counts_.assign(leaves * cells, 0.0);
          for (size_t i = 0; i < count; ++i) {
            const size_t cell = leaf_[i] * cells + bins_[f][i];
            sums_[cell] += error[i];
            counts_[cell] += 1;
          }
          gains.assign(cells, 0.0);
          for (size_t l = 0; l < leaves; ++l) {
            const double* sum = sums_.data() + l * cells;
            const double* number = counts_.data() + l * cells;
            double total = 0, total_number = 0, low = 0, low_number = 0;
            for (size_t b = 0; b < cells; ++b) total += sum[b], total_number += number[b];
            for (size_t b = 1; b < cells; ++b) {
              low += sum[b - 1], low_number += number[b - 1];
              const double high = total - low;
              gains[b] += low * low / (low_number + options_.ridge) + high * high / (total_number - low_number + options_.ridge);
            }
          }
          for (size_t b = 1; b < cells; ++b) {
            if (gains[b] > best) best = gains[b], best_feature = f, best_edge = b - 1;
          }
        }
        if (best_feature == features) break;
        tree.splits.push_back({static_cast<uint8_t>(best_feature), static_cast<uint8_t>(best_edge)});
        for (size_t i = 0; i < count; ++i) leaf_[i] = leaf_[i] * 2 + (bins_[best_feature][i] > best_edge ? 1 : 0);
      }
      if (static_cast<int>(tree.splits.size()) < options_.depth) continue;   // no open feature: draw again
      tree.leaves.assign(size_t{1} << options_.depth, 0.0);
      codes_.push_back(0);
      trees_.push_back(std::move(tree));
      SetLeaves(trees_.size() - 1, clip, options_.rate, options_.ridge);
    }
  }

  // Leaves again, tree by tree, each to what the others leave.
  void Refit(int passes, double ridge) {
    for (int pass = 0; pass < passes; ++pass) {
      const double clip = Clip();
      for (size_t t = 0; t < trees_.size(); ++t) {
        Place(trees_[t]);
        SetLeaves(t, clip, 1, ridge);
      }
    }
  }

  // The first `count` trees alone.
  void Keep(size_t count) {
    trees_.resize(count);
    codes_.resize(count);
    std::fill(fitted_.begin(), fitted_.end(), 0.0);
    for (const ResidualTrees::Tree& tree : trees_) {
      Place(tree);
      for (size_t i = 0; i < fitted_.size(); ++i) fitted_[i] += tree.leaves[leaf_[i]];
    }
  }

  ResidualTrees Result() const {
    ResidualTrees out;
    out.depth = options_.depth;
    out.edges = edges_;
    for (size_t t = 0; t < trees_.size(); ++t) out.Add(trees_[t], codes_[t]);
    return out;
  }

 private:
  // Errors beyond this count as this large.
  double Clip() const {
    std::vector<double> sizes(samples_.size());
    for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = std::fabs(samples_[i].target - fitted_[i]);
    const size_t rank = std::min(sizes.size() - 1, static_cast<size_t>(options_.clip_share * static_cast<double>(sizes.size())));
    std::nth_element(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(rank), sizes.end());
    return std::max(options_.least_clip, sizes[rank]);
  }
  void Place(const ResidualTrees::Tree& tree) {
    std::fill(leaf_.begin(), leaf_.end(), 0u);
    for (const ResidualTrees::Split& s : tree.splits) {
      const uint8_t* bins = bins_[s.feature].data();
      for (size_t i = 0; i < leaf_.size(); ++i) leaf_[i] = leaf_[i] * 2 + (bins[i] > s.edge ? 1 : 0);
    }
  }
  // Moves the leaves of a tree whose samples are placed, `rate` of the way to the mean of what the others leave, shrunk by
  // the ridge.
  void SetLeaves(size_t t, double clip, double rate, double ridge) {
    std::vector<double>& leaves = trees_[t].leaves;
    sums_.assign(leaves.size(), 0.0);
    counts_.assign(leaves.size(), 0.0);
    for (size_t i = 0; i < leaf_.size(); ++i) {
      sums_[leaf_[i]] += std::clamp(samples_[i].target - fitted_[i], -clip, clip);
      counts_[leaf_[i]] += 1;
    }
    const std::vector<double> before = leaves;
    for (size_t l = 0; l < leaves.size(); ++l) leaves[l] = rate * (sums_[l] + counts_[l] * before[l]) / (counts_[l] + ridge);
    codes_[t] = RoundLeaves(&leaves, counts_);
    for (size_t i = 0; i < leaf_.size(); ++i) fitted_[i] += leaves[leaf_[i]] - before[leaf_[i]];
  }

  const std::vector<TreeSample>& samples_;
  TreeFitOptions options_;
  std::vector<ResidualTrees::Edges> edges_;   // per feature
  std::vector<std::vector<uint8_t>> bins_;    // per feature and sample: edges it has reached
  std::vector<double> fitted_;                // per sample
  std::vector<uint32_t> leaf_;                // of the tree at hand
  std::vector<double> sums_, counts_;
  std::vector<ResidualTrees::Tree> trees_;
  std::vector<int> codes_;
};

}  // namespace

ResidualTrees FitTrees(const std::vector<TreeSample>& samples, size_t features, const std::vector<int>& range,
                       const TreeFitOptions& options) {
  ResidualTrees none;
  none.depth = options.depth;
  none.edges.resize(features);
  if (samples.size() < kFewSamples) return none;
  Boosting boosting(samples, features, options);
  boosting.AddTrees();
  boosting.Refit(options.passes, options.pass_ridge);
  ResidualTrees out = boosting.Result();
  for (const int f : range) {
    ResidualTrees::Range r{f, samples[0].features[static_cast<size_t>(f)], samples[0].features[static_cast<size_t>(f)]};
    for (const TreeSample& s : samples) {
      r.low = std::min(r.low, s.features[static_cast<size_t>(f)]);
      r.high = std::max(r.high, s.features[static_cast<size_t>(f)]);
    }
    r.low = std::floor(r.low * 1000) / 1000;
    r.high = std::ceil(r.high * 1000) / 1000;
    out.ranges.push_back(r);
  }
  return out;
}

TreeFitOptions ChooseTrees(const std::vector<TreeSample>& samples, size_t features, const TreeFitOptions& options, double slack) {
  std::vector<TreeSample> seen, unseen;
  Rng rng(options.seed, "worth");
  for (const TreeSample& s : samples) (rng.Below(5) == 0 ? unseen : seen).push_back(s);
  TreeFitOptions chosen = options;
  if (seen.size() < kFewSamples || unseen.empty()) return chosen;
  Boosting boosting(seen, features, options);
  boosting.AddTrees();
  const ResidualTrees trees = boosting.Result();
  std::vector<double> error(trees.count() + 1, 0.0);
  for (const TreeSample& s : unseen) {
    const std::vector<double> sums = trees.PartialSums(s.features);
    for (size_t t = 0; t < sums.size(); ++t) error[t] += std::fabs(sums[t] - s.target);
  }
  double least = *std::min_element(error.begin(), error.end());
  size_t count = 0;
  while (error[count] > (1 + slack) * least + kLeastGain * static_cast<double>(unseen.size())) ++count;
  chosen.trees = static_cast<int>(count);
  boosting.Keep(count);
  least = -1;
  for (const double ridge : kPassRidges) {
    Boosting tried = boosting;
    tried.Refit(options.passes, ridge);
    const ResidualTrees refitted = tried.Result();
    double left = 0;
    for (const TreeSample& s : unseen) left += std::fabs(refitted.Eval(s.features) - s.target);
    if (least < 0 || left < least) least = left, chosen.pass_ridge = ridge;
  }
  return chosen;
}

BorrowedTrees::BorrowedTrees(const ResidualTrees& trees, const BorrowOptions& options) : trees_(trees), options_(options) {
  trees_.weight = 1;
  for (const ResidualTrees::Tree& tree : trees_.trees()) {
    double squares = 0;
    for (const double v : tree.leaves) squares += v * v;
    variance_.push_back(options.leaf_spread * options.leaf_spread * squares / static_cast<double>(tree.leaves.size()));
  }
}

std::vector<double> BorrowedTrees::Covariance(const std::vector<Features>& at) const {
  const size_t n = at.size();
  std::vector<double> says(n), out(n * n, 0.0);
  std::vector<std::vector<size_t>> leaves;
  for (size_t i = 0; i < n; ++i) {
    says[i] = Correction(at[i]);
    leaves.push_back(trees_.LeavesOf(at[i]));
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = options_.weight_spread * options_.weight_spread * says[i] * says[j];
      for (size_t t = 0; t < variance_.size(); ++t) sum += leaves[i][t] == leaves[j][t] ? variance_[t] : 0;
      out[i * n + j] = out[j * n + i] = sum + (i == j ? options_.noise * options_.noise : 0);
    }
  }
  return out;
}

ResidualTrees BorrowedTrees::Given(const std::vector<TreeSample>& samples) const {
  const size_t n = samples.size();
  std::vector<Features> at;
  for (const TreeSample& s : samples) at.push_back(s.features);
  const std::vector<double> covariance = Covariance(at);
  const Eigen::Index size = static_cast<Eigen::Index>(n);
  Eigen::VectorXd error(size);
  for (size_t i = 0; i < n; ++i) error[static_cast<Eigen::Index>(i)] = samples[i].target - Mean(at[i]);
  const Eigen::VectorXd pull = Eigen::LLT<Eigen::MatrixXd>(Eigen::Map<const Eigen::MatrixXd>(covariance.data(), size, size)).solve(error);
  ResidualTrees out = trees_;
  double moved = 0;
  for (size_t i = 0; i < n; ++i) moved += Correction(at[i]) * pull[static_cast<Eigen::Index>(i)];
  out.weight = std::clamp(options_.weight + options_.weight_spread * options_.weight_spread * moved, 0.1, 1.5);
  out.weight = std::round(out.weight * 100) / 100;
  std::vector<std::vector<size_t>> leaves;
  for (const Features& f : at) leaves.push_back(trees_.LeavesOf(f));
  for (size_t t = 0; t < variance_.size(); ++t) {
    ResidualTrees::Tree tree = trees_.trees()[t];
    tree.leaves.assign(tree.leaves.size(), 0.0);
    for (size_t i = 0; i < n; ++i) tree.leaves[leaves[i][t]] += variance_[t] * pull[static_cast<Eigen::Index>(i)] / out.weight;
    double largest = 0;
    for (const double v : tree.leaves) largest = std::max(largest, std::fabs(v));
    if (largest < kLeastGain) continue;
    const int code = RoundLeaves(&tree.leaves, std::vector<double>(tree.leaves.size(), 1.0));
    out.Add(tree, code);
  }
  return out;
}

}  // namespace simrun
