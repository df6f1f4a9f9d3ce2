// The machine a scenario runs on: devices, hosts and links, put together from catalogue entries.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
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
// Anything else is assumed.
Provenance ParseProvenance(std::string_view name);

// How the GPUs of a node are joined.
enum class ScaleUpTopology {
  kSwitch,  // every pair at the full rate of a GPU
  kMesh,    // direct links to `peers` others, each with bandwidth / peers
  kPairs,   // bridges between GPU 2i and 2i+1, everything else over PCIe
  kPcie,    // no link of their own: PCIe, through the host where there is no PCIe switch
};
std::string_view ScaleUpTopologyName(ScaleUpTopology t);  // "switch", "mesh", "pairs", "pcie"

// Power of a GPU while it works (hw/power.h), scaled to the board: hw/catalog/power/<name>.yaml.
struct PowerSpec {
  Watts active{0};     // above idle while the engine works
  Watts compute{0};    // above that at the datasheet FLOP/s; proportional to the achieved share
  Watts memory{0};     // above that at the datasheet bytes/s; proportional
  Watts link{0};       // above that while GPUs exchange data
  Seconds ramp{0};     // kernels as short as this draw half
  double ceiling = 1;  // of the power limit: where the board's own controller settles
  double attention = 1;        // energy of a FLOP and a byte in attention kernels over that elsewhere
  double voltage_floor = 0.5;  // core voltage at the lowest clock, extrapolated to 0, over that at boost
  double dram_share = 0.4;     // of the memory watts that does not fall with the core voltage
  Watts settled{0};            // as `compute`, at the clock and voltage the board settles at under long work; 0: not known
  Watts settled_narrow{0};     // the same of operands of 8 bits and fewer, at their datasheet FLOP/s; 0: as settled
  bool own_rates = true;       // operator times were measured under a limit that held the same work back as much
  Provenance provenance = Provenance::kAssumed;
  std::string source;

  // Core voltage at a clock, both over those at boost.
  double Volts(double clock) const { return voltage_floor + (1 - voltage_floor) * clock; }
  // Memory watts at a squared voltage over those at boost.
  double MemoryShare(double v2) const { return dram_share + (1 - dram_share) * v2; }
};

// hw/catalog/gpus/<name>.yaml
struct GpuSpec {
  std::string name;          // canonical, also when found by an alias
  std::string vendor;        // nvidia, amd, intel, google
  std::string architecture;  // volta, turing, ampere, ada, hopper, blackwell, cdna2, cdna3, cdna4, rdna3, xe, gaudi, tpu
  std::array<FlopsPerSecond, kNumDTypes> peak{};  // dense; 0: the format is not supported in hardware
  Bytes memory;                                   // what programs can use (the device total the runtime reports)
  Bytes nominal_memory;                           // the number on the datasheet, as printed; it may be GiB called GB
  BytesPerSecond memory_bandwidth;
  Bytes l2;                  // last-level cache; 0: not known
  int multiprocessors = 0;   // 0: not known
  PerSecond boost_clock{0};  // 0: not known
  Watts tdp;
  Watts idle_power;
  PowerSpec power;
  Seconds null_kernel{0};     // duration of an empty kernel; 0: not known
  std::string scale_up_link;  // catalogue link to the other GPUs of a node ("nvlink4"); empty: PCIe only
  ScaleUpTopology scale_up_topology = ScaleUpTopology::kPcie;
  int scale_up_peers = 0;             // kMesh, kPairs: GPUs reached directly
  BytesPerSecond scale_up_bandwidth;  // per direction and GPU, all links together; 0 without such a link
  std::string host_link;              // catalogue link to the host: "pcie4-x16", "nvlink-c2c"
  std::string default_host;           // used when the machine is given by its GPU alone
  std::string default_network;
  int gpus_per_node = 8;      // likewise
  int gpus_per_socket = 0;    // GPUs on one host processor where they are built together (Grace); 0: host's choice
  DollarsPerSecond price{0};  // on demand, one GPU; 0: not known
  std::string price_source;
  std::string operators;  // catalogue entry with fitted operator parameters; empty: family-typical
  // kCalibrated: fitted on this very device; kTransferred: on another one of its architecture; kDatasheet: none.
  Provenance operators_provenance = Provenance::kDatasheet;
  Provenance figures = Provenance::kDatasheet;  // kAssumed when a peak, the bandwidth or the memory is an estimate

  // The dense rate of bf16, else of fp16; 0: neither.
  FlopsPerSecond Peak16() const {
    const FlopsPerSecond bf16 = peak[static_cast<size_t>(DType::kBf16)];
    return bf16 > FlopsPerSecond(0) ? bf16 : peak[static_cast<size_t>(DType::kFp16)];
  }
};

// hw/catalog/cpus/<name>.yaml
struct CpuSpec {
  std::string name;
  int cores = 0;                    // per socket
  int sockets = 1;                  // of the usual server; a catalogue node has its own number
  FlopsPerSecond peak_fp32{0};      // per socket, at base clock
  FlopsPerSecond peak_bf16{0};      // per socket; AMX or SVE where present, else 0
  FlopsPerSecond peak_int8{0};      // likewise
  // Look-up tables beside the cache arrays that multiply a few rows by narrow weights bit by bit: look-ups per second of a
  // socket, 0: none; and the most rows that go this way.
  double lut_rate = 0;
  int lut_rows = 0;
  Bytes llc{0};                     // last-level cache per socket; 0: not known
  BytesPerSecond memory_bandwidth;  // per socket, raw
  double memory_efficiency = 0.8;   // reached by streaming / raw
  Seconds memory_latency{0};        // of a local access, from the memory link
  Bytes memory;                     // per socket
  std::string memory_link;          // catalogue link of kind memory: its latency and name
  std::string socket_link;          // catalogue link between two sockets
  Watts tdp;                        // per socket
  Watts idle_power;                 // per socket
  double single_thread = 1.0;       // speed of host code relative to the reference (epyc-7313 = 1)
  Seconds kernel_launch{2.3e-6};    // driver launch to kernel start
};

// hw/catalog/links/<name>.yaml. "Forward" is read, or host to device; links between equals behave alike both ways.
struct LinkSpec {
  std::string name;
  std::string kind;                // pcie, nvlink, c2c, xgmi, xe-link, roce, ici, network, cxl, nvme, memory, socket
  BytesPerSecond bandwidth;        // per direction, raw; between GPUs: all links of one GPU together
  double efficiency = 1.0;         // reached / raw for large transfers, forward
  double return_efficiency = 1.0;  // the other way: write, or device to host
  Seconds latency;                 // of the wire and its switch
  Seconds software_latency{0};     // of a message or copy on top: launch, protocol; 0: not known
  ScaleUpTopology topology = ScaleUpTopology::kSwitch;  // usual arrangement, for links between GPUs
  int peers = 0;
};

// Further memory of each node.
struct CxlConfig {
  std::string link = "cxl-x8-gen5";
  int cards = 1;
  Bytes capacity{0};
  DollarsPerSecond price{0};
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("link", link, {.help = "catalogue link of kind cxl, one card"});
    v.Field("cards", cards, {.help = "cards per node; data is striped over them", .min = 1, .max = 64});
    v.Field("capacity", capacity, {.help = "of one card", .min = 0, .above_min = true, .required = true, .example = "256 GB"});
    v.Field("price", price, {.help = "of one card, added to the cost", .min = 0});
  }
};
struct NvmeConfig {
  std::string link = "nvme-gen4-x4";
  int drives = 1;
  Bytes capacity{0};
  DollarsPerSecond price{0};
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("link", link, {.help = "catalogue link of kind nvme, one drive"});
    v.Field("drives", drives, {.help = "drives per node; data is striped over them", .min = 1, .max = 256});
    v.Field("capacity", capacity, {.help = "of one drive", .min = 0, .above_min = true, .required = true, .example = "3.84 TB"});
    v.Field("price", price, {.help = "of one drive, added to the cost", .min = 0});
  }
};

// The `hardware:` section: a node from the catalogue, or parts.
struct HardwareConfig {
  std::string node;  // {node: dgx-h100, nodes: 2}
  int nodes = 1;
  std::string gpu;                   // {gpu: h100-sxm-80gb, count: 8, host: ..., link: ...}
  std::optional<int> count;          // GPUs of the machine; auto: what the plan needs (parts), or the node's own
  std::optional<int> gpus_per_node;  // of a machine built from parts; auto: the GPU's usual server, mostly 8
  std::string cpu;                   // {cpu: xeon-8480c}: no GPU, every socket is a device
  std::string host;                  // CPU catalogue name
  std::string link;                  // link between GPUs: overrides the GPU's scale-up link
  std::string network;               // link between nodes, per GPU rail
  std::string host_link;             // link between GPU and host: overrides the GPU's
  std::optional<int> sockets;        // host processors that are used
  std::optional<Bytes> host_memory;  // of a node, all sockets
  std::optional<BytesPerSecond> host_memory_bandwidth;  // per socket, raw
  std::optional<CxlConfig> cxl;
  std::optional<NvmeConfig> nvme;
  std::optional<Bytes> remote_memory;  // of other nodes, over the network
  // Overrides of datasheet values, for what-if questions.
  std::optional<BytesPerSecond> memory_bandwidth;
  std::optional<Bytes> memory;
  std::optional<FlopsPerSecond> peak_flops;      // scales all formats by the ratio to the bf16 (else fp16) peak
  bool peer_to_peer = false;  // GPUs on PCIe reach one another directly, however many they are
  std::optional<BytesPerSecond> link_bandwidth;  // between GPUs of a node, per direction
  std::optional<BytesPerSecond> host_link_bandwidth;
  std::optional<BytesPerSecond> network_bandwidth;
  std::optional<Watts> power_limit;        // per GPU; also slows compute
  std::optional<PerSecond> gpu_clock;      // locked graphics clock, at most the boost clock
  std::optional<DollarsPerSecond> price;   // per GPU
  std::string region;                      // grid region of the catalogue: gives the carbon intensity
  double electricity_usd_per_kwh = 0.0;    // added to the cost; 0: the GPU price includes power
  std::optional<double> carbon_g_per_kwh;  // auto: the region's, else the world average
  double pue = 1.12;                       // data-centre overhead on energy, for carbon and electricity only
  template <class Visitor>
  void Describe(Visitor& v);
};

// GPUs are numbered 0..gpu_count-1; GPU i sits in node i / gpus_per_node.
struct Machine {
  GpuSpec gpu;            // overrides applied
  CpuSpec host;           // per socket; `sockets` and `memory` are those of this machine's node
  std::string node_name;  // catalogue node, or empty when built from parts
  int gpu_count = 0;      // 0: as many as the plan needs
  int gpus_per_node = 8;
  bool cpu_only = false;  // the devices are the sockets of the host
  LinkSpec scale_up;     // between GPUs of a node, per GPU and direction; kind pcie when there is no other
  LinkSpec host_link;    // GPU to host memory; forward is host to GPU
  LinkSpec network;      // one network port of a node
  LinkSpec host_memory;  // socket to its memory, bandwidth of all channels
  LinkSpec socket_link;  // between two sockets of a host
  LinkSpec nic_link;     // network port to its host
  // Further memory of a node; no cards, no drives, no bytes: none.
  LinkSpec cxl, nvme;    // one card, one drive
  int cxl_cards = 0, nvme_drives = 0;
  Bytes cxl_capacity{0}, nvme_capacity{0};  // of one
  Bytes remote_memory{0};                   // on other nodes
  DollarsPerSecond memory_price{0};         // of the CXL cards and drives of a node
  ScaleUpTopology scale_up_topology = ScaleUpTopology::kSwitch;
  int scale_up_peers = 0;         // kMesh and kPairs
  bool peer_to_peer = false;      // over PCIe, without host memory between
  bool scale_up_switched = true;  // kSwitch or kMesh; false: PCIe and its host bridge carry some or all pairs
  int sockets_per_node = 2;
  int sockets_used = 2;           // of them, those whose memory and cores an engine uses
  int hosts_per_node = 1;  // separate hosts behind one scale-up domain (trays of a rack)
  int nics_per_node = 8;
  int pcie_switches_per_node = 0;     // 0: GPUs and NICs hang on the sockets
  DollarsPerSecond price_per_gpu{0};  // 0: not known
  std::string price_source;
  std::optional<Watts> power_limit;
  std::optional<PerSecond> gpu_clock;
  double electricity_usd_per_kwh = 0, carbon_g_per_kwh = 475, pue = 1.12;
  std::string carbon_source;
  // kDatasheet, or kAssumed when a main figure of the GPU is an estimate or was overridden.
  Provenance provenance = Provenance::kDatasheet;
  std::vector<std::string> assumptions;  // parts that were not given, one sentence each

  // Of the host: its idle power, shared by the GPUs of a node, and above that two busy cores (engine and worker) per GPU at work.
  Watts HostIdlePower(double gpus) const;
  Watts BusyCorePower(double gpus) const;
};

// Parts given as files of their own ("gpu: mine/gpu.yaml") are taken from `base_dir` where they are relative.
HardwareConfig LocateFiles(HardwareConfig config, const std::string& base_dir);

// Puts the machine together. A node brings GPU, host and links; `host`, `link`, `network` and the overrides replace its
// parts. A GPU alone gets the host, network, node size and one NIC per GPU that its catalogue entry names
// (`assumptions` says so). Overrides are raw rates: efficiencies stay those of the link.
//
// Problems (unknown names with the nearest valid one, both node and gpu given, ...) go to `problems` with `path`s below
// "hardware"; the result is then meaningless. `where` is the section's place in the file.
Machine BuildMachine(const HardwareConfig& config, const Catalog& catalog, const SourceLocation& where,
                     Problems* problems);

// Catalogue entries by name or alias. NotFound with the nearest name, InvalidArgument with every problem of the entry.
// A number in an entry is a map {value, source, confidence} or, in a user's own file, the bare value.
// GPUs are known by any order of the words that tell them apart, the maker's own names among them: "NVIDIA A100 80GB PCIe".
std::string GpuSpelling(std::string_view name);
absl::StatusOr<std::string> ResolveGpu(std::string_view name, const Catalog& catalog);
absl::StatusOr<GpuSpec> LoadGpu(std::string_view name, const Catalog& catalog);
absl::StatusOr<CpuSpec> LoadCpu(std::string_view name, const Catalog& catalog);
// The power entry of this name, scaled from the board it was fitted on to `gpu`, whose limits, rates and clock are read:
// by those where the entry states its board's, else by TDP - idle.
absl::StatusOr<PowerSpec> LoadPower(std::string_view name, const GpuSpec& gpu, const Catalog& catalog);
absl::StatusOr<LinkSpec> LoadLink(std::string_view name, const Catalog& catalog);
// The whole content of hw/catalog/nodes/<name>.yaml.
struct NodeSpec {
  std::string name;
  std::string gpu;
  int count = 0;  // GPUs
  std::string host;
  int sockets = 2;
  int hosts = 1;
  Bytes host_memory;  // all sockets together; 0: the CPU entry's
  ScaleUpTopology topology = ScaleUpTopology::kSwitch;
  int pcie_switches = 0;
  std::string network;
  int nics = 0;
};
absl::StatusOr<NodeSpec> LoadNode(std::string_view name, const Catalog& catalog);

// Files under hw/catalog, compiled in.
const std::vector<EmbeddedFile>& HardwareCatalogFiles();

template <class Visitor>
void HardwareConfig::Describe(Visitor& v) {
  v.Field("node", node, {.help = "node type from the catalogue, or a YAML file of one's own; gives GPU, host and links", .example = "dgx-h100"});
  v.Field("nodes", nodes, {.help = "how many of them", .min = 1, .max = 100000});
  v.Field("gpu", gpu, {.help = "GPU from the catalogue, or a YAML file of one's own, instead of a node", .example = "h100-sxm-80gb"});
  v.Field("cpu", cpu, {.help = "serve on the CPU: every socket of this CPU (catalogue or file) is a device, instead of a GPU", .example = "xeon-8480c"});
  v.Field("count", count, {.help = "GPUs in the machine; auto: as many as the plan needs", .min = 1, .max = 1e6});
  v.Field(
      "gpus_per_node", gpus_per_node,
      {.help = "GPUs in one node of a machine built from parts; auto: the GPU's usual server", .min = 1, .max = 1024});
  v.Field("host", host, {.help = "host CPU from the catalogue, or a file", .example = "xeon-8480c"});
  v.Field("link", link, {.help = "link between the GPUs of a node, from the catalogue, or a file", .example = "nvlink4"});
  v.Field("network", network, {.help = "link between nodes, one port, from the catalogue, or a file", .example = "ib-ndr-400"});
  v.Field("host_link", host_link,
          {.help = "link between a GPU and its host, from the catalogue; auto: the GPU's", .example = "pcie5-x16"});
  v.Field("sockets", sockets, {.help = "host processors used for offloaded data and work; auto: all", .min = 1, .max = 64});
  v.Field("host_memory", host_memory,
          {.help = "memory of the host of a node, all sockets; auto: the catalogue's", .min = 0, .above_min = true});
  v.Field("host_memory_bandwidth", host_memory_bandwidth,
          {.help = "overrides the memory bandwidth of one socket", .min = 0, .above_min = true});
  v.Field("cxl", cxl, {.help = "CXL memory cards of each node"});
  v.Field("nvme", nvme, {.help = "NVMe drives of each node"});
  v.Field("remote_memory", remote_memory,
          {.help = "memory of other nodes that is used over the network", .min = 0, .above_min = true});
  v.Field("memory_bandwidth", memory_bandwidth,
          {.help = "overrides the GPU's memory bandwidth", .min = 0, .above_min = true});
  v.Field("memory", memory, {.help = "overrides the GPU's memory size", .min = 0, .above_min = true});
  v.Field("peak_flops", peak_flops,
          {.help = "overrides the dense 16-bit peak; other formats scale with it", .min = 0, .above_min = true});
  v.Field("peer_to_peer", peer_to_peer,
          {.help = "GPUs joined by PCIe reach one another directly, groups of more than two as fast as pairs; false: as measured, often through host memory"});
  v.Field("link_bandwidth", link_bandwidth,
          {.help = "overrides the GPU-to-GPU bandwidth in a node, per direction", .min = 0, .above_min = true});
  v.Field("host_link_bandwidth", host_link_bandwidth,
          {.help = "overrides the GPU-to-host bandwidth, per direction", .min = 0, .above_min = true});
  v.Field(
      "network_bandwidth", network_bandwidth,
      {.help = "overrides the bandwidth of one network port of a node, per direction", .min = 0, .above_min = true});
  v.Field("power_limit", power_limit,
          {.help = "power cap per GPU, above its idle power; compute slows down to stay below it",
           .min = 0,
           .above_min = true});
  v.Field("gpu_clock", gpu_clock,
          {.help = "locked GPU clock, up to the boost clock; compute and launches slow down with it, memory does not; "
                   "auto: boost, lowered by the board's own power limit",
           .min = 0,
           .above_min = true,
           .example = "1410 MHz"});
  v.Field("price", price, {.help = "price per GPU; auto: the catalogue's", .min = 0});
  v.Field("electricity_usd_per_kwh", electricity_usd_per_kwh,
          {.help = "electricity price added to the cost; 0: included in the GPU price", .min = 0});
  v.Field("region", region,
          {.help = "grid region from the catalogue; gives the carbon intensity", .example = "aws-us-east-1"});
  v.Field(
      "carbon_g_per_kwh", carbon_g_per_kwh,
      {.help = "carbon intensity of the grid in g CO2e per kWh; auto: the region's, else the world average", .min = 0});
  v.Field("pue", pue, {.help = "data-centre overhead on energy, for carbon and electricity cost", .min = 1});
}

}  // namespace simrun
