#include "cli/summary.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/quantity_text.h"
#include "cli/text.h"
#include "sim/resolved.h"
#include "workload/config.h"

namespace simrun {
namespace {

constexpr size_t kIndent = 13;

std::string Line(std::string_view label, const std::string& text) { return LabelledText(label, kIndent, text); }

std::string Joined(const std::vector<std::string>& parts, std::string_view separator = ", ") {
  std::string text;
  for (const std::string& part : parts) {
    if (!text.empty()) text += separator;
    text += part;
  }
  return text;
}

std::string PlanText(const Report::Plan& p) {
  std::vector<std::string> parallel;
  const std::pair<const char*, int> dimensions[] = {{"tp", p.tp}, {"pp", p.pp}, {"dp", p.dp}, {"ep", p.ep}};
  for (const auto& [name, degree] : dimensions) {
    if (degree > 1) parallel.push_back(fmt::format("{} {}", name, degree));
  }
  if (p.ffn_tp != p.tp) parallel.push_back(fmt::format("MLP over {}", p.ffn_tp));
  if (!p.layers_per_stage.empty()) parallel.push_back(fmt::format("layers {}", fmt::join(p.layers_per_stage, "+")));
  const std::string how = parallel.empty() ? "one GPU" : Joined(parallel);
  return fmt::format("{} with {}{}, weights {}, KV cache {}", Plural(p.replicas, "engine"), how, p.replicas > 1 ? " each" : "",
                     p.weights, p.kv_cache);
}

std::string SloText(const SloConfig& slo) {
  std::vector<std::string> targets;
  if (slo.ttft) targets.push_back("TTFT <= " + Human(*slo.ttft));
  if (slo.tpot) targets.push_back("TPOT <= " + Human(*slo.tpot));
  return Joined(targets, " and ");
}

void AddLatency(const char* name, const LatencySummary& l, const char* meaning, TextTable* table) {
  if (l.count == 0) {
    table->Add({name, "-", "-", "-", "-", "-", "-", meaning});
    return;
  }
  table->Add({name, Human(l.mean), Human(l.p50), Human(l.p90), Human(l.p95), Human(l.p99), Human(l.max), meaning});
}

// What the names of report.json mean to someone who reads them for the first time.
std::string_view BoundText(const std::string& name, bool all_on_gpu) {
  if (name == "link" && !all_on_gpu) return "links to other memories";
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kTexts = {{
      {"compute", "compute"},
      {"memory_bandwidth", "GPU memory bandwidth"},
      {"serial_depth", "serial work inside kernels"},
      {"link", "links between GPUs"},
      {"kernel_launch", "kernel launches"},
      {"host", "host CPU"},
      {"waiting", "waiting for other GPUs"},
      {"host_memory", "host memory"},
      {"host_compute", "arithmetic of the CPU"},
  }};
  for (const auto& [key, text] : kTexts) {
    if (key == name) return text;
  }
  return name;
}

// Short names without commas: "engine step_host" of "engine vllm-0.19, step_host", "all_reduce over 4 ranks".
std::string PartText(const std::string& part) {
  const size_t comma = part.find(", ");
  if (comma == std::string::npos) return part;
  const std::string rest = part.substr(comma + 2);
  return part.rfind("engine ", 0) == 0 ? fmt::format("engine {}", rest) : fmt::format("{} over {}", part.substr(0, comma), rest);
}

// Worst kind first, with the parts of the two worst ones by name.
std::string ProvenanceText(const std::vector<Report::Provenance>& notes) {
  static constexpr std::string_view kWorstFirst[] = {"assumed", "datasheet", "transferred", "calibrated", "measured"};
  std::vector<std::string> kinds;
  int named = 0;
  for (const std::string_view kind : kWorstFirst) {
    std::vector<std::string> parts;
    for (const Report::Provenance& n : notes) {
      if (n.kind == kind && std::find(parts.begin(), parts.end(), PartText(n.part)) == parts.end()) parts.push_back(PartText(n.part));
    }
    if (parts.empty()) continue;
    std::string text = fmt::format("{} {}", parts.size(), kind);
    if (named++ < 2) {
      const size_t shown = std::min<size_t>(parts.size(), 4);
      text += fmt::format(" ({}{})", Joined({parts.begin(), parts.begin() + static_cast<long>(shown)}),
                          shown < parts.size() ? ", ..." : "");
    }
    kinds.push_back(std::move(text));
  }
  return kinds.empty() ? "-" : Joined(kinds, "; ");
}

// Where measured runs are expected; empty without intervals.
std::string IntervalText(const std::map<std::string, Report::Interval>& intervals) {
  static constexpr std::array<std::tuple<const char*, const char*, std::optional<Dimension>>, 5> kMetrics = {{
      {"ttft.mean_s", "mean TTFT", DimensionOf(Seconds())},
      {"tpot.mean_s", "TPOT", DimensionOf(Seconds())},
      {"e2e.mean_s", "E2E", DimensionOf(Seconds())},
      {"throughput.output_tokens_per_s", "output tokens/s", std::nullopt},
      {"energy.per_output_token_j", "energy per token", DimensionOf(Joules())},
  }};
  const auto quantity = [](double x, const std::optional<Dimension>& dimension) { return dimension ? HumanQuantity(x, *dimension) : NumberText(x); };
  std::vector<std::string> parts;
  const Report::Interval* first = nullptr;
  for (const auto& [key, name, dimension] : kMetrics) {
    const auto it = intervals.find(key);
    if (it == intervals.end()) continue;
    if (first == nullptr) first = &it->second;
    parts.push_back(fmt::format("{} {} to {}", name, quantity(it->second.low, dimension), quantity(it->second.high, dimension)));
  }
  if (first == nullptr) return "";
  return fmt::format("{:.0f} % of measured runs are expected within {} (from {}{})", 100 * first->level, Joined(parts), first->basis,
                     first->seeds > 1 ? fmt::format("; {} seeds", first->seeds) : "");
}

std::string EnergyText(const Report::Energy& e) {
  std::vector<std::string> parts;
  const std::pair<const char*, const char*> components[] = {
      {"gpu_active", "GPUs working"}, {"gpu_idle", "GPUs idle"}, {"host", "hosts"}, {"memory_and_links", "memories and links"}};
  for (const auto& [key, text] : components) {
    const auto it = e.by_component.find(key);
    if (it != e.by_component.end() && e.total.value() > 0) {
      parts.push_back(fmt::format("{} {}", text, PercentText(it->second / e.total.value())));
    }
  }
  return fmt::format("{} per request, {} per output token, mean power {} ({})", Human(e.per_request), Human(e.per_output_token),
                     Human(e.mean_power), Joined(parts));
}

}  // namespace

std::string BottleneckText(const Report& report) {
  const bool all_on_gpu = report.memory.tiers.empty();
  std::vector<std::pair<double, std::string>> sorted;
  for (const auto& [name, share] : report.bottleneck) {
    if (share >= 0.0005) sorted.emplace_back(share, name);
  }
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<std::string> parts;
  for (const auto& [share, name] : sorted) parts.push_back(fmt::format("{} {}", BoundText(name, all_on_gpu), PercentText(share)));
  return Joined(parts);
}

std::string SummaryText(const Scenario& scenario, const Report& r) {
  const ScenarioConfig& config = scenario.config();
  std::string out;
  out += fmt::format("{} on {} x {} ({} host)\n", r.plan.model, r.plan.gpus, r.plan.gpu, r.plan.host);
  out += Line("Plan", PlanText(r.plan));
  out += Line("Engine", fmt::format("{}, {} batching, at most {} and {} new tokens per step{}", r.plan.engine, r.plan.scheduler,
                                    Plural(static_cast<double>(r.plan.max_num_seqs), "sequence"),
                                    CountText(static_cast<double>(r.plan.max_num_batched_tokens)),
                                    r.plan.replicas > 1 ? fmt::format(", {} router", r.plan.router) : ""));
  out += Line("Traffic", WorkloadSummary(config.workload));
  out += '\n';

  const Report::Requests& n = r.requests;
  std::string requests = fmt::format("{} arrived, {} completed, {} refused, {} in {} of simulated time",
                                     CountText(static_cast<double>(n.arrived)), CountText(static_cast<double>(n.completed)),
                                     CountText(static_cast<double>(n.rejected)),
                                     Plural(static_cast<double>(n.preemptions), "preemption"),
                                     Human(Seconds(r.simulation.simulated_s)));
  out += Line("Requests", requests);
  out += Line("Throughput", fmt::format("{} requests/s, {} input tokens/s, {} output tokens/s",
                                        NumberText(r.throughput.requests_per_s), NumberText(r.throughput.input_tokens_per_s),
                                        NumberText(r.throughput.output_tokens_per_s)));
  const std::string slo = SloText(config.slo);
  out += Line("Goodput", slo.empty() ? "no targets given (slo)"
                                     : fmt::format("{} requests/s; {} of requests within {}",
                                                   NumberText(r.goodput.requests_per_s), PercentText(r.goodput.slo_attainment), slo));
  out += '\n';
  TextTable latency("lr");
  latency.Add({"Latency", "mean", "p50", "p90", "p95", "p99", "max", ""});
  AddLatency("  TTFT", r.ttft, "", &latency);
  AddLatency("  TPOT", r.tpot, "", &latency);
  AddLatency("  ITL", r.itl, "", &latency);
  AddLatency("  E2E", r.e2e, "", &latency);
  AddLatency("  queue", r.queue_delay, "", &latency);
  out += latency.ToText();
  out += Line("", "TTFT: arrival to first token, queue included. TPOT: mean time per further token of a request. ITL: time "
                  "between two tokens. E2E: arrival to last token. queue: arrival to first step.");
  if (const std::string intervals = IntervalText(r.intervals); !intervals.empty()) out += Line("Confidence", intervals);
  out += '\n';

  out += Line("Time goes to", BottleneckText(r));
  out += Line("Utilisation", fmt::format("engines busy {}, {} tokens per step on average, {} of peak FLOP/s",
                                         PercentText(r.utilization.engine_busy), NumberText(r.utilization.mean_batch),
                                         PercentText(r.utilization.mfu)));
  out += Line("Memory", fmt::format("{} weights, {} activations and {} reserve of {} per GPU; KV cache {} tokens per engine, "
                                    "at most {} used",
                                    Human(r.memory.weights), Human(r.memory.activations), Human(r.memory.reserve),
                                    Human(r.memory.gpu), NumberText(r.memory.kv_capacity_tokens),
                                    PercentText(r.memory.kv_peak_fraction)));
  if (r.memory.state > Bytes(0)) {
    out += Line("", fmt::format("states of linear attention: {} for each sequence and GPU, {}", Human(r.memory.state),
                                r.memory.state_sequences > 0 ? fmt::format("with room for {} sequences", NumberText(r.memory.state_sequences))
                                                             : "out of the KV cache"));
  }
  for (const Report::Memory::Tier& t : r.memory.tiers) {
    const std::string prefixes = t.prefix_capacity > Bytes(0) ? fmt::format(", {} of {} for prefixes", Human(t.prefix_peak), Human(t.prefix_capacity)) : "";
    out += Line("", fmt::format("{}: {} weights and at most {} KV cache{} of {} per engine", t.name, Human(t.weights), Human(t.kv_peak), prefixes, Human(t.capacity)));
  }
  if (const Report::PrefixCache& c = r.prefix_cache; c.used) {
    std::string text = fmt::format("{} of prompt tokens were cached ({} of {}), {} evicted", PercentText(c.hit_rate),
                                   CountText(static_cast<double>(c.cached_tokens)), CountText(static_cast<double>(c.looked_up_tokens)),
                                   Plural(static_cast<double>(c.evicted_blocks), "block"));
    if (c.fetched_tokens > 0) text += fmt::format("; {} fetched from host memory", Plural(static_cast<double>(c.fetched_tokens), "token"));
    if (c.resumed_tokens > 0) text += fmt::format("; preempted requests found {} again", Plural(static_cast<double>(c.resumed_tokens), "token"));
    if (c.hit_requests > 0 && c.hit_requests < r.ttft.count) {
      text += fmt::format("; mean TTFT {} of the {} that found something, {} of the {}", Human(c.hit_ttft),
                          Plural(static_cast<double>(c.hit_requests), "request"), Human(c.miss_ttft),
                          Plural(static_cast<double>(r.ttft.count - c.hit_requests), "other"));
    }
    out += Line("Prefix cache", text);
  }
  if (const Report::Placement& p = r.placement; !p.objective.empty()) {
    std::string gains;
    for (const Report::Placement::Marginal& m : p.marginal) {
      gains += fmt::format("{}{:+.2f} % with one more GiB of {}", gains.empty() ? "" : ", ", 100 * m.per_gib, m.tier);
    }
    out += Line("Placement", fmt::format("best {} of {} compared: {}; {}", p.objective, Plural(p.candidates, "placement"),
                                         p.rules.empty() ? "everything in GPU memory" : Joined(p.rules), gains));
  }
  if (const Report::Experts& e = r.experts; !e.policy.empty()) {
    // Without prefetching, what crosses the link between layers refills the cache.
    std::string ahead;
    if (e.prefetch != "none") {
      ahead = fmt::format(", {} were sent ahead ({})", PercentText(e.prefetched), Human(e.ahead_bytes));
    } else if (e.ahead_bytes.value() > 0) {
      ahead = fmt::format(", {} refilled the cache", Human(e.ahead_bytes));
    }
    out += Line("Experts", fmt::format("{} of them in GPU memory ({} cache): {} of the uses found theirs there, {} ran on the CPU, {} were fetched "
                                       "({}){} ({} execution)",
                                       PercentText(e.resident_share), e.cache, PercentText(e.hit_rate), PercentText(e.on_cpu),
                                       PercentText(e.fetched), Human(e.fetched_bytes), ahead, e.policy));
  }
  std::vector<std::string> links;
  for (const Report::Link& l : r.links) links.push_back(fmt::format("{} {} ({} busy)", l.name, Human(Bytes(l.bytes)), PercentText(l.utilization)));
  if (!links.empty()) out += Line("Moved", Joined(links));
  out += Line("Energy", EnergyText(r.energy));
  std::vector<std::string> cost;
  if (r.cost.usd_per_hour > 0) cost.push_back(fmt::format("{:.2f} USD/h", r.cost.usd_per_hour));
  if (r.cost.usd.value() > 0) {
    cost.push_back(fmt::format("{} USD per million output tokens", NumberText(r.cost.usd_per_million_output_tokens.value())));
    cost.push_back(fmt::format("{} USD for this run", NumberText(r.cost.usd.value())));
  } else {
    cost.push_back("no price known (hardware.price)");
  }
  cost.push_back(fmt::format("{} g CO2e", NumberText(r.energy.carbon_g)));
  out += Line("Cost", Joined(cost));
  out += '\n';

  out += Line("Provenance", ProvenanceText(r.provenance));
  out += Line("Simulation", fmt::format("took {}, {} engine steps, seed {}, simrun {}, settings {}", Human(Seconds(r.simulation.wall_s)),
                                        CountText(r.simulation.iterations), r.simulation.seed, r.simulation.version,
                                        r.simulation.config_hash));
  for (const std::string& warning : r.warnings) out += Line("Warning", warning);
  return out;
}

}  // namespace simrun
