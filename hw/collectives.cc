#include "hw/collectives.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/rng.h"
#include "models/expert_load.h"

namespace simrun {
namespace {

constexpr std::string_view kFusedBackend = "trtllm";  // whose all-reduce FlashInfer has, with a norm behind it
constexpr double kOneShotBytes = 16e6;  // largest message of the one-shot kernels that were measured
constexpr int kOneShotRanks = 8;
constexpr int kMeasuredRanks = 8;
// Synchronisation of one step of a ring or tree beside the link's own latency, and the launch of a collective on links
// that were not measured: between NVLink steps of NCCL (0.7-2.7 us per rank) and its floor (4-8 us).
constexpr double kHop = 1.5e-6;
constexpr double kLaunch = 6e-6;
// One network step of NCCL (proxy thread, RDMA write, flag): a third of the measured 20 us node-to-node message.
constexpr double kNetworkHop = 6e-6;
constexpr double kNetworkLaunch = 12e-6;

double CeilLog2(int n) {
  int steps = 0;
  for (int reach = 1; reach < n; reach *= 2) ++steps;
  return steps;
}

// Bytes each rank puts on the wire.
double Wire(OpKind kind, double bytes, int n) {
  const double others = static_cast<double>(n - 1) / n;
  switch (kind) {
    case OpKind::kAllReduce:
      return 2 * bytes * others;
    case OpKind::kAllGather:
    case OpKind::kReduceScatter:
      return bytes * others;
    default:
      return bytes;
  }
}

const char* EntryName(OpKind kind) {
  switch (kind) {
    case OpKind::kAllReduce:
      return "all_reduce";
    case OpKind::kAllGather:
      return "all_gather";
    case OpKind::kReduceScatter:
      return "reduce_scatter";
    case OpKind::kAllToAll:
      return "all_to_all";
    default:
      return "p2p";
  }
}

double CombineTwo(double a, double b, int q) {
  if (q == 1) return a + b;
  if (q == 2) return std::sqrt(a * a + b * b);
  return std::sqrt(std::sqrt(a * a * a * a + b * b * b * b));
}

}  // namespace

CommPath GroupPath(const Machine& machine, int ranks, int stride, int first) {
  const int per_node = std::max(1, machine.gpus_per_node);
  CommPath path;
  path.ranks = std::max(1, ranks);
  path.nodes = 0;
  path.ranks_per_node = 1;
  int node = -1, here = 0;
  for (int r = 0; r < path.ranks; ++r) {
    const int at = (first + r * stride) / per_node;
    if (at != node) {
      ++path.nodes;
      node = at;
      here = 0;
    }
    path.ranks_per_node = std::max(path.ranks_per_node, ++here);
  }
  return path;
}

Collectives::Collectives(const Machine& machine, std::shared_ptr<const OperatorParamSet> params, bool custom_all_reduce,
                         bool deepep, std::string backend, bool fused_all_reduce)
    : params_(std::move(params)),
      intra_(machine.scale_up),
      host_(machine.host_link),
      inter_(machine.network),
      topology_(machine.scale_up_topology),
      peers_(machine.scale_up_peers),
      peer_to_peer_(machine.peer_to_peer),
      custom_(custom_all_reduce),
      fused_(fused_all_reduce),
      deepep_(deepep),
      backend_(std::move(backend)) {
  rail_ = inter_.bandwidth.value() * std::max(1, machine.nics_per_node) / std::max(1, machine.gpus_per_node);
}

Collectives::Wires Collectives::InNodeWires(int ranks) const {
  if (topology_ == ScaleUpTopology::kPairs && ranks > 2) return {host_.kind, host_.bandwidth.value(), &host_};
  double bandwidth = intra_.bandwidth.value();
  if (topology_ == ScaleUpTopology::kMesh && peers_ > 0) {
    bandwidth *= static_cast<double>(std::min(ranks - 1, peers_)) / peers_;
  }
  return {intra_.kind, bandwidth, &intra_};
}

const OperatorParams* Collectives::Entry(std::string_view name, std::string_view link_kind) const {
  // The engine's own kernels come before another engine's, even where only a relative of the device had them measured;
  // then the device itself. One measured on another kind of link does not apply.
  if (params_ == nullptr) return nullptr;
  const OperatorParams* best = nullptr;
  size_t nearest = 0;
  for (const OperatorParams& p : params_->entries) {
    if (p.op != name || (!p.link.empty() && p.link != link_kind)) continue;
    const size_t kinship = BackendKinship(p.backend, backend_);
    if (kinship == 0 && (p.exclusive || p.backend.find("-eager") != std::string::npos)) continue;
    const bool nearer = best != nullptr && kinship > nearest && (p.device == best->device || nearest == 0);
    if (best == nullptr || nearer) best = &p, nearest = kinship;
  }
  return best;
}

const OperatorParams* Collectives::FusedEntry() const {
  if (params_ == nullptr) return nullptr;
  for (const OperatorParams& p : params_->entries) {
    if (p.op == "custom_all_reduce" && p.backend == kFusedBackend) return &p;
  }
  return nullptr;
}

double Collectives::Fitted(const OperatorParams& p, OpKind kind, double bytes, int ranks, double bandwidth) {
  const double wire = Wire(kind, bytes, ranks);
  const double latency = p.a.value() + p.b.value() * (ranks - 1);
  const double transfer = wire / (bandwidth * std::min(1.0, p.eb));
  return CombineTwo(latency, transfer, p.q) + p.s.value() * std::sqrt(wire * 1e-6);
}

double Collectives::FittedOrCurve(const OperatorParams& p, OpKind kind, double bytes, int ranks,
                                  double bandwidth) const {
  const double formula = Fitted(p, kind, bytes, ranks, bandwidth);
  for (const OperatorCurve& curve : p.curves) {
    if (curve.key != ranks && curve.key != 0) continue;
    // The curve was measured at the device's own link rate; another rate moves it as it moves the formula.
    const double reference = params_->reference.link_bandwidth.value();
    const double measured_at = p.device == params_->name && reference > 0 ? reference : bandwidth;
    const auto at_reference = [&](double size) { return Fitted(p, kind, size, ranks, measured_at); };
    const std::vector<double>& x = curve.at;
    double t = 0;
    if (bytes <= x.front()) {
      t = at_reference(bytes) * curve.time.front().value() / at_reference(x.front());
    } else if (bytes >= x.back()) {
      t = at_reference(bytes) * curve.time.back().value() / at_reference(x.back());
    } else {
      const size_t hi = static_cast<size_t>(std::upper_bound(x.begin(), x.end(), bytes) - x.begin());
      const double w = (Ln(bytes) - Ln(x[hi - 1])) / (Ln(x[hi]) - Ln(x[hi - 1]));
      t = Exp((1 - w) * Ln(curve.time[hi - 1].value()) + w * Ln(curve.time[hi].value()));
    }
    t *= formula / at_reference(bytes);
    return std::max(t, Wire(kind, bytes, ranks) / bandwidth);
  }
  return formula;
}

double Collectives::Generic(OpKind kind, double bytes, int ranks, const Wires& wires) {
  const double hop = wires.link->latency.value() + kHop;
  const double launch = std::max(kLaunch, wires.link->software_latency.value());
  const double bandwidth = wires.bandwidth * std::min(1.0, wires.link->efficiency);
  const double wire = Wire(kind, bytes, ranks);
  switch (kind) {
    case OpKind::kAllReduce:
      return launch +
             std::min(2 * (ranks - 1) * hop + wire / bandwidth, 2 * CeilLog2(ranks) * hop + 2 * bytes / bandwidth);
    case OpKind::kAllGather:
    case OpKind::kReduceScatter:
      return launch + (ranks - 1) * hop + wire / bandwidth;
    default:
      return launch + hop + wire / bandwidth;
  }
}

double Collectives::InNodeSeconds(OpKind kind, double bytes, int ranks) const {
  if (ranks <= 1 || bytes <= 0) return 0;
  const Wires wires = InNodeWires(ranks);
  const OperatorParams* p = Entry(EntryName(kind), wires.kind);
  double t = p != nullptr ? FittedOrCurve(*p, kind, bytes, ranks, wires.bandwidth) : Generic(kind, bytes, ranks, wires);
  if (p != nullptr && peer_to_peer_ && wires.kind == "pcie" && ranks > 2) {
    // A ring whose links each carry what a pair's would, and a hop for every further rank.
    const double hop = wires.link->latency.value() + kHop, hops = (kind == OpKind::kAllReduce ? 2 : 1) * (ranks - 2);
    const double pair = FittedOrCurve(*p, kind, Wire(kind, bytes, ranks) / Wire(kind, 1, 2), 2, wires.bandwidth);
    t = std::min(t, pair + hops * hop);
  }
  // Over PCIe engines use their own kernel for pairs only.
  const int one_shot_ranks = wires.kind == "pcie" ? 2 : kOneShotRanks;
  if (kind == OpKind::kAllReduce && custom_ && bytes <= kOneShotBytes && ranks <= one_shot_ranks) {
    if (const OperatorParams* one_shot = Entry("custom_all_reduce", wires.kind)) {
      t = std::min(t, FittedOrCurve(*one_shot, kind, bytes, ranks, wires.bandwidth));
    }
    const OperatorParams* fused = fused_ && wires.kind == "nvlink" ? FusedEntry() : nullptr;
    if (fused != nullptr) t = std::min(t, FittedOrCurve(*fused, kind, bytes, ranks, wires.bandwidth));
  }
  return t;
}

double Collectives::EntrySeconds(std::string_view entry, OpKind kind, double bytes, int ranks) const {
  const Wires wires = InNodeWires(ranks);
  const OperatorParams* p = Entry(entry, wires.kind);
  return p == nullptr ? -1 : FittedOrCurve(*p, kind, bytes, ranks, wires.bandwidth);
}

bool Collectives::UsesDeepEp(const Operator& op) const {
  return deepep_ && op.kind == OpKind::kAllToAll && op.group == CommGroup::kExpert && op.ep > 1 && op.topk > 0 &&
         Entry("deepep_ll_dispatch", InNodeWires(op.ranks).kind) != nullptr;
}

double Collectives::DeepEpKernel(const OperatorParams& p, bool low_latency, double vectors, int64_t topk, int nodes) const {
  const double chosen = vectors * static_cast<double>(topk);
  double missed = 1;  // probability that a node is missed
  for (int64_t i = 0; i < topk; ++i) missed *= static_cast<double>(nodes - 1) / nodes;
  const double reached = (nodes - 1) * (1 - missed);
  const double doublings = nodes > 1 ? Ln(nodes) / Ln(2.0) : 0.0;
  const double latency = p.a.value() + p.b.value() * doublings;
  const double local = chosen / nodes / (intra_.bandwidth.value() * std::min(1.0, p.eb));
  const double sent = low_latency ? chosen * (nodes - 1) / nodes : vectors * reached;
  const double remote = nodes > 1 ? sent / (rail_ * std::min(1.0, p.en)) : 0.0;
  return std::sqrt(latency * latency + local * local + remote * remote);
}

double Collectives::DeepEpSeconds(std::string_view entry, double vectors, int64_t topk, int nodes) const {
  const OperatorParams* p = Entry(entry, InNodeWires(kMeasuredRanks).kind);
  return p == nullptr ? -1 : DeepEpKernel(*p, entry.find("_ll_") != std::string_view::npos, vectors, topk, nodes);
}

double Collectives::DeepEp(const Operator& op, int nodes) const {
  const bool combine = std::string_view(op.name) == "combine";
  const char* names[2] = {combine ? "deepep_ll_combine" : "deepep_ll_dispatch",
                          combine ? "deepep_combine" : "deepep_dispatch"};
  // `bytes` counts one copy per remote rank; the kernels move one per chosen expert.
  const double copies = RanksPerToken(op.experts, op.topk, op.ep) * (op.ep - 1) / op.ep;
  const double vectors = op.bytes / copies;  // bytes of all tokens once
  const std::string_view link = InNodeWires(op.ranks).kind;
  double best = 0;
  for (int i = 0; i < 2; ++i) {
    const OperatorParams* p = Entry(names[i], link);
    if (p == nullptr) continue;
    const double total = DeepEpKernel(*p, i == 0, vectors, op.topk, nodes);
    if (best == 0 || total < best) best = total;
  }
  return best;
}

double Collectives::AcrossNodes(OpKind kind, double bytes, const CommPath& path) const {
  const double hop = inter_.latency.value() + kNetworkHop;
  const double rail = rail_ * std::min(1.0, inter_.efficiency);
  const int k = path.nodes, g = path.ranks_per_node;
  const double others = static_cast<double>(k - 1) / k;
  switch (kind) {
    case OpKind::kAllReduce: {
      const double part = bytes / g;
      const double network =
          std::min(2 * (k - 1) * hop + 2 * part * others / rail, 2 * CeilLog2(k) * hop + 2 * part / rail);
      const double in_node =
          InNodeSeconds(OpKind::kReduceScatter, bytes, g) + InNodeSeconds(OpKind::kAllGather, bytes, g);
      // Chunks of the three phases are in flight together.
      return kNetworkLaunch + CombineTwo(in_node, network, 2);
    }
    case OpKind::kAllGather:
    case OpKind::kReduceScatter:
      return kNetworkLaunch + CombineTwo(InNodeSeconds(kind, bytes, g), (k - 1) * hop + bytes * others / g / rail, 2);
    case OpKind::kAllToAll: {
      const double ranks = path.ranks;
      const double remote = ranks > 1 ? bytes * (ranks - g) / (ranks - 1) : 0.0;
      return kNetworkLaunch + CombineTwo(InNodeSeconds(kind, bytes - remote, g), CeilLog2(k) * hop + remote / rail, 2);
    }
    default: {
      if (const OperatorParams* p = Entry("network_p2p", inter_.kind)) {
        return p->a.value() + bytes / (rail_ * std::min(1.0, p->eb));
      }
      return kNetworkLaunch + hop + bytes / rail;
    }
  }
}

double Collectives::Seconds(OpKind kind, double bytes, const CommPath& path) const {
  if (path.ranks <= 1 || bytes <= 0) return 0;
  if (path.nodes > 1) return AcrossNodes(kind, bytes, path);
  return InNodeSeconds(kind, bytes, path.ranks);
}

double Collectives::Seconds(const Operator& op, const CommPath& path) const {
  if (path.ranks <= 1 || op.bytes <= 0) return 0;
  if (UsesDeepEp(op)) return DeepEp(op, path.nodes);
  return Seconds(op.kind, op.bytes, path);
}

CollectiveSource Collectives::Source(const Operator& op, const CommPath& path) const {
  const Wires wires = InNodeWires(path.ranks);
  if (UsesDeepEp(op)) {
    const OperatorParams* p = Entry("deepep_ll_dispatch", wires.kind);
    return {p->label, fmt::format("DeepEP kernels, {} ({})", p->device, p->source), p->max_size};
  }
  if (path.nodes > 1) {
    if (const OperatorParams* p = op.kind == OpKind::kSendRecv ? Entry("network_p2p", inter_.kind) : nullptr) {
      return {p->label, fmt::format("node to node, {} ({})", p->device, p->source), p->max_size};
    }
    return {Provenance::kAssumed,
            fmt::format("over {} nodes: ring or tree on {}, combined with the phases inside a node", path.nodes,
                        inter_.name.empty() ? "the network" : inter_.name),
            0};
  }
  const OperatorParams* p = Entry(EntryName(op.kind), wires.kind);
  if (p == nullptr) {
    return {Provenance::kDatasheet,
            fmt::format("ring or tree over {} from its bandwidth and latency", wires.link->name), 0};
  }
  CollectiveSource out{p->label, fmt::format("{} {} ({})", p->device, wires.kind, p->source), p->max_size};
  if (peer_to_peer_ && wires.kind == "pcie" && path.ranks > 2) {
    out.provenance = std::max(out.provenance, Provenance::kTransferred);
    out.detail += fmt::format("; {} ranks from pairs, peer to peer", path.ranks);
  }
  if (path.ranks > kMeasuredRanks) {
    out.provenance = std::max(out.provenance, Provenance::kTransferred);
    out.detail += fmt::format("; {} ranks, measured up to {}", path.ranks, kMeasuredRanks);
  }
  return out;
}

}  // namespace simrun
