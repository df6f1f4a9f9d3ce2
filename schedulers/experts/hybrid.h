// HybriMoE's list schedule (arXiv 2504.05897): the link takes the heaviest remote experts, the CPU the lightest, and
// when it has run out of those steals the lightest of the GPU's.
//
// Running that list to its end gives one allocation: the k heaviest remote experts cross the link, the other remote
// ones run on the CPU, together with the s lightest residents where that leaves it idle. Here every k is tried with the
// s at which GPU and CPU end together, which is at least as good as the list run by a clock; with few experts, single
// moves and swaps follow. Equal transfers followed by one processor are served best heaviest first (Johnson, 1954).
#pragma once
#include <memory>
#include "schedulers/expert_scheduling.h"
namespace simrun {
std::unique_ptr<ExpertPolicy> MakeHybridExperts();
}
