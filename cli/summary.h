// The report of a run as one screen of text.
#pragma once

#include <string>

#include "sim/report.h"
#include "sim/scenario.h"

namespace simrun {

std::string SummaryText(const Scenario& scenario, const Report& report);

}  // namespace simrun
