#include "cli/explain_step_command.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "base/quantity_text.h"
#include "cli/text.h"
#include "hw/step_cost_compiled.h"
#include "sim/placed_step.h"
#include "sim/resolved.h"

namespace simrun {
namespace {

// Reads an option's whole number in [low, high].
absl::Status Read(const char* option, const std::string& text, int64_t low, int64_t high, int64_t* out) {
  const absl::StatusOr<int64_t> value = ParseInteger(text);
  if (!value.ok()) return absl::InvalidArgumentError(fmt::format("{}: {}", option, std::string(value.status().message())));
  if (*value < low || *value > high) {
    return absl::InvalidArgumentError(fmt::format("{}: {} is out of range; must be {} to {}", option, *value, low, high));
  }
  *out = *value;
  return absl::OkStatus();
}

struct StepSize { int64_t batch = 0, kv = 0, prefill = 0; };

absl::StatusOr<StepSize> ReadSize(const ExplainStepOptions& o) {
  StepSize size;
  SIMRUN_RETURN_IF_ERROR(Read("--batch", o.batch, 0, 1 << 20, &size.batch));
  SIMRUN_RETURN_IF_ERROR(Read("--kv", o.kv, 1, 100'000'000, &size.kv));
  SIMRUN_RETURN_IF_ERROR(Read("--prefill", o.prefill, 0, 1 << 24, &size.prefill));
  if (size.batch == 0 && size.prefill == 0) {
    return absl::InvalidArgumentError("the step has no work; give --batch or --prefill");
  }
  return size;
}

}  // namespace

int ExplainStepCommand(const ExplainStepOptions& options, Terminal terminal) {
  const absl::StatusOr<StepSize> size = ReadSize(options);
  if (!size.ok()) return Fail(size.status(), terminal.err);
  const absl::StatusOr<Scenario> scenario = ReadScenario(options.scenario);
  if (!scenario.ok()) return Fail(scenario.status(), terminal.err);
  const ResolvedScenario& r = scenario->resolved();

  StepCostOptions cost;
  cost.max_tokens = std::max(r.params.limits.max_num_batched_tokens, size->batch + size->prefill);
  cost.max_rows = r.params.limits.max_num_seqs;
  const auto model = StepCostOf(r, *scenario->catalog(), cost);
  if (!model.ok()) return Fail(model.status(), terminal.err);

  const PrefillChunk chunk{size->prefill, 0};
  StepWork work;
  work.tokens = size->batch + size->prefill;
  work.logits_rows = size->batch + (size->prefill > 0 ? 1 : 0);
  work.decode_seqs = size->batch;
  work.decode_kv_sum = size->batch * size->kv;
  work.decode_kv_max = size->batch > 0 ? size->kv : 0;
  work.decode_kv_sum_windowed = size->batch * (r.params.window > 0 ? std::min(size->kv, r.params.window) : size->kv);
  if (size->prefill > 0) work.chunks = std::span(&chunk, 1);
  const std::vector<StepWork> ranks(static_cast<size_t>(r.plan.dp), work);
  const std::vector<StepOperator> operators = (*model)->Explain(ranks);

  double total = 0;
  std::array<double, kNumBounds> bounds{};
  for (const StepOperator& op : operators) {
    total += op.time.seconds;
    for (int b = 0; b < kNumBounds; ++b) bounds[b] += op.time.bound[b];
  }
  terminal.out << fmt::format("{} on {} x {}, {}: {} generate a token at a KV length of {}, {} prompt tokens\n\n", r.model.name,
                              r.plan.gpus_per_engine(), r.machine.gpu.name, r.engine.name, Plural(static_cast<double>(size->batch), "sequence"),
                              size->kv, size->prefill);
  TextTable table(r.plan.pp > 1 ? "llrrrl" : "lrrrl");
  std::vector<std::string> header = {"operator", "time", "share", "count", "bound by", "provenance", "shape on one GPU"};
  if (r.plan.pp > 1) header.insert(header.begin(), "stage");
  table.Add(header);
  for (const StepOperator& op : operators) {
    const auto largest = std::max_element(op.time.bound.begin(), op.time.bound.end());
    std::vector<std::string> row = {op.name,
                                    Human(Seconds(op.time.seconds)),
                                    total > 0 ? PercentText(op.time.seconds / total) : "-",
                                    fmt::format("{:g}", op.count),
                                    std::string(BoundName(static_cast<Bound>(largest - op.time.bound.begin()))),
                                    std::string(ProvenanceName(op.time.provenance)),
                                    op.shape};
    if (r.plan.pp > 1) row.insert(row.begin(), fmt::format("{}", op.stage));
    table.Add(std::move(row));
  }
  terminal.out << table.ToText() << '\n';
  terminal.out << fmt::format("sum{} {}\n", r.plan.pp > 1 ? " over the stages" : "", Human(Seconds(total)));
  for (int b = 0; b < kNumBounds; ++b) {
    if (bounds[b] > 0) terminal.out << fmt::format("  {:<17} {:>8}  {}\n", BoundName(static_cast<Bound>(b)), PercentText(bounds[b] / total), Human(Seconds(bounds[b])));
  }
  return kDone;
}

}  // namespace simrun
