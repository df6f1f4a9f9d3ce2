#include "sim/resolved.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

// Mistral 7B v0.1 has windows of 4096 tokens. Engines that do not keep to them look back at, and store, everything.
TEST(Resolved, EnginesWithoutSlidingWindowsSeeEverything) {
  const auto scenario = [](const char* profile) {
    return ScenarioOf(std::string("model: mistral-7b-v0.1\nhardware: {gpu: h100-sxm-80gb}\nengine: {profile: ") + profile +
                      "}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 20000, output_tokens: 10}\n");
  };
  EXPECT_EQ(scenario("vllm-0.19")->resolved().params.window, 4096);
  EXPECT_EQ(scenario("trt-llm-0.15")->resolved().params.window, 0);
  EXPECT_FALSE(scenario("trt-llm-0.15")->resolved().model.IsWindowedLayer(0));
}

// TensorRT-LLM multiplies GPT-OSS' experts by 8-bit activations where the GPU has units for 4-bit floats.
TEST(Resolved, ExpertsInMxfp4MeetTheActivationsOfTheEngine) {
  const auto activations = [](const char* profile, const char* gpu, const char* plan = "{}") {
    return ScenarioOf(std::string("model: gpt-oss-20b\nhardware: {gpu: ") + gpu + "}\nplan: " + plan + "\nengine: {profile: " + profile +
                      "}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 100, output_tokens: 10}\n")->resolved().plan.activations;
  };
  EXPECT_EQ(activations("trt-llm", "b200-sxm-180gb"), DType::kFp8);
  EXPECT_EQ(activations("trt-llm", "h100-sxm-80gb"), DType::kBf16);
  EXPECT_EQ(activations("vllm-0.19", "b200-sxm-180gb"), DType::kBf16);
  EXPECT_EQ(activations("trt-llm", "b200-sxm-180gb", "{activations: bf16}"), DType::kBf16);
}

// An engine refuses kernels that cannot run the experts.
TEST(Resolved, KernelsOfExpertsMustFitThem) {
  const auto error = [](const char* model, const char* gpu, const char* kernels) {
    const auto scenario = Scenario::FromYaml(std::string("model: ") + model + "\nhardware: {gpu: " + gpu + "}\nengine: {moe_backend: " + kernels +
                                     "}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 100, output_tokens: 10}\n");
    return scenario.ok() ? std::string() : std::string(scenario.status().message());
  };
  EXPECT_EQ(error("gpt-oss-20b", "h100-sxm-80gb", "triton"), "");
  EXPECT_EQ(error("gpt-oss-20b", "b200-sxm-180gb", "triton"), "");
  EXPECT_EQ(error("gpt-oss-20b", "a100-sxm-80gb", "marlin"), "");
  EXPECT_NE(error("gpt-oss-20b", "a100-sxm-80gb", "triton").find("3:23: engine.moe_backend: no times of triton kernels for a100-sxm-80gb"), std::string::npos);
  EXPECT_NE(error("qwen3-30b-a3b", "h100-sxm-80gb", "marlin").find("engine.moe_backend: marlin kernels take 4-bit weights under 16-bit activations, the experts are bf16 under bf16"), std::string::npos);
  EXPECT_NE(error("llama-3.1-8b", "h100-sxm-80gb", "marlin").find("engine.moe_backend: llama-3.1-8b has no experts"), std::string::npos);
}

}  // namespace
}  // namespace simrun
