// Where the measured data lies: SIMRUN_DATA_DIR, else ../shared/data beside the checkout.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

namespace simrun {

// Path of a data file, or "" when it is not there (the test then skips).
inline std::string DataFile(const std::string& relative) {
  const char* dir = std::getenv("SIMRUN_DATA_DIR");
  const std::string root = dir != nullptr ? dir : std::string(SIMRUN_SOURCE_DIR) + "/../shared/data";
  const std::string path = root + "/" + relative;
  return std::ifstream(path).good() ? path : "";
}

}  // namespace simrun
