// Fitted parameters of operators, one catalogue file per device: hw/catalog/operators/<device>.yaml.
//
// Every entry has the same flat set of parameters; an operator uses those its formula names (operator_cost.h). Times
// are kernel times under CUDA-graph replay; efficiencies are relative to the datasheet rates of the device.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "base/params.h"
#include "base/units.h"
#include "hw/cost/residual_trees.h"
#include "hw/machine.h"

namespace simrun {

// A measured curve that replaces the formula along one axis: log-log interpolation between the points, the formula
// scaled to meet the curve's ends outside them.
struct OperatorCurve {
  double key = 0;          // ranks for collectives; 0: any
  std::vector<double> at;  // bytes, ascending
  std::vector<Seconds> time;
  std::string points;      // both as text: bytes (K, M, G: powers of 1024) and microseconds in turn, "512 8.98 1K 9.08"
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("key", key, {.help = "number of ranks the curve holds for; 0: any", .min = 0});
    v.Field("points", points, {.help = "bytes (K, M, G for powers of 1024) and microseconds in turn, instead of `at` and `time`"});
    v.Field("at", at, {.help = "message sizes or bytes, ascending", .min = 0});
    v.Field("time", time, {.help = "measured times at these sizes", .min = 0});
  }
};

// One measured point of a multi-dimensional operator: measured / formula at these coordinates.
struct ResidualAnchor {
  std::vector<double> at;  // gemm: m, n, k; moe: tokens, hidden, inter, experts; others: bytes
  double factor = 1;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("at", at,
            {.help = "coordinates: gemm m, n, k; moe tokens, hidden, inter, experts; others bytes", .min = 0});
    v.Field("factor", factor, {.help = "measured time over formula", .min = 0, .above_min = true});
  }
};

struct OperatorParams {
  std::string op;                // one of OperatorNames()
  std::string dtype;             // format of the multiply ("bf16", "fp8"), "w4a16" or "mxfp4a16" for experts with 4-bit weights widened in the kernel (WidensInKernel); empty: any
  std::string backend = "vllm";  // kernels measured: vllm, sglang, trtllm, nccl, ...
  int q = 2;                     // how the terms combine: (sum T^q)^(1/q)
  Seconds t0{0};                 // fixed time of a launch
  double ec = 1;                 // reached fraction of the peak rate
  double em = 1;                 // reached fraction of the memory bandwidth
  Seconds d{0};                  // serial walk of the inner dimension: d x / (x + k0), or d x / 1024 when k0 = 0
  double k0 = 0;
  double kappa = 0;               // attention: rows (prefill) or tokens (decode) added by tile rounding
  // latent decode: partial results of split keys, per sequence and head. `parts`: that many, whatever the batch; `split`: as
  // many as fill the multiprocessors, times this share of their way through memory.
  double parts = 0, split = 0;
  double eq = 0;                  // fp8 gemm: bandwidth fraction of the quantisation of the input; 0: none
  Seconds t0_ep{0};               // moe: further fixed time where the experts lie on several ranks
  double bm = 0, r2 = 0, kh = 0;  // moe: rows of tile rounding per expert, passes over routed rows, hidden overhead
  double others = 1;              // moe without exchange: share of the rows of other ranks' experts that the activation runs over
  Seconds a{0}, b{0};             // collectives: latency, and latency per further rank (deepep: per doubling of nodes)
  double eb = 1;                  // collectives: reached fraction of the link bandwidth
  Seconds s{0};                   // collectives: times the square root of the wire volume in MB
  double en = 1;                  // deepep: reached fraction of the network bandwidth
  // Benchmarks repeat a kernel on the same data. What a share l2_share of the last-level cache holds was then read
  // l2_gain times as fast as memory; a serving step streams everything, so this is left out of it.
  double l2_gain = 1, l2_share = 0.5;
  bool own_rows = false;          // moe: passes run over the rows of a rank's own experts alone
  std::string link;               // collectives: kind of link measured; empty: any
  double max_size = 0;            // largest m, kv length or bytes measured; 0: not stated
  std::string provenance = "calibrated";
  bool lasting = false;           // rates of long work, not of bursts: the board's power limit is in them already
  bool exclusive = false;         // engines of other families run other kernels: they do without this entry
  bool hold = false;              // set by hand, for the reason in `note`: a calibration leaves it as it is
  std::string source;
  std::string confidence = "A";                  // A read in a source, B vendor figure from prior knowledge, C estimate
  double mape = 0, median_ape = 0, p90_ape = 0;  // of the fit on unseen rows, per cent; 0: not stated
  double new_shape_mape = 0;                     // the same on weight or head shapes the fit had not seen
  int rows = 0;                                  // measured rows
  std::string learned;                           // per parameter, how much of its prior uncertainty the rows removed
  std::string note;
  std::vector<OperatorCurve> curves;
  std::vector<ResidualAnchor> anchors;
  std::vector<ResidualTable> residuals;

  // Set by LoadOperatorParams.
  Provenance label = Provenance::kAssumed;
  std::string device;  // catalogue entry it comes from
  BytesPerSecond measured_bandwidth{0};  // datasheet rate of the memory it was measured with; 0: not stated
  double measured_ridge = 0;  // FLOPs per byte of memory, by the datasheet of the board it was measured on; 0: not stated
  std::vector<ResidualTrees> trees;  // of `residuals`

  template <class Visitor>
  void Describe(Visitor& v);
};

// "gemm", "prefill", "decode", "mla_prefill", ...
std::vector<std::string> OperatorNames();
std::vector<std::string> ProvenanceNames();

// The datasheet rates the efficiencies of a file refer to.
struct OperatorReference {
  FlopsPerSecond peak_bf16{0}, peak_fp8{0};
  BytesPerSecond memory_bandwidth{0}, link_bandwidth{0};
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("peak_bf16", peak_bf16, {.help = "dense 16-bit peak", .min = 0});
    v.Field("peak_fp8", peak_fp8, {.help = "dense 8-bit peak", .min = 0});
    v.Field("memory_bandwidth", memory_bandwidth, {.help = "memory bandwidth", .min = 0});
    v.Field("link_bandwidth", link_bandwidth, {.help = "GPU-to-GPU bandwidth per direction", .min = 0});
  }
};

struct OperatorFile {
  std::string description;
  std::string fallback;  // entry that supplies operators missing here, labelled transferred
  OperatorReference reference;
  std::vector<OperatorParams> operators;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("description", description, {.help = "device and software"});
    v.Field("fallback", fallback, {.help = "entry that supplies the operators missing here"});
    v.Field("reference", reference, {.help = "datasheet rates the efficiencies refer to"});
    v.Field("operators", operators, {.help = "one map per operator, format and backend"});
  }
};

// Formats of entries whose kernels widen 4-bit weights themselves.
inline bool WidensInKernel(std::string_view dtype) { return dtype == "w4a16" || dtype == "mxfp4a16"; }

// How near the kernels of `backend` are to an entry's: its own before its family's, the nearest relatives first.
// "trtllm-engine-0.10" takes kernels of "trtllm-engine" and then of "trtllm" where it has none of its own. The length of what
// they share; 0 for strangers.
size_t BackendKinship(std::string_view entry, std::string_view backend);

// All parameters that apply to one device, own entries first, then those of the fallback chain.
struct OperatorParamSet {
  std::string name;
  OperatorReference reference;
  std::vector<OperatorParams> entries;
  // The entry for an operator: the same dtype and backend before the same dtype and the backend's family ("trtllm" of
  // "trtllm-engine") before the same dtype before an entry without dtype; own entries before fallbacks. Null when there
  // is none.
  const OperatorParams* Find(std::string_view op, std::string_view dtype, std::string_view backend) const;
};

// The parameters whose prior uncertainty the rows removed by less than a fifth, "k0 8 %, l2_share 0 %"; empty: none.
std::string HardlySettled(const OperatorParams& params);

// `points` of a curve as text, and back into `at` and `time`; InvalidArgument for text that is not such pairs.
std::string CurvePointsText(const OperatorCurve& curve);
absl::Status ReadCurvePoints(OperatorCurve* curve);

// Entry `name` and its fallbacks. NotFound with the nearest name, InvalidArgument for a bad file.
absl::StatusOr<OperatorParamSet> LoadOperatorParams(std::string_view name, const Catalog& catalog);
// The entry for a GPU: its own `operators`, else the typical one of its architecture or vendor.
std::string OperatorEntryFor(const GpuSpec& gpu);
// The parameters of that entry, which the catalogue keeps: reading them takes far longer than compiling a step's costs.
absl::StatusOr<std::shared_ptr<const OperatorParamSet>> SharedOperatorParams(const GpuSpec& gpu, const Catalog& catalog);

template <class Visitor>
void OperatorParams::Describe(Visitor& v) {
  v.Field("op", op, {.help = "operator", .required = true, .choices = OperatorNames});
  v.Field("dtype", dtype, {.help = "format of the multiply, w4a16 (Marlin) or mxfp4a16 (Triton) for experts with 4-bit weights widened in the kernel; none: any"});
  v.Field("backend", backend, {.help = "kernels measured"});
  v.Field("q", q, {.help = "exponent that combines the terms: 1, 2 or 4", .min = 1, .max = 4});
  v.Field("t0", t0, {.help = "fixed time", .min = 0});
  v.Field("t0_ep", t0_ep, {.help = "moe: further fixed time where the experts lie on several ranks", .min = 0});
  v.Field("ec", ec, {.help = "reached fraction of the peak rate", .min = 0, .above_min = true});
  v.Field("em", em, {.help = "reached fraction of the memory bandwidth", .min = 0, .above_min = true});
  v.Field("d", d, {.help = "serial walk of the inner dimension", .min = 0});
  v.Field("k0", k0, {.help = "inner dimension at which the walk is half saturated; 0: linear, d per 1024", .min = 0});
  v.Field("kappa", kappa, {.help = "attention: rows or tokens added by tile rounding", .min = 0});
  v.Field("parts", parts, {.help = "latent decode: partial results written and read per sequence and head, whatever the batch", .min = 0});
  v.Field("split", split, {.help = "latent decode: share of the partial results that fill the multiprocessors which memory carries", .min = 0});
  v.Field("eq", eq, {.help = "fp8 gemm: bandwidth fraction of quantising the input; 0: none", .min = 0});
  v.Field("bm", bm, {.help = "moe: rows of tile rounding per active expert", .min = 0});
  v.Field("r2", r2, {.help = "moe: passes over routed rows", .min = 0});
  v.Field("others", others, {.help = "moe without exchange: share of the rows of other ranks' experts that the activation runs over", .min = 0, .max = 1});
  v.Field("own_rows", own_rows, {.help = "moe without exchange: passes run over the rows of a rank's own experts alone"});
  v.Field("kh", kh, {.help = "moe: overhead of small intermediate sizes", .min = 0});
  v.Field("a", a, {.help = "collectives: latency", .min = 0});
  v.Field("b", b, {.help = "collectives: latency per further rank", .min = 0});
  v.Field("eb", eb, {.help = "collectives: reached fraction of the link bandwidth", .min = 0, .above_min = true});
  v.Field("s", s, {.help = "collectives: per square root of MB on the wire", .min = 0});
  v.Field("en", en, {.help = "deepep: reached fraction of the network bandwidth", .min = 0, .above_min = true});
  v.Field("l2_gain", l2_gain, {.help = "speed of the last-level cache over memory in the benchmark", .min = 1});
  v.Field("l2_share", l2_share, {.help = "share of the last-level cache a benchmark can keep", .min = 0});
  v.Field("link", link, {.help = "kind of link measured"});
  v.Field("max_size", max_size, {.help = "largest m, kv length or bytes measured", .min = 0});
  v.Field("provenance", provenance, {.help = "how the numbers were found", .choices = ProvenanceNames});
  v.Field("lasting", lasting, {.help = "rates of long work, not of bursts: the board's power limit is in them already"});
  v.Field("exclusive", exclusive, {.help = "engines of other families do without this entry: their kernels are not alike"});
  v.Field("hold", hold, {.help = "set by hand, for the reason in note: simrun calibrate leaves it as it is"});
  v.Field("source", source, {.help = "origin", .required = true});
  v.Field("confidence", confidence, {.help = "A read in a source, B vendor figure from prior knowledge, C estimate"});
  v.Field("mape", mape, {.help = "mean absolute error of the fit on unseen rows, per cent", .min = 0});
  v.Field("median_ape", median_ape, {.help = "median absolute error, per cent", .min = 0});
  v.Field("p90_ape", p90_ape, {.help = "90th percentile of the absolute error, per cent", .min = 0});
  v.Field("new_shape_mape", new_shape_mape, {.help = "mean absolute error on shapes the fit had not seen, per cent", .min = 0});
  v.Field("learned", learned, {.help = "per parameter, per cent of its prior uncertainty that the rows removed"});
  v.Field("rows", rows, {.help = "measured rows", .min = 0});
  v.Field("note", note, {.help = "remarks"});
  v.Field("curves", curves, {.help = "measured curves that replace the formula along one axis"});
  v.Field("anchors", anchors, {.help = "measured points that correct the formula nearby"});
  v.Field("residuals", residuals, {.help = "fitted corrections of the formula, added up"});
}

}  // namespace simrun
