// Catalogue files by name: the ones compiled into the library, and those of the user's --catalog directories.
//
// Every catalogue entry is one YAML file <section>/<name>.yaml ("models/llama-3.1-70b.yaml", "gpus/h100-sxm-80gb.yaml").
// A user's file replaces the built-in one of the same section and name.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <typeindex>
#include <utility>
#include <vector>

#include "base/yaml.h"

namespace simrun {

struct EmbeddedFile {
  std::string_view section;  // "models", "gpus", "cpus", "links", "nodes", "engines"
  std::string_view name;     // file name without .yaml
  std::string_view text;
};

// What of a name tells it from others.
using Spelling = std::string (*)(std::string_view);
// Letters without case, spaces, hyphens and underscores: "RTX 4090" is "rtx-4090".
std::string PlainSpelling(std::string_view name);
// Lower-case words of a name; a dot parts them unless it stands before a digit ("3.1-70b", "quantized.w8a8").
std::vector<std::string> NameWords(std::string_view name);

class Catalog {
 public:
  Catalog() = default;
  // Adds files compiled into a library folder. The text must outlive the catalogue (it is static data).
  void AddEmbedded(const std::vector<EmbeddedFile>& files);
  // Adds <dir>/<section>/*.yaml, names only; a file is read once, when first asked for. NotFound when `dir` is no directory.
  absl::Status AddDirectory(const std::string& dir);

  // Names in a section, sorted.
  std::vector<std::string> Names(std::string_view section) const;
  // Parsed entry by name, by one of the names in its `aliases:` list, however they are spelled, or by the path of a file of its own
  // ("gpu.yaml"). NotFound with the nearest valid name, InvalidArgument when the file is no strict YAML.
  absl::StatusOr<YamlNode> Load(std::string_view section, std::string_view name) const;
  // The canonical name for a name or alias, a path as it is; NotFound as Load. Where none is written so, the one entry that has a
  // name with the same `spelling`.
  absl::StatusOr<std::string> Resolve(std::string_view section, std::string_view name, Spelling spelling = PlainSpelling) const;

  // What was made of entries before, such as the parameters of one device, for the next who asks: Kept returns what Keep was
  // given under that name, null when nothing was. Copies share it until files are added to one of them.
  template <class T>
  std::shared_ptr<const T> Kept(const std::string& name) const {
    return std::static_pointer_cast<const T>(kept_->Find({typeid(T), name}));
  }
  template <class T>
  void Keep(const std::string& name, std::shared_ptr<const T> made) const {
    kept_->Add({typeid(T), name}, std::move(made));
  }

 private:
  struct Source {
    std::string_view embedded;  // text, when compiled in
    std::string path;           // file, when from a directory
  };
  // Things by type and name, safe to use from several threads: what-if runs load the same few entries again and again.
  class Memory {
   public:
    using Key = std::pair<std::type_index, std::string>;
    std::shared_ptr<const void> Find(const Key& key) const;
    void Add(Key key, std::shared_ptr<const void> thing);

   private:
    mutable std::mutex mutex_;
    std::map<Key, std::shared_ptr<const void>> things_;
  };
  absl::StatusOr<std::string> Text(const Source& source) const;
  absl::StatusOr<YamlNode> Parsed(std::string_view section, std::string_view name, const Source& source) const;
  std::map<std::string, std::map<std::string, Source, std::less<>>, std::less<>> sections_;
  // Files read so far, by path or address of the text; it stays true whatever is added.
  std::shared_ptr<Memory> parsed_ = std::make_shared<Memory>();
  std::shared_ptr<Memory> kept_ = std::make_shared<Memory>();
};

}  // namespace simrun
