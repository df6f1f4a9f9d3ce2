// Policy, cache and prefetch of routed experts by name, for tests of their execution.
#pragma once

#include <memory>

#include "sim/expert_execution.h"

namespace simrun {

struct ExpertParts {
  ExpertParts(const char* policy_name, const char* cache, const char* prefetch_name)
      : policy((*BuiltInExpertPolicies().Find(policy_name))()),
        ranking((*BuiltInExpertRankings().Find(cache))({})),
        prefetch((*BuiltInExpertPrefetches().Find(prefetch_name))()) {}
  // Must not outlive this.
  ExpertExecutionParams Params() const {
    ExpertExecutionParams params;
    params.policy = policy.get();
    params.ranking = ranking.get();
    params.prefetch = prefetch.get();
    return params;
  }

  const std::unique_ptr<ExpertPolicy> policy;
  const std::unique_ptr<ExpertRanking> ranking;
  const std::unique_ptr<ExpertPrefetch> prefetch;
};

}  // namespace simrun
