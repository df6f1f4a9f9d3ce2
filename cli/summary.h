// The report of a run as one screen of text.
#pragma once

#include <map>
#include <string>

#include "sim/report.h"
#include "sim/scenario.h"

namespace simrun {

std::string SummaryText(const Scenario& scenario, const Report& report);

// "memory bandwidth 51.0 %, compute 12.1 %, ...": Report::bottleneck, most first.
std::string BottleneckText(const Report& report);

}  // namespace simrun
