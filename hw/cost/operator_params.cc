#include "hw/cost/operator_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <tuple>
#include <utility>

#include "base/paths.h"
#include "hw/cost/features.h"

namespace simrun {
namespace {

constexpr std::array<std::string_view, 30> kOperators = {"gemm",
                                                         "prefill",
                                                         "decode",
                                                         "mla_prefill",
                                                         "mixed", "mla_decode",
                                                         "linear_prefill",
                                                         "linear_decode",
                                                         "sparse_prefill",
                                                         "sparse_decode",
                                                         "moe",
                                                         "all_reduce",
                                                         "all_gather",
                                                         "reduce_scatter",
                                                         "all_to_all",
                                                         "custom_all_reduce",
                                                         "p2p",
                                                         "network_p2p",
                                                         "deepep_ll_dispatch",
                                                         "deepep_ll_combine",
                                                         "deepep_dispatch",
                                                         "deepep_combine",
                                                         "norm",
                                                         "add",
                                                         "activation",
                                                         "rope",
                                                         "embedding",
                                                         "sampling",
                                                         "quantize",
                                                         "elementwise"};

constexpr int kMaxFallbacks = 4;
constexpr double kHardly = 20;   // per cent of the prior's uncertainty
constexpr std::string_view kSizeUnits = "KMG";   // of curve points: powers of 1024

Provenance ParseProvenance(const std::string& name) {
  if (name == "measured") return Provenance::kMeasured;
  if (name == "calibrated") return Provenance::kCalibrated;
  if (name == "transferred") return Provenance::kTransferred;
  if (name == "datasheet") return Provenance::kDatasheet;
  return Provenance::kAssumed;
}

void CheckEntry(OperatorParams& p, const SourceLocation& where, const std::string& path, Problems* problems) {
  if (p.q == 3) problems->Add(where, path + ".q", "must be 1, 2 or 4");
  for (OperatorCurve& c : p.curves) {
    if (const absl::Status read = ReadCurvePoints(&c); !read.ok()) {
      problems->Add(where, path + ".curves", std::string(read.message()));
      continue;
    }
    const bool ascending = std::is_sorted(c.at.begin(), c.at.end(), [](double x, double y) { return x <= y; });
    const bool positive = std::all_of(c.time.begin(), c.time.end(), [](Seconds t) { return t.value() > 0; });
    if (c.at.size() < 2 || c.at.size() != c.time.size() || !ascending || c.at.front() <= 0 || !positive) {
      problems->Add(where, path + ".curves", "need two or more ascending positive sizes and as many positive times");
    }
  }
  for (const ResidualTable& table : p.residuals) {
    if (!table.same_as.empty()) continue;   // ShareTrees
    absl::StatusOr<ResidualTrees> trees = ResidualTrees::Parse(table, FeatureNames(p.op));
    if (!trees.ok()) {
      problems->Add(where, path + ".residuals", std::string(trees.status().message()));
      break;
    }
    p.trees.push_back(*std::move(trees));
  }
  for (const ResidualAnchor& a : p.anchors) {
    if (a.at.empty() || a.at.size() != p.anchors.front().at.size()) {
      problems->Add(where, path + ".anchors", "all need the same number of coordinates");
      break;
    }
  }
}

// Trees fitted on several formats together stand in one entry only.
void ShareTrees(std::vector<OperatorParams>& entries, const SourceLocation& where, Problems* problems) {
  for (size_t i = 0; i < entries.size(); ++i) {
    OperatorParams& p = entries[i];
    for (const ResidualTable& table : p.residuals) {
      if (table.same_as.empty()) continue;
      const auto owner = std::find_if(entries.begin(), entries.end(), [&](const OperatorParams& o) {
        return o.op == p.op && o.backend == p.backend && o.dtype == table.same_as && &o != &p && !o.trees.empty();
      });
      if (owner == entries.end()) {
        problems->Add(where, fmt::format("operators.{}.residuals", i), fmt::format("no {} entry of this operator has trees", table.same_as));
        continue;
      }
      p.trees.insert(p.trees.end(), owner->trees.begin(), owner->trees.end());
    }
  }
}

}  // namespace

std::string HardlySettled(const OperatorParams& params) {
  std::string out;
  const std::string_view text = params.learned;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    std::string_view part = text.substr(at, end - at);
    part.remove_prefix(std::min(part.find_first_not_of(' '), part.size()));
    const size_t space = part.find(' ');
    double percent = 100;
    if (space != std::string_view::npos) std::from_chars(part.data() + space + 1, part.data() + part.size(), percent);
    if (percent < kHardly) out += fmt::format("{}{} {:.0f} %", out.empty() ? "" : ", ", std::string(part.substr(0, space)), percent);
    at = end + 1;
  }
  return out;
}

std::string CurvePointsText(const OperatorCurve& curve) {
  std::string text;
  for (size_t i = 0; i < curve.at.size() && i < curve.time.size(); ++i) {
    double size = curve.at[i];
    size_t unit = 0;
    // Whole multiples keep their digits.
    while (unit < kSizeUnits.size() && size >= 1024 && std::fmod(size, 1024) == 0) size /= 1024, ++unit;
    text += fmt::format("{}{:.5g}{} {:.4g}", i > 0 ? " " : "", size, unit > 0 ? std::string(1, kSizeUnits[unit - 1]) : "", curve.time[i].value() * 1e6);
  }
  return text;
}

absl::Status ReadCurvePoints(OperatorCurve* curve) {
  const std::string_view text = curve->points;
  size_t at = 0;
  const auto number = [&](bool size, double* value) {
    at = text.find_first_not_of(" \t\r\n", at);
    if (at == std::string_view::npos) return false;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), *value);
    if (error != std::errc() || !std::isfinite(*value)) return false;
    at = static_cast<size_t>(end - text.data());
    if (size && at < text.size()) {
      const size_t unit = kSizeUnits.find(text[at]);
      if (unit != std::string_view::npos) ++at, *value = std::ldexp(*value, 10 * (static_cast<int>(unit) + 1));
    }
    return at == text.size() || std::string_view(" \t\r\n").find(text[at]) != std::string_view::npos;
  };
  while (text.find_first_not_of(" \t\r\n", at) != std::string_view::npos) {
    double size = 0, micro = 0;
    if (!number(true, &size) || !number(false, &micro)) {
      return absl::InvalidArgumentError("points need sizes and microseconds in turn, such as \"512 8.98 1K 9.08\"");
    }
    curve->at.push_back(size);
    curve->time.push_back(Seconds(micro * 1e-6));
  }
  return absl::OkStatus();
}

std::vector<std::string> OperatorNames() { return {kOperators.begin(), kOperators.end()}; }

std::vector<std::string> ProvenanceNames() { return {"measured", "calibrated", "transferred", "datasheet", "assumed"}; }

size_t BackendKinship(std::string_view entry, std::string_view backend) {
  const bool family = entry == backend || (backend.size() > entry.size() && backend.substr(0, entry.size()) == entry && backend[entry.size()] == '-');
  return family ? entry.size() : 0;
}

const OperatorParams* OperatorParamSet::Find(std::string_view op, std::string_view dtype,
                                             std::string_view backend) const {
  const OperatorParams* best = nullptr;
  std::tuple<bool, bool, size_t> best_rank;
  for (const OperatorParams& p : entries) {
    if (p.op != op || (!p.dtype.empty() && p.dtype != dtype)) continue;
    if (p.exclusive && BackendKinship(p.backend, backend) == 0) continue;
    // Own entries of another backend still beat a fallback's: the device matters more than the software.
    const std::tuple rank(p.device == name, p.dtype == dtype, BackendKinship(p.backend, backend));
    if (best == nullptr || rank > best_rank) {
      best = &p;
      best_rank = rank;
    }
  }
  return best;
}

absl::StatusOr<OperatorParamSet> LoadOperatorParams(std::string_view name, const Catalog& catalog) {
  OperatorParamSet set;
  std::string next(name);
  for (int depth = 0; !next.empty(); ++depth) {
    if (depth > kMaxFallbacks) {
      return absl::InvalidArgumentError(fmt::format("operators \"{}\": the fallbacks do not end", name));
    }
    SIMRUN_ASSIGN_OR_RETURN(std::string canonical, catalog.Resolve("operators", next));
    SIMRUN_ASSIGN_OR_RETURN(YamlNode node, catalog.Load("operators", canonical));
    OperatorFile file;
    Problems problems;
    ReadParams(node, "", &problems, &file);
    for (size_t i = 0; i < file.operators.size(); ++i) {
      CheckEntry(file.operators[i], node.location(), fmt::format("operators.{}", i), &problems);
    }
    ShareTrees(file.operators, node.location(), &problems);
    if (!problems.empty()) return problems.ToStatus();
    if (depth == 0) {
      set.name = EntryName(canonical);
      set.reference = file.reference;
    }
    for (OperatorParams& p : file.operators) {
      p.device = EntryName(canonical);
      p.measured_bandwidth = file.reference.memory_bandwidth;
      const absl::StatusOr<DType> dtype = ParseDType(p.dtype);
      const bool narrow = dtype.ok() && BitsPerElement(*dtype) <= 8 && file.reference.peak_fp8.value() > 0;
      const double peak = (narrow ? file.reference.peak_fp8 : file.reference.peak_bf16).value();
      if (p.measured_bandwidth.value() > 0) p.measured_ridge = peak / p.measured_bandwidth.value();
      p.label = ParseProvenance(p.provenance);
      if (depth > 0) p.label = std::max(p.label, Provenance::kTransferred);
      set.entries.push_back(std::move(p));
    }
    next = Beside(canonical, file.fallback);
  }
  return set;
}

std::string OperatorEntryFor(const GpuSpec& gpu) {
  if (!gpu.operators.empty()) return gpu.operators;
  constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kByArchitecture = {{{"volta", "v100"},
                                                                                             {"turing", "v100"},
                                                                                             {"ampere", "a100"},
                                                                                             {"ada", "l40s"},
                                                                                             {"hopper", "h100"},
                                                                                             {"blackwell", "b200"},
                                                                                             {"cdna2", "generic-amd"},
                                                                                             {"cdna3", "generic-amd"},
                                                                                             {"cdna4", "generic-amd"},
                                                                                             {"rdna3", "generic-amd"}}};
  for (const auto& [architecture, entry] : kByArchitecture) {
    if (gpu.architecture == architecture) return std::string(entry);
  }
  if (gpu.vendor == "nvidia") return "generic-nvidia";
  if (gpu.vendor == "amd") return "generic-amd";
  return "generic-accelerator";
}

absl::StatusOr<std::shared_ptr<const OperatorParamSet>> SharedOperatorParams(const GpuSpec& gpu, const Catalog& catalog) {
  const std::string name = OperatorEntryFor(gpu);
  if (auto kept = catalog.Kept<OperatorParamSet>(name)) return kept;
  SIMRUN_ASSIGN_OR_RETURN(OperatorParamSet set, LoadOperatorParams(name, catalog));
  auto shared = std::make_shared<const OperatorParamSet>(std::move(set));
  catalog.Keep(name, shared);
  return shared;
}

}  // namespace simrun
