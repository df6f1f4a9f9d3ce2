// Any text as a scenario file: refused with a message or accepted, never a crash. Accepted ones survive being printed
// and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "sim/scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const catalog = new std::shared_ptr<const simrun::Catalog>(std::make_shared<const simrun::Catalog>(simrun::BuiltInCatalog()));
  if (size > 4096) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<simrun::Scenario> scenario = simrun::Scenario::FromYaml(text, "fuzz.yaml", "", *catalog);
  if (!scenario.ok()) {
    if (scenario.status().message().empty()) std::abort();
    return 0;
  }
  const absl::StatusOr<simrun::Scenario> again = simrun::Scenario::FromYaml(scenario->ToYaml(), "again.yaml", "", *catalog);
  if (!again.ok() || again->Hash() != scenario->Hash()) std::abort();
  return 0;
}
