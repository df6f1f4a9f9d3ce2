#include "planner/capacity.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <boost/math/distributions/students_t.hpp>
#include <fmt/format.h>

#include "base/quantity_text.h"
#include "planner/metrics.h"
#include "sim/resolved.h"
#include "sim/simulation.h"

namespace simrun::planner {
namespace {

bool Saturated(const Report& r) {
  return std::any_of(r.warnings.begin(), r.warnings.end(), [](const std::string& w) { return w.rfind("saturated:", 0) == 0; });
}

struct Settings {
  std::vector<std::pair<std::string, std::string>> values;
};

// The scenario with several settings changed at once, so that they are checked together.
absl::StatusOr<Scenario> Changed(const Scenario& s, const Settings& settings) {
  YamlNode root = s.node();
  for (const auto& [path, text] : settings.values) {
    SIMRUN_ASSIGN_OR_RETURN(YamlNode value, ParseYaml(text, path));
    SIMRUN_RETURN_IF_ERROR(root.Set(path, std::move(value)));
  }
  return Scenario::FromNode(std::move(root), s.base_dir(), s.catalog());
}

// The fleet with another number of replicas, and the nodes they need.
Settings Fleet(const Scenario& s, int replicas) {
  const ResolvedScenario& r = s.resolved();
  const int gpus = replicas * r.plan.gpus_per_engine();
  Settings settings{{{"plan.replicas", fmt::format("{}", replicas)}}};
  if (!r.model.moe && s.config().plan.dp > 1) settings.values.emplace_back("plan.dp", "1");  // for dense models the same thing
  if (!s.config().hardware.node.empty()) {
    const int per_node = std::max(1, r.machine.gpus_per_node);
    settings.values.emplace_back("hardware.nodes", fmt::format("{}", (gpus + per_node - 1) / per_node));
  } else {
    settings.values.emplace_back("hardware.count", "auto");
  }
  return settings;
}

// The settings of lengths that are lognormal or uniform, multiplied by a factor; none for other kinds.
std::vector<std::pair<std::string, std::string>> LengthSettings(const LengthConfig& lengths, const std::string& path, double factor) {
  std::vector<std::pair<std::string, std::string>> out;
  const auto add = [&](const char* name, double value) {
    out.emplace_back(path + "." + name, fmt::format("{}", std::max(1.0, std::round(value * factor))));
  };
  if (lengths.lognormal) {
    const auto& l = *lengths.lognormal;
    if (l.mean) add("lognormal.mean", static_cast<double>(*l.mean));
    if (l.p50) add("lognormal.p50", static_cast<double>(*l.p50));
    if (l.p99) add("lognormal.p99", static_cast<double>(*l.p99));
    if (l.max) add("lognormal.max", static_cast<double>(*l.max));
  } else if (lengths.uniform) {
    add("uniform.min", static_cast<double>(lengths.uniform->min));
    add("uniform.max", static_cast<double>(lengths.uniform->max));
  }
  return out;
}

class Prober {
 public:
  Prober(const Scenario& base, const CapacityOptions& options) : base_(base), options_(options) {
    for (const SloTarget& t : options.targets) metrics_.push_back(*FindMetric(t.metric));
  }

  // InvalidArgument when the settings are impossible.
  absl::StatusOr<Probe> Try(double x, const Settings& settings) {
    Probe probe;
    probe.x = x;
    std::vector<std::vector<double>> values(metrics_.size());
    const int64_t seed = base_.config().seed;
    for (int run = 0; run < std::max(1, options_.most_runs); ++run) {
      if (options_.cancelled != nullptr && options_.cancelled()) return absl::CancelledError("stopped");
      Settings seeded = settings;
      seeded.values.emplace_back("seed", fmt::format("{}", seed + run));
      SIMRUN_ASSIGN_OR_RETURN(const Scenario scenario, Changed(base_, seeded));
      SIMRUN_ASSIGN_OR_RETURN(Report report, options_.simulate != nullptr ? options_.simulate(scenario) : Simulate(scenario, {.intervals = false}));
      ++probe.runs;
      // Requests that were turned away have no latency; a fleet that refuses some does not serve the traffic.
      const bool refused = report.requests.rejected > 0;
      probe.saturated = probe.saturated || Saturated(report);
      for (size_t m = 0; m < metrics_.size(); ++m) values[m].push_back(metrics_[m]->value(report));
      if (run == 0) probe.report = std::move(report);
      if (refused) {
        probe.meets = false;
        break;
      }
      const bool decided = Decide(values, &probe);
      // A queue that grows until the end makes latencies depend on the length of the run, so another seed tells nothing.
      if (probe.saturated && !probe.meets) {
        probe.sure = true;
        break;
      }
      if (run + 1 >= options_.least_runs && decided) break;
    }
    probe.values.clear();
    for (const std::vector<double>& v : values) probe.values.push_back(Mean(v));
    if (options_.on_probe != nullptr) options_.on_probe(probe);
    return probe;
  }

 private:
  static double Mean(const std::vector<double>& v) {
    double sum = 0;
    for (const double x : v) sum += x;
    return sum / static_cast<double>(v.size());
  }

  // Sets `meets` and `sure`; true when no further run is needed. Every target must be met for sure, or one missed for
  // sure, by a one-sided t-interval on the mean over the seeds.
  bool Decide(const std::vector<std::vector<double>>& values, Probe* probe) const {
    bool all_met = true, all_sure = true, missed_for_sure = false;
    for (size_t m = 0; m < metrics_.size(); ++m) {
      const SloTarget& target = options_.targets[m];
      const auto n = static_cast<double>(values[m].size());
      const double mean = Mean(values[m]);
      const double slack = target.at_least ? mean - target.limit : target.limit - mean;
      double half_width = INFINITY;
      if (n >= 2) {
        double squares = 0;
        for (const double v : values[m]) squares += (v - mean) * (v - mean);
        const boost::math::students_t t(n - 1);
        half_width = boost::math::quantile(t, options_.confidence) * std::sqrt(squares / (n - 1) / n);
      }
      const bool sure = std::fabs(slack) > half_width || (half_width == 0 && n >= 2);
      all_met = all_met && slack >= 0;
      all_sure = all_sure && sure;
      missed_for_sure = missed_for_sure || (sure && slack < 0);
    }
    probe->meets = all_met;
    probe->sure = missed_for_sure || (all_met && all_sure);
    return probe->sure;
  }

  const Scenario& base_;
  const CapacityOptions& options_;
  std::vector<const Metric*> metrics_;
};

absl::Status CheckOptions(const CapacityOptions& options) {
  if (options.targets.empty()) return absl::InvalidArgumentError("no target is given; write for example --slo ttft.p99=500ms");
  for (const SloTarget& t : options.targets) SIMRUN_RETURN_IF_ERROR(FindMetric(t.metric).status());
  if (!(options.confidence > 0.5 && options.confidence < 1)) {
    return absl::InvalidArgumentError(fmt::format("confidence {} is out of range; must be above 0.5 and below 1", options.confidence));
  }
  return absl::OkStatus();
}

void Fill(const Probe& probe, CapacityResult* result) {
  result->found = true;
  result->x = probe.x;
  result->gpus = probe.report.plan.gpus;
  result->usd_per_hour = probe.report.cost.usd_per_hour;
  result->requests_per_s = probe.report.throughput.requests_per_s;
}

std::string Missed(const Probe& p, const CapacityOptions& options) {
  std::string text;
  for (size_t m = 0; m < options.targets.size() && m < p.values.size(); ++m) {
    const SloTarget& t = options.targets[m];
    if (t.at_least ? p.values[m] < t.limit : p.values[m] > t.limit) {
      text += fmt::format("{}{} is {:.4g}, the limit {:.4g}", text.empty() ? "" : "; ", t.metric, p.values[m], t.limit);
    }
  }
  if (p.report.requests.rejected > 0) text += fmt::format("{}{} requests were refused", text.empty() ? "" : "; ", p.report.requests.rejected);
  return text;
}

absl::StatusOr<CapacityResult> FindFleet(const Scenario& scenario, const CapacityOptions& options) {
  SIMRUN_RETURN_IF_ERROR(CheckOptions(options));
  if (scenario.resolved().closed_loop) {
    return absl::InvalidArgumentError("workload: a closed loop has no rate that a fleet must meet; give arrivals or a trace, or ask --what-if");
  }
  CapacityResult result;
  Prober prober(scenario, options);
  const auto attempt = [&](int replicas) -> absl::StatusOr<Probe> {
    SIMRUN_ASSIGN_OR_RETURN(Probe probe, prober.Try(replicas, Fleet(scenario, replicas)));
    result.probes.push_back(probe);
    return probe;
  };
  int fails = 0, meets = 0;
  bool sure_fails = true;
  Probe answer, previous;
  for (int n = 1; meets == 0; n = std::min(n * 2, options.max_replicas)) {
    SIMRUN_ASSIGN_OR_RETURN(Probe probe, attempt(n));
    if (probe.meets) {
      meets = n;
      answer = std::move(probe);
      break;
    }
    fails = n;
    sure_fails = probe.sure;
    bool changed = n == 1 || probe.saturated || previous.saturated;
    for (size_t m = 0; m < probe.values.size() && !changed; ++m) {
      changed = std::fabs(probe.values[m] - previous.values[m]) > 1e-3 * std::fabs(previous.values[m]);
    }
    if (!changed || n >= options.max_replicas || probe.report.requests.rejected > 0) {
      result.why_not = fmt::format("{}, with {} replicas as with {}", Missed(probe, options), n, n == 1 ? n : n / 2);
      if (changed) result.why_not = fmt::format("{}, even with {} replicas", Missed(probe, options), n);
      return result;
    }
    previous = std::move(probe);
  }
  while (meets - fails > 1) {
    const int middle = fails + (meets - fails) / 2;
    SIMRUN_ASSIGN_OR_RETURN(Probe probe, attempt(middle));
    if (probe.meets) {
      meets = middle;
      answer = std::move(probe);
    } else {
      fails = middle;
      sure_fails = probe.sure;
    }
  }
  Fill(answer, &result);
  result.sure = answer.sure && sure_fails;
  return result;
}

absl::StatusOr<CapacityResult> FindRate(const Scenario& scenario, const CapacityOptions& options) {
  SIMRUN_RETURN_IF_ERROR(CheckOptions(options));
  if (scenario.resolved().closed_loop) return absl::InvalidArgumentError("workload: a closed loop has no rate; give arrivals or a trace");
  CapacityResult result;
  Prober prober(scenario, options);
  const double base = scenario.config().workload.rate_scale;
  const auto attempt = [&](double factor) -> absl::StatusOr<Probe> {
    SIMRUN_ASSIGN_OR_RETURN(Probe probe, prober.Try(factor, {{{"workload.rate_scale", fmt::format("{}", base * factor)}}}));
    result.probes.push_back(probe);
    return probe;
  };
  SIMRUN_ASSIGN_OR_RETURN(Probe probe, attempt(1));
  double low = 0, high = 0;
  bool sure_high = true;
  Probe answer;
  const double step = probe.meets ? 2 : 0.5;
  for (double factor = 1;;) {
    if (probe.meets) {
      low = factor;
      answer = probe;
    } else {
      high = factor;
      sure_high = probe.sure;
    }
    if (low > 0 && high > 0) break;
    factor *= step;
    if (factor < 1e-4) {
      result.why_not = fmt::format("{}, even at a ten-thousandth of the rate", Missed(probe, options));
      return result;
    }
    if (factor > 1e6) {
      result.why_not = "the targets hold at any rate";
      return result;
    }
    SIMRUN_ASSIGN_OR_RETURN(probe, attempt(factor));
  }
  while (high / low > 1 + options.rate_tolerance) {
    const double middle = std::sqrt(low * high);
    SIMRUN_ASSIGN_OR_RETURN(probe, attempt(middle));
    if (probe.meets) {
      low = middle;
      answer = probe;
    } else {
      high = middle;
      sure_high = probe.sure;
    }
  }
  Fill(answer, &result);
  result.sure = answer.sure && sure_high;
  return result;
}

}  // namespace

absl::StatusOr<SloTarget> ParseSlo(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0 || equals + 1 == text.size()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is not metric=limit; write for example ttft.p99=500ms", text));
  }
  std::string name(text.substr(0, equals));
  if (name == "attainment") name = "goodput.slo_attainment";
  const absl::StatusOr<const Metric*> metric = FindMetric(name);
  if (!metric.ok()) return absl::InvalidArgumentError(std::string(metric.status().message()));
  SloTarget target;
  target.metric = (*metric)->name;
  target.at_least = (*metric)->higher_is_better;
  target.text = std::string(text);
  const std::string& n = target.metric;
  const bool is_time = n.size() > 2 && n.substr(n.size() - 2) == "_s" && n.find("_per_s") == std::string::npos;
  const std::string value(text.substr(equals + 1));
  absl::StatusOr<double> limit = 0.0;
  if (is_time) {
    limit = ParseQuantityText(value, DimensionOf(Seconds()));
  } else {
    limit = ParseNumber(value);
  }
  if (!limit.ok()) return absl::InvalidArgumentError(fmt::format("{}: {}", n, std::string(limit.status().message())));
  if (*limit < 0) return absl::InvalidArgumentError(fmt::format("{}: the limit {} is below 0", n, value));
  target.limit = *limit;
  return target;
}

absl::StatusOr<CapacityResult> FindCapacity(const Scenario& scenario, const CapacityOptions& options) {
  return options.find == Find::kRate ? FindRate(scenario, options) : FindFleet(scenario, options);
}

std::vector<std::string> MinimizeNames() { return {"replicas", "gpus", "cost", "energy"}; }

absl::StatusOr<Minimize> FindMinimize(std::string_view name) {
  const std::vector<std::string> names = MinimizeNames();
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) return absl::NotFoundError(fmt::format("unknown name \"{}\"; {}", name, NameHint(name, names)));
  return static_cast<Minimize>(it - names.begin());
}

absl::StatusOr<std::vector<FleetChoice>> FindBestFleet(const PlanSpace& engines, Minimize minimize, const CapacityOptions& options) {
  std::vector<FleetChoice> choices;
  double best = INFINITY;
  for (size_t i = 0; i < engines.candidates.size(); ++i) {
    const Candidate& c = engines.candidates[i];
    if (!c.feasible() || c.replicas != 1) continue;
    const ResolvedScenario& r = c.scenario->resolved();
    if (minimize == Minimize::kCost && r.machine.price_per_gpu.value() <= 0) {
      return absl::InvalidArgumentError(fmt::format("no price is known for {}; set hardware.price, or minimize gpus", r.machine.gpu.name));
    }
    // The largest fleet of this kind that is no worse than the best so far. Energy is not known before the run.
    const double gpus = r.plan.gpus_per_engine();
    const double per_replica = minimize == Minimize::kReplicas ? 1 : minimize == Minimize::kGpus ? gpus : r.machine.price_per_gpu.value() * 3600 * gpus;
    CapacityOptions limited = options;
    if (minimize != Minimize::kEnergy && std::isfinite(best)) {
      limited.max_replicas = static_cast<int>(std::min<double>(options.max_replicas, std::floor(best / per_replica * (1 + 1e-12))));
    }
    FleetChoice choice;
    choice.candidate = i;
    if (limited.max_replicas < 1) {
      choice.beaten = true;
      choices.push_back(std::move(choice));
      continue;
    }
    SIMRUN_ASSIGN_OR_RETURN(choice.result, FindFleet(*c.scenario, limited));
    choice.beaten = !choice.result.found && limited.max_replicas < options.max_replicas;
    if (choice.result.found) {
      const Probe* answer = nullptr;
      for (const Probe& p : choice.result.probes) {
        if (p.x == choice.result.x) answer = &p;
      }
      choice.value = minimize == Minimize::kEnergy ? answer->report.energy.per_output_token.value() : per_replica * choice.result.x;
      best = std::min(best, choice.value);
    }
    choices.push_back(std::move(choice));
  }
  if (choices.empty()) return absl::InvalidArgumentError("no engine is feasible");
  std::stable_sort(choices.begin(), choices.end(), [](const FleetChoice& a, const FleetChoice& b) {
    if (a.result.found != b.result.found) return a.result.found;
    return a.result.found && a.value < b.value;
  });
  return choices;
}

absl::StatusOr<std::vector<Change>> WhatWouldHaveToChange(const Scenario& scenario, const CapacityOptions& options) {
  SIMRUN_RETURN_IF_ERROR(CheckOptions(options));
  Prober prober(scenario, options);
  SIMRUN_ASSIGN_OR_RETURN(const Probe now, prober.Try(1, {}));
  std::vector<Change> changes;
  if (now.meets) return changes;

  const ResolvedScenario& r = scenario.resolved();
  struct Knob {
    std::string setting;
    double value;
    bool up, whole;
    std::function<std::string(double)> text;
  };
  const auto quantity = [](auto q) {
    return [q](double v) { return HumanQuantity(v, DimensionOf(q)); };
  };
  std::vector<Knob> knobs;
  const auto plain = [](double v) { return fmt::format("{:.4g}", v); };
  const auto times = [](double v) { return v == 1 ? std::string("as given") : fmt::format("{:.3g} of it", v); };
  knobs.push_back({"plan.replicas", static_cast<double>(r.plan.replicas), true, true, plain});
  knobs.push_back({"hardware.memory_bandwidth", r.machine.gpu.memory_bandwidth.value(), true, false, quantity(BytesPerSecond())});
  const FlopsPerSecond bf16 = r.machine.gpu.peak[static_cast<int>(DType::kBf16)], fp16 = r.machine.gpu.peak[static_cast<int>(DType::kFp16)];
  knobs.push_back({"hardware.peak_flops", bf16.value() > 0 ? bf16.value() : fp16.value(), true, false, quantity(FlopsPerSecond())});
  if (r.plan.tp > 1 || r.plan.ep > 1) knobs.push_back({"hardware.link_bandwidth", r.machine.scale_up.bandwidth.value(), true, false, quantity(BytesPerSecond())});
  if (r.plan.gpus_per_engine() > r.machine.gpus_per_node) {
    knobs.push_back({"hardware.network_bandwidth", r.machine.network.bandwidth.value(), true, false, quantity(BytesPerSecond())});
  }
  if (!r.placement.resident) {
    knobs.push_back({"hardware.host_link_bandwidth", r.machine.host_link.bandwidth.value(), true, false, quantity(BytesPerSecond())});
    knobs.push_back({"hardware.host_memory_bandwidth", r.machine.host_memory.bandwidth.value(), true, false, quantity(BytesPerSecond())});
  }
  if (!r.closed_loop) knobs.push_back({"workload.rate_scale", scenario.config().workload.rate_scale, false, false, plain});
  const auto& input = scenario.config().workload.input_tokens;
  if (input && input->fixed) knobs.push_back({"workload.input_tokens", static_cast<double>(*input->fixed), false, true, plain});
  // Other lengths as a whole, by a factor.
  if (input && LengthSettings(*input, "workload.input_tokens", 1).size() > 0) {
    knobs.push_back({"workload.input_tokens", 1, false, false, times});
  }
  const auto& output = scenario.config().workload.output_tokens;
  if (output && output->fixed) knobs.push_back({"workload.output_tokens", static_cast<double>(*output->fixed), false, true, plain});
  if (output && LengthSettings(*output, "workload.output_tokens", 1).size() > 0) {
    knobs.push_back({"workload.output_tokens", 1, false, false, times});
  }
  if (r.machine.price_per_gpu.value() > 0) knobs.push_back({"hardware.price", r.machine.price_per_gpu.value(), false, false, quantity(DollarsPerSecond())});

  for (const Knob& knob : knobs) {
    Change change;
    change.setting = knob.setting;
    change.from = knob.text(knob.value);
    const auto value_at = [&](double factor) {
      const double v = knob.value * (knob.up ? factor : 1 / factor);
      return knob.whole ? std::max(1.0, std::round(v)) : v;
    };
    const auto attempt = [&](double factor) -> absl::StatusOr<bool> {
      const double v = value_at(factor);
      Settings settings;
      if (knob.setting == "plan.replicas") {
        settings = Fleet(scenario, static_cast<int>(v));
      } else if (!knob.whole && knob.setting == "workload.input_tokens") {
        settings.values = LengthSettings(*input, knob.setting, v);
      } else if (!knob.whole && knob.setting == "workload.output_tokens") {
        settings.values = LengthSettings(*output, knob.setting, v);
      } else if (knob.whole) {
        settings.values = {{knob.setting, fmt::format("{}", std::llround(v))}};
      } else {
        const Dimension d = knob.setting == "workload.rate_scale" ? Dimension{}
                            : knob.setting == "hardware.price"    ? DimensionOf(DollarsPerSecond())
                            : knob.setting == "hardware.peak_flops" ? DimensionOf(FlopsPerSecond())
                                                                    : DimensionOf(BytesPerSecond());
        settings.values = {{knob.setting, d == Dimension{} ? fmt::format("{}", v) : FormatQuantityText(v, d)}};
      }
      const absl::StatusOr<Probe> probe = prober.Try(v, settings);
      if (!probe.ok()) {
        // A value that the scenario cannot have is no answer.
        if (probe.status().code() == absl::StatusCode::kInvalidArgument) return false;
        return probe.status();
      }
      return probe->meets;
    };
    double fails = 1, meets = 0;
    for (double factor = 2; factor <= 64; factor *= 2) {
      SIMRUN_ASSIGN_OR_RETURN(const bool ok, attempt(factor));
      if (ok) {
        meets = factor;
        break;
      }
      fails = factor;
    }
    while (meets > 0 && meets / fails > 1.02) {
      const double middle = std::sqrt(fails * meets);
      if (knob.whole && (value_at(middle) == value_at(meets) || value_at(middle) == value_at(fails))) {
        // The two ends are neighbours, or nearly: go through what is between them.
        const double step = knob.up ? 1 : -1;
        double v = value_at(meets);
        while (v - step != value_at(fails) && v != value_at(fails)) {
          const double factor = knob.up ? (v - step) / knob.value : knob.value / (v - step);
          SIMRUN_ASSIGN_OR_RETURN(const bool ok, attempt(factor));
          if (!ok) break;
          v -= step;
          meets = factor;
        }
        break;
      }
      SIMRUN_ASSIGN_OR_RETURN(const bool ok, attempt(middle));
      (ok ? meets : fails) = middle;
    }
    if (meets > 0) {
      change.found = true;
      change.to = knob.text(value_at(meets));
      change.factor = value_at(meets) / knob.value;
    }
    changes.push_back(std::move(change));
  }
  return changes;
}

}  // namespace simrun::planner
