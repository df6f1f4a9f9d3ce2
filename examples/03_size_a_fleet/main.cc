// For three kinds of traffic: which GPU, how many per engine, how many engines, at what price.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "simrun/planner/capacity.h"
#include "simrun/planner/plan_space.h"

namespace {

struct Mix {
  const char* name;
  const char* workload;
};
constexpr Mix kMixes[] = {
    {"creation", "{requests: 400, arrivals: {poisson: {rate: 6 /s}}, input_tokens: 300, output_tokens: {uniform: {min: 400, max: 1200}}}"},
    {"chat", "{requests: 400, arrivals: {poisson: {rate: 20 /s}}, input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, "
             "output_tokens: {lognormal: {mean: 211, p99: 601, max: 2048}}}"},
    {"summarisation", "{requests: 400, arrivals: {poisson: {rate: 8 /s}}, input_tokens: {uniform: {min: 2000, max: 6000}}, output_tokens: 150}"},
};
constexpr const char* kGpus[] = {"a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb"};

int Failed(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main() {
  namespace planner = simrun::planner;
  const auto catalog = std::make_shared<const simrun::Catalog>(simrun::BuiltInCatalog());
  planner::CapacityOptions limits;
  limits.most_runs = 2;      // seeds per fleet size
  limits.max_replicas = 32;
  for (const char* slo : {"ttft.p95=2 s", "tpot.p95=40 ms"}) {
    const absl::StatusOr<planner::SloTarget> target = planner::ParseSlo(slo);
    if (!target.ok()) return Failed(target.status());
    limits.targets.push_back(*target);
  }

  std::printf("llama-3.1-70b, 95 %% of requests within 2 s to the first token and 40 ms per token\n\n");
  std::printf("%-14s %-16s %6s %9s %6s %10s\n", "traffic", "GPU", "tp x pp", "engines", "GPUs", "USD/h");
  for (const Mix& mix : kMixes) {
    std::optional<planner::CapacityResult> best;
    std::string best_gpu;
    planner::Candidate best_plan;
    for (const char* gpu : kGpus) {
      for (const int engine_gpus : {2, 4, 8}) {
        const auto root = simrun::ParseYaml("model: llama-3.1-70b\nhardware: {gpu: " + std::string(gpu) + "}\nworkload: " + mix.workload, mix.name);
        if (!root.ok()) return Failed(root.status());
        planner::SearchConfig search;
        search.gpus = engine_gpus;
        const auto space = planner::Enumerate(*root, "", catalog, search);
        if (!space.ok()) return Failed(space.status());
        for (const planner::Candidate& plan : space->candidates) {
          // One engine per candidate: how many of them is what is asked next.
          if (!plan.feasible() || plan.replicas > 1) continue;
          const auto fleet = planner::FindCapacity(*plan.scenario, limits);
          if (!fleet.ok()) return Failed(fleet.status());
          if (!fleet->found || (best && fleet->usd_per_hour >= best->usd_per_hour)) continue;
          best = *fleet;
          best_gpu = gpu;
          best_plan = plan;
        }
      }
    }
    if (!best) {
      std::printf("%-14s no fleet meets the limits\n", mix.name);
      continue;
    }
    std::printf("%-14s %-16s %3d x %-2d %8.0f %6d %10.2f\n", mix.name, best_gpu.c_str(), best_plan.tp, best_plan.pp, best->x, best->gpus,
                best->usd_per_hour);
  }
}
