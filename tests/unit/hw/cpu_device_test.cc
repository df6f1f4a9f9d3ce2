// A machine without GPUs: the sockets are the devices.
#include "hw/engine_profile.h"
#include "hw/step_cost_compiled.h"
#include "models/lowering.h"
#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

Machine Cpu(const char* name) {
  HardwareConfig config;
  config.cpu = name;
  return TestMachine(config);
}

double DecodeSeconds(const char* model, const char* cpu, DType weights, DType activations, int64_t batch, double* weight_bytes = nullptr) {
  const Machine machine = Cpu(cpu);
  ParallelPlan plan;
  plan.weights = weights;
  plan.activations = activations;
  const ModelSpec spec = TestModel(model);
  const EngineProfile engine = ApplyEngineConfig(*LoadEngineProfile("ideal", TestCatalog()), {}, machine);
  auto cost = CompileStepCost(spec, plan, machine, engine, TestCatalog(), {});
  EXPECT_TRUE(cost.ok()) << cost.status();
  StepWork work;
  work.tokens = work.logits_rows = work.decode_seqs = batch;
  work.decode_kv_sum = work.decode_kv_sum_windowed = 16 * batch;
  work.decode_kv_max = 16;
  StepCost out;
  (*cost)->Predict({&work, 1}, &out);
  if (weight_bytes != nullptr) *weight_bytes = WeightBytesPerGpu(spec, plan, 0).value();
  return out.stage_seconds[0];
}

TEST(CpuDeviceTest, TakesTheFiguresOfASocket) {
  const Machine m = Cpu("xeon-8480c");
  EXPECT_TRUE(m.cpu_only);
  EXPECT_EQ(m.gpu.name, "xeon-8480c");
  EXPECT_EQ(m.gpu.memory_bandwidth, m.host.memory_bandwidth);
  EXPECT_EQ(m.gpus_per_node, 2);
  EXPECT_EQ(m.scale_up.kind, "socket");
  EXPECT_DOUBLE_EQ(m.gpu.peak[static_cast<size_t>(DType::kBf16)].value(), m.host.peak_bf16.value());
  Problems problems;
  HardwareConfig both;
  both.cpu = "xeon-8480c";
  both.gpu = "h100-sxm-80gb";
  BuildMachine(both, TestCatalog(), {}, &problems);
  EXPECT_FALSE(problems.empty());
}

TEST(CpuDeviceTest, DecodeIsBoundByTheMemory) {
  for (const char* cpu : {"xeon-8480c", "epyc-9654", "epyc-7313", "grace-72c"}) {
    double bytes = 0;
    const double seconds = DecodeSeconds("opt-1.3b", cpu, DType::kFp32, DType::kFp32, 1, &bytes);
    const double bound = bytes / Cpu(cpu).host.memory_bandwidth.value();
    EXPECT_GT(seconds, 0.9 * bound) << cpu;   // the table of embeddings is not read
    EXPECT_LT(seconds, 1.8 * bound) << cpu;
  }
}

double GemmSeconds(const char* cpu, DType dtype, int64_t m, int64_t n, int64_t k) {
  Operator op;
  op.kind = OpKind::kGemm;
  op.weights = op.activations = dtype;
  op.m = m, op.n = n, op.k = k;
  auto costs = OperatorCosts::Create(Cpu(cpu), TestCatalog(), {});
  EXPECT_TRUE(costs.ok()) << costs.status();
  return costs->Cost(op).seconds;
}

TEST(CpuDeviceTest, EightBitsReadAQuarter) {
  // In the limit of bandwidth; a whole step keeps its LM head in 16 bits and its barriers, and gains a little less.
  EXPECT_NEAR(GemmSeconds("xeon-8480c", DType::kFp32, 1, 22016, 4096) / GemmSeconds("xeon-8480c", DType::kInt8, 1, 22016, 4096), 4, 0.2);
  const double step = DecodeSeconds("llama-2-7b", "xeon-8480c", DType::kFp32, DType::kFp32, 1) /
                      DecodeSeconds("llama-2-7b", "xeon-8480c", DType::kInt8, DType::kInt8, 1);
  EXPECT_GT(step, 3.3);
  EXPECT_LT(step, 4);
}

TEST(CpuDeviceTest, MatrixInstructionsSpeedUpPrompts) {
  const auto gemm = [](const char* cpu, DType dtype) { return GemmSeconds(cpu, dtype, 2048, 4096, 4096); };
  // AMX: 1024 instead of 64 operations a cycle; an EPYC without such instructions gains nothing.
  EXPECT_GT(gemm("xeon-8480c", DType::kFp32), 8 * gemm("xeon-8480c", DType::kBf16));
  EXPECT_GT(gemm("epyc-7313", DType::kBf16), 0.9 * gemm("epyc-7313", DType::kFp32));
}

// SAIL's socket against the same one without its look-up tables. Its abstract: up to 10.7 times as fast. The gain grows with
// the batch, over which tables are amortised and with which the cores' own time grows, and with narrower weights.
TEST(CpuDeviceTest, LookUpTablesSpeedUpDecoding) {
  double most = 0;
  for (const int64_t batch : {1, 2, 4, 8, 16, 32}) {
    double gain[2] = {0, 0};
    for (const DType weights : {DType::kInt8, DType::kInt4}) {
      const auto seconds = [&](const char* cpu) { return DecodeSeconds("llama-2-7b", cpu, weights, DType::kFp32, batch); };
      const double speedup = seconds("neoverse-n1-16c") / seconds("sail-16c");
      EXPECT_GE(speedup, 1) << batch;
      EXPECT_LE(speedup, 10.7) << batch;
      gain[weights == DType::kInt4 ? 1 : 0] = speedup;
      most = std::max(most, speedup);
    }
    EXPECT_GE(gain[1], gain[0] - 1e-9) << batch;
  }
  EXPECT_GT(most, 0.85 * 10.7);
  // Wide weights and prompts are the cores' work.
  EXPECT_DOUBLE_EQ(DecodeSeconds("llama-2-7b", "neoverse-n1-16c", DType::kFp32, DType::kFp32, 8),
                   DecodeSeconds("llama-2-7b", "sail-16c", DType::kFp32, DType::kFp32, 8));
  EXPECT_DOUBLE_EQ(DecodeSeconds("llama-2-7b", "neoverse-n1-16c", DType::kInt4, DType::kFp32, 64),
                   DecodeSeconds("llama-2-7b", "sail-16c", DType::kInt4, DType::kFp32, 64));
}

}  // namespace
}  // namespace simrun
