// Fits the few host terms of an engine profile to measured serving runs, and says how well the runs identify them.
//
//     minimise  sum_i rho(log(predicted_i / measured_i) / 0.1) + sum_p ((x_p - start_p) / spread_p)^2
//
// rho(r) = 2 (sqrt(1 + r^2) - 1). Each number starts at the profile's and is held there with a wide spread, so that what
// the runs do not show stays as it was. Gauss-Newton with derivatives from runs with one number changed.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "calibration/cases.h"
#include "hw/engine_profile.h"

namespace simrun {

// Names a fit may use: step_host, sequence_host, launch, post_step, post_sequence, front_end, front_end_token,
// token_host, server_step, gpu_time_factor and graph_launch
std::vector<std::string> FittableEngineFields();

struct FitEngineOptions {
  std::vector<std::string> fields;      // what to fit
  std::string architecture;             // GPU architecture whose values are fitted; empty: the profile's own
  std::vector<std::string> metrics;     // empty: all but power and energy
  std::string traces_dir;
  int threads = 0;
  int most_steps = 8;
  std::function<void(int step, double loss)> progress;
};

struct FittedEngineField {
  std::string name;
  double start = 0, value = 0;          // base units
  double sd = 0, prior_sd = 0;          // standard deviation given the runs, and before them
  double learned() const { return prior_sd > 0 ? 1 - sd / prior_sd : 0; }
  std::string twin;                     // field it can hardly be told from (|correlation| > 0.95), empty: none
};

struct EngineFitResult {
  EngineProfile profile;                // with the fitted values and their sources
  std::vector<FittedEngineField> fields;
  int64_t values = 0;                   // measured values used
  double median_before = 0, median_after = 0;   // median of |predicted / measured - 1|
  double p90_before = 0, p90_after = 0;
};

// `profile` names the catalogue entry to start from; all cases are run with it, whatever their version.
// InvalidArgument for an unknown field or when no case can be expressed.
absl::StatusOr<EngineFitResult> FitEngine(const std::vector<MeasuredCase>& cases, const std::string& profile,
                                          const std::shared_ptr<const Catalog>& catalog, const FitEngineOptions& options);

}  // namespace simrun
