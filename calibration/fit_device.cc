#include "calibration/fit_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <utility>

#include "base/params.h"
#include "base/rng.h"
#include "base/status.h"

namespace simrun {
namespace {

// Rows from which on a device's own measurements decide about an operator with several parameters.
constexpr int kRowsOfItsOwn = 100;
constexpr size_t kEnoughForTrees = 150;   // rows; below, trees of other devices
constexpr size_t kEnoughForCurves = 12;
constexpr int kTreesOfSmallKernels = 60;  // that take little of a step
constexpr double kRidgeOfLatent = 4;      // of decode: measured at a few head counts only
constexpr double kWorth = 0.02;           // trees are left out that lower the error by less than this share
constexpr double kUnusable = 0.6;         // mean error above which rows contradict one another
// Another device's parameters: their spread around the lender's, of that over all devices. And how much less likely it is
// to lend per octave between their multiplications per clock, in units of twice the logarithm.
constexpr double kBorrowedSpread = 0.5, kLeastSpread = 0.08, kKinship = 40;
// Formats whose measurements show the host instead of the kernel, or mix kernels.
constexpr const char* kLeftOut[] = {"w4a16_mxfp4", "int4_wo", "int8_wo", "int4"};
constexpr double kSameKernel = 0.04;      // versions whose times differ by less share a curve

struct GroupKey {
  std::string op, dtype, backend;
  auto Tied() const { return std::tie(op, dtype, backend); }
  friend bool operator<(const GroupKey& a, const GroupKey& b) { return a.Tied() < b.Tied(); }
};
struct Group {
  GroupKey key;
  std::vector<const OpRow*> rows;
  std::string problem;
};
// Groups whose corrections are fitted together: formats of one operator that share their kernels, related collectives.
using Family = std::vector<Group>;

bool IsCollectiveOp(const std::string& op) {
  for (const char* name : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "custom_all_reduce", "p2p", "network_p2p"}) {
    if (op == name) return true;
  }
  return false;
}
// Collectives whose curves are smoothed together: protocols of one library, or versions of one kernel.
bool IsSmoothedTogether(const std::string& op) { return IsCollectiveOp(op) && op != "p2p" && op != "network_p2p"; }
bool EndsEager(const std::string& backend) { return backend.size() > 6 && backend.substr(backend.size() - 6) == "-eager"; }
bool IsOldProfile(const std::string& backend) { return backend == "apex" || backend == "vidur" || backend == "llmservingsim-v0"; }
bool IsByteOp(const std::string& op) {
  for (const char* name : {"norm", "add", "activation", "rope", "embedding", "sampling"}) {
    if (op == name) return true;
  }
  return false;
}

// "0.24.0" < "0.24.1rc3": the numbers in it, compared one by one.
std::vector<int> VersionNumbers(const std::string& version) {
  std::vector<int> numbers;
  int value = -1;
  for (const char c : version + ".") {
    if (c >= '0' && c <= '9') {
      value = std::min(1000000, std::max(0, value) * 10 + (c - '0'));
    } else if (value >= 0) {
      numbers.push_back(value);
      value = -1;
    }
  }
  return numbers;
}

// Versions of one backend's collective, newest first, joined with the newest that times the same: row version -> label,
// which is empty for the newest.
std::map<std::string, std::string> VersionLabels(const std::vector<const OpRow*>& rows) {
  std::map<std::string, std::map<std::pair<int, double>, double>> times;   // by version, (ranks, bytes)
  for (const OpRow* row : rows) times[row->version][{row->path.ranks, row->work.bytes}] = std::log(row->seconds);
  std::vector<std::string> versions;
  for (const auto& [version, points] : times) versions.push_back(version);
  std::sort(versions.begin(), versions.end(),
            [](const std::string& a, const std::string& b) { return VersionNumbers(b) < VersionNumbers(a); });
  std::map<std::string, std::string> labels;
  std::vector<std::string> leaders;
  for (const std::string& version : versions) {
    const auto same = std::find_if(leaders.begin(), leaders.end(), [&](const std::string& leader) {
      std::vector<double> away;
      for (const auto& [at, t] : times[version]) {
        const auto other = times[leader].find(at);
        if (other != times[leader].end()) away.push_back(std::fabs(t - other->second));
      }
      std::sort(away.begin(), away.end());
      return away.size() >= 6 && away[away.size() * 3 / 4] < kSameKernel;
    });
    labels[version] = same == leaders.end() ? version : *same;
    if (same == leaders.end()) leaders.push_back(version);
  }
  for (auto& [version, leader] : labels) {
    if (leader == versions.front()) leader.clear();
  }
  return labels;
}

// Where two kernels of 8-bit weights were timed (one scale per tensor, or per block), engines run the faster one. True
// when block scales are.
bool BlockScalesWin(const std::vector<const OpRow*>& tensor, const std::vector<const OpRow*>& block) {
  // Time over the work, with 20 us of latency, so that samples of different shapes compare.
  const auto middle = [](const std::vector<const OpRow*>& rows) {
    std::vector<double> v;
    for (const OpRow* row : rows) {
      const Operator& op = row->work;
      const double macs = op.kind == OpKind::kGemm ? static_cast<double>(op.m) * static_cast<double>(op.n) * static_cast<double>(op.k)
                                                   : static_cast<double>(op.tokens * op.topk) / op.ep * static_cast<double>(op.hidden * op.inter) / op.tp;
      v.push_back(row->seconds / (20e-6 + macs * 1e-15));
    }
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  if (tensor.empty() || block.empty()) return tensor.empty();
  return middle(block) < middle(tensor);
}

std::vector<Family> MakeFamilies(const std::vector<OpRow>& rows) {
  std::map<std::tuple<std::string, std::string>, std::vector<const OpRow*>> versions;
  std::map<std::tuple<std::string, std::string>, std::array<std::vector<const OpRow*>, 2>> scales;
  for (const OpRow& row : rows) {
    if (!row.problem.empty()) continue;
    if (IsCollectiveOp(row.op) && row.path.nodes <= 1) versions[{row.op, row.backend}].push_back(&row);
    if (row.format == "fp8" || row.format == "fp8_block") scales[{row.op, row.backend}][row.format == "fp8" ? 0 : 1].push_back(&row);
  }
  std::map<std::tuple<std::string, std::string>, std::map<std::string, std::string>> labels;
  for (const auto& [key, measured] : versions) labels[key] = VersionLabels(measured);
  std::map<GroupKey, Group> groups;
  for (const OpRow& row : rows) {
    GroupKey key{row.op, row.dtype, row.backend};
    if (IsCollectiveOp(row.op)) {
      key.dtype.clear();
      if (row.path.nodes > 1 && row.op != "network_p2p") continue;   // priced from its parts
      const std::string& label = labels[{row.op, row.backend}][row.version];
      if (!label.empty()) {
        const bool eager = EndsEager(row.backend);
        key.backend = row.backend.substr(0, row.backend.size() - (eager ? 6 : 0)) + "-" + label + (eager ? "-eager" : "");
      }
    }
    if (IsByteOp(row.op)) key.dtype.clear();
    if (row.op.rfind("deepep", 0) == 0) continue;                     // priced from other entries
    if (!WidensInKernel(row.dtype) && std::any_of(std::begin(kLeftOut), std::end(kLeftOut), [&](const char* f) { return row.format == f; })) continue;
    if (row.format == "fp8" || row.format == "fp8_block") {
      const auto& [tensor, block] = scales[{row.op, row.backend}];
      if ((row.format == "fp8_block") != BlockScalesWin(tensor, block)) continue;
    }
    Group& g = groups[key];
    g.key = key;
    if (row.problem.empty()) {
      g.rows.push_back(&row);
    } else if (g.problem.empty()) {
      g.problem = row.problem;
    }
  }
  // Older profiles, rounded to a microsecond or of kernels of their time, only where nothing newer was measured.
  std::erase_if(groups, [&](const auto& entry) {
    const GroupKey& key = entry.first;
    if (!IsOldProfile(key.backend)) return false;
    return std::any_of(groups.begin(), groups.end(), [&](const auto& other) {
      return other.first.op == key.op && other.first.dtype == key.dtype && !IsOldProfile(other.first.backend);
    });
  });
  std::map<std::tuple<std::string, std::string, std::string>, Family> families;
  for (auto& [key, g] : groups) {
    const bool shared = (key.op == "moe" && !WidensInKernel(key.dtype)) || key.op.find("prefill") != std::string::npos || key.op.find("decode") != std::string::npos;
    if (IsSmoothedTogether(key.op)) {
      families[{key.op == "custom_all_reduce" || key.op == "all_to_all" ? key.op : "collectives", "", ""}].push_back(std::move(g));
    } else {
      families[{key.op, key.backend, shared ? "" : key.dtype}].push_back(std::move(g));
    }
  }
  std::vector<Family> out;
  for (auto& [key, f] : families) out.push_back(std::move(f));
  return out;
}

ErrorStats Stats(std::vector<double> errors) {
  ErrorStats s;
  s.rows = static_cast<int>(errors.size());
  if (errors.empty()) return s;
  for (double& e : errors) s.mape += (e = std::fabs(e));
  s.mape /= static_cast<double>(errors.size());
  std::sort(errors.begin(), errors.end());
  s.median = errors[errors.size() / 2];
  s.p90 = errors[errors.size() * 9 / 10];
  return s;
}

// Features a correction fades outside of: the sizes.
std::vector<int> RangeFeatures(const std::string& op) {
  std::vector<std::string_view> wanted;
  if (op == "gemm") wanted = {"m", "n", "k"};
  if (op == "moe") wanted = {"tokens", "hidden", "inter", "experts"};
  if (op == "quantize") wanted = {"rows", "width"};
  if (op == "mla_decode") wanted = {"sequences", "keys"};   // what heads cost beyond a tile of them is in the formula
  if (wanted.empty()) wanted = {"sequences", "keys", "heads"};
  std::vector<int> out;
  const std::span<const std::string_view> names = FeatureNames(op);
  for (const std::string_view w : wanted) {
    out.push_back(static_cast<int>(std::find(names.begin(), names.end(), w) - names.begin()));
  }
  return out;
}

// 16-bit operations per clock of one multiprocessor; 0: not known.
double FlopsPerClock(const GpuSpec& gpu) {
  const double clocks = gpu.multiprocessors * gpu.boost_clock.value();
  return clocks > 0 ? gpu.peak[static_cast<size_t>(DType::kBf16)].value() / clocks : 0;
}

// Everything one fit of a family needs.
class FamilyFit {
 public:
  using Rows = std::vector<std::vector<const OpRow*>>;   // per member

  FamilyFit(const DeviceBase& base, const Catalog& catalog, const CalibrationOptions& options, const Family& family)
      : base_(base), catalog_(catalog), options_(options) {
    for (const Group& group : family) {
      Member m;
      // Other devices that were measured themselves.
      for (const std::string& name : catalog.Names("operators")) {
        if (name == base.name) continue;
        const absl::StatusOr<OperatorParamSet> set = LoadOperatorParams(name, catalog);
        if (!set.ok()) continue;
        for (const OperatorParams& p : set->entries) {
          if (p.device != name || p.label != Provenance::kCalibrated || p.op != group.key.op || p.dtype != group.key.dtype) continue;
          if (!p.link.empty() && p.link != base.machine.scale_up.kind) continue;
          if (p.backend.find("-eager") != std::string::npos) continue;
          // Where few rows were fitted, the prior decided, which other devices are: they would count twice.
          if (p.rows < kRowsOfItsOwn && !FeatureNames(p.op).empty()) continue;
          m.others.push_back(p);
          break;   // the first one of a device is its newest
        }
      }
      std::vector<const OperatorParams*> pointers;
      for (const OperatorParams& p : m.others) pointers.push_back(&p);
      m.prior = PriorFor(group.key.op, group.key.dtype, pointers);
      m.start.op = group.key.op;
      m.start.dtype = group.key.dtype;
      m.start.backend = group.key.backend;
      if (IsCollectiveOp(group.key.op)) {
        m.start.link = group.key.op == "network_p2p" ? base.machine.network.kind : base.machine.scale_up.kind;
      }
      m.curves = (IsCollectiveOp(group.key.op) || IsByteOp(group.key.op)) && group.rows.size() >= kEnoughForCurves;
      members_.push_back(std::move(m));
    }
    featured_ = !FeatureNames(family.front().key.op).empty();
    joint_ = IsSmoothedTogether(family.front().key.op);
  }

  bool has_formula() const { return !members_.front().prior.parameters.empty(); }

  // One entry per member; members without rows keep `warm`, or stay at the prior. `warm`: start from these.
  absl::StatusOr<std::vector<OperatorParams>> Fit(const Rows& rows, const std::vector<OperatorParams>* warm,
                                                  std::vector<std::vector<FittedParameter>>* parameters) {
    std::vector<OperatorParams> out;
    for (size_t i = 0; i < members_.size(); ++i) {
      FormulaFitOptions options;
      options.seed = options_.seed;
      options.only_q = warm != nullptr;
      const OperatorParams start = warm != nullptr ? (*warm)[i] : members_[i].start;
      if (rows[i].empty()) {
        out.push_back(start);
        if (parameters != nullptr) parameters->emplace_back();
        continue;
      }
      SIMRUN_ASSIGN_OR_RETURN(FormulaFit fit, FitFormula(base_.machine, base_.set, start, members_[i].prior, rows[i], options));
      if (parameters != nullptr) parameters->push_back(fit.parameters);
      OperatorParams p = std::move(fit.params);
      if (members_[i].curves && !joint_) {
        std::vector<CurvePoint> points;
        for (const OpRow* row : rows[i]) {
          points.push_back({IsCollectiveOp(row->op) ? static_cast<double>(row->path.ranks) : 0, row->work.bytes, row->seconds});
        }
        p.curves = FitCurves(points);
      }
      out.push_back(std::move(p));
    }
    if (featured_) SIMRUN_RETURN_IF_ERROR(AddTrees(rows, &out, parameters));
    if (joint_) SIMRUN_RETURN_IF_ERROR(AddJointCurves(rows, &out));
    return out;
  }

  // Errors of `p` on rows: with its correction, and by the formula alone.
  absl::Status Errors(const OperatorParams& p, const std::vector<const OpRow*>& rows, std::vector<double>* corrected,
                      std::vector<double>* formula) const {
    std::vector<OpRow> copies;
    for (const OpRow* row : rows) copies.push_back(*row);
    OperatorParams plain = p;
    plain.trees.clear();
    plain.curves.clear();
    for (const bool with : {true, false}) {
      std::vector<double>* out = with ? corrected : formula;
      SIMRUN_ASSIGN_OR_RETURN(const OperatorPricer pricer,
                              OperatorPricer::Create(base_.machine, WithEntry(base_.set, with ? p : plain), p.backend, copies));
      for (const OpRow& row : copies) out->push_back(pricer.Price(row).seconds.value_or(0) / row.seconds - 1);
    }
    return absl::OkStatus();
  }

 private:
  struct Member {
    std::vector<OperatorParams> others;
    FormulaPrior prior;
    OperatorParams start;
    bool curves = false;
  };

  absl::Status AddJointCurves(const Rows& rows, std::vector<OperatorParams>* entries) {
    std::vector<size_t> members;
    std::vector<CurveTask> tasks;
    for (size_t i = 0; i < entries->size(); ++i) {
      if (rows[i].empty() || !members_[i].curves) continue;
      const OpRow& any = *rows[i].front();
      SIMRUN_ASSIGN_OR_RETURN(OperatorPricer pricer, OperatorPricer::Create(base_.machine, WithEntry(base_.set, (*entries)[i]),
                                                                            (*entries)[i].backend, {any}));
      CurveTask task;
      for (const OpRow* row : rows[i]) task.points.push_back({static_cast<double>(row->path.ranks), row->work.bytes, row->seconds});
      // What all-to-alls send leaves out the part a rank keeps.
      const bool own_part = any.op == "all_to_all";
      task.kind = any.op + (EndsEager(any.backend) ? " launched one by one" : "");
      task.buffer_over_size = [own_part](double ranks) { return own_part ? ranks / (ranks - 1) : 1.0; };
      task.formula = [pricer = std::move(pricer), any](double ranks, double bytes) {
        OpRow row = any;
        row.path.ranks = row.path.ranks_per_node = row.work.ranks = static_cast<int>(ranks);
        row.work.bytes = bytes;
        return pricer.Price(row).seconds.value_or(0);
      };
      members.push_back(i);
      tasks.push_back(std::move(task));
    }
    std::vector<std::vector<OperatorCurve>> curves = FitJointCurves(tasks, &covariance_);
    for (size_t t = 0; t < members.size(); ++t) (*entries)[members[t]].curves = std::move(curves[t]);
    return absl::OkStatus();
  }

  // Features of rows and what the formula of `p` leaves of them.
  absl::Status SamplesOf(const OperatorParams& p, const std::vector<const OpRow*>& rows, std::vector<TreeSample>* samples) const {
    std::vector<OpRow> copies;
    for (const OpRow* row : rows) copies.push_back(*row);
    SIMRUN_ASSIGN_OR_RETURN(const OperatorPricer pricer,
                            OperatorPricer::Create(base_.machine, WithEntry(base_.set, p), p.backend, copies));
    for (const OpRow& row : copies) {
      const OperatorCosts::Sample s = pricer.Probe(row);
      samples->push_back({s.features, std::log(row.seconds / std::max(s.formula, 1e-12))});
    }
    return absl::OkStatus();
  }

  absl::Status AddTrees(const Rows& rows, std::vector<OperatorParams>* entries, std::vector<std::vector<FittedParameter>>* parameters) const {
    std::vector<TreeSample> samples;
    for (size_t i = 0; i < entries->size(); ++i) {
      if (rows[i].empty()) continue;
      SIMRUN_RETURN_IF_ERROR(SamplesOf((*entries)[i], rows[i], &samples));
    }
    if (samples.size() < kEnoughForTrees) return Borrow(rows, entries, parameters);
    TreeFitOptions options = options_.trees;
    options.seed = options_.seed;
    const std::string& op = entries->front().op;
    const std::span<const std::string_view> names = FeatureNames(op);
    if (op == "mla_decode") options.ridge = kRidgeOfLatent;
    if (op == "quantize") options.trees = std::min(options.trees, kTreesOfSmallKernels);
    options = ChooseTrees(samples, names.size(), options, kWorth);
    const ResidualTrees trees = FitTrees(samples, names.size(), RangeFeatures(op), options);
    Give(trees.ToTable(names), trees, entries);
    return absl::OkStatus();
  }

  static void Give(const ResidualTable& table, const ResidualTrees& trees, std::vector<OperatorParams>* entries) {
    for (OperatorParams& p : *entries) {
      ResidualTable reference;
      reference.same_as = entries->front().dtype;
      p.residuals = {&p == &entries->front() ? table : reference};
      p.trees = {trees};
    }
  }

  // Few rows: the whole model of another device, formula and trees, moved as little as the rows ask for. Of every device
  // with trees, the parameters become the centre of a narrow prior, and its trees one of what the formula leaves
  // (BorrowedTrees); both are fitted to the rows together. The device under which the rows are likeliest lends, those whose
  // multiprocessors multiply as many numbers per clock before others: kernels are written for one kind.
  absl::Status Borrow(const Rows& rows, std::vector<OperatorParams>* entries, std::vector<std::vector<FittedParameter>>* parameters) const {
    std::optional<Loan> best;
    for (const OperatorParams& lender : members_.front().others) {
      if (lender.trees.empty()) continue;
      SIMRUN_ASSIGN_OR_RETURN(Loan loan, BorrowFrom(lender, rows, *entries));
      if (!best.has_value() || loan.loss < best->loss) best = std::move(loan);
    }
    if (!best.has_value()) return absl::OkStatus();
    for (size_t i = 0; i < entries->size(); ++i) {
      if (rows[i].empty()) continue;
      (*entries)[i] = std::move(best->entries[i]);
      if (parameters != nullptr) (*parameters)[i] = std::move(best->parameters[i]);
    }
    ResidualTable table = best->trees.ToTable(FeatureNames(entries->front().op));
    table.of = best->device;
    Give(table, best->trees, entries);
    return absl::OkStatus();
  }

  // Between the multiplications per clock of a multiprocessor there and here.
  double Octaves(const std::string& device) const {
    const absl::StatusOr<DeviceChoice> other = ChooseDevice(device, catalog_);
    const double here = FlopsPerClock(base_.machine.gpu), there = other.ok() ? FlopsPerClock(other->machine.gpu) : 0;
    return here > 0 && there > 0 ? std::fabs(std::log2(here / there)) : 0;
  }

  struct Loan {
    double loss = 0;
    std::string device;
    ResidualTrees trees;
    std::vector<OperatorParams> entries;
    std::vector<std::vector<FittedParameter>> parameters;
  };
  absl::StatusOr<Loan> BorrowFrom(const OperatorParams& lender, const Rows& rows, const std::vector<OperatorParams>& entries) const {
    Loan loan;
    loan.device = lender.device;
    loan.entries = entries;
    loan.parameters.resize(entries.size());
    const BorrowedTrees trees(lender.trees.front(), {});
    std::vector<FormulaPrior> priors;
    for (size_t i = 0; i < entries.size(); ++i) {
      FormulaPrior prior = members_[i].prior;
      const auto own = std::find_if(members_[i].others.begin(), members_[i].others.end(), [&](const OperatorParams& p) { return p.device == lender.device; });
      if (own != members_[i].others.end()) {
        loan.entries[i] = *own;
        loan.entries[i].op = entries[i].op, loan.entries[i].dtype = entries[i].dtype, loan.entries[i].backend = entries[i].backend;
        loan.entries[i].link = entries[i].link;
        for (ParameterPrior& p : prior.parameters) {
          const double value = ParameterOf(*own, p.name);
          if (value > 0) p.value = std::clamp(value, p.low, p.high);
          p.spread = std::max(kLeastSpread, kBorrowedSpread * p.spread);
        }
      }
      loan.entries[i].trees.clear(), loan.entries[i].residuals.clear();
      loan.entries[i].learned.clear(), loan.entries[i].note.clear();
      loan.entries[i].measured_bandwidth = BytesPerSecond(0);
      loan.entries[i].measured_ridge = 0;
      priors.push_back(std::move(prior));
    }
    // Twice: what the trees say depends on the formula through the shares of its terms.
    std::vector<TreeSample> all;
    for (int round = 0; round < 2; ++round) {
      loan.loss = kKinship * Octaves(lender.device);
      all.clear();
      for (size_t i = 0; i < entries.size(); ++i) {
        if (rows[i].empty()) continue;
        std::vector<TreeSample> samples;
        SIMRUN_RETURN_IF_ERROR(SamplesOf(loan.entries[i], rows[i], &samples));
        std::vector<OpRow> corrected;
        std::vector<Features> at;
        for (size_t k = 0; k < rows[i].size(); ++k) {
          corrected.push_back(*rows[i][k]);
          corrected.back().seconds /= std::exp(trees.Mean(samples[k].features));
          at.push_back(samples[k].features);
        }
        std::vector<const OpRow*> pointers;
        for (const OpRow& row : corrected) pointers.push_back(&row);
        FormulaFitOptions options;
        options.seed = options_.seed;
        options.only_q = true;
        options.covariance = trees.Covariance(at);
        SIMRUN_ASSIGN_OR_RETURN(FormulaFit fit, FitFormula(base_.machine, base_.set, loan.entries[i], priors[i], pointers, options));
        loan.loss += fit.loss;
        for (const FittedParameter& p : fit.parameters) loan.loss += 2 * std::log(p.prior_sd / p.sd);   // what was left to choose
        loan.entries[i] = std::move(fit.params);
        loan.parameters[i] = std::move(fit.parameters);
        SIMRUN_RETURN_IF_ERROR(SamplesOf(loan.entries[i], rows[i], &all));
      }
    }
    loan.trees = trees.Given(all);
    return loan;
  }

  const DeviceBase& base_;
  const Catalog& catalog_;
  const CalibrationOptions& options_;
  std::vector<Member> members_;
  CurveCovariance covariance_;   // of the first fit, kept for the parts of the cross-validation
  bool featured_ = false, joint_ = false;
};

std::string SourceText(const std::vector<const OpRow*>& rows) {
  std::set<std::string> known, other;
  std::set<std::string> versions;
  for (const OpRow* row : rows) {
    const std::string_view s = row->source;
    if (s.rfind("aic-", 0) == 0) {
      known.insert("aiconfigurator measurements (NVIDIA, Apache-2.0)");
    } else if (s.rfind("vidur", 0) == 0) {
      known.insert("Vidur profiles (Microsoft, MIT)");
    } else if (s.rfind("apex", 0) == 0) {
      known.insert("APEX profiles (Microsoft, MIT)");
    } else if (s.rfind("llmservingsim", 0) == 0) {
      known.insert("LLMServingSim profiles (KAIST CASYS, MIT)");
    } else {
      other.insert(std::string(s));
    }
    if (!row->version.empty()) versions.insert(fmt::format("{} {}", row->backend, row->version));
  }
  std::string text = "fit to ";
  bool first = true;
  for (const auto* names : {&known, &other}) {
    for (const std::string& n : *names) {
      text += (first ? "" : ", ") + (n.empty() ? std::string("measurements") : n);
      first = false;
      if (names == &other && names->size() > 4) break;
    }
  }
  for (const std::string& v : versions) text += ", " + v;
  return text;
}

double LargestSize(const Group& g) {
  double largest = 0;
  for (const OpRow* row : g.rows) {
    if (row->attention()) {
      largest = std::max(largest, row->point.keys);
    } else if (row->op == "gemm") {
      largest = std::max(largest, static_cast<double>(row->work.m));
    } else if (row->op == "moe") {
      largest = std::max(largest, static_cast<double>(row->work.tokens));
    } else if (IsCollectiveOp(row->op)) {
      largest = std::max(largest, row->work.bytes);
    }
  }
  return largest;
}

double Percent(double fraction) { return std::round(fraction * 1000) / 10; }

// Adds a report for every member, and an entry for those that could be fitted.
absl::Status FitFamily(const DeviceBase& base, const Catalog& catalog, const CalibrationOptions& options, const Family& all,
                       std::vector<OperatorReport>* reports, std::vector<OperatorParams>* fitted) {
  Family family;
  for (const Group& g : all) {
    if (!g.rows.empty()) {
      family.push_back(g);
      continue;
    }
    OperatorReport report;
    report.op = g.key.op, report.dtype = g.key.dtype, report.backend = g.key.backend;
    report.skipped = g.problem.empty() ? "no row can be priced" : g.problem;
    reports->push_back(std::move(report));
  }
  if (family.empty()) return absl::OkStatus();
  FamilyFit fit(base, catalog, options, family);
  const size_t members = family.size();
  std::vector<OperatorReport> found(members);
  FamilyFit::Rows rows(members);
  size_t total = 0;
  for (size_t i = 0; i < members; ++i) {
    found[i].op = family[i].key.op, found[i].dtype = family[i].key.dtype, found[i].backend = family[i].key.backend;
    found[i].rows = static_cast<int>(family[i].rows.size());
    rows[i] = family[i].rows;
    total += rows[i].size();
  }
  if (!fit.has_formula()) {
    for (OperatorReport& r : found) {
      r.skipped = "no formula for this operator";
      reports->push_back(std::move(r));
    }
    return absl::OkStatus();
  }
  std::vector<std::vector<FittedParameter>> parameters;
  SIMRUN_ASSIGN_OR_RETURN(std::vector<OperatorParams> entries, fit.Fit(rows, nullptr, &parameters));
  const bool cross = options.cross_validate && total >= 2 * static_cast<size_t>(options.folds);
  std::vector<std::vector<double>> corrected(members), formula(members);
  for (const bool by_shape : {false, true}) {
    if (!cross || (by_shape && !entries.front().curves.empty())) continue;
    // Which part a row falls into; rows of one shape together, or every row for itself.
    Rng rng(options.seed, by_shape ? "shapes" : "folds");
    std::map<std::string, size_t> part;
    std::vector<std::vector<size_t>> of(members);
    for (size_t i = 0; i < members; ++i) {
      for (const OpRow* row : rows[i]) {
        const size_t drawn = static_cast<size_t>(rng.Below(static_cast<uint64_t>(options.folds)));
        of[i].push_back(by_shape ? part.emplace(row->group, drawn).first->second : drawn);
      }
    }
    if (by_shape && part.size() < static_cast<size_t>(options.folds)) continue;
    for (size_t i = 0; i < members; ++i) corrected[i].clear(), formula[i].clear();
    for (size_t fold = 0; fold < static_cast<size_t>(options.folds); ++fold) {
      FamilyFit::Rows seen(members), unseen(members);
      size_t seen_rows = 0;
      for (size_t i = 0; i < members; ++i) {
        for (size_t k = 0; k < rows[i].size(); ++k) (of[i][k] == fold ? unseen : seen)[i].push_back(rows[i][k]);
        seen_rows += seen[i].size();
      }
      if (seen_rows == 0) continue;
      SIMRUN_ASSIGN_OR_RETURN(const std::vector<OperatorParams> partial, fit.Fit(seen, &entries, nullptr));
      for (size_t i = 0; i < members; ++i) {
        if (!unseen[i].empty()) SIMRUN_RETURN_IF_ERROR(fit.Errors(partial[i], unseen[i], &corrected[i], &formula[i]));
      }
    }
    for (size_t i = 0; i < members; ++i) {
      (by_shape ? found[i].by_shape : found[i].by_row) = Stats(corrected[i]);
      if (!by_shape) found[i].formula = Stats(formula[i]);
    }
  }
  for (size_t i = 0; i < members; ++i) {
    OperatorReport& report = found[i];
    OperatorParams& p = entries[i];
    report.parameters = parameters[i];
    if (!cross) {
      std::vector<double> with, without;
      SIMRUN_RETURN_IF_ERROR(fit.Errors(p, rows[i], &with, &without));
      report.by_row = Stats(with);
      report.formula = Stats(without);
      p.note = "error on the rows of the fit";
    }
    if (cross && !p.curves.empty() && report.by_row.mape > report.formula.mape) {
      // Too few or too scattered points for a curve.
      p.curves.clear();
      report.by_row = report.formula;
    }
    if (report.by_row.mape > kUnusable) {
      report.skipped = fmt::format("rows contradict one another: mean error {:.0f} %", 100 * report.by_row.mape);
      reports->push_back(std::move(report));
      continue;
    }
    if (!p.trees.empty()) {
      const ResidualTable& table = p.residuals.front();
      report.correction = !table.same_as.empty() ? fmt::format("trees of {}", table.same_as)
                          : table.of.empty()     ? fmt::format("{} trees", p.trees.front().count())
                                                 : fmt::format("trees of {} x {:.2f}", table.of, table.weight);
    } else if (!p.curves.empty()) {
      size_t points = 0;
      for (const OperatorCurve& c : p.curves) points += c.at.size();
      report.correction = fmt::format("{} curves, {} points", p.curves.size(), points);
    }
    p.mape = Percent(report.by_row.mape);
    p.median_ape = Percent(report.by_row.median);
    p.p90_ape = Percent(report.by_row.p90);
    p.new_shape_mape = Percent(report.by_shape.mape);
    p.rows = report.rows;
    p.max_size = LargestSize(family[i]);
    p.source = SourceText(family[i].rows);
    p.provenance = "calibrated";
    p.confidence = "A";
    for (const FittedParameter& f : report.parameters) {
      p.learned += fmt::format("{}{} {:.0f}", p.learned.empty() ? "" : ", ", f.name, 100 * f.learned());
    }
    fitted->push_back(std::move(p));
    reports->push_back(std::move(report));
  }
  return absl::OkStatus();
}

// Isolated norms and lookups of 2024 are not what engines run today (fused with the residual add): measured separately.
bool Replaces(const OperatorParams& fresh, const OperatorParams& old) {
  if (fresh.op != old.op) return false;
  if (fresh.dtype == old.dtype && fresh.backend == old.backend) return true;
  const bool other_kernel = fresh.backend == "vidur" && (fresh.op == "norm" || fresh.op == "embedding");
  if (other_kernel || fresh.backend.find("-eager") != std::string::npos) return false;
  const bool any_kernel = old.backend.empty() && (IsCollectiveOp(fresh.op) || IsByteOp(fresh.op) || fresh.op == "quantize");
  // An entry without format stood for the 16-bit one.
  const bool same_format = fresh.dtype == old.dtype || (old.dtype.empty() && fresh.dtype == "bf16");
  return same_format && (any_kernel || fresh.backend == old.backend);
}

}  // namespace

absl::StatusOr<DeviceBase> LoadDeviceBase(const std::string& base, const Catalog& catalog) {
  DeviceBase out;
  Catalog with_file = catalog;
  std::string name = base;
  const bool is_file = base.size() > 5 && base.substr(base.size() - 5) == ".yaml";
  OperatorFile given;
  bool has_given = false;
  if (is_file) {
    SIMRUN_ASSIGN_OR_RETURN(const YamlNode node, ReadYamlFile(base));
    const size_t slash = base.find_last_of('/');
    name = base.substr(slash == std::string::npos ? 0 : slash + 1);
    name.resize(name.size() - 5);
    if (node.Find("operators") != nullptr && node.Find("operators")->IsSequence()) {
      Problems problems;
      ReadParams(node, "", &problems, &given);
      SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
      has_given = true;
    }
  }
  if (is_file && !has_given) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: is no operator file (it has no `operators:` list); for a GPU of your own, put it into DIR/gpus, add --catalog DIR and give its name", base));
  }
  SIMRUN_ASSIGN_OR_RETURN(DeviceChoice choice, ChooseDevice(name, with_file));
  out.machine = std::move(choice.machine);
  out.name = choice.operators;
  const absl::StatusOr<YamlNode> node = catalog.Load("operators", out.name);
  // A GPU without measurements borrows another's entry: that one is the fallback, not the start.
  const bool own = out.machine.gpu.operators_provenance == Provenance::kCalibrated || has_given;
  if (has_given) {
    out.file = std::move(given);
  } else if (own && node.ok()) {
    Problems problems;
    ReadParams(*node, "", &problems, &out.file);
    SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  } else {
    out.file.fallback = out.name;
    out.name.clear();
  }
  const GpuSpec& gpu = out.machine.gpu;
  if (out.file.description.empty()) out.file.description = gpu.name;
  OperatorReference& reference = out.file.reference;
  if (reference.memory_bandwidth.value() <= 0) {
    reference.peak_bf16 = gpu.peak[static_cast<size_t>(DType::kBf16)];
    reference.peak_fp8 = gpu.peak[static_cast<size_t>(DType::kFp8)];
    reference.memory_bandwidth = gpu.memory_bandwidth;
    reference.link_bandwidth = out.machine.scale_up.bandwidth;
  }
  SIMRUN_ASSIGN_OR_RETURN(out.set, LoadOperatorParams(choice.operators, catalog));
  return out;
}

absl::StatusOr<Calibration> Calibrate(const DeviceBase& base, const std::vector<OpRow>& rows, const Catalog& catalog,
                                      const CalibrationOptions& options) {
  std::vector<Family> families = MakeFamilies(rows);
  for (Family& family : families) {
    for (Group& g : family) {
      const bool held = std::any_of(base.file.operators.begin(), base.file.operators.end(), [&](const OperatorParams& p) {
        return p.hold && p.op == g.key.op && p.dtype == g.key.dtype && p.backend == g.key.backend;
      });
      if (held) g.rows.clear(), g.problem = "its entry is set by hand (`hold`)";
    }
  }
  if (families.empty()) return absl::InvalidArgumentError("no rows of an operator that is fitted");
  std::vector<std::vector<OperatorReport>> reports(families.size());
  std::vector<std::vector<OperatorParams>> fitted(families.size());
  std::vector<absl::Status> status(families.size());
  std::atomic<size_t> next{0};
  std::mutex mutex;
  size_t done = 0;
  const auto work = [&] {
    for (size_t i = next++; i < families.size(); i = next++) {
      status[i] = FitFamily(base, catalog, options, families[i], &reports[i], &fitted[i]);
      const std::lock_guard<std::mutex> lock(mutex);
      ++done;
      if (options.progress) options.progress(done, families.size());
    }
  };
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const size_t threads = std::min(families.size(), options.threads > 0 ? static_cast<size_t>(options.threads) : cores);
  std::vector<std::thread> pool;
  for (size_t t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
  for (const absl::Status& s : status) SIMRUN_RETURN_IF_ERROR(s);

  Calibration out;
  for (std::vector<OperatorReport>& r : reports) {
    for (OperatorReport& one : r) out.reports.push_back(std::move(one));
  }
  out.file = base.file;
  std::vector<OperatorParams>& entries = out.file.operators;
  std::vector<OperatorParams> fresh;
  for (std::vector<OperatorParams>& f : fitted) {
    for (OperatorParams& p : f) fresh.push_back(std::move(p));
  }
  // Newest versions without a suffix first: the first entry of an operator is what an unknown backend gets.
  std::stable_sort(fresh.begin(), fresh.end(), [](const OperatorParams& a, const OperatorParams& b) {
    const auto plain = [](const OperatorParams& p) { return p.backend.find('-') == std::string::npos ? 0 : 1; };
    const auto known = [](const OperatorParams& p) { return p.backend == "vllm" || p.backend == "nccl" ? 0 : 1; };
    return std::tuple(plain(a), known(a)) < std::tuple(plain(b), known(b));
  });
  std::erase_if(entries, [&](const OperatorParams& old) {
    return !old.hold && std::any_of(fresh.begin(), fresh.end(), [&](const OperatorParams& f) { return Replaces(f, old); });
  });
  std::vector<OperatorParams> merged = fresh;
  merged.insert(merged.end(), entries.begin(), entries.end());
  // Where an entry was kept beside fresh ones for the same operator, it stands for today's kernel.
  std::stable_sort(merged.begin(), merged.end(), [](const OperatorParams& a, const OperatorParams& b) {
    const auto rank = [](const OperatorParams& p) {
      const std::vector<std::string> names = OperatorNames();
      return std::find(names.begin(), names.end(), p.op) - names.begin();
    };
    const auto legacy = [](const OperatorParams& p) { return p.backend == "vidur" || p.backend == "apex" ? 1 : 0; };
    return std::tuple(rank(a), legacy(a)) < std::tuple(rank(b), legacy(b));
  });
  entries = std::move(merged);
  return out;
}

}  // namespace simrun
