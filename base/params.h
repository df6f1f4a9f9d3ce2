// One declaration per parameter: parsing, default, range, help text and the generated reference all come from it.
//
//   struct SchedulerParams {
//     int64_t max_num_seqs = 256;                    // the initialiser is the default
//     std::optional<int64_t> kv_blocks;              // "auto" in YAML is nullopt
//     Seconds deadline{0};
//     template <class Visitor> void Describe(Visitor& v) {
//       v.Field("max_num_seqs", max_num_seqs, {.help = "most sequences running at once", .min = 1});
//       v.Field("kv_blocks", kv_blocks, {.help = "KV blocks; auto: what fits", .min = 1});
//       v.Field("deadline", deadline, {.help = "...", .min = 0});
//     }
//   };
//   SchedulerParams p;  Problems problems;
//   ReadParams(node, "scheduler", &problems, &p);    // every problem of the section is added to `problems`
//
// Field types: bool, int64_t, int, double, std::string, any Quantity, std::optional of these ("auto"), a nested
// described struct, std::optional of a described struct (absent = not given), and std::vector of any of them.
// A described struct may have `absl::Status ReadScalar(const YamlNode&)` to accept a shorthand such as `output_tokens: 200`,
// and `bool WriteScalar(YamlNode*) const` to print it back in that form; and `static constexpr const char* kListField`, the
// field that a list written in its place is for.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/quantity_text.h"
#include "base/status.h"
#include "base/units.h"
#include "base/yaml.h"

namespace simrun {

struct ParamInfo {
  std::string help;                                         // one sentence, no full stop needed
  double min = -std::numeric_limits<double>::infinity();    // in base units, inclusive unless above_min
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;                                   // the value must be greater than min
  bool required = false;
  std::vector<std::string> (*choices)() = nullptr;          // valid names of a string parameter
  std::string example;                                      // shown in the reference when the default says little
};

class ParamReader;
class ParamWriter;
class ParamDocs;

template <class P>
concept DescribedParams = requires(P& p, ParamReader& r) { p.Describe(r); };

template <class T> struct IsOptional : std::false_type {};
template <class T> struct IsOptional<std::optional<T>> : std::true_type {};
// T of optional<T> and vector<T>, else T itself.
template <class T> struct ElementOf { using type = T; };
template <class T> struct ElementOf<std::optional<T>> { using type = T; };
template <class T> struct ElementOf<std::vector<T>> { using type = T; };
template <class T> struct IsVector : std::false_type {};
template <class T> struct IsVector<std::vector<T>> : std::true_type {};
template <class T> struct IsQuantity : std::false_type {};
template <int T, int B, int F, int J, int K, int D>
struct IsQuantity<Quantity<T, B, F, J, K, D>> : std::true_type {};

namespace params_internal {
// Scalar readers: an error message ("is not a whole number; ...") or empty on success.
std::string ReadBool(const YamlNode& node, bool* out);
std::string ReadInteger(const YamlNode& node, int64_t* out);
std::string ReadNumber(const YamlNode& node, double* out);
std::string ReadQuantity(const YamlNode& node, const Dimension& dimension, double* out);
std::string RangeText(const ParamInfo& info, const Dimension& dimension);
std::string CheckRange(double value, const ParamInfo& info, const Dimension& dimension);
std::string FormatNumber(double value);  // shortest text that parses back
}  // namespace params_internal

// Reads one described struct from a YAML map.
class ParamReader {
 public:
  ParamReader(const YamlNode& map, std::string path, Problems* problems)
      : map_(map), path_(std::move(path)), problems_(problems) {}

  template <class T>
  void Field(const char* name, T& value, const ParamInfo& info) {
    names_.push_back(name);
    const YamlNode* node = map_.Find(name);
    const std::string path = Join(name);
    if (node == nullptr) {
      if (info.required) problems_->Add(map_.location(), path, "is required", info.help);
      return;
    }
    Read(*node, path, info, value);
  }
  // Reports keys that no Field named. Call after Describe.
  void Finish();

 private:
  std::string Join(std::string_view name) const { return path_.empty() ? std::string(name) : path_ + "." + std::string(name); }

  template <class T>
  void Read(const YamlNode& node, const std::string& path, const ParamInfo& info, T& value);
  void Fail(const YamlNode& node, const std::string& path, const std::string& error);
  bool CheckName(const YamlNode& node, const std::string& path, const ParamInfo& info);

  const YamlNode& map_;
  std::string path_;
  Problems* problems_;
  std::vector<std::string> names_;
};

template <DescribedParams P>
void ReadParams(const YamlNode& node, const std::string& path, Problems* problems, P* out) {
  if constexpr (requires { out->ReadScalar(node); }) {
    if (node.IsScalar()) {
      if (absl::Status s = out->ReadScalar(node); !s.ok()) problems->Add(node.location(), path, std::string(s.message()));
      return;
    }
  }
  if constexpr (requires { P::kListField; }) {
    if (node.IsSequence()) {
      YamlNode map = YamlNode::Map();
      YamlNode::Entry entry;
      entry.key = P::kListField;
      entry.value = node;
      map.entries().push_back(std::move(entry));
      ReadParams(map, path, problems, out);
      return;
    }
  }
  if (!node.IsMap()) {
    problems->Add(node.location(), path, "must be a map of settings", "write `key: value` lines under it");
    return;
  }
  ParamReader reader(node, path, problems);
  out->Describe(reader);
  reader.Finish();
}

template <class T>
void ParamReader::Read(const YamlNode& node, const std::string& path, const ParamInfo& info, T& value) {
  if constexpr (DescribedParams<T>) {
    ReadParams(node, path, problems_, &value);
  } else if constexpr (IsOptional<T>::value) {
    if (node.IsScalar() && !node.quoted() && node.text() == "auto") {
      value.reset();
      return;
    }
    const size_t before = problems_->size();
    typename T::value_type inner = value.value_or(typename T::value_type());
    Read(node, path, info, inner);
    if (problems_->size() == before || DescribedParams<typename T::value_type>) value = std::move(inner);
  } else if constexpr (IsVector<T>::value) {
    if (!node.IsSequence()) return Fail(node, path, "must be a list; write [a, b]");
    value.clear();
    for (size_t i = 0; i < node.items().size(); ++i) {
      typename T::value_type inner{};
      Read(node.items()[i], path + "." + std::to_string(i), info, inner);
      value.push_back(std::move(inner));
    }
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!node.IsScalar()) return Fail(node, path, "must be a name or text");
    if (CheckName(node, path, info)) value = node.text();
  } else {
    std::string error;
    double number = 0;
    Dimension dimension;
    T parsed{};
    if constexpr (std::is_same_v<T, bool>) {
      error = params_internal::ReadBool(node, &parsed);
    } else if constexpr (std::is_integral_v<T>) {
      int64_t wide = 0;
      error = params_internal::ReadInteger(node, &wide);
      number = static_cast<double>(wide);
      parsed = static_cast<T>(wide);
      if (error.empty() && static_cast<int64_t>(parsed) != wide) error = "is too large";
    } else if constexpr (IsQuantity<T>::value) {
      dimension = DimensionOf(parsed);
      error = params_internal::ReadQuantity(node, dimension, &number);
      parsed = T(number);
    } else {
      static_assert(std::is_same_v<T, double>, "not a parameter type");
      error = params_internal::ReadNumber(node, &number);
      parsed = number;
    }
    if (error.empty() && !std::is_same_v<T, bool>) error = params_internal::CheckRange(number, info, dimension);
    if (!error.empty()) return Fail(node, path, error);
    value = parsed;
  }
}

// Prints a described struct as the YAML that reads back to it; every parameter is written, defaults too.
class ParamWriter {
 public:
  explicit ParamWriter(YamlNode* map) : map_(map) {}
  template <class T>
  void Field(const char* name, T& value, const ParamInfo&) {
    YamlNode::Entry entry;
    entry.key = name;
    if (Write(value, &entry.value)) map_->entries().push_back(std::move(entry));
  }
  template <class T>
  static bool Write(T& value, YamlNode* node) {
    if constexpr (DescribedParams<T>) {
      if constexpr (requires { value.WriteScalar(node); }) {
        if (value.WriteScalar(node)) return true;
      }
      *node = YamlNode::Map();
      ParamWriter writer(node);
      value.Describe(writer);
    } else if constexpr (IsOptional<T>::value) {
      if (value.has_value()) return Write(*value, node);
      if constexpr (DescribedParams<typename T::value_type>) return false;
      *node = YamlNode::Scalar("auto");
    } else if constexpr (IsVector<T>::value) {
      *node = YamlNode::Sequence();
      for (auto& item : value) {
        YamlNode inner;
        Write(item, &inner);
        node->items().push_back(std::move(inner));
      }
    } else if constexpr (std::is_same_v<T, std::string>) {
      *node = YamlNode::Scalar(value);
      node->set_quoted(true);
    } else if constexpr (std::is_same_v<T, bool>) {
      *node = YamlNode::Scalar(value ? "true" : "false");
    } else if constexpr (std::is_integral_v<T>) {
      *node = YamlNode::Scalar(std::to_string(value));
    } else if constexpr (IsQuantity<T>::value) {
      *node = YamlNode::Scalar(FormatQuantityText(value.value(), DimensionOf(value)));
    } else {
      *node = YamlNode::Scalar(params_internal::FormatNumber(value));
    }
    return true;
  }

 private:
  YamlNode* map_;
};

template <DescribedParams P>
YamlNode WriteParams(const P& params) {
  P copy = params;  // Describe is non-const so that one declaration serves reading too
  YamlNode node;
  ParamWriter::Write(copy, &node);
  return node;
}

// One row of the generated reference.
struct ParamDoc {
  std::string path;      // "scheduler.max_num_seqs"
  std::string type;      // "whole number", "time (ns, us, ms, s, ...)", "name", "map"
  std::string fallback;  // default as YAML, "auto", "none" or "required"
  std::string range;     // ">= 1", "0 to 1", "one of: ..." or empty
  std::string help;
};

// Collects the rows of a described struct.
class ParamDocs {
 public:
  ParamDocs(std::string path, std::vector<ParamDoc>* rows) : path_(std::move(path)), rows_(rows) {}
  template <class T>
  void Field(const char* name, T& value, const ParamInfo& info) {
    const std::string path = path_.empty() ? name : path_ + "." + name;
    Row(path, value, info);
  }

 private:
  template <class T>
  void Row(const std::string& path, T& value, const ParamInfo& info) {
    if constexpr (DescribedParams<T>) {
      rows_->push_back({path, "map", info.required ? "required" : "", "", info.help});
      ParamDocs inner(path, rows_);
      value.Describe(inner);
    } else if constexpr (IsOptional<T>::value && DescribedParams<typename ElementOf<T>::type>) {
      rows_->push_back({path, "map", info.required ? "required" : "none", "", info.help});
      typename T::value_type inner_value{};
      ParamDocs inner(path, rows_);
      inner_value.Describe(inner);
    } else if constexpr (IsVector<T>::value && DescribedParams<typename ElementOf<T>::type>) {
      rows_->push_back({path, "list of maps", "[]", "", info.help});
      typename T::value_type inner_value{};
      ParamDocs inner(path + "[]", rows_);
      inner_value.Describe(inner);
    } else {
      AddLeaf(path, TypeName<T>(), info, Fallback(value), DimensionFor<T>());
    }
  }
  template <class T>
  static std::string TypeName() {
    if constexpr (IsOptional<T>::value) {
      return TypeName<typename T::value_type>() + " or auto";
    } else if constexpr (IsVector<T>::value) {
      return "list of " + TypeName<typename T::value_type>();
    } else if constexpr (std::is_same_v<T, bool>) {
      return "true or false";
    } else if constexpr (std::is_integral_v<T>) {
      return "whole number";
    } else if constexpr (IsQuantity<T>::value) {
      return "quantity (" + UnitExamples(DimensionOf(T())) + ")";
    } else if constexpr (std::is_same_v<T, std::string>) {
      return "name";
    } else {
      return "number";
    }
  }
  template <class T>
  static Dimension DimensionFor() {
    if constexpr (IsOptional<T>::value || IsVector<T>::value) {
      return DimensionFor<typename T::value_type>();
    } else if constexpr (IsQuantity<T>::value) {
      return DimensionOf(T());
    } else {
      return {};
    }
  }
  template <class T>
  static std::string Fallback(T& value) {
    YamlNode node;
    if (!ParamWriter::Write(value, &node)) return "none";
    if (node.IsSequence()) return node.items().empty() ? "[]" : node.ToYaml();
    return node.text();
  }
  void AddLeaf(const std::string& path, std::string type, const ParamInfo& info, std::string fallback,
               const Dimension& dimension);

  std::string path_;
  std::vector<ParamDoc>* rows_;
};

template <DescribedParams P>
std::vector<ParamDoc> DocumentParams(const std::string& path) {
  std::vector<ParamDoc> rows;
  P params{};
  ParamDocs docs(path, &rows);
  params.Describe(docs);
  return rows;
}

}  // namespace simrun
