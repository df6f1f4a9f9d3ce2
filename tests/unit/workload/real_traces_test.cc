// The readers on published traces: counts, spans and token sums equal those of the data's own index.
#include <cstdlib>
#include <map>

#include "tests/unit/workload/testing.h"

namespace simrun {
namespace {

std::string DataDir() {
  const char* dir = std::getenv("SIMRUN_DATA_DIR");
  return dir != nullptr ? dir : std::string(SIMRUN_SOURCE_DIR) + "/../shared/data";
}

std::vector<std::string> Fields(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

TEST(RealTraces, EqualTheirIndex) {
  const std::string dir = DataDir() + "/traces/";
  std::ifstream index(dir + "index.csv");
  if (!index) GTEST_SKIP() << "no reference data at " << dir << "; set SIMRUN_DATA_DIR";
  std::string line;
  std::getline(index, line);
  const std::vector<std::string> names = Fields(line);
  int checked = 0;
  while (std::getline(index, line)) {
    const std::vector<std::string> fields = Fields(line);
    std::map<std::string, std::string> row;
    for (size_t i = 0; i < names.size() && i < fields.size(); ++i) row[names[i]] = fields[i];
    const std::string path = dir + row["file"];
    if (!std::ifstream(path)) continue;
    SCOPED_TRACE(row["file"]);
    auto reader = TraceReader::Open(path, {});
    ASSERT_TRUE(reader.ok()) << reader.status();
    TraceRow r;
    SimTime first, last;
    int64_t n = 0, in = 0, out = 0, in_max = 0, out_max = 0;
    bool timed = true;
    while (true) {
      auto more = (*reader)->Next(&r);
      ASSERT_TRUE(more.ok()) << more.status();
      if (!*more) break;
      if (n++ == 0) first = r.at;
      last = r.at;
      timed = timed && r.timed;
      in += r.input_tokens;
      out += r.output_tokens;
      in_max = std::max(in_max, r.input_tokens);
      out_max = std::max(out_max, r.output_tokens);
    }
    EXPECT_EQ(n, std::stoll(row["n"]));
    EXPECT_EQ(timed, !row["duration_s"].empty());
    if (timed) {
      EXPECT_NEAR((last - first).seconds().value(), std::stod(row["duration_s"]), 0.00051);
    }
    // The index gives means to 0.1 token.
    EXPECT_NEAR(static_cast<double>(in) / static_cast<double>(n), std::stod(row["in_mean"]), 0.0501);
    EXPECT_NEAR(static_cast<double>(out) / static_cast<double>(n), std::stod(row["out_mean"]), 0.0501);
    EXPECT_EQ(in_max, std::stoll(row["in_max"]));
    EXPECT_EQ(out_max, std::stoll(row["out_max"]));
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

TEST(RealTraces, ReplayAndLengthsOnly) {
  const std::string dir = DataDir() + "/traces";
  if (!std::ifstream(dir + "/azure2023_conv.csv") || !std::ifstream(dir + "/arxiv_summarization_lengths.csv")) {
    GTEST_SKIP() << "no reference data at " << dir << "; set SIMRUN_DATA_DIR";
  }
  const auto conv = Arrivals("{trace: azure2023_conv.csv, rate_scale: 2}", SIZE_MAX, 1, dir);
  EXPECT_EQ(conv.size(), 19366u);
  EXPECT_NEAR(conv.back().at.seconds().value(), 3501.722 / 2, 0.001);
  const auto lengths = Arrivals("{trace: arxiv_summarization_lengths.csv, arrivals: {poisson: {rate: 10 /s}}}", SIZE_MAX, 1, dir);
  EXPECT_EQ(lengths.size(), 28257u);
}

}  // namespace
}  // namespace simrun
