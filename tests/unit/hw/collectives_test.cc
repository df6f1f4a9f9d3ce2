#include "hw/collectives.h"

#include <cmath>

#include "models/expert_load.h"
#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

constexpr double kUs = 1e-6;

Collectives Make(const Machine& machine, bool custom = false, bool deepep = false, const Catalog& catalog = FormulaCatalog()) {
  auto set = LoadOperatorParams(OperatorEntryFor(machine.gpu), catalog);
  EXPECT_TRUE(set.ok()) << set.status();
  return Collectives(machine, std::make_shared<const OperatorParamSet>(*set), custom, deepep);
}

Machine Nodes(std::string gpu, int nodes) {
  HardwareConfig config;
  config.gpu = std::move(gpu);
  config.count = 8 * nodes;
  return TestMachine(config);
}

TEST(CollectivesTest, GroupsKnowTheirNodes) {
  Machine machine = TestMachine("h100-sxm-80gb");
  machine.gpus_per_node = 8;
  EXPECT_EQ(GroupPath(machine, 8).nodes, 1);
  EXPECT_EQ(GroupPath(machine, 16).nodes, 2);
  EXPECT_EQ(GroupPath(machine, 16).ranks_per_node, 8);
  EXPECT_EQ(GroupPath(machine, 2, 8).nodes, 2);
  EXPECT_EQ(GroupPath(machine, 2, 8).ranks_per_node, 1);
  EXPECT_EQ(GroupPath(machine, 2, 4, 4).nodes, 2);  // GPUs 4 and 8
  EXPECT_EQ(GroupPath(machine, 12).ranks_per_node, 8);
}

TEST(CollectivesTest, NvlinkMatchesTheFit) {
  const Collectives h100 = Make(TestMachine("h100-sxm-80gb"));
  for (const int n : {2, 4, 8}) {
    for (const double s : {1024.0, 524288.0, 67108864.0}) {
      const double v = s * 2 * (n - 1) / n, g = s * (n - 1) / n;
      const double reduce = (4.4 + 1.62 * (n - 1)) * kUs + v / (450e9 * 0.85) + 5.4 * kUs * std::sqrt(v / 1e6);
      EXPECT_NEAR(h100.Seconds(OpKind::kAllReduce, s, {n, n, 1}), reduce, 1e-9 * reduce);
      const double gather = (4.42 + 0.85 * (n - 1)) * kUs + g / (450e9 * 0.752) + 6.41 * kUs * std::sqrt(g / 1e6);
      EXPECT_NEAR(h100.Seconds(OpKind::kAllGather, s, {n, n, 1}), gather, 1e-9 * gather);
      // All-to-all counts only what leaves the rank; its fit combines with q = 4.
      const double a = (6.52 + 0.204 * (n - 1)) * kUs, t = g / (450e9 * 0.85);
      const double all = std::pow(std::pow(a, 4) + std::pow(t, 4), 0.25) + 9.44 * kUs * std::sqrt(g / 1e6);
      EXPECT_NEAR(h100.Seconds(OpKind::kAllToAll, g, {n, n, 1}), all, 1e-9 * all);
    }
  }
  EXPECT_EQ(h100.Seconds(OpKind::kAllReduce, 1e6, {1, 1, 1}), 0);
  EXPECT_EQ(h100.Seconds(OpKind::kAllReduce, 0, {8, 8, 1}), 0);
}

// Over PCIe peer to peer, every link of a ring carries what it would between two GPUs.
TEST(CollectivesTest, PeerToPeerMakesGroupsOnPcieAsFastAsPairs) {
  Machine machine = TestMachine("l40s-48gb");
  ASSERT_EQ(machine.scale_up.kind, "pcie");
  const Collectives measured = Make(machine);
  machine.peer_to_peer = true;
  const Collectives direct = Make(machine);
  const double bytes = 64e6;
  EXPECT_EQ(direct.Seconds(OpKind::kAllReduce, bytes, {2, 2, 1}), measured.Seconds(OpKind::kAllReduce, bytes, {2, 2, 1}));
  for (const int n : {4, 8}) {
    // 2 (n - 1)/n of the message against all of it between two; hops of microseconds do not show.
    const double pair = direct.Seconds(OpKind::kAllReduce, bytes * 2 * (n - 1) / n, {2, 2, 1});
    EXPECT_NEAR(direct.Seconds(OpKind::kAllReduce, bytes, {n, n, 1}), pair, 0.01 * pair) << n;
    EXPECT_LE(direct.Seconds(OpKind::kAllReduce, bytes, {n, n, 1}), measured.Seconds(OpKind::kAllReduce, bytes, {n, n, 1})) << n;
    const double gathered = direct.Seconds(OpKind::kAllGather, bytes * 2 * (n - 1) / n, {2, 2, 1});
    EXPECT_LE(direct.Seconds(OpKind::kAllGather, bytes, {n, n, 1}), 1.01 * gathered) << n;
  }
  // Other links are as they were.
  Machine nvlink = TestMachine("h100-sxm-80gb");
  const double before = Make(nvlink).Seconds(OpKind::kAllReduce, bytes, {8, 8, 1});
  nvlink.peer_to_peer = true;
  EXPECT_EQ(Make(nvlink).Seconds(OpKind::kAllReduce, bytes, {8, 8, 1}), before);
}

TEST(CollectivesTest, TheOneShotKernelWinsForSmallMessagesOnly) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const Collectives nccl = Make(machine), both = Make(machine, true);
  EXPECT_LT(both.Seconds(OpKind::kAllReduce, 16384, {8, 8, 1}),
            0.5 * nccl.Seconds(OpKind::kAllReduce, 16384, {8, 8, 1}));
  EXPECT_EQ(both.Seconds(OpKind::kAllReduce, 20e6, {8, 8, 1}), nccl.Seconds(OpKind::kAllReduce, 20e6, {8, 8, 1}));
  EXPECT_EQ(both.Seconds(OpKind::kAllReduce, 16384, {9, 9, 1}), nccl.Seconds(OpKind::kAllReduce, 16384, {9, 9, 1}));
}

TEST(CollectivesTest, AnEngineTakesTheKernelsOfItsFamily) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const auto set = std::make_shared<const OperatorParamSet>(*LoadOperatorParams(OperatorEntryFor(machine.gpu), TestCatalog()));
  const auto seconds = [&](const char* backend) { return Collectives(machine, set, true, false, backend).Seconds(OpKind::kAllReduce, 65536, {4, 4, 1}); };
  ASSERT_NE(seconds("trtllm"), seconds("vllm"));
  EXPECT_EQ(seconds("trtllm-engine"), seconds("trtllm"));
  EXPECT_EQ(seconds("trtllm-engine-1.0"), seconds("trtllm"));
  EXPECT_EQ(seconds("no-such-engine"), seconds("vllm")) << "strangers take the first entry";
}

TEST(CollectivesTest, AnEnginesOwnKernelOfARelativeComesBeforeAnotherEngines) {
  const Machine b300 = TestMachine("b300-sxm-288gb"), b200 = TestMachine("b200-sxm-180gb");
  const auto seconds = [](const Machine& machine, const char* backend) {
    const auto set = std::make_shared<const OperatorParamSet>(*LoadOperatorParams(OperatorEntryFor(machine.gpu), TestCatalog()));
    return Collectives(machine, set, true, false, backend).Seconds(OpKind::kAllReduce, 65536, {4, 4, 1});
  };
  EXPECT_NE(seconds(b300, "vllm"), seconds(b200, "vllm"));
  EXPECT_EQ(seconds(b300, "sglang"), seconds(b200, "sglang"));
  EXPECT_EQ(seconds(b300, "trtllm-engine-1.0"), seconds(b200, "trtllm"));
}

// FlashInfer's kernel is TensorRT-LLM's; vLLM's own becomes slow from 256 KB on over eight GPUs.
TEST(CollectivesTest, TheFusedKernelIsTakenWhereItIsFaster) {
  const auto seconds = [](const char* gpu, bool custom, bool fused, double bytes, int ranks) {
    const Machine machine = TestMachine(gpu);
    const auto set = std::make_shared<const OperatorParamSet>(*LoadOperatorParams(OperatorEntryFor(machine.gpu), TestCatalog()));
    return Collectives(machine, set, custom, false, "vllm", fused).Seconds(OpKind::kAllReduce, bytes, {ranks, ranks, 1});
  };
  for (const char* gpu : {"h100-sxm-80gb", "b200-sxm-180gb", "b300-sxm-288gb"}) {
    for (const int ranks : {2, 4, 8}) {
      for (const double bytes : {4096.0, 65536.0, 1048576.0}) {
        EXPECT_LE(seconds(gpu, true, true, bytes, ranks), seconds(gpu, true, false, bytes, ranks)) << gpu << ranks << " " << bytes;
      }
    }
    EXPECT_EQ(seconds(gpu, true, true, 20e6, 8), seconds(gpu, true, false, 20e6, 8)) << gpu;
    EXPECT_EQ(seconds(gpu, false, true, 65536, 8), seconds(gpu, false, false, 65536, 8)) << gpu << ": without one-shot kernels";
  }
  EXPECT_LT(seconds("b200-sxm-180gb", true, true, 262144, 8), 0.5 * seconds("b200-sxm-180gb", true, false, 262144, 8));
  EXPECT_EQ(seconds("l40s-48gb", true, true, 65536, 4), seconds("l40s-48gb", true, false, 65536, 4)) << "over PCIe";
}

TEST(CollectivesTest, TimesGrowWithBytesAndRanks) {
  for (const char* gpu : {"a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm-180gb", "mi300x-192gb", "l40s-48gb", "tpu-v5e"}) {
    const Machine machine = TestMachine(gpu);
    const Collectives c = Make(machine, true, true);
    for (const OpKind kind : {OpKind::kAllReduce, OpKind::kAllGather, OpKind::kReduceScatter, OpKind::kAllToAll}) {
      for (const int n : {2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 64}) {
        double last = 0;
        for (double bytes = 64; bytes < 4e9; bytes *= 1.5) {
          const double t = c.Seconds(kind, bytes, GroupPath(machine, n));
          EXPECT_GE(t, last) << gpu << " " << OpKindName(kind) << " " << n << " " << bytes;
          last = t;
        }
      }
    }
    if (machine.scale_up_topology == ScaleUpTopology::kPcie) continue;  // measured curves are not ordered by ranks
    if (machine.scale_up_topology == ScaleUpTopology::kMesh) continue;  // more ranks use more links
    for (double bytes : {1e3, 1e5, 1e7, 1e9}) {
      double last = 0;
      for (int n = 2; n <= 16; ++n) {
        const double t = c.Seconds(OpKind::kAllReduce, bytes, GroupPath(machine, n));
        EXPECT_GE(t, last * (1 - 1e-12)) << gpu << " " << n << " " << bytes;
        last = t;
      }
    }
  }
}

TEST(CollectivesTest, NothingBeatsTheWire) {
  for (const char* gpu : {"h100-sxm-80gb", "l40s-48gb", "mi300x-192gb", "rtx-4090", "rtx-pro-6000-96gb"}) {
    const Machine machine = TestMachine(gpu);
    const Collectives c = Make(machine, true);
    for (const int n : {2, 4, 8}) {
      const double s = 1e9;
      EXPECT_GE(c.Seconds(OpKind::kAllReduce, s, {n, n, 1}), s * 2 * (n - 1) / n / machine.scale_up.bandwidth.value())
          << gpu;
      EXPECT_GE(c.Seconds(OpKind::kAllGather, s, {n, n, 1}), s * (n - 1) / n / machine.scale_up.bandwidth.value())
          << gpu;
    }
  }
}

TEST(CollectivesTest, RailsOfTheNetworkBoundGroupsAcrossNodes) {
  // One GPU per node: the bus bandwidth of a large all-reduce is that of its NIC, at least 80 % of it.
  const Machine machine = Nodes("mi300x-192gb", 4);
  const Collectives c = Make(machine);
  const double nic = machine.network.bandwidth.value() * machine.nics_per_node / machine.gpus_per_node;
  double last = 0;
  for (double s = 1 << 20; s <= 2147483648.0; s *= 2) {
    const int nodes = 4;
    const double t = c.Seconds(OpKind::kAllReduce, s, {nodes, 1, nodes});
    const double bus = s * 2 * (nodes - 1) / nodes / t;
    EXPECT_LE(bus, nic);
    EXPECT_GE(t, last);
    last = t;
    if (s >= 268435456) {
      EXPECT_GE(bus, 0.8 * nic);
    }
  }
  // Whole nodes: slower than inside one node, faster than one GPU per node with the whole vector.
  const CommPath two{16, 8, 2};
  EXPECT_GT(c.Seconds(OpKind::kAllReduce, 1e9, two), c.Seconds(OpKind::kAllReduce, 1e9, {8, 8, 1}));
  EXPECT_LT(c.Seconds(OpKind::kAllReduce, 1e9, two), c.Seconds(OpKind::kAllReduce, 1e9, {2, 1, 2}));
}

TEST(CollectivesTest, MessagesBetweenNodesMatchTheFit) {
  const Machine machine = Nodes("h100-sxm-80gb", 2);
  const Collectives c = Make(machine);
  EXPECT_NEAR(c.Seconds(OpKind::kSendRecv, 64e6, {2, 1, 2}), 19.8e-6 + 64e6 / 36e9, 1e-6);
  EXPECT_NEAR(c.Seconds(OpKind::kSendRecv, 64e6, {2, 2, 1}), 7.7e-6 + 64e6 / 359e9, 1e-6);
}

TEST(CollectivesTest, DeepEpMatchesTheFit) {
  const Machine machine = Nodes("h100-sxm-80gb", 4);
  const Collectives c = Make(machine, false, true);
  Operator op;
  op.kind = OpKind::kAllToAll;
  op.name = "dispatch";
  op.group = CommGroup::kExpert;
  op.tokens = 128;
  op.hidden = 7168;
  op.topk = 8;
  op.experts = 256;
  for (const int nodes : {1, 2, 4}) {
    op.ep = op.ranks = 8 * nodes;
    const double copies = RanksPerToken(256, 8, op.ep) * (op.ep - 1) / op.ep;
    op.bytes = 128 * copies * 7168;  // fp8
    // Low-latency kernels: one copy per chosen expert.
    const double s = 128.0 * 8 * 7168;
    const double a = (17 + 6.8 * std::log2(nodes)) * kUs, local = s / nodes / 212e9,
                 remote = s * (nodes - 1) / nodes / 38e9;
    const double low_latency = std::sqrt(a * a + local * local + remote * remote);
    const double t = c.Seconds(op, {op.ranks, 8, nodes});
    EXPECT_LE(t, low_latency * 1.01) << nodes;  // or the normal kernels, if those are faster
    EXPECT_GT(t, 0.4 * low_latency) << nodes;
    if (nodes == 1) {
      EXPECT_NEAR(t, low_latency, 0.01 * low_latency);
    }
  }
}

TEST(CollectivesTest, SourcesAreLabelled) {
  const Machine h100 = TestMachine("h100-sxm-80gb");
  Operator op;
  op.kind = OpKind::kAllReduce;
  op.bytes = 1e6;
  EXPECT_EQ(Make(h100).Source(op, {8, 8, 1}).provenance, Provenance::kCalibrated);
  EXPECT_EQ(Make(h100).Source(op, {16, 8, 2}).provenance, Provenance::kAssumed);
  EXPECT_EQ(Make(TestMachine("mi300x-192gb")).Source(op, {8, 8, 1}).provenance, Provenance::kDatasheet);
}

TEST(CollectivesTest, AMeshGivesAPairOneLink) {
  const Machine machine = TestMachine("mi300x-192gb");
  ASSERT_EQ(machine.scale_up_topology, ScaleUpTopology::kMesh);
  const Collectives c = Make(machine);
  const double s = 1e9, whole = machine.scale_up.bandwidth.value();
  EXPECT_GE(c.Seconds(OpKind::kAllReduce, s, {2, 2, 1}), s / (whole / 7));
  EXPECT_LT(c.Seconds(OpKind::kAllReduce, s, {8, 8, 1}), c.Seconds(OpKind::kAllReduce, s, {2, 2, 1}));
}

}  // namespace
}  // namespace simrun
