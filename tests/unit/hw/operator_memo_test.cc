#include "hw/operator_memo.h"

#include <vector>

#include "base/rng.h"
#include "models/lowering.h"
#include "tests/unit/hw/cost_fixture.h"

namespace simrun {
namespace {

void ExpectSame(const OpTime& a, const OpTime& b, const Operator& op) {
  EXPECT_EQ(a.seconds, b.seconds) << op.name;
  EXPECT_EQ(a.joules, b.joules) << op.name;
  EXPECT_EQ(a.bound, b.bound) << op.name;
  EXPECT_EQ(a.provenance, b.provenance) << op.name;
}

// Operators of many plans through one memo, each asked for twice and in another order: what comes back is what
// OperatorCosts says, whatever else the memo holds.
TEST(OperatorMemo, GivesWhatTheCostsGive) {
  const Machine machine = TestMachine("h100-sxm-80gb");
  const auto costs = OperatorCosts::Create(machine, TestCatalog(), {});
  ASSERT_TRUE(costs.ok()) << costs.status();
  std::vector<Operator> ops;
  for (const char* name : {"llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite"}) {
    const ModelSpec model = TestModel(name);
    for (const int tp : {1, 2, 4}) {
      for (const DType weights : {DType::kBf16, DType::kFp8}) {
        ParallelPlan plan;
        plan.tp = tp;
        plan.weights = weights;
        if (model.moe.has_value() && tp > 1) plan.ep = 2;
        for (const int64_t tokens : {1, 7, 100, 2048}) {
          for (const Operator& op : LowerTokenOperators(model, plan, 0, tokens, tokens)) ops.push_back(op);
        }
      }
    }
  }
  const std::vector<CommPath> paths = {{2, 2, 1}, {2, 1, 2}, {4, 4, 1}};
  OperatorMemo memo;
  Rng rng(1, "memo");
  size_t held = 0;
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < ops.size(); ++i) {
      const Operator& op = ops[round == 0 ? i : rng.Below(ops.size())];
      if (op.ranks > 1) {
        for (const CommPath& path : paths) ExpectSame(memo.Cost(*costs, op, &path), costs->Cost(op, &path), op);
      }
      ExpectSame(memo.Cost(*costs, op, nullptr), costs->Cost(op), op);
    }
    if (round == 0) held = memo.size();
  }
  EXPECT_EQ(memo.size(), held);      // the second round found everything
  EXPECT_LT(held, ops.size());       // and the first round some
}

TEST(SharedPrices, KeepsThemApartByKey) {
  SharedPrices shared;
  const auto of = [&](const char* machine) -> OperatorMemo& { return shared.Of({machine, {}}); };
  const auto costs = OperatorCosts::Create(TestMachine("h100-sxm-80gb"), TestCatalog(), {});
  ASSERT_TRUE(costs.ok()) << costs.status();
  const Operator op = LowerTokenOperators(TestModel("llama-3.1-8b"), {}, 0, 1, 1).front();
  OperatorMemo* a = &of("a");
  a->Cost(*costs, op, nullptr);
  EXPECT_EQ(of("b").size(), 0u);
  of("b").Cost(*costs, op, nullptr);
  EXPECT_EQ(&of("a"), a);
  OperatorCostOptions other;
  other.time_factor = 1.1;
  EXPECT_NE(&shared.Of({"a", other}), a);
  EXPECT_EQ(&of("a"), a);
  for (const char* key : {"c", "d"}) of(key);
  EXPECT_GT(of("a").size(), 0u);   // asked for after b
  EXPECT_EQ(of("b").size(), 0u);
}

}  // namespace
}  // namespace simrun
