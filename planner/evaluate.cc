#include "planner/evaluate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "planner/deal.h"
#include "planner/metrics.h"
#include "planner/pool.h"
#include "sim/resolved.h"
#include "sim/simulation.h"
#include "workload/source.h"

namespace simrun::planner {
namespace {

struct Named {
  const char* name;
  const char* metric;
};
constexpr std::array<Named, 7> kObjectives = {{{"latency", "e2e.mean_s"},
                                               {"ttft", "ttft.p99_s"},
                                               {"throughput", "throughput.output_tokens_per_s"},
                                               {"goodput", "goodput.requests_per_s"},
                                               {"energy", "energy.per_output_token_j"},
                                               {"cost", "cost.usd_per_million_output_tokens"},
                                               {"carbon", "energy.carbon_g"}}};

// What the best finished plan so far allows to conclude about others.
struct Incumbent {
  bool valid = false;
  double value = 0;
  Report report;
};

enum class Rule { kNone, kLatency, kGoodput, kTime };

Rule RuleOf(const EvaluateOptions& options) {
  // A constraint on attainment may let a plan win that is worse by the objective; a front has no single winner.
  if (!options.prune || options.min_attainment > 0 || !options.pareto.empty()) return Rule::kNone;
  const std::string& metric = options.objective.metric;
  if (metric == "e2e.mean_s") return Rule::kLatency;
  if (metric == "goodput.requests_per_s") return Rule::kGoodput;
  if (metric == "throughput.output_tokens_per_s" || metric == "throughput.requests_per_s") return Rule::kTime;
  return Rule::kNone;
}

bool SameWorkload(const Scenario& s) { return !s.resolved().closed_loop && s.config().metrics.warmup.value() == 0; }

// Runs a scenario step by step and gives up when it can no longer beat `best`. `best` is read at the start.
absl::StatusOr<bool> RunBounded(const Scenario& scenario, Rule rule, const Report& best, SharedPrices* prices, Report* report) {
  SIMRUN_ASSIGN_OR_RETURN(const std::unique_ptr<ArrivalSource> source,
                          MakeSource(scenario.config().workload, static_cast<uint64_t>(scenario.config().seed), scenario.base_dir(),
                                     scenario.resolved().params.prefix_caching));
  SimulateOptions simulate;
  simulate.prices = prices;
  SIMRUN_ASSIGN_OR_RETURN(const std::unique_ptr<Simulation> run, Simulation::Create(scenario, std::move(simulate)));
  const SloConfig& slo = scenario.config().slo;
  double e2e_sum = 0;
  int64_t missed = 0;
  run->OnFinish([&](const RequestRecord& r) {
    e2e_sum += r.e2e.seconds().value();
    missed += (slo.ttft && r.ttft.seconds() > *slo.ttft) || (slo.tpot && r.tpot.seconds() > *slo.tpot);
  });
  // A little more than the best, so that rounding never stops an equal.
  const double most_e2e = best.e2e.mean.value() * static_cast<double>(best.e2e.count) * (1 + 1e-9);
  const double latest = best.simulation.simulated_s * (1 + 1e-9);
  std::optional<double> first_arrival;
  const auto hopeless = [&] {
    if (rule == Rule::kLatency) return e2e_sum > most_e2e;
    const double passed = first_arrival ? run->now().seconds().value() - *first_arrival : 0;
    if (rule == Rule::kTime) return passed > latest;
    const double attainable = static_cast<double>(best.requests.arrived - missed);
    return passed > 0 && attainable / passed < best.goodput.requests_per_s * (1 - 1e-9);
  };
  int64_t taken = 0;
  while (true) {
    Arrival a;
    SIMRUN_ASSIGN_OR_RETURN(const NextResult next, source->Next(&a));
    if (next != NextResult::kArrival) break;
    if (!first_arrival) first_arrival = a.at.seconds().value();
    if (taken++ % 64 == 0) {
      SIMRUN_RETURN_IF_ERROR(run->AdvanceTo(a.at));
      if (hopeless()) return false;
    }
    Submission s;
    s.at = a.at.seconds();
    s.input = Tokens(static_cast<double>(a.input_tokens));
    s.output = Tokens(static_cast<double>(a.output_tokens));
    s.priority = a.priority;
    s.text = a.text;
    if (a.deadline != SimTime::Infinite()) s.deadline = a.deadline.seconds();
    SIMRUN_RETURN_IF_ERROR(run->Submit(s).status());
  }
  double horizon = run->now().seconds().value();
  const double step = std::max(latest / 64, 1e-3);
  while (run->NextEventTime() != SimTime::Infinite()) {
    horizon = std::max(horizon + step, run->NextEventTime().seconds().value());
    SIMRUN_RETURN_IF_ERROR(run->AdvanceTo(Seconds(horizon)));
    if (run->NextEventTime() != SimTime::Infinite() && hopeless()) return false;
  }
  *report = run->Snapshot();
  return true;
}

// The plans of a group differ in max_num_seqs alone, most first. When a run never came near its limit, those of
// the others that are still above what it reached would take the same decisions one by one. The policies named here use the
// limit as a bound on what they admit and for nothing else.
bool LimitsNeverMattered(const ResolvedScenario& ran, const RunPeaks& peaks, const Report& report, const ResolvedScenario& other) {
  static constexpr std::array<std::string_view, 3> kPolicies = {"chunked-prefill", "prefill-first", "orca"};
  if (std::find(kPolicies.begin(), kPolicies.end(), ran.policy) == kPolicies.end()) return false;
  // What is left of old prompts depends on the size of the cache.
  if (report.prefix_cache.evicted_blocks > 0) return false;
  // Tiers outside GPU memory are reported by how full they were.
  if (!ran.memory.tiers.empty() || !other.memory.tiers.empty()) return false;
  if (ran.warnings != other.warnings || report.requests.rejected > 0 || report.requests.preemptions > 0) return false;
  // Room for one more request on top of the fullest moment: nothing ever waited for memory.
  const auto roomy = [&](const ResolvedScenario& r) {
    return peaks.blocks + r.params.limits.BlocksFor(peaks.longest) + r.params.limits.watermark_blocks <= r.params.kv_blocks;
  };
  return peaks.outstanding <= other.params.limits.max_num_seqs && other.params.limits.max_num_seqs <= ran.params.limits.max_num_seqs &&
         roomy(ran) && roomy(other);
}

// The report of such a run for the other plan.
Report WithLimitsOf(Report report, const RunPeaks& peaks, const Scenario& other) {
  const ResolvedScenario& r = other.resolved();
  report.plan.max_num_seqs = r.params.limits.max_num_seqs;
  report.memory.weights = r.memory.weights;
  report.memory.activations = r.memory.activations;
  report.memory.reserve = r.memory.reserve;
  report.memory.window = r.memory.window;
  report.memory.state_sequences = static_cast<double>(r.memory.state_sequences);
  report.memory.kv_blocks = static_cast<double>(r.memory.kv_blocks);
  report.memory.kv_capacity_tokens = static_cast<double>(r.memory.kv_blocks * r.params.limits.block_size) * r.plan.dp;
  report.memory.kv_peak_fraction = r.memory.kv_blocks > 0 ? static_cast<double>(peaks.blocks) / static_cast<double>(r.memory.kv_blocks) : 0;
  report.simulation.config_hash = other.Hash();
  return report;
}

std::string PackOne(const PlanResult& r) {
  return MessageWriter().Add(static_cast<int64_t>(r.candidate)).Add(static_cast<int64_t>(r.stopped)).Add(r.error).Add(r.objective).Add(r.report.ToBinary()).Take();
}

absl::StatusOr<PlanResult> UnpackOne(const std::string& bytes) {
  MessageReader in(bytes);
  PlanResult r;
  r.candidate = static_cast<size_t>(in.Number());
  r.stopped = in.Number() != 0;
  r.error = in.Text();
  r.objective = in.Real();
  SIMRUN_ASSIGN_OR_RETURN(r.report, Report::FromBinary(in.Text()));
  if (!in.ok()) return absl::InternalError("a result arrived damaged");
  return r;
}

std::string Pack(const std::vector<PlanResult>& results) {
  MessageWriter out;
  out.Add(static_cast<int64_t>(results.size()));
  for (const PlanResult& r : results) out.Add(PackOne(r));
  return out.Take();
}

absl::StatusOr<std::vector<PlanResult>> Unpack(const std::string& bytes) {
  MessageReader in(bytes);
  std::vector<PlanResult> results;
  const int64_t count = in.Number();
  for (int64_t i = 0; i < count && in.ok(); ++i) {
    SIMRUN_ASSIGN_OR_RETURN(PlanResult r, UnpackOne(in.Text()));
    results.push_back(std::move(r));
  }
  if (!in.ok()) return absl::InternalError("a result arrived damaged");
  return results;
}

// Places of candidates that differ in max_num_seqs alone, most first; in the order of the first of each group.
std::vector<std::vector<size_t>> GroupByLimits(const PlanSpace& space, const std::vector<size_t>& todo, bool together) {
  std::vector<std::vector<size_t>> groups;
  std::map<std::string, size_t> place;
  for (const size_t i : todo) {
    std::string key = together ? "" : fmt::format("{}", i);
    for (const auto& [path, value] : space.candidates[i].settings) {
      if (path != "scheduler.max_num_seqs") key += fmt::format("{}={};", path, value);
    }
    const auto [it, fresh] = place.emplace(std::move(key), groups.size());
    if (fresh) groups.emplace_back();
    groups[it->second].push_back(i);
  }
  for (std::vector<size_t>& group : groups) {
    const auto limit = [&](size_t i) { return space.candidates[i].scenario->resolved().params.limits.max_num_seqs; };
    std::stable_sort(group.begin(), group.end(), [&](size_t a, size_t b) { return limit(a) > limit(b); });
  }
  return groups;
}

}  // namespace

double Objective::Value(const Report& r) const {
  if (name == "carbon") {
    const double tokens = static_cast<double>(r.requests.output_tokens);
    return tokens > 0 ? r.energy.carbon_g / tokens : INFINITY;
  }
  const absl::StatusOr<const Metric*> m = FindMetric(metric);
  return m.ok() ? (*m)->value(r) : NAN;
}

absl::StatusOr<Objective> FindObjective(std::string_view name) {
  for (const Named& o : kObjectives) {
    if (name != o.name) continue;
    SIMRUN_ASSIGN_OR_RETURN(const Metric* m, FindMetric(o.metric));
    return Objective{std::string(name), m->name, m->higher_is_better};
  }
  if (const absl::StatusOr<const Metric*> m = FindMetric(name); m.ok()) return Objective{std::string(name), (*m)->name, (*m)->higher_is_better};
  std::vector<std::string> names;
  for (const Named& o : kObjectives) names.push_back(o.name);
  return absl::NotFoundError(fmt::format("unknown objective \"{}\"; {}, or a metric such as ttft.p99_s", name, NameHint(name, names)));
}

std::optional<size_t> HeuristicCandidate(const PlanSpace& space) {
  std::optional<size_t> best;
  const auto key = [](const Candidate& c) { return std::tuple(-c.tp, c.replicas, c.dp, c.ep); };
  for (size_t i = 0; i < space.candidates.size(); ++i) {
    const Candidate& c = space.candidates[i];
    if (!c.feasible()) continue;
    if (!best || key(c) < key(space.candidates[*best])) best = i;
  }
  return best;
}

absl::StatusOr<Evaluation> Evaluate(const PlanSpace& space, const EvaluateOptions& options) {
  std::vector<size_t> todo;
  for (size_t i = 0; i < space.candidates.size(); ++i) {
    if (space.candidates[i].feasible()) todo.push_back(i);
  }
  if (todo.empty()) return absl::InvalidArgumentError("no plan is feasible");
  const std::optional<size_t> usual = HeuristicCandidate(space);
  // The usual plan first: a good bound early stops more of the others.
  std::stable_partition(todo.begin(), todo.end(), [&](size_t i) { return i == *usual; });

  const Rule rule = RuleOf(options);
  const bool may_stop = rule != Rule::kNone && SameWorkload(*space.candidates[todo.front()].scenario);
  std::mutex mutex;
  Incumbent incumbent;
  const auto better = [&](double a, double b) { return options.objective.higher_is_better ? a > b : a < b; };

  const auto evaluate = [&](size_t candidate, SharedPrices* prices, RunPeaks* peaks) {
    PlanResult result;
    result.candidate = candidate;
    const Scenario& scenario = *space.candidates[candidate].scenario;
    Incumbent bound;
    if (may_stop) {
      const std::lock_guard<std::mutex> lock(mutex);
      bound = incumbent;
    }
    absl::StatusOr<Report> report = absl::UnknownError("");
    if (bound.valid) {
      Report bounded;
      const absl::StatusOr<bool> whole = RunBounded(scenario, rule, bound.report, prices, &bounded);
      if (!whole.ok()) {
        report = whole.status();
      } else {
        result.stopped = !*whole;
        report = std::move(bounded);
      }
    } else {
      SimulateOptions simulate;
      simulate.peaks = peaks;
      simulate.prices = prices;
      simulate.intervals = false;
      report = Simulate(scenario, std::move(simulate));
    }
    if (!report.ok()) {
      result.error = std::string(report.status().message());
      return result;
    }
    result.report = *std::move(report);
    result.objective = options.objective.Value(result.report);
    if (may_stop && !result.stopped && result.report.requests.rejected == 0) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!incumbent.valid || better(result.objective, incumbent.value)) {
        incumbent.valid = true;
        incumbent.value = result.objective;
        incumbent.report = result.report;
      }
    }
    return result;
  };
  // Pruning stops runs early, so there each is its own.
  const std::vector<std::vector<size_t>> groups = GroupByLimits(space, todo, !may_stop);
  // Prices of operators found by earlier runs, one set per thread.
  std::mutex prices_mutex;
  std::vector<std::unique_ptr<SharedPrices>> idle_prices;
  const auto work = [&](size_t g) {
    std::unique_ptr<SharedPrices> prices;
    {
      const std::lock_guard<std::mutex> lock(prices_mutex);
      if (!idle_prices.empty()) {
        prices = std::move(idle_prices.back());
        idle_prices.pop_back();
      }
    }
    if (prices == nullptr) prices = std::make_unique<SharedPrices>();
    std::vector<PlanResult> results;
    RunPeaks peaks;
    size_t ran = 0;   // place in results of the run that `peaks` is about
    for (const size_t candidate : groups[g]) {
      const ResolvedScenario& r = space.candidates[candidate].scenario->resolved();
      if (!results.empty() && results[ran].error.empty() &&
          LimitsNeverMattered(space.candidates[results[ran].candidate].scenario->resolved(), peaks, results[ran].report, r)) {
        PlanResult same = results[ran];
        same.candidate = candidate;
        same.report = WithLimitsOf(std::move(same.report), peaks, *space.candidates[candidate].scenario);
        same.objective = options.objective.Value(same.report);
        results.push_back(std::move(same));
        continue;
      }
      results.push_back(evaluate(candidate, prices.get(), &peaks));
      ran = results.size() - 1;
    }
    const std::lock_guard<std::mutex> lock(prices_mutex);
    idle_prices.push_back(std::move(prices));
    return results;
  };

  Evaluation evaluation;
  std::optional<double> best;
  int64_t done = 0;
  const auto consume = [&](std::vector<PlanResult> results) {
    for (PlanResult& result : results) {
      ++done;
      if (result.error.empty() && !result.stopped && (!best || better(result.objective, *best))) best = result.objective;
      evaluation.ranked.push_back(std::move(result));
    }
    if (options.on_progress != nullptr) options.on_progress(done, static_cast<int64_t>(todo.size()), best);
    return true;
  };
  const auto tick = [&] { return options.cancelled == nullptr || !options.cancelled(); };
  if (options.team == nullptr) {
    evaluation.cancelled = !RunPool(groups.size(), options.threads, work, [&](size_t, std::vector<PlanResult> r) { return consume(std::move(r)); }, tick);
  } else {
    const auto packed = [&](int64_t t) { return Pack(work(static_cast<size_t>(t))); };
    TeamOptions team;
    team.threads = options.threads;
    team.on_remark = options.on_remark;
    team.job = fmt::format("plan {} {} {}", todo.size(), space.candidates[todo.front()].scenario->Hash(), space.candidates[todo.back()].scenario->Hash());
    if (options.team->rank() > 0) {
      SIMRUN_RETURN_IF_ERROR(WorkFor(*options.team, team, packed, options.cancelled));
      return Evaluation();
    }
    std::vector<int64_t> pieces(groups.size());
    std::iota(pieces.begin(), pieces.end(), 0);
    absl::Status damaged;
    const auto unpack = [&](int64_t, const std::string& bytes) {
      absl::StatusOr<std::vector<PlanResult>> results = Unpack(bytes);
      if (!results.ok()) damaged = results.status();
      return results.ok() && consume(*std::move(results));
    };
    SIMRUN_ASSIGN_OR_RETURN(const bool completed, DealOut(*options.team, std::move(pieces), team, packed, unpack, tick));
    SIMRUN_RETURN_IF_ERROR(damaged);
    evaluation.cancelled = !completed;
  }

  const auto rank = [&](const PlanResult& r) {
    if (!r.error.empty()) return 3;
    if (r.stopped) return 2;
    return r.report.goodput.slo_attainment + 1e-12 < options.min_attainment ? 1 : 0;
  };
  std::stable_sort(evaluation.ranked.begin(), evaluation.ranked.end(), [&](const PlanResult& a, const PlanResult& b) {
    if (rank(a) != rank(b)) return rank(a) < rank(b);
    if (rank(a) < 2) {
      // Requests that were turned away cost nothing and wait for nothing: serving more of them comes first.
      if (a.report.requests.completed != b.report.requests.completed) return a.report.requests.completed > b.report.requests.completed;
      if (a.objective != b.objective) return better(a.objective, b.objective);
      if (a.report.e2e.mean != b.report.e2e.mean) return a.report.e2e.mean < b.report.e2e.mean;
    }
    return a.candidate < b.candidate;
  });
  for (size_t i = 0; i < evaluation.ranked.size(); ++i) {
    if (usual && evaluation.ranked[i].candidate == *usual) evaluation.heuristic = i;
  }
  if (!options.pareto.empty()) {
    std::vector<std::vector<double>> points;
    std::vector<bool> higher;
    for (const Objective& o : options.pareto) higher.push_back(o.higher_is_better);
    for (const PlanResult& r : evaluation.ranked) {
      std::vector<double> point;
      for (const Objective& o : options.pareto) point.push_back(rank(r) == 0 ? o.Value(r.report) : NAN);
      points.push_back(std::move(point));
    }
    evaluation.front = ParetoFront(points, higher);
  }
  return evaluation;
}

std::vector<std::string> WhyItWins(const Report& best, const Report& other) {
  std::vector<std::string> lines;
  const auto ratio = [&](const char* what, double a, double b, const char* more, const char* less) {
    if (a <= 0 || b <= 0) return;
    const double r = a / b;
    if (r < 0.1) {
      lines.push_back(fmt::format("{}: {:.3g} times {}", what, b / a, less));
    } else if (r > 1.005) {
      lines.push_back(fmt::format("{}: {:.2f} times {}", what, r, more));
    } else if (r < 0.995) {
      lines.push_back(fmt::format("{}: {:.0f} % {}", what, 100 * (1 - r), less));
    }
  };
  ratio("output tokens per second", best.throughput.output_tokens_per_s, other.throughput.output_tokens_per_s, "as many", "fewer");
  ratio("requests within the SLO per second", best.goodput.requests_per_s, other.goodput.requests_per_s, "as many", "fewer");
  ratio("mean latency", best.e2e.mean.value(), other.e2e.mean.value(), "as long", "shorter");
  ratio("P99 time to first token", best.ttft.p99.value(), other.ttft.p99.value(), "as long", "shorter");
  ratio("mean time per output token", best.tpot.mean.value(), other.tpot.mean.value(), "as long", "shorter");
  ratio("energy per output token", best.energy.per_output_token.value(), other.energy.per_output_token.value(), "as much", "less");
  ratio("cost per output token", best.cost.usd_per_million_output_tokens.value(), other.cost.usd_per_million_output_tokens.value(), "as much", "less");
  for (const auto& [name, share] : best.bottleneck) {
    const auto it = other.bottleneck.find(name);
    const double before = it == other.bottleneck.end() ? 0 : it->second;
    if (std::fabs(share - before) >= 0.03) lines.push_back(fmt::format("engine time bound by {}: {:.0f} % instead of {:.0f} %", name, 100 * share, 100 * before));
  }
  return lines;
}

std::vector<LaunchCommand> LaunchCommands(const Scenario& scenario) {
  const ResolvedScenario& r = scenario.resolved();
  const ParallelPlan& p = r.plan;
  const int64_t seqs = r.params.limits.max_num_seqs, tokens = r.params.limits.max_num_batched_tokens;
  const bool fp8 = p.weights == DType::kFp8, fp8_kv = p.kv_cache == DType::kFp8, moe = r.model.moe.has_value();
  const bool other_weights = p.weights != r.model.native_dtype && !fp8 && !(r.model.expert_dtype && p.weights == *r.model.expert_dtype);
  const int ranks = p.tp * p.dp;
  const std::string copies = p.replicas > 1 ? fmt::format("{} servers behind a load balancer", p.replicas) : "";
  const std::string weights_note = fmt::format("weights in {}: give a checkpoint in that format", DTypeName(p.weights));

  LaunchCommand vllm{"vllm", fmt::format("vllm serve {} --tensor-parallel-size {}", r.model.name, p.tp), {}};
  if (p.pp > 1) vllm.command += fmt::format(" --pipeline-parallel-size {}", p.pp);
  if (p.dp > 1) vllm.command += fmt::format(" --data-parallel-size {}", p.dp);
  if (p.ep > 1) vllm.command += " --enable-expert-parallel";
  if (p.ep > 1 && p.ep != ranks) vllm.not_expressed.push_back(fmt::format("ep {}: vLLM spreads experts over all {} ranks", p.ep, ranks));
  if (moe && p.dp > 1 && p.ep == 1) vllm.not_expressed.push_back("experts of its own in every attention replica: vLLM shares them over all ranks");
  vllm.command += fmt::format(" --max-num-seqs {} --max-num-batched-tokens {}", seqs, tokens);
  if (fp8) vllm.command += " --quantization fp8";
  if (fp8_kv) vllm.command += " --kv-cache-dtype fp8";
  if (!r.params.prefix_caching) vllm.command += " --no-enable-prefix-caching";

  const bool shared_mlp = !moe && p.separate_ffn() && p.dp > 1;
  const std::string layers = fmt::format("{}", fmt::join(p.stage_layers, ","));
  if (shared_mlp) vllm.not_expressed.push_back("attention replicas that share the MLP of a dense model: vLLM has none");
  if (!layers.empty()) vllm.command = fmt::format("VLLM_PP_LAYER_PARTITION={} {}", layers, vllm.command);

  LaunchCommand sglang{"sglang", fmt::format("python -m sglang.launch_server --model-path {} --tp-size {}", r.model.name, ranks), {}};
  if (p.pp > 1) sglang.command += fmt::format(" --pp-size {}", p.pp);
  if (p.dp > 1) sglang.command += fmt::format(" --dp-size {} --enable-dp-attention", p.dp);
  if (p.ep > 1) sglang.command += fmt::format(" --ep-size {}", p.ep);
  if (moe && p.dp > 1 && p.ep == 1) sglang.not_expressed.push_back("experts of its own in every attention replica: SGLang splits them over all ranks");
  sglang.command += fmt::format(" --max-running-requests {} --chunked-prefill-size {}", seqs * p.dp, tokens);
  if (fp8) sglang.command += " --quantization fp8";
  if (fp8_kv) sglang.command += " --kv-cache-dtype fp8_e4m3";
  if (!r.params.prefix_caching) sglang.command += " --disable-radix-cache";

  if (!layers.empty()) sglang.command = fmt::format("SGLANG_PP_LAYER_PARTITION={} {}", layers, sglang.command);

  LaunchCommand trt{"tensorrt-llm", fmt::format("trtllm-serve {} --tp_size {}", r.model.name, ranks), {}};
  if (p.pp > 1) trt.command += fmt::format(" --pp_size {}", p.pp);
  if (p.ep > 1) trt.command += fmt::format(" --ep_size {}", p.ep);
  trt.command += fmt::format(" --max_batch_size {} --max_num_tokens {}", seqs, tokens);
  if (p.dp > 1) {
    if (p.tp == 1) {
      trt.command += " --extra_llm_api_options options.yaml  # with `enable_attention_dp: true`";
    } else {
      trt.not_expressed.push_back(fmt::format("attention dp {} with tp {}: TensorRT-LLM has all ranks of one engine in attention dp or none", p.dp, p.tp));
    }
  }
  if (!layers.empty()) trt.not_expressed.push_back(fmt::format("layers per stage [{}]: TensorRT-LLM splits them evenly", layers));
  if (fp8) trt.not_expressed.push_back(weights_note);
  if (fp8_kv) trt.not_expressed.push_back("fp8 KV cache: set kv_cache_config.dtype: fp8 in the options file");

  std::vector<LaunchCommand> commands = {std::move(vllm), std::move(sglang), std::move(trt)};
  for (LaunchCommand& c : commands) {
    if (!moe && p.separate_ffn() && p.dp == 1) {
      c.not_expressed.push_back(fmt::format("MLP split over {} of the {} GPUs of attention", p.ffn_tp, p.tp));
    }
    if (!r.placement.resident) c.not_expressed.push_back("tensors outside GPU memory (plan.placement)");
    if (other_weights) c.not_expressed.push_back(weights_note);
    if (!copies.empty()) c.not_expressed.push_back(copies);
    if (r.machine.power_limit) c.not_expressed.push_back(fmt::format("power limit: nvidia-smi -pl {:.0f}", r.machine.power_limit->value()));
  }
  return commands;
}

}  // namespace simrun::planner
