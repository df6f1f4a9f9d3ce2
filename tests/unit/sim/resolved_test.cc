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

}  // namespace
}  // namespace simrun
