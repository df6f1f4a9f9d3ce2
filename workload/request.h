// One request as it reaches the serving system.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/sim_time.h"

namespace simrun {

// What a prompt says, as far as prefix caching must know: tokens [i * block_tokens, (i + 1) * block_tokens) are the same in
// every request whose ids 0 .. i are the same. Tokens behind the last id are the request's own.
struct PromptText {
  int64_t block_tokens = 1;    // >= 1, the same in all requests of a run
  std::vector<uint64_t> ids;
  // The last id stands for all tokens behind it too, the answer included: a conversation, whose next prompt repeats them.
  bool goes_on = false;
};

struct Arrival {
  uint64_t id = 0;             // 0, 1, 2, ... in the order in which the source hands requests out
  SimTime at;                  // since the start of the run
  int64_t input_tokens = 0;    // prompt length, >= 1
  int64_t output_tokens = 0;   // tokens to generate, the first one included, >= 1
  SimTime deadline = SimTime::Infinite();  // point in time, not a duration; for earliest-deadline-first scheduling
  uint64_t session = 0;        // equal for requests of one client or conversation, 0 when the workload names none
  int32_t priority = 0;        // 0 is served first, as in vLLM's priority scheduling
  std::shared_ptr<const PromptText> text;  // null: it has nothing in common with other prompts, or nobody asked
};

}  // namespace simrun
