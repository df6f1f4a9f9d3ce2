// What the corrections of operator formulas look at: sizes in octaves (log2), the shares of the formula's terms, and how
// well the work fills whole waves of thread blocks. All but the sizes carry over from one device to another.
#pragma once

#include <array>
#include <span>
#include <string_view>

namespace simrun {

inline constexpr size_t kMaxFeatures = 29;
using Features = std::array<double, kMaxFeatures>;

// The parts of a formula's time: fixed, compute, memory and serial term, and the sum they make.
struct FormulaParts {
  double t0 = 0, compute = 0, memory = 0, serial = 0, seconds = 0;
};

struct GemmShape { double m = 0, n = 0, k = 0; };
std::span<const std::string_view> GemmFeatureNames();
Features GemmFeatures(const GemmShape& shape, const FormulaParts& parts, double multiprocessors);

// Attention of equally long sequences: `queries` new tokens each over `keys` keys; decode has one query.
struct AttentionPoint {
  double sequences = 0, queries = 0, keys = 0;
  double heads = 0, kv_heads = 0, head_dim = 0, kv_bytes = 2;   // kv_bytes: of one element
};
std::span<const std::string_view> AttentionFeatureNames();
Features AttentionFeatures(const AttentionPoint& point, const FormulaParts& parts, double multiprocessors);

// One rank's share of a layer of experts.
struct MoePoint {
  double tokens = 0, hidden = 0, inter = 0, topk = 0, experts = 0;   // inter: of one rank
  double tp = 1, ep = 1;
  double active = 0, imbalance = 1;                                  // local experts with tokens
  double skew = 1;                                                   // of the busiest local expert over their mean
  double weight_bytes = 2;                                           // of one element
};
std::span<const std::string_view> MoeFeatureNames();
Features MoeFeatures(const MoePoint& point, const FormulaParts& parts, double multiprocessors);

// Kernels bound by bytes: rows of a width.
std::span<const std::string_view> RowFeatureNames();
Features RowFeatures(double rows, double width, const FormulaParts& parts);

// The names for an operator of the catalogue ("gemm", "decode", ...); empty when it has no such correction.
std::span<const std::string_view> FeatureNames(std::string_view op);

}  // namespace simrun
