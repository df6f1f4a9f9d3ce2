#include "hw/machine.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace simrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Catalog BuiltIn() {
  Catalog catalog;
  catalog.AddEmbedded(HardwareCatalogFiles());
  return catalog;
}

struct Built {
  Machine machine;
  std::vector<std::string> problems;
};

Built Build(const std::string& yaml, const Catalog& catalog) {
  const auto node = ParseYaml(yaml, "test.yaml");
  EXPECT_TRUE(node.ok()) << std::string(node.status().message());
  HardwareConfig config;
  Problems problems;
  ReadParams(*node, "hardware", &problems, &config);
  EXPECT_TRUE(problems.empty()) << std::string(problems.ToStatus().message());
  Built built;
  built.machine = BuildMachine(config, catalog, node->location(), &problems);
  built.problems = problems.lines();
  return built;
}

Machine Good(const std::string& yaml) {
  Built built = Build(yaml, BuiltIn());
  EXPECT_THAT(built.problems, IsEmpty()) << yaml;
  return built.machine;
}

std::vector<std::string> Bad(const std::string& yaml) { return Build(yaml, BuiltIn()).problems; }

double Peak(const Machine& m, DType d) { return m.gpu.peak[static_cast<int>(d)].value(); }

TEST(BuildMachineTest, NodeFromTheCatalogue) {
  const Machine m = Good("{node: dgx-h100, nodes: 2}");
  EXPECT_EQ(m.node_name, "dgx-h100");
  EXPECT_EQ(m.gpu.name, "h100-sxm-80gb");
  EXPECT_EQ(m.gpu_count, 16);
  EXPECT_EQ(m.gpus_per_node, 8);
  EXPECT_EQ(m.host.name, "xeon-8480c");
  EXPECT_EQ(m.sockets_per_node, 2);
  EXPECT_DOUBLE_EQ(m.host.memory.value(), 2048e9 / 2);  // 2 TB over two sockets
  EXPECT_EQ(m.scale_up.name, "nvlink4");
  EXPECT_DOUBLE_EQ(m.scale_up.bandwidth.value(), 450e9);
  EXPECT_TRUE(m.scale_up_switched);
  EXPECT_EQ(m.host_link.name, "pcie5-x16");
  EXPECT_EQ(m.network.name, "ib-ndr-400");
  EXPECT_EQ(m.nics_per_node, 8);
  EXPECT_THAT(m.assumptions, IsEmpty());
  EXPECT_EQ(m.provenance, Provenance::kDatasheet);
  EXPECT_EQ(m.gpu.operators, "h100");
  EXPECT_EQ(m.gpu.operators_provenance, Provenance::kCalibrated);
}

TEST(BuildMachineTest, CountMayLeavePartOfTheNodesIdle) {
  const Machine m = Good("{node: dgx-h100, nodes: 2, count: 9}");
  EXPECT_EQ(m.gpu_count, 9);
  EXPECT_EQ(m.gpus_per_node, 8);
}

TEST(BuildMachineTest, PartsTakeTheUsualHostAndSayTheyDo) {
  const Machine m = Good("{gpu: h100, count: 12}");
  EXPECT_EQ(m.gpu.name, "h100-sxm-80gb");
  EXPECT_EQ(m.gpu_count, 12);
  EXPECT_EQ(m.gpus_per_node, 8);  // so two nodes
  EXPECT_EQ(m.host.name, "xeon-8480c");
  EXPECT_EQ(m.nics_per_node, 8);
  ASSERT_THAT(m.assumptions, SizeIs(2));
  EXPECT_THAT(m.assumptions[0], HasSubstr("xeon-8480c"));
  EXPECT_THAT(m.assumptions[1], HasSubstr("ib-ndr-400"));
  EXPECT_THAT(Good("{gpu: h100, host: epyc-9654, network: roce-400}").assumptions, IsEmpty());
}

TEST(BuildMachineTest, AutoCountIsLeftToThePlan) {
  EXPECT_EQ(Good("{gpu: h100}").gpu_count, 0);
  EXPECT_EQ(Good("{gpu: h100, count: auto}").gpu_count, 0);
}

TEST(BuildMachineTest, SizeOfTheUsualServer) {
  EXPECT_EQ(Good("{gpu: gh200, count: 4}").gpus_per_node, 1);
  const Machine rack = Good("{gpu: gb200, count: 144}");
  EXPECT_EQ(rack.gpus_per_node, 72);
  EXPECT_EQ(rack.sockets_per_node, 36);  // one Grace for two GPUs
  EXPECT_EQ(Good("{gpu: rtx-4090, count: 16, gpus_per_node: 4}").gpus_per_node, 4);
}

TEST(BuildMachineTest, LinkBetweenGpus) {
  const Machine geforce = Good("{gpu: rtx-4090, count: 8}");
  EXPECT_EQ(geforce.scale_up.kind, "pcie");
  EXPECT_FALSE(geforce.scale_up_switched);
  EXPECT_EQ(geforce.scale_up_topology, ScaleUpTopology::kPcie);
  EXPECT_DOUBLE_EQ(geforce.scale_up.bandwidth.value(), 31.5e9);

  const Machine what_if = Good("{gpu: rtx-4090, count: 8, link: nvlink4}");
  EXPECT_EQ(what_if.scale_up_topology, ScaleUpTopology::kSwitch);
  EXPECT_DOUBLE_EQ(what_if.scale_up.bandwidth.value(), 450e9);

  const Machine without = Good("{node: dgx-h100, link: pcie5-x16}");
  EXPECT_EQ(without.scale_up_topology, ScaleUpTopology::kPcie);
  EXPECT_FALSE(without.scale_up_switched);
  EXPECT_DOUBLE_EQ(without.scale_up.bandwidth.value(), 63e9);

  // The 3090 has a connector for a bridge; servers leave it open unless the user says otherwise.
  EXPECT_EQ(Good("{gpu: rtx-3090, count: 2}").scale_up.kind, "pcie");
  const Machine bridged = Good("{gpu: rtx-3090, count: 2, link: nvlink3}");
  EXPECT_EQ(bridged.scale_up_topology, ScaleUpTopology::kPairs);
  EXPECT_DOUBLE_EQ(bridged.scale_up.bandwidth.value(), 56.25e9);  // its own four lanes, not an A100's twelve

  const Machine mesh = Good("{node: mi300x-8x}");
  EXPECT_EQ(mesh.scale_up_topology, ScaleUpTopology::kMesh);
  EXPECT_EQ(mesh.scale_up_peers, 7);
  EXPECT_DOUBLE_EQ(Good("{gpu: h800-sxm-80gb}").scale_up.bandwidth.value(), 200e9);  // NVLink 4 cut down
}

TEST(BuildMachineTest, OverridesAct) {
  const Machine base = Good("{node: dgx-h100}");
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, memory_bandwidth: 5 TB/s}").gpu.memory_bandwidth.value(), 5e12);
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, memory: 120 GiB}").gpu.memory.value(), 120 * 1073741824.0);
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, link_bandwidth: 100 GB/s}").scale_up.bandwidth.value(), 100e9);
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, host_link_bandwidth: 30 GB/s}").host_link.bandwidth.value(), 30e9);
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, network_bandwidth: 12 GB/s}").network.bandwidth.value(), 12e9);
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, power_limit: 400 W}").power_limit->value(), 400);
  EXPECT_FALSE(base.power_limit.has_value());
  EXPECT_DOUBLE_EQ(Good("{node: dgx-h100, gpu_clock: 1410 MHz}").gpu_clock->value(), 1.41e9);
  EXPECT_FALSE(base.gpu_clock.has_value());
  // 16-bit peak halved: every format halves.
  const Machine slow = Good("{node: dgx-h100, peak_flops: 494.7 TFLOP/s}");
  for (const DType d : {DType::kFp32, DType::kBf16, DType::kFp8}) {
    EXPECT_NEAR(Peak(slow, d) / Peak(base, d), 0.5, 1e-12);
  }
  // The V100 has no bf16: fp16 is the reference.
  EXPECT_NEAR(Peak(Good("{gpu: v100-sxm2-32gb, peak_flops: 250 TFLOP/s}"), DType::kFp32), 2 * 15.7e12, 1);
}

TEST(BuildMachineTest, AnOverriddenDeviceIsNoLongerTheMeasuredOne) {
  const Machine same = Good("{node: dgx-h100, memory_bandwidth: 3352 GB/s}");
  EXPECT_EQ(same.gpu.operators_provenance, Provenance::kCalibrated);
  EXPECT_EQ(same.provenance, Provenance::kDatasheet);
  for (const char* what : {"memory_bandwidth: 3 TB/s", "peak_flops: 800 TFLOP/s"}) {
    const Machine other = Good(std::string("{node: dgx-h100, ") + what + "}");
    EXPECT_EQ(other.gpu.operators_provenance, Provenance::kTransferred) << what;
    EXPECT_EQ(other.provenance, Provenance::kAssumed) << what;
  }
}

// The Gaudi 3's fp16 rate is an estimate in the catalogue.
TEST(BuildMachineTest, EstimatedFiguresAreAssumptions) {
  EXPECT_EQ(Good("{gpu: gaudi3}").provenance, Provenance::kAssumed);
  EXPECT_EQ(Good("{gpu: gaudi3}").gpu.operators_provenance, Provenance::kDatasheet);
  EXPECT_EQ(Good("{gpu: l4-24gb}").gpu.operators_provenance, Provenance::kTransferred);
}

TEST(BuildMachineTest, PriceIsTheCataloguesUnlessGiven) {
  const Machine m = Good("{node: dgx-h100}");
  EXPECT_NEAR(m.price_per_gpu.value() * 3600, 4.29, 1e-9);  // median of seven on-demand offers
  EXPECT_THAT(m.price_source, HasSubstr("median of 7"));
  const Machine given = Good("{node: dgx-h100, price: 2 USD/h}");
  EXPECT_NEAR(given.price_per_gpu.value() * 3600, 2, 1e-12);
  EXPECT_EQ(given.price_source, "given");
}

TEST(BuildMachineTest, CarbonIntensity) {
  EXPECT_DOUBLE_EQ(Good("{gpu: h100}").carbon_g_per_kwh, 475);
  EXPECT_DOUBLE_EQ(Good("{gpu: h100, region: gcp-europe-west9}").carbon_g_per_kwh, 34);
  EXPECT_DOUBLE_EQ(Good("{gpu: h100, carbon_g_per_kwh: 12.5}").carbon_g_per_kwh, 12.5);
  EXPECT_THAT(Bad("{gpu: h100, region: wind, carbon_g_per_kwh: 1}"), ElementsAre(HasSubstr("both give the carbon")));
}

TEST(BuildMachineTest, MistakesNameThePlaceAndTheCure) {
  struct Case {
    const char* yaml;
    std::vector<const char*> says;
  };
  const Case cases[] = {
      {"{}", {"hardware: gives neither node nor gpu", "dgx-h100"}},
      {"{node: dgx-h100, gpu: h100}", {"hardware: gives both node and gpu", "remove one"}},
      {"{gpu: h100-sxm-80g}", {"hardware.gpu: unknown gpu \"h100-sxm-80g\"", "h100-sxm-80gb"}},
      {"{node: dgx-h101}", {"hardware.node: unknown node \"dgx-h101\"", "dgx-h100"}},
      {"{gpu: h100, host: xeon-8480x}", {"hardware.host: unknown cpu \"xeon-8480x\"", "xeon-8480"}},
      {"{gpu: h100, link: nvlink44}", {"hardware.link: unknown link \"nvlink44\"", "nvlink4"}},
      {"{gpu: h100, link: nvme-gen4-x4}", {"hardware.link: \"nvme-gen4-x4\" is a link of kind nvme"}},
      {"{gpu: h100, network: nvlink4}", {"hardware.network: \"nvlink4\" is a link of kind nvlink", "ib-ndr-400"}},
      {"{gpu: h100, region: aws-us-east-9}", {"hardware.region: unknown region", "aws-us-east-1"}},
      {"{gpu: h100, nodes: 2}", {"hardware.nodes", "needs node", "count"}},
      {"{node: dgx-h100, count: 9}", {"hardware.count: 9 GPUs are more than the 8", "raise nodes to 2"}},
      {"{node: dgx-h100, gpus_per_node: 4}", {"hardware.gpus_per_node: is set by the node"}},
      {"{gpu: h100, gpu_clock: 2100 MHz}", {"hardware.gpu_clock: 2100 MHz is out of range; h100-sxm-80gb runs at 297 to 1980 MHz"}},
      {"{gpu: h100, gpu_clock: 100 MHz}", {"hardware.gpu_clock: 100 MHz is out of range"}},
      {"{gpu: h100, power_limit: 60 W}", {"hardware.power_limit: 60 W is not above the 118 W"}},
  };
  for (const Case& c : cases) {
    const auto problems = Bad(c.yaml);
    ASSERT_THAT(problems, SizeIs(1)) << c.yaml;
    for (const char* text : c.says) EXPECT_THAT(problems[0], HasSubstr(text)) << c.yaml;
    EXPECT_THAT(problems[0], HasSubstr("test.yaml:1:")) << c.yaml;
  }
}

TEST(BuildMachineTest, ReportsEveryMistakeAtOnce) {
  EXPECT_THAT(Bad("{gpu: h1000, host: nope, network: nope, link: nope, region: nope, nodes: 3}"), SizeIs(6));
}

TEST(BuildMachineTest, EarlierProblemsOfOtherSectionsDoNotStopIt) {
  Problems problems;
  problems.Add({}, "workload", "is wrong");
  HardwareConfig config;
  config.node = "dgx-h100";
  EXPECT_EQ(BuildMachine(config, BuiltIn(), {}, &problems).gpu_count, 8);
}

class UserCatalogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           (std::string("catalog_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_ / "gpus");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& text) { std::ofstream(dir_ / "gpus" / "my-chip.yaml") << text; }
  absl::StatusOr<GpuSpec> Load() {
    Catalog catalog = BuiltIn();
    EXPECT_TRUE(catalog.AddDirectory(dir_.string()).ok());
    return LoadGpu("my-chip", catalog);
  }
  std::filesystem::path dir_;
};

constexpr char kChip[] =
    "vendor: us\narchitecture: own\nmemory: 64 GiB\nmemory_bandwidth: 2 TB/s\ntdp: 300 W\nidle_power: 30 W\n"
    "host_link: pcie5-x16\ndefault_host: epyc-9654\ndefault_network: ib-ndr-400\n";

TEST_F(UserCatalogTest, BareNumbersAreEnough) {
  Write(std::string(kChip) + "peak: {bf16: 400 TFLOP/s, fp8: 800 TFLOP/s}\n");
  const auto gpu = Load();
  ASSERT_TRUE(gpu.ok()) << std::string(gpu.status().message());
  EXPECT_DOUBLE_EQ(gpu->peak[static_cast<int>(DType::kFp8)].value(), 800e12);
  EXPECT_DOUBLE_EQ(gpu->nominal_memory.value(), 64 * 1073741824.0);
  EXPECT_EQ(gpu->operators_provenance, Provenance::kDatasheet);
}

TEST_F(UserCatalogTest, MistakesNameFileLineAndKey) {
  Write(std::string(kChip) + "peak: {bf16: 400 TFLOP/s, fp9: 800 TFLOP/s}\nboost: 1 GHz\nl2: 50 parsec\n");
  const auto gpu = Load();
  ASSERT_FALSE(gpu.ok());
  const std::string message(gpu.status().message());
  EXPECT_THAT(message, HasSubstr("my-chip.yaml:10:"));
  EXPECT_THAT(message, HasSubstr("fp9"));
  EXPECT_THAT(message, HasSubstr("boost"));
  EXPECT_THAT(message, HasSubstr("l2"));
}

TEST_F(UserCatalogTest, ImpossibleFigures) {
  Write(std::string(kChip) + "peak: {}\n");
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("peak"));
  Write(
      "vendor: us\narchitecture: own\nmemory: 0 GiB\nmemory_bandwidth: 2 TB/s\ntdp: 30 W\nidle_power: 300 W\n"
      "host_link: pcie5-x16\ndefault_host: epyc-9654\ndefault_network: ib-ndr-400\npeak: {bf16: 1 TFLOP/s}\n");
  const std::string message(Load().status().message());
  EXPECT_THAT(message, HasSubstr("memory: must be greater than 0"));
  EXPECT_THAT(message, HasSubstr("idle_power: is above the TDP"));
}

TEST(ProvenanceTest, Names) {
  EXPECT_EQ(ProvenanceName(Provenance::kMeasured), "measured");
  EXPECT_EQ(ProvenanceName(Provenance::kTransferred), "transferred");
  EXPECT_EQ(ProvenanceName(Provenance::kAssumed), "assumed");
}

}  // namespace
}  // namespace simrun
