// How sure a report is: prediction intervals from the errors of runs that were measured, and from further seeds.
//
// The catalogue section `errors` holds how measured values stood to predicted ones, by groups of runs; `simrun validate
// --errors` writes such a file. A scenario's own error is drawn from the nearest groups: that of the same engine profile and
// GPU where it rests on enough measured campaigns, filled up from the same engine, the same kind of load, and all runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "sim/report.h"
#include "sim/resolved.h"

namespace simrun {

// The errors compiled into the library.
const std::vector<EmbeddedFile>& ErrorCatalogFiles();

// Share of measured values that an interval is meant to hold.
inline constexpr double kIntervalLevel = 0.8;

// The kinds of load whose errors are alike: "static batch", "closed loop", "offline", "open loop"; "offload" whatever the
// load where tensors lie outside GPU memory.
std::string_view LoadKindOf(const ResolvedScenario& scenario);

// How values of one group of runs stood to their predictions.
struct ErrorGroup {
  std::string metric;                 // ttft, tpot, e2e, throughput, energy
  std::string load;                   // as LoadKindOf; empty: any
  std::string engine, profile, gpu;   // empty: any
  int64_t values = 0;
  int64_t campaigns = 0;              // of one model on one GPU with one version of one engine
  std::vector<double> ratios;         // measured / predicted, ascending, equally likely
  template <class V> void Describe(V& v) {
    v.Field("metric", metric, {.help = "ttft, tpot, e2e, throughput or energy", .required = true});
    v.Field("load", load, {.help = "static batch, closed loop, offline, open loop or offload; empty: any"});
    v.Field("engine", engine, {.help = "engine; empty: any"});
    v.Field("profile", profile, {.help = "engine profile; empty: any"});
    v.Field("gpu", gpu, {.help = "GPU; empty: any"});
    v.Field("values", values, {.help = "measured values", .min = 1, .required = true});
    v.Field("campaigns", campaigns, {.help = "measured models x GPUs x engine versions", .min = 1, .required = true});
    v.Field("ratios", ratios, {.help = "measured over predicted, ascending, equally likely", .min = 0, .above_min = true, .required = true});
  }
};

// Measured over predicted for one metric of one scenario.
struct RatioInterval {
  double low = 1, median = 1, high = 1;
  int64_t values = 0;                 // of the nearest group
  std::string basis;                  // which group that is
};

class ErrorLedger {
 public:
  ErrorLedger() = default;
  explicit ErrorLedger(std::vector<ErrorGroup> groups) : groups_(std::move(groups)) {}
  // The groups of every file of the section `errors` that bear on such a run; the catalogue keeps them. InvalidArgument when a
  // file is broken.
  static absl::StatusOr<std::shared_ptr<const ErrorLedger>> Load(const Catalog& catalog, std::string_view load, std::string_view engine,
                                          std::string_view profile, std::string_view gpu);
  // Quantiles of the mixture of the groups from the nearest to the widest: a group of c campaigns counts c / (c + 3), the next
  // wider one the same of the rest, the widest what is left. Few campaigns show less than the whole spread: with c of them, in
  // the mean over the mixture, each tail is that of (1 - kIntervalLevel)/2 x c / (c + 1). docs/accuracy.md says how many
  // measured values such intervals hold.
  // Nothing without any group of the metric.
  std::optional<RatioInterval> Ratio(std::string_view metric, std::string_view load, std::string_view engine,
                                     std::string_view profile, std::string_view gpu) const;

 private:
  std::vector<ErrorGroup> groups_;
};

// Fills report->intervals. `further`: reports of the same scenario with other seeds; may be empty. Nothing is filled for an
// engine profile that stands for no engine. `load`: as LoadKindOf.
absl::Status FillIntervals(const ResolvedScenario& scenario, const Catalog& catalog, std::string_view load,
                           const std::vector<Report>& further, Report* report);

}  // namespace simrun
