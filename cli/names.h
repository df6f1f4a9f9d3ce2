// Every kind of name a scenario may use, for `list` and `explain`.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/catalog.h"

namespace simrun {

struct NameSection {
  std::string name;      // "gpus"
  std::string summary;   // what they are and where they are used
  std::function<std::vector<std::string>(const Catalog&)> names;
  // One line about a name of the section.
  std::function<std::string(const std::string& name, const Catalog&)> describe;
  // Everything known about a name of the section, as lines of text.
  std::function<absl::StatusOr<std::string>(const std::string& name, const Catalog&)> explain;
  bool in_catalog = false;   // names are catalogue entries, found by their aliases too
};

const std::vector<NameSection>& NameSections();

}  // namespace simrun
