#include "hw/engine_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

EngineProfile Load(std::string_view name) {
  auto profile = LoadEngineProfile(name, TestCatalog());
  EXPECT_TRUE(profile.ok()) << profile.status();
  return *profile;
}

TEST(EngineProfileTest, EveryProfileLoadsAndNamesItsSources) {
  const std::vector<std::string> names = TestCatalog().Names("engines");
  EXPECT_GE(names.size(), 6u);
  for (const std::string& name : names) {
    const EngineProfile p = Load(name);
    EXPECT_EQ(p.name, name);
    EXPECT_FALSE(p.description.empty()) << name;
    // Every host time that is not zero has a source.
    const auto sourced = [&](const char* field) {
      for (const EngineSource& s : p.sources) {
        if (s.of == field) return true;
      }
      return false;
    };
    if (p.step_host.value() > 0) {
      EXPECT_TRUE(sourced("step_host")) << name;
    }
    if (p.launch.value() > 0) {
      EXPECT_TRUE(sourced("launch")) << name;
    }
    if (p.front_end.value() > 0) {
      EXPECT_TRUE(sourced("front_end")) << name;
    }
    if (p.post_step.value() > 0) {
      EXPECT_TRUE(sourced("post_step")) << name;
    }
    if (p.gpu_time_factor != 1) {
      EXPECT_TRUE(sourced("gpu_time_factor")) << name;
    }
    if (p.runtime_reserve.value() > 0) {
      EXPECT_TRUE(sourced("runtime_reserve")) << name;
    }
  }
}

TEST(EngineProfileTest, UnknownProfileNamesTheNearest) {
  const auto profile = LoadEngineProfile("vllm-0.18", TestCatalog());
  ASSERT_FALSE(profile.ok());
  EXPECT_THAT(std::string(profile.status().message()), ::testing::HasSubstr("vllm-0.1"));
}

class LikeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) / (std::string("like_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_ / "engines");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  absl::StatusOr<EngineProfile> Load(const std::map<std::string, std::string>& files, const std::string& name) {
    for (const auto& [file, text] : files) std::ofstream(dir_ / "engines" / (file + ".yaml")) << text;
    Catalog catalog = TestCatalog();
    EXPECT_TRUE(catalog.AddDirectory(dir_.string()).ok());
    return LoadEngineProfile(name, catalog);
  }
  static std::string SourceOf(const EngineProfile& p, const std::string& field) {
    for (const EngineSource& s : p.sources) {
      if (s.of == field) return s.provenance + ": " + s.source;
    }
    return "";
  }
  std::filesystem::path dir_;
};

constexpr char kParent[] =
    "description: parent\nversions: [\"1\"]\nstep_host: 3 ms\nlaunch: 5 us\nfront_end: 7 ms\n"
    "sources:\n"
    "  - {of: step_host, provenance: calibrated, confidence: A, source: a fit}\n"
    "  - {of: launch, provenance: assumed, source: a guess}\n"
    "  - {of: front_end, provenance: measured, source: a clock}\n"
    "fitted_on: [{model: llama-3.1-8b}]\n";

TEST_F(LikeTest, TakesOverWhatItDoesNotState) {
  const auto p = Load({{"parent", kParent}, {"child", "like: parent\ndescription: child\nfront_end: 9 ms\n"}}, "child");
  ASSERT_TRUE(p.ok()) << p.status();
  EXPECT_EQ(p->name, "child");
  EXPECT_EQ(p->description, "child");
  EXPECT_DOUBLE_EQ(p->step_host.value(), 3e-3);
  EXPECT_DOUBLE_EQ(p->front_end.value(), 9e-3);
  // The parent's versions and measured runs are not the child's.
  EXPECT_TRUE(p->versions.empty());
  EXPECT_TRUE(p->fitted_on.empty());
  EXPECT_EQ(SourceOf(*p, "step_host"), "transferred: as parent: a fit");
  EXPECT_EQ(SourceOf(*p, "launch"), "assumed: as parent: a guess");
  EXPECT_EQ(SourceOf(*p, "front_end"), "");   // of a value that is replaced
}

// Its own variants follow the other's, and later entries replace what earlier ones say.
TEST_F(LikeTest, VariantsFollowThoseOfTheOther) {
  const auto own = Load({{"base", "description: x\nvariants: [{architecture: ampere, max_num_seqs: 8, post_step: 3 us, launch: 3 us}, {memory_below: 60 GiB, max_num_seqs: 4}]\n"},
                         {"own", "description: x\nlike: base\nlaunch: 1 us\nvariants: [{architecture: ampere, post_step: 5 us}]\n"}},
                        "own");
  ASSERT_TRUE(own.ok()) << own.status();
  const auto on = [&](const char* gpu) { return ApplyEngineConfig(*own, {}, TestMachine(gpu)); };
  EXPECT_EQ(on("a100-sxm-80gb").max_num_seqs, 8);
  EXPECT_EQ(on("a100-sxm-40gb").max_num_seqs, 4);
  EXPECT_EQ(on("h100-sxm-80gb").max_num_seqs, EngineProfile().max_num_seqs);
  EXPECT_NEAR(on("a100-sxm-80gb").post_step.value() * TestMachine("a100-sxm-80gb").host.single_thread, 5e-6, 1e-12);
  EXPECT_EQ(on("h100-sxm-80gb").post_step.value(), 0);
  EXPECT_FALSE(own->variants[0].launch.has_value()) << "what it says itself holds everywhere";
}

TEST_F(LikeTest, GoesOnThroughSeveral) {
  const auto p = Load({{"parent", kParent}, {"child", "like: parent\nlaunch: 8 us\n"}, {"grandchild", "like: child\noverlap: true\n"}}, "grandchild");
  ASSERT_TRUE(p.ok()) << p.status();
  EXPECT_DOUBLE_EQ(p->step_host.value(), 3e-3);
  EXPECT_DOUBLE_EQ(p->launch.value(), 8e-6);
  EXPECT_TRUE(p->overlap);
}

TEST_F(LikeTest, CirclesAndUnknownNamesAreErrorsOfTheLine) {
  const auto circle = Load({{"a", "like: b\n"}, {"b", "launch: 1 us\nlike: a\n"}}, "a");
  ASSERT_FALSE(circle.ok());
  EXPECT_THAT(std::string(circle.status().message()), ::testing::HasSubstr("b.yaml:2:7: like: engine profiles are like one another in a circle: a -> b -> a"));
  const auto unknown = Load({{"c", "like: vllm-0.91\n"}}, "c");
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(std::string(unknown.status().message()), ::testing::AllOf(::testing::HasSubstr("c.yaml:1:7: like: "), ::testing::HasSubstr("vllm-0.")));
}

TEST(EngineProfileTest, HostTimesScaleWithTheHost) {
  const EngineProfile p = Load("vllm-0.6");
  Machine machine = TestMachine("h100-sxm-80gb");
  machine.host.single_thread = p.reference_single_thread;
  const EngineProfile same = ApplyEngineConfig(p, {}, machine);
  machine.host.single_thread = p.reference_single_thread / 2;
  const EngineProfile slow = ApplyEngineConfig(p, {}, machine);
  // Behind a server in its own process a step costs the server's part too; a library call is spared it.
  const double served = (p.step_host + p.server_step).value();
  ASSERT_GT(p.server_step.value(), 0);
  EXPECT_NEAR(same.step_host.value(), served, 1e-12);
  EXPECT_NEAR(slow.step_host.value(), 2 * served, 1e-12);
  EngineConfig library;
  library.server = false;
  machine.host.single_thread = p.reference_single_thread;
  const EngineProfile called = ApplyEngineConfig(p, library, machine);
  EXPECT_NEAR(called.step_host.value(), p.step_host.value(), 1e-12);
  EXPECT_EQ(called.front_end.value(), 0);
  EXPECT_NEAR(slow.front_end.value(), 2 * p.front_end.value(), 1e-12);
  // The driver's part of a launch belongs to the machine and does not scale twice.
  EXPECT_NEAR(same.launch.value() - p.launch.value(), machine.host.kernel_launch.value(), 1e-12);
  EXPECT_NEAR(slow.launch.value() - 2 * p.launch.value(), machine.host.kernel_launch.value(), 1e-12);
}

TEST(EngineProfileTest, ArchitecturesAndUserSettingsOverride) {
  const EngineProfile p = Load("trt-llm");
  const EngineProfile b200 = ApplyEngineConfig(p, {}, TestMachine("b200-sxm-180gb"));
  EXPECT_GT(p.post_step.value(), 0);
  EXPECT_EQ(b200.post_step.value(), 0);
  EngineConfig config;
  config.step_host = Seconds(0.1);
  config.cuda_graphs = false;
  config.gpu_memory_utilization = 0.5;
  config.expert_imbalance = 2;
  Machine machine = TestMachine("h100-sxm-80gb");
  machine.host.single_thread = 0.1;
  const EngineProfile set = ApplyEngineConfig(p, config, machine);
  EXPECT_EQ(set.step_host.value(), 0.1);  // taken as given, whatever the host
  EXPECT_FALSE(set.cuda_graphs);
  EXPECT_EQ(set.gpu_memory_utilization, 0.5);
  EXPECT_EQ(set.expert_imbalance, 2);
}

TEST(EngineProfileTest, WithoutAServerAnswersAreWrittenBesideTheGpu) {
  const EngineProfile p = Load("trt-llm");
  ASSERT_GT(p.post_sequence.value(), 0);
  Machine machine = TestMachine("h100-sxm-80gb");
  machine.host.single_thread = p.reference_single_thread;
  EngineConfig library;
  library.server = false;
  const EngineProfile called = ApplyEngineConfig(p, library, machine);
  EXPECT_EQ(called.post_sequence.value(), 0);
  EXPECT_NEAR(called.sequence_host.value(), (p.sequence_host + p.post_sequence).value(), 1e-12);
  // Python sampling of an engine that prepares nothing ahead stays after its step.
  const EngineProfile eager = Load("eager-2023");
  ASSERT_FALSE(eager.overlap);
  machine.host.single_thread = eager.reference_single_thread;
  EXPECT_EQ(ApplyEngineConfig(eager, library, machine).post_sequence.value(), eager.post_sequence.value());
}

TEST(EngineProfileTest, KernelsOfMxfp4ExpertsAreThoseOfTheGpu) {
  const EngineProfile p = Load("vllm-0.19");
  EXPECT_EQ(ApplyEngineConfig(p, {}, TestMachine("h100-sxm-80gb")).moe_backend, "triton");
  EXPECT_EQ(ApplyEngineConfig(p, {}, TestMachine("a100-sxm-80gb")).moe_backend, "marlin");
  EngineConfig config;
  config.moe_backend = "marlin";
  EXPECT_EQ(ApplyEngineConfig(p, config, TestMachine("h100-sxm-80gb")).moe_backend, "marlin");
}

TEST(EngineProfileTest, TheAllReduceIsFusedWhereFlashInferHasIt) {
  const EngineProfile p = Load("vllm-0.19");
  EXPECT_TRUE(ApplyEngineConfig(p, {}, TestMachine("h100-sxm-80gb")).fused_all_reduce);
  EXPECT_TRUE(ApplyEngineConfig(p, {}, TestMachine("b300-sxm-288gb")).fused_all_reduce);
  EXPECT_FALSE(ApplyEngineConfig(p, {}, TestMachine("a100-sxm-80gb")).fused_all_reduce);
  EXPECT_FALSE(ApplyEngineConfig(Load("vllm-0.11"), {}, TestMachine("h100-sxm-80gb")).fused_all_reduce);
  EngineConfig config;
  config.fused_all_reduce = false;
  EXPECT_FALSE(ApplyEngineConfig(p, config, TestMachine("h100-sxm-80gb")).fused_all_reduce);
}

TEST(EngineProfileTest, SizesAreThoseOfTheGpu) {
  const EngineProfile vllm = Load("vllm-0.19");
  EngineConfig library;
  library.server = false;
  const auto sizes = [](const EngineProfile& p) { return std::pair(p.max_num_seqs, p.max_num_batched_tokens); };
  using Pair = std::pair<int64_t, int64_t>;
  EXPECT_EQ(sizes(ApplyEngineConfig(vllm, {}, TestMachine("h100-sxm-80gb"))), Pair(1024, 8192));
  EXPECT_EQ(sizes(ApplyEngineConfig(vllm, library, TestMachine("h100-sxm-80gb"))), Pair(1024, 16384));
  EXPECT_EQ(sizes(ApplyEngineConfig(vllm, {}, TestMachine("rtx-4090"))), Pair(256, 2048));
  EXPECT_EQ(sizes(ApplyEngineConfig(vllm, library, TestMachine("rtx-4090"))), Pair(256, 8192));
  EXPECT_EQ(sizes(ApplyEngineConfig(vllm, {}, TestMachine("a100-sxm-80gb"))), Pair(256, 2048));
  const EngineProfile sglang = Load("sglang-0.5");
  const auto graphs = [](const EngineProfile& p) { return std::pair(p.max_num_batched_tokens, p.graph_max_tokens); };
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("t4-16gb"))), Pair(2048, 8));
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("rtx-4090"))), Pair(2048, 24));
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("rtx-4090"), 4)), Pair(2048, 80));
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("a100-sxm-40gb"))), Pair(4096, 32));
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("h200-sxm-141gb"), 2)), Pair(8192, 256));
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("h200-sxm-141gb"), 8)), Pair(8192, 512));
  EXPECT_EQ(graphs(ApplyEngineConfig(sglang, {}, TestMachine("b200-sxm-180gb"))), Pair(16384, 512));
  EngineConfig set;
  set.graph_max_tokens = 48;
  EXPECT_EQ(ApplyEngineConfig(sglang, set, TestMachine("h100-sxm-80gb")).graph_max_tokens, 48);
}

TEST(EngineProfileTest, WorkingMemoryGrowsWithTheSizes) {
  constexpr double kMiB = 1 << 20;
  const WorkingMemory m = *Load("sglang-0.5").working_memory;
  // 512 + 1.5 x 8192 + 2 x 256 + 128 = 13,440 MiB of the 81,559 of one H100: servers there print mem_fraction_static 0.835.
  EXPECT_NEAR(m.Of(8192, 256, 1, 1).value(), 13440 * kMiB, 1);
  EXPECT_NEAR(1 - m.Of(8192, 256, 1, 1).value() / (81559 * kMiB), 0.835, 0.0005);
  // 512 + 12,288 + 2 x 512 + 8 x 128; with attention ranks 4.5 x 512 x 8 more. Budgets below 2048 count as 2048.
  EXPECT_NEAR(m.Of(8192, 512, 8, 1).value(), 14848 * kMiB, 1);
  EXPECT_NEAR(m.Of(8192, 512, 8, 8).value(), (14848 + 18432) * kMiB, 1);
  EXPECT_EQ(m.Of(64, 8, 1, 1).value(), m.Of(2048, 8, 1, 1).value());
}

TEST(EngineProfileTest, IdealHasNoOverhead) {
  const EngineProfile p = ApplyEngineConfig(Load("ideal"), {}, TestMachine("h100-sxm-80gb"));
  EXPECT_EQ(p.step_host.value() + p.sequence_host.value() + p.launch.value() + p.graph_launch.value() +
                p.post_step.value() + p.post_sequence.value() + p.front_end.value(),
            0);
  EXPECT_EQ(p.gpu_time_factor, 1);
  EXPECT_EQ(GraphTokens(p, 5), 5);
}

TEST(EngineProfileTest, GraphsPadToCapturedSizes) {
  EngineProfile p;
  p.graph_max_tokens = 100;
  p.graph_step = 8;
  for (auto [tokens, padded] :
       std::vector<std::array<int64_t, 2>>{{0, 0}, {1, 1}, {2, 2}, {3, 4}, {5, 8}, {9, 16}, {97, 100}, {101, 101}}) {
    EXPECT_EQ(GraphTokens(p, tokens), padded) << tokens;
  }
  EngineConfig listed;
  listed.graph_sizes = {256, 1, 64};
  p = ApplyEngineConfig(Load("vllm-0.19"), listed, TestMachine("h100-sxm-80gb"));
  EXPECT_EQ(p.graph_max_tokens, 256) << "the largest one listed";
  for (auto [tokens, padded] : std::vector<std::array<int64_t, 2>>{{1, 1}, {2, 64}, {65, 256}, {256, 256}, {257, 257}}) {
    EXPECT_EQ(GraphTokens(p, tokens), padded) << tokens;
  }
  listed.graph_max_tokens = 100;
  p = ApplyEngineConfig(Load("vllm-0.19"), listed, TestMachine("h100-sxm-80gb"));
  EXPECT_EQ(GraphTokens(p, 65), 65) << "too many for a graph";
}

TEST(EngineProfileTest, OtherNamesOfAProfileAreNotThoseOfProfilesLikeIt) {
  EXPECT_EQ(Load("TensorRT-LLM").name, "trt-llm");
  EXPECT_EQ(Load("text-generation-inference").name, "tgi");
  EXPECT_TRUE(Load("tgi-3").aliases.empty());
  EXPECT_EQ(Load("tgi-3").engine, "tgi");
}

}  // namespace
}  // namespace simrun
