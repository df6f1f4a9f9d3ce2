// The result of a run, as a plain value. proto/report.proto documents every field.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "base/units.h"

namespace simrun {

class QuantileSketch;

struct LatencySummary {
  Seconds mean, p50, p90, p95, p99, max;
  int64_t count = 0;
};

struct Report {
  struct Plan {
    std::string model, gpu, host, engine, scheduler, router;
    int tp = 1, pp = 1, dp = 1, ep = 1, replicas = 1, gpus = 1;
    int ffn_tp = 1;                     // ranks that share each MLP of a dense model
    std::vector<int> layers_per_stage;  // as configured; empty: as even as possible
    std::string weights, activations, kv_cache;
    int64_t max_num_seqs = 0, max_num_batched_tokens = 0;
  } plan;
  struct Requests {
    int64_t arrived = 0, completed = 0, rejected = 0, preemptions = 0;
    int64_t rejected_context_length = 0, rejected_kv_memory = 0;
    int64_t input_tokens = 0, output_tokens = 0;
  } requests;
  LatencySummary ttft, tpot, itl, e2e, queue_delay;
  struct Throughput {
    double requests_per_s = 0, input_tokens_per_s = 0, output_tokens_per_s = 0;
  } throughput;
  struct Goodput {
    double slo_attainment = 1, requests_per_s = 0;
  } goodput;
  struct Energy {
    Joules total, per_output_token, per_request;
    Watts mean_power;
    std::map<std::string, double> by_component;   // joules: gpu_active, gpu_idle, host, memory_and_links
    double carbon_g = 0;
  } energy;
  struct Cost {
    Dollars usd, usd_per_million_output_tokens;
    double usd_per_hour = 0;
  } cost;
  struct Memory {
    Bytes weights, activations, reserve, gpu;
    double kv_capacity_tokens = 0, kv_peak_fraction = 0, kv_blocks = 0;
    Bytes window;                                 // buffers for streamed weights, part of `weights`
    Bytes state;                                  // states of linear attention of one sequence, per GPU
    double state_sequences = 0;                   // sequences that a pool for them has room for; 0: they take KV blocks
    struct Tier {
      std::string name;                           // dram, cxl, nvme, remote
      Bytes capacity, weights, kv_capacity, kv_peak;   // of one engine
      Bytes prefix_capacity, prefix_peak;              // KV blocks kept for prompts to come
    };
    std::vector<Tier> tiers;                      // outside GPU memory
    // KV cache in use over the run, as shares of its capacity, where tensors lie outside GPU memory: mean over the engines,
    // and of the fullest one. A tier holds weights + share x kv_capacity.
    struct Timeline {
      Seconds interval;
      std::vector<double> kv_mean, kv_peak;
    } timeline;
  } memory;
  struct Utilization {
    double engine_busy = 0, stage_busy = 0, mean_batch = 0, mfu = 0;
  } utilization;
  struct Link {
    std::string name;
    double bytes = 0;                             // carried, all engines
    double utilization = 0;                       // of its rate, over the run
  };
  struct PrefixCache {
    bool used = false;                            // prompts begin alike, or preempted requests found their blocks
    int64_t looked_up_tokens = 0;                 // prompt tokens of the requests that were started
    int64_t cached_tokens = 0;                    // of these, found in the cache
    double hit_rate = 0;                          // their share
    int64_t resumed_tokens = 0;                   // found by preempted requests when they came back
    int64_t evicted_blocks = 0, cached_blocks = 0;   // content given up, and there at the end
    int64_t hit_requests = 0;                     // requests that found anything
    Seconds hit_ttft, miss_ttft;                  // mean TTFT of those, and of the others
    int64_t fetched_tokens = 0, offloaded_blocks = 0;   // from host memory, of all that were found; copied there
  } prefix_cache;
  std::vector<Link> links;                        // and memories, of plans with tensors outside GPU memory
  struct Experts {
    std::string policy, cache, prefetch;          // empty policy: not followed one by one
    double uses = 0;                              // active experts, summed over layers and steps
    double hit_rate = 0, prefetched = 0, fetched = 0, on_cpu = 0;   // shares of the uses
    double resident_share = 0;                    // of all experts
    Bytes fetched_bytes, ahead_bytes;             // to each GPU
  } experts;                                      // outside GPU memory
  struct Placement {
    std::string objective;                        // empty: not searched
    double candidates = 0;                        // placements compared
    std::vector<std::string> rules;               // the one chosen, as in plan.placement
    struct Marginal {
      std::string tier;
      double per_gib = 0;                         // relative gain in the objective from one more GiB
    };
    std::vector<Marginal> marginal;
  } placement;                                    // plan.placement: optimize
  // Where a measured run of the same scenario is expected.
  struct Interval {
    double low = 0, high = 0;
    double level = 0;                             // share of such runs that lie between them
    int64_t values = 0;                           // measured values behind the error, of the nearest group
    int64_t seeds = 1;                            // runs behind the spread of a random workload
    std::string basis;                            // the nearest group
  };
  std::map<std::string, Interval> intervals;      // by field of report.json: "ttft.mean_s"
  std::map<std::string, double> bottleneck;       // share of engine time by what bound it
  struct Provenance {
    std::string part, kind, detail;
  };
  std::vector<Provenance> provenance;
  std::vector<std::string> warnings;
  struct Simulation {
    double wall_s = 0, simulated_s = 0, iterations = 0, fast_forwarded = 0, events = 0;
    int64_t seed = 0;
    std::string version, config_hash;
  } simulation;

  // report.json: the protobuf JSON mapping with original field names and zeros printed.
  std::string ToJson() const;
  // The same in the protobuf binary form, for other processes, and back. Equal reports are equal bytes.
  std::string ToBinary() const;
  static absl::StatusOr<Report> FromBinary(std::string_view bytes);
};

LatencySummary Summarize(const QuantileSketch& sketch);

}  // namespace simrun
