// The less loaded of two replicas drawn at random (Mitzenmacher, 2001).
#pragma once
#include <memory>
#include "schedulers/router.h"
namespace simrun {
std::unique_ptr<Router> MakePowerOfTwo(Rng rng);
}
