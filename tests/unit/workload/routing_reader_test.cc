#include "workload/routing_reader.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<RoutingRecording> Read(const std::string& text) { return ReadRoutingRecording(FromMemory(text), "r.csv"); }

TEST(RoutingReaderTest, ReadsSequencesTokensAndLayers) {
  const auto r = Read("seq,token,L1,L2\n0,0,3 1,0 2\n0,1,1 4,2 3\n2,0,0 1,1 2\n");
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->layers, 2);
  EXPECT_EQ(r->top_k, 2);
  EXPECT_EQ(r->experts, 5);
  EXPECT_THAT(r->starts, ElementsAre(0, 2, 3));
  EXPECT_THAT(r->choices, ElementsAre(3, 1, 0, 2, 1, 4, 2, 3, 0, 1, 1, 2));
}

TEST(RoutingReaderTest, SaysWhereItIsBroken) {
  const std::string header = "seq,token,L1,L2\n";
  const struct {
    std::string text, message;
  } cases[] = {
      {"", "r.csv:1: is empty"},
      {"a,b,c\n", "r.csv:1: header is \"a,b,c\"; expected seq,token"},
      {header, "no tokens"},
      {header + "0,0,1 2\n", "r.csv:2: 1 layers instead of the header's 2"},
      {header + "0,0,1 2,3 4,5 6\n", "r.csv:2: more than 2 layers"},
      {header + "0,0,1 2,3\n", "r.csv:2: column 4: 1 experts instead of 2"},
      {header + "0,0,1 2,3 x\n", "r.csv:2: column 4: expert \"x\" is not a number"},
      {header + "0,0,1 2,3 9999\n", "r.csv:2: column 4: expert \"9999\""},
      {header + "0,0,1 1,3 4\n", "r.csv:2: column 3: expert 1 is chosen twice"},
      {header + "0,0,,3 4\n", "r.csv:2: column 3: 0 experts instead of 1"},
      {header + "x,0,1,2\n", "r.csv:2: seq \"x\""},
      {header + "0,1,1,2\n", "r.csv:2: sequence 0 starts with token 1"},
      {header + "0,0,1,2\n0,2,1,2\n", "r.csv:3: token 2 of sequence 0 follows token 0"},
      {header + "1,0,1,2\n0,0,1,2\n", "r.csv:3: sequence 0 after 1"},
      {std::string("\x1f\x8b\x08", 3), "r.csv:1: "},
  };
  for (const auto& c : cases) {
    const auto r = Read(c.text);
    ASSERT_FALSE(r.ok()) << c.text;
    EXPECT_THAT(std::string(r.status().message()), HasSubstr(c.message));
  }
}

TEST(RoutingReaderTest, ReadsOneGroupOfAPopularityTable) {
  const std::string text = "task,layer,expert,tokens_routed\na,1,0,5\na,1,1,7\nb,1,0,1\nb,1,2,3\nb,4,0,8\n";
  const CsvTable table = *CsvTable::Parse(text, "p.csv");
  const auto first = ReadPopularityTable(table, "");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->group, "a");
  EXPECT_THAT(first->tokens, ElementsAre(ElementsAre(5, 7)));
  const auto b = ReadPopularityTable(table, "b");
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_THAT(b->layer_numbers, ElementsAre(1, 4));
  EXPECT_THAT(b->tokens, ElementsAre(ElementsAre(1, 0, 3), ElementsAre(8, 0, 0)));
  EXPECT_THAT(std::string(ReadPopularityTable(table, "c").status().message()), HasSubstr("p.csv: has no group \"c\"; it has a, b"));
  const CsvTable bad = *CsvTable::Parse("layer,expert,tokens_routed\n0,0,1\n0,0,2\n", "p.csv");
  EXPECT_THAT(std::string(ReadPopularityTable(bad, "").status().message()), HasSubstr("p.csv:3: layer 0, expert 0 a second time"));
  const CsvTable negative = *CsvTable::Parse("layer,expert,tokens_routed\n0,0,-1\n", "p.csv");
  EXPECT_THAT(std::string(ReadPopularityTable(negative, "").status().message()), HasSubstr("p.csv:2: tokens_routed \"-1\""));
}

}  // namespace
}  // namespace simrun
