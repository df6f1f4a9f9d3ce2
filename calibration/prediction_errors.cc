#include "calibration/prediction_errors.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace simrun {
namespace {

constexpr size_t kRatios = 20;

bool Counts(const LedgerRow& r) { return r.predicted && *r.predicted > 0 && r.measured > 0 && !IntervalMetric(r.metric).empty(); }

std::string ServerOf(const LedgerRow& r) { return r.engine + "|" + r.gpu; }
std::string CampaignOf(const LedgerRow& r) { return ServerOf(r) + "|" + r.model; }

// Equally likely values with the distribution of `values`.
std::vector<double> Thinned(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  if (values.size() <= kRatios) return values;
  std::vector<double> out;
  for (size_t i = 0; i < kRatios; ++i) out.push_back(values[(2 * i + 1) * values.size() / (2 * kRatios)]);
  return out;
}

// As ErrorGroupsOf, of the rows that `keep` takes.
std::vector<ErrorGroup> GroupsOf(const std::vector<LedgerRow>& rows, const std::function<bool(const LedgerRow&)>& keep) {
  struct Members {
    std::vector<double> ratios;
    std::set<std::string> campaigns;
  };
  std::map<std::tuple<std::string, std::string, std::string, std::string, std::string>, Members> groups;
  for (const LedgerRow& r : rows) {
    if (!Counts(r) || !keep(r)) continue;
    const std::string metric = IntervalMetric(r.metric), campaign = CampaignOf(r);
    for (const auto& key : {std::tuple(metric, std::string(), std::string(), std::string(), std::string()),
                            std::tuple(metric, r.load, std::string(), std::string(), std::string()),
                            std::tuple(metric, r.load, r.engine_family, std::string(), std::string()),
                            std::tuple(metric, r.load, r.engine_family, r.engine_profile, r.gpu)}) {
      Members& m = groups[key];
      m.ratios.push_back(r.measured / *r.predicted);
      m.campaigns.insert(campaign);
    }
  }
  std::vector<ErrorGroup> out;
  for (auto& [key, m] : groups) {
    ErrorGroup g;
    std::tie(g.metric, g.load, g.engine, g.profile, g.gpu) = key;
    g.values = static_cast<int64_t>(m.ratios.size());
    g.campaigns = static_cast<int64_t>(m.campaigns.size());
    g.ratios = Thinned(std::move(m.ratios));
    out.push_back(std::move(g));
  }
  return out;
}

}  // namespace

std::string IntervalMetric(std::string_view metric) {
  if (metric == "ttft" || metric == "tpot" || metric == "e2e") return std::string(metric);
  if (metric == "throughput_out" || metric == "throughput_total") return "throughput";
  return IsEnergyMetric(metric) ? "energy" : "";
}

std::vector<ErrorGroup> ErrorGroupsOf(const std::vector<LedgerRow>& rows) {
  return GroupsOf(rows, [](const LedgerRow&) { return true; });
}

std::string ErrorsYaml(const std::vector<ErrorGroup>& groups) {
  std::string text =
      "# How measured serving runs stood to their predictions, by groups of runs: what prediction intervals are made of.\n"
      "# Written by `simrun validate CASES.csv... --errors FILE`; not edited.\n"
      "groups:\n";
  for (const ErrorGroup& g : groups) {
    text += fmt::format("  - {{metric: {}", g.metric);
    for (const auto& [name, value] : {std::pair("load", &g.load), std::pair("engine", &g.engine), std::pair("profile", &g.profile), std::pair("gpu", &g.gpu)}) {
      if (!value->empty()) text += fmt::format(", {}: \"{}\"", name, *value);
    }
    std::vector<std::string> ratios;
    for (const double r : g.ratios) ratios.push_back(fmt::format("{:.3g}", r));
    text += fmt::format(", values: {}, campaigns: {}, ratios: [{}]}}\n", g.values, g.campaigns, fmt::join(ratios, ", "));
  }
  return text;
}

std::vector<IntervalCoverage> CoverageOf(const std::vector<LedgerRow>& rows) {
  struct Tally {
    int64_t values = 0, model = 0, server = 0, server_values = 0;
    std::vector<double> widths;
  };
  std::map<std::pair<std::string, std::string>, Tally> tallies;
  // The interval of a row from everything but the rows of its own kind.
  const auto judge = [&](const std::function<std::string(const LedgerRow&)>& kind, const std::function<void(const LedgerRow&, const RatioInterval&, Tally*)>& count) {
    std::map<std::string, std::vector<const LedgerRow*>> by_kind;
    for (const LedgerRow& r : rows) {
      if (Counts(r)) by_kind[kind(r)].push_back(&r);
    }
    for (const auto& entry : by_kind) {
      const std::string& name = entry.first;
      const std::vector<const LedgerRow*>& members = entry.second;
      const ErrorLedger others(GroupsOf(rows, [&](const LedgerRow& r) { return kind(r) != name; }));
      std::map<std::tuple<std::string, std::string, std::string>, std::optional<RatioInterval>> known;
      for (const LedgerRow* r : members) {
        const std::string metric = IntervalMetric(r->metric);
        auto [it, missing] = known.try_emplace({metric, r->load, r->engine_profile});
        if (missing) it->second = others.Ratio(metric, r->load, r->engine_family, r->engine_profile, r->gpu);
        if (!it->second) continue;
        for (const std::string& load : {std::string(), r->load}) count(*r, *it->second, &tallies[{metric, load}]);
      }
    }
  };
  const auto inside = [](const LedgerRow& r, const RatioInterval& i) {
    const double ratio = r.measured / *r.predicted;
    return i.low <= ratio && ratio <= i.high;
  };
  judge(CampaignOf, [&](const LedgerRow& r, const RatioInterval& i, Tally* t) {
    ++t->values;
    t->model += inside(r, i);
    t->widths.push_back(i.high / i.low);
  });
  judge(ServerOf, [&](const LedgerRow& r, const RatioInterval& i, Tally* t) {
    ++t->server_values;
    t->server += inside(r, i);
  });
  std::vector<IntervalCoverage> out;
  for (const auto& [key, t] : tallies) {
    IntervalCoverage c;
    c.metric = key.first;
    c.load = key.second;
    c.values = t.values;
    c.new_model = static_cast<double>(t.model) / static_cast<double>(t.values);
    c.new_engine = static_cast<double>(t.server) / static_cast<double>(t.server_values);
    c.width = QuantileOf(t.widths, 0.5);
    out.push_back(std::move(c));
  }
  return out;
}

}  // namespace simrun
