#include "schedulers/expert_scheduling.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

using ::testing::ElementsAre;

std::unique_ptr<ExpertPolicy> Policy(const std::string& name) { return (*BuiltInExpertPolicies().Find(name))(); }

ExpertSchedule Apply(const std::string& policy, const ExpertLayerView& view) {
  ExpertSchedule s;
  Policy(policy)->Schedule(view, &s);
  return s;
}

// The example of HybriMoE: A resident with 4 tokens, B and C in host memory with 8 and 1; the CPU takes 1 per token,
// the GPU 1 per expert, a transfer 3.
const std::vector<ExpertLoad> kHand = {{0, 4, true}, {1, 8, false}, {2, 1, false}};
ExpertCosts HandCosts() {
  ExpertCosts c;
  c.gpu_base = 1;
  c.cpu_per_token = 1;
  c.transfer = 3;
  return c;
}

TEST(ExpertSchedulingTest, HandInstance) {
  const ExpertLayerView view{kHand, HandCosts()};
  // CPU: 8 + 1.
  EXPECT_EQ(Apply("static", view).makespan, 9);
  // B arrives at 3 and runs until 4; C arrives at 6 and runs until 7.
  EXPECT_EQ(Apply("stream", view).makespan, 7);
  // GPU: A 0-1, B 3-4. CPU: C 0-1. Link: B 0-3.
  const ExpertSchedule s = Apply("hybrid", view);
  EXPECT_EQ(s.makespan, 4);
  EXPECT_THAT(s.on_gpu, ElementsAre(0, 1));
  EXPECT_THAT(s.on_cpu, ElementsAre(2));
  EXPECT_THAT(s.fetched, ElementsAre(1));
  EXPECT_EQ(s.gpu_busy, 2);
  EXPECT_EQ(s.cpu_busy, 1);
  EXPECT_EQ(s.link_busy, 3);
  EXPECT_EQ(s.gpu_end, 4);
  EXPECT_EQ(s.link_end, 3);
}

TEST(ExpertSchedulingTest, IdleCpuStealsTheLightest) {
  // Three residents of 3 s each on the GPU, 2 s per token on the CPU: the lightest, 1 token, moves.
  ExpertCosts c;
  c.gpu_base = 3;
  c.cpu_per_token = 2;
  c.transfer = 100;
  const std::vector<ExpertLoad> load = {{7, 4, true}, {8, 1, true}, {9, 5, true}};
  const ExpertSchedule s = Apply("hybrid", {load, c});
  EXPECT_EQ(s.makespan, 6);
  EXPECT_THAT(s.on_cpu, ElementsAre(8));
}

TEST(ExpertSchedulingTest, ReadyTimesAndTheFirstExpertOnTheCpuCount) {
  ExpertLayerView view{kHand, HandCosts()};
  view.costs.cpu_first = 0.5;
  view.gpu_ready = 2;
  view.cpu_ready = 1;
  view.link_ready = 4;
  // Link 4-7, GPU A 2-3, B 7-8; CPU C 1-2.5.
  const std::vector<ExpertLoad> a = {kHand[0]}, b = {kHand[1]}, rest = {kHand[2]};
  ExpertSchedule s;
  TimeExperts(view, a, b, rest, &s);
  EXPECT_EQ(s.gpu_end, 8);
  EXPECT_EQ(s.cpu_end, 2.5);
  EXPECT_EQ(s.cpu_busy, 1.5);
  EXPECT_EQ(s.link_end, 7);
  EXPECT_EQ(s.makespan, 8);
  // Nothing to do: the GPU's own work is the layer.
  view.active = {};
  for (const char* policy : {"static", "stream", "hybrid"}) EXPECT_EQ(Apply(policy, view).makespan, 2) << policy;
}

// Costs drawn over the ranges of real machines: transfers between half and 20 times an expert on the CPU, the GPU 2 to
// 40 times as fast as the CPU at one token.
struct Layer {
  std::vector<ExpertLoad> load;
  ExpertCosts costs;
  ExpertLayerView View() const { return {load, costs, ready[0], ready[1], ready[2]}; }
  double ready[3] = {0, 0, 0};
};
Layer RandomLayer(Rng& rng, size_t experts) {
  Layer layer;
  const double resident = rng.Uniform(0, 1), heavy = rng.Uniform(0, 4);
  for (size_t i = 0; i < experts; ++i) {
    const int32_t tokens = 1 + static_cast<int32_t>(Exp(rng.Uniform(0, heavy)));
    layer.load.push_back({static_cast<int32_t>(i), tokens, rng.Uniform() < resident});
  }
  ExpertCosts& c = layer.costs;
  c.cpu_base = 1;
  c.cpu_per_token = rng.Uniform(0.05, 1.2);
  c.cpu_first = rng.Uniform(0, 0.5);
  c.gpu_base = 1 / rng.Uniform(2, 40);
  c.gpu_per_token = c.gpu_base * rng.Uniform(0.005, 0.1);
  c.transfer = Exp(rng.Uniform(-0.7, 3));
  if (rng.Uniform() < 0.5) {
    for (double& r : layer.ready) r = rng.Uniform(0, 1);
  }
  return layer;
}

// Every allocation of the experts, transfers in Johnson's order, which is optimal for equal transfers.
double Optimum(const ExpertLayerView& view) {
  std::vector<ExpertLoad> sorted(view.active.begin(), view.active.end());
  std::sort(sorted.begin(), sorted.end(), [](const ExpertLoad& a, const ExpertLoad& b) { return a.tokens > b.tokens; });
  double best = 1e300;
  ExpertSchedule s;
  for (uint32_t on_cpu = 0; on_cpu < 1u << sorted.size(); ++on_cpu) {
    std::vector<ExpertLoad> gpu, fetched, cpu;
    for (size_t i = 0; i < sorted.size(); ++i) {
      (on_cpu >> i & 1u ? cpu : sorted[i].on_gpu ? gpu : fetched).push_back(sorted[i]);
    }
    TimeExperts(view, gpu, fetched, cpu, &s);
    best = std::min(best, s.makespan);
  }
  return best;
}

// HybriMoE's list schedule run by a clock: each free processor takes its next expert; the link takes the heaviest
// remote one, at most `transfers` times.
double ListSchedule(const ExpertLayerView& view, size_t transfers) {
  const ExpertCosts& c = view.costs;
  std::multimap<int32_t, double, std::greater<>> gpu_queue;  // tokens -> ready
  std::multiset<int32_t> cpu_queue;
  for (const ExpertLoad& e : view.active) {
    if (e.on_gpu) {
      gpu_queue.emplace(e.tokens, 0.0);
    } else {
      cpu_queue.insert(e.tokens);
    }
  }
  double gpu = view.gpu_ready, cpu = view.cpu_ready, link = view.link_ready;
  bool cpu_used = false;
  while (!gpu_queue.empty() || !cpu_queue.empty()) {
    const bool link_can = transfers > 0 && !cpu_queue.empty();
    const bool cpu_can = !cpu_queue.empty() || !gpu_queue.empty();
    const double link_at = link_can ? link : 1e300, cpu_at = cpu_can ? cpu : 1e300, gpu_at = gpu_queue.empty() ? 1e300 : gpu;
    if (link_at <= cpu_at && link_at <= gpu_at) {
      const auto heaviest = std::prev(cpu_queue.end());
      link += c.transfer;
      gpu_queue.emplace(*heaviest, link);
      cpu_queue.erase(heaviest);
      --transfers;
    } else if (gpu_at <= cpu_at) {
      auto next = gpu_queue.begin();
      for (auto it = gpu_queue.begin(); it != gpu_queue.end(); ++it) {
        if (std::max(it->second, gpu) < std::max(next->second, gpu)) next = it;
      }
      gpu = std::max(gpu, next->second) + c.Gpu(next->first);
      gpu_queue.erase(next);
    } else if (!cpu_queue.empty()) {
      cpu += (cpu_used ? 0 : c.cpu_first) + c.Cpu(*cpu_queue.begin());
      cpu_used = true;
      cpu_queue.erase(cpu_queue.begin());
    } else {
      // Steals the lightest when it ends it sooner than the GPU would have.
      const auto lightest = std::prev(gpu_queue.end());
      double gpu_end = gpu;
      for (const auto& [tokens, ready] : gpu_queue) gpu_end = std::max(gpu_end, ready) + c.Gpu(tokens);
      const double cpu_end = cpu + (cpu_used ? 0 : c.cpu_first) + c.Cpu(lightest->first);
      if (cpu_end >= gpu_end) {
        gpu = gpu_end;
        gpu_queue.clear();
        break;
      }
      cpu = cpu_end;
      cpu_used = true;
      gpu_queue.erase(lightest);
    }
  }
  return cpu_used ? std::max(gpu, cpu) : gpu;
}

TEST(ExpertSchedulingTest, HybridIsCloseToTheOptimumAndNeverBehindTheList) {
  Rng rng(1, "layers");
  double sum = 0, worst = 0;
  constexpr int kLayers = 500;
  for (int i = 0; i < kLayers; ++i) {
    const Layer layer = RandomLayer(rng, 1 + rng.Below(10));
    const double optimum = Optimum(layer.View());
    const double hybrid = Apply("hybrid", layer.View()).makespan;
    ASSERT_GE(hybrid, optimum * (1 - 1e-12)) << i;
    const double excess = hybrid / optimum - 1;
    sum += excess;
    worst = std::max(worst, excess);
    double list = 1e300;
    for (size_t k = 0; k <= layer.load.size(); ++k) list = std::min(list, ListSchedule(layer.View(), k));
    EXPECT_LE(hybrid, list * (1 + 1e-9)) << i;
  }
  RecordProperty("mean_excess_percent", std::to_string(100 * sum / kLayers));
  RecordProperty("worst_excess_percent", std::to_string(100 * worst));
  EXPECT_LE(sum / kLayers, 0.005);
  EXPECT_LE(worst, 0.05);
}

// Layers too large to move experts one by one: the search over k and s alone, against the list run by a clock.
TEST(ExpertSchedulingTest, LargeLayersAreNeverBehindTheListNorBehindSimplerPolicies) {
  Rng rng(2, "layers");
  for (int i = 0; i < 100; ++i) {
    const Layer layer = RandomLayer(rng, 17 + rng.Below(240));
    const double hybrid = Apply("hybrid", layer.View()).makespan;
    double list = 1e300;
    for (size_t k = 0; k <= layer.load.size(); ++k) list = std::min(list, ListSchedule(layer.View(), k));
    EXPECT_LE(hybrid, list * (1 + 1e-9)) << i;
    EXPECT_LE(hybrid, Apply("static", layer.View()).makespan * (1 + 1e-12)) << i;
    EXPECT_LE(hybrid, Apply("stream", layer.View()).makespan * (1 + 1e-12)) << i;
    // No schedule is shorter than the work shared without transfers and in fractions: the experts for which the GPU is
    // fastest against the CPU on the GPU.
    std::vector<std::pair<double, double>> work;  // cpu, gpu seconds
    double cpu_left = 0, gpu_done = 0;
    for (const ExpertLoad& e : layer.load) work.emplace_back(layer.costs.Cpu(e.tokens), layer.costs.Gpu(e.tokens));
    std::sort(work.begin(), work.end(), [](const auto& a, const auto& b) { return a.first * b.second > b.first * a.second; });
    for (const auto& w : work) cpu_left += w.first;
    double bound = 0;
    for (const auto& [cpu, gpu] : work) {
      if (gpu_done + gpu >= cpu_left - cpu) {  // the split is within this one: gpu_done + x gpu = cpu_left - x cpu
        const double x = std::max(0.0, (cpu_left - gpu_done) / (cpu + gpu));
        bound = gpu_done + x * gpu;
        break;
      }
      gpu_done += gpu;
      cpu_left -= cpu;
    }
    EXPECT_GE(hybrid, bound * (1 - 1e-12)) << i;
  }
}

TEST(ExpertSchedulingTest, EveryActiveExpertRunsExactlyOnce) {
  Rng rng(3, "layers");
  for (int i = 0; i < 300; ++i) {
    const Layer layer = RandomLayer(rng, rng.Below(i % 10 == 0 ? 250 : 20));
    for (const std::string& policy : ExpertPolicyNames()) {
      const ExpertSchedule s = Apply(policy, layer.View());
      std::multiset<int32_t> run(s.on_gpu.begin(), s.on_gpu.end()), active;
      run.insert(s.on_cpu.begin(), s.on_cpu.end());
      std::set<int32_t> resident;
      for (const ExpertLoad& e : layer.load) {
        active.insert(e.expert);
        if (e.on_gpu) resident.insert(e.expert);
      }
      EXPECT_EQ(run, active) << policy << i;
      // What crosses the link was not there, and runs on the GPU; what runs on the GPU was there or crossed.
      const std::set<int32_t> gpu(s.on_gpu.begin(), s.on_gpu.end()), fetched(s.fetched.begin(), s.fetched.end());
      EXPECT_EQ(fetched.size(), s.fetched.size());
      for (const int32_t e : fetched) EXPECT_TRUE(gpu.contains(e) && !resident.contains(e)) << policy << i;
      for (const int32_t e : gpu) EXPECT_TRUE(resident.contains(e) || fetched.contains(e)) << policy << i;
      EXPECT_NEAR(s.link_busy, static_cast<double>(fetched.size()) * layer.costs.transfer, 1e-9);
      EXPECT_GE(s.makespan, std::max(s.gpu_busy + layer.ready[0], s.cpu_busy > 0 ? s.cpu_busy + layer.ready[1] : 0) - 1e-9);
    }
  }
}

TEST(ExpertSchedulingTest, MoreOfAnythingNeverHurtsTheHybrid) {
  Rng rng(4, "layers");
  for (int i = 0; i < 200; ++i) {
    Layer layer = RandomLayer(rng, 1 + rng.Below(10));
    const double base = Optimum(layer.View());
    Layer more = layer;
    switch (i % 3) {
      case 0: more.costs.transfer *= 0.5; break;
      case 1: more.costs.cpu_base *= 0.5, more.costs.cpu_per_token *= 0.5; break;
      default: more.load[rng.Below(more.load.size())].on_gpu = true;
    }
    EXPECT_LE(Apply("hybrid", more.View()).makespan, base * 1.05) << i;
  }
}

}  // namespace
}  // namespace simrun
