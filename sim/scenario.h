// A scenario: everything that decides the result of a run, as a plain value.
//
//   absl::StatusOr<Scenario> base = Scenario::FromFile("llama70b.yaml");
//   absl::StatusOr<Report> r = Simulate(base->With("plan.tp", "8"));
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/catalog.h"
#include "base/yaml.h"
#include "sim/config.h"

namespace simrun {

// The catalogue compiled into the library: models, GPUs, CPUs, links, nodes, engines, operators.
Catalog BuiltInCatalog();

struct ResolvedScenario;

// Copyable and cheap to copy; immutable. Thread-safe to share.
class Scenario {
 public:
  // Reads and checks a scenario file. All problems are reported at once, one `file:line:col: path: what; hint` per line,
  // as InvalidArgument; a file that cannot be read is NotFound or the like. `catalog` defaults to BuiltInCatalog().
  static absl::StatusOr<Scenario> FromFile(const std::string& path, std::shared_ptr<const Catalog> catalog = nullptr);
  // The same from text. `name` stands for the file in messages; relative paths in it are taken from `base_dir`.
  static absl::StatusOr<Scenario> FromYaml(std::string_view text, std::string_view name = "scenario",
                                           const std::string& base_dir = "",
                                           std::shared_ptr<const Catalog> catalog = nullptr);
  // The same from a parsed document.
  static absl::StatusOr<Scenario> FromNode(YamlNode root, const std::string& base_dir,
                                           std::shared_ptr<const Catalog> catalog = nullptr);

  // This scenario with one setting changed: With("plan.tp", "8"), With("workload.arrivals", "{poisson: {rate: 5 /s}}").
  // The value is YAML. Checked like a file; messages name the setting as `--set plan.tp`.
  absl::StatusOr<Scenario> With(std::string_view path, std::string_view yaml_value) const;

  // This scenario with another seed; nothing needs to be checked again.
  Scenario WithSeed(int64_t seed) const;

  const ScenarioConfig& config() const;
  const ResolvedScenario& resolved() const { return *resolved_; }
  const std::shared_ptr<const Catalog>& catalog() const { return catalog_; }
  const std::string& base_dir() const { return base_dir_; }
  // The settings as given; defaults are not written.
  const YamlNode& node() const { return *root_; }
  std::string ToYaml() const { return root_->ToYaml(); }
  // Equal for scenarios with equal settings, defaults included, whatever the order or spelling. 16 hex digits.
  std::string Hash() const;

 private:
  Scenario() = default;
  std::shared_ptr<const YamlNode> root_;
  std::shared_ptr<const Catalog> catalog_;
  std::shared_ptr<const ResolvedScenario> resolved_;
  std::string base_dir_;
};

}  // namespace simrun
