// `plan.placement: optimize`: which tensors to keep in which memory for an objective.
//
// Every placement that is compared is checked against the capacities, its step cost compiled, and priced over one cycle of
// the scenario's traffic: B sequences at once, as many as KV memory, max_num_seqs and the traffic allow, each a prompt of
// I and an output of O tokens. With t_d the time of a decode step of B sequences at half their output and t_p that of a
// prompt,
//     time per output token = (O t_d + B t_p) / (B O)        throughput: least; cost: times the price of the hardware, and electricity
//     TPOT = t_d + t_p B / O
//     energy per output token = (O e_d + B e_p + idle power x time) / (B O)      of GPUs, CPU, memories and links
// The built-in placements (everything on the GPU, the engine's, auto) are compared first; then shares of each class of
// tensors per tier and use are searched, coarse to fine, around the best so far. The result is never worse than any of the
// built-in ones by this measure.
#pragma once

#include "base/catalog.h"
#include "base/status.h"
#include "hw/placement.h"
#include "sim/resolved.h"

namespace simrun {

// `scenario` resolved up to its placement; `built_in`: rules of the placements to compare with. Adds a problem when nothing
// fits.
PlacementChoice OptimizePlacement(const ResolvedScenario& scenario, const PlacementConfig& config,
                                  const std::vector<std::vector<PlacementRule>>& built_in, const Catalog& catalog,
                                  const std::string& base_dir, const SourceLocation& where, Problems* problems);

}  // namespace simrun
