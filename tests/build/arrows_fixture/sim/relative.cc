#include "schedulers/batching.h"
#include "../hw/machine.h"
#include "planner/sweep.h"
#include "proto/report.pb.h"
