// The routed experts of one engine from step to step: what its tokens choose, which experts are in GPU memory, and how
// each layer is shared between GPU, CPU and link. Holds the state; decides nothing itself: routing, execution policy,
// cache and prefetch are handed in.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/rng.h"
#include "hw/step_cost_compiled.h"
#include "models/expert_router.h"
#include "schedulers/expert_cache.h"
#include "schedulers/expert_prefetch.h"
#include "schedulers/expert_scheduling.h"

namespace simrun {

struct ExpertExecutionParams {
  const ExpertPolicy* policy = nullptr;
  const ExpertRanking* ranking = nullptr;
  const ExpertPrefetch* prefetch = nullptr;
  int prefetch_layers = 1;          // foreseen
  int prefetch_buffer = 1;          // experts brought ahead that the GPU holds at a time
  double predictor_accuracy = 1;    // part of a layer's active experts that are foreseen; others take their place
  std::vector<int> places;          // of each layer with experts
  int end = 1 << 30;                // of the layers run here: nothing is brought ahead for those from this one on
  std::vector<std::vector<int32_t>> residents;  // at the start, per layer; empty: those of the lowest numbers
};

class ExpertExecution {
 public:
  // The pointers of `params` must outlive this.
  ExpertExecution(ExpertExecutionParams params, std::unique_ptr<ExpertRouter> router, Rng rng);

  int layers() const { return router_->layers(); }
  // Starts a step: all layers' choices are drawn.
  void Begin(int64_t decodes, int64_t prefill);
  std::span<const ExpertLoad> Loads(int layer) const { return loads_[static_cast<size_t>(layer)]; }

  // Runs layer `layer` (of those with experts). Times are seconds from the start of its experts; `until_next`: from
  // their end to the start of the next layer's experts, in which the link is free. Experts brought ahead in the spare
  // time of the link are counted in `ahead()`.
  const ExpertSchedule& Layer(int layer, const ExpertCosts& costs, double gpu_ready, double cpu_ready, double link_ready,
                              double until_next);
  int ahead() const { return ahead_; }

  const ExpertTotals& totals() const { return totals_; }
  const ExpertCache& cache() const { return cache_; }

 private:
  static constexpr int kFuture = 32;  // steps that the oracle sees
  void FillFuture(int64_t decodes);
  void Predict(int layer);
  int BringAhead(int layer, const ExpertCosts& costs, double gpu_ready, double cpu_ready, int transfers);

  const ExpertExecutionParams params_;
  std::unique_ptr<ExpertRouter> router_;
  Rng rng_;
  ExpertCache cache_;
  int64_t step_ = -1;
  int64_t choices_ = 0;
  std::vector<std::vector<ExpertLoad>> loads_, predicted_;
  std::vector<std::vector<int32_t>> staged_;   // brought ahead for a layer to come
  int waiting_ = 0;                            // of all layers
  ExpertSchedule schedule_;
  ExpertPrefetch::Scratch scratch_;
  std::vector<ForeseenLayer> foreseen_;
  std::vector<Prefetched> chosen_;
  std::vector<int32_t> arrived_;
  std::vector<uint8_t> seen_;
  int ahead_ = 0;
  ExpertTotals totals_;
  // Oracle: the steps to come, if the sequences now running go on.
  std::unique_ptr<ExpertRouter> future_;
  int64_t future_decodes_ = -1;
  std::vector<std::vector<uint8_t>> future_uses_;  // ring of kFuture steps, [layer][expert]
  size_t future_first_ = 0;
  std::vector<int32_t> next_use_;
};

}  // namespace simrun
