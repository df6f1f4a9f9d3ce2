#include "schedulers/expert_scheduling.h"

#include "schedulers/config.h"
#include "schedulers/experts/hybrid.h"
#include "schedulers/experts/static_placement.h"
#include "schedulers/experts/stream.h"

namespace simrun {

const Registry<ExpertPolicyFactory>& BuiltInExpertPolicies() {
  static const auto* const registry = [] {
    auto* r = new Registry<ExpertPolicyFactory>("expert policy");
    const auto add = [r](const char* name, const char* description, ExpertPolicyFactory factory) {
      SIM_CHECK(r->Add(name, description, std::move(factory)).ok());
    };
    add("static", "experts run where they lie: on the GPU, or on the CPU (KTransformers)", &MakeStaticExperts);
    add("stream", "experts that are not on the GPU cross the link and run there (FlexGen, MoE-Lens)", &MakeStreamedExperts);
    add("hybrid", "GPU, CPU and link share a layer so that it ends soonest (HybriMoE)", &MakeHybridExperts);
    return r;
  }();
  return *registry;
}

std::vector<std::string> ExpertResidentNames() { return {"popular", "arbitrary"}; }

absl::Status ExpertsConfig::ReadScalar(const YamlNode& node) {
  policy = node.text();
  const absl::StatusOr<ExpertPolicyFactory> found = BuiltInExpertPolicies().Find(node.text());
  if (found.ok()) return absl::OkStatus();
  policy.reset();
  return absl::InvalidArgumentError(std::string(found.status().message()));
}

std::vector<std::string> ExpertPolicyNames() { return BuiltInExpertPolicies().Names(); }

void SplitByPlace(std::span<const ExpertLoad> active, ExpertSchedule* schedule) {
  std::vector<ExpertLoad>&resident = schedule->resident, &remote = schedule->remote;
  resident.resize(active.size() + 1);
  remote.resize(active.size() + 1);
  size_t a = 0, b = 0;
  for (const ExpertLoad& e : active) {  // no branch on what the cache holds
    resident[a] = e;
    remote[b] = e;
    a += e.on_gpu ? 1 : 0;
    b += e.on_gpu ? 0 : 1;
  }
  resident.resize(a);
  remote.resize(b);
}

void TimeExperts(const ExpertLayerView& layer, std::span<const ExpertLoad> gpu, std::span<const ExpertLoad> fetched,
                 std::span<const ExpertLoad> cpu, ExpertSchedule* schedule) {
  const ExpertCosts& c = layer.costs;
  ExpertSchedule& s = *schedule;
  s.Clear();
  s.gpu_busy = s.cpu_busy = s.link_busy = 0;
  s.gpu_tokens = s.cpu_tokens = s.fetched_tokens = 0;
  s.gpu_end = layer.gpu_ready;
  s.cpu_end = layer.cpu_ready;
  s.link_end = layer.link_ready;
  s.on_gpu.resize(gpu.size());
  for (size_t i = 0; i < gpu.size(); ++i) {
    s.gpu_busy += c.Gpu(gpu[i].tokens);
    s.gpu_tokens += gpu[i].tokens;
    s.on_gpu[i] = gpu[i].expert;
  }
  s.gpu_end += s.gpu_busy;
  for (const ExpertLoad& e : fetched) {
    const double seconds = c.Gpu(e.tokens);
    s.link_busy += c.transfer;
    s.link_end += c.transfer;
    s.gpu_end = std::max(s.gpu_end, s.link_end) + seconds;
    s.gpu_busy += seconds;
    s.fetched_tokens += e.tokens;
    s.on_gpu.push_back(e.expert);
    s.fetched.push_back(e.expert);
  }
  s.gpu_tokens += s.fetched_tokens;
  if (!cpu.empty()) s.cpu_busy = c.cpu_first;
  s.on_cpu.resize(cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    s.cpu_busy += c.Cpu(cpu[i].tokens);
    s.cpu_tokens += cpu[i].tokens;
    s.on_cpu[i] = cpu[i].expert;
  }
  s.cpu_end += s.cpu_busy;
  s.makespan = cpu.empty() ? s.gpu_end : std::max(s.gpu_end, s.cpu_end);
}

}  // namespace simrun
