// Mixtral-8x7B in 4 bits with half of its experts in the memory of one 24 GB card: how should the others run?
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "simrun/sim/simulation.h"

namespace {

constexpr const char* kBase = R"(
model: mixtral-8x7b
hardware: {gpu: rtx-4090, host: xeon-6454s, sockets: 1}
plan:
  weights: q4_k_m
  placement: [{tensors: embedding, tier: dram}, {tensors: routed_experts, share: 0.5, tier: dram, use: compute}]
engine: {profile: vllm-0.19, server: false, cpu_memory_efficiency: 0.7}
scheduler: {max_num_seqs: 8, max_model_len: 4096, max_num_batched_tokens: 2048}
workload: {static_batch: 1, batches: 4, input_tokens: 500, output_tokens: 200}
)";

struct Variant {
  const char* name;
  std::vector<std::pair<const char*, const char*>> changes;
};

}  // namespace

int main() {
  const std::vector<Variant> variants = {
      {"static: the CPU runs what is not on the GPU", {{"scheduler.experts", "static"}}},
      {"stream, least recently used goes", {{"scheduler.experts", "{policy: stream, cache: lru}"}}},
      {"stream, lowest score goes", {{"scheduler.experts", "{policy: stream, cache: score}"}}},
      {"stream, farthest next use goes (bound)", {{"scheduler.experts", "{policy: stream, cache: oracle}"}}},
      {"hybrid, the most popular stay", {{"scheduler.experts", "hybrid"}}},
      {"hybrid, lowest score goes", {{"scheduler.experts", "{policy: hybrid, cache: score}"}}},
      {"hybrid, lowest score, prefetch by impact", {{"scheduler.experts", "{policy: hybrid, cache: score, prefetch: impact}"}}},
      {"placement: optimize (in expectation)", {{"plan.placement", "optimize"}}},
  };
  std::printf("Mixtral-8x7B (q4_k_m, 28 GB) on one RTX 4090, half of the experts in its memory\n\n");
  std::printf("%-44s %-23s %-10s %s\n", "", "one sequence", "eight", "expert uses (one sequence)");
  std::printf("%-44s %10s %12s %10s  %s\n", "", "TTFT", "TPOT", "TPOT", "hit / fetched / on the CPU");
  for (const Variant& v : variants) {
    std::string text;
    for (const char* sequences : {"1", "8"}) {
      absl::StatusOr<simrun::Scenario> scenario = simrun::Scenario::FromYaml(kBase);
      for (const auto& [path, value] : v.changes) {
        if (scenario.ok()) scenario = scenario->With(path, value);
      }
      if (scenario.ok()) scenario = scenario->With("workload.static_batch", sequences);
      const absl::StatusOr<simrun::Report> report = simrun::Simulate(scenario);
      if (!report.ok()) {
        std::fprintf(stderr, "%s: %s\n", v.name, std::string(report.status().message()).c_str());
        return 1;
      }
      if (std::string(sequences) == "1") {
        std::printf("%-44s %8.2f s %9.1f ms", v.name, report->ttft.mean.value(), 1e3 * report->tpot.mean.value());
        const simrun::Report::Experts& e = report->experts;
        char line[64] = "not followed one by one";
        if (e.uses > 0) std::snprintf(line, sizeof line, "%.0f %% / %.0f %% / %.0f %%", 100 * e.hit_rate, 100 * e.fetched, 100 * e.on_cpu);
        text = line;
      } else {
        std::printf(" %7.1f ms  %s\n", 1e3 * report->tpot.mean.value(), text.c_str());
      }
    }
  }
  return 0;
}
