#include "calibration/benchmark_routing.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "base/rng.h"

namespace simrun {
namespace {

constexpr int kDraws = 12;

RankLoad Balanced(const BenchmarkRouting& r) {
  const int64_t local = std::max<int64_t>(1, r.experts / r.ep), stride = (r.experts + r.topk - 1) / r.topk;
  const double rows = static_cast<double>(r.tokens) * static_cast<double>(r.topk);
  // Every expert gets the same once the pattern has gone round.
  if (r.tokens >= r.experts) return {rows / r.ep, static_cast<double>(local), rows / r.ep / static_cast<double>(local)};
  RankLoad load;
  std::vector<double> counts(static_cast<size_t>(local), 0.0);
  for (int64_t t = 0; t < r.tokens; ++t) {
    for (int64_t i = 0; i < r.topk; ++i) {
      const int64_t expert = (r.tokens >= stride ? t + i * stride : t * stride / r.tokens + i * stride) % r.experts;
      if (expert >= local) continue;
      load.rows += 1;
      double& count = counts[static_cast<size_t>(expert)];
      if (count == 0) load.active += 1;
      load.peak = std::max(load.peak, count += 1);
    }
  }
  return load;
}

RankLoad PowerLaw(const BenchmarkRouting& r, uint64_t draw) {
  const size_t experts = static_cast<size_t>(r.experts), ranks = static_cast<size_t>(r.ep), local = experts / ranks;
  const double tokens = static_cast<double>(r.tokens), rows = tokens * static_cast<double>(r.topk);
  const bool many = rows > static_cast<double>(experts);
  const double low = many ? 1 : 0.01, high = many ? std::max(tokens * 0.8, 1.01) : 2, power = 1 - r.exponent;
  const double at_low = Exp(power * Ln(low)), at_high = Exp(power * Ln(high));
  Rng rng(1, "routing", draw);
  std::vector<double> counts(experts);
  double sum = 0;
  for (double& c : counts) {
    const double u = rng.Uniform();
    c = std::fabs(power) < 1e-9 ? low * Exp(u * Ln(high / low)) : Exp(Ln((at_high - at_low) * u + at_low) / power);
    sum += c;
  }
  double left = rows;
  for (double& c : counts) left -= c = std::min(tokens, std::nearbyint(c / sum * rows));
  if (left > 0 && r.leftover_to_popular) {
    std::vector<size_t> order(experts);
    for (size_t i = 0; i < experts; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] > counts[b]; });
    const double all = std::floor(left / static_cast<double>(experts));
    for (size_t i = 0; i < experts; ++i) counts[order[i]] += all + (static_cast<double>(i) < left - all * static_cast<double>(experts) ? 1 : 0);
  } else if (left != 0) {
    for (size_t rank = 0; rank < ranks; ++rank) {
      const auto begin = counts.begin() + static_cast<std::ptrdiff_t>(rank * local), end = begin + static_cast<std::ptrdiff_t>(local);
      double share = std::floor(std::fabs(left) / static_cast<double>(ranks));
      if (static_cast<double>(rank) < std::fabs(left) - share * static_cast<double>(ranks)) share += 1;
      if (left < 0) {
        // One off the largest at a time: level them from above.
        std::sort(begin, end, std::greater<double>());
        for (auto at = begin; share > 0 && at != end; ++at) {
          const double off = std::min(share, *at);
          *at -= off, share -= off;
        }
        continue;
      }
      // One onto the smallest at a time: fill up from below, level by level.
      std::sort(begin, end);
      size_t filled = 1;
      while (share > 0 && filled <= local) {
        const double level = *begin, next = filled < local ? *(begin + static_cast<std::ptrdiff_t>(filled)) : tokens;
        const double room = (std::min(next, tokens) - level) * static_cast<double>(filled);
        if (share < room) {
          const double each = std::floor(share / static_cast<double>(filled));
          const double rest = share - each * static_cast<double>(filled);
          for (size_t i = 0; i < filled; ++i) *(begin + static_cast<std::ptrdiff_t>(i)) += each + (static_cast<double>(i) < rest ? 1 : 0);
          share = 0;
        } else {
          for (size_t i = 0; i < filled; ++i) *(begin + static_cast<std::ptrdiff_t>(i)) = std::min(next, tokens);
          share -= room;
          ++filled;
        }
      }
    }
  }
  RankLoad busiest;
  for (size_t rank = 0; rank < ranks; ++rank) {
    RankLoad load;
    for (size_t i = rank * local; i < (rank + 1) * local; ++i) {
      load.rows += counts[i], load.active += counts[i] > 0 ? 1 : 0;
      load.peak = std::max(load.peak, counts[i]);
    }
    if (rank == 0 || load.rows > busiest.rows) busiest = load;
  }
  return busiest;
}

}  // namespace

RankLoad LoadOfTimedRank(const BenchmarkRouting& routing) {
  if (routing.exponent <= 0) return Balanced(routing);
  RankLoad mean;
  for (int draw = 0; draw < kDraws; ++draw) {
    const RankLoad one = PowerLaw(routing, static_cast<uint64_t>(draw));
    mean.rows += one.rows;
    mean.active += one.active;
    mean.peak += one.peak;
  }
  mean.rows /= kDraws;
  mean.active /= kDraws;
  mean.peak /= kDraws;
  return mean;
}

}  // namespace simrun
