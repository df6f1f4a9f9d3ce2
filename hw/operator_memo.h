// Prices of operators found before, for callers that simulate many plans on one machine: plans that share an operator
// share its price.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hw/cost/operator_params.h"
#include "hw/operator_cost.h"

namespace simrun {

// What OperatorCosts::Cost returned, by everything it depends on. One per OperatorCosts and thread.
class OperatorMemo {
 public:
  OpTime Cost(const OperatorCosts& costs, const Operator& op, const CommPath* path);
  size_t size() const { return used_; }

  // It starts anew when it holds this many: about 30 MB.
  static constexpr size_t kMost = size_t{3} << 16;

 private:
  // 128 bits made of all that a price depends on stand for it: small slots stay in the cache, and among 200,000 prices
  // two with the same bits turn up once in 10^28 searches.
  struct Slot {
    uint64_t low = 0, high = 0;   // low 0: free
    OpTime time;
  };
  std::vector<Slot> slots_;   // open addressing; a power of two
  size_t used_ = 0;
  void Grow();
};

// Memos by machine and engine, for one thread at a time.
class SharedPrices {
 public:
  // Whatever OperatorCosts::Create depends on: `machine` stands for the machine and the catalogue.
  struct Key {
    std::string machine;
    OperatorCostOptions options;
    bool operator==(const Key&) const = default;
  };
  // Only the few keys asked for last are kept.
  OperatorMemo& Of(const Key& key);

 private:
  static constexpr size_t kMostKeys = 4;
  std::vector<std::pair<Key, std::unique_ptr<OperatorMemo>>> memos_;   // asked for last first
};

}  // namespace simrun
