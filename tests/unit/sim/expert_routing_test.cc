#include "sim/expert_routing.h"

#include <vector>

#include "gtest/gtest.h"
#include "sim/resolved.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

std::vector<uint32_t> Choices(const ExpertRouting& routing, uint64_t seed, uint64_t engine) {
  const auto router = routing.MakeRouter(seed, engine);
  std::vector<uint32_t> all;
  for (int step = 0; step < 3; ++step) {
    router->Begin(4, 3);
    for (int l = 0; l < router->layers(); ++l) {
      const std::span<const uint32_t> counts = router->Layer(l);
      all.insert(all.end(), counts.begin(), counts.end());
    }
  }
  return all;
}

// What is worked out once for all engines of a seed changes nothing, for other seeds neither.
TEST(ExpertRouting, EnginesShareALawAndChooseForThemselves) {
  const auto s = ScenarioOf("model: deepseek-v2-lite\nhardware: {gpu: h100-sxm-80gb}\nworkload: {static_batch: 1, input_tokens: 1, output_tokens: 1}\n");
  const auto plain = ExpertRouting::Make(nullptr, s->resolved().model, "");
  ASSERT_TRUE(plain.ok()) << plain.status();
  ExpertRouting prepared = *plain;
  prepared.Prepare(1);
  EXPECT_EQ(prepared.Popularity(1), plain->Popularity(1));
  for (const uint64_t seed : {1, 2}) {
    for (const uint64_t engine : {0, 1}) EXPECT_EQ(Choices(prepared, seed, engine), Choices(*plain, seed, engine)) << seed << ' ' << engine;
  }
  EXPECT_NE(Choices(prepared, 1, 0), Choices(prepared, 1, 1));
  EXPECT_NE(Choices(prepared, 1, 0), Choices(prepared, 2, 0));
}

}  // namespace
}  // namespace simrun
