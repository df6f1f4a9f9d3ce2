#include "calibration/operator_ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "base/status.h"

namespace simrun {
namespace {

bool IsCollectiveEntry(const OpRow& row) {
  switch (row.work.kind) {
    case OpKind::kAllReduce:
    case OpKind::kAllGather:
    case OpKind::kReduceScatter:
    case OpKind::kAllToAll:
    case OpKind::kSendRecv:
      return !row.attention();
    default:
      return false;
  }
}

// EngineProfile::moe_backend of the kernels that a row was measured with.
std::string MoeBackendOf(const OpRow& row) { return row.dtype == "mxfp4a16" ? "triton" : "marlin"; }

// Bytes every rank puts on the wire.
double WireBytes(const OpRow& row) {
  const double n = row.path.ranks, others = (n - 1) / std::max(1.0, n);
  switch (row.work.kind) {
    case OpKind::kAllReduce:
      return 2 * row.work.bytes * others;
    case OpKind::kAllGather:
    case OpKind::kReduceScatter:
      return row.work.bytes * others;
    default:
      return row.work.bytes;
  }
}

double AttentionRoofline(const OpRow& row, const AttentionPoint& point, double past, double peak, double bandwidth) {
  const AttentionShape& shape = *row.shape;
  const double widths = static_cast<double>(shape.head_dim + shape.v_head_dim);
  const bool decode = point.queries <= 1 && !row.prefill();
  double flops = 0, bytes = 0;
  if (shape.mla && decode) {
    const double cache = static_cast<double>(shape.mla_latent + shape.mla_rope);
    flops = 2 * point.heads * point.keys * (cache + static_cast<double>(shape.mla_latent));
    bytes = point.keys * cache * point.kv_bytes;
  } else {
    const double pairs = decode ? point.keys : point.queries * past + point.queries * (point.queries + 1) / 2;
    flops = 2 * point.heads * widths * pairs;
    bytes = (shape.mla ? point.heads : point.kv_heads) * widths * point.keys * point.kv_bytes +
            2 * widths * point.heads * point.queries;
  }
  return point.sequences * std::max(flops / peak, bytes / bandwidth);
}

bool EndsEager(const std::string& backend) {
  return backend.size() >= 6 && backend.substr(backend.size() - 6) == "-eager";
}

double Percentile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& name, const Catalog& catalog) {
  HardwareConfig config;
  config.gpu = name;
  DeviceChoice choice;
  if (!catalog.Resolve("gpus", name).ok() && catalog.Resolve("operators", name).ok()) {
    SIMRUN_ASSIGN_OR_RETURN(choice.operators, catalog.Resolve("operators", name));
    for (const std::string& gpu : catalog.Names("gpus")) {
      const absl::StatusOr<GpuSpec> spec = LoadGpu(gpu, catalog);
      if (spec.ok() && spec->operators == choice.operators && spec->operators_provenance == Provenance::kCalibrated) {
        config.gpu = gpu;
        break;
      }
    }
  }
  Problems problems;
  choice.machine = BuildMachine(config, catalog, {"--device", 1, 1}, &problems);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  if (choice.operators.empty()) choice.operators = OperatorEntryFor(choice.machine.gpu);
  return choice;
}

absl::StatusOr<OperatorPricer> OperatorPricer::Create(const Machine& machine, std::shared_ptr<const OperatorParamSet> params,
                                                      const std::string& backend, const std::vector<OpRow>& rows) {
  OperatorPricer pricer;
  pricer.machine_ = machine;
  pricer.backend_ = backend;
  for (const OpRow& row : rows) {
    const std::string wanted = pricer.Wanted(row, *params), experts = MoeBackendOf(row);
    const bool known = std::any_of(pricer.costs_.begin(), pricer.costs_.end(), [&](const Kernels& k) {
      return k.backend == wanted && k.cold == row.cold && k.moe_backend == experts;
    });
    if (known) continue;
    OperatorCostOptions options;
    options.backend = wanted;
    options.moe_backend = experts;
    options.benchmark = !row.cold;
    SIMRUN_ASSIGN_OR_RETURN(OperatorCosts costs, OperatorCosts::Create(machine, params, options));
    pricer.costs_.push_back({wanted, row.cold, experts, std::move(costs)});
  }
  pricer.params_ = std::move(params);
  return pricer;
}

std::string OperatorPricer::Wanted(const OpRow& row, const OperatorParamSet& params) const {
  if (!backend_.empty()) return backend_;
  // Some kernels have an entry per version.
  for (const OperatorParams& p : params.entries) {
    if (p.op == row.op && p.backend == row.kernels) return row.kernels;
    // An entry that says which versions it holds for: "..., vllm 0.18.0, vllm 0.19.0".
    if (p.op == row.op && !row.version.empty() && p.backend.rfind(row.backend.substr(0, row.backend.find('-')), 0) == 0 &&
        EndsEager(p.backend) == EndsEager(row.backend) && (p.source + ",").find(" " + row.version + ",") != std::string::npos) {
      return p.backend;
    }
  }
  return row.backend;
}

const OperatorCosts& OperatorPricer::CostsFor(const OpRow& row) const {
  if (costs_.size() == 1) return costs_.front().costs;
  const std::string wanted = Wanted(row, *params_), experts = MoeBackendOf(row);
  for (const Kernels& k : costs_) {
    if (k.backend == wanted && k.cold == row.cold && k.moe_backend == experts) return k.costs;
  }
  return costs_.front().costs;
}

OperatorCosts::Sample OperatorPricer::Probe(const OpRow& row) const {
  const OperatorCosts& costs = CostsFor(row);
  return row.attention() ? costs.Probe(*row.shape, row.point, row.prefill()) : costs.Probe(row.work);
}

OperatorPrediction OperatorPricer::Price(const OpRow& row) const {
  OperatorPrediction out;
  out.reason = row.problem;
  if (!row.problem.empty()) return out;
  const OperatorCosts& costs = CostsFor(row);
  const double bandwidth = costs.memory_bandwidth();
  if (row.attention()) {
    const double peak = costs.Peak(row.shape->compute);
    double seconds = 0, baseline = 0;
    OperatorCosts::Origin origin;
    if (row.decode.has_value() && row.point.sequences > 0) {
      const AttentionCost cost = costs.Attention(*row.shape);
      if (cost.fused()) {
        const PrefillChunk chunk{static_cast<int64_t>(row.point.queries), row.past};
        AttentionSplit split;
        cost.AddMixed(row.decode->sequences, row.decode->sequences * row.decode->keys, row.decode->keys, {&chunk, 1}, &split);
        out.seconds = split.seconds();
        out.baseline = AttentionRoofline(row, row.point, static_cast<double>(row.past), peak, bandwidth) +
                       AttentionRoofline(row, *row.decode, 0, peak, bandwidth);
        out.provenance = ProvenanceName(Provenance::kCalibrated);
        return out;
      }
    }
    if (row.point.sequences > 0) {
      const OperatorCosts::Sample s = costs.Probe(*row.shape, row.point, row.prefill() || row.mixed);
      seconds += s.formula * s.factor;
      baseline += AttentionRoofline(row, row.point, static_cast<double>(row.past), peak, bandwidth);
      origin = costs.OriginOf(*row.shape, row.prefill() || row.mixed);
    }
    if (row.decode.has_value()) {
      const OperatorCosts::Sample s = costs.Probe(*row.shape, *row.decode, false);
      seconds += s.formula * s.factor;
      baseline += AttentionRoofline(row, *row.decode, 0, peak, bandwidth);
      const OperatorCosts::Origin second = costs.OriginOf(*row.shape, false);
      if (row.point.sequences <= 0 || second.note.provenance > origin.note.provenance) origin = second;
    }
    out.seconds = seconds;
    out.baseline = baseline;
    out.provenance = ProvenanceName(origin.note.provenance);
    return out;
  }
  if (IsCollectiveEntry(row)) {
    if (row.op.rfind("deepep", 0) == 0) {
      // Dispatched in FP8, combined in 16 bits.
      const double element = row.op.find("combine") != std::string::npos ? 2 : 1;
      const double vectors = static_cast<double>(row.work.tokens * row.work.hidden) * element;
      const double t = costs.collectives().DeepEpSeconds(row.op, vectors, row.work.topk, row.path.nodes);
      if (t < 0) {
        out.reason = fmt::format("no entry \"{}\" for this link", row.op);
        return out;
      }
      out.seconds = t;
      // One copy per chosen expert, inside the node where it lies there.
      const double nodes = row.path.nodes, chosen = vectors * static_cast<double>(row.work.topk);
      const double rail = machine_.network.bandwidth.value() * std::max(1, machine_.nics_per_node) / std::max(1, machine_.gpus_per_node);
      const double local = chosen / nodes / machine_.scale_up.bandwidth.value();
      out.baseline = nodes > 1 ? std::max(local, chosen * (nodes - 1) / nodes / rail) : local;
      for (const OperatorParams& p : params_->entries) {
        if (p.op != row.op) continue;
        out.provenance = ProvenanceName(p.label);
        break;
      }
      return out;
    }
    const Collectives& collectives = costs.collectives();
    const double link = machine_.scale_up.bandwidth.value();
    if (row.path.nodes > 1) {
      out.seconds = collectives.Seconds(row.work.kind, row.work.bytes, row.path);
      const double rail = machine_.network.bandwidth.value() * std::max(1, machine_.nics_per_node) / std::max(1, machine_.gpus_per_node);
      if (rail > 0) out.baseline = WireBytes(row) / rail;
    } else {
      const double t = collectives.EntrySeconds(row.op, row.work.kind, row.work.bytes, row.path.ranks);
      if (t >= 0) out.seconds = t;
      if (t < 0) out.reason = fmt::format("no entry \"{}\" for this link", row.op);
      if (link > 0) out.baseline = WireBytes(row) / link;
    }
    Operator op = row.work;
    out.provenance = ProvenanceName(collectives.Source(op, row.path).provenance);
    return out;
  }
  const OpTime time = costs.Cost(row.work);
  out.seconds = time.seconds;
  out.provenance = ProvenanceName(costs.OriginOf(row.work).note.provenance);
  double flops = 0, bytes = row.work.bytes, peak = costs.Peak(ComputeDType(row.work.weights, row.work.activations));
  const Operator& op = row.work;
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  if (op.kind == OpKind::kGemm) {
    flops = 2 * d(op.m) * d(op.n) * d(op.k);
    bytes = d(op.m) * d(op.k) * BytesPerElement(op.activations) + d(op.n) * d(op.k) * BytesPerElement(op.weights) + 2 * d(op.m) * d(op.n);
  } else if (op.kind == OpKind::kMoe) {
    const double inner = d(op.inter) / op.tp, routed = d(op.tokens) * d(op.topk) / op.ep;
    flops = 6 * d(op.hidden) * inner * routed;
    bytes = 3 * d(op.hidden) * inner * BytesPerElement(op.weights) * std::min(routed, d(op.experts) / op.ep) + 4 * routed * d(op.hidden);
  }
  out.baseline = std::max(flops / peak, bytes / bandwidth);
  return out;
}

const OperatorParams* OperatorPricer::EntryOf(const OpRow& row) const {
  const std::string wanted = Wanted(row, *params_);
  for (const OperatorParams& p : params_->entries) {
    if (p.op == row.op && p.device == params_->name && (p.dtype.empty() || p.dtype == row.dtype) && (p.backend.empty() || p.backend == wanted)) return &p;
  }
  return nullptr;
}

double OperatorPricer::Watts(const OpRow& row) const {
  const OperatorCosts& costs = CostsFor(row);
  if (row.attention()) return 0;
  const OpTime time = costs.Cost(row.work);
  return costs.power().idle_watts() + costs.power().active_watts() + (time.seconds > 0 ? time.joules / time.seconds : 0);
}

std::vector<OperatorSummary> SummarizeOperators(const std::vector<OpRow>& rows,
                                                const std::vector<OperatorPrediction>& predictions,
                                                const OperatorPricer& pricer) {
  struct Group {
    OperatorSummary summary;
    std::vector<double> errors, absolute, baseline, power;
  };
  std::map<std::tuple<std::string, std::string, std::string>, Group> groups;
  for (size_t i = 0; i < rows.size(); ++i) {
    const OpRow& row = rows[i];
    Group& g = groups[{row.op, row.format, row.backend}];
    const OperatorPrediction& p = predictions[i];
    if (g.errors.empty() && g.summary.missing == 0) g.summary.entry = pricer.EntryOf(row);
    if (!p.seconds.has_value()) {
      if (g.summary.missing++ == 0) g.summary.reason = p.reason;
      continue;
    }
    const double error = *p.seconds / row.seconds - 1;
    g.errors.push_back(error);
    g.absolute.push_back(std::fabs(error));
    if (p.baseline.has_value()) g.baseline.push_back(std::fabs(*p.baseline / row.seconds - 1));
    if (row.watts.has_value() && *row.watts > 0 && row.op == "gemm" && row.seconds > 200e-6) {
      g.power.push_back(std::fabs(pricer.Watts(row) / *row.watts - 1));
    }
  }
  std::vector<OperatorSummary> out;
  for (auto& [key, g] : groups) {
    OperatorSummary s = g.summary;
    std::tie(s.op, s.format, s.backend) = key;
    s.rows = static_cast<int64_t>(g.errors.size());
    const auto mean = [](const std::vector<double>& v) {
      double sum = 0;
      for (const double x : v) sum += x;
      return v.empty() ? 0 : sum / static_cast<double>(v.size());
    };
    s.mape = mean(g.absolute);
    if (!g.baseline.empty()) s.baseline_mape = mean(g.baseline);
    s.median = Percentile(g.absolute, 0.5);
    s.p90 = Percentile(g.absolute, 0.9);
    s.bias = Percentile(g.errors, 0.5);
    if (!g.power.empty()) s.power_median = Percentile(g.power, 0.5);
    out.push_back(std::move(s));
  }
  return out;
}

std::string OperatorLedgerCsv(const OpTable& table, const std::vector<OperatorPrediction>& predictions) {
  std::vector<std::string> columns;
  for (const CsvTable& t : table.tables) {
    for (const std::string& c : t.columns()) {
      if (std::find(columns.begin(), columns.end(), c) == columns.end()) columns.push_back(c);
    }
  }
  std::string out;
  for (const std::string& c : columns) out += CsvField(c) + ",";
  out += "predicted_us,baseline_us,provenance\n";
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const CsvTable& t = table.tables[table.rows[i].table];
    for (const std::string& c : columns) {
      const std::optional<size_t> index = t.Column(c);
      if (index.has_value()) out += CsvField(t.Cell(table.rows[i].line, *index));
      out += ',';
    }
    const OperatorPrediction& p = predictions[i];
    if (p.seconds.has_value()) out += fmt::format("{:.6g}", *p.seconds * 1e6);
    out += ',';
    if (p.baseline.has_value()) out += fmt::format("{:.6g}", *p.baseline * 1e6);
    out += ',' + CsvField(p.seconds.has_value() ? p.provenance : p.reason) + '\n';
  }
  return out;
}

}  // namespace simrun
