#include "calibration/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/quantity_text.h"
#include "base/rng.h"
#include "base/status.h"
#include "calibration/benchmark_routing.h"
#include "models/model_spec.h"

namespace simrun {
namespace {

// DeepSeek-V3's attention, the only one measured with a compressed cache.
constexpr int64_t kMlaNope = 128, kMlaRope = 64, kMlaValue = 128, kMlaLatent = 512;
// vLLM before this version was measured with the older spreading of tokens (benchmark_routing.h).
constexpr int kNewSpreading = 20;   // 0.20

struct Formats { DType weights = DType::kBf16, activations = DType::kBf16; const char* entry = "bf16"; };

std::optional<Formats> ParseFormat(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Formats>, 14> kFormats = {{
      {"bf16", {DType::kBf16, DType::kBf16, "bf16"}},
      {"fp16", {DType::kFp16, DType::kFp16, "bf16"}},
      {"half", {DType::kFp16, DType::kFp16, "bf16"}},
      {"fp32", {DType::kFp32, DType::kFp32, "fp32"}},
      {"float", {DType::kFp32, DType::kFp32, "fp32"}},
      {"fp8", {DType::kFp8, DType::kFp8, "fp8"}},
      {"fp8_block", {DType::kFp8, DType::kFp8, "fp8"}},
      {"int8", {DType::kInt8, DType::kInt8, "int8"}},
      {"nvfp4", {DType::kNvfp4, DType::kNvfp4, "nvfp4"}},
      {"mxfp4", {DType::kMxfp4, DType::kMxfp4, "mxfp4"}},
      {"w4a16_mxfp4", {DType::kMxfp4, DType::kBf16, "bf16"}},
      {"int4_wo", {DType::kInt4, DType::kBf16, "bf16"}},
      {"int8_wo", {DType::kInt8, DType::kBf16, "bf16"}},
      {"int4", {DType::kInt4, DType::kBf16, "bf16"}},
  }};
  for (const auto& [known, formats] : kFormats) {
    if (known == name) return formats;
  }
  return std::nullopt;
}

void ParseSource(OpRow* row) {
  const std::string_view source = row->source;
  for (const std::string_view known : {"vllm", "sglang", "trtllm", "oneccl", "nccl", "rccl"}) {
    const size_t at = source.find(known);
    if (at == std::string_view::npos) continue;
    row->backend = std::string(known);
    const size_t start = at + known.size();
    row->version = std::string(source.substr(start, source.find_first_of(":+ ", start) - start));
    break;
  }
  // "sglang0.5.6:TRTLLM" is TensorRT-LLM's kernel inside another framework.
  if (source.find(":TRTLLM") != std::string_view::npos) row->backend = "trtllm";
  if (row->backend.empty()) row->backend = std::string(source.substr(0, source.find(':')));
  row->cold = source.find("llmservingsim") != std::string_view::npos;
  row->kernels = row->version.empty() ? row->backend : fmt::format("{}-{}", row->backend, row->version);
  if (source.size() > 6 && source.substr(source.size() - 6) == "_eager") {
    row->backend += "-eager";
    row->kernels += "-eager";
  }
}

// Reads the cells of one row, reporting what is missing or no number.
class Cells {
 public:
  Cells(const CsvTable& table, size_t row, Problems* problems) : table_(table), row_(row), problems_(problems) {}
  std::string Text(std::string_view column) const {
    const std::optional<size_t> index = table_.Column(column);
    return index.has_value() ? table_.Cell(row_, *index) : std::string();
  }
  bool Has(std::string_view column) const { return !Text(column).empty(); }
  // A number of at least `least`.
  double Number(const std::string& column, double least = 0) {
    const std::string text = Text(column);
    const absl::StatusOr<double> value = ParseNumber(text);
    if (!value.ok() || *value < least) {
      Report(column, text.empty() ? "is missing" : fmt::format("\"{}\" is not a number of at least {}", text, least));
      return std::max(1.0, least);
    }
    return *value;
  }
  int64_t Count(const std::string& column, int64_t least = 1) {
    const double value = Number(column, static_cast<double>(least));
    if (value > 1e15 || value != std::floor(value)) Report(column, fmt::format("\"{}\" is not a whole number", Text(column)));
    return static_cast<int64_t>(std::min(value, 1e15));
  }
  double Optional(const std::string& column, double fallback, double least = 0) {
    return Has(column) ? Number(column, least) : fallback;
  }

 private:
  void Report(const std::string& column, std::string what) {
    problems_->Add({table_.file(), table_.Line(row_), 1}, column, std::move(what));
  }
  const CsvTable& table_;
  size_t row_;
  Problems* problems_;
};

void SetFormat(Cells& cells, OpRow* row) {
  row->format = cells.Has("dtype") ? cells.Text("dtype") : "bf16";
  const std::optional<Formats> formats = ParseFormat(row->format);
  if (!formats.has_value()) {
    row->problem = fmt::format("format \"{}\" is not known", row->format);
    return;
  }
  row->dtype = formats->entry;
  row->work.weights = formats->weights;
  row->work.activations = formats->activations;
}

void ReadGemm(Cells& cells, OpRow* row) {
  SetFormat(cells, row);
  row->op = "gemm";
  row->work.kind = OpKind::kGemm;
  row->work.m = cells.Count("m");
  row->work.n = cells.Count("n");
  row->work.k = cells.Count("k");
  row->group = fmt::format("{} {}", row->work.n, row->work.k);
}

AttentionShape DenseShape(Cells& cells) {
  AttentionShape shape;
  shape.layers = 1;
  shape.heads = cells.Count("heads");
  shape.kv_heads = cells.Count("kv_heads");
  shape.head_dim = shape.v_head_dim = cells.Count("head_dim");
  return shape;
}

void SetPoint(const AttentionShape& shape, OpRow* row) {
  row->point.heads = static_cast<double>(shape.heads);
  row->point.kv_heads = static_cast<double>(shape.kv_heads);
  row->point.head_dim = static_cast<double>(shape.head_dim);
  row->point.kv_bytes = BytesPerElement(shape.kv);
  row->group = fmt::format("{} {} {}", shape.heads, shape.kv_heads, shape.head_dim);
  row->shape = shape;
}

void ReadAttention(Cells& cells, const std::string& name, OpRow* row) {
  const bool mla = name.rfind("mla", 0) == 0;
  row->op = mla ? name : name == "attn_prefill" ? "prefill" : "decode";
  const std::string cache = cells.Has("kv_dtype") ? cells.Text("kv_dtype") : cells.Has("dtype") ? cells.Text("dtype") : "bf16";
  const std::optional<Formats> formats = ParseFormat(cache);
  row->format = cache;
  if (!formats.has_value()) {
    row->problem = fmt::format("cache format \"{}\" is not known", cache);
    return;
  }
  row->dtype = formats->entry;
  AttentionShape shape;
  if (mla) {
    shape.layers = 1;
    shape.mla = true;
    shape.heads = cells.Count("heads");
    shape.kv_heads = 1;
    shape.head_dim = kMlaNope + kMlaRope;
    shape.v_head_dim = kMlaValue;
    shape.mla_latent = kMlaLatent;
    shape.mla_rope = kMlaRope;
  } else {
    shape = DenseShape(cells);
  }
  shape.kv = formats->weights;
  row->point.sequences = cells.Number("batch", 1);
  row->point.keys = cells.Number("kv_len", 1);
  row->point.queries = row->prefill() ? cells.Number("q_len", 1) : 1;
  if (row->prefill()) row->past = static_cast<int64_t>(std::max(0.0, row->point.keys - row->point.queries));
  SetPoint(shape, row);
}

void ReadMixed(Cells& cells, OpRow* row) {
  row->op = "mixed";
  row->format = row->dtype = "bf16";
  row->mixed = true;
  SetPoint(DenseShape(cells), row);
  AttentionPoint decode = row->point;
  row->point.queries = cells.Number("prefill_chunk");
  row->point.sequences = row->point.queries > 0 ? 1 : 0;
  row->past = cells.Count("kv_prefill", 0);
  row->point.keys = row->point.queries + static_cast<double>(row->past);
  decode.queries = 1;
  decode.sequences = cells.Number("n_decode");
  decode.keys = cells.Number("kv_decode");
  if (decode.sequences > 0 && row->point.sequences > 0) {
    row->decode = decode;
  } else {
    // One kind of work only: a plain kernel.
    row->mixed = false;
    row->op = decode.sequences > 0 ? "decode" : "prefill";
    if (decode.sequences > 0) row->point = decode;
    if (row->point.sequences <= 0) row->problem = "a step without tokens";
  }
}

using LoadKey = std::tuple<int64_t, int64_t, int64_t, int, double, bool>;

void ReadMoe(Cells& cells, std::map<LoadKey, RankLoad>* loads, OpRow* row) {
  SetFormat(cells, row);
  row->op = "moe";
  // Kernels that widen 4-bit weights themselves. Others are few.
  const std::string kernel = cells.Has("kernel") ? cells.Text("kernel") : "";
  if (kernel == "marlin") row->dtype = "w4a16";
  if (kernel == "oai_triton" && row->format == "w4a16_mxfp4") row->dtype = "mxfp4a16";
  Operator& op = row->work;
  op.kind = OpKind::kMoe;
  op.tokens = cells.Count("tokens");
  op.hidden = cells.Count("hidden");
  op.inter = cells.Count("inter");
  op.topk = cells.Count("topk");
  op.experts = cells.Count("experts");
  op.tp = static_cast<int>(std::min<int64_t>(cells.Count("tp"), 1 << 20));
  op.ep = static_cast<int>(std::min<int64_t>(cells.Count("ep"), 1 << 20));
  row->group = fmt::format("{} {} {} {}", op.hidden, op.inter, op.topk, op.experts);
  BenchmarkRouting spread{op.tokens, op.experts, op.topk, op.ep, 0, false};
  if (op.ep > op.experts) {
    row->problem = fmt::format("{} ranks for {} experts", op.ep, op.experts);
    return;
  }
  const std::string routing = cells.Has("dist") ? cells.Text("dist") : "bal";
  if (routing != "bal" && routing != "balanced") {
    const absl::StatusOr<double> exponent = ParseNumber(routing.rfind("pl", 0) == 0 ? routing.substr(2) : routing);
    if (!exponent.ok() || *exponent <= 0) {
      row->problem = fmt::format("routing \"{}\" is not known; write bal or pl1.01", routing);
      return;
    }
    spread.exponent = *exponent;
    const size_t dot = row->version.find('.');
    const absl::StatusOr<double> minor = ParseNumber(dot == std::string::npos ? "" : row->version.substr(dot + 1, row->version.find('.', dot + 1) - dot - 1));
    spread.leftover_to_popular = row->backend == "vllm" && row->version.rfind("0.", 0) == 0 && minor.ok() && *minor < kNewSpreading;
  }
  const auto key = std::tuple(op.tokens, op.experts, op.topk, op.ep, spread.exponent, spread.leftover_to_popular);
  auto load = loads->find(key);
  if (load == loads->end()) load = loads->emplace(key, LoadOfTimedRank(spread)).first;
  const double mean = static_cast<double>(op.tokens) * static_cast<double>(op.topk) / op.ep;
  op.active_experts = std::max(1e-3, load->second.active);
  // The busiest rank is what was timed.
  op.imbalance = std::max(1.0, load->second.rows / mean);
  const double experts = std::max(1.0, static_cast<double>(op.experts) / op.ep);
  op.skew = std::max(1.0, load->second.peak * experts / std::max(1.0, load->second.rows));
}

void ReadCollective(Cells& cells, const char* entry, OpKind kind, OpRow* row) {
  row->op = entry;
  row->format = cells.Has("dtype") ? cells.Text("dtype") : "bf16";
  row->work.kind = kind;
  row->work.bytes = cells.Number("bytes");
  const double ranks = std::min(cells.Number("n_ranks", 1), 1e5);
  row->work.ranks = static_cast<int>(ranks);
  row->path.ranks = static_cast<int>(ranks);
  double nodes = cells.Optional("nodes", 1, 1);
  if (cells.Has("dev_per_node")) nodes = std::ceil(ranks / std::max(1.0, cells.Number("dev_per_node", 1)));
  row->path.nodes = static_cast<int>(std::min(nodes, ranks));
  row->path.ranks_per_node = std::max(1, static_cast<int>(std::ceil(ranks / std::max(1, row->path.nodes))));
  row->group = fmt::format("{} x {}", row->path.ranks, row->path.nodes);
  // The measured size counts the part a rank keeps; an operator's only what it sends.
  if (kind == OpKind::kAllToAll) row->work.bytes *= (ranks - 1) / ranks;
  if (row->op == "p2p" && row->path.nodes > 1) row->op = "network_p2p";
  if (row->work.bytes <= 0) row->problem = "message of 0 bytes: rounded down from less than 1 KB";
  if (row->path.ranks < 2) row->problem = "one rank exchanges nothing";
}

void ReadRows(Cells& cells, const char* entry, OpKind kind, OpRow* row) {
  SetFormat(cells, row);
  row->op = entry;
  row->dtype.clear();
  row->work.kind = kind;
  row->rows = cells.Number("tokens", 1);
  row->width = cells.Number("width", 1);
  row->work.bytes = cells.Number("bytes", 1);
  row->group = fmt::format("{}", row->width);
}

void ReadQuantize(Cells& cells, OpRow* row) {
  row->format = cells.Has("dtype") ? cells.Text("dtype") : "fp8";
  row->op = "quantize";
  row->work.kind = OpKind::kQuantize;
  row->work.m = cells.Count("m");
  row->work.k = cells.Count("k");
  row->rows = static_cast<double>(row->work.m);
  row->width = static_cast<double>(row->work.k);
  row->work.bytes = 3 * row->rows * row->width;   // 16 bits in, 8 out
  row->group = fmt::format("{}", row->work.k);
}

void ReadDeepEp(Cells& cells, const std::string& name, OpRow* row) {
  std::string entry = name;
  if (const size_t at = entry.find("normal_"); at != std::string::npos) entry.erase(at, 7);
  row->op = entry;
  row->backend = "deepep";
  row->work.kind = OpKind::kAllToAll;
  row->work.name = entry.find("combine") != std::string::npos ? "combine" : "dispatch";
  row->work.tokens = cells.Count("tokens");
  row->work.hidden = cells.Count("hidden");
  row->work.topk = cells.Count("topk");
  row->work.experts = cells.Count("experts");
  row->path.nodes = static_cast<int>(cells.Count("nodes"));
  row->rows = static_cast<double>(row->work.tokens * row->work.topk);
  row->width = static_cast<double>(row->work.hidden);
  row->work.bytes = row->rows * row->width * 2;
  row->group = fmt::format("{} {} {} x {}", row->work.hidden, row->work.topk, row->work.experts, row->path.nodes);
}

// A layer of a model in the catalogue, by the role its operator has when lowered.
void ReadLayer(Cells& cells, const Catalog& catalog, std::map<std::string, absl::StatusOr<ModelSpec>>* models, OpRow* row) {
  static const std::map<std::string, std::string, std::less<>> kRoles = {
      {"qkv_proj", "qkv_proj"}, {"o_proj", "o_proj"}, {"gate_up_proj", "up_proj"}, {"down_proj", "down_proj"},
      {"lm_head", "lm_head"}, {"act_fn", "act"}, {"rotary_emb", "rope"}, {"embedding", "embedding"},
      {"layernorm", "attn_norm"}, {"final_layernorm", "final_norm"}, {"sampler", "sampling"}, {"qk_norm", "qk_norm"}};
  row->op = "layer";
  row->format = row->dtype = "bf16";
  const std::string layer = cells.Text("layer"), name = cells.Text("model");
  const int64_t tokens = cells.Count("tokens");
  ParallelPlan plan;
  plan.tp = static_cast<int>(std::min<int64_t>(cells.Count("tp"), 1 << 20));
  const auto role = kRoles.find(layer);
  if (role == kRoles.end()) {
    row->problem = fmt::format("layer \"{}\" is not known", layer);
    return;
  }
  auto at = models->find(name);
  if (at == models->end()) {
    // Releases such as "-Instruct-2507" share the architecture's name.
    std::string known = name;
    std::transform(known.begin(), known.end(), known.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    while (!catalog.Resolve("models", known).ok() && known.find('-') != std::string::npos) known.resize(known.rfind('-'));
    at = models->emplace(name, catalog.Resolve("models", known).ok() ? LoadModel(known, catalog)
                                                                     : absl::StatusOr<ModelSpec>(absl::NotFoundError("not in the catalogue"))).first;
  }
  if (!at->second.ok()) {
    row->problem = fmt::format("model \"{}\": {}", name, std::string(at->second.status().message()));
    return;
  }
  Problems problems;
  CheckPlan(*at->second, plan, {}, &problems);
  if (!problems.empty()) {
    row->problem = fmt::format("tp {} does not divide {}", plan.tp, name);
    return;
  }
  std::vector<Operator> ops = LowerTokenOperators(*at->second, plan, 0, tokens, tokens);
  for (const Operator& op : LowerHeadOperators(*at->second, plan, 0, tokens)) ops.push_back(op);
  for (const Operator& op : ops) {
    if (op.name != role->second) continue;
    row->work = op;
    if (op.kind == OpKind::kGemm) {
      row->op = "gemm";
      row->group = fmt::format("{} {}", op.n, op.k);
    } else {
      static const std::map<std::string, std::string, std::less<>> kEntries = {
          {"act_fn", "activation"}, {"rotary_emb", "rope"}, {"embedding", "embedding"}, {"layernorm", "norm"},
          {"final_layernorm", "norm"}, {"sampler", "sampling"}, {"qk_norm", "norm"}};
      row->op = kEntries.find(layer)->second;
      row->dtype.clear();
      row->rows = static_cast<double>(tokens);
      row->width = op.bytes / row->rows;
      row->group = fmt::format("{}", row->width);
    }
    return;
  }
  row->problem = fmt::format("{} has no layer \"{}\"", name, layer);
}

struct RowKind { std::string_view name; const char* entry; OpKind kind; };
constexpr std::array<RowKind, 8> kCollectives = {{
    {"all_reduce", "all_reduce", OpKind::kAllReduce}, {"allreduce_custom", "custom_all_reduce", OpKind::kAllReduce},
    {"all_gather", "all_gather", OpKind::kAllGather}, {"reduce_scatter", "reduce_scatter", OpKind::kReduceScatter},
    {"alltoall", "all_to_all", OpKind::kAllToAll}, {"all_to_all", "all_to_all", OpKind::kAllToAll},
    {"send_recv", "p2p", OpKind::kSendRecv}, {"sendrecv", "p2p", OpKind::kSendRecv}}};
constexpr std::array<RowKind, 5> kByteKernels = {{
    {"rmsnorm", "norm", OpKind::kNorm}, {"add", "add", OpKind::kAdd}, {"act_mul", "activation", OpKind::kActivation},
    {"rope", "rope", OpKind::kRope}, {"embedding", "embedding", OpKind::kEmbedding}}};

}  // namespace

absl::StatusOr<OpTable> ReadOps(const std::vector<std::string>& paths, const Catalog& catalog) {
  OpTable out;
  Problems problems;
  std::map<std::string, absl::StatusOr<ModelSpec>> models;
  std::map<LoadKey, RankLoad> loads;
  for (const std::string& path : paths) {
    SIMRUN_ASSIGN_OR_RETURN(CsvTable table, CsvTable::Read(path));
    const bool mixed = table.Column("prefill_chunk").has_value(), layers = table.Column("layer").has_value();
    if (!table.Column("time_us").has_value()) {
      problems.Add({path, 1, 1}, "", "column \"time_us\" is missing", NameHint("time_us", table.columns()));
      continue;
    }
    if (!mixed && !layers && !table.Column("op").has_value()) {
      problems.Add({path, 1, 1}, "", "column \"op\" is missing", NameHint("op", table.columns()));
      continue;
    }
    for (size_t i = 0; i < table.rows(); ++i) {
      Cells cells(table, i, &problems);
      OpRow row;
      row.table = out.tables.size();
      row.line = i;
      row.source = cells.Text("source");
      ParseSource(&row);
      row.seconds = cells.Number("time_us") * 1e-6;
      if (row.seconds <= 0) problems.Add({path, table.Line(i), 1}, "time_us", "must be greater than 0");
      if (cells.Has("power_w")) row.watts = cells.Number("power_w");
      const std::string op = cells.Text("op");
      const auto named = [&op](const RowKind& kind) { return kind.name == op; };
      if (mixed) {
        ReadMixed(cells, &row);
      } else if (layers) {
        ReadLayer(cells, catalog, &models, &row);
      } else if (op == "gemm") {
        ReadGemm(cells, &row);
      } else if (op == "attn_prefill" || op == "attn_decode" || op == "mla_prefill" || op == "mla_decode") {
        ReadAttention(cells, op, &row);
      } else if (op == "moe") {
        ReadMoe(cells, &loads, &row);
      } else if (op == "quantize") {
        ReadQuantize(cells, &row);
      } else if (op.rfind("deepep_", 0) == 0) {
        ReadDeepEp(cells, op, &row);
      } else if (const auto c = std::find_if(kCollectives.begin(), kCollectives.end(), named); c != kCollectives.end()) {
        ReadCollective(cells, c->entry, c->kind, &row);
      } else if (const auto k = std::find_if(kByteKernels.begin(), kByteKernels.end(), named); k != kByteKernels.end()) {
        ReadRows(cells, k->entry, k->kind, &row);
      } else {
        row.op = op;
        row.problem = fmt::format("operator \"{}\" is not known", op);
      }
      out.rows.push_back(std::move(row));
    }
    out.tables.push_back(std::move(table));
  }
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  if (out.rows.empty()) return absl::InvalidArgumentError("the files hold no measurement");
  return out;
}

void FindUngatedExperts(const GpuSpec& gpu, std::vector<OpRow>* rows) {
  constexpr double kBeyondCache = 8;   // times the last-level cache: none of it is left from the run before
  constexpr double kTooFast = 0.9;     // of the time three matrices take at the datasheet bandwidth
  constexpr size_t kEnough = 3;
  struct Shape {
    std::vector<OpRow*> rows;
    size_t too_fast = 0;
  };
  std::map<std::tuple<std::string, std::string, std::string>, Shape> shapes;  // by kernel, format and weight shape
  for (OpRow& row : *rows) {
    const Operator& op = row.work;
    if (op.kind != OpKind::kMoe || row.attention() || !row.problem.empty() || !op.gated) continue;
    Shape& shape = shapes[{row.kernels, row.format, row.group}];
    shape.rows.push_back(&row);
    const double bytes = 3 * op.active_experts * static_cast<double>(op.hidden * op.inter) / op.tp * BytesPerElement(op.weights);
    if (bytes > kBeyondCache * gpu.l2.value() && row.seconds < kTooFast * bytes / gpu.memory_bandwidth.value()) ++shape.too_fast;
  }
  for (const auto& [key, shape] : shapes) {
    if (shape.too_fast < kEnough) continue;
    for (OpRow* row : shape.rows) row->work.gated = false;
  }
}

}  // namespace simrun
