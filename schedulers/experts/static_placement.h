// Experts run where they lie: residents on the GPU, the others on the CPU.
#pragma once
#include <memory>
#include "schedulers/expert_scheduling.h"
namespace simrun {
std::unique_ptr<ExpertPolicy> MakeStaticExperts();
}
