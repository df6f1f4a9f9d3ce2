#include "schedulers/router.h"

#include "schedulers/routers/least_outstanding.h"
#include "schedulers/routers/power_of_two.h"
#include "schedulers/routers/prefix_affinity.h"
#include "schedulers/routers/random.h"
#include "schedulers/routers/round_robin.h"

namespace simrun {

const Registry<RouterFactory>& BuiltInRouters() {
  static const auto* const registry = [] {
    auto* r = new Registry<RouterFactory>("router");
    const auto add = [r](const char* name, const char* description, RouterFactory factory) {
      SIM_CHECK(r->Add(name, description, std::move(factory)).ok());
    };
    add("round-robin", "each replica in turn", &MakeRoundRobin);
    add("random", "a replica drawn at random", &MakeRandomRouter);
    add("least-outstanding", "the replica with the fewest waiting and running requests", &MakeLeastOutstanding);
    add("power-of-two", "the less loaded of two replicas drawn at random", &MakePowerOfTwo);
    add("prefix-affinity", "the replica that has most of the prompt in its prefix cache, the least loaded for prompts that are new or when "
        "the load is uneven (SGLang's router)", &MakePrefixAffinity);
    return r;
  }();
  return *registry;
}

std::vector<std::string> RouterNames() { return BuiltInRouters().Names(); }

}  // namespace simrun
