#include "base/params.h"

#include <fmt/format.h>

namespace simrun {

namespace params_internal {

namespace {
// What stops a node from being a plain number or word, or empty.
std::string PlainScalarError(const YamlNode& node, std::string_view wanted) {
  if (node.IsNull()) return fmt::format("is empty; write {}", wanted);
  if (!node.IsScalar()) return fmt::format("must be {}, not a {}", wanted, node.IsMap() ? "map" : "list");
  if (node.quoted()) return fmt::format("is text; write {} without quotes", wanted);
  return "";
}
template <class T>
std::string Take(const absl::StatusOr<T>& parsed, T* out) {
  if (!parsed.ok()) return std::string(parsed.status().message());
  *out = *parsed;
  return "";
}
std::string Bound(double value, const Dimension& dimension) {
  return dimension == Dimension() ? FormatNumber(value) : FormatQuantityText(value, dimension);
}
}  // namespace

std::string ReadBool(const YamlNode& node, bool* out) {
  if (std::string error = PlainScalarError(node, "true or false"); !error.empty()) return error;
  *out = node.text() == "true";
  if (*out || node.text() == "false") return "";
  return fmt::format("\"{}\" is neither true nor false", node.text());
}

std::string ReadInteger(const YamlNode& node, int64_t* out) {
  if (std::string error = PlainScalarError(node, "a whole number"); !error.empty()) return error;
  return Take(ParseInteger(node.text()), out);
}

std::string ReadNumber(const YamlNode& node, double* out) {
  if (std::string error = PlainScalarError(node, "a number"); !error.empty()) return error;
  return Take(ParseNumber(node.text()), out);
}

std::string ReadQuantity(const YamlNode& node, const Dimension& dimension, double* out) {
  // Quotes are allowed here: "4 /s" is often written so.
  const std::string wanted = fmt::format("a number with a unit ({})", UnitExamples(dimension));
  if (node.IsNull() || !node.IsScalar()) return PlainScalarError(node, wanted);
  return Take(ParseQuantityText(node.text(), dimension), out);
}

std::string RangeText(const ParamInfo& info, const Dimension& dimension) {
  const bool has_min = std::isfinite(info.min), has_max = std::isfinite(info.max);
  const std::string low = has_min ? Bound(info.min, dimension) : "";
  const std::string high = has_max ? Bound(info.max, dimension) : "";
  if (has_min && has_max) {
    return info.above_min ? fmt::format("> {} and <= {}", low, high) : fmt::format("{} to {}", low, high);
  }
  if (has_min) return fmt::format("{} {}", info.above_min ? ">" : ">=", low);
  if (has_max) return fmt::format("<= {}", high);
  return "";
}

std::string CheckRange(double value, const ParamInfo& info, const Dimension& dimension) {
  const bool low_enough = value <= info.max;
  const bool high_enough = info.above_min ? value > info.min : value >= info.min;
  if (low_enough && high_enough) return "";
  return fmt::format("{} is out of range; must be {}", Bound(value, dimension), RangeText(info, dimension));
}

std::string FormatNumber(double value) { return fmt::format("{}", value); }

}  // namespace params_internal

void ParamReader::Finish() {
  for (const YamlNode::Entry& e : map_.entries()) {
    bool known = false;
    for (const std::string& name : names_) known = known || name == e.key;
    if (!known) problems_->Add(e.key_location, Join(e.key), "unknown setting", NameHint(e.key, names_));
  }
}

void ParamReader::Fail(const YamlNode& node, const std::string& path, const std::string& error) {
  problems_->Add(node.location(), path, error);
}

bool ParamReader::CheckName(const YamlNode& node, const std::string& path, const ParamInfo& info) {
  if (info.choices == nullptr) return true;
  const std::vector<std::string> choices = info.choices();
  for (const std::string& choice : choices) {
    if (choice == node.text()) return true;
  }
  problems_->Add(node.location(), path, fmt::format("unknown name \"{}\"", node.text()),
                 NameHint(node.text(), choices));
  return false;
}

void ParamDocs::AddLeaf(const std::string& path, std::string type, const ParamInfo& info, std::string fallback,
                        const Dimension& dimension) {
  std::string range = params_internal::RangeText(info, dimension);
  if (info.choices != nullptr) {
    range = "one of: ";
    const std::vector<std::string> choices = info.choices();
    for (size_t i = 0; i < choices.size(); ++i) range += (i > 0 ? ", " : "") + choices[i];
  }
  std::string help = info.help;
  if (!info.example.empty()) help += fmt::format(" (for example {})", info.example);
  rows_->push_back({path, std::move(type), info.required ? "required" : std::move(fallback), std::move(range),
                    std::move(help)});
}

}  // namespace simrun
