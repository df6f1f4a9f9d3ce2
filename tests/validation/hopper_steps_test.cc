// Whole steps measured by this project on one H100 SXM and one H200 SXM (hopper_steps.csv): every kernel of a step of a
// Llama in one CUDA graph (cuBLAS, paged decode attention in Triton, prompt attention of cuDNN, norms and the rest as
// torch.compile makes them), repeated for a second; time from events, watts from the board's energy counter. tp 8: one
// rank of eight, without its all-reduces. The compute watts of long work (PowerSpec::settled) were fitted to the times of
// the H200's prompts; nothing else in the catalogue was fitted to any of these rows.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/csv.h"
#include "gtest/gtest.h"
#include "hw/power.h"
#include "sim/placed_step.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

struct Errors {
  double time = 0, time_bias = 0, watts = 0, watts_bias = 0, rows = 0;
};

TEST(HopperSteps, TimeAndPowerOfWholeSteps) {
  const auto table = CsvTable::Read(SIMRUN_SOURCE_DIR "/tests/validation/hopper_steps.csv");
  ASSERT_TRUE(table.ok()) << table.status();
  const auto number = [&](size_t row, const char* column) { return std::stod(table->Cell(row, *table->Column(column))); };
  std::map<std::string, Errors> errors;
  for (size_t row = 0; row < table->rows(); ++row) {
    const std::string gpu = table->Cell(row, *table->Column("gpu"));
    const int tp = static_cast<int>(number(row, "tp"));
    const auto scenario = ScenarioOf(fmt::format(
        "model: {}\nhardware: {{gpu: {}, count: {}}}\nplan: {{tp: {}}}\nengine: {{profile: vllm-0.19}}\n"
        "workload: {{requests: 1, arrivals: all_at_once, input_tokens: 100, output_tokens: 2}}\n",
        table->Cell(row, *table->Column("model")), gpu, tp, tp));
    ASSERT_TRUE(scenario.ok()) << scenario.status();
    const ResolvedScenario& r = scenario->resolved();
    StepWork work;
    const int64_t sequences = static_cast<int64_t>(number(row, "sequences")), kv = static_cast<int64_t>(number(row, "kv_tokens"));
    const int64_t prompt = static_cast<int64_t>(number(row, "prompt_tokens"));
    const std::vector<PrefillChunk> chunks(prompt > 0 ? 1 : 0, PrefillChunk{prompt, 0});
    work.tokens = sequences + prompt;
    work.logits_rows = sequences + static_cast<int64_t>(chunks.size());
    work.decode_seqs = sequences;
    work.decode_kv_sum = work.decode_kv_sum_windowed = sequences * kv;
    work.decode_kv_max = kv;
    work.chunks = chunks;
    StepCostOptions options;
    options.max_tokens = std::max(r.params.limits.max_num_batched_tokens, work.tokens);
    options.max_rows = std::max(r.params.limits.max_num_seqs, sequences);
    const auto cost = StepCostOf(r, *scenario->catalog(), options);
    ASSERT_TRUE(cost.ok()) << cost.status();
    double seconds = 0, joules = 0;
    for (const StepOperator& op : (*cost)->Explain(std::vector<StepWork>{work})) {
      if (op.name == "host" || op.name.find("reduce") != std::string::npos) continue;
      seconds += op.time.seconds;
      joules += op.time.joules;
    }
    const PowerModel power(r.machine.gpu);
    const double watts = joules / seconds + power.active_watts() + power.idle_watts();
    const double time_error = seconds / (number(row, "ms") * 1e-3) - 1, watts_error = watts / number(row, "watts") - 1;
    Errors& e = errors[gpu];
    e.time += std::fabs(time_error), e.time_bias += time_error;
    e.watts += std::fabs(watts_error), e.watts_bias += watts_error;
    ++e.rows;
    EXPECT_LT(std::fabs(time_error), 0.2) << gpu << " row " << row;
    EXPECT_LT(std::fabs(watts_error), 0.2) << gpu << " row " << row;
  }
  ASSERT_EQ(errors.size(), 2u);
  for (const auto& [gpu, e] : errors) {
    EXPECT_EQ(e.rows, 22) << gpu;
    EXPECT_LT(e.time / e.rows, 0.04) << gpu << ", bias " << e.time_bias / e.rows;
    EXPECT_LT(e.watts / e.rows, 0.065) << gpu << ", bias " << e.watts_bias / e.rows;
  }
}

}  // namespace
}  // namespace simrun
