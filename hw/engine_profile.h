// What a serving engine adds to the kernels: host time, graphs, sampling, front end, defaults of its scheduler.
//
// One step takes, for GPU time g (kernels), issue time i (launches by the host) and preparation p (scheduling, input
// preparation, growing with sequences and tokens):
//     overlapped (asynchronous scheduling):  max(g, p + i) + post
//     otherwise:                             p + max(g, i) + post
// i = launches x launch cost in eager mode, one graph launch when the step replays a CUDA graph. Host times are
// measured on a host of speed `reference_single_thread` and scale with the machine's host.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "base/params.h"
#include "base/units.h"
#include "hw/machine.h"
#include "hw/placement.h"

namespace simrun {

// "marlin", "triton".
std::vector<std::string> MoeBackendNames();

// Values that hold on some machines only: what engines choose by the GPU they find, and what measurements found to differ
// between GPU generations. Absent ones keep the profile's; later entries replace what earlier ones say.
struct EngineVariant {
  // Where they hold; absent: everywhere.
  std::optional<std::string> architecture;  // GpuSpec::architecture
  std::optional<Bytes> memory_below;        // of the GPU
  std::optional<int64_t> ranks_below;       // GPUs that share a layer
  std::optional<bool> server;               // EngineConfig::server
  std::optional<Seconds> front_end, step_host, post_step, launch;
  std::optional<double> gpu_time_factor;
  std::optional<std::string> moe_backend;
  std::optional<bool> fused_all_reduce;
  std::optional<int64_t> max_num_seqs, max_num_batched_tokens, graph_max_tokens;
  std::optional<Bytes> runtime_reserve;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("architecture", architecture, {.help = "GPU architecture these values hold for; none: any"});
    v.Field("memory_below", memory_below, {.help = "for GPUs with less memory; none: any", .min = 0});
    v.Field("ranks_below", ranks_below, {.help = "where fewer GPUs share a layer; none: any", .min = 1});
    v.Field("server", server, {.help = "behind a server, or called as a library; none: both"});
    v.Field("front_end", front_end, {.help = "replaces front_end", .min = 0});
    v.Field("step_host", step_host, {.help = "replaces step_host", .min = 0});
    v.Field("post_step", post_step, {.help = "replaces post_step", .min = 0});
    v.Field("launch", launch, {.help = "replaces launch", .min = 0});
    v.Field("gpu_time_factor", gpu_time_factor, {.help = "replaces gpu_time_factor", .min = 0, .above_min = true});
    v.Field("moe_backend", moe_backend, {.help = "replaces moe_backend", .choices = &MoeBackendNames});
    v.Field("fused_all_reduce", fused_all_reduce, {.help = "replaces fused_all_reduce"});
    v.Field("max_num_seqs", max_num_seqs, {.help = "replaces max_num_seqs", .min = 1});
    v.Field("max_num_batched_tokens", max_num_batched_tokens, {.help = "replaces max_num_batched_tokens", .min = 1});
    v.Field("graph_max_tokens", graph_max_tokens, {.help = "replaces graph_max_tokens", .min = 0});
    v.Field("runtime_reserve", runtime_reserve, {.help = "replaces runtime_reserve", .min = 0});
  }
};

// Memory of a GPU that an engine keeps free of weights and KV cache, for activations, graphs and the like, where it works that
// out from its sizes:
//     fixed + per_token x max_num_batched_tokens (at least least_tokens) + per_graph_token x graph_max_tokens
//     + per_gpu x GPUs of the engine + per_rank_graph_token x graph_max_tokens x attention ranks, where they are several
struct WorkingMemory {
  Bytes fixed{0}, per_token{0}, per_graph_token{0}, per_gpu{0}, per_rank_graph_token{0};
  int64_t least_tokens = 0;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("fixed", fixed, {.help = "whatever the sizes", .min = 0});
    v.Field("per_token", per_token, {.help = "and per token of max_num_batched_tokens", .min = 0});
    v.Field("least_tokens", least_tokens, {.help = "tokens counted at least", .min = 0});
    v.Field("per_graph_token", per_graph_token, {.help = "and per token of the largest captured graph", .min = 0});
    v.Field("per_gpu", per_gpu, {.help = "and per GPU of the engine", .min = 0});
    v.Field("per_rank_graph_token", per_rank_graph_token, {.help = "and per attention rank (plan.dp) and token of the largest graph", .min = 0});
  }
  Bytes Of(int64_t tokens, int64_t graph_tokens, int64_t gpus, int64_t ranks) const;
};

// Memory that an engine sets aside for the states of linear attention. Engines without it keep them in KV blocks.
struct StatePool {
  double ratio = 1;          // its size over that of the KV cache
  int64_t per_sequence = 1;  // states that each sequence may need, those kept for others' prefixes included
  std::string dtype;         // format of the states; empty: as the model says
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("ratio", ratio, {.help = "memory of the states over memory of the KV cache", .min = 0, .max = 1000, .above_min = true});
    v.Field("per_sequence", per_sequence, {.help = "states that each running sequence may need", .min = 1, .max = 1000});
    v.Field("dtype", dtype, {.help = "format of the states: bf16, fp16 or fp32; empty: as the model says"});
  }
};

// Where one of the numbers comes from.
struct EngineSource {
  std::string of;  // name of the field
  std::string provenance = "assumed";
  std::string confidence = "C";  // A read in a source, B vendor figure from prior knowledge, C estimate
  std::string source;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("of", of, {.help = "field", .required = true});
    v.Field("provenance", provenance, {.help = "how it was found"});
    v.Field("confidence", confidence, {.help = "A read in a source, B vendor figure from prior knowledge, C estimate"});
    v.Field("source", source, {.help = "origin", .required = true});
  }
};

// Measured serving runs that numbers of a profile were fitted to. Empty fields match anything.
struct EngineFit {
  std::string version;      // prefix of the engine's version; "unstated": runs that do not state one
  std::string gpu, model, load, metric;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("version", version, {.help = "prefix of the engine's version; unstated: runs that state none"});
    v.Field("gpu", gpu, {.help = "GPU; none: any"});
    v.Field("model", model, {.help = "model; none: any"});
    v.Field("load", load, {.help = "kind of load, such as static_batch; none: any"});
    v.Field("metric", metric, {.help = "metric, such as tpot; none: any"});
  }
};

// hw/catalog/engines/<name>.yaml
struct EngineProfile {
  std::string name;
  std::vector<std::string> aliases;   // other names of the profile, and of its engine
  std::string like;                   // in a file: the profile whose values hold where this one states none
  std::string description;
  std::string backend = "vllm";       // kernels preferred in the operator catalogue
  std::string engine;                 // the software ("vllm"), and the versions this profile stands for:
  std::vector<std::string> versions;  // prefixes such as "0.19" (not of "0.190"); "" for runs that do not state one

  std::vector<std::string> vendors;   // makers of the GPUs it runs on (GpuSpec::vendor); none: any

  // Defaults of the scheduler section.
  std::string policy = "chunked-prefill";
  int64_t max_num_seqs = 256;
  int64_t max_num_batched_tokens = 2048;
  int64_t block_size = 16;
  double watermark = 0.01;
  bool prefix_caching = false;

  // Memory of a GPU: utilisation x size - weights - activations - reserve is left for KV blocks.
  double gpu_memory_utilization = 0.9;
  Bytes runtime_reserve{0};  // context, graphs, communication buffers, fragmentation
  // Where given, gpu_memory_utilization is the share of weights and KV cache alone (of the memory without runtime_reserve):
  // by itself what this leaves, else the user's.
  std::optional<WorkingMemory> working_memory;
  std::optional<StatePool> state_pool;
  bool share_given = false;  // by the user
  int64_t expert_chunk = 0;  // tokens of all attention ranks that kernels of experts have room for; 0: all of a step

  // Host work.
  bool cuda_graphs = true;             // decode steps replay graphs
  bool piecewise_graphs = true;        // steps with prompt chunks too, up to graph_max_tokens
  int64_t graph_max_tokens = 512;      // larger steps are launched kernel by kernel
  std::vector<int64_t> graph_sizes;    // captured sizes; empty: those of graph_step
  int64_t graph_step = 8;              // captured sizes: 1, 2, 4, then multiples; tokens are padded up. 0: no padding
  bool overlap = true;                 // preparation of the next step runs beside the GPU
  bool holds_tokens = false;           // the first token of a sequence leaves after the launch of the next step
  double reference_single_thread = 1;  // CpuSpec::single_thread of the host the times below were measured on
  Seconds step_host{0};                // preparation per step
  Seconds sequence_host{0};            // and running sequence
  Seconds token_host{0};               // and new token of the step
  Seconds launch{0};                   // host time of one kernel launch in eager mode
  Seconds graph_launch{0};             // of one graph
  Seconds post_step{0};                // after the GPU, before the next step can start: sampling, detokenising
  Seconds post_sequence{0};            // and emitted token
  Seconds server_step{0};                // added to step_host behind a server that shares the engine process
  Seconds front_end{0};                // per request, before its first token: HTTP, tokeniser, first scheduling
  Seconds front_end_token{0};          // and prompt token, one request after the other
  double gpu_time_factor = 1;          // kernels of this engine over those of the operator catalogue

  // Offloading: where the engine keeps tensors when the plan does not say, and how well it uses host and link.
  PlacementConfig placement;
  Seconds cpu_operator{20e-6};         // of an operator on the CPU: hand-over, threads, barrier
  double cpu_memory_efficiency = 0.8;  // reached by its CPU kernels / streaming bandwidth of the memory
  double cpu_compute_efficiency = 0.6;  // reached / peak of the CPU
  std::string cpu_format = "bf16";      // number format of CPU arithmetic; fp32 where the CPU has no such units
  double link_efficiency = 1;           // transfers between host and GPU over those of large pinned copies
  bool pinned_memory = true;            // else copies are staged through a pinned buffer
  bool pinned_kv = true;                // of the KV cache alone
  BytesPerSecond kv_store_rate{0};      // of keys and values of prompts into memory outside the GPU; 0: the link's
  double arrival_copies = 0;            // of every streamed byte within GPU memory before a kernel can read it
  bool lockstep = false;                // half a layer of a token group at a time, beside the copies for the next one

  // Kernels for communication.
  bool custom_all_reduce = true;
  bool fused_all_reduce = false;       // with the norm behind it, by TensorRT-LLM's kernel (FlashInfer), where that is faster
  bool deepep = false;
  bool streaming_decode = false;       // decode attention key by key, without tiles, one query head after the other
  int64_t shared_group = 0;            // but for groups of so many heads, 128 wide
  int64_t decode_query_heads = 0;      // of a group that one pass over its keys serves; 0: all
  bool mxfp4_by_fp8 = false;           // experts in MXFP4 are multiplied by 8-bit activations on GPUs with units for it
  bool sliding_windows = true;         // layers with a sliding window keep to it; false: they see everything
  std::string moe_backend = "marlin";  // kernels of experts in MXFP4 under 16-bit activations; "triton": OpenAI's
  bool fused_quantize = false;         // the kernel before writes a GEMM's input in the narrow format
  // Traffic of GPU memory per element of weights and KV cache in narrow formats, which passes of their own widen before the
  // kernels that multiply; 0: those kernels do.
  double widen_weight_bytes = 0, widen_kv_bytes = 0;
  Seconds widen_start{0};    // fixed time of a matrix product in whose kernel weights are widened, over one in the wider format
  double copy_kv_bytes = 0;  // and of copies of the whole cache that decode attention makes before it multiplies, in any format
  // Passes over the fp32 logits that top-p and top-k take on the GPU (sorting, cumulated sums); 0: the largest is picked.
  double sampling_passes = 0;
  double expert_imbalance = 0;  // load of the busiest expert-parallel rank over the mean; 0: from the model

  std::vector<EngineVariant> variants;
  std::vector<EngineSource> sources;
  std::vector<EngineFit> fitted_on;  // the accuracy ledger reports everything else as unseen

  template <class Visitor>
  void Describe(Visitor& v);
};

// The `engine:` section of a scenario. Values at auto come from the profile.
struct EngineConfig {
  std::string profile = "vllm-0.19";
  std::optional<double> gpu_memory_utilization;
  std::optional<int64_t> kv_blocks;
  std::optional<Bytes> runtime_reserve;
  bool server = true;
  std::optional<bool> cuda_graphs;
  std::optional<int64_t> graph_max_tokens;
  std::vector<int64_t> graph_sizes;
  std::optional<bool> overlap;
  std::optional<bool> custom_all_reduce, fused_all_reduce;
  std::optional<std::string> moe_backend;
  std::optional<Seconds> step_host, sequence_host, launch, post_step, post_sequence, front_end;
  std::optional<double> gpu_time_factor;
  std::optional<double> sampling_passes;
  std::optional<double> expert_imbalance;
  std::optional<Seconds> cpu_operator;
  std::optional<double> cpu_memory_efficiency, cpu_compute_efficiency, link_efficiency;
  std::optional<bool> pinned_memory;
  template <class Visitor>
  void Describe(Visitor& v);
};

// NotFound with the nearest name, InvalidArgument for a bad file. Of the profile it is `like` it takes over what it does not
// state itself, and its own variants follow the other's, less what it states; what was measured or calibrated there is transferred here.
absl::StatusOr<EngineProfile> LoadEngineProfile(std::string_view name, const Catalog& catalog);
// The profile for one machine, with `ranks` GPUs that share a layer: values of its GPU, host times scaled to its host (the
// driver's launch cost of that host added to eager launches), then the user's settings, which are taken as they are.
EngineProfile ApplyEngineConfig(EngineProfile profile, const EngineConfig& config, const Machine& machine, int64_t ranks = 1);
// The captured graph size that `tokens` are padded to; `tokens` itself when they are too many for a graph.
int64_t GraphTokens(const EngineProfile& profile, int64_t tokens);

template <class Visitor>
void EngineProfile::Describe(Visitor& v) {
  v.Field("aliases", aliases, {.help = "other names of the profile and its engine"});
  v.Field("like", like, {.help = "another profile, whose values hold where this one states none; not its aliases, description, versions and fitted_on"});
  v.Field("description", description, {.help = "engine, version and what was measured"});
  v.Field("backend", backend, {.help = "kernels preferred in the operator catalogue; those of its family (trtllm of trtllm-engine) come next"});
  v.Field("engine", engine, {.help = "the serving software"});
  v.Field("versions", versions, {.help = "prefixes of the versions this profile stands for"});
  v.Field("vendors", vendors, {.help = "makers of the GPUs it runs on; none: any. On others reports warn"});
  v.Field("policy", policy, {.help = "default batching policy"});
  v.Field("max_num_seqs", max_num_seqs, {.help = "default of scheduler.max_num_seqs", .min = 1});
  v.Field("max_num_batched_tokens", max_num_batched_tokens,
          {.help = "default of scheduler.max_num_batched_tokens", .min = 1});
  v.Field("block_size", block_size, {.help = "tokens per KV block", .min = 1});
  v.Field("watermark", watermark, {.help = "fraction of KV blocks kept free when admitting", .min = 0, .max = 0.9});
  v.Field("prefix_caching", prefix_caching, {.help = "default of scheduler.prefix_caching"});
  v.Field("gpu_memory_utilization", gpu_memory_utilization,
          {.help = "share of GPU memory the engine takes", .min = 0, .max = 1, .above_min = true});
  v.Field("runtime_reserve", runtime_reserve, {.help = "memory per GPU for context, graphs and buffers", .min = 0});
  v.Field("working_memory", working_memory,
          {.help = "memory kept free of weights and KV cache by the engine's sizes; gpu_memory_utilization is then the share of these two alone"});
  v.Field("state_pool", state_pool, {.help = "memory set aside for the states of linear attention; none: they take KV blocks"});
  v.Field("expert_chunk", expert_chunk, {.help = "tokens, of all attention ranks, that kernels of experts have room for at once; 0: all of a step", .min = 0});
  v.Field("cuda_graphs", cuda_graphs, {.help = "decode steps replay CUDA graphs"});
  v.Field("piecewise_graphs", piecewise_graphs, {.help = "so do steps with prompt chunks"});
  v.Field("graph_max_tokens", graph_max_tokens, {.help = "largest captured graph", .min = 0});
  v.Field("graph_sizes", graph_sizes, {.help = "captured sizes; none: those of graph_step", .min = 1});
  v.Field("graph_step", graph_step, {.help = "spacing of captured sizes above 4; 0: no padding", .min = 0});
  v.Field("overlap", overlap, {.help = "the host prepares the next step while the GPU works"});
  v.Field("holds_tokens", holds_tokens, {.help = "answers to a step are sent after the next step has been launched; acts with overlap"});
  v.Field("reference_single_thread", reference_single_thread,
          {.help = "single-thread speed of the host the times were measured on", .min = 0, .above_min = true});
  v.Field("step_host", step_host, {.help = "host time per step", .min = 0});
  v.Field("sequence_host", sequence_host, {.help = "host time per step and running sequence", .min = 0});
  v.Field("token_host", token_host, {.help = "host time per new token of a step", .min = 0});
  v.Field("launch", launch, {.help = "host time of one eager kernel launch", .min = 0});
  v.Field("graph_launch", graph_launch, {.help = "host time of one graph launch", .min = 0});
  v.Field("post_step", post_step, {.help = "time after the GPU finished a step", .min = 0});
  v.Field("post_sequence", post_sequence, {.help = "and per emitted token", .min = 0});
  v.Field("server_step", server_step, {.help = "host time per step of a server in the engine's own process", .min = 0});
  v.Field("front_end", front_end, {.help = "time per request before its first step", .min = 0});
  v.Field("front_end_token", front_end_token, {.help = "and per prompt token, one request after the other", .min = 0});
  v.Field("gpu_time_factor", gpu_time_factor,
          {.help = "kernel time over the operator catalogue's", .min = 0, .above_min = true});
  v.Field("placement", placement, {.help = "where the engine keeps tensors when the plan does not say"});
  v.Field("cpu_operator", cpu_operator, {.help = "fixed time of an operator on the CPU", .min = 0});
  v.Field("cpu_memory_efficiency", cpu_memory_efficiency,
          {.help = "memory bandwidth reached by CPU kernels over that of streaming", .min = 0, .max = 1, .above_min = true});
  v.Field("cpu_compute_efficiency", cpu_compute_efficiency,
          {.help = "arithmetic reached by CPU kernels over the peak", .min = 0, .max = 1, .above_min = true});
  v.Field("cpu_format", cpu_format, {.help = "number format of CPU arithmetic", .choices = &DTypeNames});
  v.Field("link_efficiency", link_efficiency,
          {.help = "rate of copies between host and GPU over that of large pinned copies", .min = 0, .max = 1, .above_min = true});
  v.Field("pinned_memory", pinned_memory, {.help = "offloaded data lies in pinned host memory"});
  v.Field("pinned_kv", pinned_kv, {.help = "so does an offloaded KV cache; acts with lockstep"});
  v.Field("kv_store_rate", kv_store_rate, {.help = "rate at which keys and values of prompts reach memory outside the GPU; 0: the link's", .min = 0});
  v.Field("arrival_copies", arrival_copies, {.help = "copies of streamed weights within GPU memory before a kernel can read them", .min = 0, .max = 100});
  v.Field("lockstep", lockstep,
          {.help = "attention and feed-forward part of every token group take turns, each beside the copies for the next turn; the end of all is "
                   "waited for (FlexGen)"});
  v.Field("custom_all_reduce", custom_all_reduce, {.help = "one-shot all-reduce kernel for small messages"});
  v.Field("fused_all_reduce", fused_all_reduce,
          {.help = "all-reduce with the norm behind it by TensorRT-LLM's kernel, as FlashInfer has it, where that is faster"});
  v.Field("deepep", deepep, {.help = "expert all-to-all by DeepEP kernels"});
  v.Field("sampling_passes", sampling_passes, {.help = "passes over the logits that top-p and top-k take; 0: the largest is picked", .min = 0, .max = 10000});
  v.Field("streaming_decode", streaming_decode, {.help = "decode attention walks the cache key by key instead of in tiles, one query head after the other"});
  v.Field("shared_group", shared_group, {.help = "group of query heads, 128 wide, that shares a pass nevertheless; 0: none", .min = 0, .max = 1024});
  v.Field("decode_query_heads", decode_query_heads,
          {.help = "query heads of a group that one pass of decode attention over its keys serves; 0: all", .min = 0, .max = 1024});
  v.Field("mxfp4_by_fp8", mxfp4_by_fp8, {.help = "experts in MXFP4 are multiplied by 8-bit activations on GPUs with units for it"});
  v.Field("sliding_windows", sliding_windows, {.help = "layers with a sliding window keep to it; false: they see everything"});
  v.Field("moe_backend", moe_backend, {.help = "kernels of experts in MXFP4 under 16-bit activations", .choices = &MoeBackendNames});
  v.Field("fused_quantize", fused_quantize, {.help = "the kernel before a GEMM writes its input in the narrow format"});
  v.Field("widen_weight_bytes", widen_weight_bytes,
          {.help = "GPU memory traffic per element of narrow weights that passes of their own widen; 0: the kernel that multiplies does", .min = 0, .max = 1000});
  v.Field("widen_start", widen_start, {.help = "fixed time of a matrix product that widens weights in its kernel, over one in the wider format", .min = 0});
  v.Field("widen_kv_bytes", widen_kv_bytes, {.help = "and per element of a narrow KV cache", .min = 0, .max = 1000});
  v.Field("copy_kv_bytes", copy_kv_bytes,
          {.help = "and per element of any KV cache, of copies that decode attention makes before it multiplies", .min = 0, .max = 1000});
  v.Field("expert_imbalance", expert_imbalance,
          {.help = "load of the busiest expert-parallel rank over the mean; 0: from the model", .min = 0});
  v.Field("variants", variants, {.help = "values that hold on some machines only; later entries replace what earlier ones, and those of a profile it is like, say"});
  v.Field("sources", sources, {.help = "where the numbers come from"});
  v.Field("fitted_on", fitted_on, {.help = "measured runs the numbers were fitted to"});
}

template <class Visitor>
void EngineConfig::Describe(Visitor& v) {
  v.Field("profile", profile, {.help = "serving engine from the catalogue, or a YAML file of one's own", .example = "vllm-0.19"});
  v.Field("gpu_memory_utilization", gpu_memory_utilization,
          {.help = "share of GPU memory the engine takes (SGLang: for weights and KV cache, --mem-fraction-static); auto: the profile's", .min = 0, .max = 1, .above_min = true});
  v.Field("kv_blocks", kv_blocks, {.help = "KV blocks per GPU; auto: what fits", .min = 1, .max = 1e12});
  v.Field("runtime_reserve", runtime_reserve,
          {.help = "memory per GPU for context, graphs and buffers; auto: the profile's", .min = 0});
  v.Field("server", server, {.help = "requests come through a server; false: a program calls the engine as a library, without front-end and server time, and nobody waits for each token"});
  v.Field("cuda_graphs", cuda_graphs, {.help = "decode steps replay CUDA graphs; false: eager mode"});
  v.Field("graph_max_tokens", graph_max_tokens, {.help = "new tokens of the largest captured graph; larger steps are launched kernel by kernel", .min = 0, .max = 65536});
  v.Field("graph_sizes", graph_sizes,
          {.help = "captured sizes that steps are padded up to (TensorRT-LLM's cuda_graph_config.batch_sizes, vLLM's cudagraph_capture_sizes); auto: the "
                   "profile's",
           .min = 1, .max = 65536});
  v.Field("overlap", overlap, {.help = "the host prepares the next step while the GPU works"});
  v.Field("custom_all_reduce", custom_all_reduce, {.help = "one-shot all-reduce kernel for small messages"});
  v.Field("fused_all_reduce", fused_all_reduce,
          {.help = "all-reduce with the norm behind it by TensorRT-LLM's kernel, as FlashInfer has it, where that is faster"});
  v.Field("moe_backend", moe_backend,
          {.help = "kernels of experts in MXFP4 under 16-bit activations: Marlin's or OpenAI's Triton ones; auto: what the engine takes on this GPU",
           .choices = &MoeBackendNames});
  v.Field("step_host", step_host, {.help = "host time per step on this machine", .min = 0, .max = 10});
  v.Field("sequence_host", sequence_host, {.help = "host time per step and running sequence", .min = 0, .max = 10});
  v.Field("launch", launch, {.help = "host time of one eager kernel launch", .min = 0, .max = 10});
  v.Field("post_step", post_step, {.help = "time after the GPU finished a step", .min = 0, .max = 10});
  v.Field("post_sequence", post_sequence, {.help = "and per emitted token", .min = 0, .max = 10});
  v.Field("front_end", front_end, {.help = "time per request before its first step", .min = 0, .max = 1000});
  v.Field("gpu_time_factor", gpu_time_factor,
          {.help = "kernel time over the operator catalogue's, for what-if questions", .min = 0.01, .max = 100});
  v.Field("sampling_passes", sampling_passes,
          {.help = "passes over the logits that top-p and top-k take on the GPU (vLLM's own sampler: 120); auto: the largest is picked", .min = 0, .max = 10000});
  v.Field(
      "expert_imbalance", expert_imbalance,
      {.help = "load of the busiest expert-parallel rank over the mean; auto: from the model", .min = 1, .max = 1000});
  v.Field("cpu_operator", cpu_operator, {.help = "fixed time of an operator on the CPU, for offloaded work", .min = 0, .max = 10});
  v.Field("cpu_memory_efficiency", cpu_memory_efficiency,
          {.help = "memory bandwidth that CPU kernels reach over that of streaming", .min = 0.01, .max = 1});
  v.Field("cpu_compute_efficiency", cpu_compute_efficiency,
          {.help = "arithmetic that CPU kernels reach over the CPU's peak", .min = 0.01, .max = 1});
  v.Field("link_efficiency", link_efficiency,
          {.help = "rate of copies between host and GPU over that of large pinned copies", .min = 0.01, .max = 1});
  v.Field("pinned_memory", pinned_memory, {.help = "offloaded data lies in pinned memory; false: copies are staged"});
}

}  // namespace simrun
