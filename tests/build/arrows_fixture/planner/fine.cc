#include "planner/sweep.h"
#include "sim/simulation.h"
#include "base/status.h"
#include <mpi.h>
