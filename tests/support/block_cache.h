// The obvious cache of blocks, for comparison: a list of names, longest unused first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

namespace simrun {

class ReferenceBlockCache {
 public:
  explicit ReferenceBlockCache(size_t capacity) : capacity_(capacity) {}
  // Leading blocks of the request that are cached; then all of its blocks are the most recently used ones, the last of them
  // most recently or (`last_block_oldest`) the first.
  size_t Request(const std::vector<uint64_t>& blocks, bool last_block_oldest) {
    size_t hits = 0;
    while (hits < blocks.size() && where_.count(blocks[hits]) > 0) ++hits;
    if (!last_block_oldest) {
      for (const uint64_t block : blocks) {
        Remove(block);
        Append(block);
        if (order_.size() > capacity_) Remove(order_.front());
      }
      return hits;
    }
    for (size_t i = 0; i < hits; ++i) Remove(blocks[i]);   // in use while the others are computed
    while (order_.size() + blocks.size() > capacity_) Remove(order_.front());
    for (size_t i = blocks.size(); i-- > 0;) {
      Remove(blocks[i]);
      Append(blocks[i]);
    }
    return hits;
  }
  size_t size() const { return order_.size(); }

 private:
  void Remove(uint64_t block) {
    const auto it = where_.find(block);
    if (it == where_.end()) return;
    order_.erase(it->second);
    where_.erase(it);
  }
  void Append(uint64_t block) { where_[block] = order_.insert(order_.end(), block); }

  size_t capacity_;
  std::list<uint64_t> order_;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> where_;
};

}  // namespace simrun
