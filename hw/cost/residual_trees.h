// A compact correction of an operator's formula: the logarithm of measured over formula time as a sum of small decision
// trees over physical features (log sizes, shares of the formula's terms, waves of thread blocks).
//
// Every tree asks the same question at all nodes of a level (an oblivious tree), so a tree of depth d is d pairs
// (feature, edge) and 2^d leaves. As text a pair is two characters and a leaf one, of the base-64 alphabet A-Z a-z 0-9
// - _; white space is ignored. A tree's leaves are multiples of scale/31, scale = 2^(-code/128) with two characters of
// code; a leaf character stands for -31..32.
//
// Away from the measurements the correction fades: it is divided by 1 + (octaves outside the measured range)^2.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/params.h"

namespace simrun {

// The catalogue form of one set of trees.
struct ResidualTable {
  std::string of;                 // device the trees were fitted on; empty: this one
  std::string same_as;            // format whose entry for this operator and backend holds the trees; empty: here
  double weight = 1;              // multiplies the correction; below 1 for trees of another device
  int depth = 0;
  std::string features;           // "m 0.5 1.5 / n 7.5 9": used features, each with its ascending edges
  std::string trees;
  std::vector<std::string> range; // "m 0 15": measured range of a feature
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("of", of, {.help = "device the trees were fitted on; none: this one"});
    v.Field("same_as", same_as, {.help = "format whose entry for this operator and backend holds the trees; none: here"});
    v.Field("weight", weight, {.help = "multiplies the correction", .min = 0, .max = 2});
    v.Field("depth", depth, {.help = "questions per tree", .min = 0, .max = 8});
    v.Field("features", features, {.help = "features used, each with its ascending edges; / between features"});
    v.Field("trees", trees, {.help = "trees in base 64: per level a feature and an edge, then scale and leaves"});
    v.Field("range", range, {.help = "feature, lowest and highest measured value"});
  }
};

class ResidualTrees {
 public:
  struct Split { uint8_t feature = 0, edge = 0; };   // true when value >= edges[feature][edge]
  struct Tree {
    std::vector<Split> splits;                       // `depth` of them; the first decides the highest bit of the leaf
    std::vector<double> leaves;
  };
  struct Range { int feature = 0; double low = 0, high = 0; };

  ResidualTrees() = default;
  // `names`: the features an evaluation will pass, in order. InvalidArgument for an unknown feature or bad text.
  static absl::StatusOr<ResidualTrees> Parse(const ResidualTable& table, std::span<const std::string_view> names);
  // The text form. Leaves must be multiples of LeafScale(code)/31; edges nobody asks about are left out.
  ResidualTable ToTable(std::span<const std::string_view> names) const;

  // Log of the factor. `features`: as many values as there were names.
  double Eval(std::span<const double> features) const;
  bool empty() const { return trees_.empty(); }
  size_t count() const { return trees_.size(); }

  // For the fit.
  std::vector<std::vector<double>> edges;            // per feature, ascending
  std::vector<Range> ranges;
  double weight = 1;
  int depth = 0;
  void Add(const Tree& tree, int scale_code);
  static double LeafScale(int code);                 // code 0..4095
  static int LeafScaleCode(double largest);          // the smallest scale that reaches `largest`
  static constexpr int kLeafSteps = 31;

 private:
  struct Flat { double edge = 0; int feature = 0; };
  std::vector<Flat> flat_;                           // depth per tree
  std::vector<float> leaves_;                        // 2^depth per tree
  std::vector<Tree> trees_;
  std::vector<int> codes_;
};

}  // namespace simrun
