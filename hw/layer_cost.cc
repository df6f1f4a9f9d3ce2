#include "hw/layer_cost.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

namespace simrun {
namespace {
constexpr size_t kRoutedExperts = kNumLayerParts;
size_t Index(LayerPart part) { return static_cast<size_t>(part); }
}  // namespace

PartCost LayerCosts::Of(const Operator& op, const OpTime& t, double times) const {
  PartCost out;
  const double factor = times * factor_;
  out.seconds = t.seconds * factor;
  out.joules = t.joules * factor * plan_.tp * (op.on_engine ? plan_.dp : 1);
  for (size_t i = 0; i < out.bound.size(); ++i) out.bound[i] = t.bound[i] * factor;
  return out;
}

PartCost LayerCosts::Of(const AttentionSplit& a, double layers) const {
  PartCost out;
  const double factor = factor_ / layers;
  out.seconds = a.seconds() * factor;
  out.joules = a.joules * factor * plan_.tp;
  out.bound[static_cast<size_t>(Bound::kLaunch)] = a.launch * factor;
  out.bound[static_cast<size_t>(Bound::kCompute)] = a.compute * factor;
  out.bound[static_cast<size_t>(Bound::kMemory)] = a.memory * factor;
  out.bound[static_cast<size_t>(Bound::kSerial)] = a.serial * factor;
  return out;
}

PartCost LayerCosts::StageSend(std::span<const Operator> operators, const CommPath& path) const {
  PartCost out;
  for (const Operator& op : operators) out.Add(Of(op, costs_.Cost(op, op.group == CommGroup::kPipeline ? &path : nullptr), op.count));
  return out;
}

template <class Each>
void LayerCosts::Visit(int64_t rank_tokens, int64_t engine_tokens, const Each& each) const {
  // The order of LowerTokenOperators: embedding, norms, attention, feed-forward parts.
  size_t part = Index(LayerPart::kEmbedding);
  for (const Operator& op : LowerTokenOperators(model_, plan_, 0, rank_tokens, engine_tokens)) {
    const std::string_view name = op.name;
    const auto starts = [&](std::string_view prefix) { return name.substr(0, prefix.size()) == prefix; };
    if (op.kind == OpKind::kMoe) {
      each(kRoutedExperts, op);
      continue;
    }
    if (part == Index(LayerPart::kEmbedding) && (starts("attn_norm") || starts("layer_norm"))) part = Index(LayerPart::kAttentionIn);
    if (name == "linear_in_proj") part = Index(LayerPart::kAttentionIn);   // of other layers, after those that attend fully
    if (name == "o_proj") part = Index(LayerPart::kAttentionOut);
    if (name == "up_proj") part = Index(LayerPart::kDenseFfn);
    if (name == "router") part = Index(LayerPart::kRouter);
    if (starts("shared_")) part = Index(LayerPart::kSharedExperts);
    // Norms and adds come first in the list and are counted over all layers.
    if (name == "mlp_norm" || name == "residual_add" || name == "post_norm") {
      each(Index(LayerPart::kAttentionOut), op);
    } else if (name == "moe_all_reduce") {
      each(Index(LayerPart::kRouter), op);
    } else {
      each(part, op);
    }
  }
}

absl::StatusOr<std::unique_ptr<LayerCosts>> LayerCosts::Create(const ModelSpec& model, const ParallelPlan& plan,
                                                               const Machine& machine, const EngineProfile& profile,
                                                               const Catalog& catalog, const StepCostOptions& options) {
  SIMRUN_ASSIGN_OR_RETURN(OperatorCosts costs, OperatorCostsFor(machine, profile, catalog));
  std::unique_ptr<LayerCosts> out(new LayerCosts(model, plan, std::move(costs), profile.gpu_time_factor));
  LayerCosts& c = *out;
  for (int64_t l = 0; l < model.layers; ++l) c.moe_layers_ += model.IsMoeLayer(l) ? 1 : 0;
  c.layers_ = static_cast<double>(model.layers);
  c.rank_.of.resize(static_cast<size_t>(options.max_tokens) + 1);
  if (c.shares_mlp()) c.engine_.of.resize(static_cast<size_t>(options.max_tokens * plan.dp) + 1);
  c.heads_.resize(static_cast<size_t>(options.max_rows) + 1);
  c.shapes_ = AttentionShapes(model, plan, 0);
  for (const AttentionShape& shape : c.shapes_) {
    Attention& a = c.attention_[shape.window > 0 || shape.linear ? 1 : 0];
    a.layers = shape.layers;
    a.costs.push_back(c.costs_.Attention(shape));
  }
  const double dense = c.layers_ - c.moe_layers_;
  c.Visit(1, plan.dp, [&](size_t part, const Operator& op) {
    const double kernels = op.count * op.kernels;
    if (part == Index(LayerPart::kEmbedding)) {
      c.launches_ends_ += kernels;
    } else if (part == Index(LayerPart::kDenseFfn)) {
      c.launches_dense_ += kernels / dense;
    } else if (part == Index(LayerPart::kRouter) || part == Index(LayerPart::kSharedExperts) || part == kRoutedExperts) {
      c.launches_moe_ += kernels / c.moe_layers_;
    } else {
      c.launches_dense_ += kernels / c.layers_;
      c.launches_moe_ += kernels / c.layers_;
    }
    if (part == kRoutedExperts) c.expert_op_ = op;
  });
  c.launches_dense_ += 1, c.launches_moe_ += 1;  // attention itself
  for (const Operator& op : LowerHeadOperators(model, plan, 0, 1)) c.launches_ends_ += op.count * op.kernels;
  return out;
}

const LayerCosts::Row& LayerCosts::RowOf(Rows& rows, int64_t tokens, bool on_engine) {
  const bool tabled = tokens < static_cast<int64_t>(rows.of.size());
  if (tabled && rows.of[static_cast<size_t>(tokens)] != nullptr) return *rows.of[static_cast<size_t>(tokens)];
  Row row;
  if (tokens > 0) {
    Visit(on_engine ? (tokens + plan_.dp - 1) / plan_.dp : tokens, tokens, [&](size_t part, const Operator& op) {
      if (part == kRoutedExperts || op.on_engine != on_engine) return;
      double over = layers_;
      if (part == Index(LayerPart::kEmbedding)) over = 1;
      if (part == Index(LayerPart::kDenseFfn)) over = layers_ - moe_layers_;
      if (part == Index(LayerPart::kRouter) || part == Index(LayerPart::kSharedExperts)) over = moe_layers_;
      row.parts[part].Add(Of(op, costs_.Cost(op), op.count / over));
    });
  }
  if (!tabled) {
    rows.beyond = row;
    return rows.beyond;
  }
  rows.of[static_cast<size_t>(tokens)] = std::make_unique<Row>(row);
  return *rows.of[static_cast<size_t>(tokens)];
}

const PartCost& LayerCosts::Part(LayerPart part, int64_t tokens) { return RowOf(rank_, tokens, false).parts[Index(part)]; }

const PartCost& LayerCosts::EnginePart(LayerPart part, int64_t tokens) {
  static constexpr PartCost kNothing{};
  return shares_mlp() ? RowOf(engine_, tokens, true).parts[Index(part)] : kNothing;
}

const PartCost& LayerCosts::Head(int64_t rows, bool with_head) {
  HeadRow* row = rows < static_cast<int64_t>(heads_.size()) ? &heads_[static_cast<size_t>(rows)] : &beyond_head_;
  if (row == &beyond_head_ || !row->filled) {
    *row = HeadRow();
    row->filled = true;
    for (const Operator& op : LowerHeadOperators(model_, plan_, 0, rows)) {
      const PartCost cost = Of(op, costs_.Cost(op), op.count);
      row->with.Add(cost);
      if (std::string_view(op.name) != "lm_head") row->without.Add(cost);
    }
  }
  return with_head ? row->with : row->without;
}

PartCost LayerCosts::Experts(double rows, double experts, double active) const {
  if (rows <= 0 || experts <= 0) return {};
  Operator op = expert_op_;
  op.tokens = std::max<int64_t>(1, std::llround(rows / static_cast<double>(op.topk)));
  if (rows < static_cast<double>(op.topk)) {
    // Fewer rows than a token has experts: a smaller top-k over one token.
    op.tokens = 1;
    op.topk = std::max<int64_t>(1, std::llround(rows));
  }
  op.experts = std::max<int64_t>(op.ep, std::llround(experts));
  SetExpertLoad(*model_.moe, op.tokens, &op);   // of as many tokens over all experts
  op.active_experts = std::clamp(active / op.ep, std::min(1.0, active), static_cast<double>(op.experts) / op.ep);
  return Of(op, costs_.Cost(op), 1);
}

PartCost LayerCosts::DecodeAttention(bool limited, double seqs, double kv_sum, double kv_max) const {
  const Attention& a = attention_[limited ? 1 : 0];
  if (seqs <= 0) return {};
  AttentionSplit split;
  for (const AttentionCost& cost : a.costs) cost.AddDecode(seqs, kv_sum, kv_max, &split);
  return Of(split, a.layers);
}

PartCost LayerCosts::PrefillAttention(bool limited, std::span<const PrefillChunk> chunks) const {
  const Attention& a = attention_[limited ? 1 : 0];
  if (chunks.empty()) return {};
  AttentionSplit split;
  for (const AttentionCost& cost : a.costs) cost.AddPrefill(chunks, &split);
  return Of(split, a.layers);
}

std::vector<ProvenanceNote> LayerCosts::Provenance() const {
  std::vector<ProvenanceNote> notes;
  const auto add = [&](ProvenanceNote note) {
    for (const ProvenanceNote& n : notes) {
      if (n.part == note.part && n.detail == note.detail) return;
    }
    notes.push_back(std::move(note));
  };
  Visit(64, 64 * plan_.dp, [&](size_t, const Operator& op) {
    if (costs_.Cost(op).seconds > 0) add(costs_.OriginOf(op).note);
  });
  for (const AttentionShape& shape : shapes_) {
    add(costs_.OriginOf(shape, false).note);
    add(costs_.OriginOf(shape, true).note);
  }
  return notes;
}

}  // namespace simrun
