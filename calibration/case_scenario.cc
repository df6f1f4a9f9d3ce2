#include "calibration/case_scenario.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "base/quantity_text.h"
#include "base/status.h"
#include "hw/engine_profile.h"
#include "models/dtype.h"
#include "models/lowering.h"
#include "models/model_names.h"
#include "models/model_spec.h"
#include "sim/resolved.h"

namespace simrun {
namespace {

YamlNode Number(double value) { return YamlNode::Scalar(fmt::format("{}", static_cast<int64_t>(std::llround(value)))); }
YamlNode Text(std::string_view value) {
  YamlNode node = YamlNode::Scalar(std::string(value));
  node.set_quoted(true);
  return node;
}

bool IsServed(const MeasuredCase& c) {
  return c.load_kind == "concurrency" || c.load_kind == "poisson_rate" || c.load_kind == "trace" || c.load_kind == "saturated_batch";
}

// How the published closed-loop benchmarks load a server. In all of them every client sends its first request at once
// and its next one when the last has finished: the prompts of the first round queue behind one another, and clients that
// send equal lengths stay in step.
struct ClosedLoopBenchmark {
  double rounds = 10;         // requests per client
  double shortest = 1;        // lengths are uniform from this share of the nominal one up to it
  bool seats_for_clients = true;    // the server runs as many sequences at once as there are clients, and no more
  // How the server was started, where no note says so.
  double max_num_batched_tokens = 0;    // 0: the engine's default
  double prompt_wait_steps = 0;
  double gpu_memory_utilization = 0;    // 0: the engine's default
  std::string kv_cache;                 // empty: the engine's default
  std::string moe_backend;              // empty: the engine's default
  bool asynchronous = false;            // with --async-scheduling
};

// InferenceMAX (its README and scripts, Apache-2.0): benchmark_serving.py --request-rate inf --num-prompts $((CONC * 10))
// --max-concurrency $CONC --random-range-ratio 0.8 on three pairs of lengths; the server runs with --max-num-seqs $CONC.
// Its servers: TensorRT-LLM with --max_num_tokens 16384 and, for 1024/1024 on fewer than 8 GPUs, batch_wait_timeout_iters
// 20; vLLM on H200 with --kv-cache-dtype fp8 and --async-scheduling, on H100 with neither (full caches say so of the first),
// on both with VLLM_MXFP4_USE_MARLIN=1; SGLang with --chunked-prefill-size 32768 and --mem-fraction-static 0.82.
// Other published runs come from genai-perf or aiperf as aiconfigurator calls them (its eval and benchmark rules,
// Apache-2.0): --request-count 10 x concurrency, standard deviation of the lengths 0; TensorRT-LLM's token budget is
// that of the running sequences, one prompt and 500 more, in whole KV blocks of 32. The 500 are from an account of its
// generator (its present rules say 1500, which the fitted runs rule out) and were taken with all runs in view.
ClosedLoopBenchmark BenchmarkOf(const MeasuredCase& c) {
  const std::pair<double, double> lengths = {c.isl.value_or(0), c.osl.value_or(0)};
  const std::optional<std::string> stated = c.Note("length_range_ratio");
  const bool inference_max = lengths == std::pair(1024.0, 1024.0) || lengths == std::pair(1024.0, 8192.0) || lengths == std::pair(8192.0, 1024.0);
  ClosedLoopBenchmark b;
  if (stated) {
    // Somebody's own run, whose server the flags beside it describe.
    b.seats_for_clients = false;
    if (const absl::StatusOr<double> ratio = ParseNumber(*stated); ratio.ok() && *ratio >= 0 && *ratio <= 1) b.shortest = *ratio;
    return b;
  }
  if (inference_max) {
    b.shortest = 0.8;
    if (c.engine == "trtllm") {
      b.max_num_batched_tokens = 16384;
      if (lengths.first == lengths.second && c.n_gpus < 8) b.prompt_wait_steps = 20;
    } else if (c.engine == "sglang") {
      b.max_num_batched_tokens = 32768;
      b.gpu_memory_utilization = 0.82;
    } else if (c.engine == "vllm" && c.gpu == "h200-sxm-141gb" && c.weights_dtype == "fp8") {
      b.kv_cache = "fp8";
      b.asynchronous = true;
    } else if (c.engine == "vllm" && (c.gpu == "h100-sxm-80gb" || c.gpu == "h200-sxm-141gb") && c.weights_dtype == "mxfp4") {
      b.moe_backend = "marlin";
    }
  } else if (c.engine == "trtllm") {
    b.max_num_batched_tokens = std::ceil((std::ceil(c.load_value / c.dp) + c.isl.value_or(0) + 500) / 32) * 32;
  }
  return b;
}

// What is known about the texts of a task whose mean lengths alone are published: the standard deviations of the logarithms
// of lengths.
struct TaskLengths {
  double prompts = 0;
  double answers = 0.8;   // chat and reasoning traces have a coefficient of variation near 1
  // Where the client leaves texts out, or nobody writes longer ones.
  double shortest = 1;
  std::optional<double> longest_prompt, longest_answer;
};

TaskLengths LengthsOfTask(const std::string& task) {
  // Prompts to chat bots: a line or two mostly, pasted pages now and then. LMSYS-Chat-1M: the mean is 3.6 medians,
  // 1.6 of a lognormal, and the 99th percentile 34 medians (1.5). Most steps then have hardly more to compute
  // for a prompt that begins, and few have much.
  if (task == "lm-arena-chat") return {.prompts = 1.6};
  // Conversations with a chat bot, of which the client of vLLM's benchmarks (Apache-2.0) leaves out prompts of fewer than 4
  // tokens and more than 1024. The lists of 320 requests beside results of LambdaLabsML/vllm-benchmark have coefficients of
  // variation of 1.13 (prompts) and 0.93 (answers, the longest of 781 tokens: a run does not end with few very long ones).
  if (task == "sharegpt") return {.prompts = 1.5, .answers = 1.0, .shortest = 4, .longest_prompt = 1024, .longest_answer = 1024};
  // Multiple-choice questions, each with reasoning of its own: with the spread of chats 59 sequences of Qwen3-14B, which were
  // seen running, would not have fitted in the KV cache. Fitted to these runs.
  if (task == "gpqa") return {.answers = 0.4};
  return {};
}

double ClosedLoopRequests(const MeasuredCase& c, double clients, double rounds) {
  return std::clamp(c.num_requests.value_or(clients * rounds), clients, 20000.0);
}

// "1.2.0" is 1002: 1000 for a major version, 1 for a minor one. Nothing for what is no number ("2023-late").
std::optional<double> VersionNumber(std::string_view version) {
  const size_t dot = version.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view rest = version.substr(dot + 1);
  const absl::StatusOr<int64_t> major = ParseInteger(version.substr(0, dot));
  const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
  if (!major.ok()) return std::nullopt;
  if (digits == 0) return 1000.0 * static_cast<double>(*major);
  const absl::StatusOr<int64_t> minor = ParseInteger(rest.substr(0, digits));
  if (!minor.ok()) return std::nullopt;
  return 1000.0 * static_cast<double>(*major) + static_cast<double>(*minor);
}

// Whether a profile that lists `prefix` stands for `version`: "0.1" for 0.1 and 0.1.2, not for 0.10. An empty one for runs that
// do not state a version.
bool Covers(std::string_view prefix, std::string_view version) {
  if (prefix.empty() || version.substr(0, prefix.size()) != prefix) return prefix.empty() && version.empty();
  return version.size() == prefix.size() || !absl::ascii_isdigit(prefix.back()) || !absl::ascii_isdigit(version[prefix.size()]);
}

// The case in the catalogue's names for what it knows by other names or spellings too.
absl::StatusOr<MeasuredCase> WithCatalogNames(MeasuredCase c, const Catalog& catalog) {
  if (const absl::StatusOr<std::string> gpu = ResolveGpu(c.gpu, catalog); gpu.ok()) {
    c.gpu = *gpu;
  } else if (const absl::StatusOr<std::string> cpu = catalog.Resolve("cpus", c.gpu); cpu.ok()) {
    c.gpu = *cpu;
  }
  c.engine = EngineOf(c.engine, catalog);
  if (c.weights_dtype == "auto") c.weights_dtype.clear();
  if (const absl::StatusOr<std::string> name = ResolveModel(c.model, catalog); name.ok() && *name != c.model) {
    SIMRUN_ASSIGN_OR_RETURN(const ModelSpec model, LoadModel(c.model, catalog));
    if (c.weights_dtype.empty()) c.weights_dtype = DTypeName(model.expert_dtype.value_or(model.native_dtype));
    c.model = *name;
  }
  for (std::string* dtype : {&c.weights_dtype, &c.kv_dtype}) {
    if (dtype->empty() || *dtype == "auto") continue;
    const std::optional<DType> format = FormatIn(*dtype);
    if (!format) return absl::UnimplementedError(fmt::format("number format {} is not modelled", *dtype));
    *dtype = DTypeName(*format);
  }
  return c;
}

}  // namespace

std::string EngineOf(std::string_view name, const Catalog& catalog) {
  for (const std::string& entry : catalog.Names("engines")) {
    const absl::StatusOr<EngineProfile> profile = LoadEngineProfile(entry, catalog);
    if (profile.ok() && PlainSpelling(profile->engine) == PlainSpelling(name)) return profile->engine;
  }
  const absl::StatusOr<std::string> entry = catalog.Resolve("engines", name);
  const absl::StatusOr<EngineProfile> profile = entry.ok() ? LoadEngineProfile(*entry, catalog) : entry.status();
  return profile.ok() && !profile->engine.empty() ? profile->engine : std::string(name);
}

absl::StatusOr<std::string> EngineProfileFor(std::string_view engine, std::string_view version, const Catalog& catalog,
                                             std::string* nearest) {
  if (version.size() > 1 && version[0] == 'v' && absl::ascii_isdigit(version[1])) version.remove_prefix(1);
  const std::optional<double> number = VersionNumber(version);
  std::string best, closest, unstated;
  size_t best_length = 0;
  double distance = 0;
  std::vector<std::string> engines;
  for (const std::string& name : catalog.Names("engines")) {
    const absl::StatusOr<EngineProfile> profile = LoadEngineProfile(name, catalog);
    if (!profile.ok()) return profile.status();
    if (!profile->engine.empty()) engines.push_back(profile->engine);
    if (profile->engine != engine) continue;
    for (const std::string& prefix : profile->versions) {
      if (Covers(prefix, version) && (best.empty() || prefix.size() > best_length)) {
        best = name;
        best_length = prefix.size();
      }
      if (prefix.empty()) unstated = name;
      const std::optional<double> listed = VersionNumber(prefix);
      if (number && listed && (closest.empty() || std::abs(*listed - *number) < distance)) {
        closest = name;
        distance = std::abs(*listed - *number);
      }
    }
  }
  if (!best.empty()) return best;
  if (closest.empty()) closest = unstated;   // "b4000" has no number to compare
  if (!closest.empty()) {
    if (nearest != nullptr) *nearest = fmt::format("no engine profile for {} {}: the nearest one's, {}", engine, version, closest);
    return closest;
  }
  std::sort(engines.begin(), engines.end());
  engines.erase(std::unique(engines.begin(), engines.end()), engines.end());
  return absl::UnimplementedError(fmt::format("no engine profile for {} {}; profiles exist for {}", engine,
                                              version.empty() ? "without a version" : version, fmt::join(engines, ", ")));
}

absl::StatusOr<CaseScenario> ScenarioOfCase(const MeasuredCase& given, const std::string& traces_dir,
                                            const std::shared_ptr<const Catalog>& catalog, const std::string& given_profile) {
  SIMRUN_ASSIGN_OR_RETURN(const MeasuredCase c, WithCatalogNames(given, *catalog));
  std::vector<std::string> assumptions;
  YamlNode root = YamlNode::Map();
  const auto set = [&](std::string_view path, YamlNode value) { SIM_CHECK(root.Set(path, std::move(value)).ok()); };

  set("model", Text(c.model));
  // A CPU that works alone stands in the place of the GPU.
  const bool by_cpu = !catalog->Resolve("gpus", c.gpu).ok() && catalog->Resolve("cpus", c.gpu).ok();
  set(by_cpu ? "hardware.cpu" : "hardware.gpu", Text(c.gpu));
  if (!by_cpu) set("hardware.count", Number(c.n_gpus));
  SIMRUN_ASSIGN_OR_RETURN(const ModelSpec model, LoadModel(c.model, *catalog));
  set("plan.tp", Number(c.tp));
  set("plan.pp", Number(c.pp));
  // Without expert parallelism, attention replicas of a dense model are replicas of the engine.
  set(model.moe ? "plan.dp" : "plan.replicas", Number(c.dp));
  set("plan.ep", Number(c.ep));
  if (!c.weights_dtype.empty()) set("plan.weights", Text(c.weights_dtype));
  std::string kv_dtype = c.kv_dtype;   // "auto": the engine's default
  const std::string gemm = c.Note("gemm_quant").value_or(c.weights_dtype);
  if (kv_dtype.empty() && c.engine == "trtllm" && (gemm == "fp8" || gemm == "nvfp4")) {
    // Per-tensor FP8 and NVFP4 checkpoints are made by NVIDIA ModelOpt, whose configuration asks for an FP8 KV cache, and
    // TensorRT-LLM does what the checkpoint says. Block-scaled FP8 checkpoints of model makers do not ask for it.
    kv_dtype = "fp8";
    assumptions.push_back("KV cache format not stated: fp8, as ModelOpt checkpoints ask for");
  }
  if (!kv_dtype.empty() && kv_dtype != "auto") set("plan.kv_cache", Text(kv_dtype));

  std::string profile = given_profile;
  if (profile.empty()) {
    std::string nearest;
    SIMRUN_ASSIGN_OR_RETURN(profile, EngineProfileFor(c.engine, c.engine_version, *catalog, &nearest));
    if (!nearest.empty()) assumptions.push_back(nearest);
  }
  // vLLM up to 0.13 schedules asynchronously when it is told to.
  const ClosedLoopBenchmark benchmark = c.load_kind == "concurrency" ? BenchmarkOf(c) : ClosedLoopBenchmark();
  const std::string asynchronous = c.Note("async_scheduling").value_or(benchmark.asynchronous ? "1" : "");
  if (asynchronous == "1" && catalog->Resolve("engines", profile + "-async").ok()) {
    profile += "-async";
  } else if (!asynchronous.empty()) {
    set("engine.overlap", YamlNode::Scalar(asynchronous == "1" ? "true" : "false"));
  }
  set("engine.profile", Text(profile));
  if (c.Note("eager") == "1") set("engine.cuda_graphs", YamlNode::Scalar("false"));
  // TensorRT-LLM's published figures are NVIDIA's own, from servers whose PCIe switches let GPUs reach one another; machines
  // of clouds, on which collectives over PCIe were measured, mostly do not.
  if (c.engine == "trtllm" && c.n_gpus > 2) set("hardware.peer_to_peer", YamlNode::Scalar("true"));
  const auto copy = [&](const char* note, const char* path) {
    if (const auto value = c.Note(note); value && ParseInteger(*value).ok()) set(path, YamlNode::Scalar(*value));
  };
  copy("num_gpu_blocks", "engine.kv_blocks");
  copy("max_num_seqs", "scheduler.max_num_seqs");
  copy("max_num_batched_tokens", "scheduler.max_num_batched_tokens");
  copy("max_model_len", "scheduler.max_model_len");
  copy("block_size", "scheduler.block_size");
  copy("kv_block_size", "scheduler.block_size");
  copy("graph_max_tokens", "engine.graph_max_tokens");
  if (const auto sizes = c.Note("graph_sizes")) set("engine.graph_sizes", *ParseYaml("[" + absl::StrReplaceAll(*sizes, {{" ", ", "}}) + "]", ""));
  copy("hash_block", "workload.hash_block");
  if (const std::string kernels = c.Note("moe_backend").value_or(benchmark.moe_backend); !kernels.empty()) set("engine.moe_backend", Text(kernels));
  if (const auto chunked = c.Note("chunked_prefill"); chunked && c.engine == "vllm") set("scheduler.policy", Text(*chunked == "1" ? "chunked-prefill" : "prefill-first"));
  if (const auto caching = c.Note("prefix_cache")) set("scheduler.prefix_caching", YamlNode::Scalar(*caching == "1" ? "true" : "false"));
  // Offloading engines: the host, and what is kept where.
  if (const auto host = c.Note("host")) {
    // "2x_Xeon_Gold_6454S"
    const size_t x = host->find("x_");
    const std::string name = x == std::string::npos ? *host : host->substr(x + 2);
    if (catalog->Resolve("cpus", name).ok()) {
      set("hardware.host", Text(name));
    } else {
      assumptions.push_back(fmt::format("host {} is not in the catalogue: the GPU's usual one", name));
    }
  }
  copy("sockets", "hardware.sockets");
  copy("experts_active", "plan.experts_active");
  if (const auto dram = c.Note("host_dram_gb")) set("hardware.host_memory", Text(*dram + " GB"));
  if (const auto lowest = c.Note("lowest_tier")) {
    if (*lowest == "gpu") set("plan.placement", Text("gpu"));
    if (*lowest == "disk") {
      set("hardware.nvme.link", Text("nvme-cloud-ssd"));
      set("hardware.nvme.capacity", Text("1.5 TB"));
      if (c.engine == "deepspeed-zero-inference") set("plan.placement", *ParseYaml("[{tensors: attention, tier: nvme}, {tensors: dense_ffn, tier: nvme}]", ""));
    }
    if (c.isl && c.osl) set("scheduler.max_model_len", Number(*c.isl + *c.osl));
  }
  if (const auto fraction = c.Note("kv_fraction"); fraction && c.engine != "trtllm") set("engine.gpu_memory_utilization", YamlNode::Scalar(*fraction));

  // A library call has no server in front of it.
  if (!IsServed(c) || c.Note("library") == "1") set("engine.server", YamlNode::Scalar("false"));

  const auto lengths = [&](double fallback_input) -> absl::Status {
    if (!c.osl) return absl::UnimplementedError("the output length is not stated");
    if (!c.isl) {
      if (fallback_input <= 0) return absl::UnimplementedError("the input length is not stated");
      assumptions.push_back(fmt::format("input length not stated: {} tokens", fallback_input));
    }
    // It was run, so the engine was told to take it.
    const std::optional<std::string> limit = c.Note("max_model_len");
    const double length = std::max(c.isl.value_or(fallback_input) + *c.osl, limit ? ParseNumber(*limit).value_or(0) : 0);
    if (length > static_cast<double>(model.max_positions)) set("scheduler.allow_longer_context", YamlNode::Scalar("true"));
    set("workload.input_tokens", Number(c.isl.value_or(fallback_input)));
    set("workload.output_tokens", Number(*c.osl));
    return absl::OkStatus();
  };
  // Where only the mean lengths of a task's texts are known, they vary.
  const std::string task = c.Note("task").value_or(c.Note("dataset").value_or(""));
  const TaskLengths spread = LengthsOfTask(task);
  const bool means = c.Note("osl_kind") == "mean" || (!task.empty() && c.Note("dataset") == task && spread.prompts > 0);
  const auto vary = [&](double fallback_input) {
    const double input = c.isl.value_or(fallback_input), positions = static_cast<double>(model.max_positions);
    const auto lognormal = [&](const char* path, double mean, double sigma, double longest) {
      YamlNode law = YamlNode::Map();
      if (spread.shortest > 1) SIM_CHECK(law.Set("lognormal.min", Number(spread.shortest)).ok());
      SIM_CHECK(law.Set("lognormal.mean", Number(mean)).ok());
      SIM_CHECK(law.Set("lognormal.sigma", YamlNode::Scalar(fmt::format("{}", sigma))).ok());
      SIM_CHECK(law.Set("lognormal.max", Number(longest)).ok());
      set(path, std::move(law));
    };
    if (means) {
      // Answers of a task differ in length: the long ones stay in the batch longer, so the running sequences are longer
      // than half the mean.
      assumptions.push_back(fmt::format("lengths of answers vary with sigma {}", spread.answers));
      lognormal("workload.output_tokens", *c.osl, spread.answers, std::min(spread.longest_answer.value_or(*c.osl * 10), positions - input));
    }
    if ((means || !c.isl) && spread.prompts > 0) {
      assumptions.push_back(fmt::format("lengths of prompts vary with sigma {}", spread.prompts));
      lognormal("workload.input_tokens", input, spread.prompts, std::min(spread.longest_prompt.value_or(input * 40), positions / 2));
    }
  };
  if (c.load_kind == "static_batch") {
    SIMRUN_RETURN_IF_ERROR(lengths(0));
    set("workload.static_batch", Number(c.load_value));
    if (!c.Note("max_num_seqs")) set("scheduler.max_num_seqs", Number(c.load_value));
  } else if (c.load_kind == "single_sequence") {
    SIMRUN_RETURN_IF_ERROR(lengths(0));
    set("workload.static_batch", Number(1));
  } else if (c.load_kind == "concurrency") {
    SIMRUN_RETURN_IF_ERROR(lengths(0));
    set("workload.concurrency", Number(c.load_value));
    set("workload.requests", Number(ClosedLoopRequests(c, c.load_value, benchmark.rounds)));
    if (means) {
      vary(0);
    } else if (benchmark.shortest < 1) {
      const auto range = [&](const char* path, double longest) {
        YamlNode uniform = YamlNode::Map();
        SIM_CHECK(uniform.Set("uniform.min", Number(std::max(1.0, std::floor(longest * benchmark.shortest)))).ok());
        SIM_CHECK(uniform.Set("uniform.max", Number(longest)).ok());
        set(path, std::move(uniform));
      };
      range("workload.input_tokens", *c.isl);
      range("workload.output_tokens", *c.osl);
    }
    const double clients_per_rank = std::ceil(c.load_value / c.dp);
    if (benchmark.seats_for_clients && !c.Note("max_num_seqs")) set("scheduler.max_num_seqs", Number(clients_per_rank));
    if (benchmark.max_num_batched_tokens > 0 && !c.Note("max_num_batched_tokens")) {
      set("scheduler.max_num_batched_tokens", Number(benchmark.max_num_batched_tokens));
    }
    if (benchmark.gpu_memory_utilization > 0 && !c.Note("kv_fraction")) {
      set("engine.gpu_memory_utilization", YamlNode::Scalar(fmt::format("{}", benchmark.gpu_memory_utilization)));
    }
    if (benchmark.prompt_wait_steps > 0) set("scheduler.prompt_wait_steps", Number(benchmark.prompt_wait_steps));
    if (!benchmark.kv_cache.empty() && c.kv_dtype.empty()) {
      set("plan.kv_cache", Text(benchmark.kv_cache));
      assumptions.push_back(fmt::format("KV cache format not stated: {}, as the benchmark starts its servers", benchmark.kv_cache));
    }
  } else if (c.load_kind == "saturated_batch") {
    constexpr double kAssumedPrompt = 256;
    SIMRUN_RETURN_IF_ERROR(lengths(kAssumedPrompt));
    // Chat and reasoning tasks sample as the model's generation settings say, with top-p or top-k, in vLLM's own sampler.
    if (c.engine == "vllm" && c.Note("task")) {
      set("engine.sampling_passes", YamlNode::Scalar("120"));
      assumptions.push_back("tokens sampled with top-p");
    }
    // The mean running batch was measured: as many clients keep it full.
    set("workload.concurrency", Number(c.load_value));
    set("workload.requests", Number(ClosedLoopRequests(c, c.load_value, 20)));
    vary(kAssumedPrompt);
  } else if (c.load_kind == "offline_max_inflight") {
    SIMRUN_RETURN_IF_ERROR(lengths(0));
    set("workload.arrivals", Text("all_at_once"));
    set("workload.requests", Number(c.num_requests.value_or(c.load_value)));
    const bool capped = !c.num_requests || c.load_value < *c.num_requests;
    if (capped && !c.Note("max_num_seqs")) set("scheduler.max_num_seqs", Number(c.load_value));
    if (means) vary(0);
  } else if (c.load_kind == "poisson_rate") {
    SIMRUN_RETURN_IF_ERROR(lengths(0));
    set("workload.arrivals.poisson.rate", YamlNode::Scalar(fmt::format("{} /s", c.load_value)));
    set("workload.requests", Number(c.num_requests.value_or(1000)));
    if (means) vary(0);
  } else if (c.load_kind == "trace") {
    set("workload.trace", Text(traces_dir + "/" + c.trace));
  } else {
    return absl::UnimplementedError(fmt::format("load kind {} is not known", c.load_kind));
  }
  // What a source states of a run beyond these.
  std::map<std::string, std::string> stated = c.settings;
  for (const MeasuredValue& v : c.values) stated.insert(v.notes.begin(), v.notes.end());
  for (const auto& [key, value] : stated) {
    constexpr std::string_view kSet = "set:";
    if (key.rfind(kSet, 0) != 0) continue;
    SIMRUN_ASSIGN_OR_RETURN(YamlNode node, ParseYaml(value, c.file));
    SIMRUN_RETURN_IF_ERROR(root.Set(key.substr(kSet.size()), std::move(node)));
  }
  absl::StatusOr<Scenario> scenario = Scenario::FromNode(std::move(root), "", catalog);
  if (!scenario.ok()) return scenario.status();
  if (c.load_kind == "static_batch" && c.engine == "trtllm" && VersionNumber(c.engine_version).value_or(1000) < 10) {
    // Sessions of TensorRT-LLM before 0.10 compute the prompts of a batch together and allocate its cache in what is left;
    // later ones have an executor, in which sequences wait for others to end.
    const ResolvedScenario& r = scenario->resolved();
    const double tokens = c.load_value * *c.isl, block = static_cast<double>(r.params.limits.block_size);
    const double blocks = c.load_value * std::ceil((*c.isl + *c.osl) / block);
    const Bytes buffers = ActivationBytesPerGpu(r.model, r.plan, std::llround(tokens), std::llround(c.load_value));
    if (static_cast<double>(r.memory.kv_blocks) < blocks &&
        r.memory.weights + buffers + r.memory.reserve + r.memory.kv_block * blocks <= r.memory.gpu) {
      scenario = scenario->With("engine.kv_blocks", fmt::format("{:.0f}", blocks));
      if (!scenario.ok()) return scenario.status();
      assumptions.push_back("the KV cache holds the whole batch");
    }
  }
  if (const auto fraction = c.Note("kv_fraction"); fraction && c.engine == "trtllm") {
    // TensorRT-LLM takes the share of what weights and buffers leave free: U M - W = f (M - W).
    const MemoryPlan& m = scenario->resolved().memory;
    const double free_share = ParseNumber(*fraction).value_or(0.9);
    const double taken = (m.weights + m.activations + m.reserve) / m.gpu;
    scenario = scenario->With("engine.gpu_memory_utilization", fmt::format("{:.6f}", std::min(1.0, free_share + (1 - free_share) * taken)));
    if (!scenario.ok()) return scenario.status();
  }
  return CaseScenario{*std::move(scenario), c, std::move(assumptions)};
}

// The A100 table of TensorRT-LLM 0.6 gives the throughput of one GPU: the rows it shares with 0.5 and 0.7 are an exact
// half, quarter and eighth of theirs on 2, 4 and 8 GPUs.
static double GpusOfThroughput(const MeasuredCase& c) {
  return c.engine == "trtllm" && c.engine_version == "0.6.0" && c.gpu == "a100-sxm-80gb" ? c.n_gpus : 1;
}

std::optional<double> PredictedValue(const MeasuredCase& c, const MeasuredValue& v, const Report& r) {
  const bool batch = c.load_kind == "static_batch" || c.load_kind == "single_sequence";
  const auto latency = [&](const LatencySummary& s) -> std::optional<double> {
    if (s.count == 0) return std::nullopt;
    // The times of a static batch are those of the whole batch.
    if (batch && v.statistic == "mean" && (v.metric == "ttft" || v.metric == "e2e")) return s.max.value();
    if (v.statistic == "mean") return s.mean.value();
    if (v.statistic == "p50") return s.p50.value();
    if (v.statistic == "p90") return s.p90.value();
    if (v.statistic == "p95") return s.p95.value();
    if (v.statistic == "p99") return s.p99.value();
    return std::nullopt;
  };
  const double scale = v.unit == "ms" ? 1e3 : 1;
  const auto scaled = [&](std::optional<double> seconds) -> std::optional<double> {
    if (!seconds) return std::nullopt;
    return *seconds * scale;
  };
  if (v.metric == "ttft") return scaled(latency(r.ttft));
  if (v.metric == "itl") return scaled(latency(r.itl));
  if (v.metric == "e2e") return scaled(latency(r.e2e));
  if (v.metric == "tpot") {
    const auto definition = v.notes.find("tpot_def");
    if (definition != v.notes.end() && definition->second == "sum_itl/all_out_tokens") {
      // The first token counts in the denominator.
      if (r.requests.output_tokens == 0) return std::nullopt;
      return r.itl.mean.value() * static_cast<double>(r.itl.count) / static_cast<double>(r.requests.output_tokens) * scale;
    }
    return scaled(latency(r.tpot));
  }
  const double seconds = r.simulation.simulated_s;
  if (seconds <= 0) return std::nullopt;
  // A window in the steady state: so many requests run, each of so many tokens in so much time. The end of a run, when the
  // last long answers are alone, is no part of it.
  if (c.load_kind == "saturated_batch" && r.e2e.count > 0 && r.throughput.requests_per_s > 0) {
    const double rate = c.load_value / (r.e2e.mean - r.queue_delay.mean).value();
    if (v.metric == "throughput_out") return rate * r.throughput.output_tokens_per_s / r.throughput.requests_per_s;
    if (v.metric == "throughput_total") return rate * (r.throughput.output_tokens_per_s + r.throughput.input_tokens_per_s) / r.throughput.requests_per_s;
    if (v.metric == "request_rate") return rate;
    const double watts = (r.energy.by_component.at("gpu_active") + r.energy.by_component.at("gpu_idle")) / seconds;
    if (v.metric == "energy_per_request") return watts / rate;
    if (v.metric == "energy_per_out_token") return watts / rate * r.throughput.requests_per_s / r.throughput.output_tokens_per_s;
  }
  // Rates of a served system are those after the start; a batch job is measured from end to end.
  if (IsServed(c) && v.metric == "throughput_out") return r.throughput.output_tokens_per_s;
  if (IsServed(c) && v.metric == "throughput_total") return r.throughput.output_tokens_per_s + r.throughput.input_tokens_per_s;
  if (IsServed(c) && v.metric == "request_rate") return r.throughput.requests_per_s;
  const double outputs = static_cast<double>(r.requests.output_tokens);
  if (v.metric == "throughput_out") return outputs / seconds / GpusOfThroughput(c);
  if (v.metric == "throughput_total") return (outputs + static_cast<double>(r.requests.input_tokens)) / seconds;
  if (v.metric == "request_rate") return static_cast<double>(r.requests.completed) / seconds;
  // Meters read the GPU boards, not the host.
  const double gpu_joules = r.energy.by_component.at("gpu_active") + r.energy.by_component.at("gpu_idle");
  if (v.metric == "power") return gpu_joules / seconds;
  if (v.metric == "energy_per_out_token") return outputs > 0 ? std::optional(gpu_joules / outputs) : std::nullopt;
  if (v.metric == "energy_per_request") {
    return r.requests.completed > 0 ? std::optional(gpu_joules / static_cast<double>(r.requests.completed)) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace simrun
