#include "hw/cost/residual_trees.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "hw/cost/features.h"
#include "hw/operator_cost.h"
#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

constexpr std::array<std::string_view, 2> kNames = {"m", "n"};

// One tree of depth 1: the whole scale where m >= 2, else 0.28 of it with the other sign.
constexpr double kScale = 0.3136;
ResidualTrees OneTree() {
  ResidualTrees trees;
  trees.depth = 1;
  trees.edges.resize(2);
  trees.edges[0].low = 1, trees.edges[0].high = 5;
  trees.edges[0].Add(1024);   // 1 + 4 x 1024/4095: just above 2
  trees.edges[0].Add(4095);
  const int code = ResidualTrees::LeafScaleCode(kScale);
  const double scale = ResidualTrees::LeafScale(code);
  trees.Add({{{0, 0}}, {-0.28 * scale, scale}}, code);
  trees.ranges = {{0, 0.0, 10.0}};
  return trees;
}

TEST(ResidualTreesTest, ScalesAreWithinHalfAStepOfTheirCode) {
  // Codes are 64 to an octave: half a step is 2^(1/128), 0.54 %.
  for (const double scale : {1.0, 0.3, 0.01, 1e-5, -0.2, -3e-4}) {
    const double stored = ResidualTrees::LeafScale(ResidualTrees::LeafScaleCode(scale));
    EXPECT_NEAR(stored / scale, 1, 0.0055) << scale;
  }
}

TEST(ResidualTreesTest, LeavesGoToTheNearestLevel) {
  for (size_t i = 0; i < ResidualTrees::kLeafLevels.size(); ++i) {
    EXPECT_EQ(ResidualTrees::NearestLevel(ResidualTrees::kLeafLevels[i] + 0.03), i);
    EXPECT_EQ(ResidualTrees::NearestLevel(ResidualTrees::kLeafLevels[i] - 0.03), i);
  }
  EXPECT_EQ(ResidualTrees::kLeafLevels[ResidualTrees::NearestLevel(-7)], -1);
}

TEST(ResidualTreesTest, LeavesAreThoseOfTheSide) {
  const ResidualTrees trees = OneTree();
  EXPECT_NEAR(trees.Eval(std::array{2.0, 0.0}), -0.28 * kScale, 0.002);   // half a step of the scale
  EXPECT_NEAR(trees.Eval(std::array{2.001, 0.0}), kScale, 0.002);
}

TEST(ResidualTreesTest, FadesOutsideTheMeasuredRange) {
  const ResidualTrees trees = OneTree();
  const double inside = trees.Eval(std::array{10.0, 0.0});
  EXPECT_NEAR(trees.Eval(std::array{11.0, 0.0}), inside / 2, 1e-12);    // 1 + 1^2
  EXPECT_NEAR(trees.Eval(std::array{13.0, 0.0}), inside / 10, 1e-12);   // 1 + 3^2
}

TEST(ResidualTreesTest, TextReadsBackToTheSameTrees) {
  const ResidualTrees trees = OneTree();
  const ResidualTable table = trees.ToTable(kNames);
  // Only what is asked about is written.
  EXPECT_EQ(table.features, "m 1 5 QA");   // 1024 = 16 x 64
  EXPECT_EQ(table.trees.size(), 2u + 2u + 1u);   // the question, the scale, two leaves in one character
  const auto back = ResidualTrees::Parse(table, kNames);
  ASSERT_TRUE(back.ok()) << back.status();
  for (const double m : {0.0, 2.0, 2.001, 7.0, 12.5}) {
    EXPECT_NEAR(back->Eval(std::array{m, 0.0}), trees.Eval(std::array{m, 0.0}), 1e-7);
  }
}

TEST(ResidualTreesTest, ManyPointsGiveWhatEachGives) {
  ResidualTrees trees = OneTree();
  trees.edges[1].low = 0, trees.edges[1].high = 1;
  trees.edges[1].Add(2048);
  const double scale = ResidualTrees::LeafScale(100);
  trees.Add({{{1, 0}}, {scale, -scale}}, 100);
  trees.weight = 0.7;
  std::vector<double> points;   // two values used, one between points
  for (double m = -3; m < 14; m += 0.5) points.insert(points.end(), {m, m * 0.09, 77});
  const std::vector<double> all = trees.EvalMany(points, 3);
  ASSERT_EQ(all.size(), points.size() / 3);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], trees.Eval(std::span<const double>(points).subspan(3 * i, 2))) << points[3 * i];
}

TEST(ResidualTreesTest, BadTextIsAnError) {
  const auto error = [](auto change) {
    ResidualTable table = OneTree().ToTable(kNames);
    change(table);
    return std::string(ResidualTrees::Parse(table, kNames).status().message());
  };
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "q 1 5 QA"; }), ::testing::HasSubstr("\"q\" is no feature"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 1 5 QAAA"; }), ::testing::HasSubstr("ascending"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 1 5 Q"; }), ::testing::HasSubstr("pairs of characters"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 1 5 Q!"; }), ::testing::HasSubstr("base-64"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 5 1 QA"; }), ::testing::HasSubstr("lowest"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 1 5 QA n"; }), ::testing::HasSubstr("between features"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 1 5 QA / m 1 5 QA"; }), ::testing::HasSubstr("stands twice"));
  EXPECT_THAT(error([](ResidualTable& t) { t.trees += "A"; }), ::testing::HasSubstr("whole number of trees"));
  EXPECT_THAT(error([](ResidualTable& t) { t.trees[0] = '!'; }), ::testing::HasSubstr("base-64"));
  EXPECT_THAT(error([](ResidualTable& t) { t.trees[1] = 'C'; }), ::testing::HasSubstr("not listed"));
  EXPECT_THAT(error([](ResidualTable& t) { t.range = {"m 3 1"}; }), ::testing::HasSubstr("range"));
}

TEST(AttentionGridTest, MeetsItsNodesAndStaysBetweenThem) {
  AttentionGrid grid;
  for (int i = 0; i < AttentionGrid::kSequences; ++i) {
    for (int j = 0; j < AttentionGrid::kLengths; ++j) grid.At(i, j) = 1 + i + 100 * j;
  }
  EXPECT_EQ(grid.Factor(1, 1), 1);
  EXPECT_EQ(grid.Factor(8, 1024), 1 + 3 + 100 * 10);
  EXPECT_EQ(grid.Factor(12, 1024), 1 + 3.5 + 100 * 10);        // half way from 8 to 16
  EXPECT_EQ(grid.Factor(8, 1536), 1 + 3 + 100 * 10.5);
  EXPECT_EQ(grid.Factor(1e9, 1e12), 1 + 12 + 100 * 20);        // clamped to the last node
  EXPECT_EQ(grid.Factor(0.2, 0), 1);
}

}  // namespace
}  // namespace simrun
