// Scenarios for tests, from YAML text.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "sim/simulation.h"

namespace simrun {

// The scenario of a text with some settings changed; a failure of the test when it is refused.
inline absl::StatusOr<Scenario> ScenarioOf(const std::string& yaml, const std::vector<std::pair<std::string, std::string>>& changes = {}) {
  absl::StatusOr<Scenario> s = Scenario::FromYaml(yaml);
  for (const auto& [path, value] : changes) {
    if (s.ok()) s = s->With(path, value);
  }
  EXPECT_TRUE(s.ok()) << s.status().message();
  return s;
}

// Its report; an empty one and a failure of the test when it does not run.
inline Report ReportOf(const absl::StatusOr<Scenario>& scenario, StepCostModel* cost = nullptr) {
  SimulateOptions options;
  options.step_cost = cost;
  options.auto_replications = false;
  absl::StatusOr<Report> report = Simulate(scenario, std::move(options));
  EXPECT_TRUE(report.ok()) << report.status().message();
  return report.ok() ? *std::move(report) : Report();
}

// report.json without what may differ between two runs of equal results: real time, and how it was spent.
inline std::string ResultsOf(Report report) {
  report.simulation.wall_s = report.simulation.fast_forwarded = report.simulation.events = 0;
  return report.ToJson();
}

inline bool Warns(const Report& report, const std::string& text) {
  for (const std::string& w : report.warnings) {
    if (w.find(text) != std::string::npos) return true;
  }
  return false;
}

}  // namespace simrun
