// The `scheduler:` section of a scenario.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/params.h"

namespace simrun {

std::vector<std::string> BatchingPolicyNames();
std::vector<std::string> RouterNames();
std::vector<std::string> QueueOrderNames();
std::vector<std::string> PreemptionNames();
std::vector<std::string> KvOffloadingFetchNames();  // always, auto

std::vector<std::string> ExpertPolicyNames();
std::vector<std::string> ExpertRankingNames();
std::vector<std::string> ExpertPrefetchNames();
std::vector<std::string> ExpertResidentNames();  // popular, arbitrary

// Routed experts that a placement keeps outside GPU memory.
struct ExpertsConfig {
  std::optional<std::string> policy;
  std::string cache = "pinned";
  double score_rate = 0.02;
  std::string prefetch = "none";
  int64_t prefetch_layers = 1;
  std::optional<int64_t> prefetch_buffer;
  double predictor_accuracy = 0.8;
  std::string residents = "popular";
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("policy", policy, {.help = "how a layer's experts are shared between GPU, CPU and link, choices drawn token by token; "
                                       "auto: where they lie, in expectation", .choices = &ExpertPolicyNames});
    v.Field("cache", cache, {.help = "which experts stay in GPU memory", .choices = &ExpertRankingNames});
    v.Field("score_rate", score_rate, {.help = "cache score: weight of the newest step", .min = 0.0001, .max = 1});
    v.Field("prefetch", prefetch, {.help = "which experts cross the link ahead of time", .choices = &ExpertPrefetchNames});
    v.Field("prefetch_layers", prefetch_layers, {.help = "layers that prefetch looks ahead", .min = 1, .max = 16});
    v.Field("prefetch_buffer", prefetch_buffer,
            {.help = "experts brought ahead that GPU memory has room for at a time; auto: those that one token chooses", .min = 1, .max = 1 << 16});
    v.Field("predictor_accuracy", predictor_accuracy, {.help = "part of a layer's active experts that prefetch foresees", .min = 0, .max = 1});
    v.Field("residents", residents, {.help = "experts in GPU memory at the start: the most popular, or any", .choices = &ExpertResidentNames});
  }
  // `experts: hybrid` is short for `{policy: hybrid}`.
  absl::Status ReadScalar(const YamlNode& node);
};

// Values left at auto come from the engine profile.
struct SchedulerConfig {
  std::optional<std::string> policy;
  std::optional<int64_t> max_num_seqs;
  std::optional<int64_t> max_num_batched_tokens;
  std::optional<int64_t> block_size;
  std::optional<double> watermark;
  int64_t prompt_wait_steps = 0;
  double prompt_wait_fill = 0.9;
  std::optional<bool> prefix_caching;
  std::string queue_order = "fcfs";
  std::string preemption = "recompute";
  Bytes swap_space{4.0 * 1024 * 1024 * 1024};
  Bytes kv_offloading_size{0};
  std::string kv_offloading_fetch = "always";
  std::string router = "round-robin";
  std::optional<int64_t> max_model_len;
  bool allow_longer_context = false;
  std::optional<int64_t> micro_batches;
  ExpertsConfig experts;

  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("policy", policy, {.help = "which requests run in a step; auto: the engine profile's", .choices = &BatchingPolicyNames});
    v.Field("max_num_seqs", max_num_seqs, {.help = "most sequences running at once in one engine (per attention rank)", .min = 1, .max = 1 << 20});
    v.Field("max_num_batched_tokens", max_num_batched_tokens, {.help = "most new tokens in one step: the prompt budget", .min = 1, .max = 1 << 24});
    v.Field("block_size", block_size, {.help = "tokens per KV block", .min = 1, .max = 4096});
    v.Field("watermark", watermark, {.help = "fraction of KV blocks kept free when admitting a request", .min = 0, .max = 0.9});
    v.Field("prompt_wait_steps", prompt_wait_steps,
            {.help = "orca: steps that prompts wait beside running sequences for more prompts (TensorRT-LLM's batch_wait_timeout_iters)", .min = 0, .max = 1 << 20});
    v.Field("prompt_wait_fill", prompt_wait_fill,
            {.help = "the wait ends when the step would hold this share of max_num_batched_tokens (batch_wait_max_tokens_ratio)", .min = 0, .max = 1});
    v.Field("prefix_caching", prefix_caching,
            {.help = "prompts that begin as others did (hash_ids of a trace, workload.shared_prefix) find those KV blocks; auto: the engine profile's"});
    v.Field("queue_order", queue_order, {.help = "order of the waiting queue", .choices = &QueueOrderNames});
    v.Field("preemption", preemption, {.help = "what happens to a sequence whose KV blocks are taken away; auto: whichever of the two takes less time for its length", .choices = &PreemptionNames});
    v.Field("swap_space", swap_space, {.help = "host memory per GPU for swapped KV blocks; when full, preemption recomputes", .min = 0});
    v.Field("kv_offloading_size", kv_offloading_size,
            {.help = "host memory of an engine that keeps KV blocks of prompts for others that begin alike, when GPU memory has "
                     "given them up (vLLM's KV offloading, LMCache, SGLang's HiCache); needs prefix_caching. 0: none", .min = 0});
    v.Field("kv_offloading_fetch", kv_offloading_fetch,
            {.help = "what a prompt does with blocks found there; auto: copies them to the GPU where that takes less time than computing them again",
             .choices = &KvOffloadingFetchNames});
    v.Field("router", router, {.help = "how requests are dealt to the replicas", .choices = &RouterNames});
    v.Field("max_model_len", max_model_len, {.help = "longest prompt plus output accepted; auto: the model's context length", .min = 1});
    v.Field("allow_longer_context", allow_longer_context,
            {.help = "accept requests, and a max_model_len, beyond the model's context, as engines do when told to: times hold, the text may not"});
    v.Field("micro_batches", micro_batches, {.help = "batches in flight in a pipeline; auto: one per stage", .min = 1, .max = 1024});
    v.Field("experts", experts, {.help = "how experts outside GPU memory run"});
  }
};

}  // namespace simrun
