#include "cli/capacity_command.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "cli/progress.h"
#include "cli/text.h"
#include "planner/capacity.h"
#include "sim/resolved.h"

namespace simrun {
namespace {

std::string ProbeText(const planner::Probe& p, const planner::CapacityOptions& options) {
  std::string text;
  for (size_t m = 0; m < options.targets.size(); ++m) text += fmt::format("{}{} {:.4g}", m > 0 ? ", " : "", options.targets[m].metric, p.values[m]);
  text += p.meets ? ": meets" : ": misses";
  if (p.saturated) text += ", saturated";
  if (!p.sure) text += ", too close to be sure";
  return text;
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

void PrintJson(const planner::CapacityResult& r, const planner::CapacityOptions& options, const std::vector<planner::Change>& changes,
               const std::string& find, std::ostream& out) {
  out << fmt::format("{{\"find\": \"{}\", \"found\": {}, \"answer\": {}, \"gpus\": {}, \"requests_per_s\": {}, \"usd_per_hour\": {}, \"confidence\": {}, "
                     "\"sure\": {}, \"why_not\": \"{}\", \"probes\": [", find, r.found, r.x, r.gpus, r.requests_per_s, r.usd_per_hour, options.confidence,
                     r.sure, Escaped(r.why_not));
  for (size_t i = 0; i < r.probes.size(); ++i) {
    const planner::Probe& p = r.probes[i];
    out << fmt::format("{}\n  {{\"x\": {}, \"meets\": {}, \"sure\": {}, \"saturated\": {}, \"runs\": {}", i > 0 ? "," : "", p.x, p.meets, p.sure, p.saturated, p.runs);
    for (size_t m = 0; m < options.targets.size(); ++m) out << fmt::format(", \"{}\": {}", options.targets[m].metric, p.values[m]);
    out << '}';
  }
  out << "\n], \"changes\": [";
  for (size_t i = 0; i < changes.size(); ++i) {
    const planner::Change& c = changes[i];
    out << fmt::format("{}\n  {{\"setting\": \"{}\", \"found\": {}, \"from\": \"{}\", \"to\": \"{}\", \"factor\": {}}}", i > 0 ? "," : "", c.setting, c.found,
                       c.from, c.to, c.factor);
  }
  out << "\n]}\n";
}

// The limits of the scenario where the command line has none.
int TargetsFrom(const SloConfig& slo, planner::CapacityOptions* capacity, Terminal terminal) {
  if (!capacity->targets.empty()) return kDone;
  if (slo.ttft) capacity->targets.push_back({"ttft.p99_s", false, slo.ttft->value(), "slo.ttft"});
  if (slo.tpot) capacity->targets.push_back({"tpot.p99_s", false, slo.tpot->value(), "slo.tpot"});
  if (!capacity->targets.empty()) return kDone;
  return FailWith(kBadInput, "no limit is given; add --slo ttft.p99=500ms, or an `slo` section to the scenario", terminal.err);
}

std::string LimitsText(const planner::CapacityOptions& capacity) {
  std::string text;
  for (const planner::SloTarget& t : capacity.targets) text += fmt::format("{}{} {} {:.4g}", text.empty() ? "" : " and ", t.metric, t.at_least ? ">=" : "<=", t.limit);
  return text;
}

// The best fleet over the engines of the `search` section.
int MinimizeFleet(const CapacityCommandOptions& options, planner::CapacityOptions capacity, Terminal terminal) {
  const auto minimize = planner::FindMinimize(options.minimize);
  if (!minimize.ok()) return FailWith(kBadInput, "--minimize: " + std::string(minimize.status().message()), terminal.err);
  const auto catalog = OpenCatalog(options.scenario.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const absl::StatusOr<YamlNode> root = ReadSettings(options.scenario);
  if (!root.ok()) return Fail(root.status(), terminal.err);
  Problems problems;
  planner::SearchConfig search = planner::ReadSearch(*root, &problems);
  if (!problems.empty()) return Fail(problems.ToStatus(), terminal.err);
  search.partial = true;   // engines of every size up to the hardware
  const absl::StatusOr<planner::PlanSpace> space =
      planner::Enumerate(*root, std::filesystem::path(options.scenario.config).parent_path().string(), *catalog, search);
  if (!space.ok()) return Fail(space.status(), terminal.err);
  const auto first = std::find_if(space->candidates.begin(), space->candidates.end(), [](const auto& c) { return c.feasible(); });
  if (first == space->candidates.end()) return FailWith(kBadInput, "no engine is feasible; simrun plan --dry-run says why", terminal.err);
  if (const int code = TargetsFrom(first->scenario->config().slo, &capacity, terminal); code != kDone) return code;
  absl::StatusOr<std::vector<planner::FleetChoice>> choices;
  {
    const InterruptGuard guard;
    capacity.cancelled = &InterruptGuard::interrupted;
    choices = planner::FindBestFleet(*space, *minimize, capacity);
  }
  if (!choices.ok()) return Fail(choices.status(), terminal.err);
  const auto settings = [&](const planner::FleetChoice& c) {
    std::string text;
    for (const auto& [path, value] : space->candidates[c.candidate].settings) {
      if (path == "plan.replicas" || path == "hardware.count" || path == "hardware.nodes" || value == "1") continue;
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", path.substr(path.rfind('.') + 1), value);
    }
    return text.empty() ? std::string("one GPU") : text;
  };
  const planner::FleetChoice& best = choices->front();
  if (options.format == "json") {
    terminal.out << fmt::format("{{\"minimize\": \"{}\", \"found\": {}, \"fleets\": [", options.minimize, best.result.found);
    for (size_t i = 0; i < choices->size(); ++i) {
      const planner::FleetChoice& c = (*choices)[i];
      terminal.out << fmt::format("{}\n  {{\"engine\": \"{}\", \"found\": {}, \"beaten\": {}, \"value\": {}, \"replicas\": {}, \"gpus\": {}, \"usd_per_hour\": {}, "
                                  "\"sure\": {}, \"why_not\": \"{}\"}}", i > 0 ? "," : "", Escaped(settings(c)), c.result.found, c.beaten, c.value, c.result.x,
                                  c.result.gpus, c.result.usd_per_hour, c.result.sure, Escaped(c.result.why_not));
    }
    terminal.out << "\n]}\n";
    return best.result.found ? kDone : kRunFailed;
  }
  if (!best.result.found) {
    return FailWith(kRunFailed, fmt::format("no fleet of {} meets {}; the first: {}", Plural(static_cast<double>(choices->size()), "engine"), LimitsText(capacity),
                                            best.result.why_not), terminal.err);
  }
  TextTable table("lrrrr");
  table.Add({"engine", "replicas", "GPUs", "USD/h", *minimize == planner::Minimize::kEnergy ? "J/token" : ""});
  int shown = 0, beaten = 0, failed = 0;
  for (const planner::FleetChoice& c : *choices) {
    beaten += c.beaten;
    failed += !c.result.found && !c.beaten;
    if (!c.result.found || ++shown > 10) continue;
    table.Add({settings(c) + (c.result.sure ? "" : " (close)"), NumberText(c.result.x), NumberText(c.result.gpus), NumberText(c.result.usd_per_hour),
               *minimize == planner::Minimize::kEnergy ? NumberText(c.value) : ""});
  }
  terminal.out << table.ToText();
  terminal.out << fmt::format("least {} for {}; of {}, {} ruled out by a better one, {} never meet the limits\n", options.minimize, LimitsText(capacity),
                              Plural(static_cast<double>(choices->size()), "engine"), beaten, failed);
  return kDone;
}

}  // namespace

int CapacityCommand(const CapacityCommandOptions& options, Terminal terminal) {
  if (options.find != "replicas" && options.find != "rate") {
    return FailWith(kBadInput, fmt::format("--find: unknown name \"{}\"; one of: replicas, rate", options.find), terminal.err);
  }
  const bool find_rate = options.find == "rate";
  if (options.format != "text" && options.format != "json") {
    return FailWith(kBadInput, fmt::format("--format: unknown name \"{}\"; one of: text, json", options.format), terminal.err);
  }
  if (options.runs < 1 || options.runs > 1000) return FailWith(kBadInput, fmt::format("--runs: {} is out of range; must be 1 to 1000", options.runs), terminal.err);
  if (options.max_replicas < 1 || options.max_replicas > 65536) {
    return FailWith(kBadInput, fmt::format("--max-replicas: {} is out of range; must be 1 to 65536", options.max_replicas), terminal.err);
  }
  if (!(options.confidence > 0.5 && options.confidence < 1)) {
    return FailWith(kBadInput, fmt::format("--confidence: {} is out of range; must be above 0.5 and below 1", options.confidence), terminal.err);
  }
  planner::CapacityOptions capacity;
  capacity.confidence = options.confidence;
  capacity.most_runs = static_cast<int>(options.runs);
  capacity.least_runs = std::min(2, capacity.most_runs);
  capacity.max_replicas = static_cast<int>(options.max_replicas);
  std::string errors;
  for (const std::string& slo : options.slos) {
    const auto target = planner::ParseSlo(slo);
    if (!target.ok()) {
      errors += fmt::format("simrun: --slo: {}\n", std::string(target.status().message()));
    } else {
      capacity.targets.push_back(*target);
    }
  }
  if (!errors.empty()) {
    terminal.err << errors;
    return kBadInput;
  }
  if (!options.minimize.empty()) {
    if (find_rate || options.what_if) {
      return FailWith(kBadInput, "--minimize: looks for the fleet for the traffic as it is; leave out --find rate and --what-if", terminal.err);
    }
    return MinimizeFleet(options, capacity, terminal);
  }
  const absl::StatusOr<Scenario> scenario = ReadScenario(options.scenario);
  if (!scenario.ok()) return Fail(scenario.status(), terminal.err);
  if (const int code = TargetsFrom(scenario->config().slo, &capacity, terminal); code != kDone) return code;

  absl::StatusOr<planner::CapacityResult> result;
  std::vector<planner::Change> changes;
  const bool as_it_is = options.what_if && !find_rate && scenario->resolved().closed_loop;
  {
    const InterruptGuard guard;
    capacity.find = find_rate ? planner::Find::kRate : planner::Find::kReplicas;
    capacity.cancelled = &InterruptGuard::interrupted;
    capacity.on_probe = [&](const planner::Probe& p) {
      if (!options.quiet) terminal.err << fmt::format("simrun: {} {:.4g}: {}", options.find, p.x, ProbeText(p, capacity)) << std::endl;
    };
    // Clients who wait for their answers ask for no rate that a fleet must meet: only what would have to change.
    if (as_it_is) {
      result = planner::CapacityResult();
    } else {
      result = planner::FindCapacity(*scenario, capacity);
    }
    capacity.on_probe = nullptr;
    if (result.ok() && (options.what_if || !result->found)) {
      absl::StatusOr<std::vector<planner::Change>> found = planner::WhatWouldHaveToChange(*scenario, capacity);
      if (!found.ok()) return Fail(found.status(), terminal.err);
      changes = *std::move(found);
      if (as_it_is) result->found = changes.empty();
    }
  }
  if (!result.ok()) return Fail(result.status(), terminal.err);
  const planner::CapacityResult& r = *result;
  if (options.format == "json") {
    PrintJson(r, capacity, changes, options.find, terminal.out);
    return kDone;
  }
  const std::string limits = LimitsText(capacity);
  if (as_it_is) {
    terminal.out << fmt::format("{} with {}: {}\n", limits, Plural(scenario->resolved().plan.replicas, "replica"), r.found ? "met" : "missed");
  } else if (r.found) {
    if (!find_rate) {
      terminal.out << fmt::format("{} ({}) for {}", Plural(r.x, "replica"), Plural(r.gpus, "GPU"), limits);
    } else {
      terminal.out << fmt::format("{} requests/s, {} times the scenario's rate, with {} for {}", NumberText(r.requests_per_s), NumberText(r.x),
                                  Plural(r.gpus, "GPU"), limits);
    }
    if (r.usd_per_hour > 0) terminal.out << fmt::format(", {} USD/h", NumberText(r.usd_per_hour));
    terminal.out << '\n';
    terminal.out << (r.sure ? fmt::format("the answer meets and the next {} misses at {:.0f} % confidence, from up to {} seeds each\n",
                                          find_rate ? "higher rate" : "smaller fleet", 100 * options.confidence, options.runs)
                            : fmt::format("too close to be sure at {:.0f} % confidence with {} seeds; raise --runs or simulate more requests\n",
                                          100 * options.confidence, options.runs));
  } else {
    terminal.out << fmt::format("no {} meets {}: {}\n", find_rate ? "rate" : "number of replicas", limits, r.why_not);
  }
  if (options.what_if || !r.found) {
    if (changes.empty()) {
      terminal.out << "the scenario as it is meets the limits\n";
    } else {
      terminal.out << "what would have to change, one at a time:\n";
      TextTable table("llrl");
      for (const planner::Change& c : changes) {
        table.Add({c.setting, c.from, c.found ? "-> " + c.to : "-", c.found ? fmt::format("x {:.3g}", c.factor) : "no change up to 64 times is enough"});
      }
      terminal.out << table.ToText("  ");
    }
  }
  return r.found || as_it_is ? kDone : kRunFailed;
}

}  // namespace simrun
