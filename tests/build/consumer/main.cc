// Uses the installed library as an outside program does: headers as simrun/<folder>/..., one target to link.
#include <cstdio>
#include <string>

#include "simrun/sim/simulation.h"

int main() {
  using namespace simrun::literals;
  const absl::StatusOr<simrun::Scenario> scenario = simrun::Scenario::FromYaml(R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
workload: {requests: 100, arrivals: {poisson: {rate: 5 /s}}, input_tokens: 500, output_tokens: 50}
)");
  const absl::StatusOr<simrun::Report> report = simrun::Simulate(scenario);
  if (!report.ok() || report->requests.completed != 100) {
    std::fprintf(stderr, "%s\n", report.ok() ? "not all requests completed" : std::string(report.status().message()).c_str());
    return 1;
  }
  auto live = simrun::Simulation::Create(scenario);
  if (!live.ok() || !(*live)->Submit({.at = 0_s, .input = 1200_tok, .output = 300_tok}).ok()) return 1;
  while ((*live)->NextEventTime() < 60_s) {
    if (!(*live)->AdvanceTo((*live)->NextEventTime()).ok()) return 1;
  }
  if ((*live)->Snapshot().requests.completed != 1) return 1;
  std::printf("simrun is installed and usable: mean TTFT %.1f ms\n", 1e3 * report->ttft.mean.value());
  return 0;
}
