// Each policy: a view, and the decision derived by hand.
#include "schedulers/batching.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace simrun {
namespace {

struct Prompt {
  int64_t tokens, output;
};

struct Case {
  std::string name, policy;
  int64_t max_seqs, budget, watermark, free_blocks;   // blocks of 10 tokens
  int64_t decodes, held;
  std::vector<int64_t> partial;
  std::vector<Prompt> waiting;
  bool decode;
  std::vector<int64_t> partial_tokens, admitted;
};

void Check(const Case& c) {
  SCOPED_TRACE(c.policy + ": " + c.name);
  WaitingQueue queue(QueueOrder::kFcfs);
  uint32_t id = 0;
  for (const Prompt& p : c.waiting) {
    queue.Push({id, id, p.tokens, p.tokens, p.tokens + p.output - 1, 0, 0});
    ++id;
  }
  const auto policy = (*BuiltInBatchingPolicies().Find(c.policy))();
  ReplicaView view;
  view.limits = {c.max_seqs, c.budget, 10, c.watermark};
  view.decode_seqs = c.decodes;
  view.held_seqs = c.held;
  view.partial = c.partial;
  view.waiting = &queue;
  view.free_blocks = c.free_blocks;
  view.reservation = policy->reservation();
  Batch batch;
  policy->Plan(view, &batch);
  EXPECT_EQ(batch.decode, c.decode);
  EXPECT_EQ(batch.partial_tokens, c.partial_tokens);
  EXPECT_EQ(batch.admitted_tokens, c.admitted);
}

// What is cached takes neither budget nor, while others use it, blocks.
TEST(EveryPolicy, AdmitsByWhatIsNotCached) {
  struct Cached final : PrefixLookup {
    Found Find(const WaitingRequest& r) const override { return r.id == 0 ? Found{40, 0} : Found{40, 4}; }
  };
  struct Row {
    const char* policy;
    std::vector<int64_t> admitted;
  };
  // Three prompts of 60 tokens, 6 blocks, and one token of output; the first finds 40 tokens in free blocks, the others in
  // blocks in use. Budget 45, 10 blocks: the first takes 20 tokens and 6 blocks, the second 20 and 2.
  const Row rows[] = {{"chunked-prefill", {20, 20, 5}}, {"prefill-first", {20, 20}}, {"orca", {20, 20}}, {"pipeline-fill", {20, 20}},
                      {"static", {20, 20, 20}}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.policy);
    WaitingQueue queue(QueueOrder::kFcfs);
    for (uint32_t id = 0; id < 3; ++id) queue.Push({id, id, 60, 60, 60, 0, 0});
    const auto policy = (*BuiltInBatchingPolicies().Find(row.policy))();
    const Cached cached;
    ReplicaView view;
    view.limits = {8, 45, 10, 0};
    view.waiting = &queue;
    view.free_blocks = 10;
    view.total_blocks = 100;
    view.reservation = policy->reservation();
    Batch without, with;
    policy->Plan(view, &without);
    EXPECT_EQ(without.admitted_tokens.size(), 1u);
    view.prefixes = &cached;
    policy->Plan(view, &with);
    EXPECT_EQ(with.admitted_tokens, row.admitted);
    // A sequence that was swapped out has no prompt to look up and needs all of its blocks.
    EXPECT_EQ(view.NeedOf({1, 1, 0, 60, 60, 0, 0}).blocks, 6);
  }
}

TEST(ChunkedPrefill, Decisions) {
  const std::string p = "chunked-prefill";
  const Case cases[] = {
      {"nothing to do", p, 8, 100, 0, 50, 0, 0, {}, {}, false, {}, {}},
      {"decodes alone", p, 8, 100, 0, 50, 5, 0, {}, {}, true, {}, {}},
      // 100 - 5 decodes = 95: 60 for the first, 35 of the second, none for the third.
      {"the budget is shared", p, 8, 100, 0, 50, 5, 0, {}, {{60, 1}, {60, 1}, {60, 1}}, true, {}, {60, 35}},
      {"started prompts come before waiting ones", p, 8, 100, 0, 50, 0, 0, {30, 90}, {{50, 1}}, false, {30, 70}, {}},
      {"and leave the rest of the budget", p, 16, 100, 0, 50, 10, 0, {30}, {{50, 1}, {50, 1}}, true, {30}, {50, 10}},
      {"decodes use up the budget", p, 8, 5, 0, 50, 5, 0, {30}, {{50, 1}}, true, {}, {}},
      {"sequence limit", p, 3, 100, 0, 50, 2, 0, {}, {{5, 1}, {5, 1}}, true, {}, {5}},
      {"started prompts count as sequences", p, 3, 100, 0, 50, 2, 0, {20}, {{5, 1}}, true, {20}, {}},
      // A prompt of 41 tokens takes 5 blocks though only 20 tokens are computed now.
      {"memory for the whole prompt", p, 8, 21, 0, 4, 1, 0, {}, {{41, 1}}, true, {}, {}},
      {"which is enough with one more block", p, 8, 21, 0, 5, 1, 0, {}, {{41, 1}}, true, {}, {20}},
      {"the watermark stays free", p, 8, 100, 2, 6, 1, 0, {}, {{41, 1}}, true, {}, {}},
      {"except when nothing runs", p, 8, 100, 2, 5, 0, 0, {}, {{41, 1}}, false, {}, {41}},
      {"memory goes to the first, none is skipped", p, 8, 500, 0, 6, 1, 0, {}, {{41, 1}, {41, 1}, {5, 1}}, true, {}, {41}},
  };
  for (const Case& c : cases) Check(c);
}

TEST(PrefillFirst, Decisions) {
  const std::string p = "prefill-first";
  const Case cases[] = {
      {"nothing to do", p, 8, 100, 0, 50, 0, 0, {}, {}, false, {}, {}},
      {"decodes when no prompt waits", p, 8, 100, 0, 50, 5, 0, {}, {}, true, {}, {}},
      {"prompts stop the decodes", p, 8, 100, 0, 50, 5, 0, {}, {{60, 1}, {40, 1}}, false, {}, {60, 40}},
      {"whole prompts only", p, 8, 100, 0, 50, 5, 0, {}, {{60, 1}, {41, 1}}, false, {}, {60}},
      {"a prompt over the budget runs alone", p, 8, 100, 0, 50, 0, 0, {}, {{150, 1}, {10, 1}}, false, {}, {150}},
      {"but not behind another", p, 8, 100, 0, 50, 0, 0, {}, {{10, 1}, {150, 1}}, false, {}, {10}},
      {"no room: decode", p, 8, 100, 0, 4, 5, 0, {}, {{41, 1}}, true, {}, {}},
      {"sequence limit: decode", p, 5, 100, 0, 50, 5, 0, {}, {{10, 1}}, true, {}, {}},
      {"watermark: decode", p, 8, 100, 1, 5, 5, 0, {}, {{41, 1}}, true, {}, {}},
  };
  for (const Case& c : cases) Check(c);
}

TEST(Orca, Decisions) {
  const std::string p = "orca";
  const Case cases[] = {
      {"prompts beside decodes", p, 8, 100, 0, 50, 5, 0, {}, {{60, 1}, {35, 1}, {1, 1}}, true, {}, {60, 35}},
      {"whole prompts only", p, 8, 100, 0, 50, 5, 0, {}, {{60, 1}, {36, 1}}, true, {}, {60}},
      {"one over the budget is the only prompt", p, 8, 100, 0, 50, 5, 0, {}, {{150, 1}, {1, 1}}, true, {}, {150}},
      // 21 prompt + 20 output: at most 40 tokens stored, 4 blocks; the prompt alone would take 3.
      {"memory for the longest it becomes", p, 8, 100, 0, 3, 1, 0, {}, {{21, 20}}, true, {}, {}},
      {"which is enough with one more block", p, 8, 100, 0, 4, 1, 0, {}, {{21, 20}}, true, {}, {21}},
      {"sequence limit", p, 5, 100, 0, 50, 5, 0, {}, {{10, 1}}, true, {}, {}},
  };
  for (const Case& c : cases) Check(c);
}

TEST(Orca, PromptsWaitForOthersBesideDecodes) {
  const auto plan = [](int64_t decodes, int64_t waited, std::vector<int64_t> prompts) {
    WaitingQueue queue(QueueOrder::kFcfs);
    for (uint32_t id = 0; id < prompts.size(); ++id) queue.Push({id, id, prompts[id], prompts[id], prompts[id], 0, 0});
    ReplicaView view;
    view.limits = {8, 100, 10, 0, 3, 0.6};   // up to 3 steps, or until 60 of the 100 tokens are there
    view.decode_seqs = decodes;
    view.waiting = &queue;
    view.free_blocks = 50;
    view.waited_steps = waited;
    Batch batch;
    (*BuiltInBatchingPolicies().Find("orca"))()->Plan(view, &batch);
    return std::pair(batch.held_back, batch.admitted_tokens);
  };
  using Tokens = std::vector<int64_t>;
  EXPECT_EQ(plan(5, 0, {30}), std::pair(true, Tokens{}));
  EXPECT_EQ(plan(5, 2, {30}), std::pair(true, Tokens{}));
  EXPECT_EQ(plan(5, 3, {30}), std::pair(false, Tokens{30}));           // waited long enough
  EXPECT_EQ(plan(5, 0, {30, 25}), std::pair(false, Tokens({30, 25})));   // 5 + 55 are enough
  EXPECT_EQ(plan(5, 0, {30, 24}), std::pair(true, Tokens{}));
  EXPECT_EQ(plan(0, 0, {30}), std::pair(false, Tokens{30}));           // nothing to wait beside
  EXPECT_EQ(plan(5, 0, {}), std::pair(false, Tokens{}));
}

TEST(StaticBatch, Decisions) {
  const std::string p = "static";
  const Case cases[] = {
      {"a batch up to the sequence limit, whatever the budget", p, 3, 10, 0, 50, 0, 0, {}, {{60, 1}, {60, 1}, {60, 1}, {60, 1}}, false, {}, {60, 60, 60}},
      {"nobody joins a running batch", p, 8, 100, 0, 50, 2, 0, {}, {{10, 1}}, true, {}, {}},
      {"not even beside finished sequences", p, 8, 100, 0, 50, 1, 3, {}, {{10, 1}}, true, {}, {}},
      {"memory for whole lives: 30 + 31 - 1 tokens are 6 blocks", p, 8, 100, 0, 11, 0, 0, {}, {{30, 31}, {30, 31}}, false, {}, {30}},
      {"and both with 12", p, 8, 100, 0, 12, 0, 0, {}, {{30, 31}, {30, 31}}, false, {}, {30, 30}},
  };
  for (const Case& c : cases) Check(c);
}

TEST(BatchingPolicies, Properties) {
  const auto make = [](const char* name) { return (*BuiltInBatchingPolicies().Find(name))(); };
  EXPECT_EQ(BatchingPolicyNames(), (std::vector<std::string>{"chunked-prefill", "prefill-first", "orca", "pipeline-fill", "static"}));
  EXPECT_EQ(make("chunked-prefill")->reservation(), KvReservation::kPrompt);
  EXPECT_EQ(make("prefill-first")->reservation(), KvReservation::kPrompt);
  EXPECT_EQ(make("orca")->reservation(), KvReservation::kWholeLife);
  EXPECT_EQ(make("static")->reservation(), KvReservation::kWholeLife);
  EXPECT_TRUE(make("static")->holds_batch());
  EXPECT_FALSE(make("orca")->holds_batch());
}

// Memory of 1000 blocks of 10 tokens. A sequence of 95 prompt and 10 output tokens holds 95 to 104 tokens, (95 + 104 + 10)/20
// = 10.45 blocks on average, for 10 steps: 1000 / 104.5 = 9.57 of them can enter in each step.
TEST(PipelineFill, AdmitsWhatMemoryCarriesPerStep) {
  const auto policy = (*BuiltInBatchingPolicies().Find("pipeline-fill"))();
  const auto plan = [&](int64_t budget, int64_t free_blocks, int64_t decodes) {
    WaitingQueue queue(QueueOrder::kFcfs);
    for (uint32_t id = 0; id < 50; ++id) queue.Push({id, id, 95, 95, 104, 0, 0});
    ReplicaView view;
    view.limits = {100, budget, 10, 0};
    view.decode_seqs = decodes;
    view.waiting = &queue;
    view.free_blocks = free_blocks;
    view.total_blocks = 1000;
    Batch batch;
    policy->Plan(view, &batch);
    EXPECT_EQ(batch.decode, decodes > 0);
    return batch.admitted_tokens.size();
  };
  EXPECT_EQ(plan(100000, 1000, 0), 9u);
  EXPECT_EQ(plan(100000, 45, 20), 4u);   // ten blocks each are free for four
  EXPECT_EQ(plan(320, 1000, 20), 3u);    // 300 of the budget are left for whole prompts
  EXPECT_EQ(plan(50, 1000, 0), 1u);      // a prompt longer than the budget runs alone
}

}  // namespace
}  // namespace simrun
