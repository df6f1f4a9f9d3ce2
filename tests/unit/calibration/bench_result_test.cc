#include "calibration/bench_result.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calibration/case_scenario.h"
#include "sim/resolved.h"
#include "sim/scenario.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

std::string Write(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

constexpr char kJson[] = R"({"date": "20251124-101010", "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B", "num_prompts": 40,
 "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 4, "duration": 20.5, "completed": 40, "total_input_tokens": 36000,
 "total_output_tokens": 3600, "request_throughput": 1.95, "output_throughput": 175.6, "total_token_throughput": 1931.7,
 "mean_ttft_ms": 61.5, "median_ttft_ms": 55.0, "std_ttft_ms": 9.1, "p99_ttft_ms": 120.0, "mean_tpot_ms": 7.9, "input_lens": [1000, 800]})";

TEST(ReadBenchResult, TakesLoadLengthsAndValues) {
  Write("result.yaml", "gpu: h100-sxm-80gb\nengine_version: \"0.19.0\"\nrandom_range_ratio: 0.8\nmax_num_seqs: 64\n");
  const auto c = ReadBenchResult(Write("result.json", kJson));
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->model, "llama-3.1-8b");
  EXPECT_EQ(c->load_kind, "concurrency");
  EXPECT_EQ(c->load_value, 4);
  // 36000 / 40 is the mean of lengths from 0.8 L to L, so L = 900 / 0.9.
  EXPECT_NEAR(*c->isl, 1000, 1e-9);
  EXPECT_NEAR(*c->osl, 100, 1e-9);
  EXPECT_EQ(c->Note("max_num_seqs"), "64");
  ASSERT_EQ(c->values.size(), 7u) << "three of TTFT, one of TPOT, three rates";
  EXPECT_EQ(c->values[0].metric, "ttft");
  EXPECT_EQ(c->values[0].value, 61.5);
  EXPECT_EQ(c->values[1].statistic, "p50");
  const auto scenario = ScenarioOfCase(*c, "", std::make_shared<const Catalog>(BuiltInCatalog()));
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  EXPECT_EQ(scenario->scenario.config().workload.input_tokens->uniform->min, 800);
  EXPECT_EQ(scenario->scenario.config().workload.requests, 40);
  Write("result.yaml", "gpu: h100-sxm-80gb\nmoe_backend: marlin\nasync_scheduling: true\n");
  EXPECT_EQ(ReadBenchResult(Write("result.json", kJson))->Note("moe_backend"), "marlin");
  EXPECT_EQ(ReadBenchResult(Write("result.json", kJson))->Note("async_scheduling"), "1");
}

// "--request-rate inf" without --max-concurrency: a server gets all requests at once. vllm bench serve writes no limit then.
TEST(ReadBenchResult, WithoutALimitAllRequestsAreSentAtOnce) {
  std::string json = kJson;
  const std::string limit = R"("max_concurrency": 4)";
  json.replace(json.find(limit), limit.size(), R"("max_concurrency": null)");
  Write("burst.yaml", "gpu: h100-sxm-80gb\nengine_version: \"0.11.0\"\n");
  const auto c = ReadBenchResult(Write("burst.json", json));
  ASSERT_TRUE(c.ok()) << c.status();
  const auto scenario = ScenarioOfCase(*c, "", std::make_shared<const Catalog>(BuiltInCatalog()));
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  EXPECT_EQ(scenario->scenario.config().workload.concurrency, 40);
  EXPECT_EQ(scenario->scenario.config().workload.requests, 40);
  EXPECT_TRUE(scenario->scenario.config().engine.server);
  EXPECT_EQ(scenario->scenario.resolved().params.limits.max_num_seqs, 1024) << "the engine's default";
}

TEST(ReadBenchResult, SaysWhatIsMissing) {
  EXPECT_THAT(std::string(ReadBenchResult(Write("alone.json", kJson)).status().message()), HasSubstr("alone.yaml"));
  Write("empty.yaml", "gpu: h100-sxm-80gb\n");
  EXPECT_THAT(std::string(ReadBenchResult(Write("empty.json", "{\"a\": 1}")).status().message()), HasSubstr("completed"));
  Write("typo.yaml", "gpus: h100\n");
  EXPECT_THAT(std::string(ReadBenchResult(Write("typo.json", kJson)).status().message()), HasSubstr("typo.yaml:1:1: gpus"));
}

}  // namespace
}  // namespace simrun
