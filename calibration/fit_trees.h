// Gradient boosting of small oblivious trees: fits ResidualTrees to the logarithms of measured over formula times.
//
// Every tree is fitted to the errors left by those before it, clipped where the `clip_share` smallest of them end (Huber
// loss), level by level: of all (feature, edge) pairs the one that lowers the squared error most, summed over the level's
// nodes. Leaves are shrunk towards zero by `ridge` pseudo-measurements and by `rate`, then rounded to what the text form
// stores, so that later trees repair the rounding. Then, in further passes, the leaves of every tree are fitted again to the
// errors that all others leave: early trees were shrunk by `rate` for the sake of later ones that are not kept. Edges are
// quantiles of the data. Deterministic.
#pragma once

#include <cstdint>
#include <vector>

#include "hw/cost/features.h"
#include "hw/cost/residual_trees.h"

namespace simrun {

struct TreeFitOptions {
  int trees = 500;            // at most: see ChooseTrees
  int depth = 5;
  int edges = 60;             // per feature, at most 64
  double rate = 0.25;
  double ridge = 2;
  double clip_share = 0.7;    // of the errors are not clipped
  double least_clip = 0.04;   // in units of log time
  double feature_share = 0.8; // of the features a tree may ask about, drawn per tree
  int passes = 5;             // over all trees, each refitted to what the others leave
  double pass_ridge = 10;     // pseudo-measurements of a leaf in these passes
  uint64_t seed = 1;
};

struct TreeSample {
  Features features{};
  double target = 0;          // log of measured over formula
};

// `features`: how many of the array are used. `range`: indices of features outside whose measured range the correction
// fades. Empty trees when there are fewer than 20 samples.
ResidualTrees FitTrees(const std::vector<TreeSample>& samples, size_t features, const std::vector<int>& range,
                       const TreeFitOptions& options);

// `options` with as many trees as a fifth of the samples, held out, says are worth keeping (the fewest whose mean error is
// within `slack` of the least one and 0.05 % more), and with the ridge for further passes under which that fifth is predicted best.
TreeFitOptions ChooseTrees(const std::vector<TreeSample>& samples, size_t features, const TreeFitOptions& options, double slack);

// Another device's trees as prior knowledge: kernels change their ways at the same sizes, by other amounts. The weight of
// all of them, and the value of every leaf, are normally distributed; leaves around their value, by `leaf_spread` times
// the root mean square of their tree's.
struct BorrowOptions {
  double weight = 0.85, weight_spread = 0.1, leaf_spread = 1;
  double noise = 0.02;        // of a row, in log time
};
class BorrowedTrees {
 public:
  BorrowedTrees(const ResidualTrees& trees, const BorrowOptions& options);
  double Mean(const Features& at) const { return options_.weight * Correction(at); }
  // Of the errors around the mean at these points, noise included, row by row.
  std::vector<double> Covariance(const std::vector<Features>& at) const;
  // The trees given targets at some points, and further ones with the same questions that move the leaves.
  ResidualTrees Given(const std::vector<TreeSample>& samples) const;

 private:
  double Correction(const Features& at) const { return trees_.Eval(at); }
  ResidualTrees trees_;
  BorrowOptions options_;
  std::vector<double> variance_;   // of a leaf, per tree
};

}  // namespace simrun
