#include "cli/names.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "base/params.h"
#include "base/quantity_text.h"
#include "cli/text.h"
#include "hw/cost/operator_params.h"
#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "models/lowering.h"
#include "models/model_spec.h"
#include "schedulers/batching.h"
#include "schedulers/config.h"
#include "schedulers/router.h"
#include "workload/config.h"

namespace simrun {
namespace {

using Names = std::vector<std::string>;

// ---- catalogue entries ----

// One value of an entry on one line: "3352 GB/s", "[a, b]", or the parts of a small map.
std::string Inline(const YamlNode& node) {
  std::string text;
  switch (node.kind()) {
    case YamlNode::Kind::kNull:
      return "-";
    case YamlNode::Kind::kScalar:
      return node.text();
    case YamlNode::Kind::kSequence:
      for (const YamlNode& item : node.items()) text += (text.empty() ? "" : ", ") + Inline(item);
      return text;
    case YamlNode::Kind::kMap:
      for (const YamlNode::Entry& e : node.entries()) {
        if (e.value.IsScalar() && e.value.text() == "auto") continue;   // not given
        text += fmt::format("{}{} {}", text.empty() ? "" : ", ", e.key, Inline(e.value));
      }
      return text;
  }
  return text;
}

// Rows of path, value, confidence and source. A number with its origin is a map {value, source, confidence, note}.
void AddRows(const std::string& path, const YamlNode& node, TextTable* table) {
  if (const YamlNode* value = node.Find("value"); value != nullptr) {
    const YamlNode* confidence = node.Find("confidence");
    const YamlNode* source = node.Find("source");
    const YamlNode* note = node.Find("note");
    std::string origin = source != nullptr ? source->text() : "";
    if (note != nullptr) origin += fmt::format(" ({})", note->text());
    table->Add({path, Inline(*value), confidence != nullptr ? confidence->text() : "", origin});
  } else if (node.IsMap()) {
    for (const YamlNode::Entry& e : node.entries()) AddRows(path.empty() ? e.key : path + "." + e.key, e.value, table);
  } else if (node.IsSequence() && !node.items().empty() && node.items()[0].IsMap()) {
    for (size_t i = 0; i < node.items().size(); ++i) table->Add({fmt::format("{}.{}", path, i), Inline(node.items()[i])});
  } else if (const std::string text = Inline(node); !text.empty()) {
    table->Add({path, text});
  }
}

std::string ExplainNode(const YamlNode& node) {
  TextTable table("l");
  AddRows("", node, &table);
  return table.ToText("  ") + "\n  Confidence: A read in the source, B vendor figure from prior knowledge, C estimate.\n";
}

absl::StatusOr<std::string> ExplainEntry(std::string_view section, const std::string& name, const Catalog& catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const YamlNode node, catalog.Load(section, name));
  return ExplainNode(node);
}

// A line about an entry that cannot be read names the first problem instead.
template <class T>
std::string OrProblem(const absl::StatusOr<T>& entry, const std::function<std::string(const T&)>& text) {
  if (entry.ok()) return text(*entry);
  const std::string message(entry.status().message());
  return "unreadable: " + message.substr(0, message.find('\n'));
}

NameSection CatalogSection(std::string name, std::string summary, std::function<std::string(const std::string&, const Catalog&)> describe,
                           std::function<absl::StatusOr<std::string>(const std::string&, const Catalog&)> explain = nullptr) {
  NameSection s;
  s.name = std::move(name);
  s.summary = std::move(summary);
  s.names = [section = s.name](const Catalog& c) { return c.Names(section); };
  s.describe = std::move(describe);
  s.explain = explain ? std::move(explain) : [section = s.name](const std::string& n, const Catalog& c) { return ExplainEntry(section, n, c); };
  s.in_catalog = true;
  return s;
}

// ---- models ----

std::string Billions(double parameters) { return fmt::format("{:.4g} B", parameters / 1e9); }

std::string DescribeModel(const std::string& name, const Catalog& catalog) {
  return OrProblem<ModelSpec>(LoadModel(name, catalog), [](const ModelSpec& m) {
    std::string text = Billions(static_cast<double>(ParameterCount(m))) + " parameters";
    if (m.moe) text += fmt::format(", {} active", Billions(static_cast<double>(ActiveParameterCount(m, true))));
    return fmt::format("{}, {} layers, context {}", text, m.layers, CountText(static_cast<double>(m.max_positions)));
  });
}

absl::StatusOr<std::string> ExplainModel(const std::string& name, const Catalog& catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const ModelSpec m, LoadModel(name, catalog));
  TextTable table("l");
  const auto add = [&](std::string label, std::string value) { table.Add({std::move(label), std::move(value)}); };
  add("parameters", CountText(static_cast<double>(ParameterCount(m))));
  if (m.moe) add("active per token", CountText(static_cast<double>(ActiveParameterCount(m, true))));
  add("layers", fmt::format("{} x hidden {}", m.layers, m.hidden));
  add("attention", fmt::format("{} query heads, {} key-value heads, head width {}{}", m.attention.heads, m.attention.kv_heads,
                               m.attention.head_dim, m.has_mla() ? ", multi-head latent attention" : ""));
  if (m.has_linear()) {
    const LinearAttentionSpec& l = *m.attention.linear;
    add("", fmt::format("but linear attention in all but every layer number {}: {} value and {} key heads, states of {} x {}", m.attention.full_every,
                        l.value_heads, l.key_heads, l.key_dim, l.value_dim));
  } else if (m.attention.pattern != "full") {
    add("", fmt::format("{} attention over {} tokens{}", m.attention.pattern, m.attention.window,
                        m.attention.full_every > 0 ? fmt::format(", full in every layer number {}", m.attention.full_every) : ""));
  }
  if (m.mlp.ffn > 0) add("feed-forward", fmt::format("inner width {}{}", m.mlp.ffn, m.mlp.gated ? ", gated" : ""));
  if (m.moe) {
    add("experts", fmt::format("{} routed, {} per token, inner width {}; {} shared", m.moe->experts, m.moe->top_k, m.moe->ffn, m.moe->shared));
  }
  add("vocabulary", fmt::format("{}{}", m.vocab, m.tie_embeddings ? ", embedding and LM head are one matrix" : ""));
  add("context", Plural(static_cast<double>(m.max_positions), "token"));
  ParallelPlan plan;
  for (const DType dtype : {DType::kBf16, DType::kFp8}) {
    plan.kv_cache = dtype;
    const KvBytes kv = KvBytesPerGpu(m, plan, 0);
    if (kv.per_token.value() + kv.per_token_windowed.value() == 0) continue;
    std::string text = fmt::format("{} per token", Human(kv.per_token));
    if (kv.window > 0) text += fmt::format(", and {} for each of the last {} tokens", Human(kv.per_token_windowed), kv.window);
    add(fmt::format("KV cache {}", DTypeName(dtype)), text);
  }
  if (m.has_linear()) add("states", fmt::format("{} per sequence ({})", Human(StateBytesPerGpu(m, ParallelPlan(), 0)), m.attention.linear->state_dtype));
  std::vector<DType> formats = {DType::kBf16, DType::kFp8, DType::kInt4};
  for (const DType released : {m.native_dtype, m.expert_dtype.value_or(m.native_dtype)}) {
    if (std::find(formats.begin(), formats.end(), released) == formats.end()) formats.push_back(released);
  }
  for (const DType dtype : formats) {
    plan.weights = dtype;
    const bool released = dtype == m.expert_dtype.value_or(m.native_dtype);
    add(fmt::format("weights {}", DTypeName(dtype)), fmt::format("{} on one GPU{}", Human(WeightBytesPerGpu(m, plan, 0)), released ? " (as released)" : ""));
  }
  if (!m.aliases.empty()) {
    std::string aliases;
    for (const std::string& alias : m.aliases) aliases += (aliases.empty() ? "" : ", ") + alias;
    add("also known as", aliases);
  }
  add("source", fmt::format("{} (confidence {})", m.source, m.confidence));
  if (!m.note.empty()) add("note", m.note);
  return table.ToText("  ");
}

// ---- hardware ----

std::string DescribeGpu(const std::string& name, const Catalog& catalog) {
  return OrProblem<GpuSpec>(LoadGpu(name, catalog), [](const GpuSpec& g) {
    FlopsPerSecond peak = g.peak[static_cast<int>(DType::kBf16)];
    const char* format = "bf16";
    if (peak.value() == 0) peak = g.peak[static_cast<int>(DType::kFp16)], format = "fp16";
    return fmt::format("{} {}, {}, {}, {} {}, {}", g.vendor, g.architecture, Human(g.memory), Human(g.memory_bandwidth), Human(peak),
                       format, ProvenanceName(g.operators_provenance));
  });
}

std::string DescribeCpu(const std::string& name, const Catalog& catalog) {
  return OrProblem<CpuSpec>(LoadCpu(name, catalog), [](const CpuSpec& c) {
    return fmt::format("{} cores, {}, single-thread speed {:.2f}", c.cores, Human(c.memory_bandwidth), c.single_thread);
  });
}

std::string DescribeLink(const std::string& name, const Catalog& catalog) {
  return OrProblem<LinkSpec>(LoadLink(name, catalog), [](const LinkSpec& l) {
    return fmt::format("{}, {} per direction, {:.0f} % reached, {}", l.kind, Human(l.bandwidth), l.efficiency * 100, Human(l.latency));
  });
}

std::string DescribeNode(const std::string& name, const Catalog& catalog) {
  return OrProblem<NodeSpec>(LoadNode(name, catalog), [](const NodeSpec& n) {
    return fmt::format("{} x {}, {} x {}, network {}", n.count, n.gpu, n.sockets, n.host, n.network.empty() ? "none" : n.network);
  });
}

std::string DescribeEngine(const std::string& name, const Catalog& catalog) {
  return OrProblem<EngineProfile>(LoadEngineProfile(name, catalog), [](const EngineProfile& e) {
    return fmt::format("{} batching, {} sequences, {} tokens per step{}", e.policy, e.max_num_seqs, e.max_num_batched_tokens,
                       e.cuda_graphs ? ", CUDA graphs" : ", eager");
  });
}

// Every value, those taken over from another profile too.
absl::StatusOr<std::string> ExplainEngine(const std::string& name, const Catalog& catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const EngineProfile profile, LoadEngineProfile(name, catalog));
  return ExplainNode(WriteParams(profile));
}

std::string DescribeOperators(const std::string& name, const Catalog& catalog) {
  return OrProblem<OperatorParamSet>(LoadOperatorParams(name, catalog), [&](const OperatorParamSet& set) {
    const auto own = std::count_if(set.entries.begin(), set.entries.end(), [&](const OperatorParams& p) { return p.device == set.name; });
    return fmt::format("{} own of {} entries", own, set.entries.size());
  });
}

absl::StatusOr<std::string> ExplainOperators(const std::string& name, const Catalog& catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const OperatorParamSet set, LoadOperatorParams(name, catalog));
  TextTable table("lllrrl");
  table.Add({"operator", "format", "label", "rows", "mean error", "source"});
  size_t others = 0;
  for (const OperatorParams& p : set.entries) {
    if (p.device != set.name) {
      ++others;
      continue;
    }
    table.Add({p.op, p.dtype.empty() ? "any" : p.dtype, std::string(ProvenanceName(p.label)), p.rows > 0 ? fmt::format("{}", p.rows) : "",
               p.mape > 0 ? fmt::format("{:.1f} %", p.mape) : "", p.source});
  }
  std::string text = table.ToText("  ") + "\n  Mean error: of the fitted formula on measured rows that were not fitted.\n";
  if (others > 0) text += fmt::format("  {} from other devices stand in for what is missing here.\n", Plural(static_cast<double>(others), "entry", "entries"));
  return text;
}

std::string DescribePower(const std::string& name, const Catalog& catalog) {
  // At the board it was fitted on.
  const absl::StatusOr<YamlNode> node = catalog.Load("power", name);
  const YamlNode* text = node.ok() ? node->Find("description") : nullptr;
  return text != nullptr ? text->text() : "unreadable";
}

std::string DescribeRegion(const std::string& name, const Catalog& catalog) {
  const absl::StatusOr<YamlNode> node = catalog.Load("regions", name);
  if (!node.ok()) return "unreadable";
  for (const YamlNode::Entry& e : node->entries()) {
    if (const YamlNode* value = e.value.Find("value")) return fmt::format("{} {}", e.key, value->text());
  }
  return "";
}

std::string DescribeErrors(const std::string& name, const Catalog& catalog) {
  const absl::StatusOr<YamlNode> node = catalog.Load("errors", name);
  const YamlNode* groups = node.ok() ? node->Find("groups") : nullptr;
  return groups != nullptr ? Plural(static_cast<double>(groups->items().size()), "group") + " of measured runs" : "unreadable";
}

// ---- tables of the library ----

template <class Factory>
NameSection RegistrySection(std::string name, std::string summary, const Registry<Factory>& registry) {
  NameSection s;
  s.name = std::move(name);
  s.summary = std::move(summary);
  s.names = [&registry](const Catalog&) { return registry.Names(); };
  s.describe = [&registry](const std::string& n, const Catalog&) {
    for (const auto& e : registry.entries()) {
      if (e.name == n) return e.description;
    }
    return std::string();
  };
  s.explain = [describe = s.describe](const std::string& n, const Catalog& c) -> absl::StatusOr<std::string> {
    return LabelledText("  ", 2, describe(n, c));
  };
  return s;
}

NameSection FixedSection(std::string name, std::string summary, std::vector<std::pair<std::string, std::string>> entries) {
  NameSection s;
  s.name = std::move(name);
  s.summary = std::move(summary);
  s.names = [entries](const Catalog&) {
    Names names;
    for (const auto& e : entries) names.push_back(e.first);
    return names;
  };
  s.describe = [entries](const std::string& n, const Catalog&) {
    for (const auto& e : entries) {
      if (e.first == n) return e.second;
    }
    return std::string();
  };
  s.explain = [describe = s.describe](const std::string& n, const Catalog& c) -> absl::StatusOr<std::string> {
    return LabelledText("  ", 2, describe(n, c));
  };
  return s;
}

// Direct parts of a described struct with their help, and trace formats: what a workload can be made of.
NameSection WorkloadSection() {
  std::vector<std::pair<std::string, std::string>> entries;
  const auto add = [&](const std::vector<ParamDoc>& rows, const std::string& kind) {
    for (const ParamDoc& row : rows) {
      if (row.path.find('.') == std::string::npos) entries.emplace_back(row.path, kind + ": " + row.help);
    }
  };
  add(DocumentParams<ArrivalsConfig>(""), "arrivals");
  for (const char* name : {"concurrency", "static_batch", "trace"}) {
    for (const ParamDoc& row : DocumentParams<WorkloadConfig>("")) {
      if (row.path == name) entries.emplace_back(name, "arrivals: " + row.help);
    }
  }
  add(DocumentParams<LengthConfig>(""), "lengths");
  for (const std::string& format : TraceFormatChoices()) {
    if (format != "auto") entries.emplace_back(format, "trace format");
  }
  return FixedSection("workloads", "arrival processes, length distributions, trace formats: workload", std::move(entries));
}

std::vector<std::pair<std::string, std::string>> QueueOrders() {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const std::string& name : QueueOrderNames()) {
    std::string help = "order of the waiting queue";
    if (name == "fcfs") help = "by arrival";
    if (name == "shortest-job") help = "fewest tokens to compute first: prompt plus outputs";
    if (name == "priority") help = "priority 0 first, then 1, ...; ties by arrival";
    if (name == "earliest-deadline") help = "soonest deadline first; ties by arrival";
    entries.emplace_back(name, help);
  }
  return entries;
}

std::vector<std::pair<std::string, std::string>> DTypes() {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const std::string& name : DTypeNames()) {
    const absl::StatusOr<DType> dtype = ParseDType(name);
    if (dtype.ok()) entries.emplace_back(name, fmt::format("{} bits per element, scales included", BitsPerElement(*dtype)));
  }
  return entries;
}

}  // namespace

const std::vector<NameSection>& NameSections() {
  static const std::vector<NameSection>* const sections = new std::vector<NameSection>{
      CatalogSection("models", "what is served: model", DescribeModel, ExplainModel),
      CatalogSection("gpus", "accelerators: hardware.gpu", DescribeGpu),
      CatalogSection("cpus", "host processors: hardware.host", DescribeCpu),
      CatalogSection("links", "wires between GPUs, hosts and nodes: hardware.link, hardware.network", DescribeLink),
      CatalogSection("nodes", "whole servers: hardware.node", DescribeNode),
      CatalogSection("engines", "serving engines: engine.profile", DescribeEngine, ExplainEngine),
      CatalogSection("operators", "fitted kernel and collective times, by device", DescribeOperators, ExplainOperators),
      CatalogSection("power", "power of a GPU at work, by board: power in a GPU entry", DescribePower),
      CatalogSection("regions", "carbon intensity of grids: hardware.region", DescribeRegion),
      CatalogSection("errors", "errors of measured runs, which prediction intervals rest on: all files add up", DescribeErrors),
      RegistrySection("schedulers", "which requests run in a step: scheduler.policy", BuiltInBatchingPolicies()),
      RegistrySection("routers", "which engine takes a request: scheduler.router", BuiltInRouters()),
      FixedSection("queue-orders", "order of the waiting queue: scheduler.queue_order", QueueOrders()),
      WorkloadSection(),
      FixedSection("dtypes", "number formats: plan.weights, plan.activations, plan.kv_cache", DTypes()),
  };
  return *sections;
}

}  // namespace simrun
