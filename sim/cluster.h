// Replicas behind a router, fed by an arrival source: the loop that lets time pass.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "sim/arrival_queue.h"
#include "sim/event_queue.h"
#include "sim/replica.h"
#include "workload/source.h"

namespace simrun {

struct ClusterParams {
  EngineParams engine;
  int replicas = 1;
  // Of replicas whose stages slow one another down, on hosts that they share; 0: they share nothing. A cluster with several
  // of them on a host advances in order of time over all replicas.
  int replicas_per_host = 0;
  // From arrival until the engine's queue sees the request: a server's one tokeniser takes `front_end_token` per prompt token,
  // one request after the other in order of arrival; then `front_end` passes beside that of other requests. Each replica has
  // a server; the one that is free first takes the request.
  SimTime front_end;
  SimTime front_end_token;
};

class Cluster {
 public:
  // `source`, `policy`, `models` and `metrics` must outlive the cluster. One model for all replicas, or one each for
  // models with a state.
  Cluster(const ClusterParams& params, const BatchingPolicy& policy, std::span<StepCostModel* const> models,
          std::unique_ptr<Router> router, ArrivalSource* source, RunMetrics* metrics);
  Cluster(const ClusterParams& params, const BatchingPolicy& policy, StepCostModel* model, std::unique_ptr<Router> router,
          ArrivalSource* source, RunMetrics* metrics)
      : Cluster(params, policy, std::span<StepCostModel* const>(&model, 1), std::move(router), source, metrics) {}

  // Runs an open-loop source to its end. Replicas advance one by one between arrivals, which is fastest; everything
  // that is reported is the same as with AdvanceTo, but observers would see replicas out of step with one another.
  absl::Status RunOpenLoop();
  // Processes every event up to and including `limit`, in order of time over all replicas.
  absl::Status AdvanceTo(SimTime limit);
  // Time of the next event; infinite when nothing will happen any more.
  SimTime NextEventTime();

  void set_observer(EngineObserver* observer);
  const std::vector<std::unique_ptr<Replica>>& replicas() const { return replicas_; }
  // Events processed: arrivals and step ends that were not fast-forwarded.
  int64_t events() const { return events_; }

 private:
  // Passes the request through the front end. To be called in order of arrival.
  SimTime VisibleAt(const Arrival& a);
  std::span<const ReplicaLoad> Loads(const Arrival& arrival);
  void Touch(uint32_t replica);

  ClusterParams params_;
  std::unique_ptr<Router> router_;
  ArrivalSource* source_;
  RunMetrics* metrics_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<ReplicaLoad> loads_;
  EventQueue queue_;                       // step ends; stale when the replica's next event is another
  ArrivalQueue front_end_;                 // requests on their way to the engine's queue
  std::vector<SimTime> servers_free_;      // a heap whose first is the earliest; empty when tokenising takes no time
  std::vector<uint32_t> touched_;          // replicas to plan at the current instant
  std::vector<char> is_touched_;
  bool observed_ = false;
  int64_t events_ = 0;
};

}  // namespace simrun
