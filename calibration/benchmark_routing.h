// How the published MoE measurements spread tokens over experts.
//
// The rank that was timed is the busiest of `ep`: rank 0 after a swap. Balanced routing gives token t the experts
// t + i stride, stride = ceil(experts / topk). Power-law routing draws a weight per expert, x^-exponent between 1 and
// 0.8 tokens (between 0.01 and 2 when there are fewer rows than experts), scales the weights to the number of rows and
// rounds. What rounding leaves over went to the most popular experts in older measurements, and in turn to the least
// popular one of each rank since (aiconfigurator, Apache-2.0).
#pragma once

#include <cstdint>

namespace simrun {

struct BenchmarkRouting {
  int64_t tokens = 0, experts = 0, topk = 0;
  int ep = 1;
  double exponent = 0;        // 0: balanced
  bool leftover_to_popular = false;
};

// Of the timed rank: rows, experts with at least one, and rows of its busiest expert.
struct RankLoad { double rows = 0, active = 0, peak = 0; };
// Mean over draws where routing is random. Preconditions: all counts >= 1, ep <= experts.
RankLoad LoadOfTimedRank(const BenchmarkRouting& routing);

}  // namespace simrun
