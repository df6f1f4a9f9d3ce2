// One request as it reaches the serving system.
#pragma once

#include <cstdint>

#include "base/sim_time.h"

namespace simrun {

struct Arrival {
  uint64_t id = 0;             // 0, 1, 2, ... in the order in which the source hands requests out
  SimTime at;                  // since the start of the run
  int64_t input_tokens = 0;    // prompt length, >= 1
  int64_t output_tokens = 0;   // tokens to generate, the first one included, >= 1
  SimTime deadline = SimTime::Infinite();  // point in time, not a duration; for earliest-deadline-first scheduling
  uint64_t session = 0;        // equal for requests of one client or conversation, 0 when the workload names none
  int32_t priority = 0;        // 0 is served first, as in vLLM's priority scheduling
};

}  // namespace simrun
