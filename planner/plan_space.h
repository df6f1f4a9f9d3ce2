// The execution plans of a model on some hardware: every way to lay it over the GPUs, and why some are impossible.
//
//   search:                       # section of a scenario file for `simrun plan`; all of it is optional
//     gpus: 8                     # GPUs to use; without it all of the hardware
//     degrees: powers-of-two      # or divisors
//     weights: [bf16, fp8]        # axes beside the parallel degrees; without one the scenario's own value
//     kv_cache: [bf16, fp8]
//     max_num_seqs: [128, 256]
//     max_num_batched_tokens: [2048, 8192]
//     policies: [chunked-prefill]
//     power_limits: [500 W, 700 W]
//     clocks: [1200 MHz, 1980 MHz]                   # hardware.gpu_clock
//     placements: [gpu, auto]     # plan.placement.policy; one that leaves everything on the GPU is the gpu plan again, and left out
//     separate_ffn: true          # dense models: also plans whose attention and MLP are split in different ways
//     uneven_layers: true         # also plans whose last stages, which have the LM head, hold fewer layers
//     gpu_types: [h100-sxm-80gb, h200-sxm-141gb]     # or node_types
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/params.h"
#include "base/units.h"
#include "base/yaml.h"
#include "hw/placement.h"
#include "models/dtype.h"
#include "models/model_spec.h"
#include "schedulers/config.h"
#include "sim/scenario.h"

namespace simrun::planner {

std::vector<std::string> DegreeChoices();

struct SearchConfig {
  std::optional<int64_t> gpus;
  std::string degrees = "powers-of-two";
  bool partial = false;
  bool separate_ffn = false;
  bool uneven_layers = false;
  bool tp_across_nodes = false;
  std::vector<std::string> weights, kv_cache, policies, gpu_types, node_types, placements;
  std::vector<int64_t> max_num_seqs, max_num_batched_tokens;
  std::vector<Watts> power_limits;
  std::vector<PerSecond> clocks;
  template <class V>
  void Describe(V& v) {
    v.Field("gpus", gpus, {.help = "GPUs to use; auto: all of the hardware", .min = 1, .max = 65536});
    v.Field("degrees", degrees, {.help = "parallel degrees tried", .choices = &DegreeChoices});
    v.Field("partial", partial, {.help = "also plans that use fewer GPUs"});
    v.Field("separate_ffn", separate_ffn, {.help = "dense models: also plans whose attention and MLP are split in different ways"});
    v.Field("uneven_layers", uneven_layers, {.help = "also plans whose last pipeline stage, which has the LM head, holds fewer layers"});
    v.Field("tp_across_nodes", tp_across_nodes, {.help = "also tensor parallelism over more than one node"});
    v.Field("weights", weights, {.help = "number formats of the weights", .choices = &DTypeNames});
    v.Field("kv_cache", kv_cache, {.help = "number formats of the KV cache", .choices = &DTypeNames});
    v.Field("max_num_seqs", max_num_seqs, {.help = "values of scheduler.max_num_seqs", .min = 1, .max = 1 << 20});
    v.Field("max_num_batched_tokens", max_num_batched_tokens, {.help = "values of scheduler.max_num_batched_tokens", .min = 1, .max = 1 << 24});
    v.Field("policies", policies, {.help = "values of scheduler.policy", .choices = &BatchingPolicyNames});
    v.Field("power_limits", power_limits, {.help = "values of hardware.power_limit", .min = 0, .above_min = true});
    v.Field("clocks", clocks, {.help = "values of hardware.gpu_clock", .min = 0, .above_min = true, .example = "1410 MHz"});
    v.Field("placements", placements, {.help = "values of plan.placement.policy: whether tensors may lie outside GPU memory", .choices = &PlacementPolicyNames});
    v.Field("gpu_types", gpu_types, {.help = "GPUs from the catalogue, instead of the scenario's"});
    v.Field("node_types", node_types, {.help = "nodes from the catalogue, instead of the scenario's"});
  }
};

// A plan that cannot run, by the first obstacle met.
enum class Obstacle { kNone, kDivisibility, kTopology, kMemory, kSetting };
inline constexpr int kNumObstacles = 5;
std::string_view ObstacleName(Obstacle o);   // "feasible", "divisibility", "topology", "memory", "setting"

struct Candidate {
  int tp = 1, pp = 1, dp = 1, ep = 1, replicas = 1;
  int ffn_tp = 0;                      // 0: as tp
  std::vector<int> stage_layers;       // empty: as even as possible
  // Everything that sets it apart, as settings of the scenario: {"plan.tp", "8"}, ...
  std::vector<std::pair<std::string, std::string>> settings;
  Obstacle obstacle = Obstacle::kNone;
  std::string reason;                  // why it cannot run
  std::optional<Scenario> scenario;    // when it can
  bool feasible() const { return obstacle == Obstacle::kNone; }
};

struct PlanSpace {
  std::vector<Candidate> candidates;   // in a fixed order
  std::vector<std::string> varied;     // settings that differ between candidates
  int64_t Count(Obstacle o) const;
};

// `root` is a scenario whose plan.tp, pp, dp, ep and replicas are replaced; a `search` section in it is left out.
// Degrees: every product replicas x pp x dp x tp that uses the GPUs; for mixture-of-experts models dp > 1 and every ep
// that divides dp x tp, for dense ones dp = 1 (there it means replicas) unless separate_ffn asks for attention replicas
// that share an MLP (ffn_tp = dp x tp) and for MLPs split less than attention (ffn_tp < tp). Layers need not divide by pp;
// with uneven_layers the last stage also gives up to as many layers to the others as the LM head weighs. Memory is that
// of the simulator itself. Errors: anything wrong with the scenario whatever the plan, all problems at once.
absl::StatusOr<PlanSpace> Enumerate(const YamlNode& root, const std::string& base_dir, std::shared_ptr<const Catalog> catalog,
                                    const SearchConfig& search, int threads = 1);
// Reads the `search` section of a scenario; problems are added.
SearchConfig ReadSearch(const YamlNode& root, Problems* problems);

// One plan of APEX's space (Lin et al., arXiv 2411.17651): a block is a row of cells that each choose their own number
// of replicas; tasks of a cell are split evenly over the devices of a replica.
struct ApexPlan {
  int replicas = 1, stages = 1;
  int attention_replicas = 1;
  int ffn_replicas = 1;                // of the SwiGLU cell of a dense model, else of the MLP cell that APEX adds
  int moe_replicas = 0;                // 0: dense
  bool expert_parallel = false;        // whole experts per device instead of every expert split
  double weight_bytes = 0;             // of the fullest device: layers only, no embeddings
};

// The plans of the published search on `gpus` equal devices of one node, as its program counts them:
//  - replicas divide the GPUs, stages divide what is left and the layers, cell replicas divide the devices of a stage;
//  - the numbers of cell replicas have no common divisor;
//  - a mixture-of-experts block has attention, a plain two-matrix MLP (which real models lack) and the experts;
//  - whole experts are spread over at most as many devices as there are experts, unevenly if need be;
//  - a plan fits when the weights of every device do, KV cache and activations not counted.
std::vector<ApexPlan> EnumerateApex(const ModelSpec& model, int gpus, Bytes memory, double bytes_per_weight);

}  // namespace simrun::planner
