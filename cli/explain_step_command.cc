#include "cli/explain_step_command.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/quantity_text.h"
#include "cli/text.h"
#include "hw/launch_timeline.h"
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

// A step: sequences that generate, and prompts.
struct StepSize {
  int64_t batch = 0, kv = 0, prefill = 0, prompts = 1;
};

absl::StatusOr<StepSize> ReadSize(const ExplainStepOptions& o) {
  StepSize size;
  SIMRUN_RETURN_IF_ERROR(Read("--kv", o.kv, 1, 100'000'000, &size.kv));
  SIMRUN_RETURN_IF_ERROR(Read("--prefill", o.prefill, 0, 1 << 24, &size.prefill));
  // A step of prompts alone need not say that nothing is generated.
  if (!o.prompts.empty()) SIMRUN_RETURN_IF_ERROR(Read("--prompts", o.prompts, 1, 1 << 16, &size.prompts));
  if (o.batch.empty()) {
    size.batch = o.prompts.empty() ? 32 : 0;
  } else {
    SIMRUN_RETURN_IF_ERROR(Read("--batch", o.batch, 0, 1 << 20, &size.batch));
  }
  if (size.batch == 0 && size.prefill == 0) {
    return absl::InvalidArgumentError("the step has no work; give --batch or --prefill");
  }
  return size;
}

// The operators of steps of one scenario.
class Steps {
 public:
  Steps(const ResolvedScenario& r, CompiledStepCost* cost) : r_(r), cost_(cost) {}
  std::vector<StepOperator> Operators(const StepSize& size) const {
    const std::vector<PrefillChunk> chunks(size.prefill > 0 ? static_cast<size_t>(size.prompts) : 0, PrefillChunk{size.prefill, 0});
    StepWork work;
    const int64_t prompts = static_cast<int64_t>(chunks.size());
    work.tokens = size.batch + prompts * size.prefill;
    work.logits_rows = size.batch + prompts;
    work.decode_seqs = size.batch;
    work.decode_kv_sum = size.batch * size.kv;
    work.decode_kv_max = size.batch > 0 ? size.kv : 0;
    work.decode_kv_sum_windowed = size.batch * (r_.params.window > 0 ? std::min(size.kv, r_.params.window) : size.kv);
    work.chunks = chunks;
    const std::vector<StepWork> ranks(static_cast<size_t>(r_.plan.dp), work);
    return cost_->Explain(ranks);
  }
  // The launches of the stage with the most kernels.
  std::vector<KernelLaunch> Launches(const std::vector<StepOperator>& operators) const {
    std::vector<KernelLaunch> most;
    for (int s = 0; s < r_.plan.pp; ++s) {
      std::vector<KernelLaunch> launches = LaunchesOf(operators, s, HostPerLaunch());
      if (launches.size() > most.size()) most = std::move(launches);
    }
    return most;
  }
  // The host's own driver call included.
  double HostPerLaunch() const { return r_.engine.launch.value(); }
  double Latency() const { return r_.machine.host.kernel_launch.value(); }

 private:
  const ResolvedScenario& r_;
  CompiledStepCost* cost_;
};

// The same step with another number of sequences, or of prompts where nothing is generated.
StepSize WithCount(StepSize size, int64_t count) {
  (size.batch > 0 ? size.batch : size.prompts) = count;
  return size;
}

// The first power of two, up to the largest that is worth asking, from which on the GPU takes longer than the host; 0: none.
int64_t FlipCount(const Steps& steps, const StepSize& size) {
  constexpr int64_t kLargest = 4096;
  for (int64_t count = 1; count <= kLargest; count *= 2) {
    const auto operators = steps.Operators(WithCount(size, count));
    if (!RunLaunches(steps.Launches(operators), steps.Latency()).host_bound()) return count;
  }
  return 0;
}

std::string Timed(double seconds) { return Human(Seconds(seconds)); }

struct Eager {
  LaunchTimeline timeline, graph;
  std::optional<FusionWhatIf> fusion;
  int64_t flip = 0;
  std::vector<KernelLaunch> launches;
  std::vector<KernelTimes> times;
};

std::string EagerText(const Eager& e, const Steps& steps, const ResolvedScenario& r, const std::vector<StepOperator>& operators,
                      const StepSize& size) {
  const LaunchTimeline& t = e.timeline;
  std::string out = LabelledText("Launches", 13, fmt::format(
      "{} kernels one by one; {} on {} takes {} for each, a kernel starts {} after its launch at the earliest", t.kernels,
      r.engine.name, r.machine.host.name, Timed(steps.HostPerLaunch()), Timed(steps.Latency())));
  out += LabelledText("Timeline", 13, fmt::format("{}: host busy {}, GPU busy {}, GPU idle {}; launch and queueing (TKLQT) {}, {} per launch; mean kernel {}",
                                                  Timed(t.latency), Timed(t.host_busy), Timed(t.gpu_busy), Timed(t.gpu_idle()), Timed(t.launch_queue),
                                                  Timed(t.queue_per_launch()), Timed(t.mean_kernel())));
  const char* what = size.batch > 0 ? "sequence" : "prompt";
  out += LabelledText("Bound by", 13, fmt::format("the {}; {}", t.host_bound() ? "host" : "GPU",
      e.flip == 0 ? fmt::format("the host for any number of {}s up to 4096", what)
                  : e.flip == 1 ? fmt::format("the GPU for any number of {}s", what)
                                : fmt::format("the GPU from {} {}s on (powers of two)", e.flip, what)));
  if (e.fusion) {
    const FusionWhatIf& f = *e.fusion;
    out += LabelledText("Fused", 13, f.matches == 0
        ? std::string("no chain of that length always follows its first kernel")
        : fmt::format("{} of {} in a row from {} on: {} kernels, at most {:.2f}x; here {}, {:.2f}x", Plural(static_cast<double>(f.matches), "chain"),
                      (f.kernels - f.fused_kernels) / f.matches + 1, operators[static_cast<size_t>(f.first_op)].name, f.fused_kernels, f.ideal_speedup,
                      Timed(f.fused.latency), t.latency / f.fused.latency));
  }
  out += LabelledText("CUDA graph", 13, fmt::format("{} as one graph, {:.2f}x", Timed(e.graph.latency), t.latency / e.graph.latency));
  return out;
}

std::string TimelineTable(const Eager& e, const std::vector<StepOperator>& operators) {
  TextTable table("rlrrrr");
  table.Add({"kernel", "operator", "issued", "start", "end", "waits"});
  for (size_t i = 0; i < e.times.size(); ++i) {
    const KernelTimes& k = e.times[i];
    table.Add({fmt::format("{}", i + 1), operators[static_cast<size_t>(e.launches[i].op)].name, Timed(k.issued), Timed(k.start), Timed(k.end),
               Timed(k.start - k.issued)});
  }
  return table.ToText();
}

std::string Json(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string TimelineJson(const LaunchTimeline& t) {
  return fmt::format("{{\"kernels\": {}, \"latency_s\": {:.9g}, \"host_busy_s\": {:.9g}, \"gpu_busy_s\": {:.9g}, \"gpu_idle_s\": {:.9g}, \"tklqt_s\": {:.9g}, "
                     "\"mean_kernel_s\": {:.9g}, \"host_bound\": {}}}",
                     t.kernels, t.latency, t.host_busy, t.gpu_busy, t.gpu_idle(), t.launch_queue, t.mean_kernel(), t.host_bound());
}

std::string StepJson(const std::vector<StepOperator>& operators, const std::optional<Eager>& eager, bool kernels) {
  std::string out = "{\"operators\": [";
  for (size_t i = 0; i < operators.size(); ++i) {
    const StepOperator& op = operators[i];
    out += fmt::format("{}\n  {{\"stage\": {}, \"name\": {}, \"shape\": {}, \"count\": {:g}, \"kernels\": {}, \"seconds\": {:.9g}, \"joules\": {:.9g}, \"provenance\": {}, \"bound\": {{",
                       i > 0 ? "," : "", op.stage, Json(op.name), Json(op.shape), op.count, op.kernels, op.time.seconds, op.time.joules,
                       Json(std::string(ProvenanceName(op.time.provenance))));
    for (int b = 0; b < kNumBounds; ++b) out += fmt::format("{}{}: {:.9g}", b > 0 ? ", " : "", Json(std::string(BoundName(static_cast<Bound>(b)))), op.time.bound[static_cast<size_t>(b)]);
    out += "}}";
  }
  out += "\n]";
  if (eager) {
    out += fmt::format(",\n\"timeline\": {},\n\"gpu_bound_from\": {},\n\"cuda_graph\": {}", TimelineJson(eager->timeline), eager->flip, TimelineJson(eager->graph));
    if (eager->fusion) {
      out += fmt::format(",\n\"fusion\": {{\"matches\": {}, \"fused_kernels\": {}, \"ideal_speedup\": {:.9g}, \"timeline\": {}}}", eager->fusion->matches,
                         eager->fusion->fused_kernels, eager->fusion->ideal_speedup, TimelineJson(eager->fusion->fused));
    }
    if (kernels) {
      out += ",\n\"launches\": [";
      for (size_t i = 0; i < eager->times.size(); ++i) {
        out += fmt::format("{}\n  {{\"operator\": {}, \"issued_s\": {:.9g}, \"start_s\": {:.9g}, \"end_s\": {:.9g}}}", i > 0 ? "," : "",
                           Json(operators[static_cast<size_t>(eager->launches[i].op)].name), eager->times[i].issued, eager->times[i].start, eager->times[i].end);
      }
      out += "\n]";
    }
  }
  return out + "}\n";
}

}  // namespace

int ExplainStepCommand(const ExplainStepOptions& options, Terminal terminal) {
  absl::StatusOr<StepSize> size = ReadSize(options);
  if (!size.ok()) return Fail(size.status(), terminal.err);
  const absl::StatusOr<Scenario> scenario = ReadScenario(options.scenario);
  if (!scenario.ok()) return Fail(scenario.status(), terminal.err);
  const ResolvedScenario& r = scenario->resolved();
  if (r.model.is_encoder()) {
    size->batch = 0;
    if (size->prefill == 0) return FailWith(kBadInput, fmt::format("{} is an encoder and generates nothing; give --prefill and --prompts", r.model.name), terminal.err);
  }

  int64_t chain = 0;
  if (!options.fuse_chain.empty()) {
    const absl::Status read = Read("--fuse-chain", options.fuse_chain, 2, 1 << 20, &chain);
    if (!read.ok()) return Fail(read, terminal.err);
  }
  const bool json = options.format == "json";
  if (!json && options.format != "text") {
    return FailWith(kBadInput, fmt::format("--format: \"{}\" is not one of text, json", options.format), terminal.err);
  }

  StepCostOptions cost;
  cost.max_tokens = std::max(r.params.limits.max_num_batched_tokens, size->batch + size->prompts * size->prefill);
  cost.max_rows = r.params.limits.max_num_seqs;
  const auto model = StepCostOf(r, *scenario->catalog(), cost);
  if (!model.ok()) return Fail(model.status(), terminal.err);
  const Steps steps(r, model->get());
  const std::vector<StepOperator> operators = steps.Operators(*size);

  std::optional<Eager> eager;
  if (options.timeline || options.kernels || chain > 0) {
    if (steps.HostPerLaunch() <= 0) {
      return FailWith(kBadInput, fmt::format("engine {} launches no kernels from the host; give one with launch costs, such as pytorch-eager", r.engine.name), terminal.err);
    }
    eager.emplace();
    eager->launches = steps.Launches(operators);
    eager->timeline = RunLaunches(eager->launches, steps.Latency(), &eager->times);
    eager->graph = ReplayGraph(eager->launches, std::max(r.engine.graph_launch.value(), steps.Latency()), steps.Latency());
    if (chain > 0) eager->fusion = FuseChains(eager->launches, chain, steps.Latency());
    eager->flip = FlipCount(steps, *size);
  }
  if (json) {
    terminal.out << StepJson(operators, eager, options.kernels);
    return kDone;
  }

  double total = 0;
  std::array<double, kNumBounds> bounds{};
  for (const StepOperator& op : operators) {
    total += op.time.seconds;
    for (int b = 0; b < kNumBounds; ++b) bounds[b] += op.time.bound[b];
  }
  std::string what = fmt::format("{} generate a token at a KV length of {}, {} prompt tokens", Plural(static_cast<double>(size->batch), "sequence"), size->kv, size->prefill);
  if (size->prompts > 1) what += fmt::format(" in each of {} prompts", size->prompts);
  if (size->batch == 0) what = fmt::format("{} of {} tokens", Plural(static_cast<double>(size->prompts), "prompt"), size->prefill);
  terminal.out << fmt::format("{} on {} x {}, {}: {}\n\n", r.model.name, r.plan.gpus_per_engine(), r.machine.gpu.name, r.engine.name, what);
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
  if (eager) {
    terminal.out << '\n' << EagerText(*eager, steps, r, operators, *size);
    if (options.kernels) terminal.out << '\n' << TimelineTable(*eager, operators);
  }
  return kDone;
}

}  // namespace simrun
