// The work of one engine step as one attention rank sees it, in a form that is O(1) to maintain.
#pragma once

#include <cstdint>
#include <span>

namespace simrun {

// One prompt chunk of one request.
struct PrefillChunk {
  int64_t tokens = 0;   // new tokens in this step
  int64_t past = 0;     // tokens of the request already in the KV cache
};

// Decode: `decode_seqs` sequences, one new token each. KV lengths include the new token.
// Windowed sums count min(KV length, window) for models with sliding-window layers; equal to the full sums otherwise.
struct StepWork {
  int64_t tokens = 0;        // all new tokens: decode_seqs + sum of chunk tokens
  int64_t logits_rows = 0;   // rows of the LM head: sequences that emit a token in this step
  int64_t decode_seqs = 0;
  int64_t decode_kv_sum = 0;
  int64_t decode_kv_max = 0;
  int64_t decode_kv_sum_windowed = 0;
  std::span<const PrefillChunk> chunks;   // valid for the duration of the call
};

}  // namespace simrun
