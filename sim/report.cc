#include "sim/report.h"

#include <memory>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/type_resolver_util.h>

#include "base/sketch.h"
#include "base/status.h"
#include "proto/report.pb.h"

namespace simrun {

LatencySummary Summarize(const QuantileSketch& s) {
  LatencySummary summary;
  summary.mean = s.Mean();
  summary.p50 = s.Quantile(0.50);
  summary.p90 = s.Quantile(0.90);
  summary.p95 = s.Quantile(0.95);
  summary.p99 = s.Quantile(0.99);
  summary.max = s.Max();
  summary.count = static_cast<int64_t>(s.count());
  return summary;
}

namespace {
void Fill(const LatencySummary& in, proto::Latency* out) {
  out->set_mean_s(in.mean.value());
  out->set_p50_s(in.p50.value());
  out->set_p90_s(in.p90.value());
  out->set_p95_s(in.p95.value());
  out->set_p99_s(in.p99.value());
  out->set_max_s(in.max.value());
  out->set_count(static_cast<double>(in.count));
}
void Read(const proto::Latency& in, LatencySummary* out) {
  out->mean = Seconds(in.mean_s());
  out->p50 = Seconds(in.p50_s());
  out->p90 = Seconds(in.p90_s());
  out->p95 = Seconds(in.p95_s());
  out->p99 = Seconds(in.p99_s());
  out->max = Seconds(in.max_s());
  out->count = static_cast<int64_t>(in.count());
}
}  // namespace

std::string Report::ToBinary() const {
  proto::Report out;
  proto::Plan* p = out.mutable_plan();
  p->set_model(plan.model);
  p->set_gpu(plan.gpu);
  p->set_host(plan.host);
  p->set_engine(plan.engine);
  p->set_scheduler(plan.scheduler);
  p->set_router(plan.router);
  p->set_tp(static_cast<uint32_t>(plan.tp));
  p->set_pp(static_cast<uint32_t>(plan.pp));
  p->set_dp(static_cast<uint32_t>(plan.dp));
  p->set_ep(static_cast<uint32_t>(plan.ep));
  p->set_replicas(static_cast<uint32_t>(plan.replicas));
  p->set_gpus(static_cast<uint32_t>(plan.gpus));
  p->set_ffn_tp(static_cast<uint32_t>(plan.ffn_tp));
  for (const int layers : plan.layers_per_stage) p->add_layers_per_stage(static_cast<uint32_t>(layers));
  p->set_weights(plan.weights);
  p->set_activations(plan.activations);
  p->set_kv_cache(plan.kv_cache);
  p->set_max_num_seqs(static_cast<double>(plan.max_num_seqs));
  p->set_max_num_batched_tokens(static_cast<double>(plan.max_num_batched_tokens));
  proto::Requests* q = out.mutable_requests();
  q->set_arrived(static_cast<double>(requests.arrived));
  q->set_completed(static_cast<double>(requests.completed));
  q->set_rejected(static_cast<double>(requests.rejected));
  q->set_preemptions(static_cast<double>(requests.preemptions));
  q->set_rejected_context_length(static_cast<double>(requests.rejected_context_length));
  q->set_rejected_kv_memory(static_cast<double>(requests.rejected_kv_memory));
  q->set_input_tokens(static_cast<double>(requests.input_tokens));
  q->set_output_tokens(static_cast<double>(requests.output_tokens));
  Fill(ttft, out.mutable_ttft());
  Fill(tpot, out.mutable_tpot());
  Fill(itl, out.mutable_itl());
  Fill(e2e, out.mutable_e2e());
  Fill(queue_delay, out.mutable_queue_delay());
  out.mutable_throughput()->set_requests_per_s(throughput.requests_per_s);
  out.mutable_throughput()->set_input_tokens_per_s(throughput.input_tokens_per_s);
  out.mutable_throughput()->set_output_tokens_per_s(throughput.output_tokens_per_s);
  out.mutable_goodput()->set_slo_attainment(goodput.slo_attainment);
  out.mutable_goodput()->set_requests_per_s(goodput.requests_per_s);
  proto::Energy* e = out.mutable_energy();
  e->set_total_j(energy.total.value());
  e->set_per_output_token_j(energy.per_output_token.value());
  e->set_per_request_j(energy.per_request.value());
  e->set_mean_power_w(energy.mean_power.value());
  e->set_carbon_g(energy.carbon_g);
  for (const auto& [name, joules] : energy.by_component) (*e->mutable_by_component())[name] = joules;
  out.mutable_cost()->set_usd(cost.usd.value());
  out.mutable_cost()->set_usd_per_million_output_tokens(cost.usd_per_million_output_tokens.value());
  out.mutable_cost()->set_usd_per_hour(cost.usd_per_hour);
  proto::Memory* m = out.mutable_memory();
  m->set_weights_bytes(memory.weights.value());
  m->set_kv_capacity_tokens(memory.kv_capacity_tokens);
  m->set_kv_peak_fraction(memory.kv_peak_fraction);
  m->set_kv_blocks(memory.kv_blocks);
  m->set_activation_bytes(memory.activations.value());
  m->set_reserve_bytes(memory.reserve.value());
  m->set_gpu_bytes(memory.gpu.value());
  m->set_window_bytes(memory.window.value());
  m->set_state_bytes(memory.state.value());
  m->set_state_sequences(memory.state_sequences);
  for (const Memory::Tier& tier : memory.tiers) {
    proto::Tier* t = m->add_tiers();
    t->set_name(tier.name);
    t->set_capacity_bytes(tier.capacity.value());
    t->set_weights_bytes(tier.weights.value());
    t->set_kv_capacity_bytes(tier.kv_capacity.value());
    t->set_kv_peak_bytes(tier.kv_peak.value());
    t->set_prefix_capacity_bytes(tier.prefix_capacity.value());
    t->set_prefix_peak_bytes(tier.prefix_peak.value());
  }
  if (!memory.timeline.kv_mean.empty()) {
    proto::MemoryTimeline* t = m->mutable_timeline();
    t->set_interval_s(memory.timeline.interval.value());
    t->mutable_kv_mean()->Add(memory.timeline.kv_mean.begin(), memory.timeline.kv_mean.end());
    t->mutable_kv_peak()->Add(memory.timeline.kv_peak.begin(), memory.timeline.kv_peak.end());
  }
  for (const Link& link : links) {
    proto::Link* l = out.add_links();
    l->set_name(link.name);
    l->set_bytes(link.bytes);
    l->set_utilization(link.utilization);
  }
  if (prefix_cache.used) {
    proto::PrefixCache* c = out.mutable_prefix_cache();
    c->set_looked_up_tokens(static_cast<double>(prefix_cache.looked_up_tokens));
    c->set_cached_tokens(static_cast<double>(prefix_cache.cached_tokens));
    c->set_hit_rate(prefix_cache.hit_rate);
    c->set_resumed_tokens(static_cast<double>(prefix_cache.resumed_tokens));
    c->set_evicted_blocks(static_cast<double>(prefix_cache.evicted_blocks));
    c->set_cached_blocks(static_cast<double>(prefix_cache.cached_blocks));
    c->set_hit_requests(static_cast<double>(prefix_cache.hit_requests));
    c->set_hit_ttft_mean_s(prefix_cache.hit_ttft.value());
    c->set_miss_ttft_mean_s(prefix_cache.miss_ttft.value());
    c->set_fetched_tokens(static_cast<double>(prefix_cache.fetched_tokens));
    c->set_offloaded_blocks(static_cast<double>(prefix_cache.offloaded_blocks));
  }
  if (!placement.objective.empty()) {
    proto::PlacementSearch* search = out.mutable_placement();
    search->set_objective(placement.objective);
    search->set_candidates(placement.candidates);
    for (const std::string& rule : placement.rules) search->add_rules(rule);
    for (const Placement::Marginal& gain : placement.marginal) (*search->mutable_gain_per_gib())[gain.tier] = gain.per_gib;
  }
  if (!experts.policy.empty()) {
    proto::Experts* x = out.mutable_experts();
    x->set_policy(experts.policy);
    x->set_cache(experts.cache);
    x->set_prefetch(experts.prefetch);
    x->set_uses(experts.uses);
    x->set_cache_hit_rate(experts.hit_rate);
    x->set_prefetched(experts.prefetched);
    x->set_fetched(experts.fetched);
    x->set_on_cpu(experts.on_cpu);
    x->set_resident_share(experts.resident_share);
    x->set_fetched_bytes(experts.fetched_bytes.value());
    x->set_ahead_bytes(experts.ahead_bytes.value());
  }
  proto::Utilization* u = out.mutable_utilization();
  u->set_engine_busy(utilization.engine_busy);
  u->set_stage_busy(utilization.stage_busy);
  u->set_mean_batch(utilization.mean_batch);
  u->set_mfu(utilization.mfu);
  for (const auto& [name, interval] : intervals) {
    proto::Interval* i = &(*out.mutable_intervals())[name];
    i->set_low(interval.low);
    i->set_high(interval.high);
    i->set_level(interval.level);
    i->set_values(static_cast<double>(interval.values));
    i->set_seeds(static_cast<double>(interval.seeds));
    i->set_basis(interval.basis);
  }
  for (const auto& [name, share] : bottleneck) (*out.mutable_bottleneck())[name] = share;
  for (const Provenance& note : provenance) {
    proto::Provenance* n = out.add_provenance();
    n->set_part(note.part);
    n->set_kind(note.kind);
    n->set_detail(note.detail);
  }
  for (const std::string& w : warnings) out.add_warnings(w);
  proto::SimulationInfo* s = out.mutable_simulation();
  s->set_wall_s(simulation.wall_s);
  s->set_simulated_s(simulation.simulated_s);
  s->set_iterations(simulation.iterations);
  s->set_fast_forwarded(simulation.fast_forwarded);
  s->set_events(simulation.events);
  s->set_seed(static_cast<double>(simulation.seed));
  s->set_version(simulation.version);
  s->set_config_hash(simulation.config_hash);

  // Maps sorted: equal reports are equal bytes.
  std::string wire;
  {
    google::protobuf::io::StringOutputStream stream(&wire);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    SIM_CHECK(out.SerializeToCodedStream(&coded));
  }
  return wire;
}

std::string Report::ToJson() const {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  // Not MessageToJsonString, which prints maps in an order that differs from process to process.
  const google::protobuf::Descriptor* descriptor = proto::Report::descriptor();
  const std::unique_ptr<google::protobuf::util::TypeResolver> resolver(
      google::protobuf::util::NewTypeResolverForDescriptorPool("type.googleapis.com", descriptor->file()->pool()));
  std::string json;
  SIM_CHECK(google::protobuf::util::BinaryToJsonString(
                resolver.get(), "type.googleapis.com/" + descriptor->full_name(), ToBinary(), &json, options).ok());
  return json;
}

absl::StatusOr<Report> Report::FromBinary(std::string_view bytes) {
  proto::Report in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return absl::InvalidArgumentError("not a report");
  Report r;
  r.plan.model = in.plan().model();
  r.plan.gpu = in.plan().gpu();
  r.plan.host = in.plan().host();
  r.plan.engine = in.plan().engine();
  r.plan.scheduler = in.plan().scheduler();
  r.plan.router = in.plan().router();
  r.plan.tp = static_cast<int>(in.plan().tp());
  r.plan.pp = static_cast<int>(in.plan().pp());
  r.plan.dp = static_cast<int>(in.plan().dp());
  r.plan.ep = static_cast<int>(in.plan().ep());
  r.plan.replicas = static_cast<int>(in.plan().replicas());
  r.plan.gpus = static_cast<int>(in.plan().gpus());
  r.plan.ffn_tp = static_cast<int>(in.plan().ffn_tp());
  for (const uint32_t layers : in.plan().layers_per_stage()) r.plan.layers_per_stage.push_back(static_cast<int>(layers));
  r.plan.weights = in.plan().weights();
  r.plan.activations = in.plan().activations();
  r.plan.kv_cache = in.plan().kv_cache();
  r.plan.max_num_seqs = static_cast<int64_t>(in.plan().max_num_seqs());
  r.plan.max_num_batched_tokens = static_cast<int64_t>(in.plan().max_num_batched_tokens());
  r.requests.arrived = static_cast<int64_t>(in.requests().arrived());
  r.requests.completed = static_cast<int64_t>(in.requests().completed());
  r.requests.rejected = static_cast<int64_t>(in.requests().rejected());
  r.requests.preemptions = static_cast<int64_t>(in.requests().preemptions());
  r.requests.rejected_context_length = static_cast<int64_t>(in.requests().rejected_context_length());
  r.requests.rejected_kv_memory = static_cast<int64_t>(in.requests().rejected_kv_memory());
  r.requests.input_tokens = static_cast<int64_t>(in.requests().input_tokens());
  r.requests.output_tokens = static_cast<int64_t>(in.requests().output_tokens());
  Read(in.ttft(), &r.ttft);
  Read(in.tpot(), &r.tpot);
  Read(in.itl(), &r.itl);
  Read(in.e2e(), &r.e2e);
  Read(in.queue_delay(), &r.queue_delay);
  r.throughput.requests_per_s = in.throughput().requests_per_s();
  r.throughput.input_tokens_per_s = in.throughput().input_tokens_per_s();
  r.throughput.output_tokens_per_s = in.throughput().output_tokens_per_s();
  r.goodput.slo_attainment = in.goodput().slo_attainment();
  r.goodput.requests_per_s = in.goodput().requests_per_s();
  r.energy.total = Joules(in.energy().total_j());
  r.energy.per_output_token = Joules(in.energy().per_output_token_j());
  r.energy.per_request = Joules(in.energy().per_request_j());
  r.energy.mean_power = Watts(in.energy().mean_power_w());
  r.energy.carbon_g = in.energy().carbon_g();
  for (const auto& [name, joules] : in.energy().by_component()) r.energy.by_component[name] = joules;
  r.cost.usd = Dollars(in.cost().usd());
  r.cost.usd_per_million_output_tokens = Dollars(in.cost().usd_per_million_output_tokens());
  r.cost.usd_per_hour = in.cost().usd_per_hour();
  r.memory.weights = Bytes(in.memory().weights_bytes());
  r.memory.kv_capacity_tokens = in.memory().kv_capacity_tokens();
  r.memory.kv_peak_fraction = in.memory().kv_peak_fraction();
  r.memory.kv_blocks = in.memory().kv_blocks();
  r.memory.activations = Bytes(in.memory().activation_bytes());
  r.memory.reserve = Bytes(in.memory().reserve_bytes());
  r.memory.gpu = Bytes(in.memory().gpu_bytes());
  r.memory.window = Bytes(in.memory().window_bytes());
  r.memory.state = Bytes(in.memory().state_bytes());
  r.memory.state_sequences = in.memory().state_sequences();
  for (const proto::Tier& t : in.memory().tiers()) {
    r.memory.tiers.push_back({t.name(), Bytes(t.capacity_bytes()), Bytes(t.weights_bytes()), Bytes(t.kv_capacity_bytes()), Bytes(t.kv_peak_bytes()),
                              Bytes(t.prefix_capacity_bytes()), Bytes(t.prefix_peak_bytes())});
  }
  r.memory.timeline.interval = Seconds(in.memory().timeline().interval_s());
  const proto::MemoryTimeline& timeline = in.memory().timeline();
  r.memory.timeline.kv_mean.assign(timeline.kv_mean().begin(), timeline.kv_mean().end());
  r.memory.timeline.kv_peak.assign(timeline.kv_peak().begin(), timeline.kv_peak().end());
  for (const proto::Link& l : in.links()) r.links.push_back({l.name(), l.bytes(), l.utilization()});
  r.placement.objective = in.placement().objective();
  r.placement.candidates = in.placement().candidates();
  for (const std::string& rule : in.placement().rules()) r.placement.rules.push_back(rule);
  for (const auto& [tier, gain] : in.placement().gain_per_gib()) r.placement.marginal.push_back({tier, gain});
  if (in.has_prefix_cache()) {
    const proto::PrefixCache& c = in.prefix_cache();
    r.prefix_cache = {true, static_cast<int64_t>(c.looked_up_tokens()), static_cast<int64_t>(c.cached_tokens()), c.hit_rate(),
                      static_cast<int64_t>(c.resumed_tokens()), static_cast<int64_t>(c.evicted_blocks()),
                      static_cast<int64_t>(c.cached_blocks()), static_cast<int64_t>(c.hit_requests()),
                      Seconds(c.hit_ttft_mean_s()), Seconds(c.miss_ttft_mean_s()),
                      static_cast<int64_t>(c.fetched_tokens()), static_cast<int64_t>(c.offloaded_blocks())};
  }
  r.experts.policy = in.experts().policy();
  r.experts.cache = in.experts().cache();
  r.experts.prefetch = in.experts().prefetch();
  r.experts.uses = in.experts().uses();
  r.experts.hit_rate = in.experts().cache_hit_rate();
  r.experts.prefetched = in.experts().prefetched();
  r.experts.fetched = in.experts().fetched();
  r.experts.on_cpu = in.experts().on_cpu();
  r.experts.resident_share = in.experts().resident_share();
  r.experts.fetched_bytes = Bytes(in.experts().fetched_bytes());
  r.experts.ahead_bytes = Bytes(in.experts().ahead_bytes());
  r.utilization.engine_busy = in.utilization().engine_busy();
  r.utilization.stage_busy = in.utilization().stage_busy();
  r.utilization.mean_batch = in.utilization().mean_batch();
  r.utilization.mfu = in.utilization().mfu();
  for (const auto& [name, i] : in.intervals()) {
    r.intervals[name] = {i.low(), i.high(), i.level(), static_cast<int64_t>(i.values()), static_cast<int64_t>(i.seeds()), i.basis()};
  }
  for (const auto& [name, share] : in.bottleneck()) r.bottleneck[name] = share;
  for (const proto::Provenance& n : in.provenance()) r.provenance.push_back({n.part(), n.kind(), n.detail()});
  for (const std::string& w : in.warnings()) r.warnings.push_back(w);
  r.simulation.wall_s = in.simulation().wall_s();
  r.simulation.simulated_s = in.simulation().simulated_s();
  r.simulation.iterations = in.simulation().iterations();
  r.simulation.fast_forwarded = in.simulation().fast_forwarded();
  r.simulation.events = in.simulation().events();
  r.simulation.seed = static_cast<int64_t>(in.simulation().seed());
  r.simulation.version = in.simulation().version();
  r.simulation.config_hash = in.simulation().config_hash();
  return r;
}

}  // namespace simrun
