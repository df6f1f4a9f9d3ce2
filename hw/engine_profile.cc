#include "hw/engine_profile.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include "base/paths.h"

namespace simrun {
namespace {

template <class T, class U>
void Replace(const std::optional<T>& given, U* value) {
  if (given.has_value()) *value = *given;
}

}  // namespace

std::vector<std::string> MoeBackendNames() { return {"marlin", "triton"}; }

namespace {

// `others`: sources of the profile `like`. Those of values that `profile`, whose own stand in `node`, takes over are its own now.
// What was found for another engine is at best transferred to this one.
void TakeOverSources(const std::string& like, std::vector<EngineSource> others, const YamlNode& node, EngineProfile* profile) {
  for (EngineSource& s : others) {
    if (node.Find(s.of) != nullptr) continue;
    if (std::any_of(profile->sources.begin(), profile->sources.end(), [&](const EngineSource& own) { return own.of == s.of; })) continue;
    if (s.provenance == "calibrated" || s.provenance == "measured") {
      s.provenance = "transferred";
      if (s.confidence == "A") s.confidence = "B";
    }
    s.source = fmt::format("as {}: {}", like, s.source);
    profile->sources.push_back(std::move(s));
  }
}

// Visits a variant that was taken over: what the profile in `node` says itself holds on every machine.
struct ForgetStated {
  const YamlNode& node;
  template <class T>
  void Field(const char* name, std::optional<T>& value, const ParamInfo&) const {
    if (node.Find(name) != nullptr) value.reset();
  }
};

// `outer`: the profiles that are being read because they are like this one.
absl::StatusOr<EngineProfile> Load(std::string_view name, const Catalog& catalog, std::vector<std::string> outer) {
  SIMRUN_ASSIGN_OR_RETURN(std::string canonical, catalog.Resolve("engines", name));
  SIMRUN_ASSIGN_OR_RETURN(YamlNode node, catalog.Load("engines", canonical));
  EngineProfile profile;
  std::string base;
  std::vector<EngineSource> sources;   // of the base
  std::vector<EngineVariant> variants;
  Problems problems;
  if (const YamlNode* like = node.IsMap() ? node.Find("like") : nullptr; like != nullptr && like->IsScalar() && !like->text().empty()) {
    outer.push_back(canonical);
    const std::string other = Beside(canonical, like->text());
    if (std::find(outer.begin(), outer.end(), other) != outer.end()) {
      problems.Add(like->location(), "like", fmt::format("engine profiles are like one another in a circle: {} -> {}", absl::StrJoin(outer, " -> "), like->text()));
      return problems.ToStatus();
    }
    absl::StatusOr<EngineProfile> read = Load(other, catalog, outer);
    if (!read.ok() && read.status().code() == absl::StatusCode::kNotFound) {
      problems.Add(like->location(), "like", std::string(read.status().message()));
      return problems.ToStatus();
    }
    if (!read.ok()) return read.status();
    profile = *std::move(read);
    base = profile.name;
    sources = std::exchange(profile.sources, {});
    variants = std::exchange(profile.variants, {});
    profile.aliases.clear(), profile.description.clear(), profile.versions.clear(), profile.fitted_on.clear();
  }
  ReadParams(node, "", &problems, &profile);
  if (!problems.empty()) return problems.ToStatus();
  TakeOverSources(base, std::move(sources), node, &profile);
  for (EngineVariant& v : variants) {
    ForgetStated forget{node};
    v.Describe(forget);
  }
  profile.variants.insert(profile.variants.begin(), variants.begin(), variants.end());
  profile.name = EntryName(canonical);
  profile.like.clear();   // its values are this one's now
  return profile;
}

}  // namespace

absl::StatusOr<EngineProfile> LoadEngineProfile(std::string_view name, const Catalog& catalog) {
  const std::string kept_as(name);
  if (const auto kept = catalog.Kept<EngineProfile>(kept_as)) return *kept;
  SIMRUN_ASSIGN_OR_RETURN(EngineProfile profile, Load(name, catalog, {}));
  catalog.Keep(kept_as, std::make_shared<const EngineProfile>(profile));
  return profile;
}

Bytes WorkingMemory::Of(int64_t tokens, int64_t graph_tokens, int64_t gpus, int64_t ranks) const {
  const double graph = static_cast<double>(graph_tokens);
  Bytes sum = fixed + per_token * static_cast<double>(std::max(tokens, least_tokens)) + per_graph_token * graph +
              per_gpu * static_cast<double>(gpus);
  if (ranks > 1) sum += per_rank_graph_token * graph * static_cast<double>(ranks);
  return sum;
}

EngineProfile ApplyEngineConfig(EngineProfile profile, const EngineConfig& config, const Machine& machine, int64_t ranks) {
  for (const EngineVariant& v : profile.variants) {
    if (v.architecture && *v.architecture != machine.gpu.architecture) continue;
    if (v.memory_below && machine.gpu.memory >= *v.memory_below) continue;
    if (v.ranks_below && ranks >= *v.ranks_below) continue;
    if (v.server && *v.server != config.server) continue;
    Replace(v.front_end, &profile.front_end);
    Replace(v.step_host, &profile.step_host);
    Replace(v.post_step, &profile.post_step);
    Replace(v.launch, &profile.launch);
    Replace(v.gpu_time_factor, &profile.gpu_time_factor);
    Replace(v.moe_backend, &profile.moe_backend);
    Replace(v.fused_all_reduce, &profile.fused_all_reduce);
    Replace(v.max_num_seqs, &profile.max_num_seqs);
    Replace(v.max_num_batched_tokens, &profile.max_num_batched_tokens);
    Replace(v.graph_max_tokens, &profile.graph_max_tokens);
    Replace(v.runtime_reserve, &profile.runtime_reserve);
  }
  if (config.server) {
    profile.step_host += profile.server_step;
  } else {
    profile.front_end = profile.front_end_token = Seconds(0);
    // No client waits for each token: what answering takes runs beside the GPU like the preparation of the next step.
    if (config.overlap.value_or(profile.overlap)) profile.sequence_host += std::exchange(profile.post_sequence, Seconds(0));
  }
  const double speed = machine.host.single_thread > 0 ? machine.host.single_thread : 1.0;
  const double slower = profile.reference_single_thread / speed;
  for (Seconds* host : {&profile.step_host, &profile.sequence_host, &profile.token_host, &profile.launch,
                        &profile.post_step, &profile.post_sequence, &profile.front_end, &profile.front_end_token}) {
    *host *= slower;
  }
  profile.reference_single_thread = speed;
  // A profile without launch cost has no host at all.
  if (profile.launch.value() > 0) profile.launch += machine.host.kernel_launch;

  Replace(config.gpu_memory_utilization, &profile.gpu_memory_utilization);
  profile.share_given = config.gpu_memory_utilization.has_value();
  Replace(config.runtime_reserve, &profile.runtime_reserve);
  Replace(config.cuda_graphs, &profile.cuda_graphs);
  if (!config.graph_sizes.empty()) profile.graph_sizes = config.graph_sizes;
  if (!profile.graph_sizes.empty()) {
    std::sort(profile.graph_sizes.begin(), profile.graph_sizes.end());
    profile.graph_max_tokens = profile.graph_sizes.back();
  }
  Replace(config.graph_max_tokens, &profile.graph_max_tokens);
  Replace(config.overlap, &profile.overlap);
  Replace(config.custom_all_reduce, &profile.custom_all_reduce);
  Replace(config.fused_all_reduce, &profile.fused_all_reduce);
  Replace(config.moe_backend, &profile.moe_backend);
  Replace(config.step_host, &profile.step_host);
  Replace(config.sequence_host, &profile.sequence_host);
  Replace(config.launch, &profile.launch);
  Replace(config.post_step, &profile.post_step);
  Replace(config.post_sequence, &profile.post_sequence);
  Replace(config.front_end, &profile.front_end);
  Replace(config.sampling_passes, &profile.sampling_passes);
  Replace(config.gpu_time_factor, &profile.gpu_time_factor);
  Replace(config.expert_imbalance, &profile.expert_imbalance);
  Replace(config.cpu_operator, &profile.cpu_operator);
  Replace(config.cpu_memory_efficiency, &profile.cpu_memory_efficiency);
  Replace(config.cpu_compute_efficiency, &profile.cpu_compute_efficiency);
  Replace(config.link_efficiency, &profile.link_efficiency);
  Replace(config.pinned_memory, &profile.pinned_memory);
  return profile;
}

int64_t GraphTokens(const EngineProfile& profile, int64_t tokens) {
  if (!profile.graph_sizes.empty()) {
    const auto size = std::lower_bound(profile.graph_sizes.begin(), profile.graph_sizes.end(), tokens);
    return size == profile.graph_sizes.end() || *size > profile.graph_max_tokens ? tokens : *size;
  }
  if (profile.graph_step <= 0 || tokens > profile.graph_max_tokens) return tokens;
  int64_t padded = tokens;
  if (tokens <= 2) {
    padded = tokens;
  } else if (tokens <= 4) {
    padded = 4;
  } else {
    padded = (tokens + profile.graph_step - 1) / profile.graph_step * profile.graph_step;
  }
  return std::min(padded, profile.graph_max_tokens);
}

}  // namespace simrun
