// Each replica in turn.
#pragma once
#include <memory>
#include "schedulers/router.h"
namespace simrun {
std::unique_ptr<Router> MakeRoundRobin(Rng rng);
}
