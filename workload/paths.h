// File names in a configuration.
#pragma once

#include <string>

namespace simrun {

// `path` taken from `base_dir` unless it is absolute or `base_dir` is empty.
inline std::string ResolvePath(const std::string& base_dir, const std::string& path) {
  if (base_dir.empty() || (!path.empty() && path.front() == '/')) return path;
  return base_dir.back() == '/' ? base_dir + path : base_dir + "/" + path;
}

}  // namespace simrun
