// Transfers that share links and memories: a fluid model, exact and event-driven.
//
// A resource is anything with a rate: one direction of a link, a memory that CPU reads and DMA share, k drives. A flow
// moves bytes over several resources at once, taking `per_byte` of each resource's capacity for every byte moved (1 for
// a link on its way, 2 for a memory it is written to and read from, 1/k for one of k striped cards).
//
// Rates are max-min fair: all flows rise together until a resource is full or a flow reaches its own cap; those stay,
// the others rise on. A flow that no resource or cap limits ends at once. Rates change only when a flow starts or ends, or a
// capacity changes, so completion times are exact, not stepped.
#pragma once

#include <array>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace simrun {

class FlowNetwork {
 public:
  struct Use {
    int resource = 0;
    double per_byte = 1;
  };
  static constexpr double kNoCap = std::numeric_limits<double>::infinity();
  static constexpr size_t kMostUses = 8;

  // Capacity in bytes per second, above 0; returns its number, counting from 0.
  int AddResource(std::string name, double capacity);

  // From now on; flows under way go on at their new rates.
  void SetCapacity(int resource, double capacity);

  // Starts a flow now and returns its id, which is given again to a later flow once this one has ended. `cap` in bytes
  // per second. At most kMostUses uses, each resource once.
  int Start(std::span<const Use> uses, double bytes, double cap = kNoCap);
  double now() const { return now_; }
  // Time of the next end of a flow; infinite when there is none.
  double NextCompletion();
  // Lets time pass. Precondition: time >= now(). finished() then lists the flows that ended on the way, in order.
  void AdvanceTo(double time);
  const std::vector<int>& finished() const { return finished_; }
  // Makes now() zero; what is under way goes on. Keeps long runs from losing digits.
  void Rebase();

  int active() const { return static_cast<int>(active_.size()); }
  // Bytes per second of a flow under way.
  double Rate(int flow);

  int resources() const { return static_cast<int>(resources_.size()); }
  const std::string& name(int resource) const { return resources_[static_cast<size_t>(resource)].name; }
  double capacity(int resource) const { return resources_[static_cast<size_t>(resource)].capacity; }
  // Taken of the resource so far: bytes x per_byte over all flows.
  double moved(int resource) const { return resources_[static_cast<size_t>(resource)].moved; }

 private:
  struct Resource {
    std::string name;
    double capacity = 0;
    double moved = 0;
    double free = 0, load = 0;  // of the solver
    bool full = false;
  };
  struct Flow {
    std::array<Use, kMostUses> uses;
    size_t count = 0;
    double remaining = 0, cap = kNoCap, rate = 0, end = 0;
  };
  void Solve();
  void Credit(const Flow& flow, double bytes);

  std::vector<Resource> resources_;
  std::vector<Flow> flows_;
  std::vector<int> free_ids_;
  std::vector<int> active_;
  std::vector<int> rising_;  // scratch of Solve
  std::vector<int> finished_;
  double now_ = 0;
  double next_ = std::numeric_limits<double>::infinity();
  bool stale_ = false;
};

}  // namespace simrun
