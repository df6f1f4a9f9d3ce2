#include "hw/tiers.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "base/status.h"
#include "hw/topology.h"

namespace simrun {
namespace {

constexpr std::array<std::string_view, kNumTiers> kNames = {"gpu", "dram", "cxl", "nvme", "remote"};
// Copying into a pinned buffer: one thread of the driver. The stages of a pageable copy follow one another: the buffer is
// filled, then sent, and data on a drive is read before that. So a copy of pageable memory reaches about half the rate of
// one of pinned memory, as bandwidth tests show. The rate is assumed.
constexpr double kStagingRate = 8e9;
// Extra passes over host memory of a staged copy: read from where the data lies, write into the pinned buffer.
constexpr double kStagingPasses = 2;

size_t Index(TierKind tier) { return static_cast<size_t>(tier); }

int Dealt(int i, int count, int over) { return static_cast<int>(static_cast<int64_t>(i) * over / std::max(1, count)); }

}  // namespace

std::string_view TierName(TierKind tier) { return kNames[Index(tier)]; }

std::vector<std::string> TierNames() { return {kNames.begin(), kNames.end()}; }

std::optional<TierKind> ParseTier(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<TierKind>(i);
  }
  return std::nullopt;
}

int SocketsPerHost(const Machine& m) {
  return std::max(1, std::min(m.sockets_used, m.sockets_per_node / std::max(1, m.hosts_per_node)));
}

MemoryTiers TiersOf(const Machine& m) {
  MemoryTiers tiers;
  for (int i = 0; i < kNumTiers; ++i) tiers[static_cast<size_t>(i)].kind = static_cast<TierKind>(i);
  MemoryTier& gpu = tiers[Index(TierKind::kGpu)];
  gpu.capacity = m.gpu.memory;
  gpu.read = gpu.write = m.gpu.memory_bandwidth;
  gpu.one_budget = true;
  // Alike parts, each behind a link of its own; data is striped over them.
  const auto striped = [&](TierKind kind, int parts, Bytes capacity, const LinkSpec& link) -> MemoryTier& {
    MemoryTier& tier = tiers[Index(kind)];
    tier.parts = parts;
    tier.capacity = capacity * parts;
    tier.read = link.bandwidth * (link.efficiency * parts);
    tier.write = link.bandwidth * (link.return_efficiency * parts);
    tier.latency = link.latency;
    return tier;
  };
  striped(TierKind::kDram, SocketsPerHost(m), m.host.memory, m.host_memory).one_budget = true;
  striped(TierKind::kCxl, m.cxl_cards, m.cxl_capacity, m.cxl);
  striped(TierKind::kNvme, m.nvme_drives, m.nvme_capacity, m.nvme);
  MemoryTier& remote = striped(TierKind::kRemote, m.nics_per_node, Bytes(0), m.network);
  remote.capacity = m.remote_memory;
  remote.latency = m.network.latency + m.network.software_latency;
  return tiers;
}

void AddCapacity(TierKind tier, Bytes more, Machine* m) {
  switch (tier) {
    case TierKind::kGpu: m->gpu.memory += more; break;
    case TierKind::kDram: m->host.memory += more / SocketsPerHost(*m); break;
    case TierKind::kCxl: m->cxl_capacity += more / std::max(1, m->cxl_cards); break;
    case TierKind::kNvme: m->nvme_capacity += more / std::max(1, m->nvme_drives); break;
    case TierKind::kRemote: m->remote_memory += more; break;
  }
}

absl::StatusOr<MemorySystem> MemorySystem::Create(const Machine& m, const MemorySystemOptions& options, FlowNetwork* network) {
  const int node = options.first_gpu / m.gpus_per_node;
  SIMRUN_ASSIGN_OR_RETURN(const Topology topology, BuildTopology(m, std::max((node + 1) * m.gpus_per_node, options.first_gpu + options.gpus)));
  const int hosts = std::max(1, m.hosts_per_node);
  const auto socket_of = [&](int gpu) { return topology.places()[static_cast<size_t>(topology.NearestDram(gpu))].index; };
  const auto host_of = [&](int socket) { return Dealt(socket, m.sockets_per_node, hosts); };
  const int host = host_of(socket_of(options.first_gpu));
  for (int g = options.first_gpu; g < options.first_gpu + options.gpus; ++g) {
    if (g / m.gpus_per_node != node || host_of(socket_of(g)) != host) {
      return absl::UnimplementedError("tensors outside GPU memory need the GPUs of an engine on one host; use a smaller plan.tp or plan.dp");
    }
  }
  // The sockets used: the nearest ones first.
  std::vector<int> drams;
  const int near = socket_of(options.first_gpu);
  for (int i = 0; i < m.sockets_per_node && static_cast<int>(drams.size()) < SocketsPerHost(m); ++i) {
    const int socket = (near + i) % m.sockets_per_node;
    if (host_of(socket) == host) drams.push_back(topology.Find(PlaceKind::kDram, node, socket));
  }
  std::vector<int> cards, drives;
  for (int c = 0; c < m.cxl_cards; ++c) cards.push_back(topology.Find(PlaceKind::kCxlMemory, node, c));
  for (int d = 0; d < m.nvme_drives; ++d) drives.push_back(topology.Find(PlaceKind::kNvme, node, d));

  const MemoryTiers tiers = TiersOf(m);
  MemorySystem system;
  system.engines_ = std::max(1, options.engines_per_host);
  const auto add_shared = [&](const std::string& name, double alone, double engines) {
    const MemorySystem::Shared shared{0, alone, engines};
    const int resource = network->AddResource(name, shared.Part(1));
    if (engines > 1) system.shared_.push_back({resource, alone, engines});
    return resource;
  };
  const int host_memory = add_shared("host memory", tiers[Index(TierKind::kDram)].read.value(), system.engines_);
  const auto add_pair = [&](TierKind kind, const char* read, const char* write) {
    const MemoryTier& t = tiers[Index(kind)];
    if (!(t.capacity > Bytes(0))) return std::pair(-1, -1);
    const int reads = add_shared(read, t.read.value(), system.engines_);
    return std::pair(reads, add_shared(write, t.write.value(), system.engines_));
  };
  const auto [cxl_read, cxl_write] = add_pair(TierKind::kCxl, "CXL read", "CXL write");
  const auto [nvme_read, nvme_write] = add_pair(TierKind::kNvme, "NVMe read", "NVMe write");
  const auto [remote_read, remote_write] = add_pair(TierKind::kRemote, "network in", "network out");

  // GPUs of the other engines: whole engines, counted from the host's first GPU.
  std::vector<int> others;
  int host_first = options.first_gpu;
  while (host_first > node * m.gpus_per_node && host_of(socket_of(host_first - 1)) == host) --host_first;
  for (int g = host_first, left = (system.engines_ - 1) * options.gpus; left > 0 && g < (node + 1) * m.gpus_per_node; ++g) {
    if (host_of(socket_of(g)) != host || (g >= options.first_gpu && g < options.first_gpu + options.gpus)) continue;
    others.push_back(g);
    --left;
  }

  // Links between the sockets and the GPUs, one resource for all links of a kind: the busiest of them decides.
  std::map<std::string, int> links;
  const auto add_path = [&](const std::vector<int>& from, bool to_gpu, Route* route) {
    // Bytes over each edge when every GPU moves one byte, spread evenly over `from`: those of this engine's GPUs, and of all.
    std::map<int, double> load, whole_load;
    Seconds latency{0};
    const auto add_gpu = [&](int g, bool own) {
      for (const int place : from) {
        const auto path = to_gpu ? topology.BestPath(place, topology.Gpu(g)) : topology.BestPath(topology.Gpu(g), place);
        SIM_CHECK(path.has_value());
        if (own) latency = std::max(latency, path->latency);
        for (const int e : path->edges) {
          if (own) load[e] += 1.0 / static_cast<double>(from.size());
          whole_load[e] += 1.0 / static_cast<double>(from.size());
        }
      }
    };
    for (int g = options.first_gpu; g < options.first_gpu + options.gpus; ++g) add_gpu(g, true);
    for (const int g : others) add_gpu(g, false);
    struct Busiest {
      double per_byte = 0, alone = 1, engines = 1;
      double Seconds() const { return per_byte * engines / alone; }
    };
    std::map<std::string, Busiest> kinds;
    for (const auto& [id, bytes] : load) {
      const Edge e = topology.edge(id);
      const PlaceKind a = topology.places()[static_cast<size_t>(e.from)].kind, b = topology.places()[static_cast<size_t>(e.to)].kind;
      if (a == PlaceKind::kDram || b == PlaceKind::kDram || a == PlaceKind::kCxlMemory || b == PlaceKind::kCxlMemory ||
          a == PlaceKind::kNvme || b == PlaceKind::kNvme) {
        continue;  // the memories themselves, above
      }
      const char* way = to_gpu ? "to GPU" : "from GPU";
      const bool own = a == PlaceKind::kGpu || b == PlaceKind::kGpu;
      std::string name = own ? fmt::format("host link {}", way)
                             : a == b ? fmt::format("socket link {}", way) : fmt::format("PCIe switch {}", way);
      const Busiest here{bytes, e.reached().value() * (own ? options.link_efficiency : 1), whole_load[id] / bytes};
      Busiest& busiest = kinds[name];
      if (here.Seconds() > busiest.Seconds()) busiest = here;
    }
    for (const auto& [name, busiest] : kinds) {
      auto found = links.find(name);
      if (found == links.end()) found = links.emplace(name, add_shared(name, busiest.alone, busiest.engines)).first;
      // A resource keeps the capacity it was made with; another load is scaled to it.
      if (name.rfind("host link", 0) == 0) route->own = route->uses.size();
      route->uses.push_back({found->second, busiest.Seconds() * network->capacity(found->second)});
    }
    route->latency += latency.value() + m.host_link.software_latency.value();
  };
  const double gpus = options.gpus;
  const auto finish = [&](TierKind kind, double host_passes, int tier_resource, Route* route) {
    if (!options.pinned) {
      host_passes += kStagingPasses;
      double link = FlowNetwork::kNoCap;
      for (const FlowNetwork::Use& use : route->uses) link = std::min(link, network->capacity(use.resource) / use.per_byte);
      const double read = kind == TierKind::kNvme || kind == TierKind::kRemote ? gpus / network->capacity(tier_resource) : 0;
      route->cap = 1 / (1 / (kStagingRate * m.host.single_thread) + 1 / link + read);
    }
    if (host_passes > 0) route->uses.push_back({host_memory, host_passes * gpus});
    if (tier_resource >= 0) route->uses.push_back({tier_resource, gpus});
    route->latency += kind == TierKind::kNvme || kind == TierKind::kRemote ? tiers[Index(kind)].latency.value() : 0;
    system.has_[Index(kind)] = true;
  };
  system.has_[Index(TierKind::kGpu)] = true;
  for (const bool in : {true, false}) {
    auto& routes = in ? system.to_gpu_ : system.from_gpu_;
    add_path(drams, in, &routes[Index(TierKind::kDram)]);
    finish(TierKind::kDram, 1, -1, &routes[Index(TierKind::kDram)]);
    if (!cards.empty()) {
      add_path(cards, in, &routes[Index(TierKind::kCxl)]);
      finish(TierKind::kCxl, 0, in ? cxl_read : cxl_write, &routes[Index(TierKind::kCxl)]);
    }
    // Drives and network cards move data through host memory.
    if (!drives.empty()) {
      add_path(drams, in, &routes[Index(TierKind::kNvme)]);
      finish(TierKind::kNvme, 2, in ? nvme_read : nvme_write, &routes[Index(TierKind::kNvme)]);
    }
    if (m.remote_memory > Bytes(0)) {
      add_path(drams, in, &routes[Index(TierKind::kRemote)]);
      finish(TierKind::kRemote, 2, in ? remote_read : remote_write, &routes[Index(TierKind::kRemote)]);
    }
  }
  system.cpu_read_[Index(TierKind::kDram)].uses = {{host_memory, 1}};
  system.host_copy_.uses = {{host_memory, kStagingPasses}};
  system.host_copy_.cap = kStagingRate * m.host.single_thread;
  system.cpu_write_[Index(TierKind::kDram)].uses = {{host_memory, 1}};
  if (!cards.empty()) {
    system.cpu_read_[Index(TierKind::kCxl)].uses = {{cxl_read, 1}};
    system.cpu_write_[Index(TierKind::kCxl)].uses = {{cxl_write, 1}};
  }
  return system;
}

void MemorySystem::Share(double active, FlowNetwork* network) const {
  const double share = engines_ > 1 ? (std::clamp(active, 1.0, static_cast<double>(engines_)) - 1) / (engines_ - 1) : 0;
  for (const Shared& s : shared_) network->SetCapacity(s.resource, s.Part(share));
}

}  // namespace simrun
