// Compares eight ways to serve Llama 3.1 70B on one DGX H100, without leaving the process.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "simrun/base/quantity_text.h"
#include "simrun/sim/simulation.h"

namespace {

constexpr char kScenario[] = R"(
model: llama-3.1-70b
hardware: {node: dgx-h100}
plan: {tp: 8}
workload:
  requests: 3000
  arrivals: {poisson: {rate: 12 /s}}
  input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}
  output_tokens: {lognormal: {mean: 211, p99: 601, max: 2048}}
slo: {ttft: 500 ms, tpot: 50 ms}
)";

struct Candidate {
  const char* plan;      // the value of the `plan:` section
  absl::StatusOr<simrun::Report> report;
};

int Failed(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main() {
  const absl::StatusOr<simrun::Scenario> base = simrun::Scenario::FromYaml(kScenario);
  if (!base.ok()) return Failed(base.status());

  std::vector<Candidate> candidates;
  for (const char* plan : {
           "{tp: 8}",
           "{tp: 4, replicas: 2}",
           "{tp: 4, pp: 2}",
           "{tp: 2, pp: 2, replicas: 2}",
           "{tp: 8, weights: fp8}",
           "{tp: 4, replicas: 2, weights: fp8}",
           "{tp: 2, replicas: 4, weights: fp8}",
           "{tp: 1, replicas: 8, weights: fp8}",
       }) {
    // A scenario is a value: With returns a changed copy, checked like a file. Simulate passes its error on.
    candidates.push_back({plan, simrun::Simulate(base->With("plan", plan))});
  }

  std::printf("%-36s %10s %10s %8s %9s %9s\n", "plan", "TTFT p99", "TPOT p99", "in SLO", "J/token", "USD/Mtok");
  const Candidate* best = nullptr;
  for (const Candidate& c : candidates) {
    if (!c.report.ok()) {
      const std::string message(c.report.status().message());
      std::printf("%-36s %s\n", c.plan, message.substr(0, message.find('\n')).c_str());
      continue;
    }
    const simrun::Report& r = *c.report;
    std::printf("%-36s %10s %10s %6.1f %% %9.3f %9.2f\n", c.plan, Human(r.ttft.p99).c_str(), Human(r.tpot.p99).c_str(),
                r.goodput.slo_attainment * 100, r.energy.per_output_token.value(), r.cost.usd_per_million_output_tokens.value());
    if (best == nullptr || r.goodput.slo_attainment > best->report->goodput.slo_attainment) best = &c;
  }
  if (best != nullptr) std::printf("\nmost requests within the targets: %s\n", best->plan);
  return 0;
}
