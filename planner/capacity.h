// How big a fleet must be for some traffic, and how much traffic a fleet can take, within limits on any metric.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "planner/plan_space.h"
#include "sim/report.h"
#include "sim/scenario.h"

namespace simrun::planner {

// A limit on a metric: at most `limit`, or at least it where higher is better.
struct SloTarget {
  std::string metric;
  bool at_least = false;
  double limit = 0;
  std::string text;                    // as given
};
// "ttft.p99=500ms", "tpot.p95=50 ms", "goodput.slo_attainment=0.99", "cost.usd_per_million_output_tokens=3". Times need
// a unit. "attainment" is short for goodput.slo_attainment. InvalidArgument with the nearest metric.
absl::StatusOr<SloTarget> ParseSlo(std::string_view text);

// One size that was tried.
struct Probe {
  double x = 0;                        // replicas, rate factor or the value of a knob
  bool meets = false;
  // The limits were met or missed by more than the spread between seeds explains, at the chosen confidence. Otherwise
  // the means over all runs decided.
  bool sure = true;
  bool saturated = false;              // the queue grew until the end
  int runs = 0;
  std::vector<double> values;          // mean of each target's metric over the runs
  Report report;                       // of the first run
};

// What FindCapacity looks for.
enum class Find { kReplicas, kRate };

struct CapacityOptions {
  std::vector<SloTarget> targets;      // all must hold
  Find find = Find::kReplicas;
  int least_runs = 2, most_runs = 5;   // seeds per probe: seed, seed + 1, ... The same ones for every probe, so that
                                       // sizes are compared on the same arrivals and lengths
  double confidence = 0.95;            // one-sided, of every probe's decision
  int max_replicas = 4096;
  double rate_tolerance = 0.01;        // the answer of Find::kRate is within this of the highest rate
  std::function<void(const Probe&)> on_probe;
  std::function<bool()> cancelled;
  // How a run is done; empty: Simulate. For cost models of the caller's own.
  std::function<absl::StatusOr<Report>(const Scenario&)> simulate;
};

struct CapacityResult {
  bool found = false;
  double x = 0;                        // the answer: fewest replicas, or highest factor on the rate
  double requests_per_s = 0;           // offered at the answer, as measured
  int gpus = 0;                        // of the fleet at the answer
  double usd_per_hour = 0;
  bool sure = true;                    // so were the answer and the first size that fails
  std::string why_not;                 // when not found
  std::vector<Probe> probes;           // in the order in which they were tried
};

// Find::kReplicas: the fewest replicas that meet the targets for the scenario's traffic. Nodes are added as needed. Sizes
// double from 1 until one meets them, then the gap is halved: right when more replicas never hurt. Gives up when doubling
// changes nothing, because then a replica is too slow even alone.
// Find::kRate: the highest rate at which the scenario's fleet meets the targets, as a factor on its own rate
// (workload.rate_scale).
absl::StatusOr<CapacityResult> FindCapacity(const Scenario& scenario, const CapacityOptions& options);

// What is to be least among fleets that meet the targets.
enum class Minimize { kReplicas, kGpus, kCost, kEnergy };
std::vector<std::string> MinimizeNames();                            // "replicas", "gpus", "cost", "energy"
absl::StatusOr<Minimize> FindMinimize(std::string_view name);

// The smallest fleet of one kind of engine.
struct FleetChoice {
  size_t candidate = 0;                // place in PlanSpace::candidates
  CapacityResult result;
  double value = 0;                    // replicas, GPUs, USD per hour or joules per output token
  // Not tried to the end: no fleet of this kind that is small enough to beat the best one meets the targets.
  bool beaten = false;
};
// For every feasible candidate that is a single engine (replicas 1) the smallest fleet, the best fleet first, then those that meet
// nothing. Kinds of engines are ruled out as soon as their fleets cost more than the best one found, in replicas, GPUs or
// USD per hour. Enumerate with `partial` gives the engines of every size.
absl::StatusOr<std::vector<FleetChoice>> FindBestFleet(const PlanSpace& engines, Minimize minimize, const CapacityOptions& options);

// A single setting that would make the targets hold, all else unchanged.
struct Change {
  std::string setting;                 // "hardware.memory_bandwidth"
  bool found = false;
  std::string from, to;                // with units
  double factor = 1;
};
// For each knob (memory and link bandwidth, peak FLOPS, replicas, load, prompt and output lengths, price) the smallest change that
// meets the targets, up to a factor of 64, to 2 %. Empty when they hold already.
absl::StatusOr<std::vector<Change>> WhatWouldHaveToChange(const Scenario& scenario, const CapacityOptions& options);

}  // namespace simrun::planner
