// DeepSeek-V3 with one 24 GB card: attention on the GPU, routed experts computed by the CPU where they lie.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "simrun/sim/simulation.h"

namespace {

constexpr const char* kBase = R"(
model: deepseek-v3
hardware: {gpu: rtx-4090, host: xeon-6454s, host_memory: 1 TB}
plan: {weights: q4_k_m}
engine: {profile: ktransformers, server: false}
scheduler: {max_num_seqs: 8, max_model_len: 8192}
workload: {static_batch: 1, input_tokens: 500, output_tokens: 200}
)";

struct Variant {
  const char* name;
  std::vector<std::pair<const char*, const char*>> changes;
};

}  // namespace

int main() {
  const std::vector<Variant> variants = {
      {"as it is: two sockets, 8 of 256 experts", {}},
      {"one socket", {{"hardware.sockets", "1"}, {"hardware.host_memory", "1 TB"}}},
      {"6 experts per token", {{"plan.experts_active", "6"}}},
      {"twice the host memory bandwidth", {{"hardware.host_memory_bandwidth", "614 GB/s"}}},
      {"a GPU with twice the memory bandwidth", {{"hardware.memory_bandwidth", "2016 GB/s"}}},
      {"PCIe 5 instead of 4", {{"hardware.host_link", "pcie5-x16"}}},
      {"experts streamed to a 48 GB card", {{"hardware.memory", "48 GB"}, {"plan.placement", "[{tensors: routed_experts, tier: dram, use: stream}]"}}},
      {"4 sequences at once", {{"workload.static_batch", "4"}}},
  };
  std::printf("DeepSeek-V3 (q4_k_m, 404 GB) on one RTX 4090 and 1 TB of host memory\n\n");
  std::printf("%-40s %9s %9s %10s  %s\n", "", "TTFT", "TPOT", "tokens/s", "bound most by");
  for (const Variant& v : variants) {
    absl::StatusOr<simrun::Scenario> scenario = simrun::Scenario::FromYaml(kBase);
    for (const auto& [path, value] : v.changes) {
      if (scenario.ok()) scenario = scenario->With(path, value);
    }
    const absl::StatusOr<simrun::Report> report = simrun::Simulate(scenario);
    if (!report.ok()) {
      std::fprintf(stderr, "%s: %s\n", v.name, std::string(report.status().message()).c_str());
      return 1;
    }
    const auto most = std::max_element(report->bottleneck.begin(), report->bottleneck.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    std::printf("%-40s %7.2f s %6.0f ms %10.1f  %s %.0f %%\n", v.name, report->ttft.mean.value(), 1e3 * report->tpot.mean.value(),
                static_cast<double>(report->requests.completed) / report->tpot.mean.value(),
                most->first.c_str(), 100 * most->second);
  }
  return 0;
}
