// Fits a device's whole operator catalogue entry to measured rows.
//
// Per operator, format and kernels: parameters of the formula (fit_formula.h), then, with enough rows, trees for what the
// formula leaves (fit_trees.h); with few rows, formula and trees of the device under which they are likeliest, moved by a
// few parameters held near that device's. Collectives, messages and kernels bound by bytes get curves over their size instead (fit_curves.h),
// those of one library's collectives or one kernel's versions smoothed together. Errors are of
// rows the fit had not seen: five parts by row, and again five parts by weight or head shape. Entries marked `hold` stay as
// they are.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "calibration/fit_curves.h"
#include "calibration/fit_formula.h"
#include "calibration/fit_trees.h"
#include "calibration/ops.h"
#include "hw/cost/operator_params.h"
#include "hw/machine.h"

namespace simrun {

// What a fit starts from: rates of the device, and entries for the operators that are not measured.
struct DeviceBase {
  Machine machine;
  OperatorFile file;             // written out again with the fitted entries; empty operators: a new device
  OperatorParamSet set;          // with fallbacks
  std::string name;              // of the catalogue entry; its own values are no prior for itself
};
// `base`: a GPU or an operator entry by catalogue name, a GPU description file, or an operator file. NotFound or
// InvalidArgument as for catalogue entries.
absl::StatusOr<DeviceBase> LoadDeviceBase(const std::string& base, const Catalog& catalog);

struct ErrorStats { int rows = 0; double mape = 0, median = 0, p90 = 0; };   // fractions

struct OperatorReport {
  std::string op, dtype, backend;
  int rows = 0;
  ErrorStats formula;            // formula alone, unseen rows
  ErrorStats by_row, by_shape;   // with its correction, unseen rows and unseen shapes
  std::vector<FittedParameter> parameters;
  std::string correction;        // "300 trees", "3 curves, 41 points", "trees of h200 x 0.8"
  std::string skipped;           // why nothing was fitted
};

struct CalibrationOptions {
  bool cross_validate = true;
  int folds = 5;
  int threads = 0;               // 0: one per core
  TreeFitOptions trees;          // `trees` at most: fewer with few rows
  uint64_t seed = 1;
  std::function<void(size_t done, size_t total)> progress;
};

struct Calibration {
  OperatorFile file;
  std::vector<OperatorReport> reports;
};
absl::StatusOr<Calibration> Calibrate(const DeviceBase& base, const std::vector<OpRow>& rows, const Catalog& catalog,
                                      const CalibrationOptions& options);

// The file as YAML with lines of at most 120 columns; reads back to the same values up to the digits written.
std::string OperatorFileYaml(const OperatorFile& file, const std::string& comment);

}  // namespace simrun
