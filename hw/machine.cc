#include "hw/machine.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/paths.h"

namespace simrun {
namespace {

// Lowest to highest graphics clock of current boards.
constexpr double kLowestClock = 0.15;

std::vector<std::string> Confidences() { return {"A", "B", "C"}; }
std::vector<std::string> Topologies() { return {"switch", "mesh", "pairs", "pcie"}; }
std::vector<std::string> OperatorLabels() { return {"calibrated", "transferred"}; }
std::vector<std::string> LinkKinds() {
  return {"pcie", "nvlink", "c2c", "xgmi", "xe-link", "roce", "ici", "network", "cxl", "nvme", "memory", "socket"};
}

// A catalogue number: {value: 3.35 TB/s, source: "...", confidence: A}, or the bare value in a user's own entry.
template <class T>
struct Sourced {
  T value{};
  std::string source;
  std::string confidence;
  std::string note;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("value", value, {.help = "the number with its unit", .min = 0, .required = true});
    v.Field("source", source, {.help = "where the number comes from", .required = true});
    v.Field("confidence", confidence,
            {.help = "A read in a source, B vendor figure from prior knowledge, C estimate",
             .required = true,
             .choices = Confidences});
    v.Field("note", note, {.help = "what to know about it"});
  }
  absl::Status ReadScalar(const YamlNode& node) {
    if (node.quoted()) return absl::InvalidArgumentError("is text, not a number; leave the quotes out");
    double number = 0;
    if constexpr (IsQuantity<T>::value) {
      SIMRUN_ASSIGN_OR_RETURN(number, ParseQuantityText(node.text(), DimensionOf(value)));
    } else if constexpr (std::is_integral_v<T>) {
      SIMRUN_ASSIGN_OR_RETURN(const int64_t whole, ParseInteger(node.text()));
      number = static_cast<double>(std::min<int64_t>(whole, 1'000'000'000));
    } else {
      SIMRUN_ASSIGN_OR_RETURN(number, ParseNumber(node.text()));
    }
    if (number < 0) return absl::InvalidArgumentError("must not be negative");
    value = T(number);
    return absl::OkStatus();
  }
  bool IsEstimate() const { return confidence == "C"; }
};

struct PeakEntry {
  std::array<Sourced<FlopsPerSecond>, kNumDTypes> rate;
  template <class Visitor>
  void Describe(Visitor& v) {
    for (int i = 0; i < kNumDTypes; ++i) {
      v.Field(DTypeName(static_cast<DType>(i)).data(), rate[i], {.help = "dense peak rate"});
    }
  }
};

struct ScaleUpEntry {
  std::string link;
  std::string topology = "switch";
  Sourced<int> peers;
  Sourced<BytesPerSecond> bandwidth;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("link", link, {.help = "catalogue link", .required = true});
    v.Field("topology", topology, {.help = "how the GPUs of a node are joined", .choices = Topologies});
    v.Field("peers", peers, {.help = "GPUs reached directly, for mesh and pairs"});
    v.Field("bandwidth", bandwidth, {.help = "per direction and GPU, all links together", .required = true});
  }
};

struct PowerBoard {
  Sourced<FlopsPerSecond> peak;
  Sourced<BytesPerSecond> memory_bandwidth;
  Sourced<PerSecond> boost_clock;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("peak", peak, {.help = "dense 16-bit FLOP/s", .required = true});
    v.Field("memory_bandwidth", memory_bandwidth, {.help = "of the datasheet", .required = true});
    v.Field("boost_clock", boost_clock, {.help = "highest clock", .required = true});
  }
};

struct PowerEntry {
  std::vector<std::string> aliases;
  std::string description, provenance;
  Sourced<Watts> tdp, idle_power, active, compute, memory, link, settled, settled_narrow;
  Sourced<Seconds> ramp;
  Sourced<double> attention, ceiling, voltage_floor, dram_share;
  std::optional<PowerBoard> board;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("aliases", aliases, {.help = "other names"});
    v.Field("description", description, {.help = "board and measurements", .required = true});
    v.Field("provenance", provenance,
            {.help = "how it was found", .required = true, .choices = [] {
               return std::vector<std::string>{"measured", "calibrated", "transferred", "datasheet", "assumed"};
             }});
    v.Field("tdp", tdp, {.help = "of the board it was fitted on", .required = true});
    v.Field("idle_power", idle_power, {.help = "of the board it was fitted on", .required = true});
    v.Field("board", board, {.help = "the board it was fitted on: another one with its die scales by these; without: by TDP - idle"});
    v.Field("active", active, {.help = "above idle while the engine works", .required = true});
    v.Field("compute", compute, {.help = "above that at the datasheet FLOP/s", .required = true});
    v.Field("memory", memory, {.help = "above that at the datasheet bytes/s", .required = true});
    v.Field("settled", settled, {.help = "as compute, at the clock that the board settles at under long work; 0: not known"});
    v.Field("settled_narrow", settled_narrow, {.help = "settled, of operands of 8 bits and fewer at their datasheet FLOP/s; 0: the same"});
    v.Field("attention", attention, {.help = "compute and memory watts of attention kernels, times", .required = true});
    v.Field("link", link, {.help = "above that while GPUs exchange data", .required = true});
    v.Field("ramp", ramp, {.help = "kernels as short as this draw half", .required = true});
    v.Field("ceiling", ceiling, {.help = "of the power limit, where the controller settles", .required = true});
    v.Field("voltage_floor", voltage_floor, {.help = "core voltage at clock 0 over that at boost", .required = true});
    v.Field("dram_share", dram_share, {.help = "of the memory watts that stays at any core voltage", .required = true});
  }
};

struct GpuEntry {
  std::vector<std::string> aliases;
  std::string vendor, architecture, power = "generic", operators, operators_provenance, host_link, default_host, default_network;
  PeakEntry peak;
  Sourced<Bytes> memory, nominal_memory, l2;
  Sourced<BytesPerSecond> memory_bandwidth;
  Sourced<int> multiprocessors, gpus_per_node, gpus_per_socket;
  Sourced<PerSecond> boost_clock;
  Sourced<Watts> tdp, idle_power;
  Sourced<Seconds> null_kernel;
  Sourced<DollarsPerSecond> price;
  std::optional<ScaleUpEntry> scale_up;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("aliases", aliases, {.help = "other names"});
    v.Field("vendor", vendor, {.help = "who makes it", .required = true});
    v.Field("architecture", architecture, {.help = "family", .required = true});
    v.Field("operators", operators, {.help = "catalogue entry with fitted operator parameters"});
    v.Field("operators_provenance", operators_provenance,
            {.help = "calibrated: fitted on this device; transferred: on another", .choices = OperatorLabels});
    v.Field("peak", peak, {.help = "dense peak rates by number format", .required = true});
    v.Field("nominal_memory", nominal_memory, {.help = "memory size on the datasheet"});
    v.Field("memory", memory, {.help = "memory that programs can use", .required = true});
    v.Field("memory_bandwidth", memory_bandwidth, {.help = "memory bandwidth", .required = true});
    v.Field("l2", l2, {.help = "last-level cache"});
    v.Field("multiprocessors", multiprocessors, {.help = "SMs, CUs or cores"});
    v.Field("boost_clock", boost_clock, {.help = "boost clock"});
    v.Field("tdp", tdp, {.help = "board power limit", .required = true});
    v.Field("idle_power", idle_power, {.help = "power when idle", .required = true});
    v.Field("power", power, {.help = "catalogue entry with power parameters; generic: scaled by TDP - idle"});
    v.Field("null_kernel", null_kernel, {.help = "duration of an empty kernel"});
    v.Field("scale_up", scale_up, {.help = "link to the other GPUs of a node"});
    v.Field("host_link", host_link, {.help = "catalogue link to the host", .required = true});
    v.Field("default_host", default_host, {.help = "host CPU when none is given", .required = true});
    v.Field("default_network", default_network, {.help = "link between nodes when none is given", .required = true});
    v.Field("gpus_per_node", gpus_per_node, {.help = "GPUs of the usual server"});
    v.Field("gpus_per_socket", gpus_per_socket, {.help = "GPUs built together with one host processor"});
    v.Field("price", price, {.help = "on-demand price"});
  }
};

struct CpuEntry {
  std::vector<std::string> aliases;
  std::string memory_link, socket_link;
  Sourced<int> cores, sockets;
  Sourced<FlopsPerSecond> peak_fp32, peak_bf16, peak_int8;
  Sourced<BytesPerSecond> memory_bandwidth;
  Sourced<double> memory_efficiency, single_thread, lut_rate;
  Sourced<int> lut_rows;
  Sourced<Bytes> memory, llc;
  Sourced<Watts> tdp, idle_power;
  Sourced<Seconds> kernel_launch;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("aliases", aliases, {.help = "other names"});
    v.Field("cores", cores, {.help = "per socket", .required = true});
    v.Field("sockets", sockets, {.help = "of the usual server", .required = true});
    v.Field("peak_fp32", peak_fp32, {.help = "per socket at base clock"});
    v.Field("peak_bf16", peak_bf16, {.help = "per socket, with matrix instructions"});
    v.Field("peak_int8", peak_int8, {.help = "per socket, with matrix or dot-product instructions"});
    v.Field("lut_rate", lut_rate, {.help = "look-ups per second of a socket that multiplies by narrow weights with tables in its caches"});
    v.Field("lut_rows", lut_rows, {.help = "most rows of a product that go this way"});
    v.Field("llc", llc, {.help = "last-level cache per socket"});
    v.Field("memory_bandwidth", memory_bandwidth, {.help = "per socket, raw", .required = true});
    v.Field("memory_efficiency", memory_efficiency, {.help = "reached by streaming / raw", .required = true});
    v.Field("memory", memory, {.help = "per socket", .required = true});
    v.Field("memory_link", memory_link, {.help = "catalogue link of kind memory", .required = true});
    v.Field("socket_link", socket_link, {.help = "catalogue link between two sockets", .required = true});
    v.Field("tdp", tdp, {.help = "per socket", .required = true});
    v.Field("idle_power", idle_power, {.help = "per socket", .required = true});
    v.Field("single_thread", single_thread, {.help = "speed of host code, epyc-7313 = 1", .required = true});
    v.Field("kernel_launch", kernel_launch, {.help = "driver launch to kernel start", .required = true});
  }
};

struct LinkEntry {
  std::vector<std::string> aliases;
  std::string kind;
  std::string topology = "switch";
  Sourced<BytesPerSecond> bandwidth;
  Sourced<double> efficiency, return_efficiency;
  Sourced<Seconds> latency, software_latency;
  Sourced<int> peers;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("aliases", aliases, {.help = "other names"});
    v.Field("kind", kind, {.help = "what it joins", .required = true, .choices = LinkKinds});
    v.Field("bandwidth", bandwidth, {.help = "per direction, raw", .required = true});
    v.Field("efficiency", efficiency, {.help = "reached / raw, read or host to device", .required = true});
    v.Field("return_efficiency", return_efficiency, {.help = "reached / raw the other way"});
    v.Field("latency", latency, {.help = "of the wire", .required = true});
    v.Field("software_latency", software_latency, {.help = "of a message or copy on top"});
    v.Field("topology", topology, {.help = "how GPUs are joined by it", .choices = Topologies});
    v.Field("peers", peers, {.help = "GPUs reached directly, for mesh and pairs"});
  }
};

struct NodeEntry {
  std::vector<std::string> aliases;
  std::string gpu, host, network;
  std::string topology = "switch";
  Sourced<int> count, sockets, hosts, pcie_switches, nics;
  Sourced<Bytes> host_memory;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("aliases", aliases, {.help = "other names"});
    v.Field("gpu", gpu, {.help = "GPU from the catalogue", .required = true});
    v.Field("count", count, {.help = "GPUs", .required = true});
    v.Field("host", host, {.help = "CPU from the catalogue", .required = true});
    v.Field("sockets", sockets, {.help = "CPU sockets, all hosts together", .required = true});
    v.Field("hosts", hosts, {.help = "separate hosts behind one scale-up domain"});
    v.Field("host_memory", host_memory, {.help = "all sockets together"});
    v.Field("topology", topology, {.help = "how the GPUs are joined", .required = true, .choices = Topologies});
    v.Field("pcie_switches", pcie_switches, {.help = "PCIe switches between sockets and GPUs"});
    v.Field("network", network, {.help = "link between nodes, one port", .required = true});
    v.Field("nics", nics, {.help = "network ports", .required = true});
  }
};

struct RegionEntry {
  std::vector<std::string> aliases;
  Sourced<double> carbon_g_per_kwh;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("aliases", aliases, {.help = "other names"});
    v.Field("carbon_g_per_kwh", carbon_g_per_kwh, {.help = "g CO2e per kWh", .required = true});
  }
};

ScaleUpTopology ParseTopology(std::string_view name) {
  if (name == "mesh") return ScaleUpTopology::kMesh;
  if (name == "pairs") return ScaleUpTopology::kPairs;
  if (name == "pcie") return ScaleUpTopology::kPcie;
  return ScaleUpTopology::kSwitch;
}

// Reads an entry and applies the checks that need several fields.
template <class Entry, class Check>
absl::StatusOr<Entry> LoadEntry(std::string_view section, std::string_view name, const Catalog& catalog, Check check) {
  SIMRUN_ASSIGN_OR_RETURN(const YamlNode node, catalog.Load(section, name));
  Entry entry;
  Problems problems;
  ReadParams(node, "", &problems, &entry);
  if (problems.empty()) {
    check(entry, [&](std::string_view path, std::string_view what) { problems.Add(node.location(), path, what); });
  }
  if (!problems.empty()) return problems.ToStatus();
  return entry;
}

bool BetweenGpus(std::string_view kind) {
  return kind == "pcie" || kind == "nvlink" || kind == "c2c" || kind == "xgmi" || kind == "xe-link" || kind == "roce" ||
         kind == "ici";
}

// The catalogue entry, or nothing with the reason in `problems`.
template <class T>
std::optional<T> Take(absl::StatusOr<T> entry, std::string_view path, const SourceLocation& where, Problems* problems) {
  if (entry.ok()) return *std::move(entry);
  problems->Add(where, path, std::string(entry.status().message()));
  return std::nullopt;
}

// One socket as the device of a machine without GPUs.
absl::StatusOr<GpuSpec> DeviceOf(const CpuSpec& cpu, const Catalog& catalog) {
  GpuSpec d;
  d.name = cpu.name;
  d.vendor = "cpu";
  d.architecture = "cpu";
  d.peak[static_cast<size_t>(DType::kFp32)] = cpu.peak_fp32;
  d.peak[static_cast<size_t>(DType::kBf16)] = cpu.peak_bf16;
  d.peak[static_cast<size_t>(DType::kInt8)] = cpu.peak_int8;
  d.memory = d.nominal_memory = cpu.memory;
  d.memory_bandwidth = cpu.memory_bandwidth;
  d.multiprocessors = cpu.cores;
  d.tdp = cpu.tdp;
  d.idle_power = cpu.idle_power;
  SIMRUN_ASSIGN_OR_RETURN(d.power, LoadPower("cpu", d, catalog));
  SIMRUN_ASSIGN_OR_RETURN(const LinkSpec sockets, LoadLink(cpu.socket_link, catalog));
  d.scale_up_link = sockets.name;
  d.scale_up_topology = ScaleUpTopology::kSwitch;
  d.scale_up_bandwidth = sockets.bandwidth;
  d.host_link = "pcie5-x16";
  d.default_network = "ethernet-100";
  d.gpus_per_node = cpu.sockets;
  d.operators = "generic-cpu";
  d.operators_provenance = Provenance::kTransferred;
  return d;
}

}  // namespace

std::string_view ProvenanceName(Provenance p) {
  switch (p) {
    case Provenance::kMeasured:
      return "measured";
    case Provenance::kCalibrated:
      return "calibrated";
    case Provenance::kTransferred:
      return "transferred";
    case Provenance::kDatasheet:
      return "datasheet";
    case Provenance::kAssumed:
      break;
  }
  return "assumed";
}

Provenance ParseProvenance(std::string_view name) {
  for (const Provenance p :
       {Provenance::kMeasured, Provenance::kCalibrated, Provenance::kTransferred, Provenance::kDatasheet}) {
    if (ProvenanceName(p) == name) return p;
  }
  return Provenance::kAssumed;
}

std::string_view ScaleUpTopologyName(ScaleUpTopology t) {
  switch (t) {
    case ScaleUpTopology::kSwitch:
      return "switch";
    case ScaleUpTopology::kMesh:
      return "mesh";
    case ScaleUpTopology::kPairs:
      return "pairs";
    case ScaleUpTopology::kPcie:
      break;
  }
  return "pcie";
}

std::string GpuSpelling(std::string_view name) {
  constexpr std::string_view kSilent[] = {"nvidia", "amd", "intel", "geforce", "tesla", "instinct", "radeon", "gpu", "graphics", "oam", "rtx",
                                          "blackwell", "server", "edition", "generation", "hbm2", "hbm2e", "hbm3", "hbm3e", "tensor", "core"};
  std::vector<std::string> words;
  for (std::string word : NameWords(name)) {
    if (word.size() > 3 && word.rfind("rtx", 0) == 0) word.erase(0, 3);
    if (word.size() == 4 && word.rfind("sxm", 0) == 0) word.resize(3);
    if (std::find(std::begin(kSilent), std::end(kSilent), word) == std::end(kSilent)) words.push_back(std::move(word));
  }
  std::sort(words.begin(), words.end());
  std::string spelling;
  for (const std::string& word : words) spelling += word + " ";
  return spelling;
}

absl::StatusOr<std::string> ResolveGpu(std::string_view name, const Catalog& catalog) { return catalog.Resolve("gpus", name, GpuSpelling); }

absl::StatusOr<GpuSpec> LoadGpu(std::string_view name, const Catalog& catalog) {
  GpuSpec gpu;
  SIMRUN_ASSIGN_OR_RETURN(const std::string canonical, ResolveGpu(name, catalog));
  gpu.name = EntryName(canonical);
  SIMRUN_ASSIGN_OR_RETURN(const GpuEntry entry,
                          LoadEntry<GpuEntry>("gpus", canonical, catalog, [](const GpuEntry& e, auto fail) {
                            if (!(e.memory.value > Bytes(0))) fail("memory", "must be greater than 0");
                            if (!(e.memory_bandwidth.value > BytesPerSecond(0)))
                              fail("memory_bandwidth", "must be greater than 0");
                            if (e.idle_power.value > e.tdp.value) fail("idle_power", "is above the TDP");
                            bool any = false;
                            for (const auto& rate : e.peak.rate) any = any || rate.value > FlopsPerSecond(0);
                            if (!any) fail("peak", "names no number format with a rate");
                            if (!e.operators.empty() && e.operators_provenance.empty()) {
                              fail("operators_provenance", "is required with operators: calibrated or transferred");
                            }
                            if (e.scale_up && (e.scale_up->topology == "mesh" || e.scale_up->topology == "pairs") &&
                                e.scale_up->peers.value < 1) {
                              fail("scale_up.peers", "is required for this topology, at least 1");
                            }
                          }));
  gpu.vendor = entry.vendor;
  gpu.architecture = entry.architecture;
  bool estimated = entry.memory_bandwidth.IsEstimate() || entry.memory.IsEstimate();
  for (int i = 0; i < kNumDTypes; ++i) {
    gpu.peak[i] = entry.peak.rate[i].value;
    estimated = estimated || entry.peak.rate[i].IsEstimate();
  }
  gpu.figures = estimated ? Provenance::kAssumed : Provenance::kDatasheet;
  gpu.memory = entry.memory.value;
  gpu.nominal_memory = entry.nominal_memory.value > Bytes(0) ? entry.nominal_memory.value : entry.memory.value;
  gpu.memory_bandwidth = entry.memory_bandwidth.value;
  gpu.l2 = entry.l2.value;
  gpu.multiprocessors = entry.multiprocessors.value;
  gpu.boost_clock = entry.boost_clock.value;
  gpu.tdp = entry.tdp.value;
  gpu.idle_power = entry.idle_power.value;
  SIMRUN_ASSIGN_OR_RETURN(gpu.power, LoadPower(Beside(canonical, entry.power), gpu, catalog));
  gpu.null_kernel = entry.null_kernel.value;
  if (entry.scale_up) {
    gpu.scale_up_link = Beside(canonical, entry.scale_up->link);
    gpu.scale_up_topology = ParseTopology(entry.scale_up->topology);
    gpu.scale_up_peers = entry.scale_up->peers.value;
    gpu.scale_up_bandwidth = entry.scale_up->bandwidth.value;
  }
  gpu.host_link = Beside(canonical, entry.host_link);
  gpu.default_host = Beside(canonical, entry.default_host);
  gpu.default_network = Beside(canonical, entry.default_network);
  if (entry.gpus_per_node.value > 0) gpu.gpus_per_node = entry.gpus_per_node.value;
  gpu.gpus_per_socket = entry.gpus_per_socket.value;
  gpu.price = entry.price.value;
  gpu.price_source = entry.price.source;
  gpu.operators = Beside(canonical, entry.operators);
  if (!entry.operators.empty()) {
    gpu.operators_provenance =
        entry.operators_provenance == "calibrated" ? Provenance::kCalibrated : Provenance::kTransferred;
  }
  return gpu;
}

namespace {

// `p`, of the board that `from` describes, for another board with the same kind of die: a FLOP and a byte cost the same
// energy at the same core voltage. `room`, `p_room`: watts above idle and active of that board and of p's at the ceiling.
void ScaleToBoard(const PowerBoard& from, double p_room, const GpuSpec& gpu, PowerSpec* p) {
  const double peak = gpu.Peak16() / from.peak.value;
  const double clock = gpu.boost_clock.value() > 0 ? gpu.boost_clock / from.boost_clock.value : 1;
  const double floor = p->voltage_floor, compute = p->compute.value();
  const auto volts = [spec = *p](double f) { return spec.Volts(f); };   // of the board it was fitted on
  const double v2 = volts(clock) * volts(clock);
  p->active = p->active * (clock * v2);
  p->compute = p->compute * (peak * v2);
  p->memory = p->memory * ((gpu.memory_bandwidth / from.memory_bandwidth.value) * p->MemoryShare(v2));
  p->voltage_floor = floor / volts(clock);
  const double room = p->ceiling * gpu.tdp.value() - gpu.idle_power.value() - p->active.value();
  // Kernels were measured on a board whose limit holds the same work back less: every one of them is slowed to the clock
  // that this limit allows, long work too.
  if (room / p->compute.value() < (1 - 1e-3) * p_room / compute) {
    p->own_rates = false;
    p->settled = p->settled_narrow = Watts(0);
    return;
  }
  if (p->settled.value() <= 0 || floor >= 1) return;
  // Long work settles at the clock f where the die's f V^2 watts fill the same part of the room.
  const double settled_volts = std::sqrt(p->settled.value() / compute);
  const double filled = compute * (settled_volts - floor) / (1 - floor) * settled_volts * settled_volts / p_room;
  double low = 0, high = clock;
  for (int i = 0; i < 50; ++i) {
    const double f = 0.5 * (low + high);
    (compute * peak * f / clock * volts(f) * volts(f) < filled * room ? low : high) = f;
  }
  const Watts settled = Watts(compute * peak * volts(high) * volts(high));
  p->settled_narrow = p->settled_narrow * (settled / p->settled);
  p->settled = settled;
}

}  // namespace

absl::StatusOr<PowerSpec> LoadPower(std::string_view name, const GpuSpec& gpu, const Catalog& catalog) {
  SIMRUN_ASSIGN_OR_RETURN(
      const PowerEntry entry, LoadEntry<PowerEntry>("power", name, catalog, [](const PowerEntry& e, auto fail) {
        if (!(e.tdp.value > e.idle_power.value)) fail("tdp", "must be above idle_power");
        if (!(e.ceiling.value > 0 && e.ceiling.value <= 1)) fail("ceiling", "must be above 0 and at most 1");
        if (!(e.attention.value > 0)) fail("attention", "must be above 0");
        if (e.voltage_floor.value > 1) fail("voltage_floor", "must be at most 1");
        if (e.dram_share.value > 1) fail("dram_share", "must be at most 1");
        if (e.board && !(e.board->peak.value > FlopsPerSecond(0) && e.board->memory_bandwidth.value > BytesPerSecond(0) &&
                         e.board->boost_clock.value > PerSecond(0))) {
          fail("board", "needs numbers above 0");
        }
        if (e.settled.value > e.compute.value) fail("settled", "must be at most compute");
        if (!(e.ceiling.value * e.tdp.value - e.idle_power.value - e.active.value > Watts(0))) fail("active", "leaves nothing below the ceiling");
      }));
  PowerSpec p;
  p.active = entry.active.value;
  p.compute = entry.compute.value;
  p.memory = entry.memory.value;
  p.link = entry.link.value;
  p.settled = entry.settled.value;
  p.settled_narrow = entry.settled_narrow.value;
  p.ramp = entry.ramp.value;
  p.attention = entry.attention.value;
  p.ceiling = entry.ceiling.value;
  p.voltage_floor = entry.voltage_floor.value;
  p.dram_share = entry.dram_share.value;
  p.provenance = ParseProvenance(entry.provenance);
  p.source = entry.description;
  if (entry.board) {
    const bool same = entry.board->memory_bandwidth.value == gpu.memory_bandwidth && entry.tdp.value == gpu.tdp &&
                      entry.board->boost_clock.value == gpu.boost_clock && entry.idle_power.value == gpu.idle_power;
    ScaleToBoard(*entry.board, (entry.tdp.value * p.ceiling - entry.idle_power.value - p.active).value(), gpu, &p);
    if (!same) {
      p.provenance = std::max(p.provenance, Provenance::kTransferred);
      p.source += ", scaled by peak rate, bandwidth and clock";
    }
  } else if (gpu.tdp != entry.tdp.value || gpu.idle_power != entry.idle_power.value) {
    const double scale = (gpu.tdp - gpu.idle_power) / (entry.tdp.value - entry.idle_power.value);
    for (Watts* w : {&p.active, &p.compute, &p.memory, &p.link, &p.settled, &p.settled_narrow}) *w = *w * scale;
    p.provenance = std::max(p.provenance, Provenance::kTransferred);
    p.source += fmt::format(", scaled from {} to {} above idle", Human(entry.tdp.value - entry.idle_power.value),
                            Human(gpu.tdp - gpu.idle_power));
  }
  return p;
}

absl::StatusOr<CpuSpec> LoadCpu(std::string_view name, const Catalog& catalog) {
  CpuSpec cpu;
  SIMRUN_ASSIGN_OR_RETURN(const std::string canonical, catalog.Resolve("cpus", name));
  cpu.name = EntryName(canonical);
  SIMRUN_ASSIGN_OR_RETURN(const CpuEntry entry,
                          LoadEntry<CpuEntry>("cpus", name, catalog, [](const CpuEntry& e, auto fail) {
                            if (e.cores.value < 1) fail("cores", "must be at least 1");
                            if (e.sockets.value < 1) fail("sockets", "must be at least 1");
                            if (!(e.memory_bandwidth.value > BytesPerSecond(0)))
                              fail("memory_bandwidth", "must be greater than 0");
                            if (!(e.memory_efficiency.value > 0 && e.memory_efficiency.value <= 1)) {
                              fail("memory_efficiency", "must be above 0 and at most 1");
                            }
                            if (!(e.single_thread.value > 0)) fail("single_thread", "must be greater than 0");
                          }));
  SIMRUN_ASSIGN_OR_RETURN(const LinkSpec memory_link, LoadLink(Beside(canonical, entry.memory_link), catalog));
  cpu.cores = entry.cores.value;
  cpu.sockets = entry.sockets.value;
  cpu.peak_fp32 = entry.peak_fp32.value;
  cpu.peak_bf16 = entry.peak_bf16.value;
  cpu.peak_int8 = entry.peak_int8.value;
  cpu.lut_rate = entry.lut_rate.value;
  cpu.lut_rows = entry.lut_rows.value;
  cpu.llc = entry.llc.value;
  cpu.memory_bandwidth = entry.memory_bandwidth.value;
  cpu.memory_efficiency = entry.memory_efficiency.value;
  cpu.memory_latency = memory_link.latency;
  cpu.memory = entry.memory.value;
  cpu.memory_link = Beside(canonical, entry.memory_link);
  cpu.socket_link = Beside(canonical, entry.socket_link);
  cpu.tdp = entry.tdp.value;
  cpu.idle_power = entry.idle_power.value;
  cpu.single_thread = entry.single_thread.value;
  cpu.kernel_launch = entry.kernel_launch.value;
  return cpu;
}

absl::StatusOr<LinkSpec> LoadLink(std::string_view name, const Catalog& catalog) {
  LinkSpec link;
  SIMRUN_ASSIGN_OR_RETURN(const std::string canonical, catalog.Resolve("links", name));
  link.name = EntryName(canonical);
  SIMRUN_ASSIGN_OR_RETURN(const LinkEntry entry,
                          LoadEntry<LinkEntry>("links", name, catalog, [](const LinkEntry& e, auto fail) {
                            if (!(e.bandwidth.value > BytesPerSecond(0))) fail("bandwidth", "must be greater than 0");
                            if (!(e.efficiency.value > 0 && e.efficiency.value <= 1))
                              fail("efficiency", "must be above 0 and at most 1");
                            if (e.return_efficiency.value > 1) fail("return_efficiency", "must be at most 1");
                            if ((e.topology == "mesh" || e.topology == "pairs") && e.peers.value < 1) {
                              fail("peers", "is required for this topology, at least 1");
                            }
                          }));
  link.kind = entry.kind;
  link.bandwidth = entry.bandwidth.value;
  link.efficiency = entry.efficiency.value;
  link.return_efficiency = entry.return_efficiency.value > 0 ? entry.return_efficiency.value : link.efficiency;
  link.latency = entry.latency.value;
  link.software_latency = entry.software_latency.value;
  link.topology = entry.kind == "pcie" ? ScaleUpTopology::kPcie : ParseTopology(entry.topology);
  link.peers = entry.peers.value;
  return link;
}

absl::StatusOr<NodeSpec> LoadNode(std::string_view name, const Catalog& catalog) {
  NodeSpec node;
  SIMRUN_ASSIGN_OR_RETURN(const std::string canonical, catalog.Resolve("nodes", name));
  node.name = EntryName(canonical);
  SIMRUN_ASSIGN_OR_RETURN(const NodeEntry entry,
                          LoadEntry<NodeEntry>("nodes", name, catalog, [](const NodeEntry& e, auto fail) {
                            if (e.count.value < 1 || e.count.value > 1024) fail("count", "must be 1 to 1024");
                            if (e.sockets.value < 1) fail("sockets", "must be at least 1");
                            if (e.nics.value < 1) fail("nics", "must be at least 1");
                            if (e.hosts.value > e.sockets.value) fail("hosts", "is more than the sockets");
                          }));
  node.gpu = Beside(canonical, entry.gpu);
  node.count = entry.count.value;
  node.host = Beside(canonical, entry.host);
  node.sockets = entry.sockets.value;
  node.hosts = std::max(1, entry.hosts.value);
  node.host_memory = entry.host_memory.value;
  node.topology = ParseTopology(entry.topology);
  node.pcie_switches = entry.pcie_switches.value;
  node.network = Beside(canonical, entry.network);
  node.nics = entry.nics.value;
  return node;
}

Watts Machine::HostIdlePower(double gpus) const {
  return host.idle_power * (static_cast<double>(host.sockets) / std::max(1, gpus_per_node)) * gpus;
}

Watts Machine::BusyCorePower(double gpus) const {
  return host.cores > 0 ? (host.tdp - host.idle_power) / static_cast<double>(host.cores) * 2.0 * gpus : Watts(0);
}

HardwareConfig LocateFiles(HardwareConfig config, const std::string& base_dir) {
  for (std::string* name : {&config.node, &config.gpu, &config.cpu, &config.host, &config.link, &config.network, &config.host_link, &config.region}) {
    *name = LocateEntry(base_dir, *name);
  }
  if (config.cxl) config.cxl->link = LocateEntry(base_dir, config.cxl->link);
  if (config.nvme) config.nvme->link = LocateEntry(base_dir, config.nvme->link);
  return config;
}

Machine BuildMachine(const HardwareConfig& config, const Catalog& catalog, const SourceLocation& where,
                     Problems* problems) {
  Machine m;
  const size_t earlier_problems = problems->size();
  const auto failed = [&] { return problems->size() != earlier_problems; };
  const auto fail = [&](std::string_view path, std::string_view what, std::string_view hint = {}) {
    problems->Add(where, path, what, hint);
  };

  // What it is made of.
  const bool by_node = !config.node.empty();
  std::string gpu_name = config.gpu;
  std::string host_name = config.host;
  std::string network_name = config.network;
  std::optional<NodeSpec> node;
  if (by_node && !config.gpu.empty()) {
    fail("hardware", "gives both node and gpu", "a node brings its own GPUs: remove one of them");
    return m;
  }
  const bool by_cpu = !config.cpu.empty();
  if (by_cpu && (by_node || !config.gpu.empty() || !config.host.empty())) {
    fail("hardware", "gives cpu beside node, gpu or host", "cpu serves on the CPU alone; the CPU beside a GPU is host");
    return m;
  }
  if (!by_node && !by_cpu && config.gpu.empty()) {
    fail("hardware", "gives neither node nor gpu", "write for example node: dgx-h100, or gpu: h100-sxm-80gb");
    return m;
  }
  if (by_node) {
    node = Take(LoadNode(config.node, catalog), "hardware.node", where, problems);
    if (config.gpus_per_node) {
      fail("hardware.gpus_per_node", "is set by the node", "remove it, or give gpu instead of node");
    }
    if (node) {
      gpu_name = node->gpu;
      if (host_name.empty()) host_name = node->host;
      if (network_name.empty()) network_name = node->network;
    }
  } else if (config.nodes != 1) {
    fail("hardware.nodes", "counts nodes of the catalogue and needs node",
         "with gpu, write count: the number of GPUs, and gpus_per_node if it is not the usual server");
  }
  std::optional<GpuSpec> gpu;
  if (!gpu_name.empty()) {
    gpu = Take(LoadGpu(gpu_name, catalog), by_node ? "hardware.node" : "hardware.gpu", where, problems);
  }
  if (by_cpu) {
    host_name = config.cpu;
    if (const auto cpu = Take(LoadCpu(config.cpu, catalog), "hardware.cpu", where, problems)) {
      gpu = Take(DeviceOf(*cpu, catalog), "hardware.cpu", where, problems);
    }
    if (!gpu) return m;
    m.cpu_only = true;
  }
  if (gpu && !by_node) {
    if (host_name.empty()) {
      host_name = gpu->default_host;
      m.assumptions.push_back(fmt::format("host {}: the usual one for {}", host_name, gpu->name));
    }
    if (network_name.empty()) {
      network_name = gpu->default_network;
      m.assumptions.push_back(
          fmt::format("network {}, one port per GPU: the usual one for {}", network_name, gpu->name));
    }
  }

  // Its parts. Names the user wrote are looked up even when others failed, so that all mistakes are reported at once.
  std::optional<CpuSpec> host;
  if (!host_name.empty()) {
    host = Take(LoadCpu(host_name, catalog), "hardware.host", where, problems);
  }
  std::optional<LinkSpec> network;
  if (!network_name.empty()) {
    network = Take(LoadLink(network_name, catalog), "hardware.network", where, problems);
    if (network && network->kind != "network") {
      fail("hardware.network", fmt::format("\"{}\" is a link of kind {}", network_name, network->kind),
           "it must be of kind network, for example ib-ndr-400");
    }
  }
  std::optional<LinkSpec> own_link;
  if (!config.link.empty()) {
    own_link = Take(LoadLink(config.link, catalog), "hardware.link", where, problems);
    if (own_link && !BetweenGpus(own_link->kind)) {
      fail("hardware.link", fmt::format("\"{}\" is a link of kind {}", config.link, own_link->kind),
           "it must join GPUs, for example nvlink4 or pcie5-x16");
    }
  }
  const auto of_kind = [&](const std::string& name, std::string_view path, std::initializer_list<std::string_view> kinds,
                           std::string_view hint) -> std::optional<LinkSpec> {
    auto link = Take(LoadLink(name, catalog), path, where, problems);
    if (link && std::find(kinds.begin(), kinds.end(), link->kind) == kinds.end()) {
      fail(path, fmt::format("\"{}\" is a link of kind {}", name, link->kind), hint);
      return std::nullopt;
    }
    return link;
  };
  std::optional<LinkSpec> own_host_link, cxl, nvme;
  if (!config.host_link.empty()) {
    own_host_link = of_kind(config.host_link, "hardware.host_link", {"pcie", "c2c"},
                            "it must join a GPU and its host, for example pcie5-x16 or nvlink-c2c");
  }
  if (config.cxl) {
    cxl = of_kind(config.cxl->link, "hardware.cxl.link", {"cxl"}, "it must be of kind cxl, for example cxl-x8-gen5");
  }
  if (config.nvme) {
    nvme = of_kind(config.nvme->link, "hardware.nvme.link", {"nvme"}, "it must be of kind nvme, for example nvme-gen4-x4");
  }
  if (!config.region.empty() && config.carbon_g_per_kwh) {
    fail("hardware.region", "and carbon_g_per_kwh both give the carbon intensity", "remove one of them");
  }
  const std::string region = config.region.empty() ? "world" : config.region;
  if (config.carbon_g_per_kwh) {
    m.carbon_g_per_kwh = *config.carbon_g_per_kwh;
    m.carbon_source = "given";
  } else {
    auto entry = LoadEntry<RegionEntry>("regions", region, catalog, [](const RegionEntry&, auto) {});
    if (entry.ok()) {
      m.carbon_g_per_kwh = entry->carbon_g_per_kwh.value;
      m.carbon_source = fmt::format("{}: {}", region, entry->carbon_g_per_kwh.source);
    } else if (!config.region.empty()) {
      Take(std::move(entry), "hardware.region", where, problems);
    }
  }
  if (gpu && config.power_limit && *config.power_limit <= gpu->idle_power) {
    fail("hardware.power_limit", fmt::format("{} is not above the {} that an idle {} draws", Human(*config.power_limit),
                                             Human(gpu->idle_power), gpu->name));
  }
  if (gpu && config.gpu_clock) {
    if (!(gpu->boost_clock > PerSecond(0))) {
      fail("hardware.gpu_clock", fmt::format("the boost clock of {} is not known", gpu->name), "use power_limit");
    } else if (*config.gpu_clock > gpu->boost_clock || *config.gpu_clock / gpu->boost_clock < kLowestClock) {
      fail("hardware.gpu_clock",
           fmt::format("{:.0f} MHz is out of range; {} runs at {:.0f} to {:.0f} MHz", config.gpu_clock->value() / 1e6,
                       gpu->name, std::ceil(kLowestClock * gpu->boost_clock.value() / 1e6), gpu->boost_clock.value() / 1e6));
    }
  }
  if (node && config.count && *config.count > static_cast<int64_t>(node->count) * config.nodes) {
    fail("hardware.count",
         fmt::format("{} GPUs are more than the {} of {} x {}", *config.count,
                     static_cast<int64_t>(node->count) * config.nodes, config.nodes, node->name),
         fmt::format("raise nodes to {}", (*config.count + node->count - 1) / node->count));
  }
  if (node && static_cast<int64_t>(node->count) * config.nodes > 1'000'000) {
    fail("hardware.nodes", "gives more than 1000000 GPUs");
  }
  if (!gpu || !host || !network || failed()) return m;
  auto host_link = LoadLink(gpu->host_link, catalog);
  auto memory_link = LoadLink(host->memory_link, catalog);
  auto socket_link = LoadLink(host->socket_link, catalog);
  auto nic_link = LoadLink(host_link.ok() && host_link->kind == "pcie" ? gpu->host_link : "pcie5-x16", catalog);
  auto gpu_link = LoadLink(gpu->scale_up_link.empty() ? gpu->host_link : gpu->scale_up_link, catalog);
  for (const auto* link : {&host_link, &memory_link, &socket_link, &nic_link, &gpu_link}) {
    if (!link->ok()) fail("hardware", std::string(link->status().message()));
  }
  if (failed()) return m;

  m.gpu = *gpu;
  m.host = *host;
  m.network = *network;
  m.host_link = own_host_link ? *own_host_link : *host_link;
  m.host_memory = *memory_link;
  m.host_memory.bandwidth = host->memory_bandwidth;
  m.host_memory.efficiency = m.host_memory.return_efficiency = host->memory_efficiency;
  m.socket_link = *socket_link;
  m.nic_link = *nic_link;
  m.scale_up = *gpu_link;
  m.scale_up_topology = node ? node->topology : gpu->scale_up_topology;
  m.scale_up_peers = gpu->scale_up_peers;
  if (!gpu->scale_up_link.empty()) m.scale_up.bandwidth = gpu->scale_up_bandwidth;
  if (own_link && own_link->name != gpu->scale_up_link) {
    m.scale_up = *own_link;
    m.scale_up_topology = own_link->topology;
    m.scale_up_peers = own_link->peers;
  } else if (own_link && m.scale_up_topology == ScaleUpTopology::kPcie) {
    // The card has the connector, the usual server leaves it empty.
    m.scale_up_topology = gpu->scale_up_peers == 1 ? ScaleUpTopology::kPairs : own_link->topology;
  }
  if (gpu->scale_up_link.empty() && !own_link) m.scale_up_topology = ScaleUpTopology::kPcie;
  if (m.scale_up_topology == ScaleUpTopology::kPcie && m.scale_up.kind != "pcie") m.scale_up = m.host_link;

  if (node) {
    m.node_name = node->name;
    m.gpus_per_node = node->count;
    m.gpu_count = config.count.value_or(node->count * config.nodes);
    m.sockets_per_node = node->sockets;
    m.hosts_per_node = node->hosts;
    m.nics_per_node = node->nics;
    m.pcie_switches_per_node = node->pcie_switches;
    if (node->host_memory > Bytes(0)) m.host.memory = node->host_memory / static_cast<double>(node->sockets);
  } else {
    m.gpus_per_node = config.gpus_per_node.value_or(gpu->gpus_per_node);
    m.gpu_count = config.count.value_or(0);
    m.nics_per_node = m.gpus_per_node;
    m.sockets_per_node = host->sockets;
    if (gpu->gpus_per_socket > 0 && m.host_link.kind == "c2c") {
      // Built together with their host processors: each superchip is a host of its own.
      m.sockets_per_node = (m.gpus_per_node + gpu->gpus_per_socket - 1) / gpu->gpus_per_socket;
      m.hosts_per_node = m.sockets_per_node;
    }
  }
  if (config.sockets && *config.sockets > m.sockets_per_node) {
    if (node) {
      fail("hardware.sockets", fmt::format("{} are more than the {} of {}", *config.sockets, m.sockets_per_node, node->name));
      return m;
    }
    m.sockets_per_node = *config.sockets;
  }
  m.sockets_used = config.sockets.value_or(m.sockets_per_node);
  m.host.sockets = m.sockets_per_node;
  m.scale_up_switched =
      m.scale_up_topology == ScaleUpTopology::kSwitch || m.scale_up_topology == ScaleUpTopology::kMesh;

  // Overrides.
  bool other_device = false;  // no longer the one the operator parameters were fitted on
  if (config.memory_bandwidth) {
    other_device = *config.memory_bandwidth != gpu->memory_bandwidth;
    m.gpu.memory_bandwidth = *config.memory_bandwidth;
  }
  if (config.peak_flops) {
    const FlopsPerSecond reference = gpu->Peak16();
    if (!(reference > FlopsPerSecond(0))) {
      fail("hardware.peak_flops", fmt::format("{} has no 16-bit rate to scale", gpu->name));
      return m;
    }
    const double ratio = *config.peak_flops / reference;
    for (FlopsPerSecond& peak : m.gpu.peak) peak *= ratio;
    other_device = other_device || ratio != 1;
  }
  m.provenance = other_device ? Provenance::kAssumed : gpu->figures;
  if (other_device && m.gpu.operators_provenance == Provenance::kCalibrated) {
    m.gpu.operators_provenance = Provenance::kTransferred;
  }
  if (config.memory) m.gpu.memory = *config.memory;
  m.peer_to_peer = config.peer_to_peer;
  if (config.link_bandwidth) m.scale_up.bandwidth = *config.link_bandwidth;
  if (config.host_link_bandwidth) m.host_link.bandwidth = *config.host_link_bandwidth;
  if (config.network_bandwidth) m.network.bandwidth = *config.network_bandwidth;
  if (config.host_memory) m.host.memory = *config.host_memory / static_cast<double>(m.sockets_per_node);
  if (config.host_memory_bandwidth) {
    m.host.memory_bandwidth = m.host_memory.bandwidth = *config.host_memory_bandwidth;
  }
  if (cxl) {
    m.cxl = *cxl;
    m.cxl_cards = config.cxl->cards;
    m.cxl_capacity = config.cxl->capacity;
    m.memory_price += config.cxl->price * config.cxl->cards;
  }
  if (nvme) {
    m.nvme = *nvme;
    m.nvme_drives = config.nvme->drives;
    m.nvme_capacity = config.nvme->capacity;
    m.memory_price += config.nvme->price * config.nvme->drives;
  }
  m.remote_memory = config.remote_memory.value_or(Bytes(0));
  m.power_limit = config.power_limit;
  m.gpu_clock = config.gpu_clock;
  m.price_per_gpu = config.price.value_or(gpu->price);
  m.price_source = config.price ? "given" : gpu->price_source;
  m.electricity_usd_per_kwh = config.electricity_usd_per_kwh;
  m.pue = config.pue;
  return m;
}

}  // namespace simrun
