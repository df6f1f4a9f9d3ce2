// The host's own work for a step (hw/engine_profile.h). Each attention rank has a process of its own; the busiest is waited
// for. Preparation is the first stage's, the work afterwards the last one's; every stage launches its kernels.
#pragma once

#include <algorithm>
#include <span>
#include <utility>

#include "hw/engine_profile.h"
#include "hw/step_cost.h"
#include "models/step_work.h"

namespace simrun {

struct HostWork {
  double prepare = 0, post = 0;         // seconds
  bool graph = false, eager = false;    // some rank replays a graph, launches kernel by kernel

  template <class ReplaysGraph>
  static HostWork Of(const EngineProfile& profile, std::span<const StepWork> ranks, const ReplaysGraph& replays_graph) {
    HostWork host;
    bool idle = false;
    for (const StepWork& work : ranks) {
      if (work.tokens == 0 && std::exchange(idle, true)) continue;  // those with no tokens all do the same
      const double sequences = static_cast<double>(work.decode_seqs) + static_cast<double>(work.chunks.size());
      host.prepare = std::max(host.prepare, profile.step_host.value() + profile.sequence_host.value() * sequences +
                                                profile.token_host.value() * static_cast<double>(work.tokens));
      (replays_graph(work) ? host.graph : host.eager) = true;
      host.post = std::max(host.post, profile.post_step.value() + profile.post_sequence.value() * static_cast<double>(work.logits_rows));
    }
    return host;
  }
  // `launches`: kernels of the stage.
  double IssueSeconds(const EngineProfile& profile, double launches) const {
    return std::max(graph ? profile.graph_launch.value() : 0.0, eager ? profile.launch.value() * launches : 0.0);
  }
  HostSpan SpanOf(const EngineProfile& profile, bool first, bool last, double launches) const {
    const double before = first ? prepare : 0, after = last ? post : 0, issue = IssueSeconds(profile, launches);
    if (profile.overlap) return {0, before + issue, after};
    return {before, issue, after};
  }
};

}  // namespace simrun
