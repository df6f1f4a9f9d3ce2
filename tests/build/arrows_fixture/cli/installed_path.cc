#include "simrun/sim/simulation.h"
