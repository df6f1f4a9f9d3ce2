// GPU time of the parts of one layer, for step models that place work layer by layer (sim/placed_step.h). The same
// operators at the same prices as the compiled step cost, cut where data may have to come from elsewhere.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hw/engine_profile.h"
#include "hw/operator_cost.h"
#include "hw/step_cost_compiled.h"
#include "models/lowering.h"
#include "models/model_spec.h"

namespace simrun {

// Attention is split around its core: kAttentionIn ends with queries, keys and values, kAttentionOut starts from what the
// core returns and ends with the input of the feed-forward part.
enum class LayerPart { kEmbedding, kAttentionIn, kAttentionOut, kDenseFfn, kRouter, kSharedExperts };
inline constexpr int kNumLayerParts = 6;

struct PartCost {
  double seconds = 0, joules = 0;  // joules above idle, all GPUs of the engine
  std::array<double, kNumBounds> bound{};
  void Add(const PartCost& o, double times = 1) {
    seconds += o.seconds * times;
    joules += o.joules * times;
    for (size_t i = 0; i < bound.size(); ++i) bound[i] += o.bound[i] * times;
  }
};

class LayerCosts {
 public:
  // One stage (pp 1); `profile` gone through ApplyEngineConfig.
  static absl::StatusOr<std::unique_ptr<LayerCosts>> Create(const ModelSpec& model, const ParallelPlan& plan,
                                                            const Machine& machine, const EngineProfile& profile,
                                                            const Catalog& catalog, const StepCostOptions& options);

  // One execution of a part over `tokens` tokens of an attention rank (kEmbedding: once per step); joules of the rank's GPUs.
  const PartCost& Part(LayerPart part, int64_t tokens);
  // What all ranks do together, over the tokens of all: a shared MLP. Nothing with dp 1.
  const PartCost& EnginePart(LayerPart part, int64_t tokens);
  // Final norm, head and sampling of `rows` tokens; `with_head` false: without the head's matrix product.
  const PartCost& Head(int64_t rows, bool with_head = true);
  // Routed experts of one layer that the GPUs compute, of all ranks: `rows` rows (tokens x experts each) over `experts`
  // experts, of which `active` get any.
  PartCost Experts(double rows, double experts, double active) const;
  // Attention cores of one layer of a kind (limited: windowed, chunked or linear; or full).
  PartCost DecodeAttention(bool limited, double seqs, double kv_sum, double kv_max) const;
  PartCost PrefillAttention(bool limited, std::span<const PrefillChunk> chunks) const;

  // The hand-over to the next stage, whose operators models/lowering.h lists, over `path`.
  PartCost StageSend(std::span<const Operator> operators, const CommPath& path) const;

  // Kernels that an eager engine launches per layer (dense and with experts), and for embedding and head.
  double launches_dense() const { return launches_dense_; }
  double launches_moe() const { return launches_moe_; }
  double launches_ends() const { return launches_ends_; }
  bool shares_mlp() const { return plan_.dp > 1 && plan_.separate_ffn(); }
  const OperatorCosts& operators() const { return costs_; }
  std::vector<ProvenanceNote> Provenance() const;

 private:
  LayerCosts(ModelSpec model, ParallelPlan plan, OperatorCosts costs, double factor)
      : model_(std::move(model)), plan_(plan), costs_(std::move(costs)), factor_(factor) {}
  PartCost Of(const Operator& op, const OpTime& t, double times) const;
  PartCost Of(const AttentionSplit& split, double layers) const;
  // Part of each operator of a step, in order; calls `each(part, op)` (part kNumLayerParts: routed experts).
  template <class Each>
  void Visit(int64_t rank_tokens, int64_t engine_tokens, const Each& each) const;
  struct Row {
    bool filled = false;
    std::array<PartCost, kNumLayerParts> parts;
  };
  struct Rows {
    std::vector<std::unique_ptr<Row>> of;
    Row beyond;
  };
  const Row& RowOf(Rows& rows, int64_t tokens, bool on_engine);

  ModelSpec model_;
  ParallelPlan plan_;
  OperatorCosts costs_;
  double factor_ = 1;
  double layers_ = 0, moe_layers_ = 0;
  Rows rank_, engine_;
  struct HeadRow {
    bool filled = false;
    PartCost with, without;
  };
  std::vector<HeadRow> heads_;
  HeadRow beyond_head_;
  struct Attention {
    double layers = 1;
    std::vector<AttentionCost> costs;   // two of sparse attention; none: no such layers
  };
  std::array<Attention, 2> attention_;  // full, limited
  std::vector<AttentionShape> shapes_;
  Operator expert_op_;
  double launches_dense_ = 0, launches_moe_ = 0, launches_ends_ = 0;
};

}  // namespace simrun
