// Compiles as it stands. With SIMRUN_WRONG_UNIT set to one of the numbers below it must not:
// tests/build/must_not_compile.cmake compiles it once for each.
#include "base/sim_time.h"
#include "base/units.h"

namespace {

using namespace simrun;
using namespace simrun::literals;

constexpr Seconds Wait(Seconds t) { return t; }

#if !defined(SIMRUN_WRONG_UNIT)
constexpr Seconds kResult = Wait(80_GB / 3.35_TBps) + 500_ms;
#elif SIMRUN_WRONG_UNIT == 1
constexpr auto kResult = 500_ms + 80_GB;  // a time plus a size
#elif SIMRUN_WRONG_UNIT == 2
constexpr Seconds kResult = Wait(80_GB);  // a size for a time
#elif SIMRUN_WRONG_UNIT == 3
constexpr Seconds kResult = Wait(0.5);  // a number for a time
#elif SIMRUN_WRONG_UNIT == 4
constexpr Seconds kResult = 3.35_TBps / 80_GB;  // a quotient upside down
#elif SIMRUN_WRONG_UNIT == 5
constexpr bool kResult = 700_W < 5_J;  // a power compared with an energy
#elif SIMRUN_WRONG_UNIT == 6
constexpr double kResult = 500_ms;  // a unit dropped by accident
#elif SIMRUN_WRONG_UNIT == 7
const SimTime kResult = SimTime::From(80_GB);  // a size for a time point
#endif

}  // namespace

int main() { return sizeof(kResult) > 0 ? 0 : 1; }
