// A replica drawn at random.
#pragma once
#include <memory>
#include "schedulers/router.h"
namespace simrun {
std::unique_ptr<Router> MakeRandomRouter(Rng rng);
}
