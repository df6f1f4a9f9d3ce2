// Catalogue files by name: the ones compiled into the library, and those of the user's --catalog directories.
//
// Every catalogue entry is one YAML file <section>/<name>.yaml ("models/llama-3.1-70b.yaml", "gpus/h100-sxm-80gb.yaml").
// A user's file replaces the built-in one of the same section and name.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/yaml.h"

namespace simrun {

struct EmbeddedFile {
  std::string_view section;  // "models", "gpus", "cpus", "links", "nodes", "engines"
  std::string_view name;     // file name without .yaml
  std::string_view text;
};

class Catalog {
 public:
  Catalog() = default;
  // Adds files compiled into a library folder. The text must outlive the catalogue (it is static data).
  void AddEmbedded(const std::vector<EmbeddedFile>& files);
  // Adds <dir>/<section>/*.yaml, names only; files are read when asked for. NotFound when `dir` is no directory.
  absl::Status AddDirectory(const std::string& dir);

  // Names in a section, sorted.
  std::vector<std::string> Names(std::string_view section) const;
  // Parsed entry by name, or by one of the names in its `aliases:` list.
  // NotFound with the nearest valid name, InvalidArgument when the file is no strict YAML.
  absl::StatusOr<YamlNode> Load(std::string_view section, std::string_view name) const;
  // The canonical name for a name or alias; NotFound as Load.
  absl::StatusOr<std::string> Resolve(std::string_view section, std::string_view name) const;

 private:
  struct Source {
    std::string_view embedded;  // text, when compiled in
    std::string path;           // file, when from a directory
  };
  // Embedded files parsed so far, shared by copies of the catalogue and safe to use from several threads: what-if runs
  // load the same few entries again and again.
  class ParsedFiles;
  absl::StatusOr<std::string> Text(const Source& source) const;
  absl::StatusOr<YamlNode> Parsed(std::string_view section, std::string_view name, const Source& source) const;
  std::map<std::string, std::map<std::string, Source, std::less<>>, std::less<>> sections_;
  std::shared_ptr<ParsedFiles> parsed_;
};

}  // namespace simrun
