#include "sim/placement_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "hw/cost/operator_params.h"
#include "models/lowering.h"
#include "sim/memory.h"
#include "sim/placed_step.h"
#include "workload/source.h"

namespace simrun {
namespace {

// One class of tensors: the share that lies outside GPU memory, and how it is used there.
struct Away {
  double share = 0;
  TensorUse use = TensorUse::kStream;
  TierKind tier = TierKind::kDram;  // of the KV cache; weights fill the tiers in turn
};
struct Point {
  Away experts, weights, kv;  // weights: everything else that is multiplied
};

class Search {
 public:
  Search(const ResolvedScenario& scenario, const PlacementConfig& config, const Catalog& catalog, const std::string& base_dir)
      : r_(scenario), config_(config), catalog_(catalog) {
    // Mean lengths of the first requests.
    double input = 0, output = 0, n = 0;
    const absl::StatusOr<std::unique_ptr<ArrivalSource>> source =
        MakeSource(r_.config.workload, static_cast<uint64_t>(r_.config.seed), base_dir);
    Arrival arrival;
    while (source.ok() && n < 200) {
      const auto next = (*source)->Next(&arrival);
      if (!next.ok() || *next != NextResult::kArrival) break;
      input += static_cast<double>(arrival.input_tokens);
      output += static_cast<double>(arrival.output_tokens);
      n += 1;
    }
    input_ = n > 0 ? std::max(1.0, input / n) : 1024;
    output_ = n > 0 ? std::max(1.0, output / n) : 256;
    const WorkloadConfig& w = r_.config.workload;
    const double replicas = static_cast<double>(r_.plan.replicas) * r_.plan.dp;  // attention ranks of all engines
    most_ = static_cast<double>(r_.params.limits.max_num_seqs);
    if (w.concurrency) most_ = std::min(most_, std::ceil(static_cast<double>(*w.concurrency) / replicas));
    if (w.static_batch) most_ = std::min(most_, std::ceil(static_cast<double>(*w.static_batch) / replicas));
    if (w.requests) most_ = std::min(most_, std::ceil(static_cast<double>(*w.requests) / replicas));
    if (const std::optional<PerSecond> rate = OfferedRate(w)) rate_ = rate->value() / replicas;
  }

  void set_machine(const Machine& machine) { r_.machine = machine; }
  const Machine& machine() const { return r_.machine; }
  int candidates() const { return candidates_; }
  // Of the placements that did not fit, the least that one lacked.
  Bytes least_lack() const { return least_lack_; }

  // The objective, least is best; infinite when it does not fit.
  double Value(const std::vector<PlacementRule>& rules) {
    ++candidates_;
    constexpr double kNo = std::numeric_limits<double>::infinity();
    Problems problems;
    r_.placement = ResolvePlacement(config_, rules, r_.model, r_.plan, r_.machine, "", [](size_t, std::string_view) { return SourceLocation(); }, &problems);
    if (!problems.empty()) return kNo;
    PlanMemoryOf(&r_);
    const MemoryPlan& m = r_.memory;
    // What it lacks to hold one sequence.
    const auto block_size = static_cast<double>(r_.params.limits.block_size);
    const double states = static_cast<double>(m.state_blocks);
    const double least_blocks = std::ceil((input_ + output_) / block_size) + states;
    Bytes lacks = std::max(Bytes(0), m.weights + m.activations + m.reserve + m.kv_block * least_blocks - m.usable) * r_.plan.gpus_per_engine();
    bool fits = m.kv_blocks > 0 && m.weights + m.activations + m.reserve <= m.usable;
    for (const TierPlan& t : m.tiers) {
      lacks += std::max(Bytes(0), t.weights + t.kv_block * std::max(least_blocks, static_cast<double>(m.kv_blocks)) - t.capacity);
      fits = fits && t.weights + t.kv_block * static_cast<double>(m.kv_blocks) <= t.capacity;
    }
    const double fit = std::floor(static_cast<double>(m.kv_blocks) * block_size / (input_ + output_ + states * block_size));
    if (!fits || fit < 1) {
      least_lack_ = std::min(least_lack_, lacks);
      return kNo;
    }

    StepCostOptions options;
    options.max_tokens = r_.params.limits.max_num_batched_tokens;
    options.max_rows = r_.params.limits.max_num_seqs;
    absl::StatusOr<std::unique_ptr<CompiledStepCost>> model = StepCostOf(r_, catalog_, options);
    if (!model.ok()) return kNo;
    const Times prompt = Prompt(**model);
    double batch = std::max(1.0, std::min(most_, fit));
    const double most = batch;
    Times decode = Decode(**model, batch);
    const bool latency = config_.objective == "tpot" || config_.objective == "energy";
    // Fewer sequences are under way at once where requests arrive more slowly than they could be served (Little's law).
    for (int i = 0; i < 3 && latency && rate_ > 0; ++i) {
      const double stay = output_ * decode.seconds + batch * prompt.seconds;
      batch = std::clamp(rate_ * stay, 1.0, most);
      decode = Decode(**model, batch);
    }
    const double cycle = output_ * decode.seconds + batch * prompt.seconds, tokens = batch * output_ * r_.plan.dp;
    if (config_.objective == "tpot") return decode.seconds + prompt.seconds * batch / output_;
    const Machine& machine = r_.machine;
    const double gpus = r_.plan.gpus_per_engine(), of_node = gpus / std::max(1, machine.gpus_per_node);
    const double idle = machine.gpu.idle_power.value() * gpus + (machine.HostIdlePower(gpus) + machine.BusyCorePower(gpus)).value();
    const double joules = (output_ * decode.joules + batch * prompt.joules + idle * cycle) / tokens;
    if (config_.objective == "energy") return joules;
    if (config_.objective == "cost") {
      const double price = machine.price_per_gpu.value() * gpus + machine.memory_price.value() * of_node;
      const double usd = cycle / tokens * price + joules / 3.6e6 * machine.pue * machine.electricity_usd_per_kwh;
      if (usd > 0) return usd;
    }
    return cycle / tokens;
  }

  std::vector<PlacementRule> RulesOf(const Point& p) const {
    std::vector<PlacementRule> rules;
    const PlacementRoom room = RoomFor(r_.model, r_.plan, r_.machine, r_.engine, r_.params.limits, r_.params.max_model_len, r_.engines_per_host);
    std::array<double, kNumTiers> free{};
    for (size_t i = 1; i < free.size(); ++i) free[i] = room.tiers[i].value();
    const ClassBytes all = WeightBytesByClass(r_.model, r_.plan, false);
    double moe = 0;
    for (int64_t l = 0; l < r_.model.layers; ++l) moe += r_.model.IsMoeLayer(l) ? 1 : 0;
    const double dense = static_cast<double>(r_.model.layers) - moe;
    const auto place = [&](const char* tensors, double held_once, const Away& away) {
      double share = away.share;
      if (share <= 1e-6 || held_once <= 0) return;
      for (const TierKind tier : {TierKind::kDram, TierKind::kCxl, TierKind::kRemote, TierKind::kNvme}) {
        double& left = free[static_cast<size_t>(tier)];
        const bool compute = away.use == TensorUse::kCompute && (tier == TierKind::kDram || tier == TierKind::kCxl);
        const double whole = held_once * CopiesOf(r_.plan, tensors, compute ? TensorUse::kCompute : TensorUse::kStream);
        const double part = std::min(share, std::max(0.0, left) / whole);
        if (part <= 1e-6) continue;
        left -= part * whole;
        share -= part;
        PlacementRule rule;
        rule.tensors = tensors;
        rule.share = part;
        rule.tier = std::string(TierName(tier));
        rule.use = compute ? "compute" : "stream";
        rules.push_back(std::move(rule));
        if (share <= 1e-6) return;
      }
    };
    // The KV cache's bytes follow from what is left, so its rule only names a tier.
    if (p.kv.share > 0) {
      PlacementRule rule;
      rule.tensors = "kv";
      rule.share = p.kv.share;
      rule.tier = std::string(TierName(p.kv.tier));
      rule.use = p.kv.use == TensorUse::kCompute ? "compute" : "stream";
      rules.push_back(std::move(rule));
    }
    place("routed_experts", all.routed_experts * moe, p.experts);
    place("attention", all.attention * static_cast<double>(r_.model.layers) + all.router * moe, p.weights);
    place("dense_ffn", all.dense_ffn * dense, p.weights);
    place("shared_experts", all.shared_experts * moe, p.weights);
    return rules;
  }

 private:
  struct Times {
    double seconds = 0, joules = 0;  // above idle: of GPUs, CPU, memories and links
  };
  // A step as it is in the long run: what streams is under way when it starts.
  Times Steady(CompiledStepCost& model, const StepWork& work) const {
    StepCost cost;
    Times sum;
    const std::vector<StepWork> ranks(static_cast<size_t>(r_.plan.dp), work);
    const auto beside = [&] {
      double joules = model.host_joules();
      for (const ResourceUse& use : model.Resources()) joules += use.joules;
      return joules;
    };
    double before = 0;
    for (int i = 0; i < 4; ++i) {
      if (i == 2) before = beside();
      model.Predict(ranks, &cost);
      if (i < 2) continue;
      for (int s = 0; s < model.stages(); ++s) sum.seconds += cost.stage_seconds[static_cast<size_t>(s)] / 2;
      sum.joules += cost.dynamic_joules / 2;
    }
    sum.joules += (beside() - before) / 2;
    return sum;
  }
  Times Decode(CompiledStepCost& model, double batch) const {
    StepWork work;
    work.decode_seqs = std::max<int64_t>(1, std::llround(batch));
    work.tokens = work.logits_rows = work.decode_seqs;
    work.decode_kv_max = std::llround(input_ + output_ / 2);
    work.decode_kv_sum = work.decode_kv_max * work.decode_seqs;
    const int64_t window = r_.params.window > 0 ? std::min(r_.params.window, work.decode_kv_max) : work.decode_kv_max;
    work.decode_kv_sum_windowed = window * work.decode_seqs;
    return Steady(model, work);
  }
  // One prompt's part of a step full of prompts.
  Times Prompt(CompiledStepCost& model) const {
    const double budget = static_cast<double>(r_.params.limits.max_num_batched_tokens);
    const int64_t chunk = std::max<int64_t>(1, std::llround(std::min(input_, budget)));
    const int64_t together = std::max<int64_t>(1, std::min<int64_t>(static_cast<int64_t>(most_), static_cast<int64_t>(budget) / chunk));
    const std::vector<PrefillChunk> chunks(static_cast<size_t>(together), PrefillChunk{chunk, 0});
    StepWork work;
    work.tokens = chunk * together;
    work.logits_rows = together;
    work.chunks = chunks;
    Times t = Steady(model, work);
    const double per_prompt = input_ / static_cast<double>(chunk * together);
    t.seconds *= per_prompt;
    t.joules *= per_prompt;
    return t;
  }

  ResolvedScenario r_;
  const PlacementConfig& config_;
  const Catalog& catalog_;
  double input_ = 1, output_ = 1, most_ = 1, rate_ = 0;
  int candidates_ = 0;
  Bytes least_lack_{std::numeric_limits<double>::infinity()};
};

constexpr double kNearby = 0.04;  // first step of a search around a known point
// Less is rounding: nothing is moved for it.
constexpr double kGain = 1e-4;

// Coarse to fine around the best point.
Point Refine(Search* search, Point best, double* value, double first_step) {
  for (double step = first_step; step > 0.002; step /= 2) {
    for (bool better = true; better;) {
      better = false;
      for (Away Point::*which : {&Point::experts, &Point::weights, &Point::kv}) {
        for (const double by : {-step, step}) {
          Point next = best;
          double& share = (next.*which).share;
          share = std::clamp(share + by, 0.0, 1.0);
          if (share == (best.*which).share) continue;
          const double v = search->Value(search->RulesOf(next));
          if (v < *value * (1 - 1e-6)) {
            *value = v;
            best = next;
            better = true;
          }
        }
      }
    }
  }
  return best;
}

}  // namespace

PlacementChoice OptimizePlacement(const ResolvedScenario& scenario, const PlacementConfig& config,
                                  const std::vector<std::vector<PlacementRule>>& built_in, const Catalog& catalog,
                                  const std::string& base_dir, const SourceLocation& where, Problems* problems) {
  PlacementChoice choice;
  choice.objective = config.objective;
  Search search(scenario, config, catalog, base_dir);
  double best = std::numeric_limits<double>::infinity();
  for (const std::vector<PlacementRule>& rules : built_in) {
    const double v = search.Value(rules);
    if (v < best) {
      best = v;
      choice.rules = rules;
    }
  }
  std::optional<Point> point;
  double point_value = std::numeric_limits<double>::infinity();
  const std::vector<Away> none = {{0, TensorUse::kStream}};
  const std::vector<Away> away = {{0, TensorUse::kStream}, {0.5, TensorUse::kStream}, {1, TensorUse::kStream}, {0.5, TensorUse::kCompute}, {1, TensorUse::kCompute}};
  std::vector<Away> kv = {{0, TensorUse::kStream}};
  for (const MemoryTier& tier : TiersOf(scenario.machine)) {
    if (tier.kind == TierKind::kGpu || !(tier.capacity > Bytes(0))) continue;
    kv.push_back({1, TensorUse::kStream, tier.kind});
    if (tier.addressable()) kv.push_back({1, TensorUse::kCompute, tier.kind});
  }
  for (const Away& e : scenario.model.moe ? away : none) {
    for (const Away& w : away) {
      for (const Away& k : kv) {
        const Point p{e, w, k};
        const double v = search.Value(search.RulesOf(p));
        if (v < point_value * (1 - kGain)) {
          point_value = v;
          point = p;
        }
      }
    }
  }
  if (point) {
    // The second time as below, so that a memory that changes nothing is worth nothing.
    for (const double step : {0.25, kNearby}) point = Refine(&search, *point, &point_value, step);
    if (point_value < best * (1 - kGain)) {
      best = point_value;
      choice.rules = search.RulesOf(*point);
    }
  }
  choice.candidates = search.candidates();
  choice.value = best;
  if (std::isinf(best)) {
    problems->Add(where, "plan.placement", fmt::format("nothing that was tried fits into the memories of this machine; the nearest lacks {}", Human(search.least_lack())),
                  "use more GPUs, a narrower plan.weights, or more host memory (hardware.host_memory)");
    return choice;
  }
  // What one more GiB of a memory would be worth: the best near this placement in a slightly larger memory.
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  const Machine machine = search.machine();
  for (int i = 0; i < kNumTiers; ++i) {
    const TierKind tier = static_cast<TierKind>(i);
    const double had = TiersOf(machine)[static_cast<size_t>(i)].capacity.value();
    if (had <= 0) continue;
    const double more = std::max(kGiB, 0.02 * had);
    Machine larger = machine;
    AddCapacity(tier, Bytes(more), &larger);
    search.set_machine(larger);
    double value = std::min(best, search.Value(choice.rules));
    if (point) {
      double around = search.Value(search.RulesOf(*point));
      Refine(&search, *point, &around, kNearby);
      value = std::min(value, around);
    }
    choice.marginal.push_back({tier, (best / value - 1) / (more / kGiB)});
  }
  return choice;
}

}  // namespace simrun
