// Every parameter moves something: one row per parameter, two values, a result and the direction in which it moves.
// A parameter that acts on nothing has no row that passes, and one without a row fails the completeness test.
#include <functional>
#include <map>
#include <set>

#include "gtest/gtest.h"
#include "sim/resolved.h"
#include "tests/support/scenarios.h"

namespace simrun {
namespace {

// The bases in which the knobs are turned.
const std::map<std::string, std::string>& Bases() {
  static const auto* const bases = new std::map<std::string, std::string>{
      // One GPU, moderate load.
      {"one", R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
workload: {requests: 120, arrivals: {poisson: {rate: 6 /s}}, input_tokens: 900, output_tokens: 60}
)"},
      // Prompts of 6000 tokens, one at a time: compute decides.
      {"prompts", R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
scheduler: {max_num_batched_tokens: 8192}
workload: {concurrency: 1, requests: 10, input_tokens: 6000, output_tokens: 2}
)"},
      // Two GPUs share every matrix.
      {"pair", R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
plan: {tp: 2}
scheduler: {max_num_batched_tokens: 8192}
workload: {concurrency: 2, requests: 20, input_tokens: 4000, output_tokens: 20}
)"},
      // Sixteen GPUs on two nodes share every matrix.
      {"nodes", R"(
model: llama-3.1-70b
hardware: {gpu: h100-sxm-80gb, gpus_per_node: 8}
plan: {tp: 8, pp: 2}
workload: {concurrency: 4, requests: 12, input_tokens: 4000, output_tokens: 20}
)"},
      {"waits", R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {profile: trt-llm}
workload: {concurrency: 4, requests: 40, input_tokens: {uniform: {min: 500, max: 900}}, output_tokens: {uniform: {min: 40, max: 90}}}
)"},
      // KV memory for two sequences and a half; ten want it.
      {"tight", R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
engine: {kv_blocks: 200}
workload: {concurrency: 10, requests: 60, input_tokens: 800, output_tokens: 500}
)"},
      {"experts", R"(
model: qwen3-30b-a3b
hardware: {gpu: h100-sxm-80gb}
plan: {tp: 2, ep: 2}
workload: {concurrency: 16, requests: 48, input_tokens: 1000, output_tokens: 60}
)"},
      {"mxfp4_experts", R"(
model: gpt-oss-20b
hardware: {gpu: h100-sxm-80gb}
workload: {concurrency: 8, requests: 16, input_tokens: 4000, output_tokens: 30}
)"},
      // Weights come from host memory in every step.
      {"streams", R"(
model: llama-3.1-8b
hardware: {gpu: rtx-4090, host: xeon-8380}
plan: {placement: {rules: [{tensors: weights, tier: dram}]}}
scheduler: {max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 2048}
workload: {concurrency: 4, requests: 8, input_tokens: 200, output_tokens: 10}
)"},
      // Experts are computed by the CPU.
      {"host_experts", R"(
model: mixtral-8x7b
hardware: {gpu: rtx-4090, host: xeon-8380}
plan: {placement: {rules: [{tensors: routed_experts, tier: dram, use: compute}]}}
scheduler: {max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 2048}
workload: {concurrency: 4, requests: 8, input_tokens: 200, output_tokens: 10}
)"},
      {"half_experts", R"(
model: mixtral-8x7b
hardware: {gpu: a100-sxm-80gb, host: xeon-8380}
plan: {placement: {rules: [{tensors: routed_experts, share: 0.5, tier: dram, use: compute}]}}
scheduler: {max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 2048, experts: {policy: static}}
workload: {concurrency: 1, requests: 4, input_tokens: 500, output_tokens: 40}
)"},
      {"slow_cpu", R"(
model: deepseek-v2-lite
hardware: {gpu: a100-sxm-80gb, host: xeon-8380}
plan: {placement: {rules: [{tensors: routed_experts, share: 0.75, tier: dram, use: compute}]}}
engine: {cpu_memory_efficiency: 0.1}
scheduler: {max_num_seqs: 64, max_model_len: 4096, max_num_batched_tokens: 2048, experts: {policy: static}}
workload: {concurrency: 1, requests: 3, input_tokens: 100, output_tokens: 40}
)"},
      // More requests than the engine can take.
      {"overload", R"(
model: llama-3.1-8b
hardware: {gpu: h100-sxm-80gb}
scheduler: {max_num_seqs: 8}
workload: {requests: 300, arrivals: {poisson: {rate: 20 /s}}, input_tokens: {uniform: {min: 10, max: 3000}}, output_tokens: {uniform: {min: 1, max: 200}}, priorities: {levels: 2}, deadline: 5 s}
)"},
  };
  return *bases;
}

using Changes = std::vector<std::pair<std::string, std::string>>;
using Metric = double (*)(const Report&);

double Ttft(const Report& r) { return r.ttft.mean.value(); }
double Tpot(const Report& r) { return r.tpot.mean.value(); }
double E2e(const Report& r) { return r.e2e.mean.value(); }
double Queue(const Report& r) { return r.queue_delay.mean.value(); }
double Output(const Report& r) { return r.throughput.output_tokens_per_s; }
double Joule(const Report& r) { return r.energy.total.value(); }
double Power(const Report& r) { return r.energy.mean_power.value(); }
double Usd(const Report& r) { return r.cost.usd.value(); }
double TtftWidth(const Report& r) { return r.intervals.at("ttft.mean_s").high / r.intervals.at("ttft.mean_s").low; }
double Carbon(const Report& r) { return r.energy.carbon_g; }
double KvTokens(const Report& r) { return r.memory.kv_capacity_tokens; }
double KvPeak(const Report& r) { return r.memory.kv_peak_fraction * r.memory.kv_capacity_tokens; }
double Link(const Report& r) { return r.bottleneck.at("link"); }
double Waiting(const Report& r) { return r.bottleneck.at("waiting"); }
double Rejected(const Report& r) { return static_cast<double>(r.requests.rejected); }
double Preemptions(const Report& r) { return static_cast<double>(r.requests.preemptions); }
double Attained(const Report& r) { return r.goodput.slo_attainment; }
double Measured(const Report& r) { return static_cast<double>(r.ttft.count); }
double Arrived(const Report& r) { return static_cast<double>(r.requests.arrived); }
double Inputs(const Report& r) { return static_cast<double>(r.requests.input_tokens); }
double Outputs(const Report& r) { return static_cast<double>(r.requests.output_tokens); }
double HitRate(const Report& r) { return r.prefix_cache.hit_rate; }
double Simulated(const Report& r) { return r.simulation.simulated_s; }

struct Knob {
  std::string path, low, high;
  const char* metric_name;
  Metric metric;
  int direction;         // sign of metric(high) - metric(low)
  std::string base;
  Changes changes = {};  // made to the base first
  std::string at = {};   // where the value is written, when `path` names a field of a list
};
#define M(name) #name, &name

const Changes kOnCxl = {{"hardware.cxl", "{capacity: 256 GB}"}, {"hardware.host_link", "pcie5-x16"}, {"plan.placement", "[{tensors: weights, tier: cxl}]"}};
const Changes kOnNvme = {{"hardware.nvme", "{capacity: 1 TB}"}, {"plan.placement", "[{tensors: weights, tier: nvme}]"}};

std::vector<Knob> Knobs() {
  return {
      // hardware
      {"hardware.node", "dgx-a100", "dgx-h100", M(Tpot), -1, "one", {{"hardware", "{node: dgx-a100}"}}},
      {"hardware.gpu", "a100-sxm-80gb", "h100-sxm-80gb", M(Tpot), -1, "one"},
      {"hardware.cpu", "xeon-e5-2698v4", "epyc-9654", M(Tpot), -1, "one", {{"hardware", "{cpu: epyc-9654}"}, {"engine", "{profile: cpu}"}}},
      {"hardware.gpus_per_node", "4", "8", M(Ttft), -1, "nodes", {{"plan", "{tp: 8}"}}},
      {"hardware.host", "xeon-e5-2698v4", "ryzen-7950x", M(Tpot), -1, "one", {{"engine", "{profile: eager-2023}"}}},
      {"hardware.link", "pcie4-x16", "nvlink4", M(Ttft), -1, "pair"},
      {"hardware.peer_to_peer", "false", "true", M(Ttft), -1, "pair", {{"hardware", "{gpu: l40s-48gb}"}, {"plan", "{tp: 4}"}}},
      {"hardware.network", "ethernet-100", "ib-ndr-400", M(Ttft), -1, "nodes"},
      {"hardware.memory_bandwidth", "2 TB/s", "4 TB/s", M(Tpot), -1, "one"},
      {"hardware.memory", "40 GB", "80 GB", M(KvTokens), +1, "one"},
      {"hardware.peak_flops", "400 TFLOP/s", "1200 TFLOP/s", M(Ttft), -1, "prompts"},
      {"hardware.link_bandwidth", "50 GB/s", "450 GB/s", M(Ttft), -1, "pair"},
      {"hardware.host_link_bandwidth", "8 GB/s", "64 GB/s", M(Link), -1, "tight", {{"scheduler.preemption", "swap"}}},
      {"hardware.network_bandwidth", "5 GB/s", "100 GB/s", M(Ttft), -1, "nodes"},
      {"hardware.power_limit", "250 W", "700 W", M(Ttft), -1, "prompts"},
      {"hardware.gpu_clock", "810 MHz", "1980 MHz", M(Ttft), -1, "prompts"},
      {"hardware.price", "2 USD/h", "4 USD/h", M(Usd), +1, "one"},
      {"hardware.electricity_usd_per_kwh", "0", "0.2", M(Usd), +1, "one"},
      {"hardware.region", "hydro", "coal", M(Carbon), +1, "one"},
      {"hardware.carbon_g_per_kwh", "100", "500", M(Carbon), +1, "one"},
      {"hardware.pue", "1.1", "1.5", M(Carbon), +1, "one"},
      // plan
      {"plan.tp", "1", "2", M(Tpot), -1, "one"},
      {"plan.pp", "1", "2", M(KvTokens), +1, "one"},
      {"plan.dp", "1", "2", M(KvTokens), +1, "experts", {{"plan", "{tp: 2}"}}},
      // Experts that stay whole are chosen unevenly: ranks wait for the busiest one.
      {"plan.ep", "1", "2", M(Waiting), +1, "experts"},
      {"plan.ffn_tp", "2", "1", M(KvTokens), -1, "pair"},
      {"plan.layers_per_stage", "[16, 16]", "[24, 8]", M(KvTokens), -1, "one", {{"plan.pp", "2"}}},
      {"plan.replicas", "1", "2", M(Queue), -1, "overload"},
      {"plan.weights", "fp8", "bf16", M(Tpot), +1, "one"},
      {"plan.activations", "fp8", "bf16", M(Ttft), +1, "prompts", {{"plan", "{weights: fp8}"}}},
      {"plan.kv_cache", "fp8", "bf16", M(KvTokens), -1, "one"},
      // memory outside the GPUs
      {"hardware.host_link", "pcie3-x16", "pcie5-x16", M(Tpot), -1, "streams"},
      {"hardware.sockets", "1", "2", M(Tpot), -1, "host_experts"},
      {"hardware.host_memory", "256 GB", "512 GB", M(KvTokens), +1, "streams", {{"plan.placement", "[{tensors: kv, tier: dram, use: compute}]"}}},
      {"hardware.host_memory_bandwidth", "100 GB/s", "200 GB/s", M(Tpot), -1, "host_experts"},
      {"hardware.cxl.link", "cxl-x8-gen5", "cxl-x16-gen5", M(Tpot), -1, "streams", kOnCxl},
      {"hardware.cxl.cards", "1", "2", M(Tpot), -1, "streams", kOnCxl},
      {"hardware.cxl.capacity", "100 GB", "200 GB", M(KvTokens), +1, "streams", {{"hardware.cxl", "{capacity: 1 GB}"}, {"plan.placement", "[{tensors: kv, tier: cxl, use: compute}]"}}},
      {"hardware.cxl.price", "0 USD/h", "1 USD/h", M(Usd), +1, "streams", kOnCxl},
      {"hardware.nvme.link", "nvme-gen4-x4", "nvme-gen5-x4", M(Tpot), -1, "streams", kOnNvme},
      {"hardware.nvme.drives", "1", "2", M(Tpot), -1, "streams", kOnNvme},
      {"hardware.nvme.capacity", "1 GB", "2 GB", M(KvTokens), +1, "streams", {{"hardware.nvme", "{capacity: 1 GB}"}, {"plan.placement", "[{tensors: kv, tier: nvme}]"}}},
      {"hardware.nvme.price", "0 USD/h", "1 USD/h", M(Usd), +1, "streams", kOnNvme},
      {"hardware.remote_memory", "1 GB", "2 GB", M(KvTokens), +1, "streams", {{"hardware.remote_memory", "1 GB"}, {"plan.placement", "[{tensors: kv, tier: remote}]"}}},
      // A full card: room for the KV cache is made by moving weights out.
      {"plan.placement.policy", "gpu", "auto", M(KvTokens), +1, "streams", {{"hardware.memory", "20 GB"}, {"plan.placement", "{policy: gpu}"}}},
      {"plan.placement.rules", "[{tensors: weights, tier: dram, share: 0.2}]", "[{tensors: weights, tier: dram}]", M(Tpot), +1, "streams"},
      {"plan.placement.rules[].tensors", "[{tensors: attention, tier: dram}]", "[{tensors: dense_ffn, tier: dram}]", M(Tpot), +1, "streams", {}, "plan.placement"},
      {"plan.placement.rules[].layers", "[{tensors: weights, tier: dram, layers: 0-3}]", "[{tensors: weights, tier: dram, layers: \"0-3,10-20\"}]", M(Tpot), +1, "streams", {}, "plan.placement"},
      {"plan.placement.rules[].share", "[{tensors: kv, tier: dram, share: 0.2}]", "[{tensors: kv, tier: dram, share: 0.9}]", M(KvTokens), +1, "streams", {}, "plan.placement"},
      {"plan.placement.rules[].tier", "[{tensors: weights, tier: dram}]", "[{tensors: weights, tier: nvme}]", M(Tpot), +1, "streams", kOnNvme, "plan.placement"},
      {"plan.placement.rules[].use", "[{tensors: routed_experts, tier: dram, use: stream}]", "[{tensors: routed_experts, tier: dram, use: compute}]", M(Tpot), -1, "host_experts", {}, "plan.placement"},
      {"plan.placement.window", "1", "2", M(Tpot), -1, "streams"},
      // Attention by the CPU over one half of the sequences while the GPU works on the other.
      {"plan.placement.token_groups", "1", "2", M(Tpot), -1, "streams",
       {{"plan.placement", "{rules: [{tensors: kv, tier: dram, use: compute}]}"}, {"workload", "{concurrency: 32, requests: 32, input_tokens: 2000, output_tokens: 20}"}}},
      {"plan.experts_active", "1", "2", M(Tpot), +1, "host_experts"},
      {"engine.cpu_operator", "10 us", "1 ms", M(Tpot), +1, "host_experts"},
      {"engine.cpu_memory_efficiency", "0.4", "0.9", M(Tpot), -1, "host_experts"},
      {"engine.cpu_compute_efficiency", "0.1", "0.9", M(Ttft), -1, "host_experts"},
      {"engine.link_efficiency", "0.5", "1", M(Tpot), -1, "streams"},
      {"engine.pinned_memory", "false", "true", M(Tpot), -1, "streams"},
      // engine
      {"engine.profile", "ideal", "eager-2023", M(Tpot), +1, "one"},
      {"engine.gpu_memory_utilization", "0.6", "0.95", M(KvTokens), +1, "one"},
      {"engine.kv_blocks", "200", "2000", M(Preemptions), -1, "tight"},
      {"engine.runtime_reserve", "0 GB", "20 GB", M(KvTokens), -1, "one"},
      // A small model: its kernels are shorter than their launches.
      {"engine.cuda_graphs", "false", "true", M(Tpot), -1, "one", {{"model", "llama-3.2-1b"}}},
      {"engine.graph_max_tokens", "0", "512", M(Tpot), -1, "one", {{"model", "llama-3.2-1b"}}},
      {"engine.graph_sizes", "[1, 8, 16, 32]", "[1, 512]", M(Tpot), +1, "one"},
      {"engine.overlap", "false", "true", M(Tpot), -1, "one", {{"engine", "{step_host: 2 ms}"}}},
      {"engine.custom_all_reduce", "false", "true", M(Tpot), -1, "pair"},
      {"engine.fused_all_reduce", "false", "true", M(Tpot), -1, "pair"},
      {"engine.moe_backend", "triton", "marlin", M(Ttft), +1, "mxfp4_experts"},
      {"engine.step_host", "0 ms", "30 ms", M(Tpot), +1, "one"},
      {"engine.sequence_host", "0 ms", "10 ms", M(Tpot), +1, "one"},
      {"engine.launch", "1 us", "50 us", M(Tpot), +1, "one", {{"engine", "{cuda_graphs: false}"}}},
      {"engine.post_step", "0 ms", "5 ms", M(Tpot), +1, "one"},
      {"engine.post_sequence", "0 us", "500 us", M(Tpot), +1, "one"},
      {"engine.server", "false", "true", M(Ttft), +1, "one"},
      {"engine.front_end", "0 ms", "50 ms", M(Ttft), +1, "one"},
      {"engine.sampling_passes", "0", "500", M(Tpot), +1, "one"},
      {"engine.gpu_time_factor", "0.5", "2", M(Tpot), +1, "one"},
      {"engine.expert_imbalance", "1", "3", M(Ttft), +1, "experts", {{"workload.input_tokens", "4000"}}},
      // scheduler
      {"scheduler.policy", "chunked-prefill", "static", M(Queue), +1, "one"},
      {"scheduler.max_num_seqs", "4", "64", M(Queue), -1, "overload"},
      {"scheduler.max_num_batched_tokens", "300", "8192", M(Ttft), -1, "prompts"},
      {"scheduler.block_size", "1", "256", M(KvPeak), +1, "one"},
      {"scheduler.watermark", "0", "0.6", M(Queue), +1, "tight"},
      // Every prompt beside a decode of its neighbour waits.
      {"scheduler.prompt_wait_steps", "0", "20", M(Ttft), +1, "waits"},
      {"scheduler.prompt_wait_fill", "0.05", "0.9", M(Ttft), +1, "waits", {{"scheduler.prompt_wait_steps", "20"}}},
      {"scheduler.prefix_caching", "false", "true", M(Ttft), -1, "one", {{"workload.shared_prefix", "{tokens: 2000}"}}},
      {"scheduler.queue_order", "fcfs", "shortest-job", M(Queue), -1, "overload"},
      {"scheduler.preemption", "recompute", "swap", M(Link), +1, "tight"},
      {"scheduler.swap_space", "0 GB", "16 GB", M(Link), +1, "tight", {{"scheduler.preemption", "swap"}}},
      {"scheduler.router", "random", "least-outstanding", M(Queue), -1, "overload", {{"plan.replicas", "4"}, {"workload.arrivals", "{poisson: {rate: 40 /s}}"}}},
      // 20 system prompts: each replica sees all of them, or a few.
      {"scheduler.kv_offloading_size", "0 GB", "64 GB", M(HitRate), +1, "one",
       {{"engine.kv_blocks", "400"}, {"workload.shared_prefix", "{tokens: 2000, groups: 20}"}}},
      {"scheduler.kv_offloading_fetch", "always", "auto", M(Ttft), -1, "one",
       {{"engine.kv_blocks", "400"}, {"workload.shared_prefix", "{tokens: 2000, groups: 20}"}, {"hardware.host_link_bandwidth", "0.5 GB/s"}, {"scheduler.kv_offloading_size", "64 GB"}}},
      {"scheduler.router", "least-outstanding", "prefix-affinity", M(HitRate), +1, "one",
       {{"plan.replicas", "4"}, {"workload.shared_prefix", "{tokens: 2000, groups: 20}"}}},
      {"scheduler.max_model_len", "900", "1000", M(Rejected), -1, "one"},
      {"scheduler.allow_longer_context", "false", "true", M(Rejected), -1, "one", {{"workload.input_tokens", "140000"}, {"workload.requests", "2"}}},
      // Prompts fill the second stage while the first works on the next ones.
      {"scheduler.micro_batches", "1", "2", M(Output), +1, "prompts", {{"plan.pp", "2"}, {"workload.concurrency", "8"}}},
      // slo, metrics
      {"slo.ttft", "1 ms", "10 s", M(Attained), +1, "one"},
      {"slo.tpot", "1 ms", "1 s", M(Attained), +1, "one"},
      {"metrics.replications", "1", "5", M(TtftWidth), +1, "one"},
      {"metrics.warmup", "0 s", "5 s", M(Measured), -1, "one"},
      // workload
      // Mixtral with half of its experts in host memory, one prompt or sequence at a time.
      {"scheduler.experts.policy", "static", "hybrid", M(Ttft), -1, "half_experts"},
      {"scheduler.experts.cache", "pinned", "oracle", M(Tpot), -1, "half_experts", {{"scheduler.experts", "{policy: stream}"}}},
      {"scheduler.experts.score_rate", "0.001", "1", M(Tpot), -1, "half_experts", {{"scheduler.experts", "{policy: stream, cache: score}"}}},
      // A CPU slow enough for the link to have spare time.
      {"scheduler.experts.prefetch", "none", "next-layer", M(Tpot), -1, "slow_cpu"},
      {"scheduler.experts.prefetch_layers", "1", "4", M(Tpot), -1, "slow_cpu", {{"scheduler.experts", "{policy: static, prefetch: impact, predictor_accuracy: 1}"}}},
      {"scheduler.experts.prefetch_buffer", "1", "6", M(Tpot), -1, "slow_cpu", {{"scheduler.experts", "{policy: static, prefetch: next-layer, predictor_accuracy: 1}"}}},
      {"scheduler.experts.predictor_accuracy", "0.1", "1", M(Tpot), -1, "slow_cpu", {{"scheduler.experts", "{policy: static, prefetch: next-layer}"}}},
      {"scheduler.experts.residents", "arbitrary", "popular", M(Tpot), -1, "half_experts", {{"workload.routing", "{zipf: {exponent: 1}}"}}},
      {"plan.placement.objective", "throughput", "tpot", M(Tpot), -1, "host_experts", {{"plan.placement", "{policy: optimize}"}, {"workload.concurrency", "64"}, {"workload.requests", "64"}}},
      {"workload.requests", "50", "100", M(Arrived), +1, "one"},
      // The more uneven the choices, the longer ranks wait for the busiest.
      {"workload.routing", "uniform", "{gamma: {cv: 0.83}}", M(Waiting), +1, "experts"},
      {"workload.routing", "{gamma: {cv: 0.3}}", "{gamma: {cv: 1.5}}", M(Waiting), +1, "experts"},
      {"workload.routing", "{zipf: {exponent: 0.2}}", "{zipf: {exponent: 1}}", M(Waiting), +1, "experts"},
      {"workload.arrivals", "{poisson: {rate: 2 /s}}", "{poisson: {rate: 40 /s}}", M(Queue), +1, "overload"},
      {"workload.arrivals", "{gamma: {rate: 6 /s, cv: 0.5}}", "{gamma: {rate: 6 /s, cv: 6}}", M(Ttft), +1, "one"},
      {"workload.arrivals", "{constant: {rate: 2 /s}}", "all_at_once", M(Simulated), -1, "one"},
      {"workload.input_tokens", "100", "2000", M(Ttft), +1, "one"},
      {"workload.output_tokens", "10", "100", M(E2e), +1, "one"},
      {"workload.conversations", "{active: 10, turns: 1}", "{active: 10, turns: 5}", M(HitRate), +1, "one"},
      {"workload.conversations", "{active: 4, turns: 5}", "{active: 60, turns: 5}", M(HitRate), -1, "one"},
      {"workload.shared_prefix", "{tokens: 500}", "{tokens: 4000}", M(HitRate), +1, "one"},
      {"workload.shared_prefix", "{tokens: 500, groups: 1}", "{tokens: 500, groups: 60}", M(HitRate), -1, "one"},
      {"workload.shared_prefix", "{tokens: 500, groups: 60}", "{tokens: 500, groups: 60, exponent: 2}", M(HitRate), +1, "one"},
      {"workload.rate_scale", "1", "2", M(Simulated), -1, "one"},
      {"workload.time_scale", "1", "2", M(Simulated), +1, "one"},
      {"workload.duration", "2 s", "10 s", M(Arrived), +1, "one"},
      {"workload.concurrency", "2", "20", M(Output), +1, "tight", {{"engine.kv_blocks", "auto"}}},
      {"workload.think_time", "0 s", "5 s", M(Output), -1, "tight", {{"engine.kv_blocks", "auto"}}},
      {"workload.batches", "1", "3", M(Arrived), +1, "one", {{"workload", "{static_batch: 8, input_tokens: 100, output_tokens: 10}"}}},
      {"workload.static_batch", "4", "32", M(Inputs), +1, "one", {{"workload", "{static_batch: 8, input_tokens: 100, output_tokens: 10}"}}},
      {"workload.output_tokens", "{uniform: {min: 1, max: 20}}", "{uniform: {min: 1, max: 200}}", M(Outputs), +1, "one"},
      // second effects of parameters above
      {"plan.replicas", "1", "2", M(Power), +1, "one"},
      // Far below this the idle power of the longer run costs more than the lower voltage saves.
      {"hardware.power_limit", "450 W", "700 W", M(Joule), +1, "prompts"},
      {"hardware.gpu_clock", "810 MHz", "1980 MHz", M(Joule), +1, "one"},
  };
}
#undef M

// In parts, which may run side by side.
constexpr size_t kParts = 4;
class KnobsInParts : public testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(Table, KnobsInParts, testing::Range<size_t>(0, kParts));

TEST_P(KnobsInParts, EachMovesItsResultInItsDirection) {
  const auto knobs = Knobs();
  for (size_t i = GetParam(); i < knobs.size(); i += kParts) {
    const Knob& k = knobs[i];
    SCOPED_TRACE(k.path + " " + k.low + " -> " + k.high + " in \"" + k.base + "\"");
    Changes low = k.changes, high = k.changes;
    const std::string& at = k.at.empty() ? k.path : k.at;
    low.emplace_back(at, k.low);
    high.emplace_back(at, k.high);
    const auto with_low = ScenarioOf(Bases().at(k.base), low), with_high = ScenarioOf(Bases().at(k.base), high);
    if (!with_low.ok() || !with_high.ok()) continue;
    const double a = k.metric(ReportOf(with_low)), b = k.metric(ReportOf(with_high));
    // At least a thousandth: not a rounding somewhere.
    EXPECT_GT((b - a) * k.direction, 1e-3 * std::max(std::abs(a), std::abs(b))) << k.metric_name << " goes from " << a << " to " << b;
    EXPECT_NE(with_low->Hash(), with_high->Hash());
  }
}

// Limits of the machine, which change no result: they say whether the plan may use that many GPUs.
TEST(Knobs, SizeOfTheMachine) {
  const char two_nodes[] = "model: llama-3.1-8b\nhardware: {node: dgx-h100}\nplan: {replicas: 16}\nworkload: {requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}\n";
  EXPECT_FALSE(Scenario::FromYaml(two_nodes).ok());
  std::string enough = two_nodes;
  enough.replace(enough.find("dgx-h100"), 8, "dgx-h100, nodes: 2");
  EXPECT_TRUE(Scenario::FromYaml(enough).ok());
  const auto one = ScenarioOf(Bases().at("one"));
  EXPECT_FALSE(one->With("plan.tp", "2")->With("hardware.count", "1").ok());
  EXPECT_TRUE(one->With("plan.tp", "2")->With("hardware.count", "2").ok());
}

TEST(Knobs, AnotherSeedIsAnotherRunAndTheSameSeedTheSame) {
  const auto run = [](const char* seed) {
    Report r = ReportOf(ScenarioOf(Bases().at("one"), {{"seed", seed}}));
    return r.ttft.mean.value();
  };
  EXPECT_EQ(run("1"), run("1"));
  EXPECT_NE(run("1"), run("2"));
}

TEST(Knobs, EveryParameterIsTurned) {
  const std::set<std::string> elsewhere = {"hardware.nodes", "hardware.count"};   // SizeOfTheMachine
  std::set<std::string> turned = elsewhere;
  for (const Knob& k : Knobs()) turned.insert(k.path);
  std::set<std::string> known;
  for (const ParamDoc& doc : DocumentParams<ScenarioConfig>("")) {
    known.insert(doc.path);
    const std::string section = doc.path.substr(0, doc.path.find('.'));
    const std::set<std::string> sections = {"hardware", "plan", "engine", "scheduler", "slo", "metrics"};
    if (doc.type == "map" || sections.count(section) == 0 || doc.path == section) continue;
    EXPECT_EQ(turned.count(doc.path), 1u) << doc.path << " has no row in the table";
  }
  for (const std::string& path : turned) EXPECT_EQ(known.count(path), 1u) << path << " is no parameter";
}

}  // namespace
}  // namespace simrun
