#include "hw/cost/residual_trees.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/rng.h"
#include "hw/cost/features.h"
#include "hw/cost/tree_text.h"
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
  EXPECT_EQ(table.count, 1);
  const auto back = ResidualTrees::Parse(table, kNames);
  ASSERT_TRUE(back.ok()) << back.status();
  for (const double m : {0.0, 2.0, 2.001, 7.0, 12.5}) {
    EXPECT_NEAR(back->Eval(std::array{m, 0.0}), trees.Eval(std::array{m, 0.0}), 1e-7);
  }
}

TEST(ResidualTreesTest, PlainTextReadsToTheSameTrees) {
  const ResidualTrees trees = OneTree();
  ResidualTable table = trees.ToTable(kNames);
  // The question: first feature, first edge; the scale of 2^-(107/64); leaves of levels 2 and 7.
  const int code = ResidualTrees::LeafScaleCode(kScale);
  table.count = 0;
  table.trees = {'A', 'A', kBase64[static_cast<size_t>(code / 64)], kBase64[static_cast<size_t>(code % 64)], kBase64[2 * 8 + 7]};
  const auto plain = ResidualTrees::Parse(table, kNames);
  ASSERT_TRUE(plain.ok()) << plain.status();
  for (const double m : {0.0, 2.001, 12.5}) EXPECT_NEAR(plain->Eval(std::array{m, 0.0}), trees.Eval(std::array{m, 0.0}), 1e-7);
}

TEST(TreeTextTest, RandomTreesComeBack) {
  Rng rng(5, "tree text");
  for (int round = 0; round < 200; ++round) {
    TreeAlphabet alphabet;
    alphabet.depth = static_cast<int>(rng.Below(7));
    const size_t features = 1 + rng.Below(28), trees = rng.Below(60);
    for (size_t f = 0; f < features; ++f) alphabet.edges.push_back(static_cast<int>(1 + rng.Below(64)));
    std::vector<int> values;
    for (size_t t = 0; t < trees; ++t) {
      for (int level = 0; level < alphabet.depth; ++level) {
        values.push_back(static_cast<int>(rng.Below(features)));
        values.push_back(static_cast<int>(rng.Below(static_cast<uint64_t>(alphabet.edges[static_cast<size_t>(values.back())]))));
      }
      values.push_back(static_cast<int>(rng.Below(64)));
      values.push_back(static_cast<int>(rng.Below(64)));
      for (int i = 0; i < 1 << alphabet.depth; i += 2) values.push_back(alphabet.depth == 0 ? 8 * static_cast<int>(rng.Below(8)) : static_cast<int>(rng.Below(64)));
    }
    const std::string text = PackTrees(values, alphabet);
    const auto back = UnpackTrees(text, trees, alphabet);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, values);
    if (trees < 2) continue;
    // A changed, lost or added character is noticed, but for one in 4096.
    std::string bad = text;
    bad[rng.Below(bad.size() - 8)] ^= 1;
    if (bad.find_first_not_of(kBase64) == std::string::npos) {
      EXPECT_FALSE(UnpackTrees(bad, trees, alphabet).ok());
    }
    EXPECT_FALSE(UnpackTrees(text + "zzzzzzzz", trees, alphabet).ok());
    EXPECT_FALSE(UnpackTrees(text.substr(0, text.size() / 2), trees, alphabet).ok());
  }
}

TEST(TreeTextTest, WhatIsUsualTakesFewCharacters) {
  // 100 trees of depth 5 whose leaves are zero but for one: 16 characters of leaves become less than three.
  TreeAlphabet alphabet;
  alphabet.depth = 5;
  alphabet.edges = {4, 4};
  std::vector<int> values;
  for (int t = 0; t < 100; ++t) {
    for (int level = 0; level < 5; ++level) values.push_back((t + level) % 2), values.push_back((t * 3 + level) % 4);
    values.push_back(20), values.push_back(7);
    for (int i = 0; i < 16; ++i) values.push_back(i == t % 16 ? 3 * 8 + 7 : 3 * 8 + 3);
  }
  // Ten bits of features and edges in one and a half, a scale in next to none, leaves log2 32 and what says that the
  // others are zero: 5 x 3 + 32 x 0.2 bits.
  EXPECT_LT(PackTrees(values, alphabet).size(), 100u * 28 / 5);
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
  EXPECT_THAT(error([](ResidualTable& t) { t.trees[0] = '!'; }), ::testing::HasSubstr("base-64"));
  EXPECT_THAT(error([](ResidualTable& t) { t.count = 2; }), ::testing::HasSubstr("lost or changed"));
  EXPECT_THAT(error([](ResidualTable& t) { t.count = 1 << 20; }), ::testing::HasSubstr("more than"));
  EXPECT_THAT(error([](ResidualTable& t) { t.features.clear(); }), ::testing::HasSubstr("features with edges"));
  // Plain trees.
  EXPECT_THAT(error([](ResidualTable& t) { t.count = 0, t.trees = "AAAAAA"; }), ::testing::HasSubstr("whole number of trees"));
  EXPECT_THAT(error([](ResidualTable& t) { t.count = 0, t.trees = "A!AAA"; }), ::testing::HasSubstr("base-64"));
  EXPECT_THAT(error([](ResidualTable& t) { t.count = 0, t.trees = "ACAAA"; }), ::testing::HasSubstr("not listed"));
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

// Decode of 4 sequences with 8 key-value heads is 32 blocks on 132 multiprocessors: parts of the keys fill them. Filling of
// whole waves by parts: 0.24, 0.48, 0.73, then 128 of 132 with four, and none better; so four parts of eight tiles each.
TEST(AttentionFeaturesTest, KeysAreSplitUntilTheMultiprocessorsAreBusy) {
  AttentionPoint point{.sequences = 4, .queries = 1, .keys = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128};
  const auto names = AttentionFeatureNames();
  const auto feature = [&](std::string_view name) {
    return AttentionFeatures(point, {}, 132)[static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin())];
  };
  EXPECT_DOUBLE_EQ(std::exp2(feature("parts")), 4);
  EXPECT_DOUBLE_EQ(std::exp2(feature("walk")), 8);
  EXPECT_NEAR(std::exp2(feature("parts_fill")), 132.0 / 128, 1e-9);
  point.sequences = 16;   // 128 blocks are enough
  EXPECT_DOUBLE_EQ(std::exp2(feature("parts")), 1);
  EXPECT_DOUBLE_EQ(std::exp2(feature("walk")), 32);
  point.sequences = 4, point.keys = 500;   // four tiles are not split
  EXPECT_DOUBLE_EQ(std::exp2(feature("parts")), 1);
  EXPECT_NEAR(feature("walk_pad"), 512.0 / 500, 1e-12);
  point.keys = point.queries = 4096;   // nor is a prompt
  EXPECT_DOUBLE_EQ(std::exp2(feature("parts")), 1);
}

}  // namespace
}  // namespace simrun
