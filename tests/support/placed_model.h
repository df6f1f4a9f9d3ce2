// The step cost of one engine of a scenario that keeps tensors outside GPU memory, to be asked step by step.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "sim/placed_step.h"
#include "tests/support/scenarios.h"

namespace simrun {

inline StepWork Decodes(int64_t seqs, int64_t kv) {
  StepWork w;
  w.tokens = w.logits_rows = w.decode_seqs = seqs;
  w.decode_kv_sum = w.decode_kv_sum_windowed = seqs * kv;
  w.decode_kv_max = kv;
  return w;
}

struct PlacedModel {
  explicit PlacedModel(const absl::StatusOr<Scenario>& s, int replica = 0) : scenario(*s) {
    const ResolvedScenario& r = scenario.resolved();
    StepCostOptions options;
    options.max_tokens = r.params.limits.max_num_batched_tokens;
    options.max_rows = r.params.limits.max_num_seqs;
    auto made = StepCostOf(r, *scenario.catalog(), options, replica);
    EXPECT_TRUE(made.ok()) << made.status().message();
    step = *std::move(made);
  }
  // Of a step after others like it.
  StepCost Steady(const StepWork& work) {
    return Steady(std::vector<StepWork>{work});
  }
  StepCost Steady(const std::vector<StepWork>& ranks) {
    StepCost cost;
    for (int i = 0; i < 3; ++i) step->Predict(ranks, &cost);
    return cost;
  }
  double Bytes(const std::string& link) const {
    for (const ResourceUse& use : step->Resources()) {
      if (use.name == link) return use.bytes;
    }
    return 0;
  }
  Scenario scenario;
  std::unique_ptr<CompiledStepCost> step;
};

}  // namespace simrun
