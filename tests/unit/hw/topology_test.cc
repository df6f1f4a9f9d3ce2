#include "hw/topology.h"

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace simrun {
namespace {

using ::testing::ElementsAre;

const Catalog& HardwareCatalog() {
  static const Catalog* const catalog = [] {
    auto* c = new Catalog;
    c->AddEmbedded(HardwareCatalogFiles());
    return c;
  }();
  return *catalog;
}

Machine Node(const std::string& name, int nodes = 1) {
  HardwareConfig config;
  config.node = name;
  config.nodes = nodes;
  Problems problems;
  const Machine machine = BuildMachine(config, HardwareCatalog(), {}, &problems);
  EXPECT_TRUE(problems.empty()) << std::string(problems.ToStatus().message());
  return machine;
}

Topology Draw(const std::string& name, int nodes = 1) {
  auto topology = BuildTopology(Node(name, nodes));
  EXPECT_TRUE(topology.ok()) << std::string(topology.status().message());
  return *std::move(topology);
}

std::vector<PlaceKind> Kinds(const Topology& t, const Path& path) {
  std::vector<PlaceKind> kinds;
  for (const int id : path.places) kinds.push_back(t.places()[id].kind);
  return kinds;
}

double Us(Seconds s) { return s.value() * 1e6; }
double GB(BytesPerSecond b) { return b.value() / 1e9; }

LinkSpec MakeLink(const char* name, double gbps, double us, const char* kind = "pcie") {
  LinkSpec link;
  link.name = name;
  link.kind = kind;
  link.bandwidth = BytesPerSecond(gbps * 1e9);
  link.latency = Seconds(us * 1e-6);
  return link;
}

TEST(TopologyTest, InEveryNodeAllGpusReachOneAnotherAndHostMemory) {
  for (const std::string& name : HardwareCatalog().Names("nodes")) {
    for (const int nodes : {1, 2}) {
      const Topology t = Draw(name, nodes);
      for (int a = 0; a < t.gpu_count(); a += 1 + t.gpu_count() / 20) {
        for (int b = 0; b < t.gpu_count(); b += 1 + t.gpu_count() / 20) {
          EXPECT_GT(GB(t.BandwidthBetween(t.Gpu(a), t.Gpu(b))), 1) << name << " " << a << " " << b;
          EXPECT_EQ(GB(t.BandwidthBetween(t.GpuMemory(a), t.GpuMemory(b))),
                    a == b ? INFINITY : GB(t.BandwidthBetween(t.Gpu(a), t.Gpu(b))))
              << name << " " << a << " " << b;
        }
        EXPECT_GT(GB(t.BandwidthBetween(t.NearestDram(a), t.GpuMemory(a))), 1) << name;
      }
    }
  }
}

// NVLink 4 reaches 0.80 of 450 GB/s; one hop over the switch takes 0.5 us.
TEST(TopologyTest, NvSwitchJoinsAllPairsAtFullRate) {
  const Topology t = Draw("dgx-h100");
  for (const int other : {1, 3, 7}) {
    const auto path = t.BestPath(t.Gpu(0), t.Gpu(other));
    ASSERT_TRUE(path.has_value());
    EXPECT_THAT(Kinds(t, *path), ElementsAre(PlaceKind::kGpu, PlaceKind::kGpuSwitch, PlaceKind::kGpu));
    EXPECT_NEAR(GB(path->bandwidth), 360, 1e-9);
    EXPECT_NEAR(Us(path->latency), 0.5, 1e-6);
  }
}

// A copy from host memory: PCIe 5 x16 reaches 0.841 of 63 GB/s (two hops of 0.7 us over the PCIe switch); eight DDR5
// channels reach 0.82 of 307.2 GB/s, 113 ns. GPU 7 hangs on socket 1; socket 0 is 82 ns further.
TEST(TopologyTest, HostMemoryOfADgx) {
  const Topology t = Draw("dgx-h100");
  const int near = t.NearestDram(0);
  EXPECT_EQ(near, t.Find(PlaceKind::kDram, 0, 0));
  EXPECT_EQ(t.NearestDram(7), t.Find(PlaceKind::kDram, 0, 1));
  const auto path = t.BestPath(near, t.GpuMemory(0));
  ASSERT_TRUE(path.has_value());
  EXPECT_THAT(Kinds(t, *path), ElementsAre(PlaceKind::kDram, PlaceKind::kSocket, PlaceKind::kPcieSwitch,
                                           PlaceKind::kGpu, PlaceKind::kGpuMemory));
  EXPECT_NEAR(GB(path->bandwidth), 63 * 0.877, 1e-9);
  EXPECT_NEAR(Us(path->latency), 2 * 0.7 + 0.113, 1e-6);
  const auto far = t.BestPath(near, t.GpuMemory(7));
  EXPECT_NEAR(GB(far->bandwidth), 63 * 0.877, 1e-9);
  EXPECT_NEAR(Us(far->latency), 2 * 0.7 + 0.113 + 0.082, 1e-6);
  EXPECT_NEAR(GB(t.BandwidthBetween(near, t.Find(PlaceKind::kSocket, 0, 0))), 307.2 * 0.82, 1e-9);
  EXPECT_DOUBLE_EQ(t.places()[near].capacity.value(), 1024e9);
}

// Between nodes: GPU, PCIe switch, NIC, rail switch and back. NDR reaches 0.92 of 50 GB/s, below PCIe's 55; four PCIe
// hops of 0.7 us and 1.3 us from port to port. Two more switches (spine, other rail) cost 0.3 us each.
TEST(TopologyTest, TwoNodes) {
  const Topology t = Draw("dgx-h100", 2);
  ASSERT_EQ(t.gpu_count(), 16);
  const auto rail = t.BestPath(t.Gpu(3), t.Gpu(11));
  ASSERT_TRUE(rail.has_value());
  EXPECT_THAT(Kinds(t, *rail),
              ElementsAre(PlaceKind::kGpu, PlaceKind::kPcieSwitch, PlaceKind::kNic, PlaceKind::kNetworkSwitch,
                          PlaceKind::kNic, PlaceKind::kPcieSwitch, PlaceKind::kGpu));
  EXPECT_NEAR(GB(rail->bandwidth), 46, 1e-9);
  EXPECT_NEAR(Us(rail->latency), 4 * 0.7 + 1.3, 1e-6);
  // GPUs 0 and 1 share a PCIe switch with NICs 0 and 1, so GPU 9 is on GPU 0's rail too; GPU 15 is not.
  EXPECT_EQ(t.BestPath(t.Gpu(0), t.Gpu(9))->edges.size(), 6u);
  const auto spine = t.BestPath(t.Gpu(0), t.Gpu(15));
  EXPECT_EQ(spine->edges.size(), 8u);
  EXPECT_NEAR(GB(spine->bandwidth), 46, 1e-9);
  EXPECT_NEAR(Us(spine->latency), 4 * 0.7 + 1.3 + 2 * 0.3, 1e-6);
  EXPECT_EQ(t.PlaceName(t.Gpu(15)), "node1/gpu7");
}

// Without links of their own, GPUs meet in a host processor: PCIe 4 x16 reaches 25 of 31.5 GB/s.
TEST(TopologyTest, GpusOnPcie) {
  const Topology t = Draw("pcie-8x4090");
  const auto same = t.BestPath(t.Gpu(0), t.Gpu(3));
  EXPECT_THAT(Kinds(t, *same), ElementsAre(PlaceKind::kGpu, PlaceKind::kSocket, PlaceKind::kGpu));
  EXPECT_NEAR(GB(same->bandwidth), 25, 0.05);
  EXPECT_NEAR(Us(same->latency), 2 * 0.8, 1e-6);
  const auto other = t.BestPath(t.Gpu(0), t.Gpu(4));
  EXPECT_THAT(Kinds(t, *other), ElementsAre(PlaceKind::kGpu, PlaceKind::kSocket, PlaceKind::kSocket, PlaceKind::kGpu));
  EXPECT_NEAR(GB(other->bandwidth), 25, 0.05);
  EXPECT_NEAR(Us(other->latency), 2 * 0.8 + 0.1, 1e-6);
}

// Grace-Hopper: the coherent link reaches 375 GB/s down and 297 GB/s up, but LPDDR5X gives 0.80 of 384 GB/s.
TEST(TopologyTest, GraceHopper) {
  const Topology t = Draw("gh200");
  const int dram = t.NearestDram(0), socket = t.Find(PlaceKind::kSocket, 0, 0);
  EXPECT_NEAR(GB(t.BandwidthBetween(socket, t.GpuMemory(0))), 375, 0.2);
  EXPECT_NEAR(GB(t.BandwidthBetween(t.GpuMemory(0), socket)), 297, 1e-6);
  EXPECT_NEAR(GB(t.BandwidthBetween(dram, t.GpuMemory(0))), 384 * 0.8, 1e-6);
  EXPECT_NEAR(GB(t.BandwidthBetween(t.GpuMemory(0), dram)), 297, 1e-6);
}

// 36 Grace sockets in 18 trays: the two of a tray are joined, memory of another tray is reached over the network only
// and therefore not inside one rack without one.
TEST(TopologyTest, RackOfTrays) {
  const Topology t = Draw("gb200-nvl72");
  EXPECT_NEAR(GB(t.BandwidthBetween(t.Gpu(0), t.Gpu(71))), 900 * 0.78, 1e-6);
  EXPECT_EQ(t.NearestDram(0), t.NearestDram(1));
  EXPECT_NE(t.NearestDram(1), t.NearestDram(2));
  EXPECT_GT(GB(t.BandwidthBetween(t.Gpu(0), t.NearestDram(2))), 1);
  EXPECT_EQ(GB(t.BandwidthBetween(t.Gpu(0), t.NearestDram(4))), 0);
  EXPECT_EQ(t.LatencyBetween(t.Gpu(0), t.NearestDram(4)).value(), INFINITY);
}

// A bridge joins GPUs 0 and 1 only, and they do not pass traffic on.
TEST(TopologyTest, BridgedPairs) {
  const Topology t = Draw("pcie-4xa100");
  EXPECT_NEAR(GB(t.BandwidthBetween(t.Gpu(0), t.Gpu(1))), 300 * 0.76, 1e-6);
  const auto path = t.BestPath(t.Gpu(0), t.Gpu(2));
  EXPECT_THAT(Kinds(t, *path), ElementsAre(PlaceKind::kGpu, PlaceKind::kSocket, PlaceKind::kSocket, PlaceKind::kGpu));
}

// 448 GB/s over seven peers, 0.75 of it reached.
TEST(TopologyTest, MeshPairsHaveOneOfSevenLinks) {
  const Topology t = Draw("mi300x-8x");
  EXPECT_NEAR(GB(t.BandwidthBetween(t.Gpu(0), t.Gpu(5))), 64 * 0.75, 1e-6);
  EXPECT_EQ(t.BestPath(t.Gpu(0), t.Gpu(5))->edges.size(), 1u);
}

// Runtimes keep to the links between GPUs even when, as here, PCIe 5 (53 GB/s) would be faster.
TEST(TopologyTest, LinksOfTheGpusComeFirst) {
  Machine m = Node("dgx-h100");
  m.scale_up.bandwidth = BytesPerSecond(10e9);
  const Topology t = *BuildTopology(m);
  EXPECT_NEAR(GB(t.BandwidthBetween(t.Gpu(0), t.GpuMemory(1))), 10 * 0.80, 1e-9);
  EXPECT_EQ(LinkOfGroup(t, 0, 8).link, "nvlink4");
}

// a -> b is wide over the detour, but both end in the same narrow link: the shorter way must win. A single search that
// keeps the widest way to b only would take the detour.
TEST(TopologyTest, WidestThenShortest) {
  Topology t;
  const int a = t.AddPlace({PlaceKind::kGpu, 0, 0});
  const int via = t.AddPlace({PlaceKind::kPcieSwitch, 0, 0});
  const int b = t.AddPlace({PlaceKind::kPcieSwitch, 0, 1});
  const int end = t.AddPlace({PlaceKind::kDram, 0, 0});
  t.AddLink(a, via, MakeLink("wide", 100, 1));
  t.AddLink(via, b, MakeLink("wide", 100, 1));
  t.AddLink(a, b, MakeLink("direct", 50, 1));
  t.AddLink(b, end, MakeLink("narrow", 10, 1));
  const auto path = t.BestPath(a, end);
  ASSERT_TRUE(path.has_value());
  EXPECT_THAT(path->places, ElementsAre(a, b, end));
  EXPECT_NEAR(GB(path->bandwidth), 10, 1e-9);
  EXPECT_NEAR(Us(path->latency), 2, 1e-6);
  // To b itself the detour is the better way.
  EXPECT_NEAR(GB(t.BandwidthBetween(a, b)), 100, 1e-9);
}

TEST(TopologyTest, FewestLinksAmongEqualLatencies) {
  Topology t;
  const int a = t.AddPlace({PlaceKind::kSocket, 0, 0});
  const int b = t.AddPlace({PlaceKind::kSocket, 0, 1});
  const int c = t.AddPlace({PlaceKind::kSocket, 0, 2});
  t.AddLink(a, b, MakeLink("half", 10, 0.5));
  t.AddLink(b, c, MakeLink("half", 10, 0.5));
  t.AddLink(a, c, MakeLink("whole", 10, 1));
  EXPECT_THAT(t.BestPath(a, c)->places, ElementsAre(a, c));
  t.AddLink(a, c, MakeLink("parallel", 10, 0.7));
  const auto path = t.BestPath(a, c);
  EXPECT_EQ(t.edge(path->edges[0]).link, "parallel");
  EXPECT_NEAR(Us(path->latency), 0.7, 1e-6);
}

// The way over three links is complete first, at the latency of the one over two.
TEST(TopologyTest, FewestLinksWhateverTheSearchFindsFirst) {
  Topology t;
  std::vector<int> at;
  for (int i = 0; i < 5; ++i) at.push_back(t.AddPlace({PlaceKind::kPcieSwitch, 0, i}));
  t.AddLink(at[0], at[1], MakeLink("link", 10, 0.5));
  t.AddLink(at[1], at[2], MakeLink("link", 10, 0.5));
  t.AddLink(at[2], at[4], MakeLink("link", 10, 2));
  t.AddLink(at[0], at[3], MakeLink("link", 10, 2));
  t.AddLink(at[3], at[4], MakeLink("link", 10, 1));
  EXPECT_THAT(t.BestPath(at[0], at[4])->places, ElementsAre(at[0], at[3], at[4]));
}

// Node 2 is connected to both networks but does not route for others.
TEST(TopologyTest, OtherNodesPassNothingOn) {
  Topology t;
  const int a = t.AddPlace({PlaceKind::kSocket, 0, 0});
  const int b = t.AddPlace({PlaceKind::kSocket, 1, 0});
  const int left = t.AddPlace({PlaceKind::kNetworkSwitch, -1, 0});
  const int right = t.AddPlace({PlaceKind::kNetworkSwitch, -1, 1});
  const int between = t.AddPlace({PlaceKind::kSocket, 2, 0});
  const LinkSpec link = MakeLink("link", 10, 1);
  t.AddLink(a, left, link);
  t.AddLink(left, between, link);
  t.AddLink(between, right, link);
  t.AddLink(right, b, link);
  EXPECT_FALSE(t.BestPath(a, b).has_value());
  t.AddLink(left, right, link);
  EXPECT_THAT(t.BestPath(a, b)->places, ElementsAre(a, left, right, b));
}

// Exhaustive reference on random graphs: all simple paths, best by (bottleneck, latency, links).
struct Exhaustive {
  const Topology& t;
  std::vector<std::vector<int>> out;
  std::vector<bool> used;
  double width = -1, latency = 0;
  size_t links = 0;
  void Walk(int at, int to, double w, double l, size_t n) {
    if (at == to) {
      if (w > width || (w == width && (l < latency - 1e-12 || (std::abs(l - latency) < 1e-12 && n < links)))) {
        width = w, latency = l, links = n;
      }
      return;
    }
    used[at] = true;
    for (const int id : out[at]) {
      const Edge e = t.edge(id);
      if (!used[e.to]) Walk(e.to, to, std::min(w, e.reached().value()), l + e.latency.value(), n + 1);
    }
    used[at] = false;
  }
};

TEST(TopologyTest, AgreesWithExhaustiveSearch) {
  uint32_t state = 7;
  const auto next = [&](int below) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int>((state >> 16) % static_cast<uint32_t>(below));
  };
  for (int round = 0; round < 60; ++round) {
    Topology t;
    for (int i = 0; i < 7; ++i) t.AddPlace({PlaceKind::kPcieSwitch, 0, i});
    for (int i = 0; i < 12; ++i) {
      const int a = next(7), b = next(7);
      if (a == b) continue;
      LinkSpec link = MakeLink("link", 1 + next(4), 1 + next(4));
      link.return_efficiency = 0.5;
      t.AddLink(a, b, link);
    }
    for (int from = 0; from < 7; ++from) {
      for (int to = 0; to < 7; ++to) {
        if (from == to) continue;
        Exhaustive search{t, std::vector<std::vector<int>>(7), std::vector<bool>(7)};
        for (int e = 0; e < t.edge_count(); ++e) search.out[t.edge(e).from].push_back(e);
        search.Walk(from, to, INFINITY, 0, 0);
        const auto path = t.BestPath(from, to);
        ASSERT_EQ(path.has_value(), search.width > 0);
        if (!path) continue;
        EXPECT_DOUBLE_EQ(path->bandwidth.value(), search.width);
        EXPECT_NEAR(Us(path->latency), search.latency * 1e6, 1e-6);
        EXPECT_EQ(path->edges.size(), search.links);
      }
    }
  }
}

// Further tiers: a CXL expander and a drive on socket 0 of a PCIe box.
TEST(TopologyTest, FurtherMemoryTiers) {
  Topology t = Draw("pcie-1x4090");
  const int socket = t.Find(PlaceKind::kSocket, 0, 0);
  const int cxl = t.AddPlace({PlaceKind::kCxlMemory, 0, 0, Bytes(256e9)});
  const int drive = t.AddPlace({PlaceKind::kNvme, 0, 0, Bytes(4e12)});
  t.AddLink(cxl, socket, *LoadLink("cxl-x8-gen5", HardwareCatalog()));
  t.AddLink(drive, socket, *LoadLink("nvme-gen4-x4", HardwareCatalog()));
  EXPECT_NEAR(GB(t.BandwidthBetween(cxl, t.GpuMemory(0))), 24, 0.05);     // below PCIe 4's 25
  EXPECT_NEAR(GB(t.BandwidthBetween(drive, t.GpuMemory(0))), 7.0, 0.01);  // reads
  EXPECT_NEAR(GB(t.BandwidthBetween(t.GpuMemory(0), drive)), 6.5, 0.01);  // writes
  EXPECT_NEAR(Us(t.LatencyBetween(drive, t.GpuMemory(0))), 80 + 0.8, 1e-6);
  EXPECT_NEAR(GB(t.BandwidthBetween(drive, t.NearestDram(0))), 7.0, 0.01);
}

TEST(TopologyTest, CopiesAreIndependent) {
  const Topology a = Draw("dgx-h100", 2);
  Topology b = a;
  const int extra = b.AddPlace({PlaceKind::kNvme, 0, 0});
  b.AddLink(extra, b.Find(PlaceKind::kSocket, 0, 0), MakeLink("x", 1, 1));
  EXPECT_EQ(a.places().size() + 1, b.places().size());
  EXPECT_EQ(a.BandwidthBetween(a.Gpu(0), a.Gpu(15)).value(), b.BandwidthBetween(b.Gpu(0), b.Gpu(15)).value());
  b = a;
  EXPECT_EQ(a.edge_count(), b.edge_count());
}

TEST(TopologyTest, SizeLimits) {
  const Machine m = Node("dgx-h100");
  EXPECT_EQ(BuildTopology(m, 200000).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BuildTopology(m, -1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BuildTopology(m, 3)->gpu_count(), 3);
  EXPECT_EQ(BuildTopology(m, 20)->nodes(), 3);
}

TEST(LinkOfGroupTest, NvSwitch) {
  const Topology t = Draw("dgx-h100", 2);
  const GroupLink one = LinkOfGroup(t, 5, 1);
  EXPECT_EQ(one.bandwidth.value(), 0);
  EXPECT_EQ(one.nodes, 1);
  const GroupLink node = LinkOfGroup(t, 0, 8);
  EXPECT_NEAR(GB(node.bandwidth), 450, 1e-9);
  EXPECT_NEAR(node.efficiency, 0.80, 1e-12);
  EXPECT_EQ(node.link, "nvlink4");
  EXPECT_EQ(node.link_kind, "nvlink");
  EXPECT_FALSE(node.crosses_nodes);
  EXPECT_FALSE(node.shared_bridge);
  EXPECT_EQ(node.ranks_per_node, 8);
  const GroupLink all = LinkOfGroup(t, 0, 16);
  EXPECT_NEAR(GB(all.bandwidth), 50, 1e-9);
  EXPECT_EQ(all.link_kind, "network");
  EXPECT_TRUE(all.crosses_nodes);
  EXPECT_EQ(all.nodes, 2);
  EXPECT_EQ(all.ranks_per_node, 8);
  const GroupLink rails = LinkOfGroup(t, 2, 2, 8);
  EXPECT_EQ(rails.nodes, 2);
  EXPECT_EQ(rails.ranks_per_node, 1);
  EXPECT_NEAR(GB(rails.bandwidth), 50, 1e-9);
  const GroupLink uneven = LinkOfGroup(t, 6, 4);
  EXPECT_EQ(uneven.nodes, 2);
  EXPECT_EQ(uneven.ranks_per_node, 2);
}

TEST(LinkOfGroupTest, PcieSharesTheHostBridge) {
  const GroupLink direct = LinkOfGroup(Draw("pcie-8x4090"), 0, 2);
  EXPECT_TRUE(direct.shared_bridge);
  EXPECT_NEAR(GB(direct.bandwidth), 31.5, 1e-9);
  EXPECT_EQ(direct.link_kind, "pcie");
  // Two GPUs under each PCIe switch: a pair stays below it, four do not.
  const Topology l40s = Draw("pcie-8xl40s");
  EXPECT_FALSE(LinkOfGroup(l40s, 0, 2).shared_bridge);
  EXPECT_TRUE(LinkOfGroup(l40s, 0, 4).shared_bridge);
}

TEST(LinkOfGroupTest, BridgeHelpsAlignedPairsOnly) {
  const Topology t = Draw("pcie-4xa100");
  EXPECT_NEAR(GB(LinkOfGroup(t, 0, 2).bandwidth), 300, 1e-9);
  EXPECT_FALSE(LinkOfGroup(t, 0, 2).shared_bridge);
  EXPECT_NEAR(GB(LinkOfGroup(t, 1, 2).bandwidth), 31.5, 1e-9);
  EXPECT_NEAR(GB(LinkOfGroup(t, 0, 4).bandwidth), 31.5, 1e-9);
  EXPECT_TRUE(LinkOfGroup(t, 0, 4).shared_bridge);
}

// n members use n - 1 of a GPU's seven links of 64 GB/s.
TEST(LinkOfGroupTest, MeshUsesTheLinksToTheMembers) {
  const Topology t = Draw("mi300x-8x");
  for (const int n : {2, 4, 8}) EXPECT_NEAR(GB(LinkOfGroup(t, 0, n).bandwidth), 64.0 * (n - 1), 1e-9) << n;
  EXPECT_NEAR(GB(LinkOfGroup(Draw("dgx-1-v100"), 0, 8).bandwidth), 150, 1e-9);  // never more than a GPU has
}

TEST(LinkOfGroupTest, GpusShareTheNicsOfTheirNode) {
  // One 12.5 GB/s port for eight GPUs.
  const Topology t = Draw("pcie-8x4090", 2);
  EXPECT_NEAR(GB(LinkOfGroup(t, 0, 16).bandwidth), 12.5 / 8, 1e-9);
  EXPECT_NEAR(GB(LinkOfGroup(t, 0, 2, 8).bandwidth), 12.5, 1e-9);
}

TEST(LinkOfGroupTest, LargeMachine) {
  const auto t = BuildTopology(Node("dgx-h100", 512));
  ASSERT_TRUE(t.ok());
  const GroupLink all = LinkOfGroup(*t, 0, 4096);
  EXPECT_EQ(all.nodes, 512);
  EXPECT_EQ(all.ranks_per_node, 8);
  EXPECT_NEAR(GB(all.bandwidth), 50, 1e-9);
}

}  // namespace
}  // namespace simrun
