// A compact correction of an operator's formula: the logarithm of measured over formula time as a sum of small decision
// trees over physical features (log sizes, shares of the formula's terms, waves of thread blocks).
//
// Every tree asks the same question at all nodes of a level (an oblivious tree), so a tree of depth d is d pairs
// (feature, edge) and 2^d leaves. A leaf is one of eight levels between -1 and 1 times the tree's scale, +-2^(-code/64):
// later trees make up for the rounding. As text, of the base-64 alphabet A-Z a-z 0-9 - _, a pair is two characters, the
// scale two (code and sign) and two leaves one; white space is ignored. A tree of depth 5 is 28 characters. Written files
// pack that into about 20 (tree_text.h) and say how many trees there are. The edges of a feature are two characters each,
// in 4095ths of the way from its lowest to its highest edge.
//
// Away from the measurements the correction fades: it is divided by 1 + (octaves outside the measured range)^2.
#pragma once

#include <array>
#include <cstddef>
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
  int count = 0;                  // of packed trees; 0: plain
  std::string features;           // "m 0 15 CVEA / n 5 16 H_": used features, lowest and highest edge, edges
  std::string trees;
  std::vector<std::string> range; // "m 0 15": measured range of a feature
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("of", of, {.help = "device the trees were fitted on; none: this one"});
    v.Field("same_as", same_as, {.help = "format whose entry for this operator and backend holds the trees; none: here"});
    v.Field("weight", weight, {.help = "multiplies the correction", .min = 0, .max = 2});
    v.Field("depth", depth, {.help = "questions per tree", .min = 0, .max = 8});
    v.Field("count", count, {.help = "number of trees when they are packed; 0: plain", .min = 0});
    v.Field("features", features, {.help = "features used: name, lowest and highest edge, edges in base 64; / between features"});
    v.Field("trees", trees, {.help = "trees in base 64: per level a feature and an edge, then scale and leaves; packed when `count` is given"});
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
  // The text form. Leaves must be LeafScale(code) times a level; edges nobody asks about are left out.
  ResidualTable ToTable(std::span<const std::string_view> names) const;

  // Log of the factor. `features`: as many values as there were names.
  double Eval(std::span<const double> features) const;
  // Eval of many points, `stride` values apart: the same numbers, a tree at a time.
  std::vector<double> EvalMany(std::span<const double> points, size_t stride) const;
  // What the first 0, 1, 2, ... trees add up to, without weight and range.
  std::vector<double> PartialSums(std::span<const double> features) const;
  const std::vector<Tree>& trees() const { return trees_; }
  // The leaf every tree ends in.
  std::vector<size_t> LeavesOf(std::span<const double> features) const;
  bool empty() const { return trees_.empty(); }
  size_t count() const { return trees_.size(); }

  // For the fit.
  struct Edges {
    double low = 0, high = 0;
    std::vector<int> codes;      // ascending
    std::vector<double> values;  // EdgeAt of the codes
    void Add(int code) { codes.push_back(code), values.push_back(EdgeAt(low, high, code)); }
  };
  std::vector<Edges> edges;                          // per feature
  std::vector<Range> ranges;
  double weight = 1;
  int depth = 0;
  void Add(const Tree& tree, int scale_code);
  static double EdgeAt(double low, double high, int code);   // code 0..4095
  static double LeafScale(int code);                 // code 0..4095; odd: negative
  static int LeafScaleCode(double scale);            // of the nearest scale
  // Finer near zero, where most leaves are; the sign of the scale chooses the side with one level more.
  static constexpr std::array<double, 8> kLeafLevels = {-1, -0.58, -0.28, 0, 0.15, 0.38, 0.67, 1};
  static size_t NearestLevel(double share);          // index of the level nearest to leaf / scale

 private:
  double Fade(const double* features) const;   // what is left outside the measured range
  struct Flat { double edge = 0; int feature = 0; };
  std::vector<Flat> flat_;                           // depth per tree
  std::vector<float> leaves_;                        // 2^depth per tree
  std::vector<Tree> trees_;
  std::vector<int> codes_;
};

}  // namespace simrun
