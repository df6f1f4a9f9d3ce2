#include "schedulers/experts/hybrid.h"

#include <algorithm>
#include <array>
#include <utility>

namespace simrun {
namespace {

// Up to this many experts, moves and swaps improve the list schedule.
constexpr size_t kRefine = 16;

// Few experts, or loads that differ widely: heaviest first, then by number.
void SortByLoad(std::vector<ExpertLoad>* list) {
  const auto heavier = [](const ExpertLoad& a, const ExpertLoad& b) { return a.tokens != b.tokens ? a.tokens > b.tokens : a.expert < b.expert; };
  if (list->size() > 12) return std::sort(list->begin(), list->end(), heavier);
  for (size_t i = 1; i < list->size(); ++i) {
    const ExpertLoad e = (*list)[i];
    size_t j = i;
    for (; j > 0 && heavier(e, (*list)[j - 1]); --j) (*list)[j] = (*list)[j - 1];
    (*list)[j] = e;
  }
}

// Splits the active experts into residents and others, each heaviest first; equal loads by number, the order in which callers
// list them. Returns the seconds that the GPU takes for all residents, and the CPU for all others.
std::pair<double, double> SplitByLoad(const ExpertLayerView& layer, ExpertSchedule* schedule) {
  const std::span<const ExpertLoad> active = layer.active;
  double gpu_work = 0, cpu_work = 0;
  std::vector<ExpertLoad>&resident = schedule->resident, &remote = schedule->remote;
  const size_t n = active.size();
  int32_t most = 0;
  for (const ExpertLoad& e : active) most = std::max(most, e.tokens);
  if (n <= 12 || static_cast<size_t>(most) > 4 * n) {
    SplitByPlace(active, schedule);
    SortByLoad(&resident);
    SortByLoad(&remote);
    for (const ExpertLoad& e : resident) gpu_work += layer.costs.Gpu(e.tokens);
    for (const ExpertLoad& e : remote) cpu_work += layer.costs.Cpu(e.tokens);
    return {gpu_work, cpu_work};
  }
  // Few distinct loads: counted, then dealt to their places. Residents and others take turns among the counters.
  std::vector<uint32_t>& counts = schedule->counts;
  counts.assign(2 * (static_cast<size_t>(most) + 1), 0);
  uint32_t* const count = counts.data();
  // Arithmetic instead of branches on what the cache holds.
  const auto list_of = [](const ExpertLoad& e) { return 1 - static_cast<size_t>(e.on_gpu); };
  const auto counter = [&](const ExpertLoad& e) { return 2 * static_cast<size_t>(most - e.tokens) + list_of(e); };
  for (const ExpertLoad& e : active) ++count[counter(e)];
  uint32_t residents = 0, others = 0;
  for (int32_t tokens = most; tokens >= 0; --tokens) {
    uint32_t* const here = &count[2 * static_cast<size_t>(most - tokens)];
    gpu_work += here[0] * layer.costs.Gpu(tokens);
    cpu_work += here[1] * layer.costs.Cpu(tokens);
    residents += std::exchange(here[0], residents);
    others += std::exchange(here[1], others);
  }
  resident.resize(residents);
  remote.resize(others);
  ExpertLoad* const lists[2] = {resident.data(), remote.data()};
  for (const ExpertLoad& e : active) lists[list_of(e)][count[counter(e)]++] = e;
  return {gpu_work, cpu_work};
}

class HybridExperts final : public ExpertPolicy {
 public:
  void Schedule(const ExpertLayerView& layer, ExpertSchedule* schedule) const override {
    const ExpertCosts& c = layer.costs;
    std::vector<ExpertLoad>& resident = schedule->resident;
    std::vector<ExpertLoad>& remote = schedule->remote;
    const std::pair<double, double> work = SplitByLoad(layer, schedule);
    const double gpu_work = work.first, cpu_work = work.second;
    const double cpu_start = layer.cpu_ready + c.cpu_first;

    // With k fetched and s stolen: the GPU ends at max(gpu_ready + residents kept + fetched, arrivals), the CPU at
    // cpu_start + rest + stolen. A larger k moves the crossing of the two to a larger s, so that s never goes back.
    double best = -1;
    size_t best_k = 0, best_s = 0, s = 0;
    double stolen_gpu = 0, stolen_cpu = 0;                               // work of the s lightest residents
    double fetched = 0, arrivals = layer.gpu_ready, link = layer.link_ready;  // of the k heaviest remote experts
    double rest = cpu_work;
    for (size_t k = 0;; ++k) {
      const auto gpu_end = [&] { return std::max(layer.gpu_ready + (gpu_work - stolen_gpu) + fetched, arrivals); };
      const auto cpu_end = [&] { return k == remote.size() && s == 0 ? 0.0 : cpu_start + rest + stolen_cpu; };
      const auto consider = [&] {
        const double makespan = std::max(gpu_end(), cpu_end());
        if (best >= 0 && makespan >= best) return;
        best = makespan;
        best_k = k;
        best_s = s;
      };
      consider();
      while (s < resident.size() && cpu_end() < gpu_end()) {
        const ExpertLoad& e = resident[resident.size() - 1 - s];
        stolen_gpu += c.Gpu(e.tokens);
        stolen_cpu += c.Cpu(e.tokens);
        ++s;
        consider();
      }
      if (k == remote.size()) break;
      link += c.transfer;
      const double seconds = c.Gpu(remote[k].tokens);
      arrivals = std::max(arrivals, link) + seconds;
      fetched += seconds;
      rest -= c.Cpu(remote[k].tokens);
      if (std::max(layer.gpu_ready + fetched, arrivals) >= best) break;  // more transfers only add to the GPU's work
      if (s > 0) {  // the crossing may lie one before
        --s;
        const ExpertLoad& e = resident[resident.size() - 1 - s];
        stolen_gpu -= c.Gpu(e.tokens);
        stolen_cpu -= c.Cpu(e.tokens);
      }
    }

    // remote becomes the CPU's list; fetched experts move behind the residents that the GPU keeps.
    const size_t kept = resident.size() - best_s;
    remote.insert(remote.end(), resident.begin() + static_cast<std::ptrdiff_t>(kept), resident.end());
    resident.resize(kept);
    const std::span<const ExpertLoad> all(remote);
    TimeExperts(layer, resident, all.first(best_k), all.subspan(best_k), schedule);
    // Without transfers and thefts, when the CPU ends last and a transfer would end later still, nothing can be better.
    const bool best_possible = best_k == 0 && best_s == 0 && schedule->cpu_end >= schedule->gpu_end &&
                               layer.link_ready + c.transfer >= schedule->makespan;
    if (layer.active.size() <= kRefine && !best_possible) Refine(layer, kept, best_k, schedule);
  }

 private:
  // Up to kRefine experts, each on the GPU or on the CPU.
  struct Small {
    std::array<ExpertLoad, kRefine> load;  // heaviest first
    std::array<double, kRefine> gpu, cpu;
    size_t n = 0;
    double Makespan(const ExpertLayerView& layer, uint32_t on_cpu) const {
      double gpu_end = layer.gpu_ready, cpu_end = 0, link = layer.link_ready;
      for (size_t i = 0; i < n; ++i) {
        if ((on_cpu >> i & 1u) != 0) {
          cpu_end += cpu[i];
        } else if (load[i].on_gpu) {
          gpu_end += gpu[i];
        }
      }
      if (on_cpu != 0) cpu_end += layer.cpu_ready + layer.costs.cpu_first;
      for (size_t i = 0; i < n; ++i) {
        if ((on_cpu >> i & 1u) != 0 || load[i].on_gpu) continue;
        link += layer.costs.transfer;
        gpu_end = std::max(gpu_end, link) + gpu[i];
      }
      return std::max(gpu_end, cpu_end);
    }
  };

  // Moves one expert, or swaps two, between GPU and CPU while that lowers the makespan.
  static void Refine(const ExpertLayerView& layer, size_t kept, size_t fetched, ExpertSchedule* schedule) {
    Small small;
    uint32_t on_cpu = 0;
    const auto add = [&](const ExpertLoad& e) {
      size_t i = small.n++;
      for (; i > 0 && small.load[i - 1].tokens < e.tokens; --i) small.load[i] = small.load[i - 1];
      small.load[i] = e;
    };
    for (size_t i = 0; i < kept; ++i) add(schedule->resident[i]);
    for (const ExpertLoad& e : schedule->remote) add(e);
    for (size_t i = 0; i < small.n; ++i) {
      small.gpu[i] = layer.costs.Gpu(small.load[i].tokens);
      small.cpu[i] = layer.costs.Cpu(small.load[i].tokens);
      for (size_t j = fetched; j < schedule->remote.size(); ++j) {
        if (schedule->remote[j].expert == small.load[i].expert) on_cpu |= 1u << i;
      }
    }
    const uint32_t before = on_cpu;
    double best = schedule->makespan;
    for (bool better = true; better;) {
      better = false;
      uint32_t next = on_cpu;
      for (size_t i = 0; i < small.n; ++i) {
        for (size_t j = i; j < small.n; ++j) {
          const uint32_t flip = (1u << i) | (1u << j);
          const double makespan = small.Makespan(layer, on_cpu ^ flip);
          if (makespan < best * (1 - 1e-12)) {
            best = makespan;
            next = on_cpu ^ flip;
            better = true;
          }
        }
      }
      on_cpu = next;
    }
    if (on_cpu == before) return;
    schedule->resident.clear();
    schedule->remote.clear();
    for (size_t i = 0; i < small.n; ++i) {
      if ((on_cpu >> i & 1u) == 0) (small.load[i].on_gpu ? schedule->resident : schedule->remote).push_back(small.load[i]);
    }
    const size_t crossing = schedule->remote.size();
    for (size_t i = 0; i < small.n; ++i) {
      if ((on_cpu >> i & 1u) != 0) schedule->remote.push_back(small.load[i]);
    }
    const std::span<const ExpertLoad> all(schedule->remote);
    TimeExperts(layer, schedule->resident, all.first(crossing), all.subspan(crossing), schedule);
  }
};

}  // namespace

std::unique_ptr<ExpertPolicy> MakeHybridExperts() { return std::make_unique<HybridExperts>(); }
}  // namespace simrun
