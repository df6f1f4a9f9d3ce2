// KV blocks of one attention rank that can be found by what they hold: automatic prefix caching.
//
// As in vLLM V1: a block that is full of computed tokens is named by its tokens and all tokens before them. Sequences that
// begin alike share such blocks, which are counted once. A block that no sequence uses any more is free but keeps its
// content; free blocks are taken longest unused first, of one sequence the last block first, and lose it only then.
//
// A host may keep what GPUs forget, as offloading connectors and hierarchical caches do: every block is copied to host memory once
// its tokens are computed, and the blocks there are given up longest unused first.
//
// Work is per block when a request starts and ends, and none in between: who takes free blocks only counts them, and the
// queue of free blocks is shortened (Shrink) before anyone looks at it again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "workload/request.h"

namespace simrun {

// Names of the KV blocks of one sequence.
class BlockNames {
 public:
  BlockNames() = default;
  // `text` may be null. `sequence` tells the tokens that are this sequence's own from those of others.
  BlockNames(std::shared_ptr<const PromptText> text, int64_t prompt_tokens, uint64_t sequence, int64_t block_size);
  // Name of block `index`, which follows the block named `before`.
  uint64_t Of(int64_t index, uint64_t before) const;
  // Leading blocks that other requests may have too.
  int64_t shared() const { return shared_tokens_ / block_size_; }
  int64_t block_size() const { return block_size_; }

 private:
  std::shared_ptr<const PromptText> text_;
  int64_t shared_tokens_ = 0;
  int64_t block_size_ = 1;
  uint64_t own_ = 0;
};

class PrefixCache {
 public:
  // The leading blocks of a sequence that have names.
  struct Sequence {
    BlockNames names;
    std::vector<uint32_t> blocks;   // kCopy: another block in use has that name
    uint64_t last = 0;              // name of the last one
  };
  struct Found {
    int64_t blocks = 0;             // leading blocks that are cached
    int64_t in_use = 0;             // of these, used by other sequences
    int64_t on_host = 0;            // blocks behind these that the host has
  };

  explicit PrefixCache(int64_t free_blocks, int64_t host_blocks = 0);

  // Free blocks were taken without asking until `free` are left: forgets what they held.
  void Shrink(int64_t free);
  int64_t free_blocks() const { return free_; }
  // Blocks whose content was forgotten.
  int64_t evictions() const { return evictions_; }
  // Blocks that have a name.
  int64_t named() const { return static_cast<int64_t>(by_name_.size()); }
  // Blocks copied to the host so far.
  int64_t offloaded() const { return host_ == nullptr ? 0 : host_->kept_; }

  // What a sequence of `tokens` tokens would find. At least its last token is computed.
  Found Find(const BlockNames& names, int64_t tokens) const;
  // Adds to the blocks of the sequence those that are cached behind them. Returns how many of them were free.
  int64_t Take(Sequence* sequence, int64_t tokens);
  // The first `tokens` tokens of the sequence are computed: names their full blocks, `all` or those that other requests
  // may have. Of two blocks with the same content the name is that of the one in use, or the newer one.
  void Name(Sequence* sequence, int64_t tokens, bool all);
  // The sequence leaves its `total` blocks. Returns how many of them became free.
  int64_t Leave(Sequence* sequence, int64_t total);
  // The sequence has its first `blocks` blocks, those behind what it took copied from the host into blocks of its own. Returns
  // how many.
  int64_t Fetch(Sequence* sequence, int64_t blocks);

 private:
  static constexpr uint32_t kCopy = UINT32_MAX;
  static constexpr uint32_t kEnds = 0;   // of the free queue, a ring
  // A block with a name, or a run of free blocks without.
  struct Node {
    uint64_t name = 0;
    int64_t count = 1;
    uint32_t before = 0, after = 0;      // in the free queue
    int32_t users = 0;                   // kNameless: a run
  };
  static constexpr int32_t kNameless = -1;

  struct NameHash {                      // names are hashes
    size_t operator()(uint64_t name) const { return static_cast<size_t>(name); }
  };

  // each(node, name) of the cached blocks from block `from` on, which follows the one named `last`.
  template <class Each>
  void Walk(const BlockNames& names, size_t from, uint64_t last, int64_t tokens, Each&& each) const;
  uint32_t NewNode();
  void Append(uint32_t node);
  void Unlink(uint32_t node);
  void AppendNameless(int64_t count);
  // Of the host, none of whose blocks is in use: a block of that name, or `count` that nobody will find, take the place of those
  // unused longest.
  void Keep(uint64_t name);
  bool Touch(uint64_t name);  // false: it is not there
  void KeepNameless(int64_t count);

  std::vector<Node> nodes_;
  std::vector<uint32_t> unused_;
  absl::flat_hash_map<uint64_t, uint32_t, NameHash> by_name_;
  int64_t free_ = 0;
  int64_t evictions_ = 0;
  int64_t kept_ = 0;
  std::unique_ptr<PrefixCache> host_;
};

}  // namespace simrun
