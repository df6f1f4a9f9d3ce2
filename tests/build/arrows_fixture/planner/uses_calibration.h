#include "calibration/fit.h"
#include <mpi.h>
