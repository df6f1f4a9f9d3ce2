#include "base/catalog.h"

#include <cctype>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/paths.h"

namespace simrun {

namespace {

constexpr size_t kMaxEntryBytes = size_t{4} << 20;

// "unknown gpu", "unknown model": the section's name in the singular.
std::string_view Singular(std::string_view section) {
  if (!section.empty() && section.back() == 's') section.remove_suffix(1);
  return section;
}

// The name of an entry's file in messages.
std::string FileName(std::string_view section, std::string_view name, const std::string& path) {
  return path.empty() ? fmt::format("<built-in>/{}/{}.yaml", section, name) : path;
}

}  // namespace

std::shared_ptr<const void> Catalog::Memory::Find(const Key& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = things_.find(key);
  return it == things_.end() ? nullptr : it->second;
}

void Catalog::Memory::Add(Key key, std::shared_ptr<const void> thing) {
  const std::lock_guard<std::mutex> lock(mutex_);
  things_.emplace(std::move(key), std::move(thing));
}

std::vector<std::string> NameWords(std::string_view text) {
  std::vector<std::string> words(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool number = c == '.' && i + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[i + 1])) != 0;
    if (std::isalnum(c) != 0 || number) {
      words.back() += static_cast<char>(std::tolower(c));
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

void Catalog::AddEmbedded(const std::vector<EmbeddedFile>& files) {
  kept_ = std::make_shared<Memory>();
  for (const EmbeddedFile& f : files) {
    sections_[std::string(f.section)].insert_or_assign(std::string(f.name), Source{f.text, ""});
  }
}

absl::Status Catalog::AddDirectory(const std::string& dir) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto unreadable = [&](const fs::path& path) {
    return absl::PermissionDeniedError(fmt::format("{}: cannot be listed: {}", path.string(), error.message()));
  };
  if (!fs::is_directory(dir, error)) {
    return absl::NotFoundError(fmt::format("{}: no such catalogue directory", dir));
  }
  kept_ = std::make_shared<Memory>();
  bool found = false;
  fs::directory_iterator sections(dir, error);
  if (error) return unreadable(dir);
  for (; sections != fs::directory_iterator(); sections.increment(error)) {
    if (error) return unreadable(dir);
    if (!sections->is_directory(error)) continue;
    fs::directory_iterator files(sections->path(), error);
    if (error) return unreadable(sections->path());
    for (; files != fs::directory_iterator(); files.increment(error)) {
      if (error) return unreadable(sections->path());
      const fs::path& path = files->path();
      if (path.extension() != ".yaml" || files->is_directory(error)) continue;
      sections_[sections->path().filename().string()].insert_or_assign(path.stem().string(), Source{{}, path.string()});
      found = true;
    }
  }
  if (!found) {
    return absl::InvalidArgumentError(
        fmt::format("{}: holds no catalogue entries; put them into sub-folders, for example gpus/<name>.yaml", dir));
  }
  return absl::OkStatus();
}

std::vector<std::string> Catalog::Names(std::string_view section) const {
  std::vector<std::string> names;
  if (const auto it = sections_.find(section); it != sections_.end()) {
    for (const auto& [name, source] : it->second) names.push_back(name);
  }
  return names;
}

absl::StatusOr<std::string> Catalog::Text(const Source& source) const {
  if (source.path.empty()) return std::string(source.embedded);
  return ReadTextFile(source.path, kMaxEntryBytes);
}

absl::StatusOr<YamlNode> Catalog::Parsed(std::string_view section, std::string_view name, const Source& source) const {
  const std::string of = source.path.empty() ? fmt::format("{}", static_cast<const void*>(source.embedded.data())) : source.path;
  if (const auto known = std::static_pointer_cast<const YamlNode>(parsed_->Find({typeid(YamlNode), of}))) return *known;
  SIMRUN_ASSIGN_OR_RETURN(const std::string text, Text(source));
  SIMRUN_ASSIGN_OR_RETURN(YamlNode node, ParseYaml(text, FileName(section, name, source.path)));
  parsed_->Add({typeid(YamlNode), of}, std::make_shared<const YamlNode>(node));
  return node;
}

std::string PlainSpelling(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c != ' ' && c != '-' && c != '_') plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return plain;
}

absl::StatusOr<std::string> Catalog::Resolve(std::string_view section, std::string_view name, Spelling spelling) const {
  if (IsEntryFile(name)) return std::string(name);
  std::vector<std::string> candidates;
  std::string unread;
  std::string spelled;
  std::set<std::string> alike;  // entries with a name that is spelled so
  if (const auto it = sections_.find(section); it != sections_.end()) {
    if (it->second.find(name) != it->second.end()) return std::string(name);
    spelled = spelling(name);
    for (const auto& [canonical, source] : it->second) {
      candidates.push_back(canonical);
      if (spelling(canonical) == spelled) alike.insert(canonical);
      const absl::StatusOr<std::string> text = Text(source);
      if (text.ok() && text->find("aliases") == std::string::npos) continue;
      const absl::StatusOr<YamlNode> node = text.ok() ? Parsed(section, canonical, source) : text.status();
      if (!node.ok()) {
        if (unread.empty()) unread = fmt::format("; aliases not read: {}", std::string(node.status().message()));
        continue;
      }
      const YamlNode* aliases = node->Find("aliases");
      if (aliases == nullptr) continue;
      for (const YamlNode& alias : aliases->items()) {
        if (alias.text() == name) return canonical;
        candidates.push_back(alias.text());
        if (spelling(alias.text()) == spelled) alike.insert(canonical);
      }
    }
  }
  if (alike.size() == 1 && !spelled.empty()) return *alike.begin();
  const std::string hint = NameHint(name, candidates);
  return absl::NotFoundError(fmt::format("unknown {} \"{}\"{}{}{}", Singular(section), name, hint.empty() ? "" : "; ",
                                         hint, unread));
}

absl::StatusOr<YamlNode> Catalog::Load(std::string_view section, std::string_view name) const {
  SIMRUN_ASSIGN_OR_RETURN(const std::string canonical, Resolve(section, name));
  if (IsEntryFile(canonical)) return Parsed(section, canonical, Source{{}, canonical});
  const Source& source = sections_.find(section)->second.find(canonical)->second;
  return Parsed(section, canonical, source);
}

}  // namespace simrun
