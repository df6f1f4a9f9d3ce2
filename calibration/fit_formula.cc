#include "calibration/fit_formula.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <Eigen/Dense>
#include <unsupported/Eigen/NonLinearOptimization>

#include "base/rng.h"
#include "base/status.h"

namespace simrun {
namespace {

constexpr double kTolerance = 0.1;    // an error of 10 % counts as one
constexpr double kStep = 1e-3;        // of a logarithm, for derivatives
constexpr int kEvaluations = 25;      // Levenberg-Marquardt steps at most

struct Known {
  const char* name;
  double value, spread, low, high;
};
// Start and limits where no other device was measured. Times in seconds.
const std::vector<Known>& KnownFor(const std::string& op) {
  static const auto* const gemm = new std::vector<Known>{
      {"t0", 2.5e-6, 1, 1e-7, 1e-3}, {"ec", 0.7, 0.3, 0.01, 1}, {"em", 0.85, 0.2, 0.05, 1}, {"d", 6e-6, 0.7, 1e-7, 1e-2},
      {"k0", 2000, 1, 50, 1e5}, {"l2_gain", 1.5, 0.7, 1, 30}, {"l2_share", 0.5, 0.5, 0.05, 1.5}};
  static const auto* const narrow = new std::vector<Known>{
      {"t0", 5e-6, 1, 1e-7, 1e-3}, {"ec", 0.75, 0.3, 0.01, 1}, {"em", 0.9, 0.2, 0.05, 1}, {"d", 6e-6, 0.7, 1e-7, 1e-2},
      {"k0", 2000, 1, 50, 1e5}, {"eq", 0.25, 0.7, 0.02, 1}, {"l2_gain", 1.5, 0.7, 1, 30}, {"l2_share", 0.5, 0.5, 0.05, 1.5}};
  static const auto* const prefill = new std::vector<Known>{
      {"t0", 9e-6, 0.7, 1e-7, 3e-3}, {"ec", 0.6, 0.4, 0.005, 1}, {"em", 0.7, 0.5, 0.02, 1}, {"d", 8e-6, 0.8, 1e-8, 1e-2},
      {"kappa", 60, 1, 0.5, 600}, {"l2_gain", 1.5, 0.7, 1, 30}, {"l2_share", 0.5, 0.5, 0.05, 1.5}};
  static const auto* const decode = new std::vector<Known>{
      {"t0", 1e-5, 0.7, 1e-7, 3e-3}, {"em", 0.9, 0.2, 0.05, 1}, {"kappa", 140, 0.7, 1, 2000}, {"d", 1.6e-5, 0.8, 1e-8, 1e-2},
      {"k0", 5000, 1, 50, 1e5}, {"l2_gain", 2, 0.7, 1, 30}, {"l2_share", 0.5, 0.5, 0.05, 1.5}};
  static const auto* const mla_decode = new std::vector<Known>{
      {"t0", 1.1e-5, 0.8, 1e-7, 3e-3}, {"ec", 0.5, 0.8, 0.005, 1}, {"em", 0.9, 0.3, 0.02, 1}, {"kappa", 140, 0.7, 1, 2000},
      {"d", 1.2e-5, 0.8, 1e-8, 1e-2}, {"k0", 3000, 1, 50, 1e5}, {"parts", 1, 1, 0.02, 64}, {"split", 1, 0.7, 0.02, 4}, {"l2_gain", 2, 0.7, 1, 30}, {"l2_share", 0.5, 0.5, 0.05, 1.5}};
  static const auto* const moe = new std::vector<Known>{
      {"t0", 3.5e-5, 0.7, 1e-6, 3e-3}, {"ec", 0.55, 0.4, 0.005, 1}, {"em", 0.85, 0.3, 0.02, 1}, {"bm", 12, 1, 0.05, 200},
      {"r2", 5, 0.7, 0.05, 60}, {"kh", 5, 1, 0.2, 1000}, {"others", 0.5, 0.7, 0.01, 1}, {"l2_gain", 1.5, 0.7, 1, 30}, {"l2_share", 0.5, 0.5, 0.05, 1.5}};
  static const auto* const bytes = new std::vector<Known>{{"t0", 2.2e-6, 0.7, 1e-7, 1e-3}, {"em", 0.7, 0.7, 0.01, 20}};
  static const auto* const collective = new std::vector<Known>{
      {"a", 5e-6, 0.7, 1e-7, 1e-2}, {"b", 1.2e-6, 0.8, 1e-8, 1e-3}, {"eb", 0.7, 0.5, 0.005, 1}, {"s", 5e-6, 1, 1e-8, 1e-3}};
  static const auto* const message = new std::vector<Known>{{"a", 9e-6, 0.8, 1e-7, 1e-2}, {"eb", 0.75, 0.5, 0.005, 1}};
  static const auto* const mixed = new std::vector<Known>{
      {"t0", 5e-6, 0.7, 1e-7, 3e-3}, {"ec", 0.6, 0.4, 0.005, 1}, {"em", 0.8, 0.4, 0.02, 1}, {"d", 2.5e-5, 0.7, 1e-8, 1e-2},
      {"kappa", 120, 1, 0.5, 2000}};
  static const auto* const none = new std::vector<Known>;
  if (op == "gemm") return *gemm;
  if (op == "gemm narrow") return *narrow;
  if (op == "prefill" || op == "mla_prefill") return *prefill;
  if (op == "decode") return *decode;
  if (op == "mixed") return *mixed;
  if (op == "mla_decode") return *mla_decode;
  if (op == "moe") return *moe;
  for (const char* name : {"norm", "add", "activation", "rope", "embedding", "sampling", "quantize", "elementwise"}) {
    if (op == name) return *bytes;
  }
  for (const char* name : {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "custom_all_reduce"}) {
    if (op == name) return *collective;
  }
  if (op == "p2p" || op == "network_p2p") return *message;
  return *none;
}

double Get(const OperatorParams& p, const std::string& name) {
  if (name == "t0") return p.t0.value();
  if (name == "ec") return p.ec;
  if (name == "em") return p.em;
  if (name == "d") return p.d.value();
  if (name == "k0") return p.k0;
  if (name == "kappa") return p.kappa;
  if (name == "parts") return p.parts;
  if (name == "split") return p.split;
  if (name == "eq") return p.eq;
  if (name == "bm") return p.bm;
  if (name == "r2") return p.r2;
  if (name == "kh") return p.kh;
  if (name == "others") return p.others;
  if (name == "a") return p.a.value();
  if (name == "b") return p.b.value();
  if (name == "eb") return p.eb;
  if (name == "s") return p.s.value();
  if (name == "l2_gain") return p.l2_gain;
  return p.l2_share;
}

double FourDigits(double x) {
  const double scale = std::pow(10.0, 3 - static_cast<int>(std::floor(std::log10(x))));
  return std::round(x * scale) / scale;
}

void Set(OperatorParams* p, const std::string& name, double value) {
  if (name == "t0") p->t0 = Seconds(value);
  if (name == "ec") p->ec = value;
  if (name == "em") p->em = value;
  if (name == "d") p->d = Seconds(value);
  if (name == "k0") p->k0 = value;
  if (name == "kappa") p->kappa = value;
  if (name == "parts") p->parts = value;
  if (name == "split") p->split = value;
  if (name == "eq") p->eq = value;
  if (name == "bm") p->bm = value;
  if (name == "r2") p->r2 = value;
  if (name == "kh") p->kh = value;
  if (name == "others") p->others = value;
  if (name == "a") p->a = Seconds(value);
  if (name == "b") p->b = Seconds(value);
  if (name == "eb") p->eb = value;
  if (name == "s") p->s = Seconds(value);
  if (name == "l2_gain") p->l2_gain = value;
  if (name == "l2_share") p->l2_share = value;
}

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t n = v.size();
  return n % 2 == 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// Residuals: rows first, then one per parameter.
struct Problem {
  using Scalar = double;
  using InputType = Eigen::VectorXd;
  using ValueType = Eigen::VectorXd;
  using JacobianType = Eigen::MatrixXd;
  enum { InputsAtCompileTime = Eigen::Dynamic, ValuesAtCompileTime = Eigen::Dynamic };

  const Machine* machine = nullptr;
  const OperatorParamSet* base = nullptr;
  OperatorParams start;
  const FormulaPrior* prior = nullptr;
  std::vector<OpRow> rows;
  Eigen::MatrixXd lower;   // of the covariance of the rows' errors; empty: none

  int inputs() const { return static_cast<int>(prior->parameters.size()); }
  int values() const { return static_cast<int>(rows.size() + prior->parameters.size()); }

  OperatorParams At(const Eigen::VectorXd& x) const {
    OperatorParams p = start;
    for (size_t i = 0; i < prior->parameters.size(); ++i) {
      const ParameterPrior& pp = prior->parameters[i];
      Set(&p, pp.name, std::clamp(std::exp(x[static_cast<Eigen::Index>(i)]), pp.low, pp.high));
    }
    return p;
  }
  // Without the robust transform: log(predicted / measured) in units of the errors expected.
  bool Raw(const Eigen::VectorXd& x, Eigen::VectorXd* out) const {
    const absl::StatusOr<OperatorPricer> pricer = OperatorPricer::Create(*machine, WithEntry(*base, At(x)), start.backend, rows);
    if (!pricer.ok()) return false;
    for (size_t i = 0; i < rows.size(); ++i) {
      const double t = pricer->Price(rows[i]).seconds.value_or(rows[i].seconds);
      (*out)[static_cast<Eigen::Index>(i)] = std::log(std::max(t, 1e-12) / rows[i].seconds) / (lower.size() > 0 ? 1 : kTolerance);
    }
    if (lower.size() > 0) {
      auto errors = out->head(static_cast<Eigen::Index>(rows.size()));
      lower.triangularView<Eigen::Lower>().solveInPlace(errors);
    }
    for (size_t i = 0; i < prior->parameters.size(); ++i) {
      const ParameterPrior& pp = prior->parameters[i];
      (*out)[static_cast<Eigen::Index>(rows.size() + i)] = (x[static_cast<Eigen::Index>(i)] - std::log(pp.value)) / pp.spread;
    }
    return true;
  }
  int operator()(const Eigen::VectorXd& x, Eigen::VectorXd& out) const {
    if (!Raw(x, &out)) return -1;
    for (size_t i = 0; i < rows.size(); ++i) {
      double& r = out[static_cast<Eigen::Index>(i)];
      r = std::copysign(std::sqrt(2 * (std::sqrt(1 + r * r) - 1)), r);
    }
    return 0;
  }
  int df(const Eigen::VectorXd& x, Eigen::MatrixXd& jacobian) const {
    Eigen::VectorXd low(values()), high(values());
    for (int i = 0; i < inputs(); ++i) {
      Eigen::VectorXd moved = x;
      moved[i] = x[i] + kStep;
      if ((*this)(moved, high) < 0) return -1;
      moved[i] = x[i] - kStep;
      if ((*this)(moved, low) < 0) return -1;
      jacobian.col(i) = (high - low) / (2 * kStep);
    }
    return 0;
  }
};

}  // namespace

double ParameterOf(const OperatorParams& params, const std::string& name) { return Get(params, name); }

std::shared_ptr<const OperatorParamSet> WithEntry(const OperatorParamSet& base, OperatorParams entry) {
  auto set = std::make_shared<OperatorParamSet>(base);
  entry.device = base.name;
  entry.label = Provenance::kCalibrated;
  set->entries.insert(set->entries.begin(), std::move(entry));
  return set;
}

FormulaPrior PriorFor(const std::string& op, const std::string& dtype, const std::vector<const OperatorParams*>& others) {
  const bool narrow = op == "gemm" && dtype != "bf16" && !dtype.empty();
  FormulaPrior prior;
  for (const Known& k : KnownFor(narrow ? "gemm narrow" : op)) {
    ParameterPrior p{k.name, k.value, k.spread, k.low, k.high};
    std::vector<double> logs;
    for (const OperatorParams* other : others) {
      const double v = Get(*other, k.name);
      // A value at its limit or not set says nothing.
      const bool set = p.name == "l2_gain" ? v > 1 : p.name == "l2_share" ? other->l2_gain > 1 : v > 0;
      if (set) logs.push_back(std::log(std::clamp(v, k.low, k.high)));
    }
    if (!logs.empty()) {
      const double middle = Median(logs);
      p.value = std::exp(middle);
      if (logs.size() > 1) {
        std::vector<double> away;
        for (const double l : logs) away.push_back(std::fabs(l - middle));
        p.spread = std::clamp(1.48 * Median(away), 0.15, 1.0);
      }
    }
    prior.parameters.push_back(p);
  }
  for (const OperatorParams* other : others) (other->q == 1 ? prior.q1 : other->q == 2 ? prior.q2 : prior.q4) += 1;
  return prior;
}

absl::StatusOr<FormulaFit> FitFormula(const Machine& machine, const OperatorParamSet& base, const OperatorParams& start,
                                      const FormulaPrior& prior, const std::vector<const OpRow*>& rows,
                                      const FormulaFitOptions& options) {
  if (prior.parameters.empty()) return absl::InvalidArgumentError(fmt::format("operator \"{}\" has no formula to fit", start.op));
  if (rows.empty()) return absl::InvalidArgumentError(fmt::format("no rows to fit \"{}\" to", start.op));
  OperatorParamSet lean = base;
  for (OperatorParams& p : lean.entries) p.trees.clear(), p.residuals.clear(), p.anchors.clear();
  Problem problem;
  problem.machine = &machine;
  problem.base = &lean;
  problem.start = start;
  problem.start.trees.clear();
  problem.start.residuals.clear();
  problem.start.anchors.clear();
  problem.start.curves.clear();
  problem.prior = &prior;
  Rng rng(options.seed, "rows");
  std::vector<const OpRow*> chosen = rows;
  if (options.covariance.empty()) {
    for (size_t i = 0; i < chosen.size() && i < static_cast<size_t>(options.most_rows); ++i) {
      std::swap(chosen[i], chosen[i + rng.Below(chosen.size() - i)]);
    }
    if (chosen.size() > static_cast<size_t>(options.most_rows)) chosen.resize(static_cast<size_t>(options.most_rows));
  }
  for (const OpRow* row : chosen) problem.rows.push_back(*row);
  double shared = 0;   // logarithm of the covariance's determinant
  if (!options.covariance.empty()) {
    const Eigen::Index n = static_cast<Eigen::Index>(rows.size());
    if (options.covariance.size() != rows.size() * rows.size()) return absl::InvalidArgumentError("a covariance needs a value per pair of rows");
    const Eigen::LLT<Eigen::MatrixXd> llt(Eigen::Map<const Eigen::MatrixXd>(options.covariance.data(), n, n));
    if (llt.info() != Eigen::Success) return absl::InvalidArgumentError("the covariance is not positive definite");
    problem.lower = llt.matrixL();
    for (Eigen::Index i = 0; i < n; ++i) shared += 2 * std::log(problem.lower(i, i));
  }

  FormulaFit best;
  bool found = false;
  const double devices = prior.q1 + prior.q2 + prior.q4;
  for (const int q : {1, 2, 4}) {
    if (options.only_q && q != start.q) continue;
    problem.start.q = q;
    Eigen::VectorXd x(problem.inputs());
    for (int i = 0; i < problem.inputs(); ++i) {
      const ParameterPrior& p = prior.parameters[static_cast<size_t>(i)];
      const double from = options.only_q ? Get(start, p.name) : p.value;
      x[i] = std::log(std::clamp(from > 0 ? from : p.value, p.low, p.high));
      if (p.name == "l2_gain" && x[i] < 0.05) x[i] = std::log(p.value);   // off the limit, where nothing changes
    }
    Eigen::LevenbergMarquardt<Problem> lm(problem);
    lm.parameters.maxfev = kEvaluations;
    lm.parameters.xtol = lm.parameters.ftol = 1e-5;
    lm.minimize(x);
    Eigen::VectorXd residuals(problem.values());
    if (problem(x, residuals) < 0) return absl::InternalError(fmt::format("pricing \"{}\" failed", start.op));
    double loss = residuals.squaredNorm() + shared;
    if (devices > 0) loss -= 2 * std::log(((q == 1 ? prior.q1 : q == 2 ? prior.q2 : prior.q4) + 0.5) / (devices + 1.5));
    if (found && loss >= best.loss) continue;
    found = true;
    best.loss = loss;
    best.params = problem.At(x);
    best.parameters.clear();
    Eigen::MatrixXd jacobian(problem.values(), problem.inputs());
    if (problem.df(x, jacobian) < 0) return absl::InternalError("derivatives failed");
    // Rows scatter by their own error, not by the tolerance.
    Eigen::VectorXd raw(problem.values());
    problem.Raw(x, &raw);
    std::vector<double> size;
    for (size_t i = 0; i < problem.rows.size(); ++i) size.push_back(std::fabs(raw[static_cast<Eigen::Index>(i)]));
    const double scatter = std::max(0.3, 1.48 * Median(size));
    jacobian.topRows(static_cast<Eigen::Index>(problem.rows.size())) /= scatter;
    const Eigen::MatrixXd covariance = (jacobian.transpose() * jacobian).inverse();
    for (int i = 0; i < problem.inputs(); ++i) {
      const ParameterPrior& p = prior.parameters[static_cast<size_t>(i)];
      FittedParameter f{p.name, Get(best.params, p.name), p.value, std::sqrt(std::max(0.0, covariance(i, i))), p.spread};
      f.sd = std::min(f.sd, p.spread);
      best.parameters.push_back(f);
    }
  }
  for (FittedParameter& f : best.parameters) {
    f.value = FourDigits(f.value);
    Set(&best.params, f.name, f.value);
  }
  return best;
}

}  // namespace simrun
