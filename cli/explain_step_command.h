// simrun explain-step: the operators of one engine step, what each costs and what bounds it.
#pragma once

#include <string>

#include "cli/command.h"

namespace simrun {

struct ExplainStepOptions {
  ScenarioInput scenario;
  std::string batch;            // sequences that generate a token; empty: 32, or none with --prompts
  std::string kv = "1024";      // tokens of each in the KV cache
  std::string prefill = "0";    // prompt tokens computed in the same step
  std::string prompts;          // prompts of that many tokens each; empty: 1
  bool timeline = false;        // launches of an eager step: host or GPU bound, from where on
  bool kernels = false;         // and each kernel
  std::string fuse_chain;       // what fusing chains of so many kernels would save
  std::string format = "text";
};

int ExplainStepCommand(const ExplainStepOptions& options, Terminal terminal);

}  // namespace simrun
