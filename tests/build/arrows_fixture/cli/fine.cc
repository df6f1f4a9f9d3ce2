#include "planner/sweep.h"
#include "calibration/fit.h"
#include <CLI/CLI.hpp>
