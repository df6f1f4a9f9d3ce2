// Fits the parameters of an operator's formula to measured rows: maximum a posteriori with priors from other devices.
//
//     minimise  sum_i rho(log(predicted_i / measured_i) / 0.1) + sum_p ((log p - log prior_p) / s_p)^2
//
// rho(r) = 2 (sqrt(1 + r^2) - 1), s_p the spread of the parameter over devices, kept within [0.15, 1]. Levenberg-Marquardt
// on logarithms, for every exponent q in {1, 2, 4}; the best q wins. With few rows the prior decides, with many the rows.
// Errors that rows share (a covariance) are told apart first: rho is of L^-1 times the logarithms, L L' the covariance.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calibration/operator_ledger.h"
#include "calibration/ops.h"

namespace simrun {

// One parameter in base units.
struct ParameterPrior {
  std::string name;          // of OperatorParams: "t0", "ec", ...
  double value = 0;          // median over devices
  double spread = 1;         // standard deviation of its logarithm
  double low = 0, high = 0;  // hard limits
};

// A parameter of an entry by that name, in base units.
double ParameterOf(const OperatorParams& params, const std::string& name);

struct FormulaPrior {
  std::vector<ParameterPrior> parameters;
  double q1 = 0, q2 = 0, q4 = 0;   // devices with each exponent
};

// The parameters an operator's formula uses, with priors from `others` (entries of other devices for the same operator
// and format, one per device). Empty for an operator without a formula.
FormulaPrior PriorFor(const std::string& op, const std::string& dtype, const std::vector<const OperatorParams*>& others);

struct FittedParameter {
  std::string name;
  double value = 0, prior = 0;
  double sd = 0;              // of the logarithm, given rows and prior; of a value at its limit, the prior's
  double prior_sd = 0;
  // How much of the prior's uncertainty the rows removed, 0 to 1.
  double learned() const { return prior_sd > 0 ? 1 - sd / prior_sd : 0; }
};

struct FormulaFit {
  OperatorParams params;      // `start` with the fitted values
  std::vector<FittedParameter> parameters;
  double loss = 0;            // minus twice the logarithm of how likely rows and prior are, but for a constant
};

struct FormulaFitOptions {
  int most_rows = 500;        // a random choice of that many is used
  uint64_t seed = 1;
  bool only_q = false;        // keep the exponent of `start`
  // Of the logarithms of row i over prediction and of row j, row by row; empty: each row for itself, 10 %. Not with more
  // than `most_rows`.
  std::vector<double> covariance;
};

// `base`: what prices the rest of the operator (its entries of the same device are replaced). `start` gives op, dtype,
// backend, link and the starting values. Rows must be of that operator.
absl::StatusOr<FormulaFit> FitFormula(const Machine& machine, const OperatorParamSet& base, const OperatorParams& start,
                                      const FormulaPrior& prior, const std::vector<const OpRow*>& rows,
                                      const FormulaFitOptions& options);

// `base` with `entry` in front, as if it were the device's own.
std::shared_ptr<const OperatorParamSet> WithEntry(const OperatorParamSet& base, OperatorParams entry);

}  // namespace simrun
