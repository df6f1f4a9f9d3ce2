// Measured operator times beside what the cost model and a plain roofline say.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "calibration/ops.h"
#include "hw/machine.h"
#include "hw/operator_cost.h"

namespace simrun {

struct OperatorPrediction {
  std::optional<double> seconds;     // absent: see `reason`
  std::optional<double> baseline;    // max(FLOPs / peak, bytes / bandwidth), collectives: wire bytes / link bandwidth
  std::string provenance;
  std::string reason;
};

// Prices rows on one machine with the kernels of `backend`; empty: those each row was measured with.
class OperatorPricer {
 public:
  // `rows`: those that will be priced.
  static absl::StatusOr<OperatorPricer> Create(const Machine& machine, std::shared_ptr<const OperatorParamSet> params,
                                               const std::string& backend, const std::vector<OpRow>& rows);
  // Time of one row by formula and correction together, or nothing when it cannot be priced.
  OperatorPrediction Price(const OpRow& row) const;
  // Time by the formula alone, what corrects it and the features; rows with features only.
  OperatorCosts::Sample Probe(const OpRow& row) const;
  // GPU power while the operator repeats, W; 0 for attention, whose readings contain pauses.
  double Watts(const OpRow& row) const;
  // The catalogue entry of the row's operator, format and kernels; null when another one stands in for it.
  const OperatorParams* EntryOf(const OpRow& row) const;

 private:
  OperatorPricer() = default;
  std::string Wanted(const OpRow& row, const OperatorParamSet& params) const;
  const OperatorCosts& CostsFor(const OpRow& row) const;
  Machine machine_;
  std::shared_ptr<const OperatorParamSet> params_;
  std::string backend_;
  struct Kernels {
    std::string backend;
    bool cold = false;
    std::string moe_backend;
    OperatorCosts costs;
  };
  std::vector<Kernels> costs_;
};

// A GPU by name with the operator entry it uses, or an operator entry by name with the GPU that uses it.
struct DeviceChoice {
  Machine machine;
  std::string operators;
};
absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& name, const Catalog& catalog);

struct OperatorSummary {
  std::string op, format, backend;
  int64_t rows = 0, missing = 0;
  double mape = 0, median = 0, p90 = 0, bias = 0;    // fractions; bias: median of predicted / measured - 1
  std::optional<double> baseline_mape;
  double power_median = -1;                          // median error of power over 200 us, where measured
  std::string reason;                                // of the first row that could not be priced
  const OperatorParams* entry = nullptr;             // of the catalogue for these rows and kernels; of the pricer
};

std::vector<OperatorSummary> SummarizeOperators(const std::vector<OpRow>& rows,
                                                const std::vector<OperatorPrediction>& predictions,
                                                const OperatorPricer& pricer);
// The input columns, then predicted_us, baseline_us, provenance. Files with other columns get their own lines' columns
// by name; cells a file does not have stay empty.
std::string OperatorLedgerCsv(const OpTable& table, const std::vector<OperatorPrediction>& predictions);

}  // namespace simrun
