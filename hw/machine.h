// The machine a scenario runs on: devices, hosts and links, put together from catalogue entries.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "base/params.h"
#include "base/units.h"
#include "models/dtype.h"

namespace simrun {

// How sure a number is, worst part first in reports.
enum class Provenance { kMeasured, kCalibrated, kTransferred, kDatasheet, kAssumed };
std::string_view ProvenanceName(Provenance p);  // "measured", "calibrated", "transferred", "datasheet", "assumed"

// hw/catalog/gpus/<name>.yaml
struct GpuSpec {
  std::string name;
  std::string vendor;          // nvidia, amd, intel, google
  std::string architecture;    // volta, turing, ampere, ada, hopper, blackwell, cdna2, cdna3, gaudi, tpu, rdna3, xe
  std::array<FlopsPerSecond, kNumDTypes> peak{};  // dense; 0: the format is not supported in hardware
  Bytes memory;
  BytesPerSecond memory_bandwidth;
  Bytes l2;
  int multiprocessors = 0;
  PerSecond boost_clock{0};
  Watts tdp;
  Watts idle_power;
  std::string scale_up_link;          // catalogue link to the other GPUs of a node ("nvlink4"); empty: the host link
  BytesPerSecond scale_up_bandwidth;  // per direction and GPU; 0 without such a link
  std::string host_link;              // catalogue link to the host: "pcie4-x16", "nvlink-c2c"
  DollarsPerSecond price{0};          // on demand, one GPU; 0: not known
  std::string operators;              // catalogue entry with fitted operator parameters; empty: family-typical
};

// hw/catalog/cpus/<name>.yaml
struct CpuSpec {
  std::string name;
  int cores = 0;
  int sockets = 1;                    // of the host this entry describes per node
  FlopsPerSecond peak_fp32{0};
  FlopsPerSecond peak_bf16{0};        // AMX or SVE where present, else 0
  BytesPerSecond memory_bandwidth;    // per socket
  Bytes memory;                       // per socket, typical
  Watts tdp;                          // per socket
  Watts idle_power;                   // per socket
  double single_thread = 1.0;         // speed of host code relative to the reference (epyc-7313 = 1)
  Seconds kernel_launch{2.3e-6};      // driver launch to kernel start
};

// hw/catalog/links/<name>.yaml
struct LinkSpec {
  std::string name;
  std::string kind;                   // pcie, nvlink, c2c, xgmi, network, cxl, nvme, memory
  BytesPerSecond bandwidth;           // per direction, raw
  double efficiency = 1.0;            // achieved / raw for large transfers
  Seconds latency;
};

// The `hardware:` section: a node from the catalogue, or parts.
struct HardwareConfig {
  std::string node;                   // {node: dgx-h100, nodes: 2}
  int nodes = 1;
  std::string gpu;                    // {gpu: h100-sxm-80gb, count: 8, host: ..., link: ...}
  std::optional<int> count;           // GPUs of the machine; auto: what the plan needs (parts), or the node's own
  std::string host;                   // CPU catalogue name
  std::string link;                   // link between GPUs: overrides the GPU's scale-up link
  std::string network;                // link between nodes, per GPU rail
  // Overrides of datasheet values, for what-if questions.
  std::optional<BytesPerSecond> memory_bandwidth;
  std::optional<Bytes> memory;
  std::optional<FlopsPerSecond> peak_flops;      // scales all formats by the ratio to the bf16 (else fp16) peak
  std::optional<BytesPerSecond> link_bandwidth;  // between GPUs of a node, per direction
  std::optional<BytesPerSecond> host_link_bandwidth;
  std::optional<BytesPerSecond> network_bandwidth;
  std::optional<Watts> power_limit;              // per GPU; also slows compute
  std::optional<DollarsPerSecond> price;         // per GPU
  double electricity_usd_per_kwh = 0.0;          // added to the cost; 0: the GPU price includes power
  double carbon_g_per_kwh = 475.0;               // world average, see the catalogue
  double pue = 1.12;                             // data-centre overhead on energy, for carbon and electricity only
  template <class Visitor>
  void Describe(Visitor& v);
};

// GPUs are numbered 0..gpu_count-1; GPU i sits in node i / gpus_per_node.
struct Machine {
  GpuSpec gpu;
  CpuSpec host;
  std::string node_name;              // catalogue node, or empty when built from parts
  int gpu_count = 0;                  // 0: as many as the plan needs
  int gpus_per_node = 8;
  LinkSpec scale_up;                  // between GPUs of a node, per GPU and direction; kind pcie when there is no other
  LinkSpec host_link;                 // GPU to host memory
  LinkSpec network;                   // between nodes, per GPU
  bool scale_up_switched = true;      // a switch (all pairs at full rate) or a shared PCIe host bridge
  DollarsPerSecond price_per_gpu{0};
  std::string price_source;
  std::optional<Watts> power_limit;
  double electricity_usd_per_kwh = 0, carbon_g_per_kwh = 475, pue = 1.12;
  Provenance provenance = Provenance::kDatasheet;
};

// Problems (unknown names with the nearest valid one, both node and gpu given, ...) go to `problems` with `path`s below
// "hardware"; the result is then meaningless. `where` is the section's place in the file.
Machine BuildMachine(const HardwareConfig& config, const Catalog& catalog, const SourceLocation& where, Problems* problems);

absl::StatusOr<GpuSpec> LoadGpu(std::string_view name, const Catalog& catalog);
absl::StatusOr<CpuSpec> LoadCpu(std::string_view name, const Catalog& catalog);
absl::StatusOr<LinkSpec> LoadLink(std::string_view name, const Catalog& catalog);

// Files under hw/catalog, compiled in.
const std::vector<EmbeddedFile>& HardwareCatalogFiles();

template <class Visitor>
void HardwareConfig::Describe(Visitor& v) {
  v.Field("node", node, {.help = "node type from the catalogue; gives GPU, host and links", .example = "dgx-h100"});
  v.Field("nodes", nodes, {.help = "how many of them", .min = 1, .max = 100000});
  v.Field("gpu", gpu, {.help = "GPU from the catalogue, instead of a node", .example = "h100-sxm-80gb"});
  v.Field("count", count, {.help = "GPUs in the machine; auto: as many as the plan needs", .min = 1, .max = 1e6});
  v.Field("host", host, {.help = "host CPU from the catalogue", .example = "xeon-8480c"});
  v.Field("link", link, {.help = "link between the GPUs of a node, from the catalogue", .example = "nvlink4"});
  v.Field("network", network, {.help = "link between nodes, one per GPU, from the catalogue", .example = "ib-ndr-400"});
  v.Field("memory_bandwidth", memory_bandwidth, {.help = "overrides the GPU's memory bandwidth", .min = 0, .above_min = true});
  v.Field("memory", memory, {.help = "overrides the GPU's memory size", .min = 0, .above_min = true});
  v.Field("peak_flops", peak_flops, {.help = "overrides the dense 16-bit peak; other formats scale with it", .min = 0, .above_min = true});
  v.Field("link_bandwidth", link_bandwidth, {.help = "overrides the GPU-to-GPU bandwidth in a node, per direction", .min = 0, .above_min = true});
  v.Field("host_link_bandwidth", host_link_bandwidth, {.help = "overrides the GPU-to-host bandwidth, per direction", .min = 0, .above_min = true});
  v.Field("network_bandwidth", network_bandwidth, {.help = "overrides the bandwidth between nodes, per GPU and direction", .min = 0, .above_min = true});
  v.Field("power_limit", power_limit, {.help = "power cap per GPU; compute slows down to stay below it", .min = 0, .above_min = true});
  v.Field("price", price, {.help = "price per GPU; auto: the catalogue's", .min = 0});
  v.Field("electricity_usd_per_kwh", electricity_usd_per_kwh, {.help = "electricity price added to the cost; 0: included in the GPU price", .min = 0});
  v.Field("carbon_g_per_kwh", carbon_g_per_kwh, {.help = "carbon intensity of the grid in g CO2e per kWh", .min = 0});
  v.Field("pue", pue, {.help = "data-centre overhead on energy, for carbon and electricity cost", .min = 1});
}

}  // namespace simrun
