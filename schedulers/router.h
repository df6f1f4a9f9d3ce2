// Routers: which replica takes a request. Pure decisions over the load of the replicas.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/registry.h"
#include "base/rng.h"
#include "schedulers/config.h"

namespace simrun {

struct ReplicaLoad {
  int64_t waiting = 0;        // requests not yet started
  int64_t running = 0;        // requests with at least one step behind them
  double cached_share = 0;    // of the prompt being routed, what is in the prefix cache; filled where asked for
  int64_t outstanding() const { return waiting + running; }
};

class Router {
 public:
  virtual ~Router() = default;
  // The replica for the next request, in 0 .. loads.size()-1. `loads` is valid only when needs_load() is true.
  virtual size_t Route(std::span<const ReplicaLoad> loads) = 0;
  // False: the choice does not depend on the replicas' state, so they need not be brought up to date first.
  virtual bool needs_load() const = 0;
  // True: fill ReplicaLoad::cached_share, which takes a look into the cache of every replica. Goes with needs_load().
  virtual bool needs_cached_share() const { return false; }
};

using RouterFactory = std::function<std::unique_ptr<Router>(Rng rng)>;
// The built-in routers: round-robin, random, least-outstanding, power-of-two, prefix-affinity.
const Registry<RouterFactory>& BuiltInRouters();

}  // namespace simrun
