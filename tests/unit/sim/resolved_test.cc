#include "sim/resolved.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/lowering.h"
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

// SGLang keeps 13,440 MiB of an H100 from weights and KV cache (512 + 1.5 x 8192 + 2 x 256 + 128): of the 79.11 GiB less the
// runtime's 0.7 it shares out 1 - 13.125 / 79.11. Qwen3-32B has 32.762e9 parameters and 256 KiB of cache per token.
TEST(Resolved, WorkingMemoryOfTheEngineIsKeptFromTheCache) {
  const auto memory = [](const std::string& settings) {
    return ScenarioOf("model: qwen3-32b\nhardware: {gpu: h100-sxm-80gb}\nengine: {profile: sglang-0.5" + settings +
                      "}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 100, output_tokens: 10}\n")->resolved().memory;
  };
  constexpr double kGiB = 1 << 30;
  const auto tokens = [](double share) { return (share * (79.11 - 0.7) * kGiB - 2 * 32.762e9) / (256 * 1024); };
  const MemoryPlan own = memory("");
  EXPECT_NEAR(static_cast<double>(own.kv_blocks) * 16, tokens(1 - 13.125 / 79.11), 40);
  // The parts still add up to the GPU.
  EXPECT_NEAR((own.weights + own.activations + own.reserve + own.kv_budget).value(), own.gpu.value(), 1);
  // The user's share is that of weights and cache; smaller graphs leave more.
  EXPECT_NEAR(static_cast<double>(memory(", gpu_memory_utilization: 0.9").kv_blocks) * 16, tokens(0.9), 40);
  EXPECT_NEAR(static_cast<double>(memory(", graph_max_tokens: 16").kv_blocks) * 16, tokens(1 - (13.125 - 480.0 / 1024) / 79.11), 40);
}

// Qwen3-Next's states take 39.5 MB for each sequence, a block of 16 tokens 393 kB: 101 blocks beside those of the tokens.
TEST(Resolved, StatesOfLinearAttentionTakeBlocks) {
  const auto yaml = [](const std::string& more) {
    return "model: qwen3-next-80b-a3b\nhardware: {gpu: h200-sxm-141gb}\n" + more + "workload: {requests: 40, arrivals: all_at_once, input_tokens: 1600, output_tokens: 20}\n";
  };
  const auto own = ScenarioOf(yaml("plan: {tp: 2}\n"));
  EXPECT_EQ(own->resolved().params.limits.state_blocks, 101);
  EXPECT_FALSE(own->resolved().params.prefix_caching);
  // 2030 blocks hold ten sequences of 101 blocks of states and 102 of tokens, not nineteen: the last of 40 wait for three rounds.
  const Report all = ReportOf(own), tight = ReportOf(ScenarioOf(yaml("plan: {tp: 2}\nengine: {kv_blocks: 2030}\n")));
  EXPECT_EQ(tight.requests.completed, 40u);
  EXPECT_GT(tight.memory.kv_peak_fraction, 0.99);
  EXPECT_GT(tight.queue_delay.max, 1.3 * all.queue_delay.max);
  EXPECT_EQ(tight.memory.state, StateBytesPerGpu(own->resolved().model, own->resolved().plan, 0));
  const auto problem = [&](const std::string& more) { return std::string(Scenario::FromYaml(yaml(more)).status().message()); };
  EXPECT_THAT(problem("plan: {tp: 2}\nscheduler: {prefix_caching: true}\n"),
              testing::HasSubstr("scheduler.prefix_caching: is not modelled for the linear attention of qwen3-next-80b-a3b"));
  EXPECT_THAT(problem("plan: {tp: 2, placement: [{tensors: kv, tier: dram}]}\n"),
              testing::HasSubstr("linear attention, whose cache is only modelled on the gpu"));
}

TEST(Resolved, EnginesWithAPoolForStatesRunWhatItHasRoomFor) {
  const auto resolved = [](const std::string& profile) {
    return ScenarioOf("model: qwen3.5-27b\nhardware: {gpu: h200-sxm-141gb}\nengine: {profile: " + profile +
                      "}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 100, output_tokens: 10}\n")->resolved();
  };
  const ResolvedScenario r = resolved("sglang-0.5");
  const double state = 48 * (48 * 128 * 128 * 4.0 + 3 * (2 * 2048 + 6144) * 2.0);
  const double budget = (r.memory.gpu - r.memory.weights - r.memory.activations - r.memory.reserve).value();
  EXPECT_EQ(r.params.limits.state_blocks, 0);
  EXPECT_EQ(r.params.limits.max_num_seqs, static_cast<int64_t>(budget * 0.9 / 1.9 / (5 * state)));
  EXPECT_NEAR(static_cast<double>(r.memory.kv_blocks) * 16 * 65536, budget / 1.9, 2e6);
  EXPECT_EQ(resolved("vllm-0.19").memory.state_sequences, 0);
  EXPECT_GT(resolved("vllm-0.19").params.limits.state_blocks, 0);
}

TEST(Resolved, EnginesOnGpusTheyAreNotMadeForAreSaidSo) {
  const auto warned = [](const char* profile, const char* gpu) {
    const auto scenario = ScenarioOf(std::string("model: llama-3.1-8b\nhardware: {gpu: ") + gpu + "}\nengine: {profile: " + profile +
                                     "}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 100, output_tokens: 10}\n");
    for (const std::string& w : scenario->resolved().warnings) {
      if (w.find("is made for GPUs of") != std::string::npos) return w;
    }
    return std::string();
  };
  EXPECT_EQ(warned("trt-llm", "mi300x-192gb").substr(0, 46), "trt-llm is made for GPUs of nvidia, not of amd");
  EXPECT_EQ(warned("trt-llm", "h100-sxm-80gb"), "");
  EXPECT_EQ(warned("sglang-0.5", "mi300x-192gb"), "");
  EXPECT_EQ(warned("vllm-0.19", "tpu-v5p"), "");   // states no vendors
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

// Parts may be files of one's own: taken from the scenario's folder, and what they name from theirs.
TEST(Resolved, PartsMayBeFilesBesideTheScenario) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "parts_of_ones_own";
  std::filesystem::create_directories(dir / "parts");
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(dir / name) << text; };
  write("model.yaml", "hidden: 1024\nlayers: 4\nvocab: 1000\nattention: {heads: 8, kv_heads: 8, head_dim: 128}\nmlp: {ffn: 4096}\nmax_positions: 4096\nsource: own\n");
  write("parts/wire.yaml", "kind: nvlink\nbandwidth: 123 GB/s\nefficiency: 0.5\nlatency: 1 us\n");
  write("parts/chip.yaml", "vendor: mine\narchitecture: hopper\nmemory: 30 GB\nmemory_bandwidth: 2 TB/s\npeak: {bf16: 500 TFLOPS}\nl2: 50 MB\nmultiprocessors: 100\n"
        "tdp: 300 W\nidle_power: 30 W\npower: generic\nhost_link: pcie5-x16\ndefault_host: xeon-8480c\ndefault_network: ib-ndr-400\n"
        "scale_up: {link: wire.yaml, topology: switch, bandwidth: 123 GB/s}\n");
  write("box.yaml", "gpu: parts/chip.yaml\ncount: 2\nhost: xeon-8480c\nsockets: 1\ntopology: switch\nnetwork: ib-ndr-400\nnics: 2\n");
  write("engine.yaml", "like: vllm-0.19\ndescription: own\nmax_num_seqs: 7\n");
  const std::string text = "model: model.yaml\nhardware: {node: box.yaml}\nplan: {tp: 2}\nengine: {profile: engine.yaml}\n"
                           "workload: {requests: 1, arrivals: all_at_once, input_tokens: 10, output_tokens: 10}\n";
  const absl::StatusOr<Scenario> scenario = Scenario::FromYaml(text, "test", dir.string());
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  const ResolvedScenario& r = scenario->resolved();
  EXPECT_EQ(r.model.name, "model");
  EXPECT_EQ(r.machine.node_name, "box");
  EXPECT_EQ(r.machine.gpu.name, "chip");
  EXPECT_EQ(r.machine.gpu.memory.value(), 30e9);
  EXPECT_EQ(r.machine.scale_up.bandwidth.value(), 123e9);
  EXPECT_EQ(r.engine.name, "engine");
  EXPECT_EQ(r.params.limits.max_num_seqs, 7);
  const absl::StatusOr<Scenario> missing = scenario->With("hardware.node", "bx.yaml");
  EXPECT_NE(missing.status().message().find((dir / "bx.yaml").string() + ": no such file"), std::string::npos) << missing.status();
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace simrun
