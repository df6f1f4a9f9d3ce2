// StepCostModel folded for one (model, plan, machine, engine): what depends on token counts is tabulated on first use,
// attention is a closed form of running sums.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "hw/engine_profile.h"
#include "hw/machine.h"
#include "hw/operator_cost.h"
#include "hw/operator_memo.h"
#include "hw/step_cost.h"
#include "models/model_spec.h"
#include "models/parallel_plan.h"

namespace simrun {

struct StepCostOptions {
  int64_t max_tokens = 8192;    // new tokens of a step that are tabulated; larger steps work, a little slower
  int64_t max_rows = 1024;      // logits rows, likewise
  double expert_imbalance = 0;  // load of the busiest expert-parallel rank over the mean; 0: from the model
  // Prices found before by models of the same machine, engine and catalogue; must outlive the model. Null: none.
  OperatorMemo* memo = nullptr;
};

// One operator of a step, all its executions together.
struct StepOperator {
  int stage = 0;
  std::string name;   // "gate_up_proj", "decode attention", "host"
  std::string shape;  // "m 32, n 14336, k 8192"
  double count = 1;   // executions
  int kernels = 0;    // launched for each execution by an eager engine; 0: none, the work is the host's
  OpTime time;        // of all of them
};

// Uses of routed experts outside GPU memory (one per active expert, layer and step). Every use found its expert in GPU
// memory (hits), or it was brought there ahead of time (prefetched), fetched for it, or run by the CPU.
struct ExpertTotals {
  int64_t uses = 0, hits = 0, prefetched = 0;
  int64_t on_gpu = 0, on_cpu = 0, fetched = 0;
  int64_t transfers_ahead = 0;   // experts sent by prefetch, or to refill the cache
  int64_t places = 0, experts = 0;  // in GPU memory, of all, over the layers
  double bytes_fetched = 0, bytes_ahead = 0;  // per GPU
  void Add(const ExpertTotals& o) {
    uses += o.uses;
    hits += o.hits;
    prefetched += o.prefetched;
    on_gpu += o.on_gpu;
    on_cpu += o.on_cpu;
    fetched += o.fetched;
    transfers_ahead += o.transfers_ahead;
    places += o.places;
    experts += o.experts;
    bytes_fetched += o.bytes_fetched;
    bytes_ahead += o.bytes_ahead;
  }
};

class CompiledStepCost : public StepCostModel {
 public:
  // Every operator of the step `ranks` describes, in order; times sum to Predict's stage_seconds.
  virtual std::vector<StepOperator> Explain(std::span<const StepWork> ranks) = 0;
  // Where the numbers come from, one note per operator kind and engine term.
  virtual const std::vector<ProvenanceNote>& provenance() const = 0;
  // What to know about the numbers: transferred or assumed parts, and sizes seen beyond the measured range.
  virtual std::vector<std::string> Warnings() const = 0;
  // Null where routed experts are not followed one by one.
  virtual const ExpertTotals* Experts() const { return nullptr; }
};

// What an engine profile says about its kernels.
OperatorCostOptions OperatorOptionsOf(const EngineProfile& profile);
// The kernels of an engine on a machine: what every step cost model of it is built from.
absl::StatusOr<OperatorCosts> OperatorCostsFor(const Machine& machine, const EngineProfile& profile, const Catalog& catalog);
// Where one number of an engine profile comes from.
ProvenanceNote NoteOf(const EngineProfile& profile, const EngineSource& source);

// `profile` must have gone through ApplyEngineConfig. Errors: a missing or bad operator entry, a plan that the model
// cannot be lowered for.
absl::StatusOr<std::unique_ptr<CompiledStepCost>> CompileStepCost(const ModelSpec& model, const ParallelPlan& plan,
                                                                  const Machine& machine, const EngineProfile& profile,
                                                                  const Catalog& catalog,
                                                                  const StepCostOptions& options);

}  // namespace simrun
