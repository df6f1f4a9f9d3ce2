#include "calibration/fit_engine.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include <Eigen/Dense>
#include <fmt/format.h>

#include "base/params.h"
#include "base/status.h"
#include "calibration/validate.h"

namespace simrun {
namespace {

constexpr double kErrorScale = 0.1;   // rho bends at errors of this size

struct Field {
  const char* name;
  Seconds EngineProfile::*time;           // either of the two
  double EngineProfile::*number;
  double scale;                           // typical size: spread of the prior, and of the steps
  std::optional<Seconds> EngineVariant::*variant_time;
  std::optional<double> EngineVariant::*variant_number;
};

const std::vector<Field>& Fields() {
  using P = EngineProfile;
  using V = EngineVariant;
  static const std::vector<Field>* const fields = new std::vector<Field>{
      {"step_host", &P::step_host, nullptr, 2e-3, &V::step_host, nullptr},
      {"sequence_host", &P::sequence_host, nullptr, 30e-6, nullptr, nullptr},
      {"token_host", &P::token_host, nullptr, 1e-6, nullptr, nullptr},
      {"launch", &P::launch, nullptr, 10e-6, &V::launch, nullptr},
      {"graph_launch", &P::graph_launch, nullptr, 100e-6, nullptr, nullptr},
      {"post_step", &P::post_step, nullptr, 1e-3, &V::post_step, nullptr},
      {"post_sequence", &P::post_sequence, nullptr, 50e-6, nullptr, nullptr},
      {"server_step", &P::server_step, nullptr, 2e-3, nullptr, nullptr},
      {"front_end", &P::front_end, nullptr, 30e-3, &V::front_end, nullptr},
      {"front_end_token", &P::front_end_token, nullptr, 10e-6, nullptr, nullptr},
      {"sampling_passes", nullptr, &P::sampling_passes, 100, nullptr, nullptr},
      {"gpu_time_factor", nullptr, &P::gpu_time_factor, 0.2, nullptr, &V::gpu_time_factor},
  };
  return *fields;
}

const Field* FindField(const std::string& name) {
  for (const Field& f : Fields()) {
    if (name == f.name) return &f;
  }
  return nullptr;
}

// Whether `v` holds on every machine of one architecture and nowhere else; those are fitted.
bool IsOf(const EngineVariant& v, const std::string& architecture) {
  return v.architecture == architecture && !v.memory_below && !v.ranks_below && !v.server;
}

// The variant to write a value of that architecture to: the last one says what holds.
EngineVariant* VariantOf(EngineProfile* p, const std::string& architecture) {
  const auto last = std::find_if(p->variants.rbegin(), p->variants.rend(), [&](const EngineVariant& v) { return IsOf(v, architecture); });
  if (last != p->variants.rend()) return &*last;
  p->variants.emplace_back().architecture = architecture;
  return &p->variants.back();
}

double Get(const EngineProfile& p, const Field& f, const std::string& architecture) {
  double value = f.time != nullptr ? (p.*f.time).value() : p.*f.number;
  for (const EngineVariant& v : p.variants) {
    if (!IsOf(v, architecture)) continue;
    if (f.variant_time != nullptr && (v.*f.variant_time).has_value()) value = (*(v.*f.variant_time)).value();
    if (f.variant_number != nullptr && (v.*f.variant_number).has_value()) value = *(v.*f.variant_number);
  }
  return value;
}

void Set(EngineProfile* p, const Field& f, const std::string& architecture, double value) {
  if (architecture.empty()) {
    if (f.time != nullptr) p->*f.time = Seconds(value); else p->*f.number = value;
  } else if (EngineVariant* v = VariantOf(p, architecture); f.variant_time != nullptr) {
    v->*f.variant_time = Seconds(value);
  } else {
    v->*f.variant_number = value;
  }
}

class Fit {
 public:
  Fit(const std::vector<MeasuredCase>& cases, EngineProfile start, std::vector<const Field*> fields,
      const std::shared_ptr<const Catalog>& catalog, const FitEngineOptions& options)
      : cases_(cases), profile_(std::move(start)), fields_(std::move(fields)), catalog_(catalog), options_(options) {}

  EngineProfile At(const Eigen::VectorXd& x) const {
    EngineProfile p = profile_;
    for (size_t i = 0; i < fields_.size(); ++i) Set(&p, *fields_[i], options_.architecture, x[static_cast<Eigen::Index>(i)]);
    return p;
  }

  // log(predicted / measured) of the values in use; `in_use` decides at the first call, later calls follow it.
  Eigen::VectorXd Errors(const Eigen::VectorXd& x) {
    const std::string& text = texts_.emplace_back(WriteParams(At(x)).ToYaml());
    auto catalog = std::make_shared<Catalog>(*catalog_);
    // A new name each time: copies of a catalogue share what they have parsed.
    const std::string name = fmt::format("fitted-here-{}", ++evaluations_);
    catalog->AddEmbedded({{"engines", name, text}});
    ValidateOptions validate;
    validate.traces_dir = options_.traces_dir;
    validate.threads = options_.threads;
    validate.profile = name;
    validate.baseline = false;
    const std::vector<LedgerRow> rows = Validate(cases_, catalog, validate);
    if (in_use_.empty()) {
      for (const LedgerRow& r : rows) in_use_.push_back(r.predicted.has_value() && *r.predicted > 0 && Wanted(r.metric));
    }
    std::vector<double> errors;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!in_use_[i]) continue;
      // A value lost on the way counts as a large error, so that the fit goes elsewhere.
      errors.push_back(rows[i].predicted && *rows[i].predicted > 0 ? std::log(*rows[i].predicted / rows[i].measured) : 3.0);
    }
    return Eigen::Map<const Eigen::VectorXd>(errors.data(), static_cast<Eigen::Index>(errors.size()));
  }

  double Loss(const Eigen::VectorXd& e, const Eigen::VectorXd& x, const Eigen::VectorXd& start) const {
    double loss = 0;
    for (const double r : e) loss += 2 * (std::sqrt(1 + r * r / (kErrorScale * kErrorScale)) - 1);
    for (Eigen::Index i = 0; i < x.size(); ++i) {
      const double z = (x[i] - start[i]) / Spread(i, start);
      loss += z * z;
    }
    return loss;
  }
  double Spread(Eigen::Index i, const Eigen::VectorXd& start) const {
    return std::max(fields_[static_cast<size_t>(i)]->scale, start[i]);
  }
  double Step(Eigen::Index i, const Eigen::VectorXd& start) const { return 0.1 * Spread(i, start); }

 private:
  bool Wanted(const std::string& metric) const {
    if (options_.metrics.empty()) return !IsEnergyMetric(metric);
    return std::find(options_.metrics.begin(), options_.metrics.end(), metric) != options_.metrics.end();
  }
  const std::vector<MeasuredCase>& cases_;
  EngineProfile profile_;
  std::vector<const Field*> fields_;
  std::shared_ptr<const Catalog> catalog_;
  const FitEngineOptions& options_;
  std::vector<bool> in_use_;
  int evaluations_ = 0;
  std::deque<std::string> texts_;   // catalogues keep references to them
};

}  // namespace

std::vector<std::string> FittableEngineFields() {
  std::vector<std::string> names;
  for (const Field& f : Fields()) names.push_back(f.name);
  return names;
}

absl::StatusOr<EngineFitResult> FitEngine(const std::vector<MeasuredCase>& cases, const std::string& profile,
                                          const std::shared_ptr<const Catalog>& catalog, const FitEngineOptions& options) {
  SIMRUN_ASSIGN_OR_RETURN(const EngineProfile start_profile, LoadEngineProfile(profile, *catalog));
  std::vector<const Field*> fields;
  for (const std::string& name : options.fields) {
    const Field* f = FindField(name);
    if (f == nullptr) {
      return absl::InvalidArgumentError(fmt::format("\"{}\" cannot be fitted; {}", name, NameHint(name, FittableEngineFields())));
    }
    if (!options.architecture.empty() && f->variant_time == nullptr && f->variant_number == nullptr) {
      return absl::InvalidArgumentError(fmt::format("\"{}\" has one value for all GPU architectures; fit it without an architecture", name));
    }
    fields.push_back(f);
  }
  if (fields.empty()) return absl::InvalidArgumentError("nothing to fit; name at least one field");

  const Eigen::Index n = static_cast<Eigen::Index>(fields.size());
  Eigen::VectorXd start(n);
  for (Eigen::Index i = 0; i < n; ++i) start[i] = Get(start_profile, *fields[static_cast<size_t>(i)], options.architecture);
  Fit fit(cases, start_profile, fields, catalog, options);
  Eigen::VectorXd x = start;
  Eigen::VectorXd e = fit.Errors(x);
  if (e.size() == 0) return absl::InvalidArgumentError("none of the cases can be expressed with this profile");
  const Eigen::VectorXd first = e;
  double loss = fit.Loss(e, x, start);

  Eigen::MatrixXd normal = Eigen::MatrixXd::Zero(n, n);
  double damping = 1e-3;
  for (int step = 0; step < options.most_steps; ++step) {
    if (options.progress) options.progress(step, loss);
    Eigen::MatrixXd jacobian(e.size(), n);
    for (Eigen::Index i = 0; i < n; ++i) {
      Eigen::VectorXd moved = x;
      moved[i] += fit.Step(i, start);
      // Per prior standard deviation: the numbers differ by many powers of ten.
      jacobian.col(i) = (fit.Errors(moved) - e) / fit.Step(i, start) * fit.Spread(i, start);
    }
    // Weights of the bent loss: d rho / d(e^2), per squared error scale.
    Eigen::VectorXd weight(e.size());
    for (Eigen::Index i = 0; i < e.size(); ++i) {
      weight[i] = 1 / (kErrorScale * kErrorScale * std::sqrt(1 + e[i] * e[i] / (kErrorScale * kErrorScale)));
    }
    normal = jacobian.transpose() * weight.asDiagonal() * jacobian;
    Eigen::VectorXd gradient = jacobian.transpose() * (weight.asDiagonal() * e);
    for (Eigen::Index i = 0; i < n; ++i) {
      normal(i, i) += 1;
      gradient[i] += (x[i] - start[i]) / fit.Spread(i, start);
    }
    bool better = false;
    for (int attempt = 0; attempt < 4 && !better; ++attempt) {
      Eigen::MatrixXd damped = normal;
      damped.diagonal() *= 1 + damping;
      const Eigen::VectorXd move = damped.ldlt().solve(gradient);
      Eigen::VectorXd next = x;
      for (Eigen::Index i = 0; i < n; ++i) next[i] -= move[i] * fit.Spread(i, start);
      // Times are at least 0; a factor at least a tenth.
      for (Eigen::Index i = 0; i < n; ++i) next[i] = std::max(next[i], fields[static_cast<size_t>(i)]->number != nullptr ? 0.1 : 0.0);
      const Eigen::VectorXd errors = fit.Errors(next);
      const double next_loss = fit.Loss(errors, next, start);
      if (next_loss < loss) {
        better = loss - next_loss > 1e-3 * loss;
        x = next;
        e = errors;
        loss = next_loss;
        damping /= 5;
        break;
      }
      damping *= 10;
    }
    if (!better) break;
  }

  // The rows differ from the model by more than chance alone: scale by their own spread.
  double chi = 0;
  for (const double r : e) chi += 2 * (std::sqrt(1 + r * r / (kErrorScale * kErrorScale)) - 1);
  const double variance = std::max(1.0, chi / std::max<double>(1, static_cast<double>(e.size() - n)));
  const Eigen::MatrixXd covariance = normal.inverse();
  EngineFitResult result;
  result.profile = fit.At(x);
  result.values = e.size();
  const auto absolute = [](const Eigen::VectorXd& errors) {
    std::vector<double> list;
    for (const double r : errors) list.push_back(std::abs(std::expm1(r)));
    return list;
  };
  result.median_before = QuantileOf(absolute(first), 0.5);
  result.p90_before = QuantileOf(absolute(first), 0.9);
  result.median_after = QuantileOf(absolute(e), 0.5);
  result.p90_after = QuantileOf(absolute(e), 0.9);
  for (Eigen::Index i = 0; i < n; ++i) {
    FittedEngineField f;
    f.name = fields[static_cast<size_t>(i)]->name;
    f.start = start[i];
    f.value = x[i];
    f.prior_sd = fit.Spread(i, start);
    f.sd = std::min(f.prior_sd, f.prior_sd * std::sqrt(covariance(i, i) * variance));
    for (Eigen::Index j = 0; j < n; ++j) {
      if (j != i && std::abs(covariance(i, j)) > 0.95 * std::sqrt(covariance(i, i) * covariance(j, j))) f.twin = fields[static_cast<size_t>(j)]->name;
    }
    result.fields.push_back(std::move(f));
  }
  for (const FittedEngineField& f : result.fields) {
    auto& sources = result.profile.sources;
    sources.erase(std::remove_if(sources.begin(), sources.end(), [&](const EngineSource& s) { return s.of == f.name; }), sources.end());
    sources.push_back({f.name, f.learned() >= 0.5 ? "calibrated" : "assumed", f.learned() >= 0.5 ? "A" : "C",
                       fmt::format("fit to {} values of serving runs: standard deviation {:.0f} % of the value, {:.0f} % of what was uncertain settled", result.values,
                                   100 * f.sd / std::max(f.value, 1e-9), 100 * f.learned())});
  }
  return result;
}

}  // namespace simrun
