#include "calibration/bench_result.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include <fmt/format.h>

#include "base/params.h"
#include "base/quantity_text.h"
#include "base/status.h"
#include "base/yaml.h"

namespace simrun {
namespace {

struct BenchFlags {
  std::string gpu, model, engine = "vllm", engine_version, weights_dtype, kv_dtype, moe_backend;
  int64_t tp = 1, pp = 1, dp = 1, ep = 1;
  double random_range_ratio = 1;
  std::optional<bool> async_scheduling;
  std::optional<int64_t> max_num_seqs, max_num_batched_tokens, num_gpu_blocks, block_size, max_model_len;
  template <class V>
  void Describe(V& v) {
    v.Field("gpu", gpu, {.help = "GPU from the catalogue", .required = true});
    v.Field("model", model, {.help = "model from the catalogue"});
    v.Field("engine", engine, {.help = "serving software"});
    v.Field("engine_version", engine_version, {.help = "its version"});
    v.Field("weights_dtype", weights_dtype, {.help = "number format of the weights"});
    v.Field("kv_dtype", kv_dtype, {.help = "number format of the KV cache"});
    v.Field("moe_backend", moe_backend, {.help = "--moe-backend of the server, where it is not auto"});
    v.Field("async_scheduling", async_scheduling, {.help = "--async-scheduling of the server; none: its default"});
    v.Field("tp", tp, {.help = "tensor parallelism", .min = 1, .max = 1024});
    v.Field("pp", pp, {.help = "pipeline stages", .min = 1, .max = 64});
    v.Field("dp", dp, {.help = "replicas", .min = 1, .max = 1024});
    v.Field("ep", ep, {.help = "expert parallelism", .min = 1, .max = 1024});
    v.Field("random_range_ratio", random_range_ratio, {.help = "shortest length over the longest", .min = 0.01, .max = 1});
    v.Field("max_num_seqs", max_num_seqs, {.help = "--max-num-seqs of the server", .min = 1});
    v.Field("max_num_batched_tokens", max_num_batched_tokens, {.help = "--max-num-batched-tokens of the server", .min = 1});
    v.Field("num_gpu_blocks", num_gpu_blocks, {.help = "KV blocks the server printed", .min = 1});
    v.Field("block_size", block_size, {.help = "--block-size of the server", .min = 1});
    v.Field("max_model_len", max_model_len, {.help = "--max-model-len of the server", .min = 1});
  }
};

std::optional<double> NumberAt(const YamlNode& node, std::string_view key) {
  const YamlNode* n = node.Find(key);
  if (n == nullptr || !n->IsScalar()) return std::nullopt;
  const absl::StatusOr<double> value = ParseNumber(n->text());
  return value.ok() ? std::optional(*value) : std::nullopt;
}

}  // namespace

absl::StatusOr<MeasuredCase> ReadBenchResult(const std::string& path, const std::string& flags_path) {
  SIMRUN_ASSIGN_OR_RETURN(const YamlNode json, ReadYamlFile(path));
  const std::string beside = path.substr(0, path.rfind('.')) + ".yaml";
  absl::StatusOr<YamlNode> flags_node = ReadYamlFile(flags_path.empty() ? beside : flags_path);
  if (!flags_node.ok()) {
    if (flags_node.status().code() != absl::StatusCode::kNotFound || !flags_path.empty()) return flags_node.status();
    return absl::NotFoundError(fmt::format("{}: the flags of the server are missing; write them to {} (gpu: NAME, tp: N, ...)", path, beside));
  }
  BenchFlags flags;
  Problems problems;
  ReadParams(*flags_node, "", &problems, &flags);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());

  MeasuredCase c;
  c.id = path.substr(path.rfind('/') + 1);
  c.file = path;
  c.line = 1;
  c.model = flags.model;
  if (const YamlNode* id = json.Find("model_id"); c.model.empty() && id != nullptr) {
    c.model = id->text().substr(id->text().rfind('/') + 1);
    std::transform(c.model.begin(), c.model.end(), c.model.begin(), [](unsigned char ch) { return static_cast<char>(std::tolower(ch)); });
  }
  c.engine = flags.engine;
  c.engine_version = flags.engine_version;
  c.weights_dtype = flags.weights_dtype;
  c.kv_dtype = flags.kv_dtype;
  c.gpu = flags.gpu;
  c.tp = static_cast<int>(flags.tp);
  c.pp = static_cast<int>(flags.pp);
  c.dp = static_cast<int>(flags.dp);
  c.ep = static_cast<int>(flags.ep);
  c.n_gpus = c.tp * c.pp * c.dp;

  const auto fail = [&](const std::string& what) { return absl::InvalidArgumentError(fmt::format("{}: {}", path, what)); };
  const double completed = NumberAt(json, "completed").value_or(0);
  const std::optional<double> input = NumberAt(json, "total_input_tokens"), output = NumberAt(json, "total_output_tokens");
  if (completed < 1 || !input || !output) return fail("is no result of vllm bench serve: completed, total_input_tokens and total_output_tokens are needed");
  c.num_requests = completed;
  // The nominal length is the longest: the mean of a uniform law from r L to L is (1 + r) / 2 L.
  const double nominal = 2 / (1 + flags.random_range_ratio);
  c.isl = *input / completed * nominal;
  c.osl = *output / completed * nominal;
  const YamlNode* rate = json.Find("request_rate");
  const std::optional<double> per_second = NumberAt(json, "request_rate");
  const std::optional<double> clients = NumberAt(json, "max_concurrency");
  if (rate != nullptr && per_second && *per_second > 0 && *per_second < 1e9) {
    c.load_kind = "poisson_rate";
    c.load_value = *per_second;
    c.class_name = "online-rate";
  } else {
    // Without a limit all requests are sent at once: as many clients, each with one.
    c.load_kind = "concurrency";
    c.load_value = clients.value_or(completed);
    c.class_name = "online-concurrency";
  }

  std::map<std::string, std::string> notes = {{"length_range_ratio", fmt::format("{}", flags.random_range_ratio)}};
  const auto note = [&](const char* key, const std::optional<int64_t>& value) {
    if (value) notes[key] = fmt::format("{}", *value);
  };
  note("max_num_seqs", flags.max_num_seqs);
  note("max_num_batched_tokens", flags.max_num_batched_tokens);
  note("num_gpu_blocks", flags.num_gpu_blocks);
  note("block_size", flags.block_size);
  note("max_model_len", flags.max_model_len);
  if (flags.async_scheduling) notes["async_scheduling"] = *flags.async_scheduling ? "1" : "0";
  if (!flags.moe_backend.empty()) notes["moe_backend"] = flags.moe_backend;
  const auto add = [&](const std::string& metric, const std::string& statistic, const std::string& unit, const std::string& key) {
    const std::optional<double> value = NumberAt(json, key);
    if (!value || *value <= 0) return;
    MeasuredValue v;
    v.metric = metric;
    v.statistic = statistic;
    v.unit = unit;
    v.class_name = c.class_name;
    v.value = *value;
    v.notes = notes;
    c.values.push_back(std::move(v));
  };
  const std::pair<const char*, const char*> latencies[] = {{"ttft", "ttft"}, {"tpot", "tpot"}, {"itl", "itl"}, {"e2e", "e2el"}};
  for (const auto& [metric, key] : latencies) {
    add(metric, "mean", "ms", fmt::format("mean_{}_ms", key));
    add(metric, "p50", "ms", fmt::format("median_{}_ms", key));
    for (const char* p : {"p90", "p95", "p99"}) add(metric, p, "ms", fmt::format("{}_{}_ms", p, key));
  }
  add("throughput_out", "mean", "tok/s", "output_throughput");
  add("throughput_total", "mean", "tok/s", "total_token_throughput");
  add("request_rate", "mean", "req/s", "request_throughput");
  if (c.values.empty()) return fail("has no value that can be compared, such as mean_ttft_ms or output_throughput");
  return c;
}

absl::StatusOr<std::vector<MeasuredCase>> ReadCaseFile(const std::string& path, const std::string& flags) {
  if (path.size() < 5 || path.compare(path.size() - 5, 5, ".json") != 0) return ReadCases(path);
  SIMRUN_ASSIGN_OR_RETURN(MeasuredCase c, ReadBenchResult(path, flags));
  return std::vector<MeasuredCase>{std::move(c)};
}

}  // namespace simrun
