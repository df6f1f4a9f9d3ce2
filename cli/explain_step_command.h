// simrun explain-step: the operators of one engine step, what each costs and what bounds it.
#pragma once

#include <string>

#include "cli/command.h"

namespace simrun {

struct ExplainStepOptions {
  ScenarioInput scenario;
  std::string batch = "32";     // sequences that generate a token
  std::string kv = "1024";      // tokens of each in the KV cache
  std::string prefill = "0";    // prompt tokens computed in the same step
};

int ExplainStepCommand(const ExplainStepOptions& options, Terminal terminal);

}  // namespace simrun
