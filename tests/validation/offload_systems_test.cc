// Published systems that keep tensors outside GPU memory, run through the simulator's own mechanisms: memory tiers and
// links as a flow network, tasks that overlap, placement and its memory accounting, the serving simulation.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/csv.h"
#include "gtest/gtest.h"
#include "hw/flow_network.h"
#include "hw/host_cost.h"
#include "hw/overlap.h"
#include "hw/tiers.h"
#include "models/lowering.h"
#include "sim/placed_step.h"
#include "tests/support/data_dir.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

using Use = FlowNetwork::Use;

// A table of shared/data, column by name; empty (and the test skipped) without the data.
struct Table {
  explicit Table(const std::string& file) {
    const std::string path = DataFile(file);
    if (path.empty()) return;
    auto read = CsvTable::Read(path);
    EXPECT_TRUE(read.ok()) << read.status().message();
    if (read.ok()) csv.emplace(*std::move(read));
  }
  size_t rows() const { return csv ? csv->rows() : 0; }
  const std::string& Text(size_t row, const char* column) const { return csv->Cell(row, *csv->Column(column)); }
  double Number(size_t row, const char* column) const { return std::stod(Text(row, column)); }
  std::optional<CsvTable> csv;
};

// ---- MoE-Lens (arXiv 2504.09345) ----

TEST(MoeLens, TokensAndKvCacheThatSaturateTheGpu) {
  const Table table("seeds/moe_lens_tables.csv");
  if (table.rows() == 0) GTEST_SKIP() << "no data";
  const std::map<std::string, std::string> gpus = {{"A40", "a40-48gb"}, {"L40", "l40s-48gb"}, {"A100", "a100-sxm-80gb"}};
  for (size_t row = 0; row < table.rows(); ++row) {
    // The table's own peak and a link of 31.25 GB/s.
    const double peak = table.Number(row, "bf16_tflops") * 1e12;
    const auto s = ScenarioOf(fmt::format(R"(
model: mixtral-8x7b
hardware: {{gpu: {}, host: xeon-8380, host_memory: 4 TB, peak_flops: {} TFLOP/s, host_link: pcie4-x16, host_link_bandwidth: {} GB/s, host_memory_bandwidth: 1 TB/s}}
plan: {{placement: [{{tensors: routed_experts, tier: dram}}, {{tensors: kv, tier: dram, use: compute}}]}}
engine: {{profile: ideal}}
scheduler: {{max_num_seqs: 1, max_model_len: 2048}}
workload: {{static_batch: 1, input_tokens: 100, output_tokens: 10}}
)", gpus.at(table.Text(row, "gpu")), peak / 1e12, 31.25 / 0.794));
    const ResolvedScenario& r = s->resolved();
    FlowNetwork network;
    auto memory = MemorySystem::Create(r.machine, {}, &network);
    ASSERT_TRUE(memory.ok());
    // Seconds that the experts of one layer take over the link, and the tokens whose arithmetic takes as long.
    const double bytes = WeightBytesByClass(r.model, r.plan, true).routed_experts;
    network.Start(memory->ToGpu(TierKind::kDram).uses, bytes);
    const double seconds = network.NextCompletion();
    double flops = 0;
    for (const Operator& op : LowerTokenOperators(r.model, r.plan, 0, 1000, 1000)) {
      if (op.kind == OpKind::kMoe) flops = op.flops / 1000;
    }
    const double gpu_peak = r.machine.gpu.peak[static_cast<size_t>(DType::kBf16)].value();
    EXPECT_NEAR(gpu_peak, peak, 1e-6 * peak);
    const double tokens = seconds * gpu_peak / flops;
    EXPECT_NEAR(tokens, table.Number(row, "tokens_to_saturate"), 0.025 * table.Number(row, "tokens_to_saturate")) << table.Text(row, "gpu");
    // Each of those tokens belongs to a sequence of that length.
    const double kv = tokens * table.Number(row, "seq_len") * r.memory.tiers.front().kv_block.value() / 16;
    EXPECT_NEAR(kv, table.Number(row, "kv_cache_to_saturate_gb") * 1e9, 0.05 * kv);
  }
}

// ---- KTransformers (its DeepSeek-V3 tutorial) ----

double DecodeRate(int sockets, int experts, double* prefill) {
  const Report r = ReportOf(ScenarioOf(fmt::format(R"(
model: deepseek-v3
hardware: {{gpu: rtx-4090d, host: xeon-6454s, sockets: {}}}
plan: {{weights: q4_k_m, experts_active: {}}}
engine: {{profile: ktransformers, server: false}}
workload: {{static_batch: 1, input_tokens: 500, output_tokens: 300}}
)", sockets, experts)));
  *prefill = 500 / r.ttft.mean.value();
  return 1 / r.tpot.mean.value();
}

TEST(KTransformers, DecodeAndPrefillRatesOfDeepSeekV3) {
  // Bandwidth per socket and fixed time of the profile are a fit to these four; what is tested is that one of each is
  // enough for both socket counts and both numbers of experts.
  struct Row {
    int sockets, experts;
    double decode, prefill;
  };
  for (const Row& row : {Row{1, 8, 8.73, 54.21}, Row{1, 6, 10.303, 65.14}, Row{2, 8, 12.208, 82.94}, Row{2, 6, 13.69, 0}}) {
    double prefill = 0;
    const double decode = DecodeRate(row.sockets, row.experts, &prefill);
    EXPECT_NEAR(decode, row.decode, 0.05 * row.decode) << row.sockets << " sockets, " << row.experts << " experts";
    if (row.prefill > 0) {
      EXPECT_NEAR(prefill, row.prefill, 0.20 * row.prefill);
    }
  }
}

// ---- CXL (arXiv 2507.03305) ----

// One fine-tuning step of a 7B model whose state lies in host memory: blocks stream to the GPU and back while it
// computes, then the CPU updates the fp32 state. Where the state and the streams lie is the placement.
struct Tuning {
  double seconds = 0;
};
double TuningStep(const Machine& machine, double tokens, double stream_on_cxl, double state_on_cxl) {
  const double parameters = 7e9, blocks = 32;
  const double gpu = 0.6 * machine.gpu.peak[static_cast<size_t>(DType::kBf16)].value();
  FlowNetwork network;
  auto memory = MemorySystem::Create(machine, {}, &network);
  EXPECT_TRUE(memory.ok());
  Overlap o(&network);
  const int compute = o.AddLane("gpu"), in = o.AddLane("in"), in_cxl = o.AddLane("in cxl"), out = o.AddLane("out"), out_cxl = o.AddLane("out cxl");
  const double bytes = 2 * parameters / blocks, checkpoint = 2 * 4096 * tokens;
  std::vector<Overlap::Task> done;
  const auto block = [&](double flops, double bytes_in, double bytes_out) {
    const Overlap::Task slot = done.size() >= 3 ? done[done.size() - 3] : Overlap::kNone;
    Overlap::Task a = Overlap::kNone, b = Overlap::kNone;
    if (stream_on_cxl < 1) a = o.Move(in, 1, memory->ToGpu(TierKind::kDram).uses, bytes_in * (1 - stream_on_cxl), FlowNetwork::kNoCap, 0, {slot});
    if (stream_on_cxl > 0) b = o.Move(in_cxl, 1, memory->ToGpu(TierKind::kCxl).uses, bytes_in * stream_on_cxl, FlowNetwork::kNoCap, 0, {slot});
    done.push_back(o.Work(compute, 0, flops / gpu, {a, b}));
    if (stream_on_cxl < 1) o.Move(out, 1, memory->FromGpu(TierKind::kDram).uses, bytes_out * (1 - stream_on_cxl), FlowNetwork::kNoCap, 0, {done.back()});
    if (stream_on_cxl > 0) o.Move(out_cxl, 1, memory->FromGpu(TierKind::kCxl).uses, bytes_out * stream_on_cxl, FlowNetwork::kNoCap, 0, {done.back()});
  };
  for (int b = 0; b < blocks; ++b) block(2 * parameters / blocks * tokens, bytes, checkpoint);                    // forward
  for (int b = 0; b < blocks; ++b) block(6 * parameters / blocks * tokens, bytes + checkpoint, bytes);            // recompute, backward
  const double passed = o.RunAll();
  // Adam: reads parameters, gradients and two moments in fp32, writes all but the gradients.
  EngineProfile kernels;
  kernels.cpu_operator = Seconds(0);
  kernels.cpu_memory_efficiency = 1;
  const HostCosts host(machine, kernels);
  const double here = parameters * (1 - state_on_cxl), there = parameters * state_on_cxl;
  return passed + std::max(host.UpdateSeconds(TierKind::kDram, 16 * here, 12 * here, 1e12), host.UpdateSeconds(TierKind::kCxl, 16 * there, 12 * there, 1e12));
}

Machine CxlMachine(int cards) {
  return ScenarioOf(fmt::format(R"(
model: llama-3.1-8b
hardware: {{gpu: rtx-5090, host: epyc-9654, sockets: 1, cxl: {{link: cxl-x16-gen5, cards: {}, capacity: 256 GB}}}}
workload: {{requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}}
)", cards))->resolved().machine;
}

TEST(Cxl, TierAwarePlacementKeepsWhatNaiveInterleavingLoses) {
  double most = 0;
  for (const double tokens : {4096.0, 8192.0, 16384.0, 32768.0}) {
    for (const int cards : {1, 2}) {
      const Machine machine = CxlMachine(cards);
      const double dram = TuningStep(machine, tokens, 0, 0), aware = TuningStep(machine, tokens, 1, 0), naive = TuningStep(machine, tokens, 0.5, 0.5);
      EXPECT_GE(dram / aware, cards == 1 ? 0.97 : 0.995) << tokens;
      EXPECT_LE(dram / aware, 1 + 1e-9);
      most = std::max(most, naive / aware);
    }
  }
  EXPECT_NEAR(most, 1.21, 0.06);
}

TEST(Cxl, UpdatesAreFourTimesSlowerPastTheCache) {
  // EPYC 9654: 384 MB of cache, 12 channels of DDR5-4800; one x16 card.
  Machine machine = ScenarioOf(R"(
model: llama-3.1-8b
hardware: {gpu: rtx-5090, host: epyc-9654, sockets: 1, cxl: {link: cxl-x16-gen5, capacity: 256 GB}}
workload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}
)")->resolved().machine;
  EngineProfile kernels;
  kernels.cpu_memory_efficiency = 1;
  kernels.cpu_operator = Seconds(0);
  const HostCosts host(machine, kernels);
  const auto ratio = [&](double elements) {
    return host.UpdateSeconds(TierKind::kCxl, 16 * elements, 12 * elements, 16 * elements) /
           host.UpdateSeconds(TierKind::kDram, 16 * elements, 12 * elements, 16 * elements);
  };
  EXPECT_NEAR(ratio(10e6), 1, 1e-9);
  for (const double elements : {25e6, 100e6, 1e9}) EXPECT_NEAR(ratio(elements), 4, 0.15 * 4) << elements;
}

// ---- Fuyou / LoHan (arXiv 2403.06504): three-way overlap of GPU, link and drives ----

// Training of a 13B model of 40 layers, state on `drives` drives: per layer the state is read from and written to the
// drives and activations cross the link, one after the other on one copy thread, beside the GPU. Times in units of
// batch / TFLOPS, as the published table: t(b, n) for constants {GPU rate, drive time, activation time, fixed}.
double RatelTime(double batch, int drives, double gpu, double drive, double activation, double fixed) {
  FlowNetwork network;
  const int nvme = network.AddResource("drives", drives), link = network.AddResource("link", 1);
  const std::vector<Use> to_drives = {{nvme}}, over_link = {{link}};
  Overlap o(&network);
  const int compute = o.AddLane("gpu"), copy = o.AddLane("copies");
  const int layers = 40, window = 2;
  std::vector<Overlap::Task> done;
  for (int l = 0; l < layers; ++l) {
    const Overlap::Task slot = l >= window ? done[static_cast<size_t>(l - window)] : Overlap::kNone;
    o.Move(copy, 1, to_drives, drive / layers, FlowNetwork::kNoCap, 0, {slot});
    const auto moved = o.Move(copy, 1, over_link, activation * batch / layers, FlowNetwork::kNoCap, fixed / layers);
    done.push_back(o.Work(compute, 0, batch / gpu / layers, {moved}));
  }
  return o.RunAll();
}

TEST(Fuyou, FourConstantsReproduceTheGridOfDrivesAndBatches) {
  const Table table("seeds/ratel_fuyou_raw.csv");
  if (table.rows() == 0) GTEST_SKIP() << "no data";
  struct Cell {
    double batch;
    int drives;
    double tflops;
  };
  std::vector<Cell> cells;
  for (size_t r = 0; r < table.rows(); ++r) {
    if (table.Text(r, "figure") == "10b") cells.push_back({table.Number(r, "batch_or_global_batch"), static_cast<int>(table.Number(r, "num_ssds")), table.Number(r, "tflops")});
  }
  ASSERT_EQ(cells.size(), 15u);
  std::array<double, 4> c = {150, 0.70, 0.0022, 0.08};
  const auto error = [&](const std::array<double, 4>& k) {
    double sum = 0;
    for (const Cell& cell : cells) sum += std::abs(cell.batch / RatelTime(cell.batch, cell.drives, k[0], k[1], k[2], k[3]) / cell.tflops - 1);
    return sum / static_cast<double>(cells.size());
  };
  // One coordinate at a time, in shrinking steps: enough for four constants.
  double best = error(c);
  for (double step = 0.1; step > 0.005; step /= 2) {
    for (int round = 0; round < 3; ++round) {
      for (double& k : c) {
        for (const double factor : {1 + step, 1 / (1 + step)}) {
          const double before = k;
          k *= factor;
          const double now = error(c);
          if (now < best) {
            best = now;
          } else {
            k = before;
          }
        }
      }
    }
  }
  EXPECT_LE(best, 0.04);
  // At a batch of 64 the GPU is busy with 6 drives: 12 are hardly faster.
  const double gain = RatelTime(64, 6, c[0], c[1], c[2], c[3]) / RatelTime(64, 12, c[0], c[1], c[2], c[3]) - 1;
  EXPECT_LT(gain, 0.05);
  EXPECT_GT(RatelTime(32, 1, c[0], c[1], c[2], c[3]) / RatelTime(32, 12, c[0], c[1], c[2], c[3]), 3);
}

// ---- ZO2 (arXiv 2503.12668): blocks stream through a window ----

TEST(Zo2, PeakMemoryOfSevenModelsFromOneWindowAndOverhead) {
  const Table table("seeds/zo2_gpu_memory.csv");
  if (table.rows() == 0) GTEST_SKIP() << "no data";
  ASSERT_EQ(table.rows(), 7u);
  for (size_t row = 0; row < table.rows(); ++row) {
    std::string model = table.Text(row, "model");
    for (char& ch : model) ch = static_cast<char>(std::tolower(ch));
    // Embedding and head stay, blocks pass through four slots: the one computed, one arriving, one leaving, one spare.
    const auto s = ScenarioOf(fmt::format(R"(
model: {}
hardware: {{gpu: a100-sxm-80gb, host_memory: 2 TB}}
plan: {{placement: {{rules: [{{tensors: attention, tier: dram}}, {{tensors: dense_ffn, tier: dram}}], window: 4}}}}
engine: {{profile: ideal, runtime_reserve: 3.1 GB}}
scheduler: {{max_num_seqs: 1, max_num_batched_tokens: 1}}
workload: {{static_batch: 1, input_tokens: 1, output_tokens: 1}}
)", model));
    const MemoryPlan& m = s->resolved().memory;
    const double peak = (m.weights + m.activations + m.reserve).value();
    EXPECT_NEAR(peak, table.Number(row, "gpu_memory_gb") * 1e9, 0.06 * peak) << model;
  }
}

}  // namespace
}  // namespace simrun
