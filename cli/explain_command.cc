#include "cli/explain_command.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/params.h"
#include "cli/names.h"
#include "cli/text.h"
#include "sim/config.h"

namespace simrun {
namespace {

std::string ExplainSetting(const ParamDoc& row) {
  std::string text = fmt::format("setting {}\n", row.path);
  text += LabelledText("  ", 2, row.help);
  TextTable table("l");
  table.Add({"type", row.type});
  if (!row.fallback.empty()) table.Add({"default", row.fallback});
  if (!row.range.empty()) table.Add({"range", row.range});
  return text + table.ToText("  ");
}

// The setting of this path with, for a section, the settings in it.
std::string ExplainSettings(const std::string& path) {
  std::string text;
  TextTable parts("l");
  size_t count = 0;
  for (const ParamDoc& row : DocumentParams<ScenarioConfig>("")) {
    if (row.path == path) text = ExplainSetting(row);
    if (row.path.rfind(path + ".", 0) != 0 && row.path.rfind(path + "[].", 0) != 0) continue;
    parts.Add({row.path, row.help});
    ++count;
  }
  return count > 0 ? text + "\n" + parts.ToText("  ") : text;
}

}  // namespace

int ExplainCommand(const ExplainOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  std::vector<std::string> found, known;
  for (const NameSection& s : NameSections()) {
    std::string name = options.name;
    if (s.in_catalog) {
      const absl::StatusOr<std::string> canonical = (*catalog)->Resolve(s.name, options.name);
      if (canonical.ok()) name = *canonical;
    }
    const std::vector<std::string> names = s.names(**catalog);
    known.insert(known.end(), names.begin(), names.end());
    if (std::find(names.begin(), names.end(), name) == names.end()) continue;
    const absl::StatusOr<std::string> text = s.explain(name, **catalog);
    if (!text.ok()) return Fail(text.status(), terminal.err);
    found.push_back(fmt::format("{} {}\n{}", s.name, name, *text));
  }
  const std::vector<ParamDoc> settings = DocumentParams<ScenarioConfig>("");
  for (const ParamDoc& row : settings) known.push_back(row.path);
  if (std::string text = ExplainSettings(options.name); !text.empty()) found.push_back(std::move(text));
  if (found.empty()) {
    std::string hint = NearestName(options.name, known);
    hint = hint.empty() ? "`simrun list` shows what there is" : fmt::format("did you mean \"{}\"?", hint);
    return FailWith(kBadInput, fmt::format("explain: unknown name \"{}\"; {}", options.name, hint), terminal.err);
  }
  for (size_t i = 0; i < found.size(); ++i) terminal.out << (i > 0 ? "\n" : "") << found[i];
  return kDone;
}

}  // namespace simrun
