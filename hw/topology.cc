#include "hw/topology.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/dijkstra_shortest_paths.hpp>
#include <boost/graph/filtered_graph.hpp>
#include <boost/property_map/function_property_map.hpp>

#include "base/status.h"

namespace simrun {
namespace {

constexpr int kMaxGpus = 131072;
// One more switch on the way: 0.2-0.5 us are usual.
constexpr double kExtraSwitchSeconds = 0.3e-6;

struct EdgeData {
  int id = 0;
};
using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, boost::no_property, EdgeData>;
using EdgeDescriptor = boost::graph_traits<Graph>::edge_descriptor;

struct StoredEdge {
  int from, to;
  int link;             // index into links
  bool back;            // against the link's direction
  double bandwidth;     // raw, B/s
  double reached;       // B/s
  int64_t picoseconds;  // of latency: whole, so that equal sums compare equal
};

// Latency first, then number of links.
struct Distance {
  int64_t picoseconds = 0;
  int links = 0;
};
struct DistanceLess {
  bool operator()(const Distance& a, const Distance& b) const {
    return std::tie(a.picoseconds, a.links) < std::tie(b.picoseconds, b.links);
  }
};
struct DistancePlus {
  Distance operator()(const Distance& a, const Distance& b) const {
    return {a.picoseconds + b.picoseconds, a.links + b.links};
  }
};
struct Wider {
  bool operator()(double a, double b) const { return a > b; }
};
struct Narrowest {
  double operator()(double a, double b) const { return std::min(a, b); }
};

// Places a transfer between GPUs touches when it stays on their own links.
bool OfGpus(PlaceKind kind) {
  return kind == PlaceKind::kGpu || kind == PlaceKind::kGpuMemory || kind == PlaceKind::kGpuSwitch;
}

bool PassesOn(PlaceKind kind) {
  switch (kind) {
    case PlaceKind::kGpuSwitch:
    case PlaceKind::kPcieSwitch:
    case PlaceKind::kSocket:
    case PlaceKind::kNic:
    case PlaceKind::kNetworkSwitch:
      return true;
    default:
      return false;
  }
}

}  // namespace

namespace {

struct Layout {
  std::vector<Place> places;
  std::vector<LinkSpec> links;
  std::vector<StoredEdge> edges;
  std::vector<int> gpus, gpu_memories;  // ids by GPU number
  std::vector<int> nearest_dram;
  int gpus_per_node = 0, nodes = 0, nics_per_node = 0, peers = 0;
  ScaleUpTopology scale_up = ScaleUpTopology::kPcie;
};

}  // namespace

struct Topology::Impl : Layout {
  Graph graph;  // ids of `places` and `edges`

  Impl() = default;
  Impl(const Impl& o) : Layout(o) {
    for (size_t i = 0; i < places.size(); ++i) boost::add_vertex(graph);
    for (size_t i = 0; i < edges.size(); ++i) {
      boost::add_edge(edges[i].from, edges[i].to, EdgeData{static_cast<int>(i)}, graph);
    }
  }

  // Edges a transfer from `from` to `to` may use.
  struct Usable {
    const Impl* impl = nullptr;
    int from = 0, to = 0;
    double width = 0;
    bool gpu_links_only = false;
    bool operator()(const EdgeDescriptor& e) const {
      const StoredEdge& edge = impl->edges[impl->graph[e].id];
      if (edge.reached < width) return false;
      if (gpu_links_only && !OfGpus(impl->places[edge.to].kind)) return false;
      const Place& start = impl->places[from];
      const Place& end = impl->places[to];
      const Place& next = impl->places[edge.to];
      if (next.node != -1 && next.node != start.node && next.node != end.node) return false;
      if (edge.from == from) return true;
      const Place& here = impl->places[edge.from];
      return PassesOn(here.kind) || OwnMemory(here, start) || OwnMemory(here, end);
    }
    static bool OwnMemory(const Place& gpu, const Place& memory) {
      return gpu.kind == PlaceKind::kGpu && memory.kind == PlaceKind::kGpuMemory && gpu.node == memory.node &&
             gpu.index == memory.index;
    }
  };
};

std::string_view PlaceKindName(PlaceKind kind) {
  switch (kind) {
    case PlaceKind::kGpu:
      return "gpu";
    case PlaceKind::kGpuMemory:
      return "gpu-memory";
    case PlaceKind::kGpuSwitch:
      return "gpu-switch";
    case PlaceKind::kPcieSwitch:
      return "pcie-switch";
    case PlaceKind::kSocket:
      return "socket";
    case PlaceKind::kDram:
      return "dram";
    case PlaceKind::kNic:
      return "nic";
    case PlaceKind::kNetworkSwitch:
      return "switch";
    case PlaceKind::kCxlMemory:
      return "cxl-memory";
    case PlaceKind::kNvme:
      break;
  }
  return "nvme";
}

Topology::Topology() : impl_(std::make_unique<Impl>()) {}
Topology::Topology(const Topology& o) : impl_(std::make_unique<Impl>(*o.impl_)) {}
Topology& Topology::operator=(const Topology& o) {
  if (this != &o) impl_ = std::make_unique<Impl>(*o.impl_);
  return *this;
}
Topology::Topology(Topology&&) noexcept = default;
Topology& Topology::operator=(Topology&&) noexcept = default;
Topology::~Topology() = default;

const std::vector<Place>& Topology::places() const { return impl_->places; }
int Topology::edge_count() const { return static_cast<int>(impl_->edges.size()); }
int Topology::gpu_count() const { return static_cast<int>(impl_->gpus.size()); }
int Topology::gpus_per_node() const { return impl_->gpus_per_node; }
int Topology::nodes() const { return impl_->nodes; }
int Topology::nics_per_node() const { return impl_->nics_per_node; }
ScaleUpTopology Topology::scale_up_topology() const { return impl_->scale_up; }
int Topology::scale_up_peers() const { return impl_->peers; }

int Topology::AddPlace(Place place) {
  const int id = static_cast<int>(impl_->places.size());
  if (place.kind == PlaceKind::kGpu) impl_->gpus.push_back(id);
  if (place.kind == PlaceKind::kGpuMemory) impl_->gpu_memories.push_back(id);
  impl_->places.push_back(place);
  boost::add_vertex(impl_->graph);
  return id;
}

void Topology::AddLink(int a, int b, const LinkSpec& link, double share, std::optional<Seconds> latency) {
  const int count = static_cast<int>(impl_->places.size());
  SIM_CHECK(a >= 0 && a < count && b >= 0 && b < count && a != b && share > 0);
  const auto same = [&](const LinkSpec& l) { return l.name == link.name && l.kind == link.kind; };
  auto stored = std::find_if(impl_->links.begin(), impl_->links.end(), same);
  if (stored == impl_->links.end()) stored = impl_->links.insert(stored, link);
  const int index = static_cast<int>(stored - impl_->links.begin());
  const auto picoseconds = static_cast<int64_t>(std::llround(latency.value_or(link.latency).value() * 1e12));
  for (const bool back : {false, true}) {
    const double raw = link.bandwidth.value() * share;
    const double reached = raw * (back ? link.return_efficiency : link.efficiency);
    const int from = back ? b : a, to = back ? a : b;
    const int id = static_cast<int>(impl_->edges.size());
    impl_->edges.push_back({from, to, index, back, raw, reached, picoseconds});
    boost::add_edge(from, to, EdgeData{id}, impl_->graph);
  }
}

Edge Topology::edge(int id) const {
  const StoredEdge& e = impl_->edges.at(id);
  const LinkSpec& link = impl_->links[e.link];
  return {e.from,
          e.to,
          BytesPerSecond(e.bandwidth),
          e.reached / e.bandwidth,
          Seconds(static_cast<double>(e.picoseconds) * 1e-12),
          link.kind,
          link.name};
}

std::string Topology::PlaceName(int id) const {
  const Place& p = impl_->places.at(id);
  const std::string where = p.node < 0 ? "network" : fmt::format("node{}", p.node);
  return fmt::format("{}/{}{}", where, PlaceKindName(p.kind), p.index);
}

int Topology::Find(PlaceKind kind, int node, int index) const {
  for (size_t i = 0; i < impl_->places.size(); ++i) {
    const Place& p = impl_->places[i];
    if (p.kind == kind && p.node == node && p.index == index) return static_cast<int>(i);
  }
  return -1;
}

int Topology::Gpu(int gpu) const { return impl_->gpus.at(gpu); }
int Topology::GpuMemory(int gpu) const { return impl_->gpu_memories.at(gpu); }
int Topology::NearestDram(int gpu) const { return impl_->nearest_dram.at(gpu); }

std::optional<Path> Topology::BestPath(int from, int to) const {
  const Impl& t = *impl_;
  const int count = static_cast<int>(t.places.size());
  SIM_CHECK(from >= 0 && from < count && to >= 0 && to < count);
  Path path;
  path.places = {from};
  path.bandwidth = BytesPerSecond(std::numeric_limits<double>::infinity());
  if (from == to) return path;

  // Widest first; then the shortest among paths that are as wide. One search over (width, latency) would go wrong: a
  // wide detour to a switch hides the short way there even when both end in the same narrow link.
  const auto index_map = get(boost::vertex_index, t.graph);
  std::vector<double> width(count);
  std::vector<size_t> before(count);
  Impl::Usable usable{&t, from, to};
  const auto widest = [&] {
    const boost::filtered_graph<Graph, Impl::Usable> graph(t.graph, usable);
    const auto weight = boost::make_function_property_map<EdgeDescriptor, double>(
        [&](const EdgeDescriptor& e) { return t.edges[t.graph[e].id].reached; });
    boost::dijkstra_shortest_paths(graph, static_cast<size_t>(from),
                                   boost::weight_map(weight)
                                       .distance_map(boost::make_iterator_property_map(width.begin(), index_map))
                                       .predecessor_map(boost::make_iterator_property_map(before.begin(), index_map))
                                       .vertex_index_map(index_map)
                                       .distance_compare(Wider())
                                       .distance_combine(Narrowest())
                                       .distance_inf(0.0)
                                       .distance_zero(std::numeric_limits<double>::infinity()));
    return width[to];
  };
  // Runtimes use the links between GPUs where there are any, even when PCIe would be faster.
  usable.gpu_links_only = OfGpus(t.places[from].kind) && OfGpus(t.places[to].kind);
  if (!usable.gpu_links_only || !(widest() > 0)) {
    usable.gpu_links_only = false;
    widest();
  }
  if (!(width[to] > 0)) return std::nullopt;

  usable.width = width[to];
  const boost::filtered_graph<Graph, Impl::Usable> graph(t.graph, usable);
  const auto weight = boost::make_function_property_map<EdgeDescriptor, Distance>([&](const EdgeDescriptor& e) {
    return Distance{t.edges[t.graph[e].id].picoseconds, 1};
  });
  std::vector<Distance> distance(count);
  const Distance far{std::numeric_limits<int64_t>::max(), 0};
  boost::dijkstra_shortest_paths(graph, static_cast<size_t>(from),
                                 boost::weight_map(weight)
                                     .distance_map(boost::make_iterator_property_map(distance.begin(), index_map))
                                     .predecessor_map(boost::make_iterator_property_map(before.begin(), index_map))
                                     .vertex_index_map(index_map)
                                     .distance_compare(DistanceLess())
                                     .distance_combine(DistancePlus())
                                     .distance_inf(far)
                                     .distance_zero(Distance{}));
  for (int at = to; at != from; at = static_cast<int>(before[at])) {
    // Of parallel links between two places, the one the distance came from.
    int best = -1;
    for (auto [e, end] = boost::out_edges(before[at], graph); e != end; ++e) {
      const int id = t.graph[*e].id;
      if (t.edges[id].to != at) continue;
      if (best < 0 || t.edges[id].picoseconds < t.edges[best].picoseconds) best = id;
    }
    path.edges.push_back(best);
  }
  std::reverse(path.edges.begin(), path.edges.end());
  for (const int id : path.edges) path.places.push_back(t.edges[id].to);
  path.bandwidth = BytesPerSecond(width[to]);
  path.latency = Seconds(static_cast<double>(distance[to].picoseconds) * 1e-12);
  return path;
}

BytesPerSecond Topology::BandwidthBetween(int from, int to) const {
  const auto path = BestPath(from, to);
  return path ? path->bandwidth : BytesPerSecond(0);
}

Seconds Topology::LatencyBetween(int from, int to) const {
  const auto path = BestPath(from, to);
  return path ? path->latency : Seconds(std::numeric_limits<double>::infinity());
}

absl::StatusOr<Topology> BuildTopology(const Machine& m, int gpu_count) {
  if (gpu_count == 0) gpu_count = m.gpu_count > 0 ? m.gpu_count : m.gpus_per_node;
  if (gpu_count < 1 || gpu_count > kMaxGpus || m.gpus_per_node < 1) {
    return absl::InvalidArgumentError(
        fmt::format("a machine of {} GPUs in nodes of {} cannot be drawn as a graph; it may have 1 to {}", gpu_count,
                    m.gpus_per_node, kMaxGpus));
  }
  Topology t;
  Topology::Impl& impl = *t.impl_;
  const int per_node = m.gpus_per_node;
  const int nodes = (gpu_count + per_node - 1) / per_node;
  impl.gpus_per_node = per_node;
  impl.nodes = nodes;
  impl.nics_per_node = m.nics_per_node;
  impl.scale_up = m.scale_up_topology;
  impl.peers = m.scale_up_peers;

  LinkSpec gpu_memory;
  gpu_memory.name = m.gpu.name;
  gpu_memory.kind = "memory";
  gpu_memory.bandwidth = m.gpu.memory_bandwidth;
  LinkSpec spine = m.network;
  spine.name = "spine";
  spine.bandwidth = m.network.bandwidth * static_cast<double>(nodes);  // non-blocking

  std::vector<int> rails;
  if (nodes > 1) {
    for (int r = 0; r < m.nics_per_node; ++r) rails.push_back(t.AddPlace({PlaceKind::kNetworkSwitch, -1, r}));
    if (rails.size() > 1) {
      const int top = t.AddPlace({PlaceKind::kNetworkSwitch, -1, m.nics_per_node});
      for (const int rail : rails) t.AddLink(rail, top, spine, 1, Seconds(kExtraSwitchSeconds));
    }
  }
  // `count` things dealt evenly, in order, over `over` others.
  const auto dealt = [](int i, int count, int over) {
    return static_cast<int>(static_cast<int64_t>(i) * over / std::max(1, count));
  };
  for (int node = 0; node < nodes; ++node) {
    const int gpus = std::min(per_node, gpu_count - node * per_node);
    const int socket_count = m.sockets_per_node;
    std::vector<int> sockets, drams;
    for (int s = 0; s < socket_count; ++s) {
      sockets.push_back(t.AddPlace({PlaceKind::kSocket, node, s}));
      drams.push_back(t.AddPlace({PlaceKind::kDram, node, s, m.host.memory}));
      t.AddLink(drams[s], sockets[s], m.host_memory);
      for (int other = 0; other < s; ++other) {
        const bool same_host = dealt(s, socket_count, m.hosts_per_node) == dealt(other, socket_count, m.hosts_per_node);
        if (same_host) t.AddLink(sockets[other], sockets[s], m.socket_link);
      }
    }
    std::vector<int> switches;
    for (int p = 0; p < m.pcie_switches_per_node; ++p) {
      switches.push_back(t.AddPlace({PlaceKind::kPcieSwitch, node, p}));
      t.AddLink(sockets[dealt(p, m.pcie_switches_per_node, socket_count)], switches[p], m.host_link);
    }
    // What GPU or NIC i of `count` hangs on.
    const auto root = [&](int i, int count) {
      return switches.empty() ? sockets[dealt(i, count, socket_count)]
                              : switches[dealt(i, count, static_cast<int>(switches.size()))];
    };
    std::vector<int> gpu_ids;
    for (int g = 0; g < gpus; ++g) {
      gpu_ids.push_back(t.AddPlace({PlaceKind::kGpu, node, g}));
      const int memory = t.AddPlace({PlaceKind::kGpuMemory, node, g, m.gpu.memory});
      t.AddLink(memory, gpu_ids[g], gpu_memory);
      t.AddLink(root(g, per_node), gpu_ids[g], m.host_link);
      const int pcie_switch = switches.empty() ? 0 : dealt(g, per_node, static_cast<int>(switches.size()));
      impl.nearest_dram.push_back(switches.empty() ? drams[dealt(g, per_node, socket_count)]
                                                   : drams[dealt(pcie_switch, m.pcie_switches_per_node, socket_count)]);
    }
    switch (m.scale_up_topology) {
      case ScaleUpTopology::kSwitch: {
        if (gpus < 2) break;
        const int hub = t.AddPlace({PlaceKind::kGpuSwitch, node, 0});
        for (const int gpu : gpu_ids) t.AddLink(gpu, hub, m.scale_up, 1, m.scale_up.latency / 2);
        break;
      }
      case ScaleUpTopology::kMesh:
        for (int a = 0; a < gpus; ++a) {
          for (int b = a + 1; b < gpus; ++b) {
            t.AddLink(gpu_ids[a], gpu_ids[b], m.scale_up, 1.0 / std::max(1, m.scale_up_peers));
          }
        }
        break;
      case ScaleUpTopology::kPairs:
        for (int a = 0; a + 1 < gpus; a += 2) t.AddLink(gpu_ids[a], gpu_ids[a + 1], m.scale_up);
        break;
      case ScaleUpTopology::kPcie:
        break;
    }
    for (int c = 0; c < m.cxl_cards; ++c) {
      const int card = t.AddPlace({PlaceKind::kCxlMemory, node, c, m.cxl_capacity});
      t.AddLink(card, sockets[dealt(c, m.cxl_cards, socket_count)], m.cxl);
    }
    for (int d = 0; d < m.nvme_drives; ++d) {
      const int drive = t.AddPlace({PlaceKind::kNvme, node, d, m.nvme_capacity});
      t.AddLink(drive, sockets[dealt(d, m.nvme_drives, socket_count)], m.nvme);
    }
    for (int n = 0; n < m.nics_per_node; ++n) {
      const int nic = t.AddPlace({PlaceKind::kNic, node, n});
      t.AddLink(root(n, m.nics_per_node), nic, m.nic_link);
      if (!rails.empty()) t.AddLink(nic, rails[n], m.network, 1, m.network.latency / 2);
    }
  }
  return t;
}

GroupLink LinkOfGroup(const Topology& topology, int first, int ranks, int stride) {
  SIM_CHECK(first >= 0 && ranks >= 1 && stride >= 1);
  SIM_CHECK(first + static_cast<int64_t>(ranks - 1) * stride < topology.gpu_count());
  GroupLink group;
  const int per_node = topology.gpus_per_node();
  int in_node = 0;
  for (int i = 0; i < ranks; ++i) {
    const int gpu = first + i * stride;
    const bool new_node = i > 0 && gpu / per_node != (gpu - stride) / per_node;
    if (new_node) ++group.nodes;
    in_node = new_node ? 1 : in_node + 1;
    group.ranks_per_node = std::max(group.ranks_per_node, in_node);
  }
  group.crosses_nodes = group.nodes > 1;
  if (ranks == 1) return group;

  double slowest = std::numeric_limits<double>::infinity();
  std::set<std::tuple<int, int, bool>> seen;  // nodes are alike: one look at each pair of positions
  for (int i = 0; i < ranks; ++i) {
    const int a = first + i * stride;
    const int b = first + (i + 1) % ranks * stride;
    const bool across = a / per_node != b / per_node;
    if (!seen.insert({a % per_node, b % per_node, across}).second) continue;
    const auto path = topology.BestPath(topology.Gpu(a), topology.Gpu(b));
    SIM_CHECK(path.has_value());
    group.latency = std::max(group.latency, path->latency);
    double raw = 0, reached = std::numeric_limits<double>::infinity();
    Edge narrowest;
    for (const int id : path->edges) {
      const Edge e = topology.edge(id);
      if (e.reached().value() >= reached) continue;
      reached = e.reached().value();
      raw = e.bandwidth.value();
      narrowest = e;
    }
    for (const int place : path->places) {
      if (topology.places()[place].kind == PlaceKind::kSocket) group.shared_bridge = true;
    }
    double parallel = 1;
    if (across) {
      parallel = std::min(1.0, static_cast<double>(topology.nics_per_node()) / group.ranks_per_node);
    } else if (topology.scale_up_topology() == ScaleUpTopology::kMesh && path->edges.size() == 1) {
      parallel = std::min(group.ranks_per_node - 1, std::max(1, topology.scale_up_peers()));
    }
    if (reached * parallel >= slowest) continue;
    slowest = reached * parallel;
    group.bandwidth = BytesPerSecond(raw * parallel);
    group.efficiency = narrowest.efficiency;
    group.link_kind = narrowest.kind;
    group.link = narrowest.link;
  }
  return group;
}

}  // namespace simrun
