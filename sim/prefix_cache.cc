#include "sim/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace simrun {
namespace {

constexpr int64_t kAll = INT64_MAX / 2;

// Two rounds of a 64-bit finaliser (D. Stafford's Mix13): among 10^7 different blocks two have the same name with
// probability 3e-6.
uint64_t Mix(uint64_t name, uint64_t id) {
  uint64_t x = name + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x ^= id + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

BlockNames::BlockNames(std::shared_ptr<const PromptText> text, int64_t prompt_tokens, uint64_t sequence, int64_t block_size)
    : text_(std::move(text)), block_size_(block_size), own_(Mix(sequence, 0x6f776e)) {
  if (text_ == nullptr || text_->ids.empty()) return;
  const auto ids = static_cast<int64_t>(text_->ids.size());
  shared_tokens_ = text_->goes_on ? kAll : prompt_tokens / text_->block_tokens < ids ? prompt_tokens : ids * text_->block_tokens;
}

uint64_t BlockNames::Of(int64_t index, uint64_t before) const {
  uint64_t name = before;
  const int64_t end = (index + 1) * block_size_;
  for (int64_t at = index * block_size_; at < end;) {
    if (at >= shared_tokens_) return Mix(name, own_);
    const auto last = static_cast<int64_t>(text_->ids.size()) - 1;
    const int64_t id = std::min(last, at / text_->block_tokens);
    name = Mix(name, text_->ids[static_cast<size_t>(id)]);
    if (text_->goes_on && id == last) return name;
    at = std::min(shared_tokens_, (id + 1) * text_->block_tokens);
  }
  return name;
}

PrefixCache::PrefixCache(int64_t free_blocks, int64_t host_blocks) : nodes_(1) {
  AppendNameless(free_blocks);
  if (host_blocks > 0) host_ = std::make_unique<PrefixCache>(host_blocks);
}

uint32_t PrefixCache::NewNode() {
  if (unused_.empty()) {
    nodes_.emplace_back();
    return static_cast<uint32_t>(nodes_.size() - 1);
  }
  const uint32_t node = unused_.back();
  unused_.pop_back();
  nodes_[node] = Node();
  return node;
}

void PrefixCache::Append(uint32_t node) {
  const uint32_t last = nodes_[kEnds].before;
  nodes_[node].before = last;
  nodes_[node].after = kEnds;
  nodes_[last].after = node;
  nodes_[kEnds].before = node;
  free_ += nodes_[node].count;
}

void PrefixCache::Unlink(uint32_t node) {
  nodes_[nodes_[node].before].after = nodes_[node].after;
  nodes_[nodes_[node].after].before = nodes_[node].before;
  free_ -= nodes_[node].count;
}

void PrefixCache::AppendNameless(int64_t count) {
  if (count == 0) return;
  const uint32_t last = nodes_[kEnds].before;
  if (last != kEnds && nodes_[last].users == kNameless) {
    nodes_[last].count += count;
    free_ += count;
    return;
  }
  const uint32_t node = NewNode();
  nodes_[node].users = kNameless;
  nodes_[node].count = count;
  Append(node);
}

void PrefixCache::Shrink(int64_t free) {
  SIM_CHECK(free >= 0 && free <= free_);
  while (free_ > free) {
    const uint32_t oldest = nodes_[kEnds].after;
    Node& node = nodes_[oldest];
    if (node.users == kNameless && node.count > free_ - free) {
      node.count -= free_ - free;
      free_ = free;
      return;
    }
    if (node.users != kNameless) {
      by_name_.erase(node.name);
      ++evictions_;
    }
    Unlink(oldest);
    unused_.push_back(oldest);
  }
}

template <class Each>
void PrefixCache::Walk(const BlockNames& names, size_t from, uint64_t last, int64_t tokens, Each&& each) const {
  const int64_t most = (tokens - 1) / names.block_size();
  uint64_t name = last;
  for (auto i = static_cast<int64_t>(from); i < most; ++i) {
    name = names.Of(i, name);
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return;
    each(found->second, name);
  }
}

PrefixCache::Found PrefixCache::Find(const BlockNames& names, int64_t tokens) const {
  Found found;
  uint64_t last = 0;
  Walk(names, 0, 0, tokens, [&](uint32_t node, uint64_t name) {
    ++found.blocks;
    found.in_use += nodes_[node].users > 0;
    last = name;
  });
  if (host_ != nullptr) {
    host_->Walk(names, static_cast<size_t>(found.blocks), last, tokens, [&](uint32_t, uint64_t) { ++found.on_host; });
  }
  return found;
}

bool PrefixCache::Touch(uint64_t name) {
  const auto place = by_name_.find(name);
  if (place == by_name_.end()) return false;
  Unlink(place->second);
  Append(place->second);
  return true;
}

void PrefixCache::Keep(uint64_t name) {
  if (Touch(name)) return;
  Shrink(free_ - 1);
  const uint32_t node = NewNode();
  nodes_[node].name = name;
  by_name_[name] = node;
  Append(node);
  ++kept_;
}

void PrefixCache::KeepNameless(int64_t count) {
  kept_ += count;
  count = std::min(count, free_);
  Shrink(free_ - count);
  AppendNameless(count);
}

int64_t PrefixCache::Fetch(Sequence* sequence, int64_t blocks) {
  const int64_t fetched = blocks - static_cast<int64_t>(sequence->blocks.size());
  if (fetched <= 0) return 0;
  Name(sequence, blocks * sequence->names.block_size(), true);
  return fetched;
}

int64_t PrefixCache::Take(Sequence* sequence, int64_t tokens) {
  const int64_t before = free_;
  Walk(sequence->names, sequence->blocks.size(), sequence->last, tokens, [&](uint32_t node, uint64_t name) {
    if (nodes_[node].users++ == 0) Unlink(node);
    sequence->blocks.push_back(node);
    sequence->last = name;
  });
  return before - free_;
}

void PrefixCache::Name(Sequence* sequence, int64_t tokens, bool all) {
  int64_t full = tokens / sequence->names.block_size();
  if (!all) full = std::min(full, sequence->names.shared());
  for (auto i = static_cast<int64_t>(sequence->blocks.size()); i < full; ++i) {
    sequence->last = sequence->names.Of(i, sequence->last);
    if (host_ != nullptr) host_->Keep(sequence->last);
    const auto [place, is_new] = by_name_.try_emplace(sequence->last, kCopy);
    if (!is_new) {
      Node& other = nodes_[place->second];
      if (other.users > 0) {
        sequence->blocks.push_back(kCopy);
        continue;
      }
      other.users = kNameless;
    }
    const uint32_t node = NewNode();
    place->second = node;
    nodes_[node].name = sequence->last;
    nodes_[node].users = 1;
    sequence->blocks.push_back(node);
  }
}

int64_t PrefixCache::Leave(Sequence* sequence, int64_t total) {
  const int64_t before = free_;
  const int64_t own = total - static_cast<int64_t>(sequence->blocks.size());
  if (host_ != nullptr) host_->KeepNameless(own);
  AppendNameless(own);
  for (size_t i = sequence->blocks.size(); i-- > 0;) {
    const uint32_t node = sequence->blocks[i];
    if (node == kCopy) {
      AppendNameless(1);
      continue;
    }
    if (host_ != nullptr) host_->Touch(nodes_[node].name);
    if (--nodes_[node].users == 0) Append(node);
  }
  sequence->blocks.clear();
  sequence->last = 0;
  return free_ - before;
}

}  // namespace simrun
