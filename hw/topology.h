// The machine as a graph: memories, processors and switches joined by links.
//
// Every memory tier is a place of its own, so that weights, experts and KV blocks may live in any of them and travel
// over any edge. BuildTopology draws the catalogue's machines; AddPlace and AddLink put further tiers on (CXL, NVMe).
//
// A transfer takes the path with the highest bottleneck bandwidth, among those the one with the lowest latency, among
// those the one with the fewest links. Between two GPUs of a node their own links come first, PCIe only where they have
// none. GPUs and memories do not pass traffic on, except that a GPU moves data to and from its own memory.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "hw/machine.h"

namespace simrun {

enum class PlaceKind {
  kGpu,
  kGpuMemory,
  kGpuSwitch,  // NVSwitch
  kPcieSwitch,
  kSocket,  // host processor with its PCIe root
  kDram,    // memory of one socket
  kNic,
  kNetworkSwitch,  // one per rail, and a spine over them
  kCxlMemory,
  kNvme,
};
std::string_view PlaceKindName(PlaceKind kind);  // "gpu", "gpu-memory", "gpu-switch", ...

struct Place {
  PlaceKind kind;
  int node = 0;       // of the machine; -1: shared by all (network)
  int index = 0;      // among the places of its kind in the node; GPUs and their memories: 0..gpus_per_node-1
  Bytes capacity{0};  // of memories
};

// One direction of a link.
struct Edge {
  int from = 0, to = 0;
  BytesPerSecond bandwidth;  // raw
  double efficiency = 1;
  Seconds latency;
  std::string kind;  // LinkSpec::kind and name
  std::string link;
  BytesPerSecond reached() const { return bandwidth * efficiency; }
};

struct Path {
  std::vector<int> places;  // first to last
  std::vector<int> edges;
  BytesPerSecond bandwidth;  // reached, of the narrowest edge; infinite from a place to itself
  Seconds latency;           // sum over the edges
};

class Topology {
 public:
  Topology();
  Topology(const Topology&);
  Topology& operator=(const Topology&);
  Topology(Topology&&) noexcept;
  Topology& operator=(Topology&&) noexcept;
  ~Topology();

  // Returns the id of the new place.
  int AddPlace(Place place);
  // Joins two places both ways: `a` to `b` at link.efficiency, back at link.return_efficiency. `share` scales the
  // bandwidth, for links that are split; `latency` replaces the link's.
  void AddLink(int a, int b, const LinkSpec& link, double share = 1, std::optional<Seconds> latency = std::nullopt);

  const std::vector<Place>& places() const;
  int edge_count() const;
  Edge edge(int id) const;
  std::string PlaceName(int id) const;  // "node0/gpu3", "network/switch0"

  // The id of a place, or -1.
  int Find(PlaceKind kind, int node, int index) const;
  // GPUs by their number in the machine. Precondition: 0 <= gpu < gpu_count().
  int Gpu(int gpu) const;
  int GpuMemory(int gpu) const;
  // The host memory nearest to a GPU.
  int NearestDram(int gpu) const;

  // nullopt when there is no way.
  std::optional<Path> BestPath(int from, int to) const;
  // Of BestPath; 0 without a way.
  BytesPerSecond BandwidthBetween(int from, int to) const;
  // Of BestPath; infinite without a way.
  Seconds LatencyBetween(int from, int to) const;

  int gpu_count() const;
  int gpus_per_node() const;
  int nodes() const;
  int nics_per_node() const;
  ScaleUpTopology scale_up_topology() const;
  int scale_up_peers() const;

 private:
  friend absl::StatusOr<Topology> BuildTopology(const Machine& machine, int gpu_count);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The graph of a machine with `gpu_count` GPUs; 0: machine.gpu_count, and one node's worth when that is 0 too.
// InvalidArgument above 131072 GPUs.
//
// A node has sockets with their DRAM, PCIe switches where the catalogue says so, GPUs and NICs dealt evenly over them,
// and the scale-up links. The latency of a switched link is that between two GPUs or two ports, so each of its two
// edges carries half. Several nodes are joined by one network switch per NIC position (rail) and a non-blocking spine.
absl::StatusOr<Topology> BuildTopology(const Machine& machine, int gpu_count = 0);

// What a collective over a group of GPUs sees.
struct GroupLink {
  // Raw, per GPU and direction, on the slowest link between neighbours of a ring over the group; 0 for one GPU.
  // Mesh: over all links to the other members at once. Across nodes: the share of a NIC that each GPU of the group has.
  BytesPerSecond bandwidth;
  double efficiency = 1;  // reached / raw of that link
  Seconds latency;        // longest between neighbours
  bool crosses_nodes = false;
  bool shared_bridge = false;  // a neighbour is reached through a host processor, whose PCIe root others share
  int nodes = 1;               // that the group touches
  int ranks_per_node = 1;      // most members in one node
  std::string link_kind;       // kind and name of the slowest link
  std::string link;
};

// GPUs first, first + stride, ..., `ranks` of them. Precondition: all below gpu_count(), ranks and stride >= 1.
GroupLink LinkOfGroup(const Topology& topology, int first, int ranks, int stride = 1);

}  // namespace simrun
