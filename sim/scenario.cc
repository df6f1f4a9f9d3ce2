#include "sim/scenario.h"

#include <utility>

#include <fmt/format.h>

#include "base/paths.h"
#include "models/model_spec.h"
#include "sim/prediction_interval.h"
#include "sim/resolved.h"

namespace simrun {

Catalog BuiltInCatalog() {
  Catalog catalog;
  catalog.AddEmbedded(ModelCatalogFiles());
  catalog.AddEmbedded(HardwareCatalogFiles());
  catalog.AddEmbedded(ErrorCatalogFiles());
  return catalog;
}

absl::StatusOr<Scenario> Scenario::FromFile(const std::string& path, std::shared_ptr<const Catalog> catalog) {
  SIMRUN_ASSIGN_OR_RETURN(YamlNode root, ReadYamlFile(path));
  return FromNode(std::move(root), DirectoryOf(path), std::move(catalog));
}

absl::StatusOr<Scenario> Scenario::FromYaml(std::string_view text, std::string_view name, const std::string& base_dir,
                                            std::shared_ptr<const Catalog> catalog) {
  SIMRUN_ASSIGN_OR_RETURN(YamlNode root, ParseYaml(text, name));
  return FromNode(std::move(root), base_dir, std::move(catalog));
}

absl::StatusOr<Scenario> Scenario::FromNode(YamlNode root, const std::string& base_dir,
                                            std::shared_ptr<const Catalog> catalog) {
  if (catalog == nullptr) catalog = std::make_shared<const Catalog>(BuiltInCatalog());
  ScenarioConfig config;
  Problems problems;
  ReadParams(root, "", &problems, &config);
  // Names and plans are checked even when the file has other problems, so that one run shows them all.
  ResolvedScenario resolved = root.IsMap() ? Resolve(config, root, base_dir, *catalog, &problems) : ResolvedScenario();
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  Scenario scenario;
  scenario.root_ = std::make_shared<const YamlNode>(std::move(root));
  scenario.resolved_ = std::make_shared<const ResolvedScenario>(std::move(resolved));
  scenario.catalog_ = std::move(catalog);
  scenario.base_dir_ = base_dir;
  return scenario;
}

Scenario Scenario::WithSeed(int64_t seed) const {
  Scenario other = *this;
  YamlNode root = *root_;
  SIM_CHECK(root.Set("seed", YamlNode::Scalar(fmt::format("{}", seed))).ok());
  other.root_ = std::make_shared<const YamlNode>(std::move(root));
  ResolvedScenario resolved = *resolved_;
  resolved.config.seed = seed;
  other.resolved_ = std::make_shared<const ResolvedScenario>(std::move(resolved));
  return other;
}

absl::StatusOr<Scenario> Scenario::With(std::string_view path, std::string_view yaml_value) const {
  YamlNode root = *root_;
  SIMRUN_ASSIGN_OR_RETURN(YamlNode value, ParseYaml(yaml_value, fmt::format("--set {}", path)));
  SIMRUN_RETURN_IF_ERROR(root.Set(path, std::move(value)));
  return FromNode(std::move(root), base_dir_, catalog_);
}

const ScenarioConfig& Scenario::config() const { return resolved_->config; }

std::string Scenario::Hash() const {
  const std::string canonical = WriteParams(resolved_->config).ToYaml();
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : canonical) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return fmt::format("{:016x}", hash);
}

}  // namespace simrun
