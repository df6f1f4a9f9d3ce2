#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hw/cost/operator_params.h"
#include "hw/machine.h"

namespace simrun {
namespace {

using ::testing::AnyOf;

const char* const kSections[] = {"gpus", "cpus", "links", "nodes", "power", "regions"};

const Catalog& HardwareCatalog() {
  static const Catalog* const catalog = [] {
    auto* c = new Catalog;
    c->AddEmbedded(HardwareCatalogFiles());
    return c;
  }();
  return *catalog;
}

std::string DataFile(const std::string& name) {
  const char* dir = std::getenv("SIMRUN_DATA_DIR");
  return (dir != nullptr ? std::string(dir) : std::string(SIMRUN_SOURCE_DIR) + "/../shared/data") + "/" + name;
}

std::vector<std::string> SplitCsv(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"')
      quoted = !quoted;
    else if (c == ',' && !quoted)
      fields.emplace_back();
    else if (c != '\r')
      fields.back() += c;
  }
  return fields;
}

// Rows as column -> text; empty when the file is missing.
std::vector<std::map<std::string, std::string>> ReadCsv(const std::string& path) {
  std::ifstream in(path);
  std::vector<std::map<std::string, std::string>> rows;
  std::string line;
  if (!std::getline(in, line)) return rows;
  const std::vector<std::string> header = SplitCsv(line);
  while (std::getline(in, line)) {
    const std::vector<std::string> fields = SplitCsv(line);
    auto& row = rows.emplace_back();
    for (size_t i = 0; i < header.size() && i < fields.size(); ++i) row[header[i]] = fields[i];
  }
  return rows;
}

double GiB(Bytes b) { return b.value() / 1073741824.0; }

TEST(HardwareCatalogTest, HoldsEveryAccelerator) {
  EXPECT_EQ(HardwareCatalog().Names("gpus").size(), 59u);
  EXPECT_EQ(HardwareCatalog().Names("nodes").size(), 22u);
}

TEST(HardwareCatalogTest, EveryGpuOfTheNameTableLoadsByNameAndAlias) {
  const auto rows = ReadCsv(DataFile("gpu_names.csv"));
  if (rows.empty()) GTEST_SKIP() << "no " << DataFile("gpu_names.csv") << "; set SIMRUN_DATA_DIR";
  for (const auto& row : rows) {
    const std::string& name = row.at("name");
    const auto gpu = LoadGpu(name, HardwareCatalog());
    ASSERT_TRUE(gpu.ok()) << std::string(gpu.status().message());
    EXPECT_EQ(gpu->name, name);
    std::stringstream aliases(row.at("aliases"));
    for (std::string alias; std::getline(aliases, alias, '|');) {
      if (alias.find('(') != std::string::npos) continue;  // a remark on the source, not a name
      const auto found = HardwareCatalog().Resolve("gpus", alias);
      ASSERT_TRUE(found.ok()) << std::string(found.status().message());
      EXPECT_EQ(*found, name) << alias;
    }
  }
}

// As drivers, clouds and papers write them.
TEST(HardwareCatalogTest, GpusAreFoundByTheirUsualNames) {
  const std::pair<const char*, const char*> names[] = {
      {"NVIDIA H100 80GB HBM3", "h100-sxm-80gb"}, {"NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"}, {"NVIDIA A100 80GB PCIe", "a100-pcie-80gb"},
      {"NVIDIA GeForce RTX 4090", "rtx-4090"},    {"RTX4090", "rtx-4090"},                    {"RTX A6000", "rtx-a6000-48gb"},
      {"Tesla V100-SXM2-16GB", "v100-sxm2-16gb"}, {"Tesla T4", "t4-16gb"},                    {"NVIDIA L40S", "l40s-48gb"},
      {"NVIDIA L40", "l40-48gb"},                 {"NVIDIA A10G", "a10g-24gb"},               {"AMD Instinct MI300X OAM", "mi300x-192gb"},
      {"H100 SXM5", "h100-sxm-80gb"},             {"H100 NVL", "h100-nvl-94gb"},              {"NVIDIA GH200 480GB", "gh200-96gb"},
      {"RTX 6000 Ada", "rtx-6000-ada-48gb"},      {"NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-96gb"}};
  for (const auto& [name, entry] : names) {
    const auto found = ResolveGpu(name, HardwareCatalog());
    ASSERT_TRUE(found.ok()) << name << ": " << found.status();
    EXPECT_EQ(*found, entry) << name;
  }
  EXPECT_FALSE(ResolveGpu("RTX", HardwareCatalog()).ok());
  EXPECT_FALSE(ResolveGpu("NVIDIA", HardwareCatalog()).ok());
  // No spelling stands for two cards.
  std::map<std::string, std::string> spelled;
  for (const std::string& name : HardwareCatalog().Names("gpus")) {
    std::vector<std::string> all = {name};
    if (const YamlNode node = *HardwareCatalog().Load("gpus", name); const YamlNode* aliases = node.Find("aliases")) {
      for (const YamlNode& alias : aliases->items()) all.push_back(alias.text());
    }
    for (const std::string& alias : all) EXPECT_EQ(spelled.emplace(GpuSpelling(alias), name).first->second, name) << alias;
  }
}

TEST(HardwareCatalogTest, FiguresEqualTheSpecificationTable) {
  const auto rows = ReadCsv(DataFile("hardware_accelerators_wide.csv"));
  if (rows.empty()) GTEST_SKIP() << "no hardware_accelerators_wide.csv; set SIMRUN_DATA_DIR";
  int compared = 0;
  for (const auto& row : rows) {
    const std::string& entity = row.at("accelerator");
    SCOPED_TRACE(entity);
    const auto loaded = LoadGpu(entity, HardwareCatalog());
    ASSERT_TRUE(loaded.ok()) << std::string(loaded.status().message());
    const GpuSpec& gpu = *loaded;
    const auto peak = [&](DType d) { return gpu.peak[static_cast<int>(d)].value(); };
    const auto expect = [&](const char* column, double actual, double unit) {
      const std::string& text = row.at(column);
      if (text.empty()) return;
      ++compared;
      EXPECT_NEAR(actual / (std::stod(text) * unit), 1.0, 1e-9) << column;
    };
    expect("fp32_tflops", peak(DType::kFp32), 1e12);
    expect("tf32_tflops", peak(DType::kTf32), 1e12);
    expect("fp16_tflops", peak(DType::kFp16), 1e12);
    expect("bf16_tflops", peak(DType::kBf16), 1e12);
    expect("fp8_tflops", peak(DType::kFp8), 1e12);
    expect("int8_tops", peak(DType::kInt8), 1e12);
    expect("fp4_tflops", peak(DType::kNvfp4), 1e12);
    expect("fp4_tflops", peak(DType::kMxfp4), 1e12);
    expect("mem_gb", gpu.nominal_memory.value(), 1e9);
    expect("mem_gbps", gpu.memory_bandwidth.value(), 1e9);
    expect(row.at("l2_mb").empty() ? "sram_mb" : "l2_mb", gpu.l2.value(), 1e6);
    if (gpu.name != "gb200-186gb") expect("sm_or_cu", gpu.multiprocessors, 1);  // there those of a B200
    expect("boost_mhz", gpu.boost_clock.value(), 1e6);
    expect("tdp_w", gpu.tdp.value(), 1);
    // Of two boards this project measured what they draw with a context open; the table has less.
    if (gpu.name != "h100-sxm-80gb" && gpu.name != "h200-sxm-141gb") expect("idle_w", gpu.idle_power.value(), 1);
    expect("link_gbps_each_way", gpu.scale_up_bandwidth.value(), 1e9);
  }
  EXPECT_GT(compared, 380);
}

// Without the table: the figures that every other number leans on, written down a second time.
TEST(HardwareCatalogTest, KnownDevices) {
  const GpuSpec h100 = *LoadGpu("h100", HardwareCatalog());
  EXPECT_EQ(h100.name, "h100-sxm-80gb");
  EXPECT_DOUBLE_EQ(h100.peak[static_cast<int>(DType::kBf16)].value(), 989.4e12);
  EXPECT_DOUBLE_EQ(h100.memory_bandwidth.value(), 3.352e12);
  EXPECT_DOUBLE_EQ(h100.tdp.value(), 700);
  EXPECT_DOUBLE_EQ(h100.scale_up_bandwidth.value(), 450e9);
  EXPECT_EQ(h100.peak[static_cast<int>(DType::kNvfp4)].value(), 0);  // no fp4 units before Blackwell
  const GpuSpec a100 = *LoadGpu("a100-sxm-40gb", HardwareCatalog());
  EXPECT_DOUBLE_EQ(a100.memory_bandwidth.value(), 1.555e12);
  EXPECT_EQ(a100.peak[static_cast<int>(DType::kFp8)].value(), 0);  // no fp8 units before Ada
  const GpuSpec v100 = *LoadGpu("v100-sxm2-32gb", HardwareCatalog());
  EXPECT_EQ(v100.peak[static_cast<int>(DType::kBf16)].value(), 0);
  EXPECT_DOUBLE_EQ(v100.peak[static_cast<int>(DType::kFp16)].value(), 125e12);
}

TEST(HardwareCatalogTest, FiguresArePlausible) {
  for (const std::string& name : HardwareCatalog().Names("gpus")) {
    SCOPED_TRACE(name);
    const auto loaded = LoadGpu(name, HardwareCatalog());
    ASSERT_TRUE(loaded.ok()) << std::string(loaded.status().message());
    const GpuSpec& gpu = *loaded;
    // The label counts GiB but says GB; ECC and the driver take up to a tenth of it.
    const double label_gib = gpu.nominal_memory.value() / 1e9;
    EXPECT_GT(GiB(gpu.memory) / label_gib, 0.90);
    EXPECT_LT(GiB(gpu.memory) / label_gib, 1.01);
    EXPECT_GT(gpu.idle_power.value(), 0.02 * gpu.tdp.value());
    EXPECT_LT(gpu.idle_power.value(), 0.30 * gpu.tdp.value());
    double half = gpu.peak[static_cast<int>(DType::kBf16)].value();
    if (half == 0) half = gpu.peak[static_cast<int>(DType::kFp16)].value();
    ASSERT_GT(half, 0);
    const double fp8 = gpu.peak[static_cast<int>(DType::kFp8)].value();
    // Half the bits, once or twice the rate; datasheets round (L40S: 733 to 362).
    if (fp8 > 0) {
      EXPECT_THAT(fp8 / half, AnyOf(::testing::DoubleNear(1, 0.01), ::testing::DoubleNear(2, 0.03)));
    }
    const double fp4 = gpu.peak[static_cast<int>(DType::kNvfp4)].value();
    if (fp4 > 0) {
      EXPECT_GE(fp4 / half, 4 * 0.99);
    }
    // FLOP per byte at which compute and memory balance: between a V100 and a B300, with room.
    EXPECT_GT(half / gpu.memory_bandwidth.value(), 30);
    EXPECT_LT(half / gpu.memory_bandwidth.value(), 650);
  }
}

TEST(HardwareCatalogTest, FittedOperatorsAreClaimedOnlyByTheMeasuredDevices) {
  std::map<std::string, std::string> calibrated;
  for (const std::string& name : HardwareCatalog().Names("gpus")) {
    const GpuSpec gpu = *LoadGpu(name, HardwareCatalog());
    if (gpu.operators_provenance == Provenance::kCalibrated) calibrated[gpu.operators] = name;
    EXPECT_EQ(gpu.operators.empty(), gpu.operators_provenance == Provenance::kDatasheet) << name;
    if (!gpu.operators.empty()) {
      EXPECT_TRUE(HardwareCatalog().Resolve("operators", gpu.operators).ok()) << name;
    }
  }
  const std::map<std::string, std::string> measured = {
      {"a100", "a100-sxm-80gb"}, {"a40", "a40-48gb"},       {"b200", "b200-sxm-180gb"}, {"b300", "b300-sxm-288gb"},
      {"b60", "arc-b60-24gb"},   {"gb200", "gb200-186gb"},  {"h100", "h100-sxm-80gb"},  {"h200", "h200-sxm-141gb"},
      {"l40s", "l40s-48gb"},     {"rtx4090", "rtx-4090"},   {"rtxpro6000", "rtx-pro-6000-96gb"},
      {"v100", "v100-pcie-32gb"}};
  EXPECT_EQ(calibrated, measured);
}

// Every number is {value, source, confidence}; no bare number anywhere.
void ExpectSourced(const YamlNode& node, const std::string& path) {
  if (const YamlNode* value = node.Find("value")) {
    EXPECT_TRUE(value->IsScalar()) << path;
    const YamlNode* source = node.Find("source");
    const YamlNode* confidence = node.Find("confidence");
    ASSERT_TRUE(source != nullptr && confidence != nullptr) << path;
    EXPECT_GE(source->text().size(), 5u) << path;
    EXPECT_THAT(confidence->text(), AnyOf("A", "B", "C")) << path;
    return;
  }
  for (const auto& entry : node.entries()) {
    const std::string below = path + "." + entry.key;
    if (entry.key == "aliases") continue;
    if (entry.value.IsScalar()) {
      const std::string& text = entry.value.text();
      ASSERT_FALSE(text.empty()) << below;
      EXPECT_FALSE(std::isdigit(static_cast<unsigned char>(text[0]))) << below << " is a bare number: " << text;
    } else {
      EXPECT_TRUE(entry.value.IsMap()) << below;
      ExpectSourced(entry.value, below);
    }
  }
}

TEST(HardwareCatalogTest, EveryNumberHasASourceAndAConfidence) {
  for (const char* section : kSections) {
    const auto names = HardwareCatalog().Names(section);
    EXPECT_FALSE(names.empty()) << section;
    for (const std::string& name : names) {
      const auto node = HardwareCatalog().Load(section, name);
      ASSERT_TRUE(node.ok()) << std::string(node.status().message());
      ExpectSourced(*node, std::string(section) + "/" + name);
    }
  }
}

TEST(HardwareCatalogTest, AliasesAreUnique) {
  for (const char* section : kSections) {
    const auto names = HardwareCatalog().Names(section);
    std::set<std::string> seen(names.begin(), names.end());
    for (const std::string& name : names) {
      const YamlNode node = *HardwareCatalog().Load(section, name);
      const YamlNode* aliases = node.Find("aliases");
      if (aliases == nullptr) continue;
      for (const YamlNode& alias : aliases->items()) {
        EXPECT_TRUE(seen.insert(alias.text()).second) << section << "/" << name << ": " << alias.text();
      }
    }
  }
}

TEST(HardwareCatalogTest, EveryGpuAndNodeMakesAMachine) {
  for (const char* section : {"gpus", "nodes"}) {
    for (const std::string& name : HardwareCatalog().Names(section)) {
      HardwareConfig config;
      (std::string(section) == "gpus" ? config.gpu : config.node) = name;
      Problems problems;
      const Machine machine = BuildMachine(config, HardwareCatalog(), {}, &problems);
      EXPECT_TRUE(problems.empty()) << name << ": " << std::string(problems.ToStatus().message());
      EXPECT_GT(machine.scale_up.bandwidth.value(), 0) << name;
      EXPECT_GT(machine.host.memory.value(), 0) << name;
    }
  }
}

// Links reach less than their raw rate, and those of PCIe double from generation to generation.
TEST(HardwareCatalogTest, Links) {
  const auto raw = [](const char* name) { return LoadLink(name, HardwareCatalog())->bandwidth.value(); };
  EXPECT_DOUBLE_EQ(raw("pcie4-x16"), 2 * raw("pcie3-x16"));
  EXPECT_DOUBLE_EQ(raw("pcie5-x16"), 2 * raw("pcie4-x16"));
  EXPECT_DOUBLE_EQ(raw("nvlink3"), 2 * raw("nvlink2"));
  EXPECT_DOUBLE_EQ(raw("nvlink5"), 2 * raw("nvlink4"));
  EXPECT_DOUBLE_EQ(raw("ib-ndr-400"), 400e9 / 8);
  for (const std::string& name : HardwareCatalog().Names("links")) {
    const LinkSpec link = *LoadLink(name, HardwareCatalog());
    EXPECT_LT(link.efficiency, 1) << name;
    EXPECT_GT(link.efficiency, 0.5) << name;
    EXPECT_GT(link.latency.value(), 0) << name;
  }
}

TEST(HardwareCatalogTest, HostLaunchTimesAreThoseMeasured) {
  const auto launch = [](const char* cpu) { return LoadCpu(cpu, HardwareCatalog())->kernel_launch.value(); };
  EXPECT_DOUBLE_EQ(launch("epyc-7313"), 2260.5e-9);
  EXPECT_DOUBLE_EQ(launch("xeon-8468v"), 2374.6e-9);
  EXPECT_DOUBLE_EQ(launch("grace-72c"), 2771.6e-9);
  EXPECT_DOUBLE_EQ(LoadCpu("epyc-7313", HardwareCatalog())->single_thread, 1);
}

TEST(OperatorParamsTest, NamesWhatTheRowsHardlySettled) {
  OperatorParams p;
  EXPECT_EQ(HardlySettled(p), "");
  p.learned = "t0 97, ec 95, k0 8, l2_share 0";
  EXPECT_EQ(HardlySettled(p), "k0 8 %, l2_share 0 %");
  p.learned = "t0 97";
  EXPECT_EQ(HardlySettled(p), "");
}

TEST(OperatorCurveTest, PointsAreSizesAndMicrosecondsInTurn) {
  OperatorCurve curve;
  curve.points = "512 8.98 1K 9.5\n 1.5K 12 448M 1e4 1G 2e4";
  ASSERT_TRUE(ReadCurvePoints(&curve).ok());
  const std::vector<double> sizes = {512, 1024, 1536, 448.0 * 1024 * 1024, 1024.0 * 1024 * 1024};
  EXPECT_EQ(curve.at, sizes);
  ASSERT_EQ(curve.time.size(), 5u);
  EXPECT_NEAR(curve.time[0].value(), 8.98e-6, 1e-15);
  EXPECT_NEAR(curve.time[4].value(), 20e-3, 1e-12);
  EXPECT_EQ(CurvePointsText(curve), "512 8.98 1K 9.5 1536 12 448M 1e+04 1G 2e+04");
  for (const char* bad : {"512", "512 x", "512 8 1T 9", "512 8, 1K 9", "K 9"}) {
    OperatorCurve other;
    other.points = bad;
    EXPECT_FALSE(ReadCurvePoints(&other).ok()) << bad;
  }
}

}  // namespace
}  // namespace simrun
