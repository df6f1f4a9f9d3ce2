#include "hw/step_cost.h"

namespace simrun {

std::string_view BoundName(Bound b) {
  switch (b) {
    case Bound::kCompute:
      return "compute";
    case Bound::kMemory:
      return "memory_bandwidth";
    case Bound::kSerial:
      return "serial_depth";
    case Bound::kLink:
      return "link";
    case Bound::kLaunch:
      return "kernel_launch";
    case Bound::kHost:
      return "host";
    case Bound::kHostMemory:
      return "host_memory";
    case Bound::kHostCompute:
      return "host_compute";
    case Bound::kWaiting:
      return "waiting";
  }
  return "unknown";
}

}  // namespace simrun
