// Any bytes: ParseYaml returns a tree or an error, and what it accepts survives writing and reading.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<simrun::YamlNode> tree = simrun::ParseYaml(text, "fuzz");
  if (!tree.ok()) {
    if (tree.status().code() != absl::StatusCode::kInvalidArgument || tree.status().message().empty()) std::abort();
    return 0;
  }
  const std::string written = tree->ToYaml();
  if (written.size() > (size_t{4} << 20)) return 0;  // indentation may push a large input over the parser's limit
  const absl::StatusOr<simrun::YamlNode> again = simrun::ParseYaml(written, "written");
  if (!again.ok() || !(*again == *tree) || again->ToYaml() != written) std::abort();
  return 0;
}
