#include "workload/trace_reader.h"

#include <zlib.h>

#include <algorithm>

#include "tests/support/instrumented.h"
#include "tests/unit/workload/testing.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

constexpr char kHeader[] = "arrival_s,input_tokens,output_tokens\n";

SimTime At(double seconds) { return SimTime::From(Seconds(seconds)); }

std::string Gzip(std::string_view text) {
  z_stream s{};
  EXPECT_EQ(deflateInit2(&s, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 1000, '\0');
  s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  s.avail_in = static_cast<uInt>(text.size());
  s.next_out = reinterpret_cast<Bytef*>(out.data());
  s.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&s, Z_FINISH), Z_STREAM_END);
  out.resize(s.total_out);
  deflateEnd(&s);
  return out;
}

TEST(TraceReader, Generic) {
  const auto r = ReadTrace("arrival_s,input_tokens,output_tokens,session,hash_ids\n"
                           "0,4808,10,alice,0 1 2\n"
                           "0.052,3180,8,aline,3 4\n"
                           "1.5e1,12.0,1e3,alice,\n"
                           "15.00000000014,1,1,,9\n"
                           "15.00000000016,1,1,,9\n");
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 5u);
  EXPECT_EQ(r.format, TraceFormat::kGeneric);
  EXPECT_EQ(r.rows[0].at, At(0));
  EXPECT_EQ(r.rows[0].input_tokens, 4808);
  EXPECT_EQ(r.rows[0].output_tokens, 10);
  EXPECT_EQ(r.rows[1].at, SimTime::FromTicks(520'000'000));
  EXPECT_EQ(r.rows[2].at, At(15));
  EXPECT_EQ(r.rows[2].input_tokens, 12);
  EXPECT_EQ(r.rows[2].output_tokens, 1000);
  EXPECT_EQ(r.rows[3].at, SimTime::FromTicks(150'000'000'001));  // rounded from 1.4 ticks
  EXPECT_EQ(r.rows[4].at, SimTime::FromTicks(150'000'000'002));  // and from 1.6
  EXPECT_NE(r.rows[0].session, 0u);
  EXPECT_NE(r.rows[0].session, r.rows[1].session);
  EXPECT_EQ(r.rows[0].session, r.rows[2].session);
  EXPECT_EQ(r.rows[3].session, 0u);
}

TEST(TraceReader, ColumnsInAnyOrder) {
  const auto r = ReadTrace("note,output_tokens,arrival_s,input_tokens\n\"a, \"\"b\"\"\",7,1.25,30\nx,8,2,31\n");
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 2u);
  EXPECT_EQ(r.rows[0].output_tokens, 7);
  EXPECT_EQ(r.rows[0].input_tokens, 30);
  EXPECT_EQ(r.rows[0].at, At(1.25));
}

TEST(TraceReader, ToleratesMarkBlankLinesQuotesAndLineEnds) {
  const auto r = ReadTrace("\xef\xbb\xbf\r\n\"arrival_s\", input_tokens ,output_tokens\r\n\r\n \t\r\n\"1\", 2 ,\"3\"\r\n\n4,5,6");
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 2u);
  EXPECT_EQ(r.rows[0].output_tokens, 3);
  EXPECT_EQ(r.rows[1].at, At(4));
  EXPECT_EQ(r.rows[1].output_tokens, 6);  // no line end after the last row
}

TEST(TraceReader, LengthsOnly) {
  for (const char* text : {"arrival_s,input_tokens,output_tokens\n,3772,54\n,2015,156\n", "input_tokens,output_tokens\n3772,54\n2015,156\n"}) {
    const auto r = ReadTrace(text);
    ASSERT_TRUE(r.status.ok()) << r.status;
    ASSERT_EQ(r.rows.size(), 2u);
    EXPECT_FALSE(r.rows[0].timed);
    EXPECT_EQ(r.rows[1].input_tokens, 2015);
  }
}

TEST(TraceReader, AzureDatesAreRebasedToTheFirst) {
  const auto r = ReadTrace("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                           "2023-11-16 23:59:59.9799600,4808,10\n"
                           "2023-11-17 00:00:00.0319601,3180,8\n");
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 2u);
  EXPECT_EQ(r.format, TraceFormat::kAzure);
  EXPECT_EQ(r.rows[0].at, At(0));
  EXPECT_EQ(r.rows[1].at, SimTime::FromTicks(520'001'000));  // 0.0520001 s over midnight
  EXPECT_EQ(r.rows[1].output_tokens, 8);
}

TEST(TraceReader, Azure2024ZonesAndLeapDays) {
  const auto r = ReadTrace("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                           "2024-02-28 23:00:00+00:00,1,1\n"
                           "2024-02-29T00:00:00Z,1,1\n"          // an hour later
                           "2024-03-01 02:00:00.5+01:00,1,1\n"   // 01:00:00.5 UTC, a leap day later
                           "2024-12-31 23:00:00,1,1\n");
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 4u);
  EXPECT_EQ(r.rows[1].at, At(3600));
  EXPECT_EQ(r.rows[2].at, At(26 * 3600 + 0.5));
  EXPECT_EQ(r.rows[3].at, At((2 + 306 - 1) * 86400.0));  // March to December have 306 days
}

TEST(TraceReader, BurstGpt) {
  const auto v1 = ReadTrace("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                            "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n");
  ASSERT_TRUE(v1.status.ok()) << v1.status;
  ASSERT_EQ(v1.rows.size(), 2u);
  EXPECT_EQ(v1.format, TraceFormat::kBurstGpt);
  EXPECT_EQ(v1.rows[0].at, At(5));
  EXPECT_EQ(v1.rows[1].input_tokens, 1087);
  EXPECT_EQ(v1.rows[1].output_tokens, 230);
  const auto v2 = ReadTrace("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                            "5.5,s1,3.2,ChatGPT,472,18,490,Conversation log\n");
  ASSERT_TRUE(v2.status.ok()) << v2.status;
  EXPECT_EQ(v2.rows[0].input_tokens, 472);
  EXPECT_NE(v2.rows[0].session, 0u);
}

TEST(TraceReader, Vidur) {
  const auto r = ReadTrace("arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,100,20\n");
  ASSERT_TRUE(r.status.ok()) << r.status;
  EXPECT_EQ(r.format, TraceFormat::kVidur);
  EXPECT_EQ(r.rows[0].at, At(0.25));
  EXPECT_EQ(r.rows[0].input_tokens, 100);
}

TEST(TraceReader, Mooncake) {
  const auto r = ReadTrace("{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1, 2]}\n"
                           "\n"
                           "{\"hash_ids\":[],\"output_length\":3,\"timestamp\":27482.5,\"input_length\":7322}\r\n"
                           "{\"timestamp\": 30000, \"x\": {\"a\": [\"]}\\\"\", {}], \"b\": null}, \"input_length\": 1, \"output_length\": 2}");
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 3u);
  EXPECT_EQ(r.format, TraceFormat::kMooncake);
  EXPECT_EQ(r.rows[0].input_tokens, 6758);
  EXPECT_EQ(r.rows[0].output_tokens, 500);
  EXPECT_EQ(r.rows[1].at, At(27.4825));
  EXPECT_EQ(r.rows[1].output_tokens, 3);
  EXPECT_EQ(r.rows[2].at, At(30));
}

TEST(TraceReader, HashIdsWhenAsked) {
  const std::string csv = "arrival_s,input_tokens,output_tokens,session,hash_ids\n0,40,1,,\n0,33,1,,7 18446744073709551615  9\n1,32,1,, 7 8 \n";
  EXPECT_TRUE(ReadTrace(csv).rows[1].hash_ids.empty());
  auto r = ReadTrace(csv, {.hash_ids = true});
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 3u);
  EXPECT_TRUE(r.rows[0].hash_ids.empty());
  EXPECT_EQ(r.rows[1].hash_ids, (std::vector<uint64_t>{7, UINT64_MAX, 9}));
  EXPECT_EQ(r.rows[2].hash_ids, (std::vector<uint64_t>{7, 8}));
  r = ReadTrace("{\"timestamp\": 0, \"input_length\": 1025, \"output_length\": 5, \"hash_ids\": [ 0,1, 2 ]}\n"
                "{\"timestamp\": 1, \"hash_ids\": null, \"input_length\": 10, \"output_length\": 5}\n"
                "{\"timestamp\": 1, \"hash_ids\": [], \"input_length\": 10, \"output_length\": 5}\n", {.hash_ids = true});
  ASSERT_TRUE(r.status.ok()) << r.status;
  EXPECT_EQ(r.rows[0].hash_ids, (std::vector<uint64_t>{0, 1, 2}));
  EXPECT_TRUE(r.rows[1].hash_ids.empty() && r.rows[2].hash_ids.empty());
}

TEST(TraceReader, TokensPerHashId) {
  const auto block_of = [](const std::string& text, const TraceOptions& options) {
    auto reader = TraceReader::Open(FromMemory(text), "t.csv", options);
    TraceRow row;
    EXPECT_TRUE((*reader)->Next(&row).ok());
    return (*reader)->hash_block();
  };
  const std::string head = "arrival_s,input_tokens,output_tokens,hash_ids\n";
  EXPECT_EQ(block_of(head + "0,1400,1,1 2 3\n", {.hash_ids = true}), 512);     // ceil: the last is not full
  EXPECT_EQ(block_of(head + "0,50,1,1 2 3\n", {.hash_ids = true}), 16);        // floor: full blocks alone
  EXPECT_EQ(block_of(head + "0,50,1,1 2 3\n", {.hash_ids = true, .hash_block = 20}), 20);
  EXPECT_EQ(block_of("{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5}\n", {.hash_ids = true}), 512);
  EXPECT_EQ(block_of("{\"chat_id\": 1, \"timestamp\": 0, \"input_length\": 9, \"output_length\": 5}\n", {.hash_ids = true}), 16);
}

TEST(TraceReader, BrokenHashIds) {
  const std::string head = "arrival_s,input_tokens,output_tokens,hash_ids\n";
  const std::pair<std::string, const char*> cases[] = {
      {head + "0,50,1,1 x 3\n", "t.csv:2: hash_ids \"x\" is not a whole number"},
      {head + "0,50,1,1 -2 3\n", "hash_ids \"-2\" is not a whole number"},
      {head + "0,50,1,1 2.0 3\n", "hash_ids \"2.0\" is not a whole number"},
      {head + "0,50,1,18446744073709551616\n", "hash_ids \"18446744073709551616\" is not a whole number of at most 64 bits"},
      {head + "0,500,1,1 2\n0,500,1,1 2 3\n", "t.csv:3: hash_ids has 3 ids, but the 500 tokens of the prompt are 2 blocks of 256; set hash_block"},
      {head + "0,1,1,1\n", "t.csv:2: 1 ids for 1 tokens do not say how many tokens an id stands for; set hash_block"},
      {head + "0,100,1,1 2 3 4 5\n", "5 ids for 100 tokens do not say how many"},
      {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1, 2,]}", "hash_ids is not an array of numbers"},
      {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1 2]}", "hash_ids is not an array of numbers"},
      {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [\"a\"]}", "is not a whole number"},
      {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1, 2", "is not one complete JSON object"},
      {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1], \"hash_ids\": [1]}", "key \"hash_ids\" stands twice"},
      {"{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1, 2]}", "hash_ids has 2 ids, but the 9 tokens of the prompt are 1 blocks"},
  };
  for (const auto& [text, message] : cases) {
    const auto r = ReadTrace(text, {.hash_ids = true});
    EXPECT_EQ(r.status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(Message(r.status), HasSubstr(message)) << text;
  }
}

TEST(TraceReader, BailianCountsInSeconds) {
  const auto r = ReadTrace("{\"chat_id\": 159, \"parent_chat_id\": -1, \"timestamp\": 61.114, \"input_length\": 521, "
                           "\"output_length\": 132, \"type\": \"text\", \"turn\": 1, \"hash_ids\": [1, 2]}\n");
  ASSERT_TRUE(r.status.ok()) << r.status;
  EXPECT_EQ(r.format, TraceFormat::kBailian);
  EXPECT_EQ(r.rows[0].at, At(61.114));
}

TEST(TraceReader, ZeroTokensAreSkippedOnlyWhenAsked) {
  const std::string text = std::string(kHeader) + "0,10,0\n1,0,5\n2,3,4\n";
  const auto strict = ReadTrace(text);
  EXPECT_EQ(Message(strict.status), "t.csv:2: output_tokens is 0; set skip_invalid: true to leave such rows out");
  const auto lenient = ReadTrace(text, {.skip_invalid = true});
  ASSERT_TRUE(lenient.status.ok()) << lenient.status;
  EXPECT_EQ(lenient.skipped, 2);
  ASSERT_EQ(lenient.rows.size(), 1u);
  EXPECT_EQ(lenient.rows[0].at, At(2));
}

struct Broken {
  const char* text;
  const char* message;
};

TEST(TraceReader, BrokenContentIsNamedWithItsPlace) {
  const Broken cases[] = {
      {"", "t.csv: is empty; a trace starts with"},
      {"\n \r\n", "t.csv: is empty"},
      {"a,b,c\n1,2,3\n", "t.csv:1: the header \"a,b,c\" is of no known trace; a generic trace starts with"},
      {"\x7f""ELF\x02\x01", "t.csv:1: the header \"\\x7fELF\\x02\\x01\" is of no known trace"},
      {"arrival_s,input_tokens\n0,1\n", "t.csv:1: the generic format needs a column \"output_tokens\""},
      {"arrival_s,input_tokens,output_token\n", "needs a column \"output_tokens\"; is \"output_token\" meant?"},
      {"ContextTokens,GeneratedTokens\n1,2\n", "t.csv:1: the azure format needs a column \"TIMESTAMP\""},
      {"arrival_s,input_tokens,output_tokens,input_tokens\n", "names column \"input_tokens\" 2 times"},
      {"arrival_s,\"input_tokens,output_tokens\n", "t.csv:1: the header has a quote that is not closed"},
      {"arrival_s,input_tokens,output_tokens\n0,1\n", "t.csv:2: the row has fewer fields than the header's 3"},
      {"arrival_s,input_tokens,output_tokens\n0,1,000,2\n", "t.csv:2: the row has more fields than the header's 3; numbers"},
      {"arrival_s,input_tokens,output_tokens\n0,\"1,2\n", "t.csv:2: a quoted field does not end on its line"},
      {"arrival_s,input_tokens,output_tokens\n0,\"1\"x,2\n", "t.csv:2: a quoted field does not end"},
      {"arrival_s,input_tokens,output_tokens\n\n0,ten,2\n", "t.csv:3: input_tokens \"ten\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\n0,,2\n", "t.csv:2: input_tokens is empty"},
      {"arrival_s,input_tokens,output_tokens\n0,nan,2\n", "input_tokens \"nan\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\n0,1,-2\n", "output_tokens \"-2\" is negative"},
      {"arrival_s,input_tokens,output_tokens\n0,1,2.5\n", "output_tokens \"2.5\" is not a whole number"},
      {"arrival_s,input_tokens,output_tokens\n0,1,2x\n", "output_tokens \"2x\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\n0,1,2.0x\n", "output_tokens \"2.0x\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\n0,1,2000000000\n", "is more than a billion tokens"},
      {"arrival_s,input_tokens,output_tokens\n0,1,99999999999999999999\n", "is more than a billion tokens"},
      {"arrival_s,input_tokens,output_tokens\n0,1,inf\n", "is more than a billion tokens"},
      {"arrival_s,input_tokens,output_tokens\nnan,1,2\n", "t.csv:2: arrival_s \"nan\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\ninf,1,2\n", "arrival_s \"inf\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\n1.5.2,1,2\n", "arrival_s \"1.5.2\" is not a number"},
      {"arrival_s,input_tokens,output_tokens\n-1,1,2\n", "arrival_s \"-1\" is negative"},
      {"arrival_s,input_tokens,output_tokens\n1700000000,1,2\n", "arrival_s \"1700000000\" is more than 28 years; times count"},
      {"arrival_s,input_tokens,output_tokens\n1e400,1,2\n", "is more than 28 years"},
      {"arrival_s,input_tokens,output_tokens\n99999999999999999999999999,1,2\n", "is more than 28 years"},
      {"arrival_s,input_tokens,output_tokens\n5,1,2\n4.5,1,2\n", "t.csv:3: arrives 0.5 s before an earlier row; sort the trace by arrival_s"},
      {"arrival_s,input_tokens,output_tokens\n5,1,2\n,1,2\n", "t.csv:3: arrival_s is missing but earlier rows have one"},
      {"arrival_s,input_tokens,output_tokens\n,1,2\n5,1,2\n", "t.csv:3: arrival_s is given but earlier rows do not have one"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n5,1,2\n", "t.csv:2: TIMESTAMP \"5\" is no date; write it as"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-02-29 00:00:00,1,2\n", "\"2023-02-29 00:00:00\" is no date"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-01 00:00:00,1,2\n", "is no date"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03x,1,2\n", "is no date"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1,2\n2023-11-16 18:17:02,1,2\n", "t.csv:3: arrives 1 s before"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n1970-01-01 00:00:00,1,2\n2023-11-16 18:17:02,1,2\n", "more than 28 years from the first row"},
      {"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,G,1,0,1,API\n", "t.csv:2: Response tokens is 0; set skip_invalid"},
      {"{\"timestamp\": 0, \"input_length\": 1}\n", "t.csv:1: key \"output_length\" is missing"},
      {"{\"timestamp\": 0, \"input_length\": 1, \"input_length\": 1}\n", "t.csv:1: key \"input_length\" stands twice"},
      {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 2\n", "t.csv:1: is not one complete JSON object"},
      {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 2} x\n", "t.csv:1: is not one complete JSON object"},
      {"{\"timestamp\": 0, \"input_length\": \"a\", \"output_length\": 2}\n", "t.csv:1: input_length \"a\" is not a number"},
      {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 2}\n[1]\n", "t.csv:2: is not one complete JSON object"},
      {"{\"timestamp\": 0, \"h\": [1, 2, \"input_length\": 1, \"output_length\": 2}\n", "is not one complete JSON object"},
  };
  for (const Broken& c : cases) {
    const auto r = ReadTrace(c.text);
    EXPECT_EQ(r.status.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(Message(r.status), HasSubstr(c.message)) << c.text;
  }
}

TEST(TraceReader, NulBytesAreReportedWithTheirLine) {
  const std::string text = std::string(kHeader) + "0,1,2\n1,2,3" + '\0' + "\n2,3,4\n";
  const auto r = ReadTrace(text);
  EXPECT_EQ(r.rows.size(), 1u);  // the rows before it are fine
  EXPECT_THAT(Message(r.status), HasSubstr("t.csv:3: holds a NUL byte"));
  EXPECT_THAT(Message(ReadTrace(std::string(5000, '\0')).status), HasSubstr("t.csv:1: holds a NUL byte"));
}

TEST(TraceReader, AnErrorIsRepeated) {
  const std::string text = std::string(kHeader) + "0,x,2\n1,1,1\n";
  auto reader = TraceReader::Open(FromMemory(text), "t.csv", {});
  ASSERT_TRUE(reader.ok());
  TraceRow row;
  const absl::Status first = (*reader)->Next(&row).status();
  EXPECT_FALSE(first.ok());
  EXPECT_EQ((*reader)->Next(&row).status(), first);
}

TEST(TraceReader, ForcedFormat) {
  EXPECT_THAT(Message(ReadTrace(kHeader, {.format = TraceFormat::kAzure}).status), HasSubstr("needs a column \"TIMESTAMP\""));
  EXPECT_THAT(Message(ReadTrace(std::string(kHeader) + "0,1,2\n", {.format = TraceFormat::kMooncake}).status),
              HasSubstr("t.csv:1: is not one complete JSON object"));
  const std::string line = "{\"timestamp\": 2, \"input_length\": 1, \"output_length\": 1}\n";
  EXPECT_EQ(ReadTrace(line, {.format = TraceFormat::kBailian}).rows[0].at, At(2));
  EXPECT_EQ(ReadTrace(line).rows[0].at, At(0.002));
}

TEST(TraceReader, FormatNames) {
  for (const std::string& name : TraceFormatNames()) EXPECT_TRUE(ParseTraceFormat(name).ok()) << name;
  EXPECT_EQ(*ParseTraceFormat("azure2023"), TraceFormat::kAzure);
  EXPECT_EQ(*ParseTraceFormat("azure2024"), TraceFormat::kAzure);
  EXPECT_THAT(Message(ParseTraceFormat("mooncak").status()), HasSubstr("did you mean \"mooncake\"?"));
}

TEST(TraceReader, Files) {
  TempDir dir;
  const auto missing = TraceReader::Open(dir.path() + "/none.csv", {});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(missing.status()), dir.path() + "/none.csv: no such file");
  const auto folder = TraceReader::Open(dir.path(), {});
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(folder.status()), HasSubstr("is a directory"));

  const std::string text = std::string(kHeader) + "0,1,2\n3,4,5\n";
  for (const std::string& path : {dir.Write("a.csv", text), dir.Write("a.csv.gz", Gzip(text))}) {
    auto reader = TraceReader::Open(path, {});
    ASSERT_TRUE(reader.ok()) << reader.status();
    TraceRow row;
    ASSERT_TRUE(*(*reader)->Next(&row));
    ASSERT_TRUE(*(*reader)->Next(&row));
    EXPECT_EQ(row.output_tokens, 5);
    EXPECT_EQ((*reader)->Place(), path + ":3");
    EXPECT_FALSE(*(*reader)->Next(&row));
    EXPECT_EQ((*reader)->rows(), 2);
  }
}

TEST(TraceReader, GzipMembersAreOneStream) {
  const auto r = ReadTrace(Gzip(std::string(kHeader) + "0,1,2\n1,") + Gzip("") + Gzip("2,3\n"));
  ASSERT_TRUE(r.status.ok()) << r.status;
  ASSERT_EQ(r.rows.size(), 2u);
  EXPECT_EQ(r.rows[1].output_tokens, 3);
}

TEST(TraceReader, EveryTruncationOfAGzipFileIsAnError) {
  std::string text = kHeader;
  for (int i = 0; i < 200; ++i) text += std::to_string(i) + "," + std::to_string(1 + i * i) + ",3\n";
  const std::string packed = Gzip(text);
  ASSERT_TRUE(ReadTrace(packed).status.ok());
  for (size_t n = 2; n < packed.size(); ++n) {
    const auto r = ReadTrace(std::string_view(packed).substr(0, n));
    EXPECT_EQ(r.status.code(), absl::StatusCode::kInvalidArgument) << n;
    EXPECT_THAT(Message(r.status), HasSubstr("the gzip file is cut short")) << n;
  }
}

TEST(TraceReader, DamagedGzipIsAnError) {
  std::string packed = Gzip(std::string(kHeader) + "0,1,2\n");
  EXPECT_THAT(Message(ReadTrace(packed + "tail").status), HasSubstr("bytes after the end of the gzip data"));
  packed[packed.size() - 6] ^= 1;  // in the checksum
  EXPECT_THAT(Message(ReadTrace(packed).status), HasSubstr("the gzip file is damaged"));
}

// Endless text without a line end; remembers how much was taken.
class Endless : public ByteSource {
 public:
  explicit Endless(size_t* taken) : taken_(taken) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    std::fill_n(buffer, size, 'x');
    *taken_ += size;
    return size;
  }

 private:
  size_t* taken_;
};

TEST(TraceReader, AnOverlongLineStopsEarly) {
  size_t taken = 0;
  const auto reader = TraceReader::Open(std::make_unique<Endless>(&taken), "t.csv", {});
  EXPECT_THAT(Message(reader.status()), HasSubstr("t.csv:1: the line is longer than 1 MiB"));
  EXPECT_LE(taken, 4u << 20);

  const std::string fits = std::string(kHeader) + "0,1,2" + std::string(LineReader::kMaxLine - 5, ' ') + "\n1,2,3\n";
  EXPECT_EQ(ReadTrace(fits).rows.size(), 2u);
  const std::string too_long = std::string(kHeader) + "0,1,2" + std::string(LineReader::kMaxLine - 4, ' ') + "\n1,2,3\n";
  EXPECT_THAT(Message(ReadTrace(too_long).status), HasSubstr("t.csv:2: the line is longer than 1 MiB"));
}

// Hands out a few bytes at a time, so that lines straddle every boundary.
class Dribble : public ByteSource {
 public:
  Dribble(std::string_view text, size_t step) : text_(text), step_(step) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    const size_t n = std::min({size, step_, text_.size()});
    std::copy_n(text_.data(), n, buffer);
    text_.remove_prefix(n);
    return n;
  }

 private:
  std::string_view text_;
  size_t step_;
};

TEST(TraceReader, ReadSizesDoNotMatter) {
  const std::string plain = "\xef\xbb\xbf" + std::string(kHeader) + "0,1,2\r\n10,20,30\n100,200,300";
  for (const std::string& text : {plain, Gzip(plain)}) {
    for (size_t step = 1; step < 40; ++step) {
      auto reader = TraceReader::Open(std::make_unique<Dribble>(text, step), "t.csv", {});
      ASSERT_TRUE(reader.ok()) << reader.status();
      int64_t input = 0, output = 0;
      TraceRow row;
      while (true) {
        auto more = (*reader)->Next(&row);
        ASSERT_TRUE(more.ok()) << more.status();
        if (!*more) break;
        input += row.input_tokens;
        output += row.output_tokens;
      }
      EXPECT_EQ(input, 221);
      EXPECT_EQ(output, 332);
    }
  }
}

TEST(TraceReader, ReadErrorsKeepTheirCode) {
  class FailsAtItsEnd : public ByteSource {
   public:
    absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
      if (text_.empty()) return absl::UnavailableError("cannot be read: disk on fire");
      const size_t n = std::min(size, text_.size());
      std::copy_n(text_.data(), n, buffer);
      text_.erase(0, n);
      return n;
    }

   private:
    std::string text_ = std::string(kHeader) + "0,1,2\n1";
  };
  auto reader = TraceReader::Open(std::make_unique<FailsAtItsEnd>(), "t.csv", {});
  ASSERT_TRUE(reader.ok()) << reader.status();
  TraceRow row;
  ASSERT_TRUE((*reader)->Next(&row).ok());
  const auto r = (*reader)->Next(&row);
  EXPECT_EQ(r.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Message(r.status()), "t.csv:3: cannot be read: disk on fire");
}

// Two million rows from nowhere.
class Rows : public ByteSource {
 public:
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    while (text_.size() < 4096 && next_ < 2'000'000) {
      text_ += std::to_string(next_ / 10) + "." + std::to_string(next_ % 10) + ",100,10,client" + std::to_string(next_) + "\n";
      ++next_;
    }
    const size_t n = std::min(size, text_.size());
    std::copy_n(text_.data(), n, buffer);
    text_.erase(0, n);
    return n;
  }

 private:
  std::string text_ = "arrival_s,input_tokens,output_tokens,session\n";
  int64_t next_ = 0;
};

// 0 when it cannot be told: no /proc, or a sanitizer that keeps freed memory.
int64_t ResidentBytes() {
  if (kInstrumented) return 0;
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * 4096;
}

TEST(TraceReader, MemoryDoesNotGrowWithTheTrace) {
  auto reader = TraceReader::Open(std::make_unique<Rows>(), "rows", {});
  ASSERT_TRUE(reader.ok()) << reader.status();
  TraceRow row;
  for (int i = 0; i < 50'000; ++i) ASSERT_TRUE((*reader)->Next(&row).value());
  const int64_t before = ResidentBytes();
  if (before == 0) GTEST_SKIP() << "needs /proc/self/statm and a build without sanitizers";
  while ((*reader)->Next(&row).value()) {
  }
  EXPECT_EQ((*reader)->rows(), 2'000'000);
  EXPECT_LT(ResidentBytes() - before, 1 << 20);  // half a byte a row
}

}  // namespace
}  // namespace simrun
