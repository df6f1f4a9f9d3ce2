// docs/accuracy.md: the accuracy ledger as a page, and the checks that keep it true.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "calibration/cases.h"
#include "calibration/validate.h"

namespace simrun {

// How well the predicted order of the plans of one group agrees with the measured one: Kendall's tau over the pairs
// whose measured values differ by more than their repeat spread.
struct PlanOrder {
  std::string group, metric;
  int64_t pairs = 0;
  int64_t concordant = 0;
  // (concordant - discordant) / pairs.
  double tau() const;
};
// One entry per plan_group and metric with at least one pair.
std::vector<PlanOrder> PlanOrders(const std::vector<MeasuredCase>& cases, const std::vector<LedgerRow>& rows);

// The page. `rows` come from Validate(cases, catalog). NotFound or InvalidArgument for a broken catalogue entry.
absl::StatusOr<std::string> AccuracyPage(const std::vector<MeasuredCase>& cases, const std::vector<LedgerRow>& rows,
                                         const std::shared_ptr<const Catalog>& catalog);

struct PageCheck {
  std::vector<std::string> worse;      // "Serving, by class | offline | throughput_out: p90 28.4 -> 33.0"
  std::vector<std::string> differing;  // lines of the committed page that a fresh one does not repeat
};
// Compares a committed page with a fresh one. An error figure (median, p90) is worse when it grew by more than 5 % of
// itself and its last digit; lines differ when a number is off by more than its last digit, or any word changed.
PageCheck CheckAccuracyPage(const std::string& committed, const std::string& fresh);

}  // namespace simrun
