// Production traces through the plans people weigh against each other: every request completes or is refused with a
// reason, and every token of the file is accounted for.
#include <fstream>
#include <sstream>
#include <string>
#include <tuple>

#include <fmt/format.h>

#include "gtest/gtest.h"
#include "sim/simulation.h"
#include "tests/support/data_dir.h"

namespace simrun {
namespace {

struct Totals {
  int64_t requests = 0, input = 0, output = 0;
  friend bool operator==(const Totals&, const Totals&) = default;
};

// Columns arrival_s,input_tokens,output_tokens[,...], read independently of the library.
Totals ReadTotals(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  Totals t;
  while (std::getline(in, line)) {
    std::stringstream cells(line);
    std::string arrival, input, output;
    std::getline(cells, arrival, ',');
    std::getline(cells, input, ',');
    std::getline(cells, output, ',');
    ++t.requests;
    t.input += std::stoll(input);
    t.output += std::stoll(output);
  }
  return t;
}

class Accountant final : public EngineObserver {
 public:
  void OnFinish(const RequestRecord& r) override { Add(&finished, r.input_tokens, r.output_tokens); }
  void OnRefuse(const Arrival& a, Refusal) override { Add(&refused, a.input_tokens, a.output_tokens); }
  Totals finished, refused;

 private:
  static void Add(Totals* t, int64_t input, int64_t output) {
    ++t->requests;
    t->input += input;
    t->output += output;
  }
};

using Case = std::tuple<const char*, std::pair<const char*, const char*>>;

class RealTraces : public testing::TestWithParam<Case> {};

TEST_P(RealTraces, EveryRequestAndTokenIsAccountedFor) {
  const auto& [trace, setting] = GetParam();
  const std::string path = DataFile(fmt::format("traces/{}.csv", trace));
  if (path.empty()) GTEST_SKIP() << "no data: set SIMRUN_DATA_DIR to the folder that holds traces/";
  const absl::StatusOr<Scenario> scenario = Scenario::FromYaml(fmt::format(
      "model: {}\nhardware: {{node: dgx-h100}}\nplan: {}\nworkload: {{trace: {}}}\n", setting.first, setting.second, path));
  Accountant accountant;
  SimulateOptions options;
  options.observer = &accountant;
  const absl::StatusOr<Report> report = Simulate(scenario, std::move(options));
  ASSERT_TRUE(report.ok()) << report.status();
  const Totals file = ReadTotals(path);
  const Totals seen{accountant.finished.requests + accountant.refused.requests, accountant.finished.input + accountant.refused.input,
                    accountant.finished.output + accountant.refused.output};
  EXPECT_EQ(seen, file) << seen.requests << " of " << file.requests << " requests";
  EXPECT_EQ(report->requests.arrived, file.requests);
  EXPECT_EQ(report->requests.completed, accountant.finished.requests);
  EXPECT_EQ(report->requests.rejected, accountant.refused.requests);
  EXPECT_EQ(report->requests.rejected, report->requests.rejected_context_length + report->requests.rejected_kv_memory);
  EXPECT_EQ(report->requests.input_tokens, accountant.finished.input);
  EXPECT_EQ(report->requests.output_tokens, accountant.finished.output);
  // One gap per output token but the first of each request.
  EXPECT_EQ(report->itl.count, accountant.finished.output - accountant.finished.requests);
  EXPECT_GT(accountant.finished.requests, file.requests / 2);
}

INSTANTIATE_TEST_SUITE_P(
    Plans, RealTraces,
    testing::Combine(testing::Values("azure2023_conv", "azure2023_code", "mooncake_conversation"),
                     testing::Values(std::pair("llama-3.1-70b", "{tp: 8}"), std::pair("llama-3.1-70b", "{tp: 4, replicas: 2}"),
                                     std::pair("llama-3.1-70b", "{tp: 2, replicas: 4}"), std::pair("llama-3.1-70b", "{tp: 4, pp: 2}"),
                                     std::pair("mixtral-8x7b", "{tp: 4, ep: 4, replicas: 2}"))));

}  // namespace
}  // namespace simrun
