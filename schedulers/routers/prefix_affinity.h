// The replica whose prefix cache holds most of the prompt, while the load is even enough and the match good enough.
// Algorithm and figures of the cache-aware policy of SGLang's router.
#pragma once
#include <memory>
#include "schedulers/router.h"
namespace simrun {
std::unique_ptr<Router> MakePrefixAffinity(Rng rng);
}
