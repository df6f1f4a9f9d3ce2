// Time of collectives and point-to-point messages between GPUs.
//
// Inside a node with measured parameters (n ranks, message S, wire volume per rank V = S 2(n-1)/n for all-reduce,
// S (n-1)/n for all-gather, reduce-scatter and all-to-all; link bandwidth B per direction):
//     t = N_q(a + b (n-1), V / (eb B)) + s sqrt(V in MB)
// All-reduce takes the faster of NCCL and the engine's one-shot kernels up to 16 MB and 8 ranks.
// Links of a kind that was not measured: ring and tree with link latency and bandwidth (Hockney), the faster one.
// Across nodes: all-reduce = reduce-scatter in the node, all-reduce over each rail, all-gather in the node; the others
// combine the phase inside a node with the network's share of the volume.
// Expert all-to-all with DeepEP kernels, k nodes, S = tokens x topk x vector:
//     t = N_2(a + b log2 k, S / k / NVL, R / RDMA), the faster of the low-latency and normal kernels; the low-latency
//     ones send every copy over the network (R = S (k-1)/k), the normal ones one per node and token.
// A mesh of direct links gives a group of n only n - 1 of each GPU's links; bridged pairs leave larger groups to PCIe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "hw/cost/operator_params.h"
#include "hw/machine.h"
#include "models/operators.h"

namespace simrun {

// The wires of a group of ranks.
struct CommPath {
  int ranks = 1;
  int ranks_per_node = 1;  // of the group, on its fullest node
  int nodes = 1;           // nodes the group touches
};

// The path of `ranks` GPUs at distance `stride` from one another, the first one being GPU `first`.
CommPath GroupPath(const Machine& machine, int ranks, int stride = 1, int first = 0);

// Where the number for a collective comes from.
struct CollectiveSource {
  Provenance provenance = Provenance::kAssumed;
  std::string detail;
  double max_size = 0;  // largest message measured; 0: not stated
};

class Collectives {
 public:
  Collectives() = default;
  Collectives(const Machine& machine, std::shared_ptr<const OperatorParamSet> params, bool custom_all_reduce,
              bool deepep, std::string backend = "", bool fused_all_reduce = false);

  // Seconds of one collective; 0 for one rank or no bytes. `bytes` as Operator::bytes defines it for the kind.
  double Seconds(OpKind kind, double bytes, const CommPath& path) const;
  // The same for an operator; expert all-to-alls take DeepEP kernels where the engine has them.
  double Seconds(const Operator& op, const CommPath& path) const;
  CollectiveSource Source(const Operator& op, const CommPath& path) const;
  // Seconds inside a node by one catalogue operator alone ("custom_all_reduce" at any size, "all_reduce", ...), for
  // comparing entries with measurements. Negative when there is no such entry.
  double EntrySeconds(std::string_view entry, OpKind kind, double bytes, int ranks) const;
  // Seconds of one DeepEP kernel ("deepep_ll_dispatch", "deepep_combine", ...) over whole nodes. `vectors`: bytes of every
  // token of a rank once. Negative when there is no such entry.
  double DeepEpSeconds(std::string_view entry, double vectors, int64_t topk, int nodes) const;

 private:
  // The wires of `ranks` GPUs inside a node: kind and usable bandwidth per GPU.
  struct Wires {
    std::string_view kind;
    double bandwidth = 0;
    const LinkSpec* link = nullptr;
  };
  Wires InNodeWires(int ranks) const;
  const OperatorParams* Entry(std::string_view name, std::string_view link_kind) const;
  const OperatorParams* FusedEntry() const;
  static double Fitted(const OperatorParams& p, OpKind kind, double bytes, int ranks, double bandwidth);
  double FittedOrCurve(const OperatorParams& p, OpKind kind, double bytes, int ranks, double bandwidth) const;
  static double Generic(OpKind kind, double bytes, int ranks, const Wires& wires);
  double InNodeSeconds(OpKind kind, double bytes, int ranks) const;
  double AcrossNodes(OpKind kind, double bytes, const CommPath& path) const;
  double DeepEp(const Operator& op, int nodes) const;
  double DeepEpKernel(const OperatorParams& p, bool low_latency, double vectors, int64_t topk, int nodes) const;
  bool UsesDeepEp(const Operator& op) const;

  std::shared_ptr<const OperatorParamSet> params_;
  LinkSpec intra_, host_, inter_;
  ScaleUpTopology topology_ = ScaleUpTopology::kSwitch;
  int peers_ = 0;
  double rail_ = 0;  // network bandwidth per GPU, raw
  bool peer_to_peer_ = false;
  bool custom_ = true;
  bool fused_ = false;
  bool deepep_ = false;
  std::string backend_;  // kernels preferred where several were measured
};

}  // namespace simrun
