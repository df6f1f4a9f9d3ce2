// A strict YAML document as a plain value: maps, sequences and scalars with their place in the file.
//
// The parser rejects what silently goes wrong elsewhere: duplicate keys, merge keys, anchors and aliases,
// non-string keys, tabs, a second document, nesting deeper than 64, documents over 4 MiB.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace simrun {

class YamlNode {
 public:
  enum class Kind { kNull, kScalar, kMap, kSequence };
  struct Entry;

  YamlNode() = default;
  static YamlNode Scalar(std::string text, SourceLocation where = {});
  static YamlNode Map(SourceLocation where = {});
  static YamlNode Sequence(SourceLocation where = {});

  Kind kind() const { return kind_; }
  bool IsNull() const { return kind_ == Kind::kNull; }
  bool IsScalar() const { return kind_ == Kind::kScalar; }
  bool IsMap() const { return kind_ == Kind::kMap; }
  bool IsSequence() const { return kind_ == Kind::kSequence; }
  const SourceLocation& location() const { return where_; }
  void set_location(SourceLocation where) { where_ = std::move(where); }

  // The scalar's text as written, without quotes. Empty for other kinds.
  const std::string& text() const { return text_; }
  // True for a scalar written in quotes: never a number, a boolean or `auto`.
  bool quoted() const { return quoted_; }
  void set_quoted(bool quoted) { quoted_ = quoted; }

  // Map entries in the order of the file; empty for other kinds.
  const std::vector<Entry>& entries() const { return entries_; }
  std::vector<Entry>& entries() { return entries_; }
  // The value under `key`, or null when absent or when this is not a map.
  const YamlNode* Find(std::string_view key) const;
  // Sequence items; empty for other kinds.
  const std::vector<YamlNode>& items() const { return items_; }
  std::vector<YamlNode>& items() { return items_; }

  // Sets the value at a dotted path such as "plan.tp" or "axes.0.values", making maps on the way.
  // Error when a scalar stands in the way or an index is out of range.
  absl::Status Set(std::string_view path, YamlNode value);
  // The node at a dotted path, or null.
  const YamlNode* Get(std::string_view path) const;
  // Block-style YAML of this node; parsing it gives an equal tree.
  std::string ToYaml() const;
  // Equal content; places in the file do not count.
  friend bool operator==(const YamlNode& a, const YamlNode& b);

 private:
  Kind kind_ = Kind::kNull;
  bool quoted_ = false;
  std::string text_;
  std::vector<Entry> entries_;
  std::vector<YamlNode> items_;
  SourceLocation where_;
};

struct YamlNode::Entry {
  std::string key;
  SourceLocation key_location;
  YamlNode value;
};

// Parses `text`; `file` is the name used in messages. InvalidArgument with every problem found, one per line.
absl::StatusOr<YamlNode> ParseYaml(std::string_view text, std::string_view file);
// Reads and parses a file. NotFound or PermissionDenied when it cannot be read, InvalidArgument when it is no YAML.
absl::StatusOr<YamlNode> ReadYamlFile(const std::string& path);
// The whole of a regular file of at most `max_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

}  // namespace simrun
