#include "schedulers/expert_prefetch.h"

#include "gtest/gtest.h"

namespace simrun {
namespace {

std::vector<std::pair<int, int32_t>> Choose(const std::string& kind, const PrefetchView& view) {
  ExpertPrefetch::Scratch scratch;
  std::vector<Prefetched> chosen;
  (*BuiltInExpertPrefetches().Find(kind))()->Choose(view, &scratch, &chosen);
  std::vector<std::pair<int, int32_t>> out;
  for (const Prefetched& p : chosen) out.emplace_back(p.layer, p.expert);
  return out;
}
using Chosen = std::vector<std::pair<int, int32_t>>;

struct PrefetchTest : ::testing::Test {
  PrefetchTest() {
    view.costs.gpu_base = 1;
    view.costs.cpu_per_token = 1;
    view.costs.transfer = 3;
    view.layers = layers;
    view.policy = policy.get();
    view.transfers = 2;
  }
  std::unique_ptr<ExpertPolicy> policy = (*BuiltInExpertPolicies().Find("hybrid"))();
  // Next layer: A 2 tokens, B 3 tokens, both remote. The one after: C 20 tokens, remote.
  std::vector<ExpertLoad> next = {{0, 2, false}, {1, 3, false}, {4, 9, true}}, after = {{7, 20, false}};
  std::vector<ForeseenLayer> layers = {{next}, {after}};
  PrefetchView view;
};

TEST_F(PrefetchTest, NoneChoosesNothing) { EXPECT_EQ(Choose("none", view), Chosen{}); }

TEST_F(PrefetchTest, NextLayerTakesTheHeaviestThatIsNotThere) {
  EXPECT_EQ(Choose("next-layer", view), (Chosen{{0, 1}, {0, 0}}));
  view.transfers = 1;
  EXPECT_EQ(Choose("next-layer", view), (Chosen{{0, 1}}));
}

TEST_F(PrefetchTest, ImpactTakesWhatShortensALayerMost) {
  // The later layer takes 3 + 1 fetched, 1 resident: gain 3. The next: A and B on the CPU take 5, or B fetched 4 and A
  // on the CPU 2: 4. With B resident the GPU runs two for 2 and the CPU A for 2: gain 2. With A resident B takes 3: 1.
  EXPECT_EQ(Choose("impact", view), (Chosen{{1, 7}, {0, 1}}));
  view.transfers = 1;
  EXPECT_EQ(Choose("impact", view), (Chosen{{1, 7}}));
  // Nothing is gained where everything is resident.
  for (ExpertLoad& e : next) e.on_gpu = true;
  after[0].on_gpu = true;
  EXPECT_EQ(Choose("impact", view), Chosen{});
}

}  // namespace
}  // namespace simrun
