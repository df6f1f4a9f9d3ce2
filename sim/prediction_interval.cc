#include "sim/prediction_interval.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include <boost/math/distributions/students_t.hpp>
#include <fmt/format.h>

#include "base/params.h"
#include "base/quantity_text.h"

namespace simrun {
namespace {

// Campaigns of a group that weigh as much as everything wider.
constexpr double kPriorCampaigns = 3;

struct Key {
  std::string_view load, engine, profile, gpu;
  friend bool operator==(const Key&, const Key&) = default;
};

// From the nearest group to the widest.
std::vector<Key> Levels(const Key& run) {
  return {run, {run.load, run.engine, "", ""}, {run.load, "", "", ""}, {"", "", "", ""}};
}

Key KeyOf(const ErrorGroup& g) { return {g.load, g.engine, g.profile, g.gpu}; }

std::string BasisOf(const Key& key, int64_t values, int64_t campaigns) {
  std::string text = fmt::format("{} measured {} of {}", values, values == 1 ? "value" : "values", campaigns == 1 ? "one campaign" : fmt::format("{} campaigns", campaigns));
  if (!key.profile.empty()) {
    text += fmt::format(", {} on {}", key.profile, key.gpu);
  } else if (!key.engine.empty()) {
    text += fmt::format(", {}", key.engine);
  }
  return text + (key.load.empty() ? ", any load" : fmt::format(", {}", key.load));
}

struct Metric {
  const char* key;      // in the report
  const char* name;     // in the ledger
  double (*of)(const Report&);
  bool set_by_traffic;  // at a given arrival rate it is an input
};

constexpr Metric kMetrics[] = {
    {"ttft.mean_s", "ttft", [](const Report& r) { return r.ttft.mean.value(); }, false},
    {"tpot.mean_s", "tpot", [](const Report& r) { return r.tpot.mean.value(); }, false},
    {"e2e.mean_s", "e2e", [](const Report& r) { return r.e2e.mean.value(); }, false},
    {"throughput.output_tokens_per_s", "throughput", [](const Report& r) { return r.throughput.output_tokens_per_s; }, true},
    {"energy.per_output_token_j", "energy", [](const Report& r) { return r.energy.per_output_token.value(); }, false},
};

}  // namespace

std::string_view LoadKindOf(const ResolvedScenario& scenario) {
  const WorkloadConfig& w = scenario.config.workload;
  if (!scenario.placement.resident) return "offload";
  if (w.static_batch) return "static batch";
  if (w.concurrency) return "closed loop";
  if (w.arrivals && w.arrivals->all_at_once) return "offline";
  return "open loop";
}

absl::StatusOr<std::shared_ptr<const ErrorLedger>> ErrorLedger::Load(const Catalog& catalog, std::string_view load,
                                                                     std::string_view engine, std::string_view profile,
                                                                     std::string_view gpu) {
  const std::string kept_as = fmt::format("{}\n{}\n{}\n{}", load, engine, profile, gpu);
  if (auto kept = catalog.Kept<ErrorLedger>(kept_as)) return kept;
  const std::vector<Key> levels = Levels({load, engine, profile, gpu});
  std::vector<ErrorGroup> groups;
  for (const std::string& name : catalog.Names("errors")) {
    SIMRUN_ASSIGN_OR_RETURN(const YamlNode file, catalog.Load("errors", name));
    const YamlNode* list = file.Find("groups");
    if (list == nullptr) return absl::InvalidArgumentError(fmt::format("errors/{}: has no list `groups`", name));
    for (const YamlNode& item : list->items()) {
      const auto text = [&](const char* field) {
        const YamlNode* node = item.Find(field);
        return node == nullptr ? std::string_view() : std::string_view(node->text());
      };
      const Key key{text("load"), text("engine"), text("profile"), text("gpu")};
      if (std::find(levels.begin(), levels.end(), key) == levels.end()) continue;
      ErrorGroup group;
      Problems problems;
      ReadParams(item, "groups", &problems, &group);
      SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
      if (group.ratios.empty() || !std::is_sorted(group.ratios.begin(), group.ratios.end())) {
        problems.Add(item.location(), "groups.ratios", "must be a list of ascending numbers", "");
        return problems.ToStatus();
      }
      groups.push_back(std::move(group));
    }
  }
  auto ledger = std::make_shared<const ErrorLedger>(std::move(groups));
  catalog.Keep(kept_as, ledger);
  return ledger;
}

std::optional<RatioInterval> ErrorLedger::Ratio(std::string_view metric, std::string_view load, std::string_view engine,
                                                std::string_view profile, std::string_view gpu) const {
  std::vector<std::pair<double, double>> points;   // ratio, weight
  RatioInterval interval;
  double rest = 1, seen = 0;
  const std::vector<Key> levels = Levels({load, engine, profile, gpu});
  for (size_t i = 0; i < levels.size(); ++i) {
    // Files add up: groups of the same kind are one.
    double values = 0;
    int64_t campaigns = 0;
    std::vector<const ErrorGroup*> level;
    for (const ErrorGroup& g : groups_) {
      if (g.metric != metric || !(KeyOf(g) == levels[i])) continue;
      values += static_cast<double>(g.values);
      campaigns += g.campaigns;
      level.push_back(&g);
    }
    if (level.empty()) continue;
    if (interval.basis.empty()) {
      interval.values = static_cast<int64_t>(values);
      interval.basis = BasisOf(levels[i], interval.values, campaigns);
    }
    const bool widest = i + 1 == levels.size();
    const double weight = widest ? rest : rest * static_cast<double>(campaigns) / (static_cast<double>(campaigns) + kPriorCampaigns);
    rest -= weight;
    seen += weight * static_cast<double>(campaigns);
    for (const ErrorGroup* g : level) {
      const double each = weight * static_cast<double>(g->values) / values / static_cast<double>(g->ratios.size());
      for (const double ratio : g->ratios) points.emplace_back(ratio, each);
    }
  }
  if (points.empty()) return std::nullopt;
  std::sort(points.begin(), points.end());
  double total = 0;
  for (const auto& [ratio, weight] : points) total += weight;
  const auto quantile = [&](double q) {
    double sum = 0;
    for (const auto& [ratio, weight] : points) {
      sum += weight;
      if (sum >= q * total * (1 - 1e-12)) return ratio;   // sums of equal weights fall short of their product
    }
    return points.back().first;
  };
  const double tail = (1 - kIntervalLevel) / 2 * seen / (seen + 1);
  interval.low = quantile(tail);
  interval.median = quantile(0.5);
  interval.high = quantile(1 - tail);
  return interval;
}

absl::Status FillIntervals(const ResolvedScenario& scenario, const Catalog& catalog, std::string_view load,
                           const std::vector<Report>& further, Report* report) {
  if (scenario.engine.engine.empty() || report->requests.completed == 0) return absl::OkStatus();
  const std::string_view engine = scenario.engine.engine, profile = scenario.engine.name, gpu = scenario.machine.gpu.name;
  SIMRUN_ASSIGN_OR_RETURN(const std::shared_ptr<const ErrorLedger> ledger, ErrorLedger::Load(catalog, load, engine, profile, gpu));
  for (const Metric& m : kMetrics) {
    if (m.set_by_traffic && load == "open loop") continue;
    const std::optional<RatioInterval> ratio = ledger->Ratio(m.name, load, engine, profile, gpu);
    std::vector<double> logs;
    if (m.of(*report) > 0) logs.push_back(std::log(m.of(*report)));
    for (const Report& r : further) {
      if (m.of(r) > 0) logs.push_back(std::log(m.of(r)));
    }
    if (!ratio || logs.size() != further.size() + 1) continue;
    const auto n = static_cast<double>(logs.size());
    double mean = 0, squares = 0;
    for (const double x : logs) mean += x / n;
    for (const double x : logs) squares += (x - mean) * (x - mean);
    // A measured run is one more draw: its distance from the mean of the seeds has the variance s^2 (1 + 1/n).
    double spread = 0;
    if (n > 1) {
      const boost::math::students_t t(n - 1);
      spread = boost::math::quantile(t, (1 + kIntervalLevel) / 2) * std::sqrt(squares / (n - 1) * (1 + 1 / n));
    }
    const double middle = std::log(ratio->median);
    Report::Interval interval;
    interval.low = std::exp(mean + middle - std::hypot(middle - std::log(ratio->low), spread));
    interval.high = std::exp(mean + middle + std::hypot(std::log(ratio->high) - middle, spread));
    interval.level = kIntervalLevel;
    interval.values = ratio->values;
    interval.seeds = static_cast<int64_t>(logs.size());
    interval.basis = ratio->basis;
    report->intervals.emplace(m.key, std::move(interval));
  }
  return absl::OkStatus();
}

}  // namespace simrun
