// The memory tiers of a machine, and the ways between them, its GPUs and its CPU.
//
// Tiers: "gpu" (HBM of one GPU), "dram" (host memory of the sockets in use, data spread evenly over them), "cxl" (cards,
// data striped over them), "nvme" (drives, likewise) and "remote" (memory of other nodes over the network). A tier that a
// machine does not have has capacity 0.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "hw/flow_network.h"
#include "hw/machine.h"

namespace simrun {

enum class TierKind { kGpu, kDram, kCxl, kNvme, kRemote };
inline constexpr int kNumTiers = 5;
std::string_view TierName(TierKind tier);  // "gpu", "dram", "cxl", "nvme", "remote"
std::vector<std::string> TierNames();
// nullopt for an unknown name.
std::optional<TierKind> ParseTier(std::string_view name);

struct MemoryTier {
  TierKind kind = TierKind::kGpu;
  Bytes capacity{0};              // of one GPU; of one host for the others
  BytesPerSecond read, write;     // reached, all parts together
  Seconds latency;
  int parts = 1;                  // sockets, cards, drives
  bool one_budget = false;        // reads and writes share the rate (DRAM, HBM); links have one each way
  // The CPU reads it with loads and can compute on it where it lies.
  bool addressable() const { return kind == TierKind::kDram || kind == TierKind::kCxl; }
};
using MemoryTiers = std::array<MemoryTier, kNumTiers>;
MemoryTiers TiersOf(const Machine& machine);
// Makes a tier larger, by `more` bytes of a GPU or of a host in all.
void AddCapacity(TierKind tier, Bytes more, Machine* machine);

// Sockets of one host that an engine uses.
int SocketsPerHost(const Machine& machine);

// A way for bytes.
struct Route {
  std::vector<FlowNetwork::Use> uses;
  double latency = 0;                   // seconds, software included
  double cap = FlowNetwork::kNoCap;     // bytes per second
  size_t own = 0;                       // of `uses`: the link that each GPU has to itself
};

struct MemorySystemOptions {
  int first_gpu = 0, gpus = 1;          // of the engine; each GPU moves its own bytes, all at once
  int engines_per_host = 1;             // of the same kind, on GPUs next to one another: each gets an equal part of what they share
  bool pinned = true;                   // else every byte is copied once more in host memory on its way to or from a GPU
  double link_efficiency = 1;           // of GPU copies, on top of the link's own
};

// Draws an engine's surroundings into a flow network. Routes to and from GPUs are counted in bytes of one GPU, all GPUs
// of the engine moving as many side by side: links that several of them share are used once for each.
class MemorySystem {
 public:
  // Unimplemented when the GPUs of the engine hang on different hosts.
  static absl::StatusOr<MemorySystem> Create(const Machine& machine, const MemorySystemOptions& options, FlowNetwork* network);

  bool Has(TierKind tier) const { return has_[static_cast<size_t>(tier)]; }
  const Route& ToGpu(TierKind tier) const { return to_gpu_[static_cast<size_t>(tier)]; }
  const Route& FromGpu(TierKind tier) const { return from_gpu_[static_cast<size_t>(tier)]; }
  // Loads and stores of the CPU, sockets reading what is near them. Addressable tiers.
  const Route& CpuRead(TierKind tier) const { return cpu_read_[static_cast<size_t>(tier)]; }
  // From one place of host memory to another by one thread, as into a pinned buffer.
  const Route& HostCopy() const { return host_copy_; }
  const Route& CpuWrite(TierKind tier) const { return cpu_write_[static_cast<size_t>(tier)]; }

  // How many engines of the host have work, this one included: the others leave their parts to those that have. All do at
  // first. Where only some of them share a link, as many of these as of all are taken to have work.
  void Share(double active, FlowNetwork* network) const;

 private:
  struct Shared {
    int resource = 0;
    double alone = 0;    // capacity
    double engines = 1;  // that share it, in use by this one
    double Part(double active_share) const { return alone / (1 + (engines - 1) * active_share); }
  };
  int engines_ = 1;
  std::vector<Shared> shared_;
  std::array<bool, kNumTiers> has_{};
  std::array<Route, kNumTiers> to_gpu_, from_gpu_, cpu_read_, cpu_write_;
  Route host_copy_;
};

}  // namespace simrun
