#include "hw/machine.h"
#include "base/upward.h"
