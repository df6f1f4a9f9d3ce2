// The same plans on three hosts: how much a coupled link is worth, and how fast a link would have to be.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "simrun/planner/break_even.h"
#include "simrun/sim/resolved.h"
#include "simrun/sim/simulation.h"

namespace {

struct Machine {
  const char* name;
  const char* hardware;
};
constexpr Machine kMachines[] = {
    {"Xeon + A100 80 GB", "{gpu: a100-pcie-80gb, host: xeon-8380, host_memory: 512 GB, count: 1}"},
    {"Xeon + H100 PCIe", "{gpu: h100-pcie-80gb, host: xeon-8480c, host_memory: 512 GB, count: 1}"},
    {"GH200", "{node: gh200}"},
};
// Most experts in host memory, all else in GPU memory; 16 sequences.
struct Job {
  const char* name;
  const char* model;
  const char* weights;
  const char* share;
  const char* target;
};
constexpr Job kJobs[] = {
    {"Mixtral-8x7B, bf16, half of the experts", "mixtral-8x7b", "bf16", "0.5", "tpot.mean=250 ms"},
    {"DeepSeek-V3, q4_k_m, 90 % of the experts", "deepseek-v3", "q4_k_m", "0.9", "tpot.mean=2 s"},
};

int Failed(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main() {
  namespace planner = simrun::planner;
  for (const Job& job : kJobs) {
    const absl::StatusOr<planner::SloTarget> target = planner::ParseSlo(job.target);
    if (!target.ok()) return Failed(target.status());
    std::printf("%s in host memory\n", job.name);
    std::printf("  %-20s %12s %14s %14s   %s\n", "", "host link", "streamed", "CPU computes", "link for streaming within the target");
    for (const Machine& machine : kMachines) {
      double tpot[2] = {0, 0};
      planner::BreakEven link;
      double bandwidth = 0;
      for (const bool compute : {false, true}) {
        const std::string text = "model: " + std::string(job.model) + "\nhardware: " + machine.hardware + "\nplan: {weights: " + job.weights +
                                 ", placement: [{tensors: routed_experts, tier: dram, share: " + job.share +
                                 (compute ? ", use: compute" : "") +
                                 "}]}\nscheduler: {max_num_seqs: 16, max_model_len: 4096, max_num_batched_tokens: 2048}\n"
                                 "workload: {static_batch: 16, input_tokens: 512, output_tokens: 32}\n";
        const absl::StatusOr<simrun::Scenario> scenario = simrun::Scenario::FromYaml(text);
        const absl::StatusOr<simrun::Report> report = simrun::Simulate(scenario);
        if (!report.ok()) return Failed(report.status());
        tpot[compute ? 1 : 0] = report->tpot.mean.value();
        if (compute) continue;
        bandwidth = scenario->resolved().machine.host_link.bandwidth.value();
        const auto found = planner::FindBreakEven(*scenario, {*target});
        if (!found.ok()) return Failed(found.status());
        link = *found;
      }
      std::printf("  %-20s %7.0f GB/s %11.0f ms %11.0f ms   ", machine.name, bandwidth / 1e9, 1e3 * tpot[0], 1e3 * tpot[1]);
      if (link.found) {
        std::printf("%.0f GB/s for %s\n", link.bandwidth.value() / 1e9, job.target);
      } else {
        std::printf("none: host memory is too slow\n");
      }
    }
    std::printf("\n");
  }
  return 0;
}
