#include "cli/plan_command.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "cli/output_dir.h"
#include "cli/progress.h"
#include "cli/summary.h"
#include "cli/text.h"
#include "cli/together.h"
#include "planner/evaluate.h"
#include "planner/plan_space.h"
#include "sim/resolved.h"

namespace simrun {
namespace {

using planner::Candidate;
using planner::Evaluation;
using planner::Obstacle;
using planner::PlanResult;
using planner::PlanSpace;

std::string ShortName(const std::string& path) { return path.substr(path.rfind('.') + 1); }

std::string SettingOf(const Candidate& c, const std::string& path) {
  for (const auto& [p, value] : c.settings) {
    if (p == path) return value;
  }
  return "-";
}

std::string Quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

std::string SettingsJson(const Candidate& c) {
  std::string out;
  for (const auto& [path, value] : c.settings) out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", Quote(path), Quote(value));
  return "{" + out + "}";
}

std::string NumberJson(double v) { return std::isfinite(v) ? fmt::format("{}", v) : "null"; }

// "8 replicas of tp 1, weights fp8" from the settings that vary.
std::string PlanText(const PlanSpace& space, const Candidate& c) {
  std::string text;
  for (const std::string& path : space.varied) {
    const std::string value = SettingOf(c, path);
    const bool degree = path.rfind("plan.", 0) == 0 && value == "1" && path != "plan.ffn_tp";
    if (!degree && value != "-") text += fmt::format("{}{} {}", text.empty() ? "" : ", ", ShortName(path), value);
  }
  return text.empty() ? "one GPU" : text;
}

void PrintDryRun(const PlanSpace& space, const std::string& format, std::ostream& out) {
  if (format == "json") {
    out << fmt::format("{{\"candidates\": {}, \"enumerated\": {}, \"infeasible\": {{", space.Count(Obstacle::kNone), space.candidates.size());
    for (int o = 1; o < planner::kNumObstacles; ++o) {
      const auto obstacle = static_cast<Obstacle>(o);
      out << fmt::format("{}\"{}\": {}", o > 1 ? ", " : "", planner::ObstacleName(obstacle), space.Count(obstacle));
    }
    out << "}, \"plans\": [";
    for (size_t i = 0; i < space.candidates.size(); ++i) {
      const Candidate& c = space.candidates[i];
      out << fmt::format("{}\n  {{\"feasible\": {}, \"obstacle\": {}, \"reason\": {}, \"settings\": {}}}", i > 0 ? "," : "", c.feasible(),
                         Quote(c.feasible() ? "" : std::string(planner::ObstacleName(c.obstacle))), Quote(c.reason), SettingsJson(c));
    }
    out << "\n]}\n";
    return;
  }
  TextTable table("r");
  std::vector<std::string> head;
  for (const std::string& path : space.varied) head.push_back(ShortName(path));
  head.push_back("");
  table.Add(head);
  for (const Candidate& c : space.candidates) {
    std::vector<std::string> row;
    for (const std::string& path : space.varied) row.push_back(SettingOf(c, path));
    row.push_back(c.feasible() ? "" : fmt::format("{}: {}", planner::ObstacleName(c.obstacle), c.reason));
    table.Add(std::move(row));
  }
  out << table.ToText();
  out << fmt::format("{} candidates: {} feasible", space.candidates.size(), space.Count(Obstacle::kNone));
  for (int o = 1; o < planner::kNumObstacles; ++o) {
    const auto obstacle = static_cast<Obstacle>(o);
    if (space.Count(obstacle) > 0) out << fmt::format(", {} cut by {}", space.Count(obstacle), planner::ObstacleName(obstacle));
  }
  out << '\n';
}

int ApexSpace(const PlanOptions& options, const YamlNode& root, const std::shared_ptr<const Catalog>& catalog, Terminal terminal) {
  if (!options.dry_run) {
    return FailWith(kBadInput, "--space apex: counts and lists the plans of the published search, some of which no engine runs; add --dry-run", terminal.err);
  }
  Problems problems;
  const planner::SearchConfig search = planner::ReadSearch(root, &problems);
  ScenarioConfig config;
  YamlNode base = root;
  auto& entries = base.entries();
  entries.erase(std::remove_if(entries.begin(), entries.end(), [](const YamlNode::Entry& e) { return e.key == "search"; }), entries.end());
  ReadParams(base, "", &problems, &config);
  const Machine machine = BuildMachine(config.hardware, *catalog, {}, &problems);
  const absl::StatusOr<ModelSpec> model = LoadModel(config.model, *catalog);
  if (!model.ok()) problems.Add({}, "model", std::string(model.status().message()));
  const int gpus = search.gpus ? static_cast<int>(*search.gpus) : machine.gpu_count;
  if (problems.empty() && gpus == 0) problems.Add({}, "search.gpus", "is required", "how many GPUs to use; or set hardware.count");
  if (const absl::Status s = problems.ToStatus(); !s.ok()) return Fail(s, terminal.err);
  DType weights = model->native_dtype;
  if (config.plan.weights) weights = ParseDType(*config.plan.weights).value_or(weights);
  const std::vector<planner::ApexPlan> plans = planner::EnumerateApex(*model, gpus, machine.gpu.memory, BytesPerElement(weights));
  if (options.format == "json") {
    terminal.out << fmt::format("{{\"candidates\": {}, \"space\": \"apex\", \"plans\": [", plans.size());
    for (size_t i = 0; i < plans.size(); ++i) {
      const planner::ApexPlan& p = plans[i];
      terminal.out << fmt::format("{}\n  {{\"replicas\": {}, \"stages\": {}, \"attention_replicas\": {}, \"ffn_replicas\": {}, \"moe_replicas\": {}, "
                                  "\"expert_parallel\": {}, \"weight_bytes\": {}}}", i > 0 ? "," : "", p.replicas, p.stages, p.attention_replicas,
                                  p.ffn_replicas, p.moe_replicas, p.expert_parallel, NumberJson(p.weight_bytes));
    }
    terminal.out << "\n]}\n";
    return kDone;
  }
  TextTable table("r");
  table.Add({"replicas", "stages", "attention replicas", "ffn replicas", "moe replicas", "experts", "weights/GPU"});
  for (const planner::ApexPlan& p : plans) {
    table.Add({fmt::format("{}", p.replicas), fmt::format("{}", p.stages), fmt::format("{}", p.attention_replicas), fmt::format("{}", p.ffn_replicas),
               p.moe_replicas > 0 ? fmt::format("{}", p.moe_replicas) : "-", p.moe_replicas == 0 ? "-" : p.expert_parallel ? "whole" : "split",
               Human(Bytes(p.weight_bytes))});
  }
  terminal.out << table.ToText() << Plural(static_cast<double>(plans.size()), "plan") << '\n';
  return kDone;
}

void PrintJson(const PlanSpace& space, const Evaluation& e, const planner::Objective& objective, std::ostream& out) {
  out << fmt::format("{{\"candidates\": {}, \"enumerated\": {}, \"objective\": {}, \"ranked\": [", space.Count(Obstacle::kNone), space.candidates.size(),
                     Quote(objective.metric));
  for (size_t i = 0; i < e.ranked.size(); ++i) {
    const PlanResult& r = e.ranked[i];
    out << fmt::format("{}\n  {{\"rank\": {}, \"stopped\": {}, \"error\": {}, \"settings\": {}", i > 0 ? "," : "", i + 1, r.stopped, Quote(r.error),
                       SettingsJson(space.candidates[r.candidate]));
    if (r.error.empty() && !r.stopped) {
      out << fmt::format(", \"objective\": {}, \"e2e_mean_s\": {}, \"ttft_p99_s\": {}, \"tpot_mean_s\": {}, \"output_tokens_per_s\": {}, "
                         "\"slo_attainment\": {}, \"energy_per_output_token_j\": {}, \"usd_per_million_output_tokens\": {}",
                         NumberJson(r.objective), NumberJson(r.report.e2e.mean.value()), NumberJson(r.report.ttft.p99.value()),
                         NumberJson(r.report.tpot.mean.value()), NumberJson(r.report.throughput.output_tokens_per_s),
                         NumberJson(r.report.goodput.slo_attainment), NumberJson(r.report.energy.per_output_token.value()),
                         NumberJson(r.report.cost.usd_per_million_output_tokens.value()));
    }
    out << '}';
  }
  out << "\n], \"front\": [";
  for (size_t i = 0; i < e.front.size(); ++i) out << (i > 0 ? ", " : "") << e.front[i] + 1;
  out << fmt::format("], \"heuristic\": {}}}\n", e.heuristic ? fmt::format("{}", *e.heuristic + 1) : "null");
}

void AddRow(const PlanSpace& space, const Evaluation& e, size_t i, bool slo, TextTable* table) {
  const PlanResult& r = e.ranked[i];
  const std::string name = PlanText(space, space.candidates[r.candidate]) + (e.heuristic && *e.heuristic == i ? " *" : "");
  if (!r.error.empty() || r.stopped) {
    table->Add({fmt::format("{}", i + 1), name, r.stopped ? "stopped: cannot win" : "failed: " + r.error});
    return;
  }
  std::vector<std::string> row = {fmt::format("{}", i + 1), name, NumberText(r.report.throughput.output_tokens_per_s), Human(r.report.e2e.mean),
                                  Human(r.report.ttft.p99), Human(r.report.tpot.mean)};
  if (slo) row.push_back(PercentText(r.report.goodput.slo_attainment));
  row.push_back(NumberText(r.report.energy.per_output_token.value()));
  row.push_back(NumberText(r.report.cost.usd_per_million_output_tokens.value()));
  table->Add(std::move(row));
}

void PrintText(const PlanSpace& space, const Evaluation& e, const PlanOptions& options, std::ostream& out) {
  const Scenario& any = *space.candidates[e.ranked.front().candidate].scenario;
  const bool slo = any.config().slo.ttft || any.config().slo.tpot;
  TextTable table("rlr");
  std::vector<std::string> head = {"", "plan", "tokens/s", "mean E2E", "P99 TTFT", "TPOT"};
  if (slo) head.push_back("in SLO");
  head.push_back("J/token");
  head.push_back("USD/M tokens");
  table.Add(head);
  std::vector<size_t> rows;
  if (e.front.empty()) {
    for (size_t i = 0; i < std::min(e.ranked.size(), static_cast<size_t>(options.top)); ++i) rows.push_back(i);
    if (e.heuristic && std::find(rows.begin(), rows.end(), *e.heuristic) == rows.end()) rows.push_back(*e.heuristic);
  } else {
    rows = e.front;
  }
  for (const size_t i : rows) AddRow(space, e, i, slo, &table);
  out << table.ToText();
  out << fmt::format("{} of {} plans feasible, ", space.Count(Obstacle::kNone), space.candidates.size());
  out << (e.front.empty() ? fmt::format("ranked by {}", options.objective) : fmt::format("not beaten in all of {}", options.pareto));
  out << (e.heuristic ? "; * the usual plan: largest tp in a node, pp across\n" : "\n");
  const PlanResult& best = e.ranked.front();
  if (!e.front.empty() || !best.error.empty()) return;
  out << "\nPlan 1: engine time goes to " << BottleneckText(best.report) << '\n';
  // The usual plan is what one would have taken; when it is the best, what it was better than.
  const size_t against = e.heuristic && *e.heuristic != 0 ? *e.heuristic : 1;
  if (against < e.ranked.size() && e.ranked[against].error.empty() && !e.ranked[against].stopped) {
    out << fmt::format("\nPlan 1 against {}:\n", e.heuristic == against ? "the usual plan" : "plan 2");
    for (const std::string& line : planner::WhyItWins(best.report, e.ranked[against].report)) out << "  " << line << '\n';
  }
  out << "\nPlan 1 on other engines:\n";
  for (const planner::LaunchCommand& c : planner::LaunchCommands(*space.candidates[best.candidate].scenario)) {
    out << fmt::format("  {}: {}\n", c.engine, c.command);
    for (const std::string& note : c.not_expressed) out << "    not in the command: " << note << '\n';
  }
}

}  // namespace

int PlanCommand(const PlanOptions& options, Terminal terminal, planner::Team* team) {
  planner::EvaluateOptions evaluate;
  const auto objective = planner::FindObjective(options.objective);
  if (!objective.ok()) return FailWith(kBadInput, "--objective: " + std::string(objective.status().message()), terminal.err);
  evaluate.objective = *objective;
  for (size_t from = 0; from < options.pareto.size();) {
    const size_t to = std::min(options.pareto.find(',', from), options.pareto.size());
    const auto o = planner::FindObjective(options.pareto.substr(from, to - from));
    if (!o.ok()) return FailWith(kBadInput, "--pareto: " + std::string(o.status().message()), terminal.err);
    evaluate.pareto.push_back(*o);
    from = to + 1;
  }
  if (options.space != "simrun" && options.space != "apex") {
    return FailWith(kBadInput, fmt::format("--space: unknown name \"{}\"; one of: simrun, apex", options.space), terminal.err);
  }
  if (options.format != "text" && options.format != "json") {
    return FailWith(kBadInput, fmt::format("--format: unknown name \"{}\"; one of: text, json", options.format), terminal.err);
  }
  if (options.top < 1) return FailWith(kBadInput, fmt::format("--top: {} is out of range; must be at least 1", options.top), terminal.err);
  if (options.threads < 0 || options.threads > 4096) return FailWith(kBadInput, fmt::format("--threads: {} is out of range; must be 1 to 4096", options.threads), terminal.err);
  if (!(options.min_attainment >= 0 && options.min_attainment <= 1)) {
    return FailWith(kBadInput, fmt::format("--min-attainment: {} is out of range; must be 0 to 1", options.min_attainment), terminal.err);
  }
  const auto catalog = OpenCatalog(options.scenario.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const absl::StatusOr<YamlNode> root = ReadSettings(options.scenario);
  if (!root.ok()) return Fail(root.status(), terminal.err);
  if (options.space == "apex") return ApexSpace(options, *root, *catalog, terminal);

  const int threads = ThreadsOf(options.threads, team);
  Problems problems;
  const planner::SearchConfig search = planner::ReadSearch(*root, &problems);
  if (!problems.empty()) return Fail(problems.ToStatus(), terminal.err);
  const absl::StatusOr<PlanSpace> space =
      planner::Enumerate(*root, std::filesystem::path(options.scenario.config).parent_path().string(), *catalog, search, threads);
  if (!space.ok()) return Fail(space.status(), terminal.err);
  if (options.dry_run) {
    PrintDryRun(*space, options.format, terminal.out);
    return kDone;
  }
  if (space->Count(Obstacle::kNone) == 0) {
    const std::string why = space->candidates.empty() ? "no product of degrees gives the number of GPUs" : space->candidates.back().reason;
    return FailWith(kBadInput, fmt::format("none of {} plans is feasible, for example: {}; --dry-run lists them", space->candidates.size(), why), terminal.err);
  }
  evaluate.threads = threads;
  evaluate.team = team;
  evaluate.min_attainment = options.min_attainment;
  evaluate.prune = options.prune;
  absl::StatusOr<Evaluation> evaluation;
  {
    const InterruptGuard guard;
    ProgressLine line(terminal.err, options.quiet);
    const auto start = std::chrono::steady_clock::now();
    evaluate.cancelled = &InterruptGuard::interrupted;
    evaluate.on_progress = [&](int64_t done, int64_t total, std::optional<double> best) {
      const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      std::string text = line.Text(done, 0, total, elapsed, "plans");
      if (best) text += fmt::format(", best {} {}", objective->metric, NumberText(*best));
      line.Show(text, elapsed);
    };
    evaluate.on_remark = [&](const std::string& text) { terminal.err << "simrun: " << text << std::endl; };
    evaluation = planner::Evaluate(*space, evaluate);
  }
  if (!evaluation.ok()) return Fail(evaluation.status(), terminal.err);
  if (team != nullptr && team->rank() > 0) return kDone;
  const auto stopped = [&] {
    return FailWith(kRunFailed, fmt::format("stopped: {} of {} were simulated", CountText(static_cast<double>(evaluation->ranked.size())),
                                            Plural(static_cast<double>(space->Count(Obstacle::kNone)), "plan")), terminal.err);
  };
  if (evaluation->ranked.empty()) return stopped();
  if (!evaluation->ranked.front().error.empty()) return FailWith(kRunFailed, evaluation->ranked.front().error, terminal.err);
  if (!options.out.empty()) {
    absl::StatusOr<std::unique_ptr<OutputDir>> out = OutputDir::Create(options.out);
    if (!out.ok()) return Fail(out.status(), terminal.err);
    absl::Status written;
    for (size_t i = 0; i < evaluation->ranked.size() && written.ok(); ++i) {
      const Scenario& scenario = *space->candidates[evaluation->ranked[i].candidate].scenario;
      written = (*out)->Write(fmt::format("plan-{:03}.yaml", i + 1), EffectiveConfig(scenario, options.scenario));
    }
    if (written.ok()) written = (*out)->Commit();
    if (!written.ok()) return Fail(written, terminal.err);
  }
  if (options.format == "json") {
    PrintJson(*space, *evaluation, *objective, terminal.out);
  } else {
    PrintText(*space, *evaluation, options, terminal.out);
  }
  // What was finished is shown all the same.
  if (evaluation->cancelled) return stopped();
  return kDone;
}

}  // namespace simrun
