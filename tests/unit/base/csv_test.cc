#include "base/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace simrun {
namespace {

using ::testing::HasSubstr;

TEST(CsvTable, ReadsQuotesLineEndsAndByteOrderMark) {
  const auto table = CsvTable::Parse("\xEF\xBB\xBF" "a,b\r\n1,\"x, \"\"y\"\"\"\n\n2,\"two\nlines\"\n3,", "t.csv");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(table->columns(), testing::ElementsAre("a", "b"));
  ASSERT_EQ(table->rows(), 3u);
  EXPECT_EQ(table->Cell(0, 1), "x, \"y\"");
  EXPECT_EQ(table->Cell(1, 1), "two\nlines");
  EXPECT_EQ(table->Cell(2, 1), "");
  EXPECT_EQ(table->Line(1), 4);
  EXPECT_EQ(table->Line(2), 6);
  EXPECT_EQ(table->Column("b"), 1u);
  EXPECT_FALSE(table->Column("c").has_value());
}

TEST(CsvTable, SaysWhereAndWhatIsWrong) {
  const auto message = [](std::string_view text) { return std::string(CsvTable::Parse(text, "t.csv").status().message()); };
  EXPECT_THAT(message(""), HasSubstr("t.csv:1: is empty"));
  EXPECT_THAT(message("a,b\n1,2\n1,2,3\n"), HasSubstr("t.csv:3: has 3 fields but the header has 2"));
  EXPECT_THAT(message("a,a\n"), HasSubstr("column \"a\" stands twice"));
  EXPECT_THAT(message("a\n\"open\n"), HasSubstr("t.csv:2: a quote is not closed"));
  EXPECT_THAT(message("a\n\"x\"y\n"), HasSubstr("text follows a closing quote"));
}

TEST(CsvField, QuotesOnlyWhatNeedsIt) {
  EXPECT_EQ(CsvField("plain text"), "plain text");
  EXPECT_EQ(CsvField("a,\"b\""), "\"a,\"\"b\"\"\"");
  const auto back = CsvTable::Parse("h,i\n" + CsvField("a,\"b\"\nc") + ",1\n", "t.csv");
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->Cell(0, 0), "a,\"b\"\nc");
}

}  // namespace
}  // namespace simrun
