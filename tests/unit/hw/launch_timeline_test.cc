#include "hw/launch_timeline.h"

#include <array>
#include <cmath>

#include "hw/engine_profile.h"
#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

std::vector<KernelLaunch> Stream(int n, double host, double kernel) {
  std::vector<KernelLaunch> out;
  for (int i = 0; i < n; ++i) out.push_back({i, host, kernel});
  return out;
}

TEST(LaunchTimelineTest, HandSolved) {
  // Issued at 2, 4, 6; latency 1. The first runs 3 to 8; the second could start at 5 and waits until 8, ends at 9; the
  // third could start at 7, waits until 9.
  const std::vector<KernelLaunch> launches = {{0, 2, 5}, {1, 2, 1}, {2, 2, 4}};
  std::vector<KernelTimes> times;
  const LaunchTimeline t = RunLaunches(launches, 1, &times);
  ASSERT_EQ(times.size(), 3u);
  EXPECT_EQ(times[0].start, 3);
  EXPECT_EQ(times[1].start, 8);
  EXPECT_EQ(times[2].start, 9);
  EXPECT_EQ(times[2].end, 13);
  EXPECT_EQ(t.latency, 13);
  EXPECT_EQ(t.launch_queue, 1 + 4 + 3);
  EXPECT_EQ(t.gpu_busy, 10);
  EXPECT_EQ(t.gpu_idle(), 3);
  EXPECT_EQ(t.host_busy, 6);
  EXPECT_FALSE(t.host_bound());
  EXPECT_EQ(RunLaunches({}, 1).latency, 0);
}

// The published launch latencies of three platforms (SKIP, table V), from a stream of 1000 empty kernels.
TEST(LaunchTimelineTest, EmptyKernelsWaitForTheLaunchAlone) {
  const std::vector<std::pair<const char*, std::array<double, 2>>> platforms = {
      {"epyc7313-a100", {2260.5, 1440.0}}, {"xeon8468v-h100pcie", {2374.6, 1235.2}}, {"gh200", {2771.6, 1171.2}}};
  for (const auto& [node, published] : platforms) {
    HardwareConfig config;
    config.node = node;
    const Machine machine = TestMachine(config);
    const double l = machine.host.kernel_launch.value(), k = machine.gpu.null_kernel.value();
    const LaunchTimeline t = RunLaunches(Stream(1000, 10e-6, k), l);
    EXPECT_NEAR(t.queue_per_launch() * 1e9, published[0], 1e-9 * published[0]) << node;
    EXPECT_NEAR(t.mean_kernel() * 1e9, published[1], 1e-9 * published[1]) << node;
    EXPECT_NEAR(t.latency, 1000 * 10e-6 + l + k, 1e-15) << node;
    EXPECT_TRUE(t.host_bound());
  }
}

TEST(LaunchTimelineTest, AQueueBuildsUpWhenTheGpuIsSlower) {
  const LaunchTimeline t = RunLaunches(Stream(100, 2e-6, 10e-6), 1e-6);
  EXPECT_FALSE(t.host_bound());
  EXPECT_NEAR(t.latency, 2e-6 + 1e-6 + 100 * 10e-6, 1e-12);
  // Kernel i waits 1 us and then 8 us for every kernel before it.
  EXPECT_NEAR(t.launch_queue, 100 * 1e-6 + 8e-6 * (99 * 100 / 2), 1e-12);
}

TEST(LaunchTimelineTest, FusingChains) {
  // 408 and 299 kernels with one chain of 256: the published ideal speed-ups of 2.7 and 6.8.
  for (const auto& [n, speedup] : std::vector<std::pair<int, double>>{{408, 408.0 / 153}, {299, 299.0 / 44}}) {
    const std::vector<KernelLaunch> launches = Stream(n, 20e-6, 1e-6);
    const FusionWhatIf f = FuseChains(launches, 256, 2e-6);
    EXPECT_EQ(f.matches, 1);
    EXPECT_EQ(f.fused_kernels, n - 255);
    EXPECT_DOUBLE_EQ(f.ideal_speedup, speedup);
    // The host is the limit, so the speed-up is reached but for the longer last kernels.
    EXPECT_NEAR(RunLaunches(launches, 2e-6).latency / f.fused.latency, speedup, 0.02 * speedup);
    EXPECT_NEAR(f.fused.gpu_busy, n * 1e-6, 1e-12);
  }
  EXPECT_NEAR(FuseChains(Stream(408, 1, 0), 256, 0).ideal_speedup, 2.67, 0.005);
  EXPECT_NEAR(FuseChains(Stream(299, 1, 0), 256, 0).ideal_speedup, 6.80, 0.005);
  // Twelve layers of a b c d, then e: abcd follows every a; cd follows every c; dab does not follow the last d.
  std::vector<KernelLaunch> layers;
  for (int i = 0; i < 12; ++i) {
    for (int op = 0; op < 4; ++op) layers.push_back({op, 1, 0});
  }
  layers.push_back({4, 1, 0});
  EXPECT_EQ(FuseChains(layers, 4, 0).matches, 12);
  EXPECT_EQ(FuseChains(layers, 4, 0).fused_kernels, 13);
  EXPECT_EQ(FuseChains(layers, 2, 0).matches, 12);
  EXPECT_EQ(FuseChains(layers, 50, 0).matches, 0);
  EXPECT_EQ(FuseChains(layers, 50, 0).ideal_speedup, 1);
}

TEST(LaunchTimelineTest, AGraphPaysOneLaunch) {
  const std::vector<KernelLaunch> launches = Stream(300, 20e-6, 3e-6);
  const LaunchTimeline t = ReplayGraph(launches, 2.5e-6, 2e-6);
  EXPECT_NEAR(t.latency, 2.5e-6 + 2e-6 + 300 * (3e-6 + 1e-9), 1e-12);
}

struct Encoder {
  std::unique_ptr<CompiledStepCost> cost;
  Machine machine;
  EngineProfile engine;
  LaunchTimeline Run(int64_t prompts, int64_t tokens, double host_factor = 1) const {
    const std::vector<PrefillChunk> chunks(static_cast<size_t>(prompts), PrefillChunk{tokens, 0});
    StepWork work;
    work.tokens = prompts * tokens;
    work.logits_rows = prompts;
    work.chunks = chunks;
    const auto operators = cost->Explain({&work, 1});
    StepCost whole;
    cost->Predict({&work, 1}, &whole);
    const LaunchTimeline t = RunLaunches(LaunchesOf(operators, 0, host_factor * engine.launch.value()), machine.host.kernel_launch.value());
    if (host_factor == 1) {
      // The step model's closed form: within 8 % of the timeline, never above it.
      EXPECT_LE(whole.stage_seconds[0], t.latency * (1 + 1e-9));
      EXPECT_GT(whole.stage_seconds[0], 0.92 * t.latency) << prompts;
    }
    return t;
  }
};

Encoder Eager(const char* model, const char* node, double flops_factor = 1) {
  HardwareConfig config;
  config.node = node;
  Encoder e;
  e.machine = TestMachine(config);
  if (flops_factor != 1) {
    config.peak_flops = e.machine.gpu.peak[static_cast<size_t>(DType::kBf16)] * flops_factor;
    e.machine = TestMachine(config);
  }
  e.engine = ApplyEngineConfig(*LoadEngineProfile("pytorch-eager", TestCatalog()), {}, e.machine);
  ParallelPlan plan;
  auto cost = CompileStepCost(TestModel(model), plan, e.machine, e.engine, TestCatalog(), {});
  EXPECT_TRUE(cost.ok()) << cost.status();
  e.cost = *std::move(cost);
  return e;
}

TEST(LaunchTimelineTest, KernelsAreThoseOfTheStep) {
  const Encoder e = Eager("bert-base-uncased", "gh200");
  const PrefillChunk chunk{512, 0};
  StepWork work;
  work.tokens = 512;
  work.logits_rows = 1;
  work.chunks = {&chunk, 1};
  const auto operators = e.cost->Explain({&work, 1});
  double kernels = 0, seconds = 0;
  for (const StepOperator& op : operators) {
    kernels += op.count * op.kernels;
    if (op.kernels > 0) seconds += op.time.seconds;
  }
  const auto launches = LaunchesOf(operators, 0, 1e-6);
  EXPECT_EQ(static_cast<double>(launches.size()), kernels);
  EXPECT_NEAR(RunLaunches(launches, 0).gpu_busy, seconds, 1e-12);
  EXPECT_EQ(operators[static_cast<size_t>(launches.front().op)].name, "embedding");
  EXPECT_EQ(operators[static_cast<size_t>(launches.back().op)].name, "pooler");
}

// Published: an encoder at 512 tokens is bound by the host below batch 8, 8 and 32 (SKIP).
TEST(LaunchTimelineTest, EncodersTurnFromHostToGpuBound) {
  const std::vector<std::pair<const char*, int64_t>> platforms = {{"epyc7313-a100", 8}, {"xeon8468v-h100pcie", 8}, {"gh200", 32}};
  for (const char* model : {"bert-base-uncased", "xlm-roberta-base"}) {
    for (const auto& [node, published] : platforms) {
      const Encoder e = Eager(model, node), faster = Eager(model, node, 2);
      int64_t flip = 0;
      for (int64_t batch = 1; batch <= 64 && flip == 0; batch *= 2) {
        if (!e.Run(batch, 512).host_bound()) flip = batch;
      }
      EXPECT_EQ(flip, published) << model << ' ' << node;
      // Well below, a faster GPU does not help; well above, a faster host does not.
      const double below = e.Run(published / 4, 512).latency;
      EXPECT_NEAR(faster.Run(published / 4, 512).latency, below, 0.01 * below) << node;
      const double above = e.Run(published * 4, 512).latency;
      EXPECT_NEAR(e.Run(published * 4, 512, 0.5).latency, above, 0.01 * above) << node;
    }
  }
}

// Published: prefill of Llama-3.2-1B at large batch 1.9 to 2.7 times as fast on GH200 as on the PCIe platforms (here 1.9 and
// 3.1: this engine's element-wise kernels are fused), slower at batch 1.
TEST(LaunchTimelineTest, GraceHopperWinsAtLargeBatchOnly) {
  const Encoder gh200 = Eager("llama-3.2-1b", "gh200"), amd = Eager("llama-3.2-1b", "epyc7313-a100"),
                intel = Eager("llama-3.2-1b", "xeon8468v-h100pcie");
  EXPECT_GT(gh200.Run(1, 128).latency, amd.Run(1, 128).latency);
  EXPECT_GT(gh200.Run(1, 128).latency, intel.Run(1, 128).latency);
  const double large = gh200.Run(64, 512).latency;
  for (const Encoder* other : {&amd, &intel}) {
    const double ratio = other->Run(64, 512).latency / large;
    EXPECT_GT(ratio, 1.9 * 0.9);
    EXPECT_LT(ratio, 2.7 * 1.15);
  }
}

}  // namespace
}  // namespace simrun
