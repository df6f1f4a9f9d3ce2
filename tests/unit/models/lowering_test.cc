#include "models/lowering.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "models/expert_load.h"
#include "models/tensors.h"
#include "tests/unit/models/testing.h"

namespace simrun {
namespace {

ParallelPlan Plan(int tp, int pp = 1, int dp = 1, int ep = 1) {
  ParallelPlan plan;
  plan.tp = tp;
  plan.pp = pp;
  plan.dp = dp;
  plan.ep = ep;
  return plan;
}

std::string Wrong(const ModelSpec& model, const ParallelPlan& plan) {
  Problems problems;
  CheckPlan(model, plan, {}, &problems);
  return std::string(problems.ToStatus().message());
}

double TotalFlops(const std::vector<Operator>& ops) {
  double sum = 0;
  for (const Operator& op : ops) sum += op.count * op.flops;
  return sum;
}

std::vector<Operator> All(const ModelSpec& model, const ParallelPlan& plan, int64_t tokens, int64_t rows) {
  std::vector<Operator> ops;
  for (int stage = 0; stage < plan.pp; ++stage) {
    for (const Operator& op : LowerTokenOperators(model, plan, stage, tokens, tokens * plan.dp)) ops.push_back(op);
    for (const Operator& op : LowerHeadOperators(model, plan, stage, rows)) ops.push_back(op);
  }
  return ops;
}

std::vector<Operator> Named(const std::vector<Operator>& ops, const std::string& name) {
  std::vector<Operator> out;
  std::copy_if(ops.begin(), ops.end(), std::back_inserter(out), [&](const Operator& op) { return op.name == name; });
  return out;
}
Operator One(const std::vector<Operator>& ops, const std::string& name) {
  const auto found = Named(ops, name);
  EXPECT_EQ(found.size(), 1u) << name;
  return found.empty() ? Operator() : found[0];
}
std::vector<Operator> OfKind(const std::vector<Operator>& ops, OpKind kind) {
  std::vector<Operator> out;
  std::copy_if(ops.begin(), ops.end(), std::back_inserter(out), [&](const Operator& op) { return op.kind == kind; });
  return out;
}

// ---- FLOPs ----

TEST(Lowering, StepFlopsAreTwicePerParameterAndToken) {
  for (const std::string& name : ModelNames()) {
    const ModelSpec m = Model(name);
    const int64_t tokens = 4096;
    ParallelPlan plan;
    double want = 2.0 * static_cast<double>(ActiveParameterCount(m, false)) * static_cast<double>(tokens);
    // Position tables are looked up, not multiplied.
    want -= 2.0 * static_cast<double>((m.positions.rows + m.positions.token_types) * m.hidden * tokens);
    const double got = TotalFlops(All(m, plan, tokens, tokens));
    EXPECT_NEAR(got / want, 1, 0.005) << name;  // biases and norms have parameters but no multiplications
  }
}

TEST(Lowering, RanksShareTheFlops) {
  const ModelSpec m = Model("llama-3.1-70b");
  const double whole = TotalFlops(All(m, Plan(1), 1000, 10));
  for (const int tp : {2, 4, 8}) {
    for (const int pp : {1, 2, 5}) {
      const double rank = TotalFlops(All(m, Plan(tp, pp), 1000, 10));
      EXPECT_NEAR(rank * tp / whole, 1, 1e-9) << tp << " " << pp;
    }
  }
  // With more ranks than key-value heads each head is computed by several.
  const double sixteen = TotalFlops(All(m, Plan(16), 1000, 10)) * 16;
  EXPECT_NEAR(sixteen - whole, 80 * 2.0 * 1000 * 8192 * (2 * 8 * 128), 1e-6 * whole);
}

TEST(Lowering, GroupedQueryShapes) {
  const ModelSpec m = Model("llama-3.1-70b");
  const auto ops = LowerTokenOperators(m, Plan(4), 0, 512, 512);
  const Operator qkv = One(ops, "qkv_proj");
  EXPECT_EQ(qkv.m, 512);
  EXPECT_EQ(qkv.n, (16 + 2 * 2) * 128);
  EXPECT_EQ(qkv.k, 8192);
  EXPECT_EQ(qkv.count, 80);
  EXPECT_DOUBLE_EQ(qkv.bytes, 2.0 * (512.0 * 8192 + 2560.0 * 8192 + 512.0 * 2560));
  EXPECT_EQ(One(ops, "o_proj").k, 16 * 128);
  EXPECT_EQ(One(ops, "up_proj").n, 2 * 28672 / 4);
  EXPECT_EQ(One(ops, "down_proj").k, 28672 / 4);
  // Two all-reduces per layer and one after the embedding, each of tokens x hidden 16-bit numbers.
  double reduces = 0;
  for (const Operator& op : OfKind(ops, OpKind::kAllReduce)) {
    EXPECT_DOUBLE_EQ(op.bytes, 512.0 * 8192 * 2);
    EXPECT_EQ(op.ranks, 4);
    reduces += op.count;
  }
  EXPECT_EQ(reduces, 161);
  // Key-value heads fewer than ranks: at least one per GPU.
  EXPECT_EQ(One(LowerTokenOperators(m, Plan(16), 0, 1, 1), "qkv_proj").n, (4 + 2) * 128);
  EXPECT_TRUE(OfKind(LowerTokenOperators(m, Plan(1), 0, 1, 1), OpKind::kAllReduce).empty());
}

TEST(Lowering, ParallelBlocksShareOneAllReduce) {
  const auto ops = LowerTokenOperators(Model("falcon-40b"), Plan(8), 0, 64, 64);
  double per_layer = 0;
  for (const Operator& op : OfKind(ops, OpKind::kAllReduce)) per_layer += op.count == 60 ? 1 : 0;
  EXPECT_EQ(per_layer, 1);
}

TEST(Lowering, LatentAttentionShapes) {
  const ModelSpec m = Model("deepseek-v3");
  const int64_t t = 32;
  const auto ops = LowerTokenOperators(m, Plan(8), 0, t, t);
  EXPECT_EQ(One(ops, "qkv_a_proj").n, 1536 + 512 + 64);  // not split
  EXPECT_EQ(One(ops, "q_b_proj").n, 16 * 192);
  EXPECT_EQ(One(ops, "o_proj").k, 16 * 128);
  // Absorbed form: per token and head 512 x 128 there and back.
  EXPECT_DOUBLE_EQ(One(ops, "mla_uk").flops + One(ops, "mla_uv").flops, 2.0 * t * 16 * 512 * (128 + 128));
  EXPECT_EQ(One(ops, "up_proj").count, 3);
  EXPECT_EQ(One(ops, "experts").count, 58);
  EXPECT_EQ(One(ops, "shared_up_proj").n, 2 * 2048 / 8);
  // V2-Lite projects queries directly.
  const auto lite = LowerTokenOperators(Model("deepseek-v2-lite"), Plan(1), 0, t, t);
  EXPECT_EQ(One(lite, "q_proj").n, 16 * 192);
  EXPECT_EQ(One(lite, "kv_a_proj").n, 512 + 64);
}

// ---- mixture of experts ----

TEST(Lowering, ExpertsSplitByTensorOrByExpert) {
  const ModelSpec m = Model("mixtral-8x7b");
  const int64_t t = 8192;
  const Operator tensor = One(LowerTokenOperators(m, Plan(4), 0, t, t), "experts");
  EXPECT_EQ(tensor.tp, 4);
  EXPECT_EQ(tensor.imbalance, 1);
  EXPECT_DOUBLE_EQ(tensor.flops, 2.0 * 3 * 4096 * (14336 / 4) * t * 2);
  const Operator expert = One(LowerTokenOperators(m, Plan(4, 1, 1, 4), 0, t, t), "experts");
  EXPECT_EQ(expert.tp, 1);
  EXPECT_EQ(expert.ep, 4);
  EXPECT_GT(expert.imbalance, 1);
  EXPECT_NEAR(expert.flops, tensor.flops * expert.imbalance, 1e-6 * tensor.flops);
  EXPECT_NEAR(expert.active_experts, 2, 1e-6);  // thousands of tokens reach both experts of a rank
  // One attention replica: the ranks hold all tokens, so an all-reduce ends the layer and nothing is exchanged.
  const auto ops = LowerTokenOperators(m, Plan(4, 1, 1, 4), 0, t, t);
  EXPECT_TRUE(OfKind(ops, OpKind::kAllToAll).empty());
  EXPECT_EQ(One(ops, "moe_all_reduce").ranks, 4);
}

TEST(Lowering, AttentionReplicasExchangeTokens) {
  const ModelSpec m = Model("deepseek-v3");
  const int64_t t = 64;
  ParallelPlan plan = Plan(1, 1, 16, 16);
  const auto ops = LowerTokenOperators(m, plan, 0, t, 16 * t);
  const Operator dispatch = One(ops, "dispatch"), combine = One(ops, "combine"), experts = One(ops, "experts");
  EXPECT_EQ(dispatch.ranks, 16);
  EXPECT_EQ(experts.tokens, 16 * t);
  EXPECT_DOUBLE_EQ(dispatch.bytes, t * RanksPerToken(256, 8, 16) * 15 / 16 * 7168 * 2);
  EXPECT_DOUBLE_EQ(combine.bytes, dispatch.bytes);
  EXPECT_LT(dispatch.bytes, t * 8.0 * 7168 * 2);  // a rank gets a token once, however many of its experts were chosen
  EXPECT_TRUE(OfKind(ops, OpKind::kAllReduce).empty());
  plan.weights = plan.activations = DType::kFp8;
  const auto fp8 = LowerTokenOperators(m, plan, 0, t, 16 * t);
  EXPECT_DOUBLE_EQ(One(fp8, "dispatch").bytes, dispatch.bytes / 2);
  EXPECT_DOUBLE_EQ(One(fp8, "combine").bytes, combine.bytes);
  // Two tensor ranks per replica share the sending and gather the result.
  const auto two = LowerTokenOperators(m, Plan(2, 1, 8, 16), 0, t, 8 * t);
  EXPECT_EQ(One(two, "dispatch").tokens, t / 2);
  EXPECT_DOUBLE_EQ(One(two, "moe_all_gather").bytes, t * 7168.0 * 2);
}

TEST(Lowering, TheBusiestExpertOfARankIsKnown) {
  ModelSpec m = Model("qwen3-30b-a3b");
  const int64_t t = 4096;
  m.moe->popularity_cv = 0;
  // 256 choices per expert, Poisson: the largest of 128 lies 2.6 standard deviations of 6 % above the mean.
  EXPECT_NEAR(One(LowerTokenOperators(m, Plan(1), 0, t, t), "experts").skew, 1 + 2.6 / 16, 0.03);
  m.moe->popularity_cv = 0.8;
  const Operator one = One(LowerTokenOperators(m, Plan(1), 0, t, t), "experts");
  EXPECT_GT(one.skew, 3);
  // The busiest rank of eight holds the busiest expert and has a higher mean.
  const Operator eight = One(LowerTokenOperators(m, Plan(8, 1, 1, 8), 0, t, t), "experts");
  EXPECT_NEAR(eight.skew * eight.imbalance, one.skew, 1e-9);
}

TEST(Lowering, FewTokensReadFewExperts) {
  const ModelSpec m = Model("qwen3-30b-a3b");
  const Operator one = One(LowerTokenOperators(m, Plan(1), 0, 1, 1), "experts");
  EXPECT_LE(one.active_experts, 8);
  EXPECT_GE(one.active_experts, 6);
  const Operator many = One(LowerTokenOperators(m, Plan(1), 0, 4096, 4096), "experts");
  EXPECT_NEAR(many.active_experts, 128, 1.5);
  EXPECT_GT(many.bytes, one.bytes * 10);
}

// ---- formats ----

TEST(Lowering, NarrowActivationsAreQuantisedFirst) {
  ParallelPlan plan;
  plan.weights = plan.activations = DType::kFp8;
  const auto ops = LowerTokenOperators(Model("llama-3.1-8b"), plan, 0, 100, 100);
  const auto quantize = OfKind(ops, OpKind::kQuantize);
  ASSERT_EQ(quantize.size(), 4u);  // before qkv, o, up and down
  EXPECT_DOUBLE_EQ(quantize[0].bytes, 100.0 * 4096 * (2 + 1));
  const Operator qkv = One(ops, "qkv_proj");
  EXPECT_EQ(ComputeDType(qkv.weights, qkv.activations), DType::kFp8);
  plan.activations = DType::kBf16;  // weight-only
  const auto weight_only = LowerTokenOperators(Model("llama-3.1-8b"), plan, 0, 100, 100);
  EXPECT_TRUE(OfKind(weight_only, OpKind::kQuantize).empty());
  EXPECT_EQ(ComputeDType(One(weight_only, "qkv_proj").weights, One(weight_only, "qkv_proj").activations), DType::kBf16);
  EXPECT_LT(One(weight_only, "qkv_proj").bytes, 2.0 * 6144 * 4096);
  // Router and LM head stay 16-bit.
  const auto head = LowerHeadOperators(Model("llama-3.1-8b"), plan, 0, 5);
  EXPECT_EQ(One(head, "lm_head").weights, DType::kBf16);
  EXPECT_EQ(One(head, "lm_head").n, 128256);
}

TEST(Lowering, ReleasedExpertFormatLeavesOtherMatricesAlone) {
  const ModelSpec m = Model("gpt-oss-120b");
  ParallelPlan plan;
  plan.weights = DType::kMxfp4;
  const auto ops = LowerTokenOperators(m, plan, 0, 8, 8);
  EXPECT_EQ(One(ops, "qkv_proj").weights, DType::kBf16);
  EXPECT_EQ(One(ops, "experts").weights, DType::kMxfp4);
  // The released checkpoint is 60.8 GiB by its model card.
  EXPECT_NEAR(WeightBytesPerGpu(m, plan, 0).value() / (60.8 * 1073741824), 1, 0.01);
}

TEST(Lowering, Int4WeightsAreNearlyAQuarter) {
  for (const char* name : {"llama-2-70b", "llama-3.1-70b"}) {
    const ModelSpec m = Model(name);
    ParallelPlan plan;
    const double bf16 = WeightBytesPerGpu(m, plan, 0).value();
    EXPECT_NEAR(bf16, 2.0 * static_cast<double>(ParameterCount(m)), 1) << name;
    plan.weights = DType::kInt4;
    const double int4 = WeightBytesPerGpu(m, plan, 0).value();
    EXPECT_GT(bf16 / int4, 3.6) << name;
    EXPECT_LT(bf16 / int4, 4.0) << name;
    const double kept = 2.0 * static_cast<double>(2 * m.vocab * m.hidden + (2 * m.layers + 1) * m.hidden);
    EXPECT_NEAR(int4, (bf16 - kept) / 4 + kept, 1) << name;
  }
}

// ---- memory ----

// Sum over the ranks of an engine, duplicates counted once.
TEST(Weights, ShardsAddUpToTheModelForAnyPlan) {
  Rng rng(11, "plans");
  int checked = 0;
  const auto names = ModelNames();
  for (int trial = 0; trial < 4000; ++trial) {
    const ModelSpec m = Model(names[rng.Below(names.size())]);
    const int sizes[] = {1, 2, 3, 4, 5, 8, 16};
    const auto pick = [&] { return sizes[rng.Below(7)]; };
    ParallelPlan plan = Plan(pick(), pick(), rng.Below(2) != 0 ? 1 : pick(), m.moe.has_value() ? pick() : 1);
    // Dense models: an MLP that all ranks share, or one for each of several groups.
    if (!m.moe.has_value() && rng.Below(2) == 0) plan.ffn_tp = plan.dp > 1 ? plan.dp * plan.tp : pick();
    if (plan.pp > 1 && rng.Below(2) == 0) {
      int left = static_cast<int>(m.layers);
      for (int s = 0; s + 1 < plan.pp; ++s) {
        plan.stage_layers.push_back(1 + static_cast<int>(rng.Below(static_cast<uint64_t>(std::max(1, left / 2)))));
        left -= plan.stage_layers.back();
      }
      plan.stage_layers.push_back(left);
    }
    if (!Wrong(m, plan).empty()) continue;
    ++checked;
    const int inner = ExpertTensorRanks(plan);
    const auto copies = [&](const Tensor& t) -> double {  // ranks of one stage and replica set that hold the same part
      switch (t.shard) {
        case Shard::kReplicated:
          return plan.tp * plan.dp;
        case Shard::kTensor:
        case Shard::kVocab:
          return plan.dp;
        case Shard::kFfn:
          return static_cast<double>(plan.dp * plan.tp) / plan.ffn_ranks();
        case Shard::kKvHeads:
          return plan.dp * std::max(1.0, static_cast<double>(plan.tp) / static_cast<double>(m.attention.kv_heads));
        case Shard::kExpert:
          return plan.ep > 1 ? 1 : plan.dp;
        case Shard::kExpertBias:
          return plan.ep > 1 ? inner : plan.dp * plan.tp;
      }
      return 0;
    };
    const auto check = [&](const std::vector<Tensor>& tensors) {
      for (const Tensor& t : tensors) {
        const double held = static_cast<double>(ElementsPerGpu(t, m, plan)) * plan.tp * plan.dp / copies(t);
        // Only the vocabulary is padded, to the next multiple of tp rows.
        const double padding =
            t.shard == Shard::kVocab ? static_cast<double>((plan.tp - 1) * (t.elements / m.vocab)) : 0;
        EXPECT_GE(held, static_cast<double>(t.elements)) << m.name << " " << t.name;
        EXPECT_LE(held, static_cast<double>(t.elements) + padding + 0.5)
            << m.name << " " << t.name << " tp " << plan.tp << " ep " << plan.ep;
      }
    };
    check(EmbeddingTensors(m));
    for (const bool linear : {false, true}) {
      if (linear && !m.has_linear()) continue;
      check(LayerTensors(m, {false, linear}));
      if (m.moe.has_value()) check(LayerTensors(m, {true, linear}));
    }
    check(HeadTensors(m));
    // Stages cover every layer once.
    int next = 0;
    for (int stage = 0; stage < plan.pp; ++stage) {
      const StageLayers s = LayersOfStage(m, plan, stage);
      EXPECT_EQ(s.first, next);
      next += s.count;
      EXPECT_GE(s.count, 1);
    }
    EXPECT_EQ(next, m.layers);
  }
  EXPECT_GT(checked, 300);
}

// One MLP of all attention replicas does the work of the same MLP split over as many tensor-parallel ranks, and hands the
// tokens over on the way in and out.
TEST(Operators, AttentionReplicasThatShareAnMlp) {
  const ModelSpec m = Model("llama-3.1-70b");
  ParallelPlan shared = Plan(2, 1, 4);
  shared.ffn_tp = 8;
  const int64_t per_rank = 96, all = 4 * per_rank;
  const auto find = [](const std::vector<Operator>& ops, const std::string& name) {
    const auto it = std::find_if(ops.begin(), ops.end(), [&](const Operator& op) { return name == op.name; });
    EXPECT_NE(it, ops.end()) << name;
    return *it;
  };
  const auto ops = LowerTokenOperators(m, shared, 0, per_rank, all);
  const auto tp8 = LowerTokenOperators(m, Plan(8), 0, all, all);
  for (const char* name : {"up_proj", "down_proj"}) {
    EXPECT_EQ(find(ops, name).flops, find(tp8, name).flops);
    EXPECT_TRUE(find(ops, name).on_engine);
  }
  EXPECT_EQ(find(ops, "qkv_proj").flops, find(LowerTokenOperators(m, Plan(2), 0, per_rank, per_rank), "qkv_proj").flops);
  EXPECT_FALSE(find(ops, "qkv_proj").on_engine);
  const double row = static_cast<double>(m.hidden) * 2;
  EXPECT_EQ(find(ops, "mlp_all_gather").bytes, static_cast<double>(all) * row);
  EXPECT_EQ(find(ops, "mlp_all_gather").ranks, 8);
  EXPECT_EQ(find(ops, "mlp_reduce_scatter").bytes, static_cast<double>(all) * row);
  EXPECT_EQ(find(ops, "attn_reduce_scatter").bytes, static_cast<double>(per_rank) * row);
  EXPECT_EQ(find(ops, "attn_reduce_scatter").ranks, 2);
  for (const Operator& op : ops) EXPECT_NE(std::string(op.name), "mlp_all_reduce");

  // Two groups of four ranks with an MLP of their own: half of the tokens, twice the columns each.
  ParallelPlan groups = Plan(8);
  groups.ffn_tp = 4;
  const auto grouped = LowerTokenOperators(m, groups, 0, all, all);
  EXPECT_EQ(find(grouped, "up_proj").m, all / 2);
  EXPECT_EQ(find(grouped, "up_proj").n, 2 * find(tp8, "up_proj").n);
  EXPECT_EQ(find(grouped, "mlp_all_gather").ranks, 4);
  EXPECT_EQ(find(grouped, "mlp_all_gather").bytes, static_cast<double>(all / 2) * row);
  EXPECT_EQ(find(grouped, "attn_all_gather").bytes, static_cast<double>(all) * row);
}

TEST(Plan, SaysWhatIsWrongWithSeparateMlpsAndLayers) {
  const ModelSpec dense = Model("llama-3.1-70b"), moe = Model("mixtral-8x7b");
  ParallelPlan p = Plan(4);
  p.ffn_tp = 3;
  EXPECT_THAT(Wrong(dense, p), testing::HasSubstr("plan.ffn_tp: 3 ranks cannot share"));
  p = Plan(2, 1, 4);
  p.ffn_tp = 4;
  EXPECT_THAT(Wrong(dense, p), testing::HasSubstr("it can be 8"));
  p.ffn_tp = 8;
  EXPECT_EQ(Wrong(dense, p), "");
  EXPECT_THAT(Wrong(moe, p), testing::HasSubstr("has experts"));
  p = Plan(1, 3);
  p.stage_layers = {30, 30};
  EXPECT_THAT(Wrong(dense, p), testing::HasSubstr("has 2 numbers for 3 stages"));
  p.stage_layers = {30, 30, 19};
  EXPECT_THAT(Wrong(dense, p), testing::HasSubstr("adds up to 79 layers, but llama-3.1-70b has 80"));
  p.stage_layers = {30, 50, 0};
  EXPECT_THAT(Wrong(dense, p), testing::HasSubstr("at least one"));
  p.stage_layers = {30, 31, 19};
  EXPECT_EQ(Wrong(dense, p), "");
}

TEST(Weights, PipelineStagesAddUp) {
  for (const char* name :
       {"llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite", "llama-4-maverick-17b-128e", "bert-base-uncased"}) {
    const ModelSpec m = Model(name);
    double sum = 0;
    for (int stage = 0; stage < 4; ++stage) sum += WeightBytesPerGpu(m, Plan(1, 4), stage).value();
    double want = 2.0 * static_cast<double>(ParameterCount(m));
    if (m.tie_embeddings) want += 2.0 * static_cast<double>(m.vocab * m.hidden);  // first and last stage hold it
    EXPECT_NEAR(sum, want, 1) << name;
  }
}

TEST(Weights, Fp32PlansStoreEverythingInFourBytes) {
  ParallelPlan plan;
  plan.weights = plan.activations = DType::kFp32;
  const ModelSpec m = Model("gpt-2");
  EXPECT_DOUBLE_EQ(WeightBytesPerGpu(m, plan, 0).value(), 4.0 * static_cast<double>(ParameterCount(m)));
}

TEST(KvCache, BytesPerTokenOfEveryKindOfAttention) {
  const auto per_token = [](const char* name, const ParallelPlan& plan) {
    return KvBytesPerGpu(Model(name), plan, 0).per_token.value();
  };
  EXPECT_EQ(per_token("llama-2-7b", Plan(1)), 32 * 2 * 32 * 128 * 2);    // multi-head
  EXPECT_EQ(per_token("llama-3.1-70b", Plan(1)), 80 * 2 * 8 * 128 * 2);  // grouped
  EXPECT_EQ(per_token("llama-3.1-70b", Plan(8)), 80 * 2 * 1 * 128 * 2);
  EXPECT_EQ(per_token("llama-3.1-70b", Plan(16)), 80 * 2 * 1 * 128 * 2);  // replicated
  EXPECT_EQ(per_token("llama-3.1-70b", Plan(8, 2)), 40 * 2 * 1 * 128 * 2);
  EXPECT_EQ(per_token("falcon-7b", Plan(1)), 32 * 2 * 64 * 2);        // multi-query
  EXPECT_EQ(per_token("deepseek-v3", Plan(8)), 61 * (512 + 64) * 2);  // latent: whole on every rank
  ParallelPlan fp8 = Plan(1);
  fp8.kv_cache = DType::kFp8;
  EXPECT_EQ(per_token("deepseek-v3", fp8), 61 * (512 + 64));
  EXPECT_EQ(per_token("bert-base-uncased", Plan(1)), 0);
}

TEST(KvCache, WindowedLayersAreApart) {
  const KvBytes gemma = KvBytesPerGpu(Model("gemma-3-27b"), Plan(1), 0);  // layers 6, 12, ..., 60 of 62 are full
  EXPECT_EQ(gemma.window, 1024);
  EXPECT_EQ(gemma.per_token.value(), 10 * 2 * 16 * 128 * 2);
  EXPECT_EQ(gemma.per_token_windowed.value(), 52 * 2 * 16 * 128 * 2);
  const KvBytes gpt = KvBytesPerGpu(Model("gpt-oss-20b"), Plan(1), 0);
  EXPECT_EQ(gpt.per_token, gpt.per_token_windowed);
  const KvBytes mistral = KvBytesPerGpu(Model("mistral-7b-v0.1"), Plan(1), 0);
  EXPECT_EQ(mistral.per_token.value(), 0);
  EXPECT_EQ(mistral.window, 4096);
}

TEST(KvCache, LinearLayersKeepAStateInstead) {
  const ModelSpec m = Model("qwen3-next-80b-a3b");  // 12 of 48 layers attend fully, with 2 heads of 256
  EXPECT_EQ(KvBytesPerGpu(m, Plan(1), 0).per_token.value(), 12 * 2 * 2 * 256 * 2);
  EXPECT_EQ(KvBytesPerGpu(m, Plan(1), 0).window, 0);
  // 32 states of 128 x 128 and three tokens of 2 x 2048 query and key and 4096 value channels, in 16 bits.
  const double state = 36 * (32.0 * 128 * 128 * 2 + 3.0 * (2 * 2048 + 4096) * 2);
  EXPECT_EQ(StateBytesPerGpu(m, Plan(1), 0).value(), state);
  EXPECT_EQ(StateBytesPerGpu(m, Plan(4), 0).value(), state / 4);
  EXPECT_EQ(StateBytesPerGpu(m, Plan(1, 2), 1).value(), state / 2);
  ModelSpec wide = m;
  wide.attention.linear->state = DType::kFp32;
  EXPECT_EQ(StateBytesPerGpu(wide, Plan(1), 0).value() - state, 36 * 32.0 * 128 * 128 * 2);
  EXPECT_EQ(StateBytesPerGpu(Model("llama-3.1-8b"), Plan(1), 0).value(), 0);
}

TEST(KvCache, IndexersKeepAKeyOfEightBitsAndItsScale) {
  const double index = 61 * (128 + 4);
  EXPECT_EQ(KvBytesPerGpu(Model("deepseek-v3.2"), Plan(8), 0).per_token.value(), 61 * (512 + 64) * 2 + index);
  ParallelPlan fp8 = Plan(8);
  fp8.kv_cache = DType::kFp8;
  EXPECT_EQ(KvBytesPerGpu(Model("deepseek-v3.2"), fp8, 0).per_token.value(), 61 * (512 + 64) + index);
}

TEST(Activations, GrowWithTokensAndRows) {
  const ModelSpec m = Model("llama-3.1-8b");
  // 2048 tokens: gate, up and product of 14336 numbers are the largest intermediates.
  EXPECT_DOUBLE_EQ(ActivationBytesPerGpu(m, Plan(1), 2048, 1).value(), 2048.0 * 2 * (2 * 4096 + 3 * 14336));
  // 2048 rows of logits, 16- and 32-bit.
  EXPECT_DOUBLE_EQ(ActivationBytesPerGpu(m, Plan(1), 2048, 2048).value(), 2048.0 * (2 * 2 * 4096 + 6.0 * 128256));
}

// Eight experts are chosen for each of the tokens of all attention ranks: a row in and one out of 4096, and gate, up and product of
// 1536 for each choice, whichever rank has the expert.
TEST(Activations, ExpertsHaveRoomForEveryChoice) {
  const ModelSpec m = Model("qwen3-235b-a22b");
  const auto bytes = [](double tokens, double ranks) { return 2 * tokens * (2 * 4096 + ranks * 8 * (2 * 4096 + 3 * 1536)); };
  EXPECT_DOUBLE_EQ(ActivationBytesPerGpu(m, Plan(1, 1, 8, 8), 1024, 1).value(), bytes(1024, 8));
  EXPECT_DOUBLE_EQ(ActivationBytesPerGpu(m, Plan(8, 1, 1, 8), 1024, 1).value(), bytes(1024, 1));
  // In pieces of 2048 tokens: the rooms of a quarter, beside the tokens of all ranks, gathered and given back.
  EXPECT_DOUBLE_EQ(ActivationBytesPerGpu(m, Plan(1, 1, 8, 8), 1024, 1, 2048).value(), bytes(1024, 2) + 2.0 * 8192 * 2 * 4096);
  EXPECT_DOUBLE_EQ(ActivationBytesPerGpu(m, Plan(8, 1, 1, 8), 1024, 1, 2048).value(), bytes(1024, 1));
}

// ---- attention ----

double SlowPairs(int64_t tokens, int64_t past, int64_t window, bool chunked, bool causal) {
  double pairs = 0;
  for (int64_t q = past; q < past + tokens; ++q) {
    for (int64_t k = 0; k < past + tokens; ++k) {
      if (causal && k > q) continue;
      if (window > 0 && !chunked && k <= q - window) continue;
      if (window > 0 && chunked && k / window != q / window) continue;
      ++pairs;
    }
  }
  return pairs;
}

TEST(Attention, PrefillFlopsCountTheMask) {
  Rng rng(5, "masks");
  for (int trial = 0; trial < 200; ++trial) {
    AttentionShape s;
    s.heads = 4;
    s.head_dim = 8;
    s.v_head_dim = 6;
    s.causal = rng.Below(4) != 0;
    s.window = s.causal ? static_cast<int64_t>(rng.Below(3) * (1 + rng.Below(20))) : 0;
    s.chunked = rng.Below(2) != 0;
    const int64_t tokens = 1 + static_cast<int64_t>(rng.Below(40)), past = static_cast<int64_t>(rng.Below(60));
    EXPECT_DOUBLE_EQ(PrefillAttentionFlops(s, tokens, past),
                     2.0 * 4 * (8 + 6) * SlowPairs(tokens, past, s.window, s.chunked, s.causal))
        << tokens << " " << past << " " << s.window << " " << s.chunked << " " << s.causal;
  }
}

TEST(Attention, ChunksAddUpToOnePrefill) {
  const AttentionShape s = AttentionShapes(Model("llama-3.1-8b"), Plan(1), 0)[0];
  const double whole = PrefillAttentionFlops(s, 1000, 0);
  EXPECT_DOUBLE_EQ(PrefillAttentionFlops(s, 600, 0) + PrefillAttentionFlops(s, 400, 600), whole);
  // A decode step is a prefill of one token.
  EXPECT_DOUBLE_EQ(PrefillAttentionFlops(s, 1, 999), DecodeAttentionFlops(s, 1000));
}

TEST(Attention, LatentDecodeIsAbsorbed) {
  const auto shapes = AttentionShapes(Model("deepseek-v3"), Plan(8), 0);
  ASSERT_EQ(shapes.size(), 1u);
  EXPECT_EQ(shapes[0].heads, 16);
  EXPECT_EQ(shapes[0].kv_heads, 1);
  EXPECT_DOUBLE_EQ(DecodeAttentionFlops(shapes[0], 1000), 2.0 * 16 * (576 + 512) * 1000);
  // Prefill after a cached prefix expands its latents again.
  EXPECT_DOUBLE_EQ(PrefillAttentionFlops(shapes[0], 10, 100) - 2.0 * 16 * (192 + 128) * (10 * 100 + 55),
                   2.0 * 100 * 512 * 16 * (128 + 128));
}

TEST(Attention, StagesSplitTheKinds) {
  const ModelSpec m = Model("gemma-3-12b");  // 48 layers, every sixth full
  double full = 0, windowed = 0;
  for (int stage = 0; stage < 5; ++stage) {
    for (const AttentionShape& s : AttentionShapes(m, Plan(1, 5), stage)) (s.window > 0 ? windowed : full) += s.layers;
  }
  EXPECT_EQ(full, 8);
  EXPECT_EQ(windowed, 40);
  EXPECT_TRUE(AttentionShapes(Model("llama-4-scout-17b-16e"), Plan(1), 0)[1].chunked);
  EXPECT_FALSE(AttentionShapes(Model("bert-base-uncased"), Plan(1), 0)[0].causal);
}

TEST(Attention, LinearLayersCostTheSameWhateverCameBefore) {
  const ModelSpec m = Model("qwen3-next-80b-a3b");
  const auto shapes = AttentionShapes(m, Plan(2), 0);
  ASSERT_EQ(shapes.size(), 2u);
  EXPECT_FALSE(shapes[0].linear);
  EXPECT_EQ(shapes[0].layers, 12);
  const AttentionShape& s = shapes[1];
  EXPECT_TRUE(s.linear);
  EXPECT_EQ(s.layers, 36);
  EXPECT_EQ(s.heads, 16);
  EXPECT_EQ(s.kv_heads, 8);
  EXPECT_EQ(DecodeAttentionFlops(s, 1), 6.0 * 16 * 128 * 128);
  EXPECT_EQ(DecodeAttentionFlops(s, 100'000), DecodeAttentionFlops(s, 1));
  EXPECT_EQ(PrefillAttentionFlops(s, 640, 0), PrefillAttentionFlops(s, 640, 9000));
  EXPECT_EQ(PrefillAttentionFlops(s, 1280, 0), 2 * PrefillAttentionFlops(s, 640, 0));
  // One token alone: its state is read twice and updated, and its only product with others is with itself.
  EXPECT_EQ(PrefillAttentionFlops(s, 1, 0), DecodeAttentionFlops(s, 1) + 2.0 * 16 * 5 * 128);
}

TEST(Attention, SparseLayersScoreEveryTokenAndAttendToSome) {
  const auto shapes = AttentionShapes(Model("deepseek-v3.2"), Plan(8), 0);
  ASSERT_EQ(shapes.size(), 2u);
  EXPECT_TRUE(shapes[0].indexer);
  EXPECT_EQ(shapes[0].heads, 64);  // whole on every rank
  EXPECT_EQ(shapes[1].heads, 16);
  EXPECT_EQ(shapes[0].layers, shapes[1].layers);
  EXPECT_EQ(DecodeAttentionFlops(shapes[0], 5000), 2.0 * 64 * 128 * 5000);
  EXPECT_EQ(PrefillAttentionFlops(shapes[0], 10, 100), 2.0 * 64 * 128 * (10 * 100 + 55));
  EXPECT_EQ(DecodeAttentionFlops(shapes[1], 5000), 2.0 * 16 * (2 * 512 + 64) * 2048);
  EXPECT_EQ(PrefillAttentionFlops(shapes[1], 10, 100), 10 * DecodeAttentionFlops(shapes[1], 1));
}

// ---- stages, head, encoders ----

TEST(Lowering, StagesHandOver) {
  const ModelSpec m = Model("llama-3.1-70b");
  const ParallelPlan plan = Plan(4, 2);
  const auto first = LowerTokenOperators(m, plan, 0, 100, 100), last = LowerTokenOperators(m, plan, 1, 100, 100);
  EXPECT_DOUBLE_EQ(One(first, "stage_send").bytes,
                   2.0 * 100 * 8192 * 2 / 4);  // hidden state and residual, a slice each
  EXPECT_TRUE(OfKind(last, OpKind::kSendRecv).empty());
  EXPECT_TRUE(OfKind(last, OpKind::kEmbedding).empty());
  EXPECT_TRUE(LowerHeadOperators(m, plan, 0, 10).empty());
  EXPECT_EQ(One(LowerHeadOperators(m, plan, 1, 10), "lm_head").n, 128256 / 4);
  EXPECT_DOUBLE_EQ(One(LowerHeadOperators(m, plan, 1, 10), "logits_all_gather").bytes, 10.0 * 128256 * 2);
  EXPECT_TRUE(LowerHeadOperators(m, plan, 1, 0).empty());
}

TEST(Lowering, EncodersHaveNeitherCacheNorLmHead) {
  const ModelSpec m = Model("bert-base-uncased");
  const auto ops = LowerTokenOperators(m, Plan(1), 0, 128, 128);
  EXPECT_TRUE(Named(ops, "kv_write").empty());
  const auto head = LowerHeadOperators(m, Plan(1), 0, 1);
  EXPECT_TRUE(Named(head, "lm_head").empty());
  EXPECT_EQ(One(head, "pooler").n, 768);
}

// ---- plans ----

TEST(CheckPlan, AcceptsPlansPeopleRun) {
  EXPECT_EQ(Wrong(Model("llama-3.1-70b"), Plan(8)), "");
  EXPECT_EQ(Wrong(Model("llama-3.1-405b"), Plan(16, 2)), "");
  EXPECT_EQ(Wrong(Model("deepseek-v3"), Plan(1, 1, 32, 32)), "");
  EXPECT_EQ(Wrong(Model("deepseek-v3"), Plan(8)), "");
  EXPECT_EQ(Wrong(Model("qwen3-235b-a22b"), Plan(4, 1, 1, 2)), "");
  EXPECT_EQ(Wrong(Model("gpt-2"), Plan(4)), "");  // 50257 rows are padded
  ParallelPlan plan = Plan(1);
  plan.weights = DType::kInt4;
  EXPECT_EQ(Wrong(Model("llama-2-70b"), plan), "");
  plan.weights = DType::kNvfp4;
  plan.activations = DType::kNvfp4;
  plan.kv_cache = DType::kFp8;
  EXPECT_EQ(Wrong(Model("llama-3.1-70b"), plan), "");
  plan.weights = DType::kMxfp4;
  plan.activations = DType::kNvfp4;
  EXPECT_EQ(Wrong(Model("llama-3.1-70b"), plan), "");
}

TEST(CheckPlan, NamesWhatDoesNotDivide) {
  using testing::HasSubstr;
  EXPECT_THAT(
      Wrong(Model("llama-3.1-70b"), Plan(3)),
      HasSubstr(
          "plan.tp: 3 does not divide the 64 attention heads of llama-3.1-70b; tp can be 1, 2, 4, 8, 16, 32, 64"));
  EXPECT_THAT(Wrong(Model("falcon-7b"), Plan(2)), HasSubstr("71 attention heads"));
  EXPECT_THAT(Wrong(Model("llama-3.2-3b"), Plan(12)), HasSubstr("12 ranks cannot share the 8 key-value heads"));
  EXPECT_THAT(Wrong(Model("llama-3.1-8b"), Plan(1, 33)), HasSubstr("plan.pp: 33 stages for the 32 layers"));
  EXPECT_THAT(Wrong(Model("llama-3.1-8b"), Plan(2, 1, 1, 2)),
              HasSubstr("plan.ep: llama-3.1-8b has no experts to spread"));
  EXPECT_THAT(Wrong(Model("mixtral-8x7b"), Plan(2, 1, 1, 4)),
              HasSubstr("plan.ep: 4 does not divide the dp x tp = 2 ranks"));
  EXPECT_THAT(Wrong(Model("mixtral-8x7b"), Plan(1, 1, 16, 16)), HasSubstr("plan.ep: 16 does not divide the 8 experts"));
  EXPECT_THAT(Wrong(Model("mixtral-8x7b"), Plan(0)), HasSubstr("plan.tp: 0 is less than 1"));
}

TEST(CheckPlan, StagesNeedALayerThatAttendsFully) {
  const ModelSpec m = Model("qwen3-next-80b-a3b");
  EXPECT_EQ(Wrong(m, Plan(2, 12)), "");
  EXPECT_THAT(Wrong(m, Plan(1, 16)), testing::HasSubstr("plan.pp: stage 1 would hold linear attention alone"));
  EXPECT_THAT(Wrong(m, Plan(1, 16)), testing::HasSubstr("at most 12 stages"));
}

TEST(CheckPlan, RefusesFormatsThatMakeNoSense) {
  using testing::HasSubstr;
  ParallelPlan plan;
  plan.activations = DType::kFp8;
  EXPECT_THAT(Wrong(Model("llama-3.1-8b"), plan), HasSubstr("plan.activations: fp8 is narrower than the bf16 weights"));
  plan = ParallelPlan();
  plan.weights = DType::kTf32;
  EXPECT_THAT(Wrong(Model("llama-3.1-8b"), plan), HasSubstr("plan.weights: tf32"));
  plan = ParallelPlan();
  plan.kv_cache = DType::kMxfp4;
  EXPECT_THAT(Wrong(Model("llama-3.1-8b"), plan), HasSubstr("plan.kv_cache: no engine keeps a mxfp4 cache"));
}

}  // namespace
}  // namespace simrun
