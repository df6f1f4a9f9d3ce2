#include "planner/plan_space.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <ostream>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/lowering.h"
#include "models/tensors.h"
#include "planner/evaluate.h"
#include "sim/resolved.h"
#include "sim/simulation.h"

namespace simrun::planner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using namespace literals;

std::string DataFile(const std::string& name) {
  const char* dir = std::getenv("SIMRUN_DATA_DIR");
  return (dir != nullptr ? std::string(dir) : std::string(SIMRUN_SOURCE_DIR) + "/../shared/data") + "/" + name;
}

YamlNode Config(const std::string& model, const std::string& hardware, const std::string& rest = "") {
  const std::string workload = rest.find("workload:") == std::string::npos
      ? "workload: {requests: 60, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {uniform: {min: 100, max: 900}}, output_tokens: {uniform: {min: 5, max: 90}}}\n" : "";
  const auto root = ParseYaml("model: " + model + "\nhardware: " + hardware + "\n" + workload + rest, "test.yaml");
  EXPECT_TRUE(root.ok()) << root.status();
  return root.value_or(YamlNode());
}

PlanSpace Space(const YamlNode& root) {
  Problems problems;
  const SearchConfig search = ReadSearch(root, &problems);
  EXPECT_TRUE(problems.empty()) << problems.lines().front();
  absl::StatusOr<PlanSpace> space = Enumerate(root, "", nullptr, search);
  EXPECT_TRUE(space.ok()) << space.status();
  return space.value_or(PlanSpace());
}

ModelSpec Model(const std::string& name) { return *LoadModel(name, BuiltInCatalog()); }

TEST(ApexSpace, CountsAreThoseOfThePublishedSearch) {
  const std::string path = DataFile("seeds/apex_plan_space_counts.csv");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is missing: set SIMRUN_DATA_DIR";
  const auto table = ReadTextFile(path, 1 << 20);
  ASSERT_TRUE(table.ok());
  const std::map<std::string, std::string> names = {{"llama3-70b", "llama-3-70b"}, {"mistral-large-123b", "mistral-large-2407"}};
  int rows = 0;
  std::istringstream lines(*table);
  std::string line;
  std::getline(lines, line);
  ASSERT_THAT(line, HasSubstr("model,gpu,nodes,gpus_per_node,weight_dtype,num_feasible_candidate_plans"));
  while (std::getline(lines, line)) {
    std::vector<std::string> cells;
    std::istringstream in(line);
    for (std::string cell; std::getline(in, cell, ',');) cells.push_back(cell);
    ASSERT_EQ(cells.size(), 6u);
    const auto renamed = names.find(cells[0]);
    const ModelSpec model = Model(renamed == names.end() ? cells[0] : renamed->second);
    const int gpus = std::stoi(cells[2]) * std::stoi(cells[3]);
    const Bytes memory = LoadGpu(cells[1] == "H100-SXM-80GB" ? "h100-sxm-80gb" : cells[1], BuiltInCatalog())->memory;
    EXPECT_EQ(EnumerateApex(model, gpus, memory, cells[4] == "FLOAT16" ? 2 : 1).size(), static_cast<size_t>(std::stoi(cells[5]))) << line;
    ++rows;
  }
  EXPECT_EQ(rows, 17);
}

TEST(ApexSpace, WeightsAreThoseOfItsExample) {
  // 80 layers of 8192 x (2 x 8192 + 2 x 1024) attention and 3 x 8192 x 28672 FFN weights in 16 bits over two GPUs:
  // both split 63.8 GiB; attention copied 75.0 GiB; two stages 63.8 GiB.
  const std::vector<ApexPlan> plans = EnumerateApex(Model("llama-3-70b"), 2, 80_GiB, 2);
  std::vector<std::string> found;
  for (const ApexPlan& p : plans) found.push_back(std::to_string(p.stages) + "/" + std::to_string(p.attention_replicas) + ": " +
                                                  std::to_string(std::lround(p.weight_bytes / 1073741824.0 * 10)));
  EXPECT_THAT(found, UnorderedElementsAre("1/1: 638", "1/2: 750", "2/1: 638"));
}

TEST(PlanSpace, EveryWayToUseTheGpusOnce) {
  // 8 = tp x pp x replicas in powers of two: (3 + 2 choose 2) = 10 ways.
  const PlanSpace space = Space(Config("llama-3.1-70b", "{node: dgx-h100}"));
  EXPECT_EQ(space.candidates.size(), 10u);
  std::set<std::vector<std::pair<std::string, std::string>>> seen;
  for (const Candidate& c : space.candidates) {
    EXPECT_EQ(c.tp * c.pp * c.dp * c.replicas, 8);
    EXPECT_TRUE(seen.insert(c.settings).second);
  }
  // 141 GB of weights fit no single GPU of 80 GB.
  EXPECT_EQ(space.Count(Obstacle::kMemory), 1);
  for (const Candidate& c : space.candidates) EXPECT_EQ(c.feasible(), c.tp * c.pp > 1);
}

TEST(PlanSpace, AxesMultiply) {
  const PlanSpace space = Space(Config("llama-3.1-8b", "{gpu: h100-sxm-80gb, count: 2}",
                                       "search: {weights: [bf16, fp8], kv_cache: [bf16, fp8], max_num_seqs: [64, 128, 256], gpu_types: [h100-sxm-80gb, h200-sxm-141gb]}"));
  EXPECT_EQ(space.candidates.size(), 3u * 2 * 2 * 3 * 2);   // 2 = tp x pp x replicas has 3 ways
  std::set<std::string> gpus;
  for (const Candidate& c : space.candidates) {
    ASSERT_TRUE(c.feasible()) << c.reason;
    gpus.insert(c.scenario->resolved().machine.gpu.name);
  }
  EXPECT_EQ(gpus.size(), 2u);
}

TEST(PlanSpace, ImpossiblePlansSayWhy) {
  const PlanSpace two_nodes = Space(Config("llama-3.1-70b", "{node: dgx-h100, nodes: 2}"));
  for (const Candidate& c : two_nodes.candidates) {
    if (c.tp == 16) {
      EXPECT_EQ(c.obstacle, Obstacle::kTopology);
      EXPECT_EQ(c.reason, "tp 16 is more than the 8 GPUs of a node");
    }
  }
  EXPECT_EQ(two_nodes.Count(Obstacle::kTopology), 1);
  const PlanSpace six = Space(Config("llama-3.1-8b", "{gpu: h100-sxm-80gb, count: 6}", "search: {degrees: divisors}"));
  for (const Candidate& c : six.candidates) EXPECT_EQ(c.obstacle == Obstacle::kDivisibility, c.tp % 3 == 0) << c.tp;
}

TEST(PlanSpace, EveryPlanCoversEveryLayerHeadAndExpertOnce) {
  for (const char* name : {"llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite"}) {
    const PlanSpace space = Space(Config(name, "{node: dgx-h100}"));
    int feasible = 0;
    for (const Candidate& c : space.candidates) {
      if (!c.feasible()) continue;
      ++feasible;
      const ResolvedScenario& r = c.scenario->resolved();
      int next = 0;
      for (int s = 0; s < c.pp; ++s) {
        const StageLayers layers = LayersOfStage(r.model, r.plan, s);
        EXPECT_EQ(layers.first, next);
        EXPECT_GE(layers.count, 1);
        next += layers.count;
      }
      EXPECT_EQ(next, r.model.layers);
      EXPECT_EQ(r.model.attention.heads % c.tp, 0);
      // The ranks that hold whole experts hold them all, each once per group of ep ranks.
      if (r.model.moe) {
        EXPECT_EQ(r.model.moe->experts % c.ep, 0);
      }
      EXPECT_EQ(c.dp * c.tp % c.ep, 0);
    }
    EXPECT_GT(feasible, 5) << name;
  }
}

// d devices of a stage: attention over all of them and the MLP in 2, 4, ... d groups, or 2, 4, ... d attention replicas and
// one MLP; both alike is what more replicas give.
TEST(PlanSpace, AttentionAndMlpMayBeSplitDifferently) {
  const PlanSpace space = Space(Config("llama-3.1-8b", "{node: dgx-h100}", "search: {separate_ffn: true, uneven_layers: true}"));
  std::map<int, int> alike, separate;   // by devices of a stage; even splits only
  int uneven = 0;
  for (const Candidate& c : space.candidates) {
    ASSERT_TRUE(c.feasible()) << c.reason;
    const ResolvedScenario& r = c.scenario->resolved();
    EXPECT_EQ(r.plan.gpus(), 8);
    EXPECT_EQ(r.plan.dp, c.dp);   // not turned into replicas
    if (!c.stage_layers.empty()) {
      ++uneven;
      EXPECT_EQ(std::accumulate(c.stage_layers.begin(), c.stage_layers.end(), 0), 32);
      EXPECT_LT(c.stage_layers.back(), 32 / c.pp);
      EXPECT_EQ(r.plan.stage_layers, c.stage_layers);
      continue;
    }
    ++(c.ffn_tp == 0 ? alike : separate)[c.tp * c.dp];
  }
  // Ways to give the rest to stages and replicas: 1, 2, 3, 4.
  EXPECT_THAT(alike, ElementsAre(Pair(1, 4), Pair(2, 3), Pair(4, 2), Pair(8, 1)));
  EXPECT_THAT(separate, ElementsAre(Pair(2, 3 * 2), Pair(4, 2 * 4), Pair(8, 6)));
  EXPECT_GT(uneven, 10);
}

// Parameters per device in APEX's example, two GPUs: layers only, GiB. And its order of run times.
TEST(PlanSpace, TheExampleOfApex) {
  const char* text = "model: llama-3-70b\nhardware: {gpu: h100-sxm-80gb, count: 2, memory: 140 GB}\n"
                     "workload: {requests: 64, arrivals: all_at_once, input_tokens: 500, output_tokens: 100}\n";
  const Scenario base = *Scenario::FromYaml(text + std::string("plan: {tp: 2}"));
  const auto gib = [&](const char* plan, Report* report) {
    const Scenario s = *base.With("plan", plan);
    const ResolvedScenario& r = s.resolved();
    *report = *Simulate(s);
    double tables = 0;   // embedding, head and their norm are on both GPUs, halved by tp or split over stages
    for (const auto& tensors : {EmbeddingTensors(r.model), HeadTensors(r.model)}) {
      for (const Tensor& t : tensors) tables += 2.0 * static_cast<double>(ElementsPerGpu(t, r.model, r.plan));
    }
    double layers = 0;
    for (int stage = 0; stage < r.plan.pp; ++stage) layers += WeightBytesPerGpu(r.model, r.plan, stage).value();
    return (layers - tables) / r.plan.pp / 1073741824;
  };
  Report tp, shared, pp;
  EXPECT_NEAR(gib("{tp: 2}", &tp), 63.8, 0.05);
  EXPECT_NEAR(gib("{dp: 2, ffn_tp: 2}", &shared), 75.0, 0.05);
  EXPECT_NEAR(gib("{pp: 2}", &pp), 63.8, 0.05);
  EXPECT_LT(tp.simulation.simulated_s, shared.simulation.simulated_s);
  EXPECT_LT(shared.simulation.simulated_s, pp.simulation.simulated_s);
  EXPECT_EQ(shared.plan.gpus, 2);
  EXPECT_EQ(shared.plan.ffn_tp, 2);
}

TEST(PlanSpace, MemoryIsTheSimulators) {
  const PlanSpace space = Space(Config("mixtral-8x7b", "{node: dgx-h100}"));
  const PlanSpace dense = Space(Config("llama-3.1-8b", "{gpu: h100-sxm-80gb, count: 4}", "search: {separate_ffn: true, uneven_layers: true}"));
  std::vector<Candidate> candidates = space.candidates;
  candidates.insert(candidates.end(), dense.candidates.begin(), dense.candidates.end());
  for (const Candidate& c : candidates) {
    if (!c.feasible() || c.replicas > 1) continue;
    const Report report = *Simulate(*c.scenario);
    const ResolvedScenario& r = c.scenario->resolved();
    Bytes fullest;
    for (int s = 0; s < c.pp; ++s) fullest = std::max(fullest, WeightBytesPerGpu(r.model, r.plan, s));
    EXPECT_LE(report.memory.weights, fullest);
    EXPECT_EQ(report.memory.weights, r.memory.weights);
    EXPECT_EQ(report.memory.kv_blocks, static_cast<double>(r.memory.kv_blocks));
    EXPECT_LE(r.memory.weights + r.memory.activations + r.memory.reserve, r.memory.usable);
  }
}

TEST(PlanSpace, AScenarioThatIsWrongWhateverThePlanIsAnError) {
  const auto fails = [](const YamlNode& root) {
    Problems problems;
    const SearchConfig search = ReadSearch(root, &problems);
    if (!problems.empty()) return std::string(problems.ToStatus().message());
    return std::string(Enumerate(root, "", nullptr, search).status().message());
  };
  EXPECT_THAT(fails(Config("llama-3.1-70c", "{node: dgx-h100}")), HasSubstr("did you mean \"llama-3.1-70b\"?"));
  EXPECT_THAT(fails(Config("llama-3.1-8b", "{gpu: h100-sxm-80gb}")), HasSubstr("how many GPUs to use"));
  EXPECT_THAT(fails(Config("llama-3.1-8b", "{node: dgx-h100}", "search: {gpus: 16}")), HasSubstr("16 GPUs, but the hardware has 8"));
  EXPECT_THAT(fails(Config("llama-3.1-8b", "{node: dgx-h100}", "search: {weight: [fp8]}")), HasSubstr("did you mean \"weights\"?"));
  EXPECT_THAT(fails(Config("llama-3.1-8b", "{node: dgx-h100}", "search: {weights: []}")), HasSubstr("search.weights: is empty"));
  EXPECT_THAT(fails(Config("llama-3.1-8b", "{node: dgx-h100}", "workload: {requests: 5}")), HasSubstr("workload"));
}

struct Case {
  const char* model;
  const char* hardware;
  const char* traffic;      // creation, chat, summarisation
  const char* rate;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " " << c.traffic << " at " << c.rate << " on " << c.hardware; }
class Pruning : public ::testing::TestWithParam<Case> {};

std::string Traffic(const Case& c) {
  const std::map<std::string, const char*> lengths = {
      {"creation", "input_tokens: {uniform: {min: 50, max: 550}}, output_tokens: {uniform: {min: 300, max: 1500}}"},
      {"chat", "input_tokens: {lognormal: {mean: 800, p99: 4000, max: 8000}}, output_tokens: {lognormal: {mean: 150, p99: 600, max: 1500}}"},
      {"summarisation", "input_tokens: {uniform: {min: 1500, max: 4000}}, output_tokens: {uniform: {min: 80, max: 260}}"}};
  return std::string("workload: {requests: 150, arrivals: {poisson: {rate: ") + c.rate + "}}, " + lengths.at(c.traffic) + "}\nslo: {ttft: 400 ms, tpot: 25 ms}";
}

TEST_P(Pruning, NeverChangesTheWinner) {
  const Case& c = GetParam();
  const PlanSpace space = Space(Config(c.model, c.hardware, Traffic(c)));
  int stopped = 0;
  for (const char* name : {"latency", "goodput", "throughput"}) {
    EvaluateOptions options;
    options.objective = *FindObjective(name);
    const Evaluation all = *Evaluate(space, options);
    options.prune = true;
    const Evaluation pruned = *Evaluate(space, options);
    options.threads = 3;
    const Evaluation threaded = *Evaluate(space, options);
    EXPECT_EQ(pruned.ranked[0].candidate, all.ranked[0].candidate) << name;
    EXPECT_EQ(threaded.ranked[0].candidate, all.ranked[0].candidate) << name;
    EXPECT_EQ(pruned.ranked[0].objective, all.ranked[0].objective) << name;
    for (const PlanResult& r : pruned.ranked) stopped += r.stopped;
    EXPECT_EQ(all.ranked.size(), static_cast<size_t>(space.Count(Obstacle::kNone)));
  }
  EXPECT_GT(stopped, 0);
}
INSTANTIATE_TEST_SUITE_P(
    Scenarios, Pruning,
    ::testing::Values(Case{"llama-3.1-8b", "{gpu: a100-sxm-80gb, count: 4}", "chat", "6 /s"}, Case{"llama-3.1-8b", "{gpu: h100-sxm-80gb, count: 2}", "creation", "12 /s"},
                      Case{"llama-3.1-8b", "{gpu: l40s-48gb, count: 8}", "summarisation", "5 /s"}, Case{"llama-3.1-70b", "{node: dgx-h100}", "chat", "2 /s"},
                      Case{"llama-3.1-70b", "{node: dgx-h100}", "creation", "40 /s"}, Case{"llama-3.1-70b", "{node: dgx-h100, nodes: 2}", "summarisation", "3 /s"},
                      Case{"mixtral-8x7b", "{gpu: h100-sxm-80gb, count: 4}", "chat", "20 /s"}, Case{"mixtral-8x7b", "{gpu: h100-sxm-80gb, count: 2}", "creation", "2 /s"},
                      Case{"mixtral-8x7b", "{node: hgx-h200}", "summarisation", "10 /s"}, Case{"qwen3-30b-a3b", "{gpu: h100-sxm-80gb, count: 4}", "chat", "10 /s"},
                      Case{"mixtral-8x22b", "{node: dgx-h100}", "creation", "8 /s"}, Case{"deepseek-v2-lite", "{gpu: a100-sxm-80gb, count: 4}", "summarisation", "6 /s"}));

// The two cases of docs/planning.md.
TEST(Evaluate, BeatsTheUsualPlan) {
  const PlanSpace creation = Space(Config("llama-3.1-8b", "{node: dgx-h100}", "workload: {requests: 1024, arrivals: {poisson: {rate: 200 /s}}, input_tokens: 300, "
                                          "output_tokens: {uniform: {min: 500, max: 1800}}}\nscheduler: {max_num_seqs: 256}\nslo: {ttft: 1 s, tpot: 50 ms}"));
  EvaluateOptions options;
  options.objective = *FindObjective("goodput");
  Evaluation e = *Evaluate(creation, options);
  EXPECT_GE(e.ranked[0].objective, 2 * e.ranked[*e.heuristic].objective);

  const PlanSpace chat = Space(Config("llama-3.1-70b", "{node: dgx-h100}", "workload: {requests: 512, arrivals: {poisson: {rate: 1 /s}}, "
                                      "input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, output_tokens: {lognormal: {mean: 211, p99: 601, max: 2048}}}\n"
                                      "slo: {ttft: 1 s, tpot: 50 ms}\nsearch: {partial: true}"));
  options.objective = *FindObjective("energy");
  options.min_attainment = 0.99;
  e = *Evaluate(chat, options);
  EXPECT_GE(e.ranked[0].report.goodput.slo_attainment, 0.99);
  EXPECT_LE(e.ranked[0].objective, 0.7 * e.ranked[*e.heuristic].objective);
}

// Plans whose limit on sequences is never reached share one run; what is reported is what a run of their own gives.
TEST(Evaluate, SharedRunsAreTheirOwn) {
  int same = 0, different = 0;
  for (const char* rate : {"2 /s", "20 /s"}) {
    const PlanSpace space = Space(Config("llama-3.1-8b", "{gpu: a100-sxm-80gb, count: 2}",
                                         std::string("search: {max_num_seqs: [1, 2, 3, 8, 64, 256]}\nslo: {ttft: 1 s}\nworkload: {requests: 120, arrivals: {poisson: {rate: ") +
                                             rate + "}}, input_tokens: {uniform: {min: 50, max: 2500}}, output_tokens: {uniform: {min: 5, max: 60}}}"));
    EvaluateOptions options;
    options.objective = *FindObjective("throughput");
    const Evaluation e = *Evaluate(space, options);
    ASSERT_EQ(e.ranked.size(), 18u);
    std::set<std::string> results;
    for (const PlanResult& r : e.ranked) {
      Report shared = r.report, own = *Simulate(*space.candidates[r.candidate].scenario, {.intervals = false});
      shared.simulation.wall_s = own.simulation.wall_s = 0;
      EXPECT_EQ(shared.ToJson(), own.ToJson());
      results.insert(fmt::format("{} {}", r.report.e2e.mean.value(), r.report.plan.tp * 10 + r.report.plan.pp));
    }
    different += static_cast<int>(results.size());
    same += 18 - static_cast<int>(results.size());
  }
  EXPECT_GT(same, 4);
  EXPECT_GT(different, 12);
}

// Plans share the prices of operators, kept apart by machine; what is reported is what a run of its own gives.
TEST(Evaluate, SharedPricesChangeNothing) {
  const PlanSpace space = Space(Config("mixtral-8x7b", "{gpu: h100-sxm-80gb, count: 4}",
                                       "search: {gpu_types: [a100-sxm-80gb, h100-sxm-80gb], weights: [bf16, fp8], power_limits: [350 W, 700 W]}\n"
                                       "workload: {requests: 12, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {uniform: {min: 50, max: 2500}}, "
                                       "output_tokens: {uniform: {min: 5, max: 30}}}"));
  EvaluateOptions options;
  options.objective = *FindObjective("energy");
  const Evaluation e = *Evaluate(space, options);
  EXPECT_GT(e.ranked.size(), 60u);
  std::set<double> joules;
  for (const PlanResult& r : e.ranked) {
    Report shared = r.report, own = *Simulate(*space.candidates[r.candidate].scenario, {.intervals = false});
    shared.simulation.wall_s = own.simulation.wall_s = 0;
    EXPECT_EQ(shared.ToJson(), own.ToJson());
    joules.insert(r.objective);
  }
  EXPECT_GT(joules.size(), 60u);
}

TEST(Evaluate, TheUsualPlanIsTheLargestTpInANode) {
  const PlanSpace space = Space(Config("llama-3.1-70b", "{node: dgx-h100, nodes: 2}"));
  const Candidate& usual = space.candidates[*HeuristicCandidate(space)];
  EXPECT_EQ(usual.tp, 8);
  EXPECT_EQ(usual.pp, 2);
  EXPECT_EQ(usual.replicas, 1);
}

// A lower clock or power limit slows prompts down and takes less energy for them; each is an axis of its own.
TEST(Evaluate, ClocksAndPowerLimitsAreAxes) {
  const std::string traffic = "workload: {requests: 40, arrivals: {poisson: {rate: 1 /s}}, input_tokens: 4000, output_tokens: 4}\n";
  for (const auto& [axis, setting] : {std::pair("clocks: [1000 MHz, 1980 MHz]", "hardware.gpu_clock"),
                                      std::pair("power_limits: [300 W, 700 W]", "hardware.power_limit")}) {
    const PlanSpace space = Space(Config("llama-3.1-8b", "{gpu: h100-sxm-80gb, count: 1}", traffic + "search: {" + axis + "}"));
    ASSERT_EQ(space.candidates.size(), 2u);
    EXPECT_THAT(space.varied, ElementsAre(setting));
    EvaluateOptions options;
    options.objective = *FindObjective("latency");
    const Evaluation fast = *Evaluate(space, options);
    EXPECT_EQ(fast.ranked[0].candidate, 1u) << axis;
    EXPECT_LT(fast.ranked[0].objective, 0.9 * fast.ranked[1].objective) << axis;
    const auto working = [](const Report& r) { return r.energy.by_component.at("gpu_active"); };
    EXPECT_LT(working(fast.ranked[1].report), working(fast.ranked[0].report)) << axis;
  }
}

// 140 GB of weights on one GPU of 80 GB: only with part of them in host memory. With tp 4 both are the same plan.
TEST(PlanSpace, PlacementsHelpWhereTheModelDoesNotFit) {
  const auto config = [](int gpus) {
    return Config("llama-3.1-70b", fmt::format("{{gpu: h100-sxm-80gb, count: {}}}", gpus),
                  "plan: {placement: {policy: optimize, objective: tpot}}\n"
                  "workload: {static_batch: 2, requests: 2, input_tokens: 100, output_tokens: 4}\nsearch: {placements: [gpu, auto]}");
  };
  const PlanSpace one = Space(config(1));
  ASSERT_EQ(one.candidates.size(), 2u);
  EXPECT_EQ(one.candidates[0].obstacle, Obstacle::kMemory);
  ASSERT_TRUE(one.candidates[1].feasible()) << one.candidates[1].reason;
  EXPECT_THAT(one.candidates[1].settings, ::testing::Contains(Pair("plan.placement.policy", "auto")));
  EvaluateOptions options;
  options.objective = *FindObjective("throughput");
  const Evaluation e = *Evaluate(one, options);
  ASSERT_EQ(e.ranked.size(), 1u);
  EXPECT_GT(e.ranked[0].objective, 0);
  for (const LaunchCommand& c : LaunchCommands(*one.candidates[1].scenario)) EXPECT_THAT(c.not_expressed, ::testing::Contains(HasSubstr("outside GPU memory")));
  for (const Candidate& c : Space(config(4)).candidates) {
    if (c.tp != 4) continue;
    EXPECT_THAT(c.settings, ::testing::Contains(Pair("plan.placement.policy", "gpu")));
  }
}

// Grams of CO2 per output token: energy times the intensity of the region's grid, and so the order of energy.
TEST(Evaluate, RanksByCarbon) {
  const PlanSpace space = Space(Config("llama-3.1-8b", "{gpu: h100-sxm-80gb, count: 4, region: aws-us-east-1}",
                                       "workload: {requests: 40, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 500, output_tokens: 50}"));
  EvaluateOptions options;
  options.objective = *FindObjective("carbon");
  options.pareto = {*FindObjective("carbon"), *FindObjective("latency")};
  const Evaluation e = *Evaluate(space, options);
  ASSERT_GT(e.ranked.size(), 3u);
  const Report& best = e.ranked[0].report;
  const double grams_per_joule = best.energy.carbon_g / best.energy.total.value();
  EXPECT_GT(grams_per_joule, 10 / 3.6e6);     // grids lie between 10 and 1000 g/kWh
  EXPECT_LT(grams_per_joule, 1000 / 3.6e6);
  for (size_t i = 0; i < e.ranked.size(); ++i) {
    const Report& r = e.ranked[i].report;
    EXPECT_NEAR(e.ranked[i].objective, grams_per_joule * r.energy.per_output_token.value(), 1e-9 * e.ranked[i].objective);
    EXPECT_LE(e.ranked[i > 0 ? i - 1 : 0].objective, e.ranked[i].objective);
  }
  EXPECT_EQ(e.front.front(), 0u);
  double latency = best.e2e.mean.value();
  for (size_t i = 1; i < e.front.size(); ++i) {   // along the front what costs more carbon is faster
    const double next = e.ranked[e.front[i]].report.e2e.mean.value();
    EXPECT_LT(next, latency);
    latency = next;
  }
}

TEST(Evaluate, RanksByTheObjectiveAndFindsTheFront) {
  const PlanSpace space = Space(Config("llama-3.1-70b", "{node: dgx-h100}"));
  EvaluateOptions options;
  options.objective = *FindObjective("energy");
  options.pareto = {*FindObjective("energy"), *FindObjective("latency")};
  const Evaluation e = *Evaluate(space, options);
  for (size_t i = 1; i < e.ranked.size(); ++i) EXPECT_LE(e.ranked[i - 1].report.energy.per_output_token, e.ranked[i].report.energy.per_output_token);
  ASSERT_FALSE(e.front.empty());
  EXPECT_EQ(e.front.front(), 0u);   // nothing uses less energy than the first
  const auto value = [&](size_t i) { return std::pair(e.ranked[i].report.energy.per_output_token, e.ranked[i].report.e2e.mean); };
  for (size_t i = 0; i < e.ranked.size(); ++i) {
    const bool on_front = std::find(e.front.begin(), e.front.end(), i) != e.front.end();
    bool beaten = false;
    for (size_t j = 0; j < e.ranked.size(); ++j) beaten |= j != i && value(j).first <= value(i).first && value(j).second <= value(i).second && value(j) != value(i);
    EXPECT_EQ(on_front, !beaten);
  }
}

TEST(Evaluate, LaunchCommandsSayWhatTheyCannot) {
  const auto scenario = Scenario::FromNode(Config("mixtral-8x7b", "{node: dgx-h100}", "plan: {tp: 2, dp: 4, ep: 2, kv_cache: fp8}"), "");
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  const std::vector<LaunchCommand> c = LaunchCommands(*scenario);
  EXPECT_THAT(c[0].command, HasSubstr("--tensor-parallel-size 2 --data-parallel-size 4 --enable-expert-parallel"));
  EXPECT_THAT(c[0].command, HasSubstr("--kv-cache-dtype fp8"));
  ASSERT_FALSE(c[0].not_expressed.empty());
  EXPECT_THAT(c[0].not_expressed[0], HasSubstr("all 8 ranks"));
  EXPECT_THAT(c[1].command, HasSubstr("--tp-size 8 --dp-size 4 --enable-dp-attention --ep-size 2"));
  EXPECT_THAT(c[2].not_expressed[0], HasSubstr("attention dp 4 with tp 2"));
}

}  // namespace
}  // namespace simrun::planner
