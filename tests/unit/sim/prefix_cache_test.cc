#include "sim/prefix_cache.h"

#include <algorithm>
#include <set>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"
#include "tests/support/block_cache.h"

namespace simrun {
namespace {

std::shared_ptr<const PromptText> Text(int64_t block_tokens, std::vector<uint64_t> ids) {
  return std::make_shared<const PromptText>(PromptText{block_tokens, std::move(ids)});
}
std::vector<uint64_t> Names(const BlockNames& names, int64_t count) {
  std::vector<uint64_t> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(names.Of(i, i == 0 ? 0 : all.back()));
  return all;
}
// Leading equal names.
int64_t Common(const BlockNames& a, const BlockNames& b, int64_t count) {
  const auto x = Names(a, count), y = Names(b, count);
  int64_t same = 0;
  while (same < count && x[static_cast<size_t>(same)] == y[static_cast<size_t>(same)]) ++same;
  // A name holds all tokens before it: behind the first difference no two are equal.
  for (int64_t i = same; i < count; ++i) EXPECT_NE(x[static_cast<size_t>(i)], y[static_cast<size_t>(i)]);
  return same;
}

TEST(BlockNames, AsManyAreEqualAsWholeBlocksHaveEqualTokens) {
  // Two texts of 100-token blocks that part after the second one, 200 tokens.
  const auto a = Text(100, {1, 2, 3, 4}), b = Text(100, {1, 2, 9, 4});
  for (const int64_t block : {1, 7, 16, 50, 64, 100, 150, 200, 300}) {
    SCOPED_TRACE(block);
    EXPECT_EQ(Common({a, 400, 1, block}, {b, 400, 2, block}, 400 / block), 200 / block);
    EXPECT_EQ(Common({a, 400, 1, block}, {a, 400, 2, block}, 1000 / block), 400 / block);   // then each its own
    EXPECT_EQ(BlockNames(a, 400, 1, block).shared(), 400 / block);
    // A prompt that ends within the text: what follows is its answer, not the text.
    EXPECT_EQ(Common({a, 250, 1, block}, {a, 400, 2, block}, 400 / block), 250 / block);
    EXPECT_EQ(BlockNames(a, 250, 1, block).shared(), 250 / block);
  }
  EXPECT_EQ(Common({nullptr, 400, 1, 16}, {nullptr, 400, 2, 16}, 25), 0);
  EXPECT_EQ(Common({nullptr, 400, 1, 16}, {nullptr, 400, 1, 16}, 25), 25);   // the same sequence, preempted
  EXPECT_EQ(BlockNames(nullptr, 400, 1, 16).shared(), 0);
  EXPECT_EQ(Common({Text(100, {1, 2}), 400, 1, 16}, {Text(100, {2, 1}), 400, 2, 16}, 25), 0);
}

TEST(BlockNames, AConversationGoesOnBehindItsPrompts) {
  const auto conversation = std::make_shared<const PromptText>(PromptText{100, {1, 2}, true});
  const BlockNames first(conversation, 150, 1, 16), second(conversation, 300, 2, 16);
  EXPECT_EQ(Common(first, second, 100), 100);
  EXPECT_GE(first.shared(), 1000000);
  // The same system prompt of 100 tokens, another conversation.
  EXPECT_EQ(Common(first, {std::make_shared<const PromptText>(PromptText{100, {1, 3}, true}), 300, 3, 16}, 20), 100 / 16);
}

// Three blocks of 10 tokens with ids 1, 2, 3.
PrefixCache::Sequence Sequence(std::vector<uint64_t> ids, uint64_t id = 1, int64_t prompt = 1000) {
  return {BlockNames(Text(10, std::move(ids)), prompt, id, 10), {}, 0};
}

TEST(PrefixCache, BlocksAreSharedCountedAndKept) {
  PrefixCache cache(10);
  PrefixCache::Sequence a = Sequence({1, 2, 3}, 1);
  EXPECT_EQ(cache.Take(&a, 35), 0);
  cache.Shrink(6);                       // takes 4 blocks for 35 tokens
  cache.Name(&a, 20, false);             // the first two are computed
  PrefixCache::Sequence b = Sequence({1, 2, 9}, 2);
  EXPECT_EQ(cache.Find(b.names, 35).blocks, 2);
  EXPECT_EQ(cache.Find(b.names, 35).in_use, 2);
  EXPECT_EQ(cache.Find(b.names, 20).blocks, 1);   // one token at least is computed
  EXPECT_EQ(cache.Find(b.names, 21).blocks, 2);
  EXPECT_EQ(cache.Take(&b, 35), 0);      // none of them was free
  cache.Shrink(4);                       // b takes 2 blocks of its own
  cache.Name(&b, 35, false);
  EXPECT_EQ(cache.named(), 3);           // 1, 12, 129
  EXPECT_EQ(cache.Leave(&a, 4), 2);      // the others are b's too
  EXPECT_EQ(cache.free_blocks(), 6);
  EXPECT_EQ(cache.Find(b.names, 35).in_use, 3);
  EXPECT_EQ(cache.Leave(&b, 4), 4);
  EXPECT_EQ(cache.free_blocks(), 10);
  EXPECT_EQ(cache.Find(b.names, 35).blocks, 3);
  EXPECT_EQ(cache.Find(b.names, 35).in_use, 0);
  // Free, and in the order in which they were left: 4 never used, 2 of a, then b's from its last block on.
  cache.Shrink(4);
  EXPECT_EQ(cache.evictions(), 0);
  cache.Shrink(3);                       // b's block that is not full
  EXPECT_EQ(cache.Find(b.names, 35).blocks, 3);
  cache.Shrink(2);
  EXPECT_EQ(cache.Find(b.names, 35).blocks, 2);
  cache.Shrink(1);
  EXPECT_EQ(cache.Find(b.names, 35).blocks, 1);
  EXPECT_EQ(cache.evictions(), 2);
  // Taking the last one is not taking a free block twice.
  PrefixCache::Sequence c = Sequence({1}, 3);
  EXPECT_EQ(cache.Take(&c, 15), 1);
  EXPECT_EQ(cache.free_blocks(), 0);
}

// Sequences one after the other on a GPU with room for the longest: what is found is what the GPU has, and behind it what the
// host's blocks, longest unused first, still are.
TEST(PrefixCache, TheHostKeepsTheLatestBlocks) {
  Rng rng(7, "host blocks");
  constexpr int64_t kGpu = 6, kHost = 17;
  PrefixCache cache(kGpu, kHost);
  std::vector<uint64_t> host;  // oldest first; 0: nobody's
  const auto keep = [&](uint64_t name) {
    if (name != 0) std::erase(host, name);
    host.push_back(name);
    if (host.size() > kHost) host.erase(host.begin());
  };
  int64_t on_host = 0;
  for (uint64_t id = 1; id <= 3000; ++id) {
    std::vector<uint64_t> ids;
    for (uint64_t i = 0; i < 5; ++i) ids.push_back(10 * i + (i < 2 ? rng.Below(2) : rng.Below(3)));
    const int64_t prompt = 10 * static_cast<int64_t>(1 + rng.Below(5)) + 5;  // and half a block
    PrefixCache::Sequence s = Sequence(ids, id, prompt);
    const std::vector<uint64_t> names = Names(s.names, prompt / 10);
    cache.Shrink(cache.free_blocks());
    const PrefixCache::Found found = cache.Find(s.names, prompt);
    int64_t expected = 0;
    while (found.blocks + expected < prompt / 10 && std::count(host.begin(), host.end(), names[static_cast<size_t>(found.blocks + expected)]) > 0) ++expected;
    ASSERT_EQ(found.on_host, expected) << id;
    on_host += expected;
    const int64_t total = prompt / 10 + 1, free = cache.free_blocks();
    const int64_t taken = cache.Take(&s, prompt);
    EXPECT_EQ(cache.Fetch(&s, found.blocks + found.on_host), found.on_host);
    cache.Shrink(free - taken - (total - found.blocks));
    cache.Name(&s, prompt, false);
    for (int64_t i = found.blocks; i < prompt / 10; ++i) keep(names[static_cast<size_t>(i)]);
    // It leaves, what nobody can find first and its first block last.
    keep(0);
    for (size_t i = names.size(); i-- > 0;) {
      if (std::count(host.begin(), host.end(), names[i]) > 0) keep(names[i]);
    }
    EXPECT_EQ(cache.Leave(&s, total), total);
  }
  EXPECT_GT(on_host, 300);
  EXPECT_GT(cache.offloaded(), kHost);
}

TEST(PrefixCache, OfTwoEqualBlocksTheOneInUseIsFound) {
  PrefixCache cache(10);
  PrefixCache::Sequence a = Sequence({1, 2}, 1, 20), b = Sequence({1, 2}, 2, 20);
  cache.Shrink(6);                       // two each: neither saw the other's
  cache.Name(&a, 20, false);
  cache.Name(&b, 20, false);             // copies
  EXPECT_EQ(cache.named(), 2);
  EXPECT_EQ(cache.Leave(&b, 2), 2);
  EXPECT_EQ(cache.Find(a.names, 30).in_use, 2);
  EXPECT_EQ(cache.Leave(&a, 2), 2);
  // All of the prompt is cached, but its last block is computed once more: from now on that one is found.
  PrefixCache::Sequence c = Sequence({1, 2}, 3, 20);
  EXPECT_EQ(cache.Take(&c, 20), 1);
  cache.Shrink(cache.free_blocks() - 1);
  cache.Name(&c, 20, false);
  EXPECT_EQ(cache.Find(a.names, 30).in_use, 2);
  EXPECT_EQ(cache.named(), 2);
  EXPECT_EQ(cache.Leave(&c, 2), 2);
  EXPECT_EQ(cache.free_blocks(), 10);
  cache.Shrink(0);
  EXPECT_EQ(cache.named(), 0);
  EXPECT_EQ(cache.evictions(), 2);
}

TEST(PrefixCache, APreemptedSequenceFindsItsOwnBlocks) {
  PrefixCache cache(8);
  PrefixCache::Sequence a = Sequence({1}, 7, 15);
  cache.Shrink(4);
  cache.Name(&a, 15, false);
  EXPECT_EQ(cache.named(), 1);           // the second block of the prompt would be nobody else's
  cache.Name(&a, 38, true);              // it stops after 38 tokens, of these 24 generated
  EXPECT_EQ(cache.named(), 3);
  EXPECT_EQ(cache.Leave(&a, 4), 4);
  EXPECT_EQ(cache.Find(a.names, 39).blocks, 3);
  EXPECT_EQ(cache.Find(BlockNames(Text(10, {1}), 15, 8, 10), 39).blocks, 1);   // another sequence
}

// One request after the other against a list of names, over capacities from less than two requests to everything.
TEST(PrefixCache, EvictsAsAListOfNamesDoes) {
  for (const size_t capacity : {13u, 20u, 60u, 200u, 100000u}) {
    SCOPED_TRACE(capacity);
    Rng rng(capacity, "requests");
    PrefixCache cache(static_cast<int64_t>(capacity));
    ReferenceBlockCache reference(capacity);
    size_t found = 0;
    for (uint64_t r = 0; r < 3000; ++r) {
      // A tree of prompts: at each block one of three continuations, unevenly chosen.
      std::vector<uint64_t> ids, names;
      uint64_t path = 1;
      for (uint64_t depth = 1 + rng.Below(12); depth > 0; --depth) {
        ids.push_back(rng.Uniform() < 0.7 ? 0 : 1 + rng.Below(2));
        names.push_back(path = path * 4 + ids.back());
      }
      const auto blocks = static_cast<int64_t>(ids.size());
      PrefixCache::Sequence s = Sequence(ids, r);
      const size_t expected = reference.Request(names, true);
      const PrefixCache::Found f = cache.Find(s.names, blocks * 10 + 1);
      ASSERT_EQ(static_cast<size_t>(f.blocks), expected) << "request " << r;
      ASSERT_EQ(f.in_use, 0);
      const int64_t free = cache.free_blocks();
      ASSERT_EQ(cache.Take(&s, blocks * 10 + 1), f.blocks);
      cache.Shrink(free - blocks);
      cache.Name(&s, blocks * 10, false);
      ASSERT_EQ(cache.Leave(&s, blocks), blocks);
      ASSERT_EQ(cache.free_blocks(), static_cast<int64_t>(capacity));
      ASSERT_EQ(static_cast<size_t>(cache.named()), reference.size());
      found += expected;
    }
    EXPECT_GT(found, 1000u);
  }
}

}  // namespace
}  // namespace simrun
