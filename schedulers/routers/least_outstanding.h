// The replica with the fewest waiting and running requests; ties go to the lowest number.
#pragma once
#include <memory>
#include "schedulers/router.h"
namespace simrun {
std::unique_ptr<Router> MakeLeastOutstanding(Rng rng);
}
