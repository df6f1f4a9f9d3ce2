#include "cli/list_command.h"

#include <functional>
#include <utility>

#include <fmt/format.h>

#include "base/params.h"
#include "cli/names.h"
#include "cli/text.h"

namespace simrun {

int ListCommand(const ListOptions& options, Terminal terminal) {
  const absl::StatusOr<std::shared_ptr<const Catalog>> catalog = OpenCatalog(options.catalogs);
  if (!catalog.ok()) return Fail(catalog.status(), terminal.err);
  const std::vector<NameSection>& sections = NameSections();
  if (options.section.empty()) {
    TextTable table("lrl");
    for (const NameSection& s : sections) {
      table.Add({s.name, CountText(static_cast<double>(s.names(**catalog).size())), s.summary});
    }
    terminal.out << table.ToText() << "\n`simrun list SECTION` prints the names, `simrun explain NAME` what is known about one.\n";
    return kDone;
  }
  std::vector<std::string> known;
  for (const NameSection& s : sections) {
    known.push_back(s.name);
    if (s.name != options.section) continue;
    TextTable table("l");
    for (const std::string& name : s.names(**catalog)) table.Add({name, s.describe(name, **catalog)});
    terminal.out << table.ToText();
    return kDone;
  }
  return FailWith(kBadInput, fmt::format("list: unknown section \"{}\"; {}", options.section, NameHint(options.section, known)), terminal.err);
}

}  // namespace simrun
