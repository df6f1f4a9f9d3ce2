// Hit rates of published traces with hash ids against numbers computed from them independently, and the cache of an engine
// against a list of names on the same requests.
#include "sim/prefix_cache.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/support/block_cache.h"
#include "tests/support/data_dir.h"
#include "workload/trace_reader.h"

namespace simrun {
namespace {

using Requests = std::vector<std::vector<uint64_t>>;

Requests HashIds(const std::string& path) {
  Requests requests;
  auto reader = TraceReader::Open(path, {.hash_ids = true});
  EXPECT_TRUE(reader.ok()) << reader.status();
  TraceRow row;
  while (true) {
    const auto more = (*reader)->Next(&row);
    EXPECT_TRUE(more.ok()) << more.status();
    if (!more.ok() || !*more) return requests;
    requests.push_back(row.hash_ids);
    EXPECT_EQ((*reader)->hash_block(), 512);
    EXPECT_EQ(static_cast<int64_t>(row.hash_ids.size()), (row.input_tokens + 511) / 512);
  }
}

double Blocks(const Requests& requests) {
  size_t blocks = 0;
  for (const auto& ids : requests) blocks += ids.size();
  return static_cast<double>(blocks);
}

// Blocks of 512 tokens; the engine's own are as large, or 32 of them make one.
double HitRateOfEngine(const Requests& requests, int64_t capacity, int64_t block) {
  const int64_t parts = 512 / block;
  PrefixCache cache(capacity * parts);
  int64_t hits = 0;
  uint64_t id = 0;
  for (const auto& ids : requests) {
    const auto blocks = static_cast<int64_t>(ids.size()) * parts;
    const auto text = std::make_shared<const PromptText>(PromptText{512, ids});
    PrefixCache::Sequence s{BlockNames(text, blocks * block, ++id, block), {}, 0};
    const int64_t free = cache.free_blocks();
    cache.Take(&s, blocks * block + 1);
    hits += static_cast<int64_t>(s.blocks.size());
    cache.Shrink(free - blocks);
    cache.Name(&s, blocks * block, false);
    cache.Leave(&s, blocks);
    EXPECT_LE(cache.named(), capacity * parts);
  }
  EXPECT_EQ(cache.free_blocks(), capacity * parts);
  return static_cast<double>(hits) / (Blocks(requests) * static_cast<double>(parts));
}

double HitRateOfList(const Requests& requests, int64_t capacity, bool last_block_oldest) {
  ReferenceBlockCache cache(static_cast<size_t>(capacity));
  size_t hits = 0;
  for (const auto& ids : requests) hits += cache.Request(ids, last_block_oldest);
  return static_cast<double>(hits) / Blocks(requests);
}

TEST(PrefixCacheOfTraces, PublishedHitRates) {
  // LRU over blocks of 512 tokens, leading hits, no time, all blocks touched from the first to the last.
  struct Row {
    const char* file;
    double rates[7];
  };
  constexpr int64_t kCapacities[] = {1000, 3000, 10000, 30000, 50000, 100000, 10000000};
  const Row rows[] = {{"mooncake_conversation", {0.0445, 0.0650, 0.2112, 0.3257, 0.3546, 0.3637, 0.3664}},
                      {"mooncake_synthetic", {0.0825, 0.1878, 0.4235, 0.6242, 0.6396, 0.6396, 0.6396}}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.file);
    const std::string path = DataFile(std::string("traces/") + row.file + ".csv");
    if (path.empty()) GTEST_SKIP() << "no trace " << row.file << "; set SIMRUN_DATA_DIR";
    const Requests requests = HashIds(path);
    for (int i = 0; i < 7; ++i) {
      SCOPED_TRACE(kCapacities[i]);
      EXPECT_NEAR(HitRateOfList(requests, kCapacities[i], false), row.rates[i], 0.00005001);
      // Engines give up the last block of a prompt first: without a limit the same, else a little better.
      const double engine = HitRateOfEngine(requests, kCapacities[i], 512);
      EXPECT_DOUBLE_EQ(engine, HitRateOfList(requests, kCapacities[i], true));
      EXPECT_GE(engine, row.rates[i] - 0.0002);
      const bool unlimited = i == 6;
      if (unlimited) {
        EXPECT_NEAR(engine, row.rates[i], 0.00005001);
      }
      // Smaller blocks of the engine: the same texts, evicted in smaller pieces.
      if (unlimited || i == 2) {
        EXPECT_NEAR(HitRateOfEngine(requests, kCapacities[i], 16), engine, unlimited ? 1e-12 : 0.01);
      }
    }
  }
}

}  // namespace
}  // namespace simrun
