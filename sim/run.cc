#include "sim/run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "base/params.h"
#include "hw/cost/operator_params.h"
#include "models/lowering.h"
#include "models/model_spec.h"
#include "sim/placed_step.h"

namespace simrun {

namespace {
// Seconds to compute tokens of a sequence again: of a chunk at its start, and how they grow with what it looks back at.
void PriceRecomputation(CompiledStepCost& model, int64_t budget, int64_t longest, EngineParams* params) {
  const int64_t tokens = std::min<int64_t>({budget, 2048, longest}), past = std::max<int64_t>(1, std::min<int64_t>(8192, longest - tokens));
  const auto seconds = [&](int64_t before) {
    const PrefillChunk chunk{tokens, before};
    StepWork work;
    work.tokens = tokens;
    work.chunks = {&chunk, 1};
    StepCost cost;
    for (int i = 0; i < 2; ++i) model.Predict({&work, 1}, &cost);
    double sum = 0;
    for (int s = 0; s < model.stages(); ++s) sum += cost.stage_seconds[static_cast<size_t>(s)];
    return sum / static_cast<double>(tokens);
  };
  params->recompute_first = seconds(0);
  params->recompute_second = std::max(0.0, (seconds(past) - params->recompute_first) / static_cast<double>(past)) / 2;
}
}  // namespace

absl::StatusOr<std::unique_ptr<Run>> Run::Create(const Scenario& scenario, SimulateOptions options, ArrivalSource* source) {
  const ResolvedScenario& r = scenario.resolved();
  Slo slo;
  if (r.config.slo.ttft) slo.ttft = SimTime::From(*r.config.slo.ttft);
  if (r.config.slo.tpot) slo.tpot = SimTime::From(*r.config.slo.tpot);
  std::unique_ptr<Run> run(new Run(scenario, slo, SimTime::From(r.config.metrics.warmup)));
  run->params_ = r.params;
  run->params_.fast_forward = options.fast_forward;
  run->params_.track_memory = !r.placement.resident;

  std::vector<StepCostModel*> models;
  StepCostModel* model = options.step_cost;
  if (model == nullptr) {
    StepCostOptions cost_options;
    cost_options.max_tokens = r.params.limits.max_num_batched_tokens;
    cost_options.max_rows = r.params.limits.max_num_seqs;
    if (options.prices != nullptr && r.placement.resident) {
      cost_options.memo = &options.prices->Of(
          {fmt::format("{} {} {} {}", static_cast<const void*>(scenario.catalog().get()), r.machine.gpu_count, r.machine.gpus_per_node,
                       WriteParams(r.config.hardware).ToYaml()),
           OperatorOptionsOf(r.engine)});
    }
    if (r.params.preemption == Preemption::kCheapest || r.params.fetch_cheapest) {
      // A model of its own: pricing leaves traces in one that is used.
      SIMRUN_ASSIGN_OR_RETURN(const std::unique_ptr<CompiledStepCost> pricing, StepCostOf(r, *scenario.catalog(), cost_options));
      PriceRecomputation(*pricing, r.params.limits.max_num_batched_tokens, r.params.max_model_len, &run->params_);
    }
    for (int i = 0; i < (r.placement.resident ? 1 : r.plan.replicas); ++i) {
      SIMRUN_ASSIGN_OR_RETURN(std::unique_ptr<CompiledStepCost> compiled, StepCostOf(r, *scenario.catalog(), cost_options, i));
      models.push_back(compiled.get());
      run->compiled_.push_back(std::move(compiled));
    }
  } else if (model->stages() != r.plan.pp) {
    return absl::InvalidArgumentError(fmt::format("the step cost model has {} stages but plan.pp is {}", model->stages(), r.plan.pp));
  } else {
    models.push_back(model);
  }
  const BatchingPolicy* policy = options.policy;
  if (policy == nullptr) {
    SIMRUN_ASSIGN_OR_RETURN(const BatchingPolicyFactory factory, BuiltInBatchingPolicies().Find(r.policy));
    run->owned_policy_ = factory();
    policy = run->owned_policy_.get();
  }
  std::unique_ptr<Router> router = std::move(options.router);
  if (router == nullptr) {
    SIMRUN_ASSIGN_OR_RETURN(const RouterFactory factory, BuiltInRouters().Find(r.config.scheduler.router));
    router = factory(Rng(static_cast<uint64_t>(r.config.seed), "router"));
  }
  ClusterParams cluster;
  cluster.engine = run->params_;
  cluster.replicas = r.plan.replicas;
  if (!r.placement.resident && options.step_cost == nullptr) cluster.replicas_per_host = r.EnginesPerHost();
  cluster.front_end = r.front_end;
  cluster.front_end_token = r.front_end_token;
  run->cluster_ = std::make_unique<Cluster>(cluster, *policy, models, std::move(router), source, &run->metrics_);
  if (options.observer != nullptr) run->cluster_->set_observer(options.observer);
  return run;
}

void Run::FillEngineUse(SimTime span, Report* report) const {
  const ResolvedScenario& r = scenario_.resolved();
  std::array<double, kNumBounds> bound{};
  SimTime busy, stage_busy;
  int64_t steps = 0, tokens = 0, peak_blocks = 0, host_blocks = 0;
  for (const auto& replica : cluster_->replicas()) {
    const EngineTotals& t = replica->totals();
    for (int b = 0; b < kNumBounds; ++b) bound[b] += t.bound_seconds[b];
    busy = busy + t.busy;
    stage_busy = stage_busy + t.stage_busy;
    steps += t.steps;
    tokens += t.prefill_tokens + t.decode_tokens;
    peak_blocks = std::max(peak_blocks, t.peak_blocks);
    report->requests.preemptions += t.preemptions;
    Report::PrefixCache& cache = report->prefix_cache;
    cache.used = cache.used || t.has_texts || t.resumed_tokens > 0;
    cache.looked_up_tokens += t.looked_up_tokens;
    cache.cached_tokens += t.cached_tokens;
    cache.resumed_tokens += t.resumed_tokens;
    cache.fetched_tokens += t.fetched_tokens;
    cache.offloaded_blocks += replica->offloaded_blocks();
    host_blocks = std::max(host_blocks, replica->host_blocks());
    cache.evicted_blocks += replica->evicted_blocks();
    cache.cached_blocks += replica->cached_blocks();
    report->simulation.fast_forwarded += static_cast<double>(t.fast_forwarded);
  }
  report->simulation.iterations = static_cast<double>(steps);
  const double stages = r.plan.pp;
  // Stages that stand idle while the engine works: pipeline bubbles.
  const double bubbles = busy.seconds().value() * stages - stage_busy.seconds().value();
  bound[static_cast<int>(Bound::kWaiting)] += std::max(0.0, bubbles);
  double total = 0;
  for (const double b : bound) total += b;
  for (int b = 0; b < kNumBounds; ++b) {
    report->bottleneck[std::string(BoundName(static_cast<Bound>(b)))] = total > 0 ? bound[b] / total : 0;
  }
  const double engine_time = span.seconds().value() * static_cast<double>(r.plan.replicas);
  Report::Utilization& u = report->utilization;
  if (engine_time > 0) {
    u.engine_busy = busy.seconds().value() / engine_time;
    u.stage_busy = stage_busy.seconds().value() / (engine_time * stages);
    // Two operations per token and active weight, the input embedding being looked up, over the peak of the format that
    // the matrices are multiplied in; 16-bit peaks where the GPU lists none for it.
    const double flops = 2 * static_cast<double>(ActiveParameterCount(r.model, false)) * static_cast<double>(tokens);
    FlopsPerSecond peak = r.machine.gpu.peak[static_cast<int>(r.plan.activations)];
    for (const DType wide : {DType::kBf16, DType::kFp16}) {
      if (peak.value() <= 0) peak = r.machine.gpu.peak[static_cast<int>(wide)];
    }
    if (peak.value() > 0) u.mfu = flops / (peak.value() * engine_time * r.plan.gpus_per_engine());
  }
  if (Report::PrefixCache& cache = report->prefix_cache; cache.used) {
    if (cache.looked_up_tokens > 0) cache.hit_rate = static_cast<double>(cache.cached_tokens) / static_cast<double>(cache.looked_up_tokens);
    cache.hit_requests = metrics_.cached_requests();
    const auto hits = static_cast<double>(cache.hit_requests), all = static_cast<double>(metrics_.ttft().count());
    if (hits > 0) cache.hit_ttft = metrics_.cached_ttft() / hits;
    if (all > hits) cache.miss_ttft = (metrics_.ttft().Sum() - metrics_.cached_ttft()) / (all - hits);
  }
  if (steps > 0) u.mean_batch = static_cast<double>(tokens) / static_cast<double>(steps);

  const MemoryPlan& m = r.memory;
  report->memory.weights = m.weights;
  report->memory.activations = m.activations;
  report->memory.reserve = m.reserve;
  report->memory.gpu = m.gpu;
  report->memory.kv_blocks = static_cast<double>(m.kv_blocks);
  report->memory.kv_capacity_tokens = static_cast<double>(m.kv_blocks * r.params.limits.block_size) * r.plan.dp;
  report->memory.window = m.window;
  for (int stage = 0; stage < r.plan.pp; ++stage) report->memory.state = std::max(report->memory.state, StateBytesPerGpu(r.model, r.plan, stage));
  report->memory.state_sequences = static_cast<double>(m.state_sequences);
  for (const TierPlan& t : m.tiers) {
    Report::Memory::Tier tier;
    tier.name = std::string(TierName(t.tier));
    tier.capacity = t.capacity;
    tier.weights = t.weights;
    tier.kv_capacity = t.kv_block * static_cast<double>(m.kv_blocks);
    report->memory.tiers.push_back(std::move(tier));
  }
  if (const int64_t blocks = r.params.host_prefix_blocks; blocks > 0) {
    const Bytes block = KvBlockOfRank(r.model, r.plan, r.params.limits.block_size);
    auto tier = std::find_if(report->memory.tiers.begin(), report->memory.tiers.end(), [](const Report::Memory::Tier& t) { return t.name == "dram"; });
    if (tier == report->memory.tiers.end()) {
      tier = report->memory.tiers.emplace(tier);
      tier->name = std::string(TierName(TierKind::kDram));
      tier->capacity = EngineShareOf(TiersOf(r.machine)[static_cast<size_t>(TierKind::kDram)], r.engines_per_host);
    }
    tier->prefix_capacity = block * static_cast<double>(blocks * r.plan.dp);
    tier->prefix_peak = block * static_cast<double>(host_blocks);
  }
  for (const auto& compiled : compiled_) {
    for (const ResourceUse& use : compiled->Resources()) {
      auto found = std::find_if(report->links.begin(), report->links.end(), [&](const Report::Link& l) { return l.name == use.name; });
      if (found == report->links.end()) {
        Report::Link link;
        link.name = use.name;
        found = report->links.insert(report->links.end(), std::move(link));
      }
      found->bytes += use.bytes;
      if (span.seconds().value() > 0) {
        found->utilization += use.bytes / (use.capacity * span.seconds().value() * static_cast<double>(compiled_.size()));
      }
    }
  }
  if (params_.track_memory && m.kv_blocks > 0) {
    const double capacity = static_cast<double>(m.kv_blocks * r.plan.dp), engines = static_cast<double>(r.plan.replicas);
    Report::Memory::Timeline& timeline = report->memory.timeline;
    for (const auto& replica : cluster_->replicas()) {
      LevelTimeline memory = replica->memory();
      memory.Close(span.seconds().value());
      timeline.interval = Seconds(memory.width());
      timeline.kv_mean.resize(memory.slots());
      timeline.kv_peak.resize(memory.slots());
      for (size_t i = 0; i < memory.slots(); ++i) {
        timeline.kv_mean[i] += memory.Mean(i) / capacity / engines;
        timeline.kv_peak[i] = std::max(timeline.kv_peak[i], memory.Peak(i) / capacity);
      }
    }
    // A tier holds the blocks of all attention ranks, whichever is the fullest.
    for (Report::Memory::Tier& tier : report->memory.tiers) {
      for (const double peak : timeline.kv_peak) tier.kv_peak = std::max(tier.kv_peak, tier.kv_capacity * peak);
    }
  }
  report->memory.kv_peak_fraction = m.kv_blocks > 0 ? static_cast<double>(peak_blocks) / static_cast<double>(m.kv_blocks) : 0;
}

void Run::FillEnergyAndCost(SimTime span, Report* report) const {
  const ResolvedScenario& r = scenario_.resolved();
  const Machine& machine = r.machine;
  const double seconds = span.seconds().value();
  const double gpus = r.plan.gpus();
  double active = 0, busy = 0;
  for (const auto& replica : cluster_->replicas()) {
    active += replica->totals().dynamic_joules;
    busy += replica->totals().busy.seconds().value();
  }
  const double idle = machine.gpu.idle_power.value() * seconds * gpus;
  double host = machine.HostIdlePower(gpus).value() * seconds + machine.BusyCorePower(r.plan.gpus_per_engine()).value() * busy;
  // Of plans that keep tensors outside GPU memory: cores that compute, and what moves bytes.
  double compute = 0, moves = 0;
  for (const auto& compiled : compiled_) {
    compute += compiled->host_joules();
    for (const ResourceUse& use : compiled->Resources()) moves += use.joules;
  }
  // Where the CPU is the device its power is counted as that of the devices.
  if (machine.cpu_only) host = 0;
  Report::Energy& e = report->energy;
  e.by_component = {{"gpu_active", active}, {"gpu_idle", idle}, {"host", host + compute}};
  if (moves > 0) e.by_component["memory_and_links"] = moves;
  e.total = Joules(active + idle + host + compute + moves);
  if (seconds > 0) e.mean_power = Watts(e.total.value() / seconds);
  const double outputs = static_cast<double>(metrics_.output_tokens());
  if (outputs > 0) e.per_output_token = e.total / outputs;
  if (metrics_.completed() > 0) e.per_request = e.total / static_cast<double>(metrics_.completed());
  const double kwh = e.total.value() / 3.6e6 * machine.pue;
  e.carbon_g = kwh * machine.carbon_g_per_kwh;

  Report::Cost& c = report->cost;
  c.usd_per_hour = machine.price_per_gpu.value() * 3600 * gpus +
                   machine.memory_price.value() * 3600 * std::ceil(gpus / std::max(1, machine.gpus_per_node));
  c.usd = Dollars(c.usd_per_hour / 3600 * seconds + kwh * machine.electricity_usd_per_kwh);
  if (outputs > 0) c.usd_per_million_output_tokens = c.usd * (1e6 / outputs);
  if (machine.price_per_gpu.value() <= 0) {
    report->warnings.push_back(fmt::format("no price is known for {}; cost counts electricity only. Set hardware.price", machine.gpu.name));
  }
}

// An open-loop system is overloaded when its queue keeps growing: requests that arrive later wait longer, in
// proportion to the time that has passed. With offered rate L and service rate M the wait after time T is T (1 - M/L).
void Run::WarnWhenSaturated(SimTime span, Report* report) const {
  const double arrival_span = (metrics_.last_arrival() - metrics_.first_arrival()).seconds().value();
  if (scenario_.resolved().closed_loop || metrics_.completed() < 50 || arrival_span <= 0) return;
  const TimeBins& waits = metrics_.queue_over_time();
  std::array<double, 4> quarter;
  for (int i = 0; i < 4; ++i) quarter[i] = waits.MeanSeconds(i * 0.25, (i + 1) * 0.25);
  const bool growing = quarter[0] >= 0 && quarter[1] > quarter[0] && quarter[2] > quarter[1] && quarter[3] > quarter[2];
  // Slope of the wait over arrival time, between the middles of the first and the last quarter.
  const double slope = (quarter[3] - quarter[0]) / (0.75 * arrival_span);
  // A short run of a busy system looks the same by chance: it must grow faster to be called overloaded.
  const double least_slope = metrics_.completed() < 500 ? 0.15 : 0.02;
  if (!growing || slope < least_slope || quarter[3] < 1) return;
  const double offered = static_cast<double>(metrics_.arrived()) / arrival_span;
  const double sustainable = static_cast<double>(metrics_.completed()) / span.seconds().value();
  report->warnings.insert(report->warnings.begin(),
      fmt::format("saturated: {:.3g} requests/s are offered but about {:.3g} requests/s can be sustained; the queue grows by {:.2g} s "
                  "per second and latencies depend on how long the run lasts", offered, sustainable, slope));
}

Report Run::MakeReport(double wall_seconds, SimTime now) const {
  const ResolvedScenario& r = scenario_.resolved();
  Report report;
  Report::Plan& plan = report.plan;
  plan.model = r.model.name;
  plan.gpu = r.machine.gpu.name;
  plan.host = r.machine.host.name;
  plan.engine = r.engine.name;
  plan.scheduler = r.policy;
  plan.router = r.config.scheduler.router;
  plan.tp = r.plan.tp;
  plan.pp = r.plan.pp;
  plan.dp = r.plan.dp;
  plan.ep = r.plan.ep;
  plan.replicas = r.plan.replicas;
  plan.ffn_tp = r.plan.ffn_ranks();
  plan.layers_per_stage = r.plan.stage_layers;
  plan.gpus = r.plan.gpus();
  plan.weights = std::string(DTypeName(r.plan.weights));
  plan.activations = std::string(DTypeName(r.plan.activations));
  plan.kv_cache = std::string(DTypeName(r.plan.kv_cache));
  plan.max_num_seqs = r.params.limits.max_num_seqs;
  plan.max_num_batched_tokens = r.params.limits.max_num_batched_tokens;

  report.requests.arrived = metrics_.arrived();
  report.requests.completed = metrics_.completed();
  report.requests.rejected_context_length = metrics_.refused(Refusal::kContextLength);
  report.requests.rejected_kv_memory = metrics_.refused(Refusal::kKvMemory);
  report.requests.rejected = report.requests.rejected_context_length + report.requests.rejected_kv_memory;
  report.requests.input_tokens = metrics_.input_tokens();
  report.requests.output_tokens = metrics_.output_tokens();
  report.ttft = Summarize(metrics_.ttft());
  report.tpot = Summarize(metrics_.tpot());
  report.itl = Summarize(metrics_.itl());
  report.e2e = Summarize(metrics_.e2e());
  report.queue_delay = Summarize(metrics_.queue());

  const SimTime end = metrics_.completed() > 0 ? std::max(metrics_.last_completion(), metrics_.last_arrival()) : now;
  const SimTime span = metrics_.arrived() > 0 ? end - metrics_.first_arrival() : SimTime();
  const SimTime measured = metrics_.arrived() > 0 ? end - std::max(metrics_.first_arrival(), std::min(metrics_.warmup(), end)) : SimTime();
  const double seconds = measured.seconds().value();
  if (seconds > 0) {
    report.throughput.requests_per_s = static_cast<double>(metrics_.measured_completed()) / seconds;
    report.throughput.input_tokens_per_s = static_cast<double>(metrics_.measured_input_tokens()) / seconds;
    report.throughput.output_tokens_per_s = static_cast<double>(metrics_.measured_output_tokens()) / seconds;
    report.goodput.requests_per_s = static_cast<double>(metrics_.attained()) / seconds;
  }
  if (metrics_.measured_arrivals() > 0) {
    report.goodput.slo_attainment = static_cast<double>(metrics_.attained()) / static_cast<double>(metrics_.measured_arrivals());
  }
  report.warnings = r.warnings;
  FillEngineUse(span, &report);
  FillEnergyAndCost(span, &report);
  if (r.placement_choice) {
    const PlacementChoice& choice = *r.placement_choice;
    report.placement.objective = choice.objective;
    report.placement.candidates = choice.candidates;
    for (const PlacementRule& rule : choice.rules) {
      report.placement.rules.push_back(fmt::format("{{tensors: {}, share: {:.4g}, tier: {}{}}}", rule.tensors, rule.share, rule.tier,
                                                   rule.use ? ", use: " + *rule.use : ""));
    }
    for (const PlacementChoice::Marginal& m : choice.marginal) report.placement.marginal.push_back({std::string(TierName(m.tier)), m.per_gib});
  }
  ExpertTotals experts;
  for (const auto& compiled : compiled_) {
    if (const ExpertTotals* e = compiled->Experts(); e != nullptr) experts.Add(*e);
  }
  if (experts.uses > 0) {
    const ExpertsConfig& config = r.config.scheduler.experts;
    Report::Experts& e = report.experts;
    const double uses = static_cast<double>(experts.uses);
    e.policy = config.policy.value_or("");
    e.cache = config.cache;
    e.prefetch = config.prefetch;
    e.uses = uses;
    e.hit_rate = static_cast<double>(experts.hits) / uses;
    e.prefetched = static_cast<double>(experts.prefetched) / uses;
    e.fetched = static_cast<double>(experts.fetched) / uses;
    e.on_cpu = static_cast<double>(experts.on_cpu) / uses;
    if (experts.experts > 0) e.resident_share = static_cast<double>(experts.places) / static_cast<double>(experts.experts);
    e.fetched_bytes = Bytes(experts.bytes_fetched);
    e.ahead_bytes = Bytes(experts.bytes_ahead);
  }
  if (!compiled_.empty()) {
    for (const ProvenanceNote& n : compiled_.front()->provenance()) {
      report.provenance.push_back({n.part, std::string(ProvenanceName(n.provenance)), n.detail});
    }
    for (std::string& w : compiled_.front()->Warnings()) report.warnings.push_back(std::move(w));
  } else {
    report.provenance.push_back({"step cost", "assumed", "a cost model supplied by the caller"});
  }
  if (r.routing && experts.uses == 0) report.provenance.push_back({"expert routing", r.routing->provenance(), r.routing->detail()});
  if (report.requests.rejected_context_length > 0) {
    report.warnings.push_back(fmt::format("{} requests were refused: prompt plus output is longer than {} tokens (scheduler.max_model_len)",
                                          report.requests.rejected_context_length, r.params.max_model_len));
  }
  if (report.requests.rejected_kv_memory > 0) {
    report.warnings.push_back(fmt::format("{} requests were refused: they need more KV memory than one engine has ({} tokens)",
                                          report.requests.rejected_kv_memory, r.memory.kv_blocks * r.params.limits.block_size));
  }
  WarnWhenSaturated(span, &report);

  Report::Simulation& s = report.simulation;
  s.wall_s = wall_seconds;
  s.simulated_s = span.seconds().value();
  s.events = static_cast<double>(cluster_->events()) + s.iterations - s.fast_forwarded;
  s.seed = r.config.seed;
  s.version = SIMRUN_VERSION;
  s.config_hash = scenario_.Hash();
  return report;
}

}  // namespace simrun
