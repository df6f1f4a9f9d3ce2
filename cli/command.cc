#include "cli/command.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/paths.h"
#include "base/yaml.h"
#include "models/model_names.h"

namespace simrun {

int Fail(const absl::Status& status, std::ostream& err) {
  err << std::string(status.message()) << '\n';
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kOutOfRange:
      return kBadInput;
    default:
      return kRunFailed;
  }
}

int FailWith(ExitCode code, std::string_view message, std::ostream& err) {
  err << "simrun: " << message << '\n';
  return code;
}

absl::StatusOr<std::shared_ptr<const Catalog>> OpenCatalog(const std::vector<std::string>& directories) {
  auto catalog = std::make_shared<Catalog>(BuiltInCatalog());
  for (const std::string& directory : directories) {
    if (absl::Status s = catalog->AddDirectory(directory); !s.ok()) {
      return absl::InvalidArgumentError(fmt::format("--catalog {}", std::string(s.message())));
    }
  }
  return std::shared_ptr<const Catalog>(std::move(catalog));
}

namespace {

// One `path=value` of --set put into the document. `option` names it in messages.
absl::Status Apply(const std::string& option, std::string_view path, std::string_view text, YamlNode* root) {
  absl::StatusOr<YamlNode> value = ParseYaml(text, option);
  if (!value.ok()) return value.status();
  if (value->IsNull()) return absl::InvalidArgumentError(fmt::format("{}: has no value; write for example --set plan.tp=8", option));
  // A lone word needs no line and column; inside {...} they help.
  if (value->IsScalar()) value->set_location({option, 0, 0});
  if (absl::Status s = root->Set(path, *std::move(value)); !s.ok()) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", option, std::string(s.message())));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<YamlNode> ReadSettings(const ScenarioInput& input) {
  SIMRUN_ASSIGN_OR_RETURN(YamlNode root, ReadYamlFile(input.config));
  std::string errors;
  const auto note = [&](const absl::Status& s) {
    if (!s.ok()) errors += (errors.empty() ? "" : "\n") + std::string(s.message());
  };
  for (const std::string& setting : input.set) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      note(absl::InvalidArgumentError(fmt::format("--set {}: is not path=value; write for example --set plan.tp=8", setting)));
      continue;
    }
    const std::string path = setting.substr(0, equals);
    note(Apply("--set " + path, path, std::string_view(setting).substr(equals + 1), &root));
  }
  if (input.seed) note(Apply("--seed", "seed", *input.seed, &root));
  if (!errors.empty()) return absl::InvalidArgumentError(errors);
  return root;
}

absl::StatusOr<Scenario> ReadScenario(const ScenarioInput& input) {
  SIMRUN_ASSIGN_OR_RETURN(std::shared_ptr<const Catalog> catalog, OpenCatalog(input.catalogs));
  SIMRUN_ASSIGN_OR_RETURN(YamlNode root, ReadSettings(input));
  return Scenario::FromNode(std::move(root), std::filesystem::path(input.config).parent_path().string(), std::move(catalog));
}

namespace {

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

void MakeAbsolute(const std::string& base_dir, YamlNode* node) {
  if (!node->IsScalar() || node->text().empty()) return;
  *node = YamlNode::Scalar(Absolute(ResolvePath(base_dir, node->text())));
  node->set_quoted(true);
}

// Files that settings name: recordings and tables, and parts of one's own.
void MakeFilesAbsolute(const std::string& base_dir, YamlNode* node) {
  for (YamlNode& item : node->items()) MakeFilesAbsolute(base_dir, &item);
  for (YamlNode::Entry& e : node->entries()) {
    if (e.key == "file" || e.key == "trace" || (e.value.IsScalar() && IsEntryFile(e.value.text()))) MakeAbsolute(base_dir, &e.value);
    MakeFilesAbsolute(base_dir, &e.value);
  }
}

// An empty name says no more than leaving the setting out.
void DropEmptyNames(YamlNode* node) {
  std::vector<YamlNode::Entry>& entries = node->entries();
  entries.erase(std::remove_if(entries.begin(), entries.end(),
                               [](const YamlNode::Entry& e) { return e.value.IsScalar() && e.value.text().empty(); }),
                entries.end());
  for (YamlNode::Entry& e : entries) DropEmptyNames(&e.value);
}

}  // namespace

std::string EffectiveConfig(const Scenario& scenario, const ScenarioInput& input) {
  YamlNode root = WriteParams(scenario.config());
  for (YamlNode::Entry& e : root.entries()) {
    const bool model = e.key == "model" && IsModelPath(scenario.config().model, scenario.base_dir(), *scenario.catalog());
    if (model) MakeAbsolute(scenario.base_dir(), &e.value);
  }
  MakeFilesAbsolute(scenario.base_dir(), &root);
  DropEmptyNames(&root);
  std::string text = fmt::format("# simrun {}: the settings of the run whose results stand beside this file.\n", SIMRUN_VERSION);
  for (const std::string& directory : input.catalogs) text += fmt::format("# with --catalog {}\n", Absolute(directory));
  return text + root.ToYaml();
}

}  // namespace simrun
