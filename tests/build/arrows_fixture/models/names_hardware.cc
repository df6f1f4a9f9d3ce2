// #include "sim/commented_out.h" is not an include.
#include <yaml-cpp/yaml.h>
#include "base/upward.h"
	#include <hw/machine.h>
