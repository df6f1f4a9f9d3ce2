#include "planner/metrics.h"

#include <algorithm>
#include <array>
#include <utility>
#include <cmath>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun::planner {
namespace {

// The six figures of one latency. The member is a template argument so that a plain function pointer can name it.
template <LatencySummary Report::* kMember>
void AddLatency(const std::string& name, std::vector<Metric>* out) {
  out->push_back({name + ".mean_s", false, [](const Report& r) { return (r.*kMember).mean.value(); }});
  out->push_back({name + ".p50_s", false, [](const Report& r) { return (r.*kMember).p50.value(); }});
  out->push_back({name + ".p90_s", false, [](const Report& r) { return (r.*kMember).p90.value(); }});
  out->push_back({name + ".p95_s", false, [](const Report& r) { return (r.*kMember).p95.value(); }});
  out->push_back({name + ".p99_s", false, [](const Report& r) { return (r.*kMember).p99.value(); }});
  out->push_back({name + ".max_s", false, [](const Report& r) { return (r.*kMember).max.value(); }});
}

double Share(const Report& r, const char* name) {
  const auto it = r.bottleneck.find(name);
  return it == r.bottleneck.end() ? 0 : it->second;
}

std::vector<Metric> MakeMetrics() {
  std::vector<Metric> m;
  m.push_back({"gpus", false, [](const Report& r) { return static_cast<double>(r.plan.gpus); }});
  m.push_back({"requests.arrived", true, [](const Report& r) { return static_cast<double>(r.requests.arrived); }});
  m.push_back({"requests.completed", true, [](const Report& r) { return static_cast<double>(r.requests.completed); }});
  m.push_back({"requests.rejected", false, [](const Report& r) { return static_cast<double>(r.requests.rejected); }});
  m.push_back({"requests.preemptions", false, [](const Report& r) { return static_cast<double>(r.requests.preemptions); }});
  AddLatency<&Report::ttft>("ttft", &m);
  AddLatency<&Report::tpot>("tpot", &m);
  AddLatency<&Report::itl>("itl", &m);
  AddLatency<&Report::e2e>("e2e", &m);
  AddLatency<&Report::queue_delay>("queue_delay", &m);
  m.push_back({"throughput.requests_per_s", true, [](const Report& r) { return r.throughput.requests_per_s; }});
  m.push_back({"throughput.input_tokens_per_s", true, [](const Report& r) { return r.throughput.input_tokens_per_s; }});
  m.push_back({"throughput.output_tokens_per_s", true, [](const Report& r) { return r.throughput.output_tokens_per_s; }});
  m.push_back({"goodput.slo_attainment", true, [](const Report& r) { return r.goodput.slo_attainment; }});
  m.push_back({"goodput.requests_per_s", true, [](const Report& r) { return r.goodput.requests_per_s; }});
  m.push_back({"energy.total_j", false, [](const Report& r) { return r.energy.total.value(); }});
  m.push_back({"energy.per_output_token_j", false, [](const Report& r) { return r.energy.per_output_token.value(); }});
  m.push_back({"energy.per_request_j", false, [](const Report& r) { return r.energy.per_request.value(); }});
  m.push_back({"energy.mean_power_w", false, [](const Report& r) { return r.energy.mean_power.value(); }});
  m.push_back({"energy.carbon_g", false, [](const Report& r) { return r.energy.carbon_g; }});
  m.push_back({"cost.usd", false, [](const Report& r) { return r.cost.usd.value(); }});
  m.push_back({"cost.usd_per_million_output_tokens", false,
               [](const Report& r) { return r.cost.usd_per_million_output_tokens.value(); }});
  m.push_back({"cost.usd_per_hour", false, [](const Report& r) { return r.cost.usd_per_hour; }});
  m.push_back({"memory.weights_bytes", false, [](const Report& r) { return r.memory.weights.value(); }});
  m.push_back({"memory.kv_capacity_tokens", true, [](const Report& r) { return r.memory.kv_capacity_tokens; }});
  m.push_back({"memory.kv_peak_fraction", false, [](const Report& r) { return r.memory.kv_peak_fraction; }});
  m.push_back({"utilization.engine_busy", true, [](const Report& r) { return r.utilization.engine_busy; }});
  m.push_back({"utilization.stage_busy", true, [](const Report& r) { return r.utilization.stage_busy; }});
  m.push_back({"utilization.mean_batch", true, [](const Report& r) { return r.utilization.mean_batch; }});
  m.push_back({"utilization.mfu", true, [](const Report& r) { return r.utilization.mfu; }});
  m.push_back({"bottleneck.compute", false, [](const Report& r) { return Share(r, "compute"); }});
  m.push_back({"bottleneck.memory_bandwidth", false, [](const Report& r) { return Share(r, "memory_bandwidth"); }});
  m.push_back({"bottleneck.serial_depth", false, [](const Report& r) { return Share(r, "serial_depth"); }});
  m.push_back({"bottleneck.link", false, [](const Report& r) { return Share(r, "link"); }});
  m.push_back({"bottleneck.kernel_launch", false, [](const Report& r) { return Share(r, "kernel_launch"); }});
  m.push_back({"bottleneck.host", false, [](const Report& r) { return Share(r, "host"); }});
  m.push_back({"bottleneck.waiting", false, [](const Report& r) { return Share(r, "waiting"); }});
  m.push_back({"saturated", false, [](const Report& r) {
                 const bool any = std::any_of(r.warnings.begin(), r.warnings.end(),
                                              [](const std::string& w) { return w.rfind("saturated:", 0) == 0; });
                 return any ? 1.0 : 0.0;
               }});
  m.push_back({"simulation.simulated_s", false, [](const Report& r) { return r.simulation.simulated_s; }});
  m.push_back({"simulation.iterations", false, [](const Report& r) { return r.simulation.iterations; }});
  return m;
}

}  // namespace

const std::vector<Metric>& Metrics() {
  static const std::vector<Metric>* const metrics = new std::vector<Metric>(MakeMetrics());
  return *metrics;
}

absl::StatusOr<const Metric*> FindMetric(std::string_view name) {
  static constexpr std::array<std::string_view, 6> kUnits = {"", "_s", "_j", "_w", "_g", "_bytes"};
  for (const Metric& m : Metrics()) {
    for (const std::string_view unit : kUnits) {
      if (m.name.size() == name.size() + unit.size() && std::string_view(m.name).substr(0, name.size()) == name &&
          std::string_view(m.name).substr(name.size()) == unit) {
        return &m;
      }
    }
  }
  // Names may be given without their unit; so may those that were nearly hit.
  std::vector<std::string> names, without_unit;
  for (const Metric& m : Metrics()) {
    names.push_back(m.name);
    for (const std::string_view unit : kUnits) {
      if (!unit.empty() && m.name.ends_with(unit)) without_unit.push_back(m.name.substr(0, m.name.size() - unit.size()));
    }
  }
  std::string hint = NameHint(name, names);
  if (hint.find("did you mean") == std::string::npos) {
    if (std::string shorter = NameHint(name, without_unit); shorter.find("did you mean") != std::string::npos) hint = std::move(shorter);
  }
  return absl::NotFoundError(fmt::format("unknown metric \"{}\"; {}", name, hint));
}

std::vector<size_t> ParetoFront(const std::vector<std::vector<double>>& points, const std::vector<bool>& higher_is_better) {
  const size_t metrics = higher_is_better.size();
  // Smaller is better from here on.
  const auto key = [&](size_t i, size_t m) { return higher_is_better[m] ? -points[i][m] : points[i][m]; };
  std::vector<size_t> order;
  for (size_t i = 0; i < points.size(); ++i) {
    if (std::all_of(points[i].begin(), points[i].end(), [](double v) { return std::isfinite(v); })) order.push_back(i);
  }
  const auto compare = [&](size_t a, size_t b) {
    for (size_t m = 0; m < metrics; ++m) {
      if (key(a, m) != key(b, m)) return key(a, m) < key(b, m) ? -1 : 1;
    }
    return 0;
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return compare(a, b) < 0; });
  // In this order a point can only be beaten by one before it.
  std::vector<size_t> front;
  for (const size_t i : order) {
    const bool beaten = std::any_of(front.begin(), front.end(), [&](size_t f) {
      for (size_t m = 0; m < metrics; ++m) {
        if (key(f, m) > key(i, m)) return false;
      }
      return compare(f, i) != 0;
    });
    if (!beaten) front.push_back(i);
  }
  return front;
}

}  // namespace simrun::planner
