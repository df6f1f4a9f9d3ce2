// The weight tensors of a model: how many elements, and how each is spread over the ranks of a plan.
//
// Parameter counts and memory per GPU both come from this one list.
#pragma once

#include <cstdint>
#include <vector>

#include "models/model_spec.h"
#include "models/parallel_plan.h"

namespace simrun {

// How the ranks of one pipeline stage share a tensor. Attention replicas (dp) each hold a copy of everything but
// experts.
enum class Shard {
  kReplicated,  // whole on every rank: norms, routers, MLA down-projections, biases added after a reduction
  kTensor,      // split over tp: heads or columns, which divide evenly (CheckPlan)
  kFfn,         // split over the ranks of the MLP (ParallelPlan::ffn_ranks)
  kKvHeads,     // split over tp by key-value head; with fewer heads than ranks each head is held by several
  kVocab,       // split over tp by rows, rounded up
  kExpert,      // whole experts split over ep, then each expert's inner width over the ranks left, dp * tp / ep
  kExpertBias,  // whole experts split over ep only: a bias as wide as the model
};

struct Tensor {
  const char* name;
  int64_t elements;  // all ranks and all experts together
  Shard shard;
  bool matrix;  // in the plan's weight format; else 16-bit, or 32-bit in an fp32 plan
};

std::vector<Tensor> EmbeddingTensors(const ModelSpec& model);        // first stage
// What makes the layers of a model differ.
struct LayerKind {
  bool moe = false;
  bool linear = false;  // linear attention
};
inline LayerKind KindOfLayer(const ModelSpec& model, int64_t layer) { return {model.IsMoeLayer(layer), model.IsLinearLayer(layer)}; }
std::vector<Tensor> LayerTensors(const ModelSpec& model, LayerKind kind);  // one layer
std::vector<Tensor> HeadTensors(const ModelSpec& model);             // last stage; a tied LM head is not listed

// Elements of the tensor on one GPU.
int64_t ElementsPerGpu(const Tensor& tensor, const ModelSpec& model, const ParallelPlan& plan);

// Ranks over which one expert's inner width is split: tp without expert parallelism, else dp * tp / ep.
int ExpertTensorRanks(const ParallelPlan& plan);
// The 16-bit (32-bit in an fp32 plan) format of embeddings, norms, the LM head and the residual stream.
DType StreamDType(const ParallelPlan& plan);
// Formats of the matrices outside the routed experts, and of the experts: the plan's, except for a model released with
// its experts alone in the plan's format.
DType DenseWeightDType(const ModelSpec& model, const ParallelPlan& plan);
DType DenseActivationDType(const ModelSpec& model, const ParallelPlan& plan);

}  // namespace simrun
