// The GPU runs everything; experts that are not resident cross the link first, in the order of their numbers, as
// engines that stream weights do.
#pragma once
#include <memory>
#include "schedulers/expert_scheduling.h"
namespace simrun {
std::unique_ptr<ExpertPolicy> MakeStreamedExperts();
}
