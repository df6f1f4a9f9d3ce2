// The accuracy ledger: measured serving cases beside what the simulator and a roofline say about them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "calibration/cases.h"

namespace simrun {

// One measured value and its prediction.
struct LedgerRow {
  std::string case_id, class_name, model, gpu, engine, metric, statistic;
  std::string engine_profile, engine_family;
  std::string load;                  // as LoadKindOf
  size_t case_index = 0;             // into the cases given to Validate
  bool fitted = false;               // the engine profile was fitted on this value (EngineProfile::fitted_on)
  double measured = 0;
  std::optional<double> predicted;   // absent: could not be expressed, see warnings
  std::optional<double> baseline;    // roofline only; absent for energy
  std::string provenance;            // least sure part: measured, calibrated, transferred, datasheet, assumed
  std::string warnings;              // joined with "; "
  // predicted / measured - 1; absent without a prediction.
  std::optional<double> error() const;
  std::optional<double> baseline_error() const;
};

// Power and energy: no roofline prices them, and plans are not ranked by them.
bool IsEnergyMetric(std::string_view metric);
// The smallest value that at least a share q of all does not exceed. Precondition: not empty.
double QuantileOf(std::vector<double> values, double q);

// Absolute relative errors of one group of rows.
struct ErrorSummary {
  std::string group;                 // "static-batch vllm h100-sxm-80gb ttft"
  int64_t rows = 0;                  // with a prediction
  int64_t missing = 0;               // without
  int64_t unseen = 0;                // with a prediction, and not used to fit the engine profile
  double median = 0, p90 = 0, bias = 0;   // bias: median of the signed error
  std::optional<double> unseen_median;
  std::optional<double> baseline_median;
  std::vector<size_t> worst;         // up to five rows, largest error first
};

struct ValidateOptions {
  std::string traces_dir;            // empty: ../traces beside the file of the case
  std::string profile;               // engine profile for every case; empty: by engine and version
  bool baseline = true;              // run the roofline too
  int threads = 0;                   // 0: one per core
  std::function<void(size_t done, size_t total)> progress;   // called from one thread at a time
};

// Runs every case. Cases that cannot be expressed keep their rows, without prediction and with the reason.
std::vector<LedgerRow> Validate(const std::vector<MeasuredCase>& cases, const std::shared_ptr<const Catalog>& catalog,
                                const ValidateOptions& options);

// Groups in the order of their names. `key` names the group of a row; an empty name leaves the row out.
std::vector<ErrorSummary> Summarize(const std::vector<LedgerRow>& rows, const std::function<std::string(const LedgerRow&)>& key);

// case_id,class,model,gpu,engine,metric,statistic,measured,predicted,baseline,error,provenance,warnings
std::string LedgerCsv(const std::vector<LedgerRow>& rows);

}  // namespace simrun
