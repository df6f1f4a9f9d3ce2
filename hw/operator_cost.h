// The time and energy of one operator on one device.
//
// Form of every operator (parameters fitted per device, backend, operator and format, hw/cost/operator_params.h):
//     t = t0 + (Tc^q + Tm^q + Td^q)^(1/q),   q in {1, 2, 4}
// Tc compute, Tm memory, Td serial depth (walking the inner dimension with few thread blocks). Efficiencies are capped
// at 1, so no operator beats the device's peak rate or bandwidth. Peaks and bandwidth are the machine's own: overriding
// them acts.
//
// Split by resource: t0 is charged to launch, the combined term to compute, memory and serial in proportion to T^q, so
// that the parts add up exactly. Collectives are charged to link. What a busier expert-parallel rank adds to the
// balanced time is charged to waiting.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "hw/collectives.h"
#include "hw/cost/features.h"
#include "hw/cost/operator_params.h"
#include "hw/machine.h"
#include "hw/power.h"
#include "hw/step_cost.h"
#include "models/lowering.h"
#include "models/operators.h"

namespace simrun {

struct OpTime {
  double seconds = 0;
  std::array<double, kNumBounds> bound{};  // sums to seconds
  double joules = 0;                       // above idle and the active floor, one GPU
  Provenance provenance = Provenance::kAssumed;
};

// Where a number in a report comes from.
struct ProvenanceNote {
  std::string part;  // "gemm bf16"
  Provenance provenance = Provenance::kAssumed;
  std::string detail;
};

struct OperatorCostOptions {
  std::string backend = "vllm";   // preferred kernels
  std::string moe_backend = "marlin";  // EngineProfile::moe_backend
  bool custom_all_reduce = true;  // the engine has a one-shot all-reduce kernel besides NCCL
  bool fused_all_reduce = false;  // and TensorRT-LLM's, which computes the norm behind it as well
  // Operators timed alone, over and over on the same data, as calibration benchmarks do: what fits the last-level cache
  // is read from there, and the quantisation of a GEMM's input is an operator of its own.
  bool benchmark = false;
  bool deepep = false;            // expert all-to-all by DeepEP kernels instead of NCCL
  // Decode attention walks the cache key by key instead of in tiles, one query head after the other; only groups of
  // `shared_group` heads, 128 wide, share a pass (TensorRT-LLM's masked attention beside its first XQA kernels).
  bool streaming_decode = false;
  int64_t shared_group = 0;
  // Query heads of a group that one pass of decode attention over the keys serves; 0: all of them.
  int64_t decode_query_heads = 0;
  // Norms, activations and attention write the narrow format that the next GEMM takes.
  bool fused_quantize = false;
  // Times of the engine's kernels over those returned here: slower ones leave the board more of its power limit.
  double time_factor = 1;
  // Traffic of GPU memory per element of weights and KV cache narrower than the multiply, where the engine widens them in
  // passes of their own; 0: inside the kernel that multiplies.
  double widen_weight_bytes = 0, widen_kv_bytes = 0;
  // Fixed time of a GEMM in whose kernel weights are widened, over one in the wider format.
  Seconds widen_start{0};
  // And per element of any KV cache, of copies that decode attention makes of all of it before it multiplies.
  double copy_kv_bytes = 0;

  bool operator==(const OperatorCostOptions&) const = default;
};

// Seconds of attention by resource, and joules above idle and the active floor of one GPU.
struct AttentionSplit {
  double launch = 0, compute = 0, memory = 0, serial = 0, joules = 0;
  double seconds() const { return launch + compute + memory + serial; }
};

// Correction of attention over batch and length, at powers of two; between them linear in both.
class AttentionGrid {
 public:
  static constexpr int kSequences = 13;   // 1 .. 4096
  static constexpr int kLengths = 21;     // 1 .. 1 M tokens
  double& At(int i, int j) { return factor_[static_cast<size_t>(i * kLengths + j)]; }
  double Factor(double sequences, double length) const {
    const auto [i, x] = Place(sequences, kSequences);
    const auto [j, y] = Place(length, kLengths);
    const double* f = factor_.data() + i * kLengths + j;
    const double low = f[0] + y * (f[1] - f[0]), high = f[kLengths] + y * (f[kLengths + 1] - f[kLengths]);
    return low + x * (high - low);
  }
  // The same for one number of sequences, by length alone.
  struct Row {
    std::array<double, kLengths> factor;
    double Factor(double length) const {
      const auto [j, y] = Place(length, kLengths);
      const double* f = factor.data() + j;
      return f[0] + y * (f[1] - f[0]);
    }
  };
  Row RowOf(double sequences) const {
    const auto [i, x] = Place(sequences, kSequences);
    const double* f = factor_.data() + i * kLengths;
    Row row;
    for (size_t j = 0; j < kLengths; ++j) row.factor[j] = f[j] + x * (f[j + kLengths] - f[j]);
    return row;
  }

 private:
  struct Spot {
    int index = 0;
    double fraction = 0;
  };
  // The octave of v >= 1 and the place in it, from the exponent and the mantissa.
  static Spot Place(double v, int points) {
    const uint64_t bits = std::bit_cast<uint64_t>(std::max(v, 1.0));
    const int octave = static_cast<int>(bits >> 52) - 1023;
    if (octave >= points - 1) return {points - 2, 1.0};
    return {octave, static_cast<double>(bits & ((uint64_t{1} << 52) - 1)) * 0x1p-52};
  }
  std::array<double, static_cast<size_t>(kSequences) * kLengths> factor_{};
};

// Attention over one kind of layer as running sums: a few nanoseconds, no table. Times are for all layers of the shape.
//   prefill: Tc = 2 H (d + dv) [pairs + kappa kv + kappa^2/2] / (P ec), Tm = (K, V read + Q, O) / (BW em),
//            Td = D (kv/1024) (d/128), pairs = q past + q^2/2; kappa at most 8 q
//   decode:  Tm = [(kv + kappa) G (d + dv) + Q, O] / (BW em), Td = D kv/(kv + K0)
//   MLA:     the same with the compressed cache in decode, and Tc = 2 max(H,16)(kv + kappa)(2 dc + dr) / (P ec)
//   linear:  decode Tm = state read and written / (BW em); prefill Tm = (kLinearPasses vectors of every head and token, and of kappa
//            tokens more for each chunk of kLinearChunk) / (BW em), Tc by PrefillAttentionFlops, Td = D longest/1024
//   sparse:  latent decode over top_k keys for every token, prompts too; its indexer as decode and prefill without values, its
//            scores written and read besides
// Sequences of unequal length: Tc and Tm are sums, Td is the longest one's.
class AttentionCost {
 public:
  // Decode of `seqs` sequences; kv_sum and kv_max over their KV lengths, of windowed layers over min(length, window).
  void AddDecode(double seqs, double kv_sum, double kv_max, AttentionSplit* out) const {
    const double tm = decode_.m_key * kv_sum + decode_.m_seq * seqs;
    const double tc = decode_.c_key * kv_sum + decode_.c_seq * seqs;
    const double td = decode_.d * kv_max / (kv_max + decode_.k0);
    const double factor = decode_grid_ == nullptr || seqs <= 0 ? 1 : decode_grid_->Factor(seqs, kv_sum / seqs);
    Combine(decode_, tc, tm, td, factor, out);
  }
  // AddDecode for one number of sequences: what their lengths do not change is worked out once.
  struct DecodeOfCount {
    double c_seqs = 0, m_seqs = 0;   // seconds that do not depend on the lengths
    double per_seq = 1;
    AttentionGrid::Row grid;
  };
  DecodeOfCount DecodeOf(double seqs) const {
    DecodeOfCount of;
    of.c_seqs = decode_.c_seq * seqs;
    of.m_seqs = decode_.m_seq * seqs;
    of.per_seq = seqs > 0 ? 1 / seqs : 1;
    if (decode_grid_ == nullptr) {
      of.grid.factor.fill(1);
    } else {
      of.grid = decode_grid_->RowOf(seqs);
    }
    return of;
  }
  [[gnu::always_inline]] inline void AddDecode(const DecodeOfCount& of, double kv_sum, double kv_max, AttentionSplit* out) const {
    const double tm = decode_.m_key * kv_sum + of.m_seqs;
    const double tc = decode_.c_key * kv_sum + of.c_seqs;
    const double td = decode_.d > 0 ? decode_.d * kv_max / (kv_max + decode_.k0) : 0;
    Combine(decode_, tc, tm, td, of.grid.Factor(kv_sum * of.per_seq), out);
  }
  // One launch over all chunks.
  void AddPrefill(std::span<const PrefillChunk> chunks, AttentionSplit* out) const;
  // A step with both, where the engine's kernel takes them in one launch (fused()): decode is then not split over its
  // keys. Tc = 2 H (d + dv) sum of 64 ceil(q/64) (keys walked + kappa) / (P ec), Tm as in prefill,
  // Td = D (longest + kappa)/1024.
  void AddMixed(double seqs, double kv_sum, double kv_max, std::span<const PrefillChunk> chunks, AttentionSplit* out) const;
  bool fused() const { return fused_; }
  int64_t window() const { return window_; }

 private:
  friend class OperatorCosts;
  struct Terms {
    double t0 = 0, d = 0, k0 = 0;
    double c_key = 0, c_seq = 0;  // seconds of compute per KV token and per sequence; prefill: per pair
    double m_key = 0, m_seq = 0;  // seconds of memory per KV token and per sequence; prefill: per new token
    double ec = 1, em = 1;        // reached fractions of the datasheet rates
    double flops_per_byte_time = 0;   // decode: datasheet time of the FLOPs over that of the bytes, for power alone
    PowerModel::Setting power;
    double settled = 0;               // PowerModel::SettledSeconds of one second at the datasheet FLOP/s; 0: never more
    double launches = 1;
    int q = 1;
  };
  [[gnu::always_inline]] inline void Combine(const Terms& terms, double tc, double tm, double td, double factor, AttentionSplit* out) const {
    double scale = 1;
    const double memory = tm * terms.em, compute = tc * terms.ec + memory * terms.flops_per_byte_time;
    const double floor = std::max(tc * terms.ec, tm * terms.em);
    if (terms.q == 2) {
      const double c2 = tc * tc, m2 = tm * tm, d2 = td * td;
      scale = 1 / std::sqrt(c2 + m2 + d2 + kTiny);
      tc = c2, tm = m2, td = d2;
    } else if (terms.q == 4) {
      const double c4 = tc * tc * tc * tc, m4 = tm * tm * tm * tm, d4 = td * td * td * td;
      const double root = std::sqrt(std::sqrt(c4 + m4 + d4 + kTiny));
      scale = 1 / (root * root * root);
      tc = c4, tm = m4, td = d4;
    }
    tc *= scale, tm *= scale, td *= scale;
    double seconds = terms.t0 + tc + tm + td;
    // A correction never takes attention below what the datasheet rates allow.
    if (factor * seconds < floor) factor = std::min(1.0, floor / (seconds + kTiny));
    // As OperatorCosts::Finish.
    if (const double lasting = compute * terms.settled; lasting > seconds * factor) [[unlikely]] {
      tc += lasting / factor - seconds;
      seconds = lasting / factor;
    }
    out->launch += terms.t0 * factor;
    out->compute += tc * factor;
    out->memory += tm * factor;
    out->serial += td * factor;
    out->joules += power_.Joules(terms.power, seconds * factor, compute, memory, terms.launches);
  }
  static constexpr double kTiny = 1e-120;  // keeps 0/0 away when a step has no work of this kind

  Terms decode_, prefill_, mixed_;
  PowerModel power_;
  bool fused_ = false;
  bool linear_ = false;        // no keys, or as many for every token: c_key and m_key of prefill are per token
  double mixed_kappa_ = 0;     // keys that starting a block costs
  std::shared_ptr<const AttentionGrid> decode_grid_, prefill_grid_;
  double kappa_ = 0;           // prefill
  double c_past_ = 0;          // MLA: seconds to expand one cached token
  bool kappa_on_keys_ = true;  // dense: tile rounding also pads the keys of the past
  bool causal_ = true;
  bool chunked_ = false;
  int64_t window_ = 0;
};

class OperatorCosts {
 public:
  // Bytes per second of element-wise passes over large tensors: widening, copies.
  double WideningRate() const;
  // NotFound or InvalidArgument from the operator catalogue entry of the machine's GPU.
  static absl::StatusOr<OperatorCosts> Create(const Machine& machine, const Catalog& catalog,
                                              const OperatorCostOptions& options);
  // The same with parameters loaded before, for callers that price many machines or plans.
  static absl::StatusOr<OperatorCosts> Create(const Machine& machine, std::shared_ptr<const OperatorParamSet> params,
                                              const OperatorCostOptions& options);

  // One execution of `op`; its `count` is not applied. Precondition: not an attention kind, those have Attention().
  // `path` gives the wires of a collective; null: the group lies in consecutive GPUs from the start of a node.
  OpTime Cost(const Operator& op, const CommPath* path = nullptr) const;
  AttentionCost Attention(const AttentionShape& shape) const;

  // One execution as a calibration sees it: the time by the formula alone, what its correction multiplies it by, and the
  // features the correction looks at. Of attention, `point.sequences` sequences of `past` cached keys each. GEMM, MoE,
  // quantisation and attention; other kinds have no features.
  struct Sample {
    double formula = 0, factor = 1;
    double partial = 0;   // of the formula: partial results, which AttentionCost has in the grid of its correction
    Features features{};
  };
  Sample Probe(const Operator& op) const;
  Sample Probe(const AttentionShape& shape, const AttentionPoint& point, bool prefill) const;

  // The dense peak used for a format, and the format itself after fallback (fp8 -> bf16 where unsupported, ...).
  // Zero only for a device without any rate.
  double Peak(DType dtype) const;
  DType Supported(DType dtype) const;
  double memory_bandwidth() const { return bandwidth_; }
  const PowerModel& power() const { return power_; }
  const PowerSpec& power_spec() const { return machine_.gpu.power; }
  const Collectives& collectives() const { return collectives_; }

  // Which entry prices an operator, how sure it is, and the largest main size measured (m, tokens, KV length or message
  // bytes; 0: not stated).
  struct Origin {
    ProvenanceNote note;
    double max_size = 0;
  };
  Origin OriginOf(const Operator& op, const CommPath* path = nullptr) const;
  Origin OriginOf(const AttentionShape& shape, bool prefill) const;

 private:
  struct Term {
    double t0 = 0, compute = 0, memory = 0, serial = 0;
    double extra = 0;  // further seconds of memory traffic that do not overlap
    int q = 2;
    bool narrow = false;                    // operands of 8 bits and fewer
    bool lasting = false;                   // OperatorParams::lasting
    double flops = 0, bytes = 0, peak = 0;  // for power, and the floor no correction goes below
    double factor = 1;                      // residual correction
  };
  struct Choice {
    const OperatorParams* params = nullptr;
    Provenance label = Provenance::kAssumed;
    std::string why;
  };
  OpTime Finish(const Term& term, Provenance label) const;
  // How much of the memory time is left when a benchmark repeats the kernel on `bytes` of data.
  double Rereading(const OperatorParams& p, double bytes) const;
  FormulaParts PartsOf(const Term& term, const OperatorParams& p) const;
  Term GemmTerm(const Operator& op, const OperatorParams& p, Features* features) const;
  Term RowTerm(const Operator& op, const OperatorParams& p, Features* features) const;
  AttentionCost AttentionFormula(const AttentionShape& shape) const;
  // Rates and fixed time of an entry, for attention of `layers` layers.
  static AttentionCost::Terms RatesOf(const OperatorParams& p, double layers);
  AttentionCost LinearAttention(const AttentionShape& shape) const;
  AttentionCost SparseAttention(const AttentionShape& shape) const;
  AttentionCost IndexerAttention(const AttentionShape& shape) const;
  // What the power limit does to the terms, members of `cost` for attention of `layers` layers.
  void SetPower(std::initializer_list<AttentionCost::Terms*> terms, double layers, AttentionCost* cost) const;
  // Without the factor of the correction.
  Sample ProbeWith(const AttentionCost& cost, const AttentionShape& shape, const AttentionPoint& point, bool prefill) const;
  OpTime Gemm(const Operator& op) const;
  OpTime Moe(const Operator& op) const;
  OpTime Elementwise(const Operator& op) const;
  OpTime Collective(const Operator& op, const CommPath* path) const;
  Term MoeTerm(const Operator& op, const OperatorParams& p, double imbalance, Features* features) const;
  Choice Choose(std::string_view name, DType dtype) const;
  Choice ChooseFor(const Operator& op) const;
  Choice ChooseWeightOnly(const Operator& op) const;
  Choice ChooseWidened(const Operator& op) const;
  Choice ChooseLinear(const AttentionShape& shape, bool prefill) const;
  Choice ChooseSparse(const AttentionShape& shape, bool prefill) const;
  // Whether `p` was measured with kernels that widen the operator's format to one the device multiplies in.
  bool MeasuredWidening(const Operator& op, const OperatorParams& p) const;
  CommPath PathOf(const Operator& op, const CommPath* path) const;

  Machine machine_;
  std::shared_ptr<const OperatorParamSet> params_;
  Collectives collectives_;
  PowerModel power_;
  OperatorCostOptions options_;
  double bandwidth_ = 0;
};

}  // namespace simrun
