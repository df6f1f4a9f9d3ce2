#include "cli/text.h"

#include <string>

#include <gtest/gtest.h>

namespace simrun {
namespace {

TEST(Text, Counts) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1000), "1,000");
  EXPECT_EQ(CountText(1234567), "1,234,567");
  EXPECT_EQ(CountText(-1234), "-1,234");
  EXPECT_EQ(CountText(-123), "-123");
}

TEST(Text, NumbersHaveThreeDigits) {
  EXPECT_EQ(NumberText(0), "0");
  EXPECT_EQ(NumberText(0.012345), "0.0123");
  EXPECT_EQ(NumberText(12.345), "12.3");
  EXPECT_EQ(NumberText(999.4), "999");
  EXPECT_EQ(NumberText(999.6), "1,000");
  EXPECT_EQ(NumberText(6342), "6,340");
  EXPECT_EQ(NumberText(483184), "483,000");
  EXPECT_EQ(NumberText(12345678), "12.3 M");
  EXPECT_EQ(NumberText(2.5e9), "2.5 G");
}

TEST(Text, Percent) {
  EXPECT_EQ(PercentText(0), "0.0 %");
  EXPECT_EQ(PercentText(0.873), "87.3 %");
  EXPECT_EQ(PercentText(1), "100.0 %");
  EXPECT_EQ(PercentText(0.0001), "< 0.1 %");
}

TEST(Text, Plurals) {
  EXPECT_EQ(Plural(1, "engine"), "1 engine");
  EXPECT_EQ(Plural(1000, "engine"), "1,000 engines");
  EXPECT_EQ(Plural(2, "entry", "entries"), "2 entries");
}

TEST(Text, WrapsBetweenWordsAndKeepsUnits) {
  const std::string text = LabelledText("Label", 8, std::string(66, 'x') + " 12 % rest");
  // Column 8 + 66 leaves six characters: " 12 %" is five and fits, " rest" does not.
  EXPECT_EQ(text, "Label   " + std::string(66, 'x') + " 12 %\n        rest\n");
  // One character less room: the number goes to the next line with its unit.
  EXPECT_EQ(LabelledText("Label", 8, std::string(68, 'x') + " 12 % rest"), "Label   " + std::string(68, 'x') + "\n        12 % rest\n");
  EXPECT_EQ(LabelledText("", 2, ""), "\n");
}

TEST(Text, TablesAlign) {
  TextTable table("lr");
  table.Add({"a", "1", "22"});
  table.Add({"bbb", "333", "4"});
  EXPECT_EQ(table.ToText(), "a      1  22\nbbb  333   4\n");
  TextTable wide("l");
  wide.Add({std::string(50, 'w'), "x"});
  wide.Add({"s", "y"});
  EXPECT_EQ(wide.ToText(" "), " " + std::string(50, 'w') + "  x\n s  y\n");
}

}  // namespace
}  // namespace simrun
