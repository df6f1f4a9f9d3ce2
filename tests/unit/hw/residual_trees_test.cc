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

// One tree of depth 1: 0.31 where m >= 2, else -0.1, with leaves in steps of a 31st of its scale.
ResidualTrees OneTree() {
  ResidualTrees trees;
  trees.depth = 1;
  trees.edges = {{2.0, 5.0}, {1.0}};
  const int code = ResidualTrees::LeafScaleCode(0.31);
  const double step = ResidualTrees::LeafScale(code) / ResidualTrees::kLeafSteps;
  trees.Add({{{0, 0}}, {std::round(-0.1 / step) * step, std::round(0.31 / step) * step}}, code);
  trees.ranges = {{0, 0.0, 10.0}};
  return trees;
}

TEST(ResidualTreesTest, LeavesAreThoseOfTheSide) {
  const ResidualTrees trees = OneTree();
  EXPECT_NEAR(trees.Eval(std::array{1.9, 0.0}), -0.1, 0.006);   // half a step of 0.31/31
  EXPECT_NEAR(trees.Eval(std::array{2.0, 0.0}), 0.31, 0.006);
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
  EXPECT_EQ(table.features, "m 2");
  const auto back = ResidualTrees::Parse(table, kNames);
  ASSERT_TRUE(back.ok()) << back.status();
  for (const double m : {0.0, 1.99, 2.0, 7.0, 12.5}) {
    EXPECT_NEAR(back->Eval(std::array{m, 0.0}), trees.Eval(std::array{m, 0.0}), 1e-7);
  }
}

TEST(ResidualTreesTest, BadTextIsAnError) {
  const auto error = [](auto change) {
    ResidualTable table = OneTree().ToTable(kNames);
    change(table);
    return std::string(ResidualTrees::Parse(table, kNames).status().message());
  };
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "q 2"; }), ::testing::HasSubstr("\"q\" is no feature"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features = "m 2 1"; }), ::testing::HasSubstr("ascending"));
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
