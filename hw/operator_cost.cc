#include "hw/operator_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "base/rng.h"

namespace simrun {
namespace {

// Widening 4- or 8-bit weights inside a 16-bit GEMM: Marlin-type kernels reach this share of the plain kernel's rates.
constexpr double kDequantEfficiency = 0.9;
// Weights that one table of a look-up unit covers. A table has an entry for each combination of them and is made once for
// all rows of a product; a row then takes one look-up per bit.
constexpr double kLutWeights = 4, kLutEntries = 16;
// Share of the dense prefill efficiency at head_dim 64 and 256 (measured beside 128).
constexpr double kHeadDim64 = 0.78, kHeadDim256 = 1.1;
// Clocks of a multiprocessor that masked attention takes for a key of one query head, and for each of its elements, value
// included: fitted to Mistral 7B and Falcon 180B on H100 under TensorRT-LLM 0.9; A100 and H200 show the same.
// A group that shares a pass takes kSharedKeyClocks for a key (Llama 2 70B in the same runs).
constexpr double kStreamingKeyClocks = 5, kStreamingElementClocks = 0.033, kSharedKeyClocks = 30;
// Rows of query heads that a kernel of absorbed MLA multiplies at once: what one instruction of the tensor cores takes, a
// warp's 16 or, on Hopper and those after it that multiply as much per clock, a warp group's 64.
double MlaHeadTile(const GpuSpec& gpu) {
  constexpr double kWarp = 16, kWarpGroup = 64, kFlopsPerClock = 4000;
  const double clocks = gpu.multiprocessors * gpu.boost_clock.value();
  const bool group = gpu.architecture == "hopper" || (clocks > 0 && gpu.peak[static_cast<size_t>(DType::kBf16)].value() > kFlopsPerClock * clocks);
  return group ? kWarpGroup : kWarp;
}

// Bytes of partial results that decode of `seqs` sequences over split keys writes and reads back: one vector of the latent's
// width per query head and part, in 32 bits. Where a sequence's keys fill a few tiles only, they are not split.
double PartialBytes(const OperatorParams& p, const GpuSpec& gpu, double seqs, double keys, double heads, double latent) {
  constexpr double kKeyTile = 64, kFewTiles = 4, kFull = 0.8;
  const double blocks = seqs * std::ceil(heads / MlaHeadTile(gpu)), tiles = std::ceil(keys / kKeyTile);
  double parts = p.parts * seqs;
  if (blocks < kFull * gpu.multiprocessors && tiles >= kFewTiles) parts += p.split * seqs * std::min(gpu.multiprocessors / blocks, tiles);
  return 2 * 4 * parts * heads * latent;
}

// Padding of the last tile is at most this many times the rows there are: fits at q = 1 are off by up to 15 times
// without it, others do not change.
constexpr double kRowsPerPadding = 8;
// Vectors as wide as a head that the kernels of linear attention move for every token of a prompt: queries, keys, values and what
// they leave for one another. Only its product with the fitted efficiency counts.
constexpr double kLinearPasses = 14;

// Rows of queries that one thread block of a fused kernel takes.
constexpr double kQueryTile = 64;
// Prompts of one step at most 2^this in the measurements.
constexpr int kPrefillOctaves = 8;
// A correction beyond this (a factor of about 5) would say that the formula does not apply.
constexpr double kLargestCorrection = 1.6;

double Capped(double efficiency) { return std::min(efficiency, 1.0); }

// Formats to try when a device does not multiply in one: the next wider it has.
std::initializer_list<DType> Fallbacks(DType dtype) {
  static constexpr auto kWide = {DType::kBf16, DType::kFp16, DType::kTf32, DType::kFp32};
  static constexpr auto kTf32 = {DType::kTf32, DType::kFp32};
  static constexpr auto kFp32 = {DType::kFp32, DType::kTf32, DType::kBf16, DType::kFp16};
  static constexpr auto kFp16 = {DType::kFp16, DType::kBf16, DType::kTf32, DType::kFp32};
  static constexpr auto kFp8 = {DType::kFp8, DType::kBf16, DType::kFp16, DType::kTf32, DType::kFp32};
  static constexpr auto kInt8 = {DType::kInt8, DType::kBf16, DType::kFp16, DType::kTf32, DType::kFp32};
  static constexpr auto kInt4 = {DType::kInt4, DType::kInt8, DType::kBf16, DType::kFp16, DType::kTf32, DType::kFp32};
  static constexpr auto kMxfp4 = {DType::kMxfp4, DType::kNvfp4, DType::kFp8, DType::kBf16, DType::kFp16, DType::kFp32};
  static constexpr auto kNvfp4 = {DType::kNvfp4, DType::kMxfp4, DType::kFp8, DType::kBf16, DType::kFp16, DType::kFp32};
  switch (dtype) {
    case DType::kFp32:
      return kFp32;
    case DType::kTf32:
      return kTf32;
    case DType::kBf16:
      return kWide;
    case DType::kFp16:
      return kFp16;
    case DType::kFp8:
      return kFp8;
    case DType::kInt8:
      return kInt8;
    case DType::kInt4:
    case DType::kQ4KM:
    case DType::kQ5:
    case DType::kQ6K:
    case DType::kQ8:
      return kInt4;
    case DType::kMxfp4:
      return kMxfp4;
    case DType::kNvfp4:
      return kNvfp4;
  }
  return kWide;
}

const char* ElementwiseEntry(OpKind kind) {
  switch (kind) {
    case OpKind::kNorm:
      return "norm";
    case OpKind::kRope:
      return "rope";
    case OpKind::kActivation:
      return "activation";
    case OpKind::kAdd:
      return "add";
    case OpKind::kEmbedding:
      return "embedding";
    case OpKind::kSampling:
      return "sampling";
    case OpKind::kQuantize:
      return "quantize";
    default:
      return "elementwise";
  }
}

bool IsCollective(OpKind kind) {
  return kind == OpKind::kAllReduce || kind == OpKind::kAllGather || kind == OpKind::kReduceScatter ||
         kind == OpKind::kAllToAll || kind == OpKind::kSendRecv;
}

// Inverse-distance mean of the anchors' log factors in log space; far from all of them the formula stands.
double ResidualFactor(const OperatorParams& p, std::initializer_list<double> at) {
  if (p.anchors.empty() || p.anchors.front().at.size() != at.size()) return 1;
  double weights = 1, sum = 0;  // the formula itself counts as one anchor a factor e away
  for (const ResidualAnchor& anchor : p.anchors) {
    double distance = 0;
    size_t i = 0;
    for (double x : at) {
      const double step = Ln(std::max(x, 1.0)) - Ln(std::max(anchor.at[i++], 1.0));
      distance += step * step;
    }
    const double w = 1 / (distance * distance + 1e-6);
    weights += w;
    sum += w * Ln(anchor.factor);
  }
  return Exp(sum / weights);
}

// What the fitted corrections of an entry multiply its formula by.
double TreeFactor(const OperatorParams& p, const Features& features) {
  if (p.trees.empty()) return 1;
  double sum = 0;
  for (const ResidualTrees& trees : p.trees) sum += trees.Eval(features);
  return Exp(std::clamp(sum, -kLargestCorrection, kLargestCorrection));
}

// The same for points of kMaxFeatures values each.
std::vector<double> TreeFactors(const OperatorParams& p, const std::vector<double>& points) {
  std::vector<double> sums(points.size() / kMaxFeatures, 0.0);
  for (const ResidualTrees& trees : p.trees) {
    const std::vector<double> one = trees.EvalMany(points, kMaxFeatures);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += one[i];
  }
  for (double& s : sums) s = Exp(std::clamp(s, -kLargestCorrection, kLargestCorrection));
  return sums;
}

// N_q, the time of parts that overlap: their sum with q 1, closer to the largest with q 2 and 4.
double Combined(int q, double a, double b, double c) {
  if (q == 1) return a + b + c;
  if (q == 2) return std::sqrt(a * a + b * b + c * c);
  return std::sqrt(std::sqrt(a * a * a * a + b * b * b * b + c * c * c * c));
}

// What the last-level cache holds of the previous kernel's output can be read faster than memory.
double RowMemorySeconds(const OperatorParams& p, double bytes, double bandwidth, double l2) {
  const double cached = p.em > 1 ? std::min(bytes, l2) : bytes;
  return cached / (bandwidth * p.em) + (bytes - cached) / bandwidth;
}

// Measured time at `bytes` over the formula's, both with the memory of the device that was measured: a faster memory
// shortens what the formula says. Beyond the ends of the curve the ratio stays.
double CurveFactor(const OperatorParams& p, const OperatorCurve& curve, double bytes, double bandwidth, double l2) {
  if (p.measured_bandwidth.value() > 0) bandwidth = p.measured_bandwidth.value();
  const std::vector<double>& x = curve.at;
  const double at = std::clamp(bytes, x.front(), x.back());
  const size_t hi = std::clamp<size_t>(static_cast<size_t>(std::upper_bound(x.begin(), x.end(), at) - x.begin()), 1, x.size() - 1);
  const double w = (Ln(at) - Ln(x[hi - 1])) / (Ln(x[hi]) - Ln(x[hi - 1]));
  const double time = Exp((1 - w) * Ln(curve.time[hi - 1].value()) + w * Ln(curve.time[hi].value()));
  const double formula = Combined(p.q, RowMemorySeconds(p, at, bandwidth, l2), p.t0.value(), 0);
  return time / std::max(formula, 1e-12);
}

double D(int64_t x) { return static_cast<double>(x); }

}  // namespace

void AttentionCost::AddPrefill(std::span<const PrefillChunk> chunks, AttentionSplit* out) const {
  if (linear_) {
    double tokens = 0, pieces = 0, longest = 0;
    for (const PrefillChunk& chunk : chunks) {
      const double q = static_cast<double>(chunk.tokens);
      tokens += q;
      pieces += std::ceil(q / static_cast<double>(kLinearChunk));
      longest = std::max(longest, q);
    }
    Combine(prefill_, prefill_.c_key * tokens, prefill_.m_key * (tokens + kappa_ * pieces), prefill_.d * longest, 1, out);
    return;
  }
  double pairs = 0, exact_pairs = 0, keys = 0, queries = 0, past_sum = 0, longest = 0;
  const double w = static_cast<double>(window_);
  for (const PrefillChunk& chunk : chunks) {
    const double q = static_cast<double>(chunk.tokens), past = static_cast<double>(chunk.past), kv = past + q;
    double seen = kv, scored = q * past + q * q / 2;  // keys read, query-key pairs
    if (!causal_) {
      scored = q * kv;
    } else if (window_ > 0 && kv > w) {
      if (chunked_) {
        // Whole chunks of w count w^2/2 each; what lies before `past` is taken off.
        const auto sum = [w](double n) {
          const double whole = static_cast<double>(static_cast<int64_t>(n / w)), rest = n - whole * w;
          return whole * w * w / 2 + rest * rest / 2;
        };
        scored = sum(kv) - sum(past);
        seen = std::min(kv, q + w);
      } else {
        const double growing = std::clamp(w - past, 0.0, q);
        scored = growing * past + growing * growing / 2 + (q - growing) * w;
        seen = std::min(kv, q + w);
      }
    }
    // With very few rows the heads of a group share a tile, so the padding is not repeated per head.
    const double padding = std::min(kappa_, kRowsPerPadding * q);
    pairs += scored + padding * (kappa_on_keys_ ? seen : q) + padding * padding / 2;
    exact_pairs += scored;
    keys += seen;
    queries += q;
    past_sum += past;
    longest = std::max(longest, window_ > 0 ? std::min(kv, w + 128) : kv);
  }
  double factor = 1;
  if (prefill_grid_ != nullptr && !chunks.empty()) {
    // Measured without a past: a chunk with one stands for the prompt of as many query-key pairs.
    const double count = static_cast<double>(chunks.size());
    factor = prefill_grid_->Factor(count, std::sqrt(2 * exact_pairs / count));
  }
  Combine(prefill_, prefill_.c_key * pairs + c_past_ * past_sum, prefill_.m_key * keys + prefill_.m_seq * queries,
          prefill_.d * longest, factor, out);
}

void AttentionCost::AddMixed(double seqs, double kv_sum, double kv_max, std::span<const PrefillChunk> chunks,
                             AttentionSplit* out) const {
  // Every 64 rows of a sequence and head are one block that walks all keys of the sequence.
  double pairs = kQueryTile * (kv_sum + mixed_kappa_ * seqs), keys = kv_sum, queries = seqs, longest = kv_max;
  const double w = static_cast<double>(window_);
  for (const PrefillChunk& chunk : chunks) {
    const double q = static_cast<double>(chunk.tokens), past = static_cast<double>(chunk.past);
    double seen = past + q, walked = past + q / 2;
    if (window_ > 0) seen = std::min(seen, q + w), walked = std::min(walked, w);
    pairs += std::ceil(q / kQueryTile) * kQueryTile * (walked + mixed_kappa_);
    keys += seen;
    queries += q;
    longest = std::max(longest, seen);
  }
  Combine(mixed_, mixed_.c_key * pairs, mixed_.m_key * keys + mixed_.m_seq * queries, mixed_.d * (longest + mixed_kappa_), 1,
          out);
}

absl::StatusOr<OperatorCosts> OperatorCosts::Create(const Machine& machine, const Catalog& catalog,
                                                    const OperatorCostOptions& options) {
  SIMRUN_ASSIGN_OR_RETURN(std::shared_ptr<const OperatorParamSet> params, SharedOperatorParams(machine.gpu, catalog));
  return Create(machine, std::move(params), options);
}

absl::StatusOr<OperatorCosts> OperatorCosts::Create(const Machine& machine,
                                                    std::shared_ptr<const OperatorParamSet> params,
                                                    const OperatorCostOptions& options) {
  OperatorCosts costs;
  costs.machine_ = machine;
  costs.params_ = std::move(params);
  costs.collectives_ = Collectives(machine, costs.params_, options.custom_all_reduce, options.deepep, options.backend, options.fused_all_reduce);
  costs.power_ = PowerModel(machine.gpu, machine.power_limit, machine.gpu_clock);
  costs.options_ = options;
  costs.bandwidth_ = machine.gpu.memory_bandwidth.value();
  if (costs.bandwidth_ <= 0) {
    return absl::InvalidArgumentError(fmt::format("GPU \"{}\" has no memory bandwidth", machine.gpu.name));
  }
  if (costs.Peak(DType::kBf16) <= 0) {
    return absl::InvalidArgumentError(fmt::format("GPU \"{}\" has no peak rate for any format", machine.gpu.name));
  }
  for (const char* needed : {"gemm", "prefill", "decode", "mla_prefill", "mla_decode", "moe", "norm", "add",
                             "activation", "rope", "embedding", "sampling", "quantize", "elementwise"}) {
    if (costs.Choose(needed, DType::kBf16).params == nullptr) {
      return absl::InvalidArgumentError(
          fmt::format("operators \"{}\" have no \"{}\"; add it or name a fallback", costs.params_->name, needed));
    }
  }
  return costs;
}

DType OperatorCosts::Supported(DType dtype) const {
  for (DType candidate : Fallbacks(dtype)) {
    if (machine_.gpu.peak[static_cast<size_t>(candidate)].value() > 0) return candidate;
  }
  return dtype;
}

double OperatorCosts::Peak(DType dtype) const {
  return machine_.gpu.peak[static_cast<size_t>(Supported(dtype))].value();
}

OperatorCosts::Choice OperatorCosts::Choose(std::string_view name, DType dtype) const {
  // 16-bit formats share kernels; 8- and 4-bit formats without an entry of their own borrow the next wider one's.
  std::array<std::string_view, 4> names{};
  size_t count = 0;
  const auto add = [&](std::string_view n) { names[count++] = n; };
  switch (dtype) {
    case DType::kBf16:
    case DType::kFp16:
      add("bf16");
      break;
    case DType::kFp8:
      add("fp8");
      add("bf16");
      break;
    case DType::kInt8:
      add("int8");
      add("fp8");
      add("bf16");
      break;
    case DType::kInt4:
    case DType::kQ4KM:
    case DType::kQ5:
    case DType::kQ6K:
    case DType::kQ8:
      add("int4");
      add("int8");
      add("fp8");
      add("bf16");
      break;
    case DType::kMxfp4:
      add("mxfp4");
      add("nvfp4");
      add("fp8");
      add("bf16");
      break;
    case DType::kNvfp4:
      add("nvfp4");
      add("fp8");
      add("bf16");
      break;
    case DType::kFp32:
    case DType::kTf32:
      add(DTypeName(dtype));
      add("bf16");
      break;
  }
  Choice choice;
  for (size_t i = 0; i < count && choice.params == nullptr; ++i) {
    choice.params = params_->Find(name, names[i], options_.backend);
    if (choice.params != nullptr && i > 0 && choice.params->dtype == names[i]) {
      choice.label = Provenance::kTransferred;
      choice.why = fmt::format("efficiencies of {}", names[i]);
    } else {
      choice.label = Provenance::kMeasured;
    }
  }
  if (choice.params == nullptr) return {};
  const OperatorParams& p = *choice.params;
  choice.label = std::max(choice.label, p.label);
  if (p.device == params_->name) {
    choice.label = std::max(choice.label, machine_.gpu.operators_provenance);
  } else {
    // A fallback's own label already says at least "transferred"; a GPU without parameters stays a datasheet GPU.
    choice.label = std::max(choice.label, std::max(Provenance::kTransferred, machine_.gpu.operators_provenance));
  }
  if (!p.backend.empty() && p.backend != options_.backend && p.label <= Provenance::kCalibrated) {
    choice.label = std::max(choice.label, Provenance::kTransferred);
    if (!choice.why.empty()) choice.why += "; ";
    choice.why += fmt::format("kernels of {}", p.backend);
  }
  return choice;
}

// Experts whose 4-bit weights are widened inside a kernel of its own, where that was measured. OpenAI's Triton kernels
// take MXFP4 alone.
OperatorCosts::Choice OperatorCosts::ChooseWeightOnly(const Operator& op) const {
  const bool widened = BitsPerElement(op.weights) < 8 && BitsPerElement(Supported(ComputeDType(op.weights, op.activations))) >= 16;
  if (!widened) return {};
  const bool triton = options_.moe_backend == "triton" && op.weights == DType::kMxfp4;
  const OperatorParams* p = triton ? params_->Find("moe", "mxfp4a16", options_.backend) : nullptr;
  if (p == nullptr || p->dtype.empty()) p = params_->Find("moe", "w4a16", options_.backend);
  if (p == nullptr || p->dtype.empty()) return {};
  Choice choice{p, std::max(Provenance::kMeasured, p->label), p->dtype == "w4a16" ? "Marlin's kernels" : "OpenAI's Triton kernels"};
  choice.label = std::max(choice.label, p->device == params_->name ? machine_.gpu.operators_provenance : Provenance::kTransferred);
  return choice;
}

// Multiplies in a format the device has no units for, where it was measured how its kernels widen that format.
OperatorCosts::Choice OperatorCosts::ChooseWidened(const Operator& op) const {
  const OperatorParams* p = params_->Find("gemm", DTypeName(ComputeDType(op.weights, op.activations)), options_.backend);
  if (p == nullptr || !MeasuredWidening(op, *p) || p->device != params_->name) return {};
  return {p, std::max({Provenance::kMeasured, p->label, machine_.gpu.operators_provenance}), ""};
}

bool OperatorCosts::MeasuredWidening(const Operator& op, const OperatorParams& p) const {
  const DType asked = ComputeDType(op.weights, op.activations);
  return Supported(asked) != asked && p.dtype == DTypeName(asked);
}

OperatorCosts::Choice OperatorCosts::ChooseFor(const Operator& op) const {
  switch (op.kind) {
    case OpKind::kGemm:
      if (const Choice choice = ChooseWidened(op); choice.params != nullptr) return choice;
      return Choose("gemm", Supported(ComputeDType(op.weights, op.activations)));
    case OpKind::kMoe:
      if (const Choice choice = ChooseWeightOnly(op); choice.params != nullptr) return choice;
      return Choose("moe", Supported(ComputeDType(op.weights, op.activations)));
    default:
      return Choose(ElementwiseEntry(op.kind), op.activations);
  }
}

OperatorCosts::Choice OperatorCosts::ChooseLinear(const AttentionShape& shape, bool prefill) const {
  Choice choice = Choose(prefill ? "linear_prefill" : "linear_decode", shape.compute);
  if (choice.params == nullptr) {
    choice = Choose("elementwise", shape.compute);
    choice.label = Provenance::kAssumed;
    choice.why = "taken to stream as element-wise kernels do";
  }
  return choice;
}

OperatorCosts::Choice OperatorCosts::ChooseSparse(const AttentionShape& shape, bool prefill) const {
  Choice choice = Choose(prefill ? "sparse_prefill" : "sparse_decode", shape.kv);
  if (choice.params == nullptr) {
    choice = Choose("mla_decode", shape.kv);
    choice.label = std::max(choice.label, Provenance::kTransferred);
    choice.why = "as latent attention to every token";
  }
  return choice;
}

OpTime OperatorCosts::Finish(const Term& term, Provenance label) const {
  OpTime out;
  out.provenance = label;
  double t0 = term.t0, tc = term.compute, td = term.serial;
  const double tm = term.memory;
  double n = Combined(term.q, tc, tm, td);
  double seconds = t0 + n + term.extra;
  if (seconds <= 0) return out;
  const auto at_peak = [](double work, double rate) { return rate > 0 ? work / rate : 0.0; };
  const double compute = at_peak(term.flops, term.peak), memory = at_peak(term.bytes, bandwidth_);
  const PowerModel::Setting power = power_.At({seconds, compute, memory});
  if (power.speed < 1) {
    t0 /= power.speed;
    tc /= power.speed;
    td /= power.speed;
    n = Combined(term.q, tc, tm, td);
    seconds = t0 + n + term.extra;
  }
  double c = tc, m = tm, d = td;
  if (term.q == 2) c *= c, m *= m, d *= d;
  if (term.q == 4) c *= c * c * c, m *= m * m * m, d *= d * d * d;
  const double parts = c + m + d;
  const double scale = parts > 0 ? n / parts : 0;
  // A correction never takes an operator below what the datasheet rates allow.
  const double floor = std::max(compute, options_.benchmark ? 0.0 : memory);
  const double factor = term.factor == 1 ? 1 : std::max(term.factor, std::min(1.0, floor / seconds));
  out.bound[static_cast<size_t>(Bound::kCompute)] = c * scale * factor;
  out.bound[static_cast<size_t>(Bound::kMemory)] = (m * scale + term.extra) * factor;
  out.bound[static_cast<size_t>(Bound::kSerial)] = d * scale * factor;
  out.bound[static_cast<size_t>(Bound::kLaunch)] = t0 * factor;
  out.seconds = seconds * factor;
  if (!options_.benchmark && !term.lasting && term.compute >= term.memory) {
    // The clock that a burst was timed at does not last. What memory bounds does not wait for the clock.
    const double lasting = power_.SettledSeconds({out.seconds, compute, memory, false, term.narrow}) / power.speed / options_.time_factor;
    if (lasting > out.seconds) {
      out.bound[static_cast<size_t>(Bound::kCompute)] += lasting - out.seconds;
      out.seconds = lasting;
    }
  }
  out.joules = power_.Joules(power, out.seconds, compute, memory);
  return out;
}

double OperatorCosts::Rereading(const OperatorParams& p, double bytes) const {
  const double room = p.l2_share * machine_.gpu.l2.value();
  if (p.l2_gain <= 1 || room <= 0) return 1;
  const double ratio = bytes / room, held = 1 / (1 + ratio * ratio * ratio * ratio);
  return 1 - held * (1 - 1 / p.l2_gain);
}

FormulaParts OperatorCosts::PartsOf(const Term& term, const OperatorParams& p) const {
  // As the benchmark saw it, in a simulation too: the features tell which kernel was chosen.
  const double reread = options_.benchmark ? 1 : Rereading(p, term.bytes);
  FormulaParts parts{term.t0, term.compute, term.memory * reread, term.serial, 0};
  parts.seconds = term.t0 + Combined(term.q, parts.compute, parts.memory, parts.serial) + term.extra;
  return parts;
}

double OperatorCosts::WideningRate() const { return bandwidth_ * Capped(Choose("elementwise", DType::kBf16).params->em); }

OperatorCosts::Term OperatorCosts::GemmTerm(const Operator& op, const OperatorParams& p, Features* features) const {
  const DType compute = Supported(ComputeDType(op.weights, op.activations));
  const double m = D(op.m), n = D(op.n), k = D(op.k);
  const double wide = std::max(2.0, BytesPerElement(op.activations));  // of the output, and of inputs the device widens
  const double weight_bytes = BytesPerElement(op.weights);
  const bool narrow = BitsPerElement(compute) < 16;
  const double input_bytes = narrow ? BytesPerElement(op.activations) : wide;
  // Weights narrower than the multiply are widened on the fly; where that was measured the entry's rates contain it.
  const bool measured = MeasuredWidening(op, p);
  const bool dequantised = weight_bytes < BytesPerElement(compute) - 0.01 && !measured;
  const bool passes = dequantised && options_.widen_weight_bytes > 0;
  const double efficiency = dequantised && !passes ? kDequantEfficiency : 1;
  Term term;
  term.q = p.q;
  term.t0 = p.t0.value();
  term.flops = 2 * m * n * k;
  term.peak = Peak(compute);
  term.narrow = BitsPerElement(compute) <= 8;
  term.lasting = p.lasting;
  term.compute = term.flops / (term.peak * Capped(p.ec) * efficiency);
  if (machine_.cpu_only && machine_.host.lut_rate > 0 && m <= machine_.host.lut_rows && weight_bytes < 2) {
    const double tables = n * k / kLutWeights, lookups = tables * (kLutEntries + m * BitsPerElement(op.weights));
    term.compute = std::min(term.compute, lookups / machine_.host.lut_rate);
  }
  // Batched products have more input than m x k and say so.
  const double own_bytes = input_bytes * m * k + (passes ? wide : weight_bytes) * n * k + wide * m * n;
  term.bytes = std::max(op.bytes, own_bytes);
  term.memory = term.bytes / (bandwidth_ * Capped(p.em) * efficiency);
  if (options_.benchmark) term.memory *= Rereading(p, term.bytes);
  term.serial = p.k0 > 0 ? p.d.value() * k / (k + p.k0) : p.d.value() * k / 1024;
  if (p.eq > 0 && (narrow || measured)) term.extra = 3 * m * k / (bandwidth_ * Capped(p.eq));
  if (passes) term.extra += options_.widen_weight_bytes * n * k / WideningRate();
  // Batched products run in other kernels.
  const bool batched = op.bytes > own_bytes * (1 + 1e-9);
  if (dequantised && !passes && !batched && !machine_.cpu_only) term.extra += options_.widen_start.value();
  if (features != nullptr || !p.trees.empty()) {
    const Features f = GemmFeatures({m, n, k}, PartsOf(term, p), machine_.gpu.multiprocessors);
    if (features != nullptr) *features = f;
    term.factor = TreeFactor(p, f);
  }
  if (!p.anchors.empty()) term.factor *= ResidualFactor(p, {m, n, k});
  return term;
}

OpTime OperatorCosts::Gemm(const Operator& op) const {
  if (op.m <= 0 || op.n <= 0 || op.k <= 0) return {};
  const Choice choice = ChooseFor(op);
  return Finish(GemmTerm(op, *choice.params, nullptr), choice.label);
}

OperatorCosts::Term OperatorCosts::MoeTerm(const Operator& op, const OperatorParams& p, double imbalance,
                                           Features* features) const {
  const DType compute = Supported(ComputeDType(op.weights, op.activations));
  double h = D(op.hidden), inner = D(op.inter) / op.tp;
  const double matrices = op.gated ? 3 : 2;
  if (op.weights == DType::kMxfp4 && p.dtype == "w4a16") {
    // vLLM fills MXFP4 weights up to the tiles of Marlin's kernel: columns to 256, inner dimensions to 128.
    h = std::ceil(h / 256) * 256;
    inner = std::ceil(inner / 128) * 128;
  }
  if (p.dtype == "mxfp4a16") inner = std::ceil(inner / 64) * 64;   // two blocks of a shared exponent
  const double rows = D(op.tokens) * D(op.topk) / op.ep;
  const double local = D(op.experts) / op.ep;
  const double active = op.active_experts > 0 ? std::min(op.active_experts, local)
                                              : std::min(rows, local * (1 - Exp(-0.7 * rows / local)));
  const double weight_bytes = BytesPerElement(op.weights);
  const bool dequantised = weight_bytes < BytesPerElement(compute) - 0.01 && !WidensInKernel(p.dtype);
  const double efficiency = dequantised ? kDequantEfficiency : 1;
  Term term;
  term.q = p.q;
  term.t0 = (p.t0 + (op.ep > 1 ? p.t0_ep : Seconds(0))).value();
  term.peak = Peak(compute);
  // Kernels are tuned to their GPU: one that multiplies less for what it reads takes lower tiles, down to 16 rows, rather than
  // spend on rows that nobody asked for more than on the weights.
  constexpr double kLeastRounding = 15, kAlike = 0.95;   // datasheets round
  double rounding = p.bm;
  if (const double ridge = term.peak / bandwidth_; ridge < kAlike * p.measured_ridge && rounding > kLeastRounding) {
    rounding = std::max(kLeastRounding, rounding * ridge / (kAlike * p.measured_ridge));
  }
  term.narrow = BitsPerElement(compute) <= 8;
  term.lasting = p.lasting;
  term.flops = 2 * matrices * h * inner * rows;
  term.compute = 2 * matrices * h * inner * (rows * imbalance + active * rounding) * (1 + p.kh / inner) /
                 (term.peak * Capped(p.ec) * efficiency);
  term.bytes = active * matrices * h * inner * weight_bytes;
  term.memory = term.bytes / (bandwidth_ * Capped(p.em) * efficiency);
  // Without an exchange every rank holds a row for each of a token's experts, and some kernels run the activation over all
  // of them, the rows of other ranks' experts too.
  const double foreign = op.on_engine ? 0 : std::max(0.0, D(op.tokens) * D(op.topk) - rows * imbalance);
  const double activated = rows * imbalance + (p.own_rows ? 0 : p.others * foreign);
  const double passed = p.own_rows ? rows * imbalance : D(op.tokens) * D(op.topk);
  const double moved = 2 * p.r2 * passed * h + 2 * (rows * imbalance * h + activated * matrices * inner);
  term.extra = moved / bandwidth_;
  term.bytes += moved;
  if (options_.benchmark) term.memory *= Rereading(p, term.bytes);
  if (features != nullptr || !p.trees.empty()) {
    MoePoint point;
    point.tokens = D(op.tokens), point.hidden = h, point.inter = inner, point.topk = D(op.topk);
    point.experts = D(op.experts), point.tp = op.tp, point.ep = op.ep;
    point.active = active, point.imbalance = imbalance, point.skew = op.skew;
    // Weights that are widened first run through the kernel of the wider format.
    point.weight_bytes = std::max(weight_bytes, BytesPerElement(compute));
    const Features f = MoeFeatures(point, PartsOf(term, p), machine_.gpu.multiprocessors);
    if (features != nullptr) *features = f;
    term.factor = TreeFactor(p, f);
  }
  if (!p.anchors.empty()) term.factor *= ResidualFactor(p, {D(op.tokens), h, inner, D(op.experts)});
  return term;
}

OpTime OperatorCosts::Moe(const Operator& op) const {
  if (op.tokens <= 0 || op.topk <= 0) return {};
  const Choice choice = ChooseFor(op);
  const OpTime even = Finish(MoeTerm(op, *choice.params, 1, nullptr), choice.label);
  if (op.imbalance <= 1) return even;
  // The busiest rank decides when the layer ends; the others wait, drawing little.
  const OpTime busiest = Finish(MoeTerm(op, *choice.params, op.imbalance, nullptr), choice.label);
  const double waiting = std::max(0.0, busiest.seconds - even.seconds);
  OpTime out = even;
  out.seconds += waiting;
  out.bound[static_cast<size_t>(Bound::kWaiting)] = waiting;
  return out;
}

OperatorCosts::Term OperatorCosts::RowTerm(const Operator& op, const OperatorParams& p, Features* features) const {
  Term term;
  term.q = p.q;
  term.bytes = op.bytes;
  term.memory = RowMemorySeconds(p, op.bytes, bandwidth_, machine_.gpu.l2.value());
  // N_q of the fixed time and the transfer, so that launch takes its share of a combined term.
  term.serial = p.t0.value();
  if (op.kind == OpKind::kQuantize && (features != nullptr || !p.trees.empty())) {
    const Features f = RowFeatures(D(op.m), D(op.k), PartsOf(term, p));
    if (features != nullptr) *features = f;
    term.factor = TreeFactor(p, f);
  }
  if (!p.curves.empty()) term.factor *= CurveFactor(p, p.curves.front(), op.bytes, bandwidth_, machine_.gpu.l2.value());
  if (!p.anchors.empty()) term.factor *= ResidualFactor(p, {op.bytes});
  if (p.em > 1) term.bytes = std::max(0.0, op.bytes - machine_.gpu.l2.value());
  return term;
}

OpTime OperatorCosts::Elementwise(const Operator& op) const {
  if (op.bytes <= 0) return {};
  if (op.kind == OpKind::kQuantize && options_.fused_quantize) return {};
  if (op.kind == OpKind::kQuantize && !options_.benchmark) {
    // Measured GEMM times in 8-bit formats contain the quantisation of their input.
    const OperatorParams* gemm = Choose("gemm", Supported(op.activations)).params;
    if (BitsPerElement(Supported(op.activations)) >= 16 || (gemm != nullptr && gemm->eq > 0)) return {};
  }
  const Choice choice = ChooseFor(op);
  OpTime out = Finish(RowTerm(op, *choice.params, nullptr), choice.label);
  std::swap(out.bound[static_cast<size_t>(Bound::kSerial)], out.bound[static_cast<size_t>(Bound::kLaunch)]);
  return out;
}

OperatorCosts::Sample OperatorCosts::Probe(const Operator& op) const {
  Sample sample;
  const Choice choice = ChooseFor(op);
  if (choice.params == nullptr) return sample;
  Term term;
  switch (op.kind) {
    case OpKind::kGemm:
      term = GemmTerm(op, *choice.params, &sample.features);
      break;
    case OpKind::kMoe:
      term = MoeTerm(op, *choice.params, std::max(1.0, op.imbalance), &sample.features);
      break;
    default:
      term = RowTerm(op, *choice.params, &sample.features);
      break;
  }
  sample.factor = term.factor;
  term.factor = 1;
  sample.formula = Finish(term, choice.label).seconds;
  return sample;
}

CommPath OperatorCosts::PathOf(const Operator& op, const CommPath* path) const {
  return path != nullptr ? *path : GroupPath(machine_, op.ranks);
}

OpTime OperatorCosts::Collective(const Operator& op, const CommPath* path) const {
  const CommPath wires = PathOf(op, path);
  OpTime out;
  out.seconds = collectives_.Seconds(op, wires);
  out.provenance = collectives_.Source(op, wires).provenance;
  out.bound[static_cast<size_t>(Bound::kLink)] = out.seconds;
  out.joules = power_.link_watts() * out.seconds;
  return out;
}

OpTime OperatorCosts::Cost(const Operator& op, const CommPath* path) const {
  if (IsCollective(op.kind)) return Collective(op, path);
  switch (op.kind) {
    case OpKind::kGemm:
      return Gemm(op);
    case OpKind::kMoe:
      return Moe(op);
    case OpKind::kPrefillAttention:
    case OpKind::kDecodeAttention:
    case OpKind::kMlaPrefill:
    case OpKind::kMlaDecode:
      SIM_CHECK(!"attention is priced by Attention()");
      return {};
    default:
      return Elementwise(op);
  }
}

OperatorCosts::Sample OperatorCosts::ProbeWith(const AttentionCost& cost, const AttentionShape& shape,
                                               const AttentionPoint& point, bool prefill) const {
  const char* name = shape.mla ? (prefill ? "mla_prefill" : "mla_decode") : (prefill ? "prefill" : "decode");
  const OperatorParams& p = *Choose(name, shape.kv).params;
  // Once with all of the memory traffic to know its bytes, then with what the cache did not serve.
  AttentionCost once = cost;
  once.decode_grid_ = once.prefill_grid_ = nullptr;
  AttentionCost::Terms& terms = prefill ? once.prefill_ : once.decode_;
  const auto price = [&](AttentionSplit* split) {
    if (prefill) {
      const PrefillChunk chunk{static_cast<int64_t>(point.queries), static_cast<int64_t>(point.keys - point.queries)};
      const std::vector<PrefillChunk> chunks(static_cast<size_t>(point.sequences), chunk);
      once.AddPrefill(chunks, split);
    } else {
      once.AddDecode(point.sequences, point.sequences * point.keys, point.keys, split);
    }
  };
  Sample sample;
  AttentionSplit cold;
  if (!options_.benchmark || p.l2_gain <= 1) price(&cold);
  sample.formula = cold.seconds();
  FormulaParts parts{cold.launch, cold.compute, cold.memory, cold.serial, cold.seconds()};
  if (p.l2_gain > 1) {
    const double bytes = (prefill ? terms.m_key * point.sequences * point.keys + terms.m_seq * point.sequences * point.queries
                                  : terms.m_key * point.sequences * point.keys + terms.m_seq * point.sequences) *
                         terms.em * bandwidth_ / std::max(1.0, shape.layers);
    const double left = Rereading(p, bytes);
    terms.m_key *= left;
    terms.m_seq *= left;
    AttentionSplit warm;
    price(&warm);
    if (options_.benchmark) sample.formula = warm.seconds();
    parts = {warm.launch, warm.compute, warm.memory, warm.serial, warm.seconds()};
  }
  if (shape.mla && !prefill) {
    sample.partial = PartialBytes(p, machine_.gpu, point.sequences, point.keys, point.heads, D(shape.mla_latent)) / bandwidth_ * shape.layers;
    sample.formula += sample.partial;
    parts.memory += sample.partial, parts.seconds += sample.partial;
  }
  const double layers = std::max(shape.layers, 1e-9);
  parts.seconds /= layers;
  parts.compute /= layers, parts.memory /= layers, parts.serial /= layers;
  AttentionPoint seen = point;
  if (shape.mla && !prefill) seen.head_dim = D(shape.mla_latent + shape.mla_rope);   // heads share the latent as their key
  sample.features = AttentionFeatures(seen, parts, machine_.gpu.multiprocessors);
  return sample;
}

OperatorCosts::Sample OperatorCosts::Probe(const AttentionShape& shape, const AttentionPoint& point, bool prefill) const {
  Sample sample = ProbeWith(AttentionFormula(shape), shape, point, prefill);
  const char* name = shape.mla ? (prefill ? "mla_prefill" : "mla_decode") : (prefill ? "prefill" : "decode");
  sample.factor = TreeFactor(*Choose(name, shape.kv).params, sample.features);
  return sample;
}

AttentionCost::Terms OperatorCosts::RatesOf(const OperatorParams& p, double layers) {
  AttentionCost::Terms terms;
  terms.q = p.q;
  terms.ec = Capped(p.ec);
  terms.em = Capped(p.em);
  terms.t0 = p.t0.value() * layers;
  return terms;
}

AttentionCost OperatorCosts::LinearAttention(const AttentionShape& shape) const {
  const OperatorParams& pre = *ChooseLinear(shape, true).params;
  const OperatorParams& dec = *ChooseLinear(shape, false).params;
  const double peak = Peak(shape.compute), layers = shape.layers;
  const double heads = D(shape.heads), widths = D(shape.head_dim + shape.v_head_dim);
  AttentionCost cost;
  cost.linear_ = true;
  cost.kappa_ = pre.kappa;
  AttentionCost::Terms& p = cost.prefill_ = RatesOf(pre, layers);
  p.d = pre.d.value() / 1024 * layers;
  p.c_key = PrefillAttentionFlops(shape, kLinearChunk, 0) / static_cast<double>(kLinearChunk) / (peak * p.ec) * layers;
  p.m_key = kLinearPasses * heads * widths / 2 * std::max(2.0, BytesPerElement(shape.compute)) / (bandwidth_ * p.em) * layers;
  AttentionCost::Terms& d = cost.decode_ = RatesOf(dec, layers);
  d.k0 = 1;
  d.c_seq = DecodeAttentionFlops(shape, 1) / (peak * d.ec) * layers;
  d.m_seq = 2 * heads * D(shape.head_dim * shape.v_head_dim) * BytesPerElement(shape.kv) / (bandwidth_ * d.em) * layers;
  SetPower({&p, &d}, layers, &cost);
  return cost;
}

AttentionCost OperatorCosts::SparseAttention(const AttentionShape& shape) const {
  // Kernels go through all the places of a token's list, taken or not, so that its cost is the same whatever came before.
  const OperatorParams& pre = *ChooseSparse(shape, true).params;
  const OperatorParams& dec = *ChooseSparse(shape, false).params;
  const double tile = MlaHeadTile(machine_.gpu), rows = std::ceil(D(shape.heads) / tile) * tile;
  const double cache = D(shape.mla_latent + shape.mla_rope), chosen = D(shape.top_k), layers = shape.layers;
  const double element = std::max(2.0, BytesPerElement(shape.compute));
  const double flops = 2 * rows * (cache + D(shape.mla_latent)) * chosen;
  const double bytes = chosen * cache * BytesPerElement(shape.kv) + D(shape.heads) * (cache + D(shape.mla_latent)) * element;
  AttentionCost cost;
  cost.linear_ = true;
  AttentionCost::Terms& p = cost.prefill_ = RatesOf(pre, layers);
  p.c_key = flops / (Peak(shape.compute) * p.ec) * layers;
  p.m_key = bytes / (bandwidth_ * p.em) * layers;
  AttentionCost::Terms& d = cost.decode_ = RatesOf(dec, layers);
  d.k0 = 1;
  d.c_seq = flops / (Peak(shape.compute) * d.ec) * layers;
  d.m_seq = bytes / (bandwidth_ * d.em) * layers;
  SetPower({&p, &d}, layers, &cost);
  return cost;
}

AttentionCost OperatorCosts::IndexerAttention(const AttentionShape& shape) const {
  const OperatorParams& pre = *Choose("prefill", shape.kv).params;
  const OperatorParams& dec = *Choose("decode", shape.kv).params;
  const double peak = Peak(Supported(shape.compute)), layers = shape.layers;
  const double flops = 2 * D(shape.heads * shape.head_dim);
  // A score of 32 bits per query and key, summed over the heads, is written and read again to find the largest.
  constexpr double kScore = 8;
  AttentionCost cost;
  AttentionCost::Terms& p = cost.prefill_ = RatesOf(pre, layers);
  p.c_key = (flops / (peak * p.ec) + kScore / (bandwidth_ * p.em)) * layers;
  p.m_key = D(IndexBytes(shape)) / (bandwidth_ * p.em) * layers;
  AttentionCost::Terms& d = cost.decode_ = RatesOf(dec, layers);
  d.ec = p.ec;
  d.d = dec.d.value() * layers;
  d.k0 = std::max(1.0, dec.k0);
  d.c_key = flops / (peak * d.ec) * layers;
  d.m_key = (D(IndexBytes(shape)) + kScore) / (bandwidth_ * d.em) * layers;
  SetPower({&p, &d}, layers, &cost);
  return cost;
}

AttentionCost OperatorCosts::Attention(const AttentionShape& shape) const {
  if (shape.linear) return LinearAttention(shape);
  if (shape.indexer) return IndexerAttention(shape);
  if (shape.top_k > 0) return SparseAttention(shape);
  AttentionCost cost = AttentionFormula(shape);
  for (const bool prefill : {false, true}) {
    const char* name = shape.mla ? (prefill ? "mla_prefill" : "mla_decode") : (prefill ? "prefill" : "decode");
    const OperatorParams* p = Choose(name, shape.kv).params;
    if (options_.streaming_decode && !prefill && !shape.mla) continue;   // of another kernel
    const bool partial = shape.mla && !prefill && (p->parts > 0 || p->split > 0);
    if (p->trees.empty() && !partial) continue;
    auto grid = std::make_shared<AttentionGrid>();
    AttentionPoint point;
    point.heads = D(shape.heads), point.kv_heads = D(shape.kv_heads), point.head_dim = D(shape.head_dim);
    point.kv_bytes = BytesPerElement(shape.kv);
    AttentionShape one = shape;
    one.window = 0;
    AttentionCost formula = cost;
    formula.window_ = 0;
    // More prompts in one step than were ever measured: as the largest count that was.
    const int last = prefill ? kPrefillOctaves : AttentionGrid::kSequences - 1;
    std::vector<double> points, whole;   // whole: with what AddDecode leaves out, over what it says
    for (int i = 0; i <= last; ++i) {
      for (int j = 0; j < AttentionGrid::kLengths; ++j) {
        point.sequences = D(int64_t{1} << i);
        point.keys = D(int64_t{1} << j);
        point.queries = prefill ? point.keys : 1;
        const Sample sample = ProbeWith(formula, one, point, prefill);
        points.insert(points.end(), sample.features.begin(), sample.features.end());
        whole.push_back(sample.formula / (sample.formula - sample.partial));
      }
    }
    const std::vector<double> factors = TreeFactors(*p, points);
    for (int i = 0; i < AttentionGrid::kSequences; ++i) {
      for (int j = 0; j < AttentionGrid::kLengths; ++j) {
        const size_t at = static_cast<size_t>(std::min(i, last) * AttentionGrid::kLengths + j);
        grid->At(i, j) = factors[at] * whole[at];
      }
    }
    (prefill ? cost.prefill_grid_ : cost.decode_grid_) = std::move(grid);
  }
  return cost;
}

AttentionCost OperatorCosts::AttentionFormula(const AttentionShape& shape) const {
  // Entries of attention are told apart by the format of the cache.
  const OperatorParams& pre = *Choose(shape.mla ? "mla_prefill" : "prefill", shape.kv).params;
  const OperatorParams& dec = *Choose(shape.mla ? "mla_decode" : "decode", shape.kv).params;
  const double peak = Peak(shape.compute);
  const double element = std::max(2.0, BytesPerElement(shape.compute));  // of queries and output
  const double kv_element = BytesPerElement(shape.kv);
  const double heads = D(shape.heads), kv_heads = D(shape.kv_heads);
  const double widths = D(shape.head_dim + shape.v_head_dim), layers = shape.layers;

  AttentionCost cost;
  cost.causal_ = shape.causal;
  cost.chunked_ = shape.chunked;
  cost.window_ = shape.window;

  AttentionCost::Terms& p = cost.prefill_ = RatesOf(pre, layers);
  double ec = p.ec;
  if (!shape.mla && shape.head_dim <= 64) ec *= kHeadDim64;
  if (!shape.mla && shape.head_dim >= 256) ec = Capped(ec * kHeadDim256);
  // Half a row of padding is what turns q^2/2 into the exact q (q+1)/2.
  cost.kappa_ = std::max(0.5, pre.kappa);
  cost.kappa_on_keys_ = !shape.mla;
  p.ec = ec;
  p.c_key = 2 * heads * widths / (peak * ec) * layers;
  const double em = bandwidth_ * Capped(pre.em);
  if (shape.mla) {
    // Keys and values of all heads are expanded in memory; cached latents are expanded again for every chunk.
    p.m_key = 2 * heads * 2 * widths / em * layers;
    const OperatorParams& gemm = *Choose("gemm", Supported(shape.compute)).params;
    const double expanded = D(shape.head_dim - shape.mla_rope + shape.v_head_dim);
    cost.c_past_ = 2 * D(shape.mla_latent) * heads * expanded / (peak * Capped(gemm.ec)) * layers;
    p.d = pre.d.value() / 1024 * layers;
  } else {
    p.m_key = kv_heads * widths * kv_element / em * layers;
    p.m_seq = heads * widths * element / em * layers;
    p.d = pre.d.value() / 1024 * (D(shape.head_dim) / 128) * layers;
  }

  AttentionCost::Terms& d = cost.decode_ = RatesOf(dec, layers);
  d.d = dec.d.value() * layers;
  d.k0 = std::max(1.0, dec.k0);
  const double dm = bandwidth_ * Capped(dec.em);
  double bytes_per_key = 0, flops_per_key = 0;   // the latter only where it is not part of the time
  if (shape.mla) {
    const double cache = D(shape.mla_latent + shape.mla_rope);
    d.m_key = (cache * kv_element / dm + options_.copy_kv_bytes * cache / WideningRate()) * layers;
    d.m_seq = d.m_key * dec.kappa + heads * (cache + D(shape.mla_latent)) * element / bandwidth_ * layers;
    bytes_per_key = cache * kv_element;
    d.c_key = 2 * std::max(heads, MlaHeadTile(machine_.gpu)) * (cache + D(shape.mla_latent)) / (peak * Capped(dec.ec)) * layers;
    d.c_seq = d.c_key * dec.kappa;
  } else {
    const bool passes = options_.widen_kv_bytes > 0 && kv_element < element;
    const double bytes_key = kv_heads * widths * (passes ? element : kv_element), flops_key = 2 * heads * widths;
    bytes_per_key = bytes_key;
    const double group = heads / kv_heads;
    double key = bytes_key / dm;
    if (options_.streaming_decode) {
      // The multiprocessors may take longer than the memory, one head being served after the other.
      const bool shared = shape.head_dim == 128 && group == D(options_.shared_group);
      const double clocks = shared ? kSharedKeyClocks / group : kStreamingKeyClocks + kStreamingElementClocks * widths;
      const double rate = D(machine_.gpu.multiprocessors) * machine_.gpu.boost_clock.value();
      if (rate > 0) key = std::max(key, heads * clocks / rate);
    } else if (options_.decode_query_heads > 0) {
      key *= std::ceil(group / D(options_.decode_query_heads));
    }
    d.m_key = key * layers;
    const double extra = options_.copy_kv_bytes + (passes ? options_.widen_kv_bytes : 0);
    if (extra > 0) d.m_key += extra * kv_heads * widths / WideningRate() * layers;
    d.m_seq = (options_.streaming_decode ? 0 : d.m_key * dec.kappa) + heads * widths * element / dm * layers;
    // Decode is bound by memory on every GPU; on a device whose rates say otherwise the multiply is the floor.
    if (flops_key / peak > bytes_key / bandwidth_) {
      d.c_key = flops_key / peak * layers;
    } else {
      flops_per_key = flops_key;
    }
  }
  d.flops_per_byte_time = bytes_per_key > 0 ? flops_per_key / peak / (bytes_per_key / bandwidth_) : 0;

  // Kernels that take prompts and generated tokens in one launch.
  const Choice mixed = shape.mla ? Choice{} : Choose("mixed", shape.kv);
  AttentionCost::Terms& x = cost.mixed_;
  if (mixed.params != nullptr && shape.causal && mixed.params->backend == options_.backend) {
    const OperatorParams& m = *mixed.params;
    cost.fused_ = true;
    cost.mixed_kappa_ = m.kappa;
    x = RatesOf(m, layers);
    x.c_key = 2 * heads * widths / (peak * x.ec) * layers;
    x.m_key = kv_heads * widths * kv_element / (bandwidth_ * x.em) * layers;
    x.m_seq = heads * widths * element / (bandwidth_ * x.em) * layers;
    x.d = m.d.value() / 1024 * (D(shape.head_dim) / 128) * layers;
  }

  SetPower({&p, &d, &x}, layers, &cost);
  return cost;
}

void OperatorCosts::SetPower(std::initializer_list<AttentionCost::Terms*> of, double layers, AttentionCost* cost) const {
  cost->power_ = power_;
  for (AttentionCost::Terms* terms : of) {
    const bool decode = terms == &cost->decode_;
    terms->launches = layers;
    // Prompts keep the multipliers busy, generated tokens the memory.
    PowerModel::Work usual{1, terms->ec, 0, true};
    if (decode) usual = {1, terms->em * terms->flops_per_byte_time, terms->em, true};
    terms->power = power_.At(usual);
    const double speed = terms->power.speed;
    if (!decode && !options_.benchmark) terms->settled = power_.SettledSeconds({1, 1, 0, true}) / speed / options_.time_factor;
    terms->t0 /= speed;
    terms->d /= speed;
    terms->c_key /= speed;
    terms->c_seq /= speed;
    terms->ec *= speed;
    if (terms == &cost->prefill_) cost->c_past_ /= speed;
  }
}

namespace {
std::string FitText(const OperatorParams& p, const std::string& why) {
  std::string text = fmt::format("{}: {}", p.device, p.source);
  if (p.mape > 0) text += fmt::format("; mean error {:.3g} %{} on {} rows", p.mape, p.p90_ape > 0 ? fmt::format(", p90 {:.3g} %,", p.p90_ape) : "", p.rows);
  if (const std::string hardly = HardlySettled(p); !hardly.empty()) text += "; hardly settled by them: " + hardly;
  if (!why.empty()) text += "; " + why;
  if (!p.note.empty()) text += "; " + p.note;
  return text;
}
}  // namespace

OperatorCosts::Origin OperatorCosts::OriginOf(const Operator& op, const CommPath* path) const {
  Origin origin;
  origin.note.part = std::string(OpKindName(op.kind));
  if (IsCollective(op.kind)) {
    const CommPath wires = PathOf(op, path);
    origin.note.part += fmt::format(", {} ranks", wires.ranks);
    const CollectiveSource source = collectives_.Source(op, wires);
    origin.note.provenance = source.provenance;
    origin.note.detail = source.detail;
    origin.max_size = source.max_size;
    return origin;
  }
  Choice choice = ChooseFor(op);
  if (op.kind == OpKind::kGemm || op.kind == OpKind::kMoe) {
    const DType asked = ComputeDType(op.weights, op.activations), compute = Supported(asked);
    origin.note.part += fmt::format(" {}", DTypeName(compute));
    if (compute != asked)
      choice.why += fmt::format("{}{} not supported", choice.why.empty() ? "" : "; ", DTypeName(asked));
    if (BytesPerElement(op.weights) < BytesPerElement(compute) - 0.01 && choice.params != nullptr && MeasuredWidening(op, *choice.params)) {
      choice.why += "; widened as measured";
    } else if (choice.params != nullptr && WidensInKernel(choice.params->dtype)) {
      origin.note.part += fmt::format(", {} weights", DTypeName(op.weights));
    } else if (BytesPerElement(op.weights) < BytesPerElement(compute) - 0.01) {
      origin.note.part += fmt::format(", {} weights", DTypeName(op.weights));
      choice.label = Provenance::kAssumed;
      choice.why += fmt::format("{}widening weights costs {:.0f} % (assumed)", choice.why.empty() ? "" : "; ",
                                100 * (1 - kDequantEfficiency));
    }
  }
  if (choice.params == nullptr) return origin;
  origin.note.provenance = choice.label;
  origin.note.detail = FitText(*choice.params, choice.why);
  origin.max_size = choice.params->max_size;
  return origin;
}

OperatorCosts::Origin OperatorCosts::OriginOf(const AttentionShape& shape, bool prefill) const {
  const auto origin_of = [&](std::string_view part, const Choice& choice) -> Origin {
    return {{fmt::format("{}, {}", part, prefill ? "prefill" : "decode"), choice.label, FitText(*choice.params, choice.why)}, choice.params->max_size};
  };
  if (shape.linear) return origin_of("linear attention", ChooseLinear(shape, prefill));
  if (shape.top_k > 0) return origin_of("sparse attention", ChooseSparse(shape, prefill));
  if (shape.indexer) {
    Choice choice = Choose(prefill ? "prefill" : "decode", shape.kv);
    choice.label = std::max(choice.label, Provenance::kTransferred);
    choice.why = "rates of attention to every token";
    return origin_of("sparse attention, indexer", choice);
  }
  const char* name = shape.mla ? (prefill ? "mla_prefill" : "mla_decode") : (prefill ? "prefill" : "decode");
  const Choice choice = Choose(name, shape.kv);
  Origin origin;
  origin.note.part = fmt::format("{}{} attention", shape.mla ? "MLA " : "", prefill ? "prefill" : "decode");
  origin.note.provenance = choice.label;
  std::string why = choice.why;
  const auto also = [&](const std::string& text) { why += (why.empty() ? "" : "; ") + text; };
  if (!shape.mla && shape.head_dim != 128) also(fmt::format("head_dim {} from 128", shape.head_dim));
  if (shape.window > 0) also("windowed layers from full ones");
  if (BitsPerElement(shape.kv) < 16 && choice.params->dtype != DTypeName(shape.kv))
    also(fmt::format("{} cache from 16-bit kernels", DTypeName(shape.kv)));
  if (why.size() != choice.why.size())
    origin.note.provenance = std::max(origin.note.provenance, Provenance::kTransferred);
  origin.note.detail = FitText(*choice.params, why);
  origin.max_size = choice.params->max_size;
  return origin;
}

}  // namespace simrun
