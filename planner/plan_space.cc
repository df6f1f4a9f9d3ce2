#include "planner/plan_space.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/paths.h"
#include "hw/machine.h"
#include "models/lowering.h"
#include "models/tensors.h"
#include "planner/pool.h"
#include "sim/resolved.h"

namespace simrun::planner {
namespace {

// At most this many candidates are made.
constexpr int64_t kMaxCandidates = 1'000'000;

std::vector<int> Divisors(int n) {
  std::vector<int> out;
  for (int d = 1; d <= n; ++d) {
    if (n % d == 0) out.push_back(d);
  }
  return out;
}

bool IsPowerOfTwo(int n) { return (n & (n - 1)) == 0; }

struct Hardware {
  std::vector<std::pair<std::string, std::string>> settings;   // empty: as in the scenario
  int gpus = 0, gpus_per_node = 1;
};

void Erase(YamlNode* map, const std::string& key) {
  auto& e = map->entries();
  e.erase(std::remove_if(e.begin(), e.end(), [&](const YamlNode::Entry& entry) { return entry.key == key; }), e.end());
}

YamlNode* Section(YamlNode* root, const std::string& key) {
  for (YamlNode::Entry& e : root->entries()) {
    if (e.key == key && e.value.IsMap()) return &e.value;
  }
  return nullptr;
}

// The scenario without what the search decides.
YamlNode Stripped(const YamlNode& root, const SearchConfig& search) {
  YamlNode out = root;
  Erase(&out, "search");
  if (YamlNode* plan = Section(&out, "plan"); plan != nullptr && !search.placements.empty()) {
    if (YamlNode* placement = Section(plan, "placement"); placement != nullptr) {
      Erase(placement, "rules");
    } else {
      Erase(plan, "placement");   // short for a policy or rules
    }
  }
  if (YamlNode* plan = Section(&out, "plan"); plan != nullptr) {
    for (const char* key : {"tp", "pp", "dp", "ep", "replicas", "ffn_tp", "layers_per_stage"}) Erase(plan, key);
  }
  return out;
}

absl::Status Apply(const std::vector<std::pair<std::string, std::string>>& settings, YamlNode* root) {
  for (const auto& [path, text] : settings) {
    YamlNode value = YamlNode::Scalar(text);
    if (text.front() == '[') {
      SIMRUN_ASSIGN_OR_RETURN(value, ParseYaml(text, path));
    }
    SIMRUN_RETURN_IF_ERROR(root->Set(path, std::move(value)));
    // What a search for a placement looks for means nothing to other policies.
    if (path == "plan.placement.policy" && text != "optimize") Erase(Section(Section(root, "plan"), "placement"), "objective");
  }
  return absl::OkStatus();
}

// The hardware section for one type; a GPU type replaces a node and the other way round.
YamlNode WithHardware(const YamlNode& root, const Hardware& hardware) {
  YamlNode out = root;
  if (hardware.settings.empty()) return out;
  if (YamlNode* section = Section(&out, "hardware"); section != nullptr) {
    for (const char* key : {"node", "nodes", "gpu", "count", "gpus_per_node", "host", "link", "network"}) Erase(section, key);
  }
  // The section is a map, so setting keys in it cannot fail.
  Apply(hardware.settings, &out).IgnoreError();
  return out;
}

Hardware Describe(const HardwareConfig& config, const Catalog& catalog, const SearchConfig& search, Problems* problems) {
  Hardware h;
  const Machine machine = BuildMachine(config, catalog, {}, problems);
  h.gpus = machine.gpu_count;
  h.gpus_per_node = machine.gpus_per_node;
  if (search.gpus) {
    if (h.gpus > 0 && *search.gpus > h.gpus) {
      problems->Add({}, "search.gpus", fmt::format("{} GPUs, but the hardware has {}", *search.gpus, h.gpus), "raise hardware.nodes or hardware.count");
    }
    h.gpus = static_cast<int>(*search.gpus);
  }
  return h;
}

std::vector<Hardware> HardwareTypes(const HardwareConfig& given, const SearchConfig& search, const std::string& base_dir,
                                    const Catalog& catalog, Problems* problems) {
  const HardwareConfig hardware = LocateFiles(given, base_dir);
  std::vector<Hardware> out;
  if (search.gpu_types.empty() && search.node_types.empty()) {
    out.push_back(Describe(hardware, catalog, search, problems));
    if (problems->empty() && out.back().gpus == 0) {
      problems->Add({}, "search.gpus", "is required", "how many GPUs to use; or set hardware.count");
    }
    return out;
  }
  for (const std::string& gpu : search.gpu_types) {
    HardwareConfig changed = hardware;
    changed.node.clear();
    changed.nodes = 1;
    changed.gpu = LocateEntry(base_dir, gpu);
    changed.host.clear();
    changed.link.clear();
    changed.network.clear();
    changed.gpus_per_node.reset();
    if (!search.gpus && !hardware.node.empty()) {
      const absl::StatusOr<NodeSpec> node = LoadNode(hardware.node, catalog);
      if (node.ok()) changed.count = node->count * hardware.nodes;
    } else if (search.gpus) {
      changed.count = static_cast<int>(*search.gpus);
    }
    Hardware h = Describe(changed, catalog, search, problems);
    h.settings = {{"hardware.gpu", gpu}, {"hardware.count", fmt::format("{}", h.gpus)}};
    if (problems->empty() && h.gpus == 0) problems->Add({}, "search.gpus", "is required", "how many GPUs to use; or set hardware.count");
    out.push_back(std::move(h));
  }
  for (const std::string& node : search.node_types) {
    HardwareConfig changed = hardware;
    changed.gpu.clear();
    changed.count.reset();
    changed.gpus_per_node.reset();
    changed.host.clear();
    changed.link.clear();
    changed.network.clear();
    changed.node = LocateEntry(base_dir, node);
    if (search.gpus) {
      const absl::StatusOr<NodeSpec> spec = LoadNode(changed.node, catalog);
      if (spec.ok() && spec->count > 0) changed.nodes = static_cast<int>((*search.gpus + spec->count - 1) / spec->count);
    }
    Hardware h = Describe(changed, catalog, search, problems);
    h.settings = {{"hardware.node", node}, {"hardware.nodes", fmt::format("{}", changed.nodes)}};
    out.push_back(std::move(h));
  }
  return out;
}

// One axis of settings beside the degrees; no values: left as it is.
struct Axis {
  std::string path;
  std::vector<std::string> values;
};

std::vector<Axis> Axes(const SearchConfig& s) {
  const auto numbers = [](const std::vector<int64_t>& in) {
    std::vector<std::string> out;
    for (const int64_t n : in) out.push_back(fmt::format("{}", n));
    return out;
  };
  std::vector<std::string> watts, clocks;
  for (const PerSecond c : s.clocks) clocks.push_back(fmt::format("{:.10g} MHz", c.value() / 1e6));
  for (const Watts w : s.power_limits) watts.push_back(FormatQuantityText(w.value(), DimensionOf(w)));
  return {{"plan.weights", s.weights},
          {"plan.kv_cache", s.kv_cache},
          {"scheduler.policy", s.policies},
          {"scheduler.max_num_seqs", numbers(s.max_num_seqs)},
          {"scheduler.max_num_batched_tokens", numbers(s.max_num_batched_tokens)},
          {"plan.placement.policy", s.placements},
          {"hardware.power_limit", watts},
          {"hardware.gpu_clock", clocks}};
}

// Splits of the layers over the stages beside the even one: the last stage, which has the LM head, holds 1, 2, ... layers
// fewer than the others, up to the layers that weigh as much as the head.
std::vector<std::vector<int>> UnevenSplits(const ModelSpec& model, int pp) {
  std::vector<std::vector<int>> splits;
  if (pp < 2 || model.layers < 2 * pp) return splits;
  double layer = 0, head = static_cast<double>(model.vocab * model.hidden);
  for (const Tensor& t : LayerTensors(model, KindOfLayer(model, model.layers - 1))) layer += static_cast<double>(t.elements);
  const int layers = static_cast<int>(model.layers), most = std::clamp(static_cast<int>(std::ceil(head / std::max(layer, 1.0))), 1, 8);
  ParallelPlan even;
  even.pp = pp;
  for (int fewer = 1; fewer <= most; ++fewer) {
    const int last = LayersOfStage(model, even, pp - 1).count - fewer, rest = layers - last;
    if (last < 1) break;
    std::vector<int> split;
    for (int s = 0; s + 1 < pp; ++s) split.push_back(rest / (pp - 1) + (s < rest % (pp - 1) ? 1 : 0));
    split.push_back(last);
    splits.push_back(std::move(split));
  }
  return splits;
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

// The problem without the place in the file and the advice: "does not fit: ...".
std::string Reason(const std::string& message) {
  std::string line = FirstLine(message);
  if (const size_t at = line.find("plan: does not fit"); at != std::string::npos) line = line.substr(at + 6);
  return line.substr(0, line.find("; "));
}

}  // namespace

std::vector<std::string> DegreeChoices() { return {"powers-of-two", "divisors"}; }

std::string_view ObstacleName(Obstacle o) {
  switch (o) {
    case Obstacle::kNone: return "feasible";
    case Obstacle::kDivisibility: return "divisibility";
    case Obstacle::kTopology: return "topology";
    case Obstacle::kMemory: return "memory";
    case Obstacle::kSetting: return "setting";
  }
  return "";
}

int64_t PlanSpace::Count(Obstacle o) const {
  return std::count_if(candidates.begin(), candidates.end(), [&](const Candidate& c) { return c.obstacle == o; });
}

SearchConfig ReadSearch(const YamlNode& root, Problems* problems) {
  SearchConfig search;
  const YamlNode* node = root.Find("search");
  if (node == nullptr) return search;
  ReadParams(*node, "search", problems, &search);
  if (!node->IsMap()) return search;
  for (const YamlNode::Entry& e : node->entries()) {
    if (e.value.IsSequence() && e.value.items().empty()) {
      problems->Add(e.value.location(), "search." + e.key, "is empty", "an axis needs at least one value; leave it out to keep the scenario's own");
    }
  }
  return search;
}

absl::StatusOr<PlanSpace> Enumerate(const YamlNode& root, const std::string& base_dir, std::shared_ptr<const Catalog> catalog,
                                    const SearchConfig& search, int threads) {
  if (catalog == nullptr) catalog = std::make_shared<const Catalog>(BuiltInCatalog());
  const YamlNode base = Stripped(root, search);
  ScenarioConfig config;
  Problems problems;
  ReadParams(base, "", &problems, &config);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  const std::vector<Hardware> types = HardwareTypes(config.hardware, search, base_dir, *catalog, &problems);
  const absl::StatusOr<ModelSpec> model = LoadModel(config.model, *catalog, base_dir);
  if (!model.ok()) problems.Add({}, "model", std::string(model.status().message()));
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());

  PlanSpace space;
  std::vector<size_t> type_of;
  std::vector<Axis> axes = Axes(search);
  axes.erase(std::remove_if(axes.begin(), axes.end(), [](const Axis& a) { return a.values.empty(); }), axes.end());
  const auto wanted = [&](int degree) { return search.degrees == "divisors" || IsPowerOfTwo(degree); };
  for (size_t t = 0; t < types.size(); ++t) {
    std::vector<int> totals = {types[t].gpus};
    if (search.partial) {
      totals.clear();
      for (int n = 1; n <= types[t].gpus; ++n) {
        if (n == types[t].gpus || search.degrees == "divisors" || IsPowerOfTwo(n)) totals.push_back(n);
      }
    }
    for (const int gpus : totals) {
      for (const int replicas : Divisors(gpus)) {
        // The number of copies may be anything that the other degrees leave over.
        for (const int pp : Divisors(gpus / replicas)) {
          if (!wanted(pp) || pp > 64) continue;
          for (const int dp : Divisors(gpus / replicas / pp)) {
            const int tp = gpus / replicas / pp / dp;
            const bool separate = search.separate_ffn && !model->moe;
            if (!wanted(tp) || !wanted(dp) || (dp > 1 && !model->moe && !separate)) continue;
            // The other degree: ranks of whole experts, or of the MLP of a dense model.
            std::vector<std::pair<int, int>> second;   // ep, ffn_tp
            if (model->moe || dp == 1) {
              for (const int ep : Divisors(dp * tp)) {
                if (wanted(ep) && (ep == 1 || model->moe)) second.emplace_back(ep, 0);
              }
            }
            if (separate && dp > 1) second.emplace_back(1, dp * tp);
            if (separate && dp == 1) {
              for (const int ffn_tp : Divisors(tp)) {
                if (wanted(ffn_tp) && ffn_tp < tp) second.emplace_back(1, ffn_tp);
              }
            }
            for (const auto& [ep, ffn_tp] : second) {
              Candidate c;
              c.tp = tp;
              c.pp = pp;
              c.dp = dp;
              c.ep = ep;
              c.ffn_tp = ffn_tp;
              c.replicas = replicas;
              if (ffn_tp > 0) c.settings.emplace_back("plan.ffn_tp", fmt::format("{}", ffn_tp));
              std::vector<Candidate> variants = {c};
              if (search.uneven_layers) {
                for (std::vector<int>& split : UnevenSplits(*model, pp)) {
                  variants.push_back(c);
                  variants.back().settings.emplace_back("plan.layers_per_stage", fmt::format("[{}]", fmt::join(split, ", ")));
                  variants.back().stage_layers = std::move(split);
                }
              }
              for (const Axis& axis : axes) {
                std::vector<Candidate> more;
                for (const Candidate& v : variants) {
                  for (const std::string& value : axis.values) {
                    more.push_back(v);
                    more.back().settings.emplace_back(axis.path, value);
                  }
                }
                variants = std::move(more);
              }
              for (Candidate& v : variants) {
                std::vector<std::pair<std::string, std::string>> settings = types[t].settings;
                for (const auto& [name, degree] : {std::pair("tp", tp), {"pp", pp}, {"dp", dp}, {"ep", ep}, {"replicas", replicas}}) {
                  settings.emplace_back(std::string("plan.") + name, fmt::format("{}", degree));
                }
                settings.insert(settings.end(), v.settings.begin(), v.settings.end());
                v.settings = std::move(settings);
                space.candidates.push_back(std::move(v));
                type_of.push_back(t);
              }
              if (static_cast<int64_t>(space.candidates.size()) > kMaxCandidates) {
                return absl::InvalidArgumentError(fmt::format("search: more than {} candidates; shorten the lists", kMaxCandidates));
              }
            }
          }
        }
      }
    }
  }
  std::vector<YamlNode> roots;
  for (const Hardware& h : types) roots.push_back(WithHardware(base, h));

  const auto check = [&](size_t i) {
    Candidate c = space.candidates[i];
    const Hardware& hardware = types[type_of[i]];
    ParallelPlan plan;
    plan.tp = c.tp;
    plan.pp = c.pp;
    plan.dp = c.dp;
    plan.ep = c.ep;
    plan.ffn_tp = c.ffn_tp;
    plan.stage_layers = c.stage_layers;
    Problems found;
    CheckPlan(*model, plan, {}, &found);
    if (!found.empty()) {
      c.obstacle = Obstacle::kDivisibility;
      c.reason = found.lines().front();
      return c;
    }
    if (std::max(c.tp, c.ffn_tp) > hardware.gpus_per_node && !search.tp_across_nodes) {
      c.obstacle = Obstacle::kTopology;
      c.reason = fmt::format("{} {} is more than the {} GPUs of a node", c.ffn_tp > c.tp ? "ffn_tp" : "tp", std::max(c.tp, c.ffn_tp), hardware.gpus_per_node);
      return c;
    }
    YamlNode settings = roots[type_of[i]];
    absl::Status applied = Apply(c.settings, &settings);
    absl::StatusOr<Scenario> scenario = applied.ok() ? Scenario::FromNode(std::move(settings), base_dir, catalog) : applied;
    if (scenario.ok()) {
      c.scenario = *std::move(scenario);
      return c;
    }
    const std::string message(scenario.status().message());
    c.obstacle = message.find("does not fit") != std::string::npos ? Obstacle::kMemory : Obstacle::kSetting;
    c.reason = Reason(message);
    return c;
  };
  RunPool(space.candidates.size(), threads, check, [&](size_t i, Candidate c) {
    space.candidates[i] = std::move(c);
    return true;
  }, [] { return true; });

  // A placement that leaves everything on the GPU is the gpu plan once more.
  if (std::find(search.placements.begin(), search.placements.end(), "gpu") != search.placements.end()) {
    std::erase_if(space.candidates, [](const Candidate& c) {
      return c.feasible() && c.scenario->config().plan.placement.policy != "gpu" && c.scenario->resolved().placement.resident;
    });
  }

  // What stands in the way of every plan is wrong with the scenario, not with the plans.
  if (!space.candidates.empty() && space.Count(Obstacle::kSetting) > 0 && space.Count(Obstacle::kNone) + space.Count(Obstacle::kMemory) == 0) {
    for (const Candidate& c : space.candidates) {
      if (c.obstacle == Obstacle::kSetting) return absl::InvalidArgumentError(c.reason);
    }
  }
  std::vector<std::pair<std::string, std::set<std::string>>> values;
  for (const Candidate& c : space.candidates) {
    for (const auto& [path, value] : c.settings) {
      auto it = std::find_if(values.begin(), values.end(), [&setting = path](const auto& v) { return v.first == setting; });
      if (it == values.end()) it = values.insert(values.end(), {path, {}});
      it->second.insert(value);
    }
  }
  for (const auto& [path, seen] : values) {
    if (seen.size() > 1) space.varied.push_back(path);
  }
  return space;
}

std::vector<ApexPlan> EnumerateApex(const ModelSpec& model, int gpus, Bytes memory, double bytes_per_weight) {
  const double h = static_cast<double>(model.hidden), d = static_cast<double>(model.attention.head_dim);
  const double attention = 2 * h * d * static_cast<double>(model.attention.heads) + 2 * h * d * static_cast<double>(model.attention.kv_heads);
  const int experts = model.moe ? static_cast<int>(model.moe->experts) : 0;
  const double inner = static_cast<double>(model.moe ? model.moe->ffn : model.mlp.ffn);
  const double ffn = (model.moe ? 2 : 3) * h * inner, expert = 3 * h * inner;
  std::vector<ApexPlan> plans;
  for (const int replicas : Divisors(gpus)) {
    for (const int stages : Divisors(gpus / replicas)) {
      if (model.layers % stages != 0) continue;
      const int devices = gpus / replicas / stages;
      const double scale = static_cast<double>(model.layers) / stages * bytes_per_weight;
      for (const int a : Divisors(devices)) {
        for (const int f : Divisors(devices)) {
          const double both = attention * a / devices + ffn * f / devices;
          const auto add = [&](int moe, bool expert_parallel, double expert_weights) {
            const double bytes = (both + expert_weights) * scale;
            if (std::gcd(std::gcd(a, f), moe) != 1 || bytes > memory.value()) return;
            plans.push_back({replicas, stages, a, f, moe, expert_parallel, bytes});
          };
          if (experts == 0) {
            add(0, false, 0);
            continue;
          }
          for (const int m : Divisors(devices)) {
            const int shared_by = devices / m;
            add(m, false, expert * experts / shared_by);
            if (shared_by > 1 && experts >= shared_by) add(m, true, expert * std::ceil(static_cast<double>(experts) / shared_by));
          }
        }
      }
    }
  }
  return plans;
}

}  // namespace simrun::planner
