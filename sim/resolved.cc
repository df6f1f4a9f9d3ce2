#include "sim/resolved.h"

#include <algorithm>
#include <cmath>

#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include "base/paths.h"
#include "hw/cost/operator_params.h"
#include "hw/tiers.h"
#include "models/lowering.h"
#include "schedulers/waiting_queue.h"
#include "sim/placement_search.h"
#include "sim/expert_routing.h"
#include "sim/routed_experts.h"

namespace simrun {
namespace {

// The place of a setting, or of the nearest section above it that the file has.
SourceLocation PlaceOf(const YamlNode& root, std::string_view path) {
  const YamlNode* node = &root;
  SourceLocation where = root.location();
  while (!path.empty()) {
    const size_t dot = path.find('.');
    node = node->Find(path.substr(0, dot));
    if (node == nullptr) break;
    where = node->location();
    if (dot == std::string_view::npos) break;
    path.remove_prefix(dot + 1);
  }
  return where;
}

// "what; hint" of a library error, without repeating the place that the caller adds.
std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

DType DTypeOr(const std::optional<std::string>& name, DType fallback) {
  if (!name) return fallback;
  const absl::StatusOr<DType> parsed = ParseDType(*name);
  return parsed.ok() ? *parsed : fallback;  // a bad name was reported when the section was read
}

// KV cache and activations of a model whose weights come in a narrow format run in 16 bits.
DType SixteenBit(DType native) { return native == DType::kFp32 || native == DType::kFp16 ? native : DType::kBf16; }

// An engine that is told which kernels to take refuses those that cannot run the experts.
void CheckMoeBackend(const YamlNode& root, const ResolvedScenario& r, const Catalog& catalog, Problems* problems) {
  constexpr const char* kPath = "engine.moe_backend";
  const auto fail = [&](const std::string& what, const std::string& hint) { problems->Add(PlaceOf(root, kPath), kPath, what, hint); };
  const bool triton = r.engine.moe_backend == "triton";
  if (!r.model.moe) {
    fail(fmt::format("{} has no experts", r.model.name), "leave it out");
  } else if (BitsPerElement(r.plan.activations) < 16 || (triton ? r.plan.weights != DType::kMxfp4 : BitsPerElement(r.plan.weights) >= 8)) {
    fail(fmt::format("{} kernels take {} weights under 16-bit activations, the experts are {} under {}", r.engine.moe_backend,
                     triton ? "mxfp4" : "4-bit", DTypeName(r.plan.weights), DTypeName(r.plan.activations)),
         "leave it out, or set plan.weights");
  } else if (triton) {
    const auto operators = SharedOperatorParams(r.machine.gpu, catalog);
    const OperatorParams* p = operators.ok() ? (*operators)->Find("moe", "mxfp4a16", r.engine.backend) : nullptr;
    if (p == nullptr || p->dtype.empty()) {
      fail(fmt::format("no times of triton kernels for {}; OpenAI's run on Hopper and Blackwell data-centre GPUs", r.machine.gpu.name), "use marlin");
    }
  }
}

// The smallest tp (power of two) with which the model fits, 0 when none up to 64 does.
int FittingTp(const ResolvedScenario& r) {
  ParallelPlan plan = r.plan;
  for (int tp = plan.tp * 2; tp <= 64; tp *= 2) {
    plan.tp = tp;
    if (plan.ep > 1) plan.ep = tp * plan.dp;
    Problems problems;
    CheckPlan(r.model, plan, {}, &problems);
    if (!problems.empty()) continue;
    const MemoryPlan m = PlanMemory(r.model, plan, r.machine, r.engine, r.params.limits, r.params.max_model_len, 0);
    if (m.kv_blocks > m.state_blocks) return tp;
  }
  return 0;
}

// A static batch is kept whole: when its KV cache does not fit beside the weights it goes to host memory, where the CPU
// attends over it, or else to drives. Takes the room it needs.
std::optional<PlacementRule> KvElsewhere(const ResolvedScenario& r, PlacementRoom* room) {
  const double tokens = static_cast<double>(r.params.limits.max_num_seqs) * static_cast<double>(r.params.max_model_len);
  const Bytes needed(KvPerToken(r.model, r.plan, 0) * tokens);
  room->kv = needed;
  if (needed <= room->gpu * 0.5) return std::nullopt;
  const Bytes held(KvPerTokenOnce(r.model, r.plan) * tokens * r.plan.dp);
  for (const TierKind tier : {TierKind::kDram, TierKind::kCxl, TierKind::kNvme}) {
    Bytes& free = room->tiers[static_cast<size_t>(tier)];
    if (free < held) continue;
    free -= held;
    PlacementRule rule;
    rule.tensors = "kv";
    rule.tier = std::string(TierName(tier));
    rule.use = tier == TierKind::kNvme ? "stream" : "compute";
    room->kv = tier == TierKind::kNvme ? needed * (2.0 / static_cast<double>(r.model.layers)) : Bytes(0);
    return rule;
  }
  room->kv = std::min(needed, room->gpu * 0.25);
  return std::nullopt;
}

// Everything that lies outside GPU memory, and the GPU's part of such a plan.
void CheckPlacedFit(const YamlNode& root, ResolvedScenario* r, Problems* problems) {
  const MemoryPlan& m = r->memory;
  const SourceLocation where = PlaceOf(root, "plan.placement");
  const Bytes needed = m.weights + m.activations + m.reserve;
  if (needed > m.usable) {
    problems->Add(where, "plan.placement",
                  fmt::format("does not fit on the gpu: {} of weights and buffers, {} of activations and {} for the runtime are {} "
                              "more than the {} the engine may use",
                              Human(m.weights), Human(m.activations), Human(m.reserve), Human(needed - m.usable), Human(m.usable)),
                  r->config.plan.placement.policy == "auto"
                      ? fmt::format("the other memories are full: give the engine {} more, with hardware.host_memory, cxl or nvme, or use more GPUs",
                                    Human((needed - m.usable) * r->plan.gpus_per_engine()))
                      : fmt::format("keep {} less there{}", Human(needed - m.usable),
                                    m.window > Bytes(0) ? fmt::format(" (buffers of plan.placement.window and scheduler.experts take {})", Human(m.window)) : ""));
  }
  for (const TierPlan& t : m.tiers) {
    const Bytes kv = t.kv_block * static_cast<double>(m.kv_blocks);
    const Bytes over = t.weights + kv - t.capacity;
    // To the byte: shares that fill a tier are rounded.
    if (over <= Bytes(1) && (m.kv_blocks > 0 || needed > m.usable)) continue;
    const char* setting = t.tier == TierKind::kDram ? "hardware.host_memory" : t.tier == TierKind::kCxl ? "hardware.cxl"
                          : t.tier == TierKind::kNvme ? "hardware.nvme" : "hardware.remote_memory";
    const Bytes least = std::max(over, t.kv_block);
    problems->Add(where, "plan.placement",
                  fmt::format("does not fit on {}: {} of weights and {} of KV cache in {} per engine", TierName(t.tier), Human(t.weights),
                              Human(kv), Human(t.capacity)),
                  fmt::format("it needs {} more: raise {}, place less there, or use fewer engines per host", Human(least), setting));
    return;
  }
  if (m.kv_blocks == 0 && needed <= m.usable && problems->empty()) {
    problems->Add(where, "plan.placement", fmt::format("leaves no room for the KV cache on the gpu: {} of {} are taken", Human(needed), Human(m.usable)),
                  "place fewer weights there, or the KV cache elsewhere");
  }
}

// Rules that the user wrote, as a list or below `rules`; those of a policy or an engine profile have the place of the placement.
PlaceOfRule PlacesOfRules(const YamlNode& root) {
  return [&root](size_t rule, std::string_view setting) {
    const YamlNode* rules = root.Get("plan.placement.rules");
    if (rules == nullptr) rules = root.Get("plan.placement");
    if (rules == nullptr || !rules->IsSequence() || rule >= rules->items().size()) return PlaceOf(root, "plan.placement");
    const YamlNode& node = rules->items()[rule];
    const YamlNode* at = node.Find(setting);
    return (at != nullptr ? at : &node)->location();
  };
}

// Settings of a placement that contradict one another or the machine.
void CheckPlacementSettings(const YamlNode& root, const ResolvedScenario& r, Problems* problems) {
  const PlacementConfig& given = r.config.plan.placement;
  const std::string path = "plan.placement";
  if (!given.rules.empty() && given.policy != "engine") {
    problems->Add(PlaceOf(root, path + ".policy"), path + ".policy", fmt::format("\"{}\" and rules are two placements", given.policy), "use one of the two");
  }
  if (given.objective != PlacementConfig().objective && given.policy != "optimize") {
    problems->Add(PlaceOf(root, path + ".objective"), path + ".objective", "only a search has one", "set plan.placement.policy: optimize, or leave it out");
  }
  if (r.placement.resident) return;
  if (r.machine.cpu_only) {
    problems->Add(PlaceOf(root, path), path, "the CPU is the device: all tensors lie in its memory", "leave it out, or use hardware.gpu");
    return;
  }
  // The tensors of a stage cross from one host's memory.
  MemorySystemOptions memory;
  memory.gpus = r.plan.tp * r.plan.dp;
  for (int stage = 0; memory.gpus > 1 && stage < r.plan.replicas * r.plan.pp; ++stage, memory.first_gpu += memory.gpus) {
    FlowNetwork network;
    if (const auto system = MemorySystem::Create(r.machine, memory, &network); !system.ok()) {
      problems->Add(PlaceOf(root, path), path, MessageOf(system.status()));
      return;
    }
    if ((memory.first_gpu + memory.gpus) % r.machine.gpus_per_node == 0) return;  // the next node is like this one
  }
}

// For experts that are followed one by one.
void PrepareRouting(ResolvedScenario* r) {
  if (!r->model.moe) return;
  if (!r->routing) r->routing = *ExpertRouting::Make(nullptr, r->model, "");  // reads nothing
  r->routing->Prepare(static_cast<uint64_t>(r->config.seed));
}

// What runs the experts that tokens choose outside GPU memory.
void ChooseExpertPolicy(const YamlNode& root, ResolvedScenario* r, Problems* problems) {
  const std::string path = "scheduler.experts";
  bool computed = false, cached = false;
  for (const LayerPlacement& l : r->placement.layers) {
    computed = computed || ShareOf(l.routed_experts, TensorUse::kCompute) > 0;
    cached = cached || ShareOf(l.routed_experts, TensorUse::kCache) > 0;
  }
  ExpertsConfig& e = r->config.scheduler.experts;
  if (!e.policy && cached && !computed) {
    e.policy = "stream";
    PrepareRouting(r);
  }
  if (!e.policy) {
    if (cached) {
      problems->Add(PlaceOf(root, path), path, "some experts are computed where they lie, others are cached: nothing says how a layer is shared",
                    "set scheduler.experts.policy: stream, and all cross when they are chosen, or use compute for all");
    }
    const ExpertsConfig usual;
    for (const auto& [setting, chosen] : {std::pair("cache", e.cache != usual.cache), std::pair("score_rate", e.score_rate != usual.score_rate),
                                          std::pair("prefetch", e.prefetch != usual.prefetch),
                                          std::pair("prefetch_layers", e.prefetch_layers != usual.prefetch_layers),
                                          std::pair("prefetch_buffer", e.prefetch_buffer.has_value()),
                                          std::pair("predictor_accuracy", e.predictor_accuracy != usual.predictor_accuracy),
                                          std::pair("residents", e.residents != usual.residents)}) {
      if (!chosen) continue;
      const std::string at = path + "." + setting;
      problems->Add(PlaceOf(root, at), at, "experts are not followed one by one", "set scheduler.experts.policy");
    }
    return;
  }
  if (!r->model.moe) {
    problems->Add(PlaceOf(root, path), path, fmt::format("{} has no experts", r->model.name), "leave it out");
  } else if (!computed && !cached && (r->config.plan.placement.policy == "auto" || r->config.plan.placement.policy == "optimize")) {
    e.policy.reset();
    r->warnings.push_back("plan.placement leaves no expert that tokens choose outside GPU memory: scheduler.experts has nothing to do");
  } else if (!computed && !cached) {
    problems->Add(PlaceOf(root, path), path, "all experts lie in GPU memory or are streamed whole",
                  "place some with plan.placement: [{tensors: routed_experts, share: 0.75, tier: dram, use: compute}]");
  } else if (const auto policy = BuiltInExpertPolicies().Find(*e.policy); cached && policy.ok() && (*policy)()->computes()) {
    problems->Add(PlaceOf(root, path + ".policy"), path + ".policy", fmt::format("\"{}\" runs experts on the CPU, plan.placement only caches them", *e.policy),
                  "set stream, or use: compute in the placement");
  }
}

// KV blocks of prompts that host memory keeps for others (scheduler.kv_offloading_size).
void OffloadPrefixes(const YamlNode& root, ResolvedScenario* r, Problems* problems) {
  const std::string path = "scheduler.kv_offloading_size";
  const SourceLocation where = PlaceOf(root, path);
  const Bytes size = r->config.scheduler.kv_offloading_size;
  EngineParams& p = r->params;
  if (!p.prefix_caching) problems->Add(where, path, "only prefix caching looks there", "set scheduler.prefix_caching: true");
  if (r->machine.cpu_only) {
    problems->Add(where, path, "the CPU is the device: its memory has the KV cache", "raise engine.gpu_memory_utilization instead");
    return;
  }
  if (std::any_of(r->placement.kv.begin(), r->placement.kv.end(), [](const TensorPart& part) { return part.tier != TierKind::kGpu; })) {
    problems->Add(where, path, "plan.placement puts the KV cache itself outside GPU memory", "use one of the two");
  }
  const Bytes block = KvBlockOfRank(r->model, r->plan, p.limits.block_size);
  p.host_prefix_blocks = block > Bytes(0) ? static_cast<int64_t>(size / (block * static_cast<double>(r->plan.dp))) : 0;
  if (p.host_prefix_blocks == 0) {
    problems->Add(where, path, fmt::format("{} hold no KV block of {} for each attention rank", Human(size), Human(block)), fmt::format("use {} or more", Human(block * static_cast<double>(r->plan.dp))));
  }
  Bytes placed(0);
  for (const TierPlan& t : r->memory.tiers) placed += t.tier == TierKind::kDram ? t.weights : Bytes(0);
  const Bytes room = EngineShareOf(TiersOf(r->machine)[static_cast<size_t>(TierKind::kDram)], r->engines_per_host);
  if (size + placed > room) {
    problems->Add(where, path, fmt::format("{} do not fit into the {} of host memory that an engine may use{}", Human(size), Human(room),
                                           placed > Bytes(0) ? fmt::format(" beside {} of weights", Human(placed)) : ""),
                  fmt::format("use {} or less, or raise hardware.host_memory", Human(std::max(Bytes(0), room - placed))));
  }
  p.fetch_seconds_per_block = r->memory.kv_block.value() / (r->machine.host_link.bandwidth.value() * r->machine.host_link.efficiency);
  p.fetch_cheapest = r->config.scheduler.kv_offloading_fetch == "auto";
  if (!r->placement.resident) {
    r->warnings.push_back("KV blocks fetched from host memory (scheduler.kv_offloading_size) and tensors that cross the same link are taken not to "
                          "slow one another down");
  }
}

void CheckFit(const YamlNode& root, ResolvedScenario* r, Problems* problems) {
  if (!r->placement.resident) return CheckPlacedFit(root, r, problems);
  const MemoryPlan& m = r->memory;
  const SourceLocation where = PlaceOf(root, "plan");
  const Bytes needed = m.weights + m.activations + m.reserve;
  if (m.kv_blocks > m.state_blocks && needed <= m.usable) return;
  std::string hint;
  if (const int tp = FittingTp(*r); tp > 0) {
    hint = fmt::format("it fits with plan.tp: {}", tp);
  } else {
    hint = "use more GPUs per engine (plan.tp, plan.pp), a narrower plan.weights, or a GPU with more memory";
  }
  problems->Add(where, "plan",
                fmt::format("does not fit: each GPU needs {} for weights, {} for activations and {} for the runtime, and the "
                            "engine may use {} of {}{}",
                            Human(m.weights), Human(m.activations), Human(m.reserve), Human(m.usable), Human(m.gpu),
                            needed > m.usable ? fmt::format(", {} too little", Human(needed - m.usable))
                            : m.state_blocks > 0 ? fmt::format(": what is left does not hold the states of one sequence, {}", Human(m.kv_block * static_cast<double>(m.state_blocks)))
                                                 : ": nothing is left for the KV cache"),
                hint);
}

}  // namespace

void PlanMemoryOf(ResolvedScenario* r) {
  const EngineParams& p = r->params;
  const int64_t fixed = r->config.engine.kv_blocks.value_or(0);
  if (r->placement.resident) {
    r->memory = PlanMemory(r->model, r->plan, r->machine, r->engine, p.limits, p.max_model_len, fixed);
    return;
  }
  r->placement.expert_buffers = ExpertBuffers(r->config.scheduler.experts, r->model);
  r->placement.experts_move = ExpertsMove(r->config.scheduler.experts);
  r->memory = PlanPlacedMemory(r->model, r->plan, r->machine, r->engine, p.limits, p.max_model_len, fixed, r->placement, r->engines_per_host);
}

ResolvedScenario Resolve(const ScenarioConfig& config, const YamlNode& root, const std::string& base_dir,
                         const Catalog& catalog, Problems* problems) {
  ResolvedScenario r;
  r.config = config;

  bool model_ok = false;
  if (config.model.empty()) {
    if (root.Find("model") != nullptr) problems->Add(PlaceOf(root, "model"), "model", "is empty", "give a catalogue name or the path of a config.json");
  } else {
    absl::StatusOr<ModelSpec> model = LoadModel(config.model, catalog, base_dir);
    if (model.ok()) {
      r.model = *std::move(model);
      model_ok = true;
    } else {
      problems->Add(PlaceOf(root, "model"), "model", MessageOf(model.status()));
    }
  }

  const size_t before_machine = problems->size();
  if (root.Find("hardware") != nullptr) r.machine = BuildMachine(LocateFiles(config.hardware, base_dir), catalog, PlaceOf(root, "hardware"), problems);
  const bool machine_ok = root.Find("hardware") != nullptr && problems->size() == before_machine;

  ParallelPlan& plan = r.plan;
  plan.tp = config.plan.tp;
  plan.pp = config.plan.pp;
  plan.dp = config.plan.dp;
  plan.ep = config.plan.ep;
  plan.replicas = config.plan.replicas;
  plan.ffn_tp = static_cast<int>(config.plan.ffn_tp.value_or(0));
  plan.stage_layers.assign(config.plan.layers_per_stage.begin(), config.plan.layers_per_stage.end());
  if (model_ok) {
    if (!r.model.moe && plan.dp > 1 && !plan.separate_ffn()) {
      // Attention replicas that share nothing are engines of their own.
      plan.replicas *= plan.dp;
      plan.dp = 1;
    }
    plan.weights = DTypeOr(config.plan.weights, r.model.expert_dtype.value_or(r.model.native_dtype));
    const DType wide = SixteenBit(r.model.native_dtype);
    // NVFP4 checkpoints quantise their activations too; on devices without FP4 units engines widen the weights instead.
    const bool fp4_units = machine_ok && r.machine.gpu.peak[static_cast<size_t>(DType::kNvfp4)].value() > 0;
    const bool multiplies_narrow = plan.weights == DType::kFp8 || plan.weights == DType::kInt8 || (plan.weights == DType::kNvfp4 && fp4_units);
    plan.activations = DTypeOr(config.plan.activations, multiplies_narrow ? plan.weights : wide);
    plan.kv_cache = DTypeOr(config.plan.kv_cache, wide);
    if (config.plan.experts_active) {
      if (!r.model.moe) {
        problems->Add(PlaceOf(root, "plan.experts_active"), "plan.experts_active", fmt::format("{} has no experts", r.model.name));
      } else if (*config.plan.experts_active > r.model.moe->experts) {
        problems->Add(PlaceOf(root, "plan.experts_active"), "plan.experts_active",
                      fmt::format("{} is more than the {} experts of a layer", *config.plan.experts_active, r.model.moe->experts));
      } else {
        r.model.moe->top_k = *config.plan.experts_active;
      }
    }
    CheckPlan(r.model, plan, PlaceOf(root, "plan"), problems);
  }
  if (machine_ok) {
    if (r.machine.gpu_count == 0) r.machine.gpu_count = plan.gpus();
    if (plan.gpus() > r.machine.gpu_count) {
      problems->Add(PlaceOf(root, "plan"), "plan",
                    fmt::format("needs {} GPUs (tp {} x pp {} x dp {} x replicas {}) but the hardware has {}", plan.gpus(), plan.tp,
                                plan.pp, plan.dp, plan.replicas, r.machine.gpu_count),
                    config.hardware.node.empty() ? "raise hardware.count or leave it out" : "raise hardware.nodes or use fewer GPUs");
    } else if (plan.gpus() < r.machine.gpu_count) {
      r.warnings.push_back(fmt::format("{} of {} GPUs of the hardware are not used by the plan and not charged",
                                       r.machine.gpu_count - plan.gpus(), r.machine.gpu_count));
    }
  }

  absl::StatusOr<EngineProfile> profile = LoadEngineProfile(LocateEntry(base_dir, config.engine.profile), catalog);
  if (!profile.ok()) {
    problems->Add(PlaceOf(root, "engine.profile"), "engine.profile", MessageOf(profile.status()));
  }
  if (const YamlNode* workload = root.Find("workload")) ValidateWorkload(config.workload, "workload", workload, problems);
  if (model_ok && config.workload.routing && problems->empty()) {
    absl::StatusOr<ExpertRouting> routing = ExpertRouting::Make(&*config.workload.routing, r.model, base_dir);
    if (routing.ok()) {
      r.model.moe->popularity_cv = routing->popularity_cv();
      r.model.moe->popularity_source = routing->detail();
      r.routing = *std::move(routing);
    } else {
      // "setting: what"
      const std::string message = MessageOf(routing.status());
      const size_t colon = message.find(": ");
      const std::string path = "workload.routing" + message.substr(0, colon);
      problems->Add(PlaceOf(root, path), path, message.substr(colon + 2));
    }
  }
  if (!profile.ok() || !model_ok || !machine_ok) return r;
  if (config.scheduler.experts.policy && problems->empty()) PrepareRouting(&r);

  const std::string& vendor = r.machine.gpu.vendor;
  if (!vendor.empty() && !profile->vendors.empty() &&
      std::find(profile->vendors.begin(), profile->vendors.end(), vendor) == profile->vendors.end()) {
    r.warnings.push_back(fmt::format("{} is made for GPUs of {}, not of {}: its scheduler and host times are combined with this GPU nevertheless",
                                     profile->name, absl::StrJoin(profile->vendors, ", "), vendor));
  }
  r.engine = ApplyEngineConfig(*std::move(profile), config.engine, r.machine, int64_t{plan.tp} * plan.dp);
  if (config.engine.moe_backend) {
    CheckMoeBackend(root, r, catalog, problems);
  } else if (r.engine.mxfp4_by_fp8 && !config.plan.activations && plan.weights == DType::kMxfp4 &&
             r.machine.gpu.peak[static_cast<size_t>(DType::kMxfp4)].value() > 0) {
    plan.activations = DType::kFp8;
  }
  if (!r.engine.sliding_windows && r.model.attention.pattern == "sliding") {
    r.model.attention.pattern = "full";
    r.model.attention.window = r.model.attention.full_every = 0;
  }
  if (r.model.has_linear() && r.engine.state_pool && !r.engine.state_pool->dtype.empty()) {
    if (const auto dtype = ParseDType(r.engine.state_pool->dtype); dtype.ok()) r.model.attention.linear->state = *dtype;
  }
  const SchedulerConfig& s = config.scheduler;
  r.policy = s.policy.value_or(r.engine.policy);
  EngineParams& p = r.params;
  constexpr int64_t kAnyLength = int64_t{1} << 24;
  p.max_model_len = s.max_model_len.value_or(s.allow_longer_context ? kAnyLength : r.model.max_positions);
  if (s.max_model_len && *s.max_model_len > r.model.max_positions && !s.allow_longer_context) {
    problems->Add(PlaceOf(root, "scheduler.max_model_len"), "scheduler.max_model_len",
                  fmt::format("{} is more than the model's context of {} tokens", *s.max_model_len, r.model.max_positions),
                  "set scheduler.allow_longer_context when the engine was told to take it");
  }
  p.limits.max_num_seqs = s.max_num_seqs.value_or(r.engine.max_num_seqs);
  p.limits.max_num_batched_tokens = s.max_num_batched_tokens.value_or(r.engine.max_num_batched_tokens);
  p.limits.block_size = s.block_size.value_or(r.engine.block_size);
  p.limits.prompt_wait_steps = s.prompt_wait_steps;
  p.limits.prompt_wait_fill = s.prompt_wait_fill;
  if (p.limits.max_num_batched_tokens < p.limits.max_num_seqs && (r.policy == "chunked-prefill" || r.policy == "orca")) {
    if (s.max_num_seqs) {
      problems->Add(PlaceOf(root, "scheduler"), "scheduler.max_num_batched_tokens",
                    fmt::format("{} is less than max_num_seqs {}: not every running sequence could generate its token in a step",
                                p.limits.max_num_batched_tokens, p.limits.max_num_seqs),
                    fmt::format("use at least {}, or lower max_num_seqs", p.limits.max_num_seqs));
    } else {
      p.limits.max_num_seqs = p.limits.max_num_batched_tokens;
    }
  }
  if (const absl::StatusOr<QueueOrder> order = ParseQueueOrder(s.queue_order); order.ok()) p.queue_order = *order;
  // States are those of the last token: engines that cache prefixes store further ones along the way, which is not modelled.
  p.prefix_caching = s.prefix_caching.value_or(r.engine.prefix_caching && !r.model.has_linear());
  if (p.prefix_caching && r.model.has_linear()) {
    problems->Add(PlaceOf(root, "scheduler.prefix_caching"), "scheduler.prefix_caching",
                  fmt::format("is not modelled for the linear attention of {}", r.model.name), "set it to false, or leave it out");
  }
  p.preemption = s.preemption == "swap" ? Preemption::kSwap : s.preemption == "auto" ? Preemption::kCheapest : Preemption::kRecompute;
  p.lanes = static_cast<int>(s.micro_batches.value_or(plan.pp));
  p.plans_ahead = r.engine.overlap && p.lanes == 1;
  p.holds_tokens = r.engine.holds_tokens && r.engine.overlap && p.lanes == 1;
  p.ranks = plan.dp;
  for (int stage = 0; stage < plan.pp; ++stage) p.window = std::max(p.window, KvBytesPerGpu(r.model, plan, stage).window);
  if (!problems->empty()) return r;

  const int gpus_per_host = std::max(1, r.machine.gpus_per_node / std::max(1, r.machine.hosts_per_node));
  const int stage = plan.tp * plan.dp;
  r.stages_per_host = std::clamp(gpus_per_host / stage, 1, plan.replicas * plan.pp);
  r.engines_per_host = gpus_per_host >= plan.gpus_per_engine()
                           ? std::min(gpus_per_host / plan.gpus_per_engine(), plan.replicas)
                           : 1.0 / std::ceil(static_cast<double>(plan.gpus_per_engine()) / gpus_per_host);
  PlacementConfig placement = config.plan.placement;
  if (placement.rules.empty() && placement.policy == "engine") {
    placement.rules = r.engine.placement.rules;
    placement.policy = r.engine.placement.policy == "engine" ? "gpu" : r.engine.placement.policy;
    if (!placement.window) placement.window = r.engine.placement.window;
    if (!placement.token_groups) placement.token_groups = r.engine.placement.token_groups;
  }
  const auto auto_rules = [&] {
    PlacementRoom room = RoomFor(r.model, plan, r.machine, r.engine, p.limits, p.max_model_len, r.engines_per_host);
    room.gpu -= Bytes(ExpertBytes(r.model, plan, true)) * ExpertBuffers(config.scheduler.experts, r.model);
    const std::optional<PlacementRule> kv = r.policy == "static" ? KvElsewhere(r, &room) : std::nullopt;
    std::vector<PlacementRule> rules = AutoRules(r.model, plan, room, static_cast<int>(placement.window.value_or(2)));
    if (kv) rules.insert(rules.begin(), *kv);
    return rules;
  };
  if (placement.rules.empty() && placement.policy == "auto") placement.rules = auto_rules();
  if (placement.rules.empty() && placement.policy == "optimize") {
    const size_t before = problems->size();
    r.placement_choice = OptimizePlacement(r, placement, {{}, auto_rules(), r.engine.placement.rules}, catalog, base_dir,
                                           PlaceOf(root, "plan.placement"), problems);
    if (problems->size() > before) return r;
    placement.rules = r.placement_choice->rules;
  }
  r.placement = ResolvePlacement(placement, placement.rules, r.model, plan, r.machine, "plan.placement", PlacesOfRules(root), problems);
  CheckPlacementSettings(root, r, problems);
  if (!problems->empty()) return r;
  ChooseExpertPolicy(root, &r, problems);
  PlanMemoryOf(&r);
  CheckFit(root, &r, problems);
  p.kv_blocks = r.memory.kv_blocks;
  p.limits.state_blocks = r.memory.state_blocks;
  if (r.memory.state_sequences > 0) p.limits.max_num_seqs = std::min(p.limits.max_num_seqs, r.memory.state_sequences);
  p.limits.watermark_blocks = static_cast<int64_t>(std::ceil(s.watermark.value_or(r.engine.watermark) * static_cast<double>(p.kv_blocks)));
  const double block_bytes = r.memory.kv_block.value();
  if (block_bytes > 0 && p.preemption != Preemption::kRecompute) {
    p.swap_blocks = static_cast<int64_t>(s.swap_space.value() / block_bytes);
    p.swap_seconds_per_block = block_bytes / (r.machine.host_link.bandwidth.value() * r.machine.host_link.efficiency);
  }
  if (s.kv_offloading_size > Bytes(0) && problems->empty()) OffloadPrefixes(root, &r, problems);
  r.front_end = SimTime::From(r.engine.front_end);
  r.front_end_token = SimTime::From(r.engine.front_end_token);
  r.closed_loop = config.workload.concurrency.has_value() || config.workload.static_batch.has_value();
  return r;
}

}  // namespace simrun
