#include "planner/sweep.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <set>
#include <utility>

#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <boost/random/sobol.hpp>
#include <fmt/format.h>

#include "base/params.h"
#include "base/paths.h"
#include "base/rng.h"
#include "hw/machine.h"
#include "models/model_names.h"
#include "planner/deal.h"
#include "planner/metrics.h"
#include "planner/pool.h"
#include "planner/results_file.h"
#include "sim/simulation.h"

namespace simrun::planner {
namespace {

constexpr int64_t kMaxAxes = 64;

bool SameValue(const YamlNode& a, const YamlNode& b) {
  return a.IsScalar() && b.IsScalar() ? a.text() == b.text() : a == b;
}

// "1.5 TB/s" into 1.5 and "TB/s". False when it does not start with a number.
bool SplitNumber(std::string text, double* number, std::string* unit) {
  text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
  const char* begin = text.data() + (!text.empty() && text[0] == '+' ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(begin, end, *number);
  if (error != std::errc() || !std::isfinite(*number)) return false;
  *unit = std::string(rest, end);
  unit->erase(0, unit->find_first_not_of(' ') == std::string::npos ? unit->size() : unit->find_first_not_of(' '));
  return true;
}

bool LooksWhole(const std::string& text) { return text.find_first_not_of("0123456789_+-") == std::string::npos; }

YamlNode NumberNode(double value, const std::string& unit, bool whole, const SourceLocation& where) {
  std::string text = whole ? fmt::format("{}", std::llround(value)) : fmt::format("{:.12g}", value);
  if (!unit.empty()) text += " " + unit;
  return YamlNode::Scalar(std::move(text), where);
}

double Between(double low, double high, double fraction, bool log) {
  if (!log) return low + fraction * (high - low);
  if (fraction <= 0) return low;
  if (fraction >= 1) return high;
  return low * Exp(fraction * Ln(high / low));
}

std::vector<std::string> SamplingMethods() { return {"cartesian", "random", "latin-hypercube", "sobol"}; }

struct RangeParams {
  std::string from, to;
  std::optional<int64_t> points;
  std::optional<std::string> step;
  template <class V>
  void Describe(V& v) {
    v.Field("from", from, {.help = "first value, with its unit", .required = true});
    v.Field("to", to, {.help = "last value, with the same unit", .required = true});
    v.Field("points", points, {.help = "number of values, both ends included", .min = 1, .max = 1e6});
    v.Field("step", step, {.help = "distance of values, instead of points"});
  }
};

struct SamplingParams {
  std::string method = "cartesian";
  std::optional<int64_t> points;
  int64_t seed = 1;
  template <class V>
  void Describe(V& v) {
    v.Field("method", method, {.help = "which combinations are run", .choices = &SamplingMethods});
    v.Field("points", points, {.help = "number of combinations", .min = 1, .max = static_cast<double>(kMaxSweepPoints)});
    v.Field("seed", seed, {.help = "of the sample", .min = 0, .max = 9007199254740991.0});
  }
};

const char* CatalogSectionOf(const std::string& path) {
  if (path == "model") return "models";
  if (path == "hardware.node") return "nodes";
  if (path == "hardware.gpu") return "gpus";
  if (path == "hardware.host") return "cpus";
  if (path == "hardware.link" || path == "hardware.network") return "links";
  if (path == "engine.profile") return "engines";
  return nullptr;
}

// As scenarios find it: of models and GPUs by more spellings than of other entries.
absl::StatusOr<std::string> Named(std::string_view section, const std::string& name, const Catalog& catalog) {
  if (section == "models") return ResolveModel(name, catalog);
  if (section == "gpus") return ResolveGpu(name, catalog);
  return catalog.Resolve(section, name);
}

}  // namespace

std::string_view PointStatusName(PointStatus status) {
  switch (status) {
    case PointStatus::kDone: return "done";
    case PointStatus::kInvalid: return "invalid";
    case PointStatus::kFailed: return "failed";
  }
  return "";
}

// Reads the file form of a sweep.
class SweepReader {
 public:
  SweepReader(std::string base_dir, std::shared_ptr<const Catalog> catalog) : base_dir_(std::move(base_dir)) {
    spec_.catalog_ = catalog != nullptr ? std::move(catalog) : std::make_shared<const Catalog>(BuiltInCatalog());
    for (const ParamDoc& row : DocumentParams<ScenarioConfig>("")) paths_.push_back(row.path);
  }

  absl::StatusOr<SweepSpec> Read(const YamlNode& root) {
    if (!root.IsMap()) {
      problems_.Add(root.location(), "", "a sweep is a map with `base` and `axes`");
      return problems_.ToStatus();
    }
    static const std::vector<std::string> kKeys = {"base", "set", "axes", "repeats", "sampling"};
    for (const YamlNode::Entry& e : root.entries()) {
      if (std::find(kKeys.begin(), kKeys.end(), e.key) == kKeys.end()) {
        problems_.Add(e.key_location, e.key, "unknown setting", NameHint(e.key, kKeys));
      }
    }
    SIMRUN_RETURN_IF_ERROR(ReadBase(root));
    ReadSampling(root);
    ReadAxes(root);
    if (!spec_.base_.IsNull()) CheckValues();
    SIMRUN_RETURN_IF_ERROR(problems_.ToStatus());
    if (spec_.sampled_) {
      spec_.Sample(sampling_.method, *sampling_.points, sampling_.seed);
    } else {
      spec_.Enumerate();
    }
    YamlNode text = root;
    text.entries().erase(std::remove_if(text.entries().begin(), text.entries().end(),
                                        [](const YamlNode::Entry& e) { return e.key == "set"; }),
                         text.entries().end());
    SIMRUN_RETURN_IF_ERROR(text.Set("base", spec_.base_));
    spec_.text_ = text.ToYaml();
    return std::move(spec_);
  }

 private:
  using Axis = SweepSpec::Axis;

  absl::Status ReadBase(const YamlNode& root) {
    const YamlNode* base = root.Find("base");
    if (base == nullptr) {
      problems_.Add(root.location(), "base", "is required", "the scenario file that is varied, or the scenario itself");
    } else if (base->IsScalar()) {
      const std::string path = ResolvePath(base_dir_, base->text());
      absl::StatusOr<YamlNode> read = ReadYamlFile(path);
      if (!read.ok()) {
        problems_.Add(base->location(), "base", std::string(read.status().message()));
      } else {
        spec_.base_ = *std::move(read);
        spec_.base_dir_ = DirectoryOf(path);
      }
    } else {
      spec_.base_ = *base;
      spec_.base_dir_ = base_dir_;
    }
    if (spec_.base_.IsNull() && problems_.empty()) {
      problems_.Add(base->location(), "base", "must be a scenario or the name of its file");
    }
    if (const YamlNode* set = root.Find("set"); set != nullptr && !spec_.base_.IsNull()) {
      if (!set->IsMap()) problems_.Add(set->location(), "set", "must be a map of paths and values");
      for (const YamlNode::Entry& e : set->entries()) {
        if (!CheckPath(e.key, e.key_location, "set")) continue;
        if (const absl::Status s = spec_.base_.Set(e.key, e.value); !s.ok()) {
          problems_.Add(e.key_location, "set", std::string(s.message()));
        }
      }
    }
    if (const YamlNode* seed = spec_.base_.Find("seed"); seed != nullptr) {
      if (const absl::StatusOr<int64_t> number = ParseInteger(seed->text()); number.ok()) spec_.base_seed_ = *number;
    }
    if (const YamlNode* repeats = root.Find("repeats"); repeats != nullptr) {
      const absl::StatusOr<int64_t> number = ParseInteger(repeats->text());
      if (!number.ok() || *number < 1 || *number > 1'000'000) {
        problems_.Add(repeats->location(), "repeats", "must be a whole number from 1 to 1000000");
      } else {
        spec_.repeats_ = *number;
      }
    }
    return absl::OkStatus();
  }

  void ReadSampling(const YamlNode& root) {
    const YamlNode* node = root.Find("sampling");
    if (node == nullptr) return;
    ReadParams(*node, "sampling", &problems_, &sampling_);
    spec_.sampled_ = sampling_.method != "cartesian";
    if (spec_.sampled_ && !sampling_.points) problems_.Add(node->location(), "sampling.points", "is required", "how many combinations to run");
    if (!spec_.sampled_ && sampling_.points) {
      problems_.Add(node->location(), "sampling.points", "a cartesian sweep runs every combination", "choose method random, latin-hypercube or sobol");
    }
  }

  void ReadAxes(const YamlNode& root) {
    const YamlNode* axes = root.Find("axes");
    if (axes == nullptr || !axes->IsSequence() || axes->items().empty()) {
      problems_.Add(axes == nullptr ? root.location() : axes->location(), "axes", "must be a list of settings to vary",
                    "write for example `- {path: plan.tp, values: [1, 2, 4]}`");
      return;
    }
    if (static_cast<int64_t>(axes->items().size()) > kMaxAxes) {
      problems_.Add(axes->location(), "axes", fmt::format("more than {} axes", kMaxAxes));
      return;
    }
    double combinations = 1;
    for (size_t i = 0; i < axes->items().size(); ++i) {
      Axis axis;
      const size_t before = problems_.size();
      ReadAxis(axes->items()[i], fmt::format("axes.{}", i), &axis);
      if (problems_.size() > before) continue;
      combinations *= static_cast<double>(axis.size());
      for (const std::string& path : axis.paths) spec_.columns_.push_back(path);
      spec_.axes_.push_back(std::move(axis));
    }
    if (spec_.sampled_) combinations = static_cast<double>(sampling_.points.value_or(1));
    if (combinations * static_cast<double>(spec_.repeats_) > static_cast<double>(kMaxSweepPoints)) {
      problems_.Add(axes->location(), "axes", fmt::format("give {:.4g} points; a sweep has at most {}", combinations * static_cast<double>(spec_.repeats_), kMaxSweepPoints),
                    "vary less, or set `sampling`");
    }
    const bool varies_seed = std::find(spec_.columns_.begin(), spec_.columns_.end(), "seed") != spec_.columns_.end();
    if (varies_seed && spec_.repeats_ > 1) {
      problems_.Add(axes->location(), "repeats", "repeats choose the seed, but an axis varies it too", "use one of the two");
    }
  }

  void ReadAxis(const YamlNode& node, const std::string& where, Axis* axis) {
    if (!node.IsMap()) {
      problems_.Add(node.location(), where, "must be a map", "write for example {path: plan.tp, values: [1, 2, 4]}");
      return;
    }
    static const std::vector<std::string> kKeys = {"path", "values", "range", "log_range", "zip", "when"};
    for (const YamlNode::Entry& e : node.entries()) {
      if (std::find(kKeys.begin(), kKeys.end(), e.key) == kKeys.end()) {
        problems_.Add(e.key_location, where + "." + e.key, "unknown setting", NameHint(e.key, kKeys));
      }
    }
    const YamlNode* path = node.Find("path");
    const YamlNode* values = node.Find("values");
    const YamlNode* range = node.Find("range");
    const YamlNode* log_range = node.Find("log_range");
    const YamlNode* zip = node.Find("zip");
    const int sources = (values != nullptr) + (range != nullptr) + (log_range != nullptr) + (zip != nullptr);
    if (sources != 1 || (zip == nullptr) != (path != nullptr)) {
      problems_.Add(node.location(), where, "needs `path` with one of values, range and log_range, or `zip`");
      return;
    }
    if (zip != nullptr) {
      ReadZip(*zip, where + ".zip", axis);
    } else {
      if (!path->IsScalar()) {
        problems_.Add(path->location(), where + ".path", "must be the path of a setting");
        return;
      }
      if (CheckPath(path->text(), path->location(), where + ".path")) CheckUnused(path->text(), path->location(), where, *axis);
      axis->paths.push_back(path->text());
      axis->values.emplace_back();
      if (values != nullptr) {
        ReadList(*values, where + ".values", &axis->values.back());
      } else {
        ReadRange(range != nullptr ? *range : *log_range, where, log_range != nullptr, axis);
      }
    }
    if (const YamlNode* when = node.Find("when"); when != nullptr) ReadWhen(*when, where + ".when", axis);
  }

  void ReadList(const YamlNode& node, const std::string& where, std::vector<YamlNode>* out) {
    if (!node.IsSequence()) {
      problems_.Add(node.location(), where, "must be a list; write [a, b]");
    } else if (node.items().empty()) {
      problems_.Add(node.location(), where, "is empty", "an axis needs at least one value");
    }
    *out = node.items();
  }

  void ReadZip(const YamlNode& node, const std::string& where, Axis* axis) {
    if (!node.IsMap() || node.entries().empty()) {
      problems_.Add(node.location(), where, "must be a map of paths and lists", "write {plan.tp: [1, 2], plan.replicas: [2, 1]}");
      return;
    }
    for (const YamlNode::Entry& e : node.entries()) {
      if (CheckPath(e.key, e.key_location, where)) CheckUnused(e.key, e.key_location, where, *axis);
      axis->paths.push_back(e.key);
      axis->values.emplace_back();
      ReadList(e.value, where + "." + e.key, &axis->values.back());
      if (axis->values.back().size() != axis->values.front().size()) {
        problems_.Add(e.value.location(), where + "." + e.key,
                      fmt::format("has {} values but {} has {}", axis->values.back().size(), axis->paths.front(), axis->values.front().size()),
                      "zipped settings move together");
      }
    }
  }

  void ReadRange(const YamlNode& node, const std::string& axis_path, bool log, Axis* axis) {
    const std::string where = axis_path + (log ? ".log_range" : ".range");
    RangeParams p;
    const size_t before = problems_.size();
    ReadParams(node, where, &problems_, &p);
    if (problems_.size() > before) return;
    SweepSpec::Range r;
    r.log = log;
    std::string unit_to, unit_step;
    if (!SplitNumber(p.from, &r.low, &r.unit) || !SplitNumber(p.to, &r.high, &unit_to)) {
      problems_.Add(node.location(), where, "from and to must be numbers, with their unit where there is one");
      return;
    }
    r.whole = r.unit.empty() && LooksWhole(p.from) && LooksWhole(p.to) && (!p.step || LooksWhole(*p.step));
    if (r.unit != unit_to) problems_.Add(node.location(), where, fmt::format("from and to have different units, \"{}\" and \"{}\"", p.from, p.to));
    if (log && (r.low <= 0 || r.high <= 0)) problems_.Add(node.location(), where, "both ends must be above 0");
    if (r.high < r.low) problems_.Add(node.location(), where, fmt::format("to {} is below from {}", p.to, p.from));
    if (p.points && p.step) problems_.Add(node.location(), where, "give points or step, not both");
    if (log && p.step) problems_.Add(node.location(), where, "has no step", "give points");
    if (!p.points && !p.step && !spec_.sampled_) problems_.Add(node.location(), where, "needs points: how many values");
    double step = 0;
    if (p.step && (!SplitNumber(*p.step, &step, &unit_step) || step <= 0 || unit_step != r.unit)) {
      problems_.Add(node.location(), where + ".step", fmt::format("must be a number above 0 with the unit of from, not \"{}\"", *p.step));
    }
    if (problems_.size() > before) return;
    double count = p.step ? std::floor((r.high - r.low) / step + 1e-9) + 1 : static_cast<double>(p.points.value_or(spec_.sampled_ ? 2 : 1));
    if (count > 1e6) {
      problems_.Add(node.location(), where, "has more than a million values");
      return;
    }
    std::vector<YamlNode>& values = axis->values.back();
    for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) {
      const double value = p.step ? r.low + static_cast<double>(i) * step
                                  : Between(r.low, r.high, count > 1 ? static_cast<double>(i) / (count - 1) : 0, log);
      YamlNode v = NumberNode(value, r.unit, r.whole, node.location());
      if (values.empty() || !SameValue(values.back(), v)) values.push_back(std::move(v));  // rounding may repeat one
    }
    if (spec_.sampled_ && !p.step) axis->range = std::move(r);
  }

  void ReadWhen(const YamlNode& node, const std::string& where, Axis* axis) {
    if (!node.IsMap() || node.entries().empty()) {
      problems_.Add(node.location(), where, "must be a map of paths and the values for which the axis applies",
                    "write {model: [mixtral-8x7b]}");
      return;
    }
    for (const YamlNode::Entry& e : node.entries()) {
      CheckPath(e.key, e.key_location, where);
      if (std::find(axis->paths.begin(), axis->paths.end(), e.key) != axis->paths.end()) {
        problems_.Add(e.key_location, where, fmt::format("{} is varied by this very axis", e.key));
      }
      SweepSpec::Condition c;
      c.path = e.key;
      if (e.value.IsSequence()) {
        ReadList(e.value, where + "." + e.key, &c.values);
      } else {
        c.values = {e.value};
      }
      const bool earlier = std::find(spec_.columns_.begin(), spec_.columns_.end(), e.key) != spec_.columns_.end();
      if (!earlier && spec_.base_.Get(e.key) == nullptr) {
        problems_.Add(e.key_location, where, fmt::format("{} is neither set in the base nor varied by an axis above this one", e.key));
      }
      axis->when.push_back(std::move(c));
    }
  }

  // "plan.placement.rules.0.share" is an item's plan.placement.rules[].share; so is "plan.placement.0.share", where the base has
  // the list alone. What is not there is found when values are put in.
  bool InList(const std::string& path) const {
    const std::vector<std::string> parts = absl::StrSplit(path, '.');
    for (size_t i = 1; i < parts.size(); ++i) {
      if (parts[i].empty() || parts[i].find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string list = absl::StrJoin(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(i), "."),
                        rest = "[]." + absl::StrJoin(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1, parts.end(), ".");
      return std::any_of(paths_.begin(), paths_.end(), [&](const std::string& known) {
        if (known == list + rest) return true;
        return known.rfind(list + ".", 0) == 0 && known.size() > list.size() + 1 + rest.size() && known.ends_with(rest) &&
               known.find('.', list.size() + 1) == known.size() - rest.size() + 2;
      });
    }
    return false;
  }

  bool CheckPath(const std::string& path, const SourceLocation& at, const std::string& where) {
    if (std::find(paths_.begin(), paths_.end(), path) != paths_.end() || InList(path)) return true;
    problems_.Add(at, where, fmt::format("unknown setting \"{}\"", path), NameHint(path, paths_));
    return false;
  }

  void CheckUnused(const std::string& path, const SourceLocation& at, const std::string& where, const Axis& axis) {
    const auto taken = [&](const std::vector<std::string>& in) { return std::find(in.begin(), in.end(), path) != in.end(); };
    if (taken(spec_.columns_) || taken(axis.paths)) problems_.Add(at, where, fmt::format("{} is varied twice", path));
  }

  // Every value put into the scenario by itself: units, ranges and names, whatever the combinations.
  void CheckValues() {
    std::set<std::string> seen;
    const auto check = [&](const YamlNode& root) {
      ScenarioConfig config;
      Problems found;
      ReadParams(root, "", &found, &config);
      for (const std::string& line : found.lines()) {
        if (seen.insert(line).second) problems_.Add({}, "", line);
      }
    };
    YamlNode first = spec_.base_;
    const auto set = [&](const std::string& path, const YamlNode& value, YamlNode* root) {
      if (const absl::Status s = root->Set(path, value); !s.ok() && seen.insert(path).second) {
        problems_.Add(value.location(), path, std::string(s.message()));
      }
    };
    for (const Axis& axis : spec_.axes_) {
      for (size_t p = 0; p < axis.paths.size(); ++p) set(axis.paths[p], axis.values[p].front(), &first);
    }
    check(first);
    for (const Axis& axis : spec_.axes_) {
      for (size_t p = 0; p < axis.paths.size(); ++p) {
        const char* section = CatalogSectionOf(axis.paths[p]);
        for (const YamlNode& value : axis.values[p]) {
          YamlNode root = first;
          set(axis.paths[p], value, &root);
          check(root);
          if (section == nullptr || !value.IsScalar() || value.text().find_first_of("/") != std::string::npos ||
              value.text().find(".json") != std::string::npos || value.text().find(".yaml") != std::string::npos) {
            continue;
          }
          if (const auto name = Named(section, value.text(), *spec_.catalog_); !name.ok()) {
            problems_.Add(value.location(), axis.paths[p], std::string(name.status().message()));
          }
        }
      }
    }
  }

  std::string base_dir_;
  SweepSpec spec_;
  SamplingParams sampling_;
  Problems problems_;
  std::vector<std::string> paths_;
};

absl::StatusOr<SweepSpec> SweepSpec::FromFile(const std::string& path, std::shared_ptr<const Catalog> catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const YamlNode root, ReadYamlFile(path));
  return SweepReader(DirectoryOf(path), std::move(catalog)).Read(root);
}

absl::StatusOr<SweepSpec> SweepSpec::FromYaml(std::string_view text, std::string_view name, const std::string& base_dir,
                                              std::shared_ptr<const Catalog> catalog) {
  SIMRUN_ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(text, name));
  return SweepReader(base_dir, std::move(catalog)).Read(root);
}

bool SweepSpec::Applies(const Axis& axis, const SweepValues& values) const {
  for (const Condition& c : axis.when) {
    const YamlNode* value = base_.Get(c.path);
    const auto column = std::find(columns_.begin(), columns_.end(), c.path);
    if (column != columns_.end()) {
      const std::optional<YamlNode>& varied = values[static_cast<size_t>(column - columns_.begin())];
      if (varied) value = &*varied;
    }
    const bool holds = value != nullptr && std::any_of(c.values.begin(), c.values.end(),
                                                       [&](const YamlNode& v) { return SameValue(v, *value); });
    if (!holds) return false;
  }
  return true;
}

SweepValues SweepSpec::Decode(const double* coordinates) const {
  SweepValues values(columns_.size());
  size_t column = 0;
  for (size_t a = 0; a < axes_.size(); ++a) {
    const Axis& axis = axes_[a];
    const double c = coordinates[a];
    for (size_t p = 0; p < axis.paths.size(); ++p, ++column) {
      if (c < 0) continue;
      if (axis.range) {
        const Range& r = *axis.range;
        const double value = r.whole && !r.log ? std::min(r.low + std::floor(c * (r.high - r.low + 1)), r.high) : Between(r.low, r.high, c, r.log);
        values[column] = NumberNode(value, r.unit, r.whole, axis.values.front().front().location());
      } else {
        const size_t place = sampled_ ? std::min(static_cast<size_t>(c * static_cast<double>(axis.size())), axis.size() - 1) : static_cast<size_t>(c);
        values[column] = axis.values[p][place];
      }
    }
  }
  return values;
}

void SweepSpec::Enumerate() {
  const bool conditional = std::any_of(axes_.begin(), axes_.end(), [](const Axis& a) { return !a.when.empty(); });
  std::vector<double> digits(axes_.size(), 0);
  const auto walk = [&](const auto& self, size_t a) -> void {
    if (a == axes_.size()) {
      coordinates_.insert(coordinates_.end(), digits.begin(), digits.end());
      ++combinations_;
      return;
    }
    if (conditional && !axes_[a].when.empty()) {
      std::vector<double> so_far(digits.begin(), digits.begin() + static_cast<int64_t>(a));
      so_far.resize(axes_.size(), -1);
      if (!Applies(axes_[a], Decode(so_far.data()))) {
        digits[a] = -1;
        self(self, a + 1);
        return;
      }
    }
    for (size_t i = 0; i < axes_[a].size(); ++i) {
      digits[a] = static_cast<double>(i);
      self(self, a + 1);
    }
  };
  walk(walk, 0);
}

void SweepSpec::Sample(const std::string& method, int64_t points, int64_t seed) {
  const size_t axes = axes_.size(), n = static_cast<size_t>(points);
  coordinates_.assign(n * axes, 0);
  combinations_ = points;
  const auto stream = [&](size_t a) { return Rng(static_cast<uint64_t>(seed), method, a); };
  if (method == "sobol") {
    // Boost's direction numbers are those of Joe and Kuo (2008). The digital shift keeps the points evenly spread and
    // lets the seed choose among sequences.
    std::vector<uint64_t> shift;
    for (size_t a = 0; a < axes; ++a) shift.push_back(stream(a).NextBits());
    boost::random::sobol sobol(axes);
    for (size_t i = 0; i < coordinates_.size(); ++i) {
      // Boost leaves out the sequence's first point, the origin, without which 2^k points do not fill 2^k strata.
      const uint64_t bits = i < axes ? 0 : static_cast<uint64_t>(sobol());
      coordinates_[i] = static_cast<double>((bits ^ shift[i % axes]) >> 11) * 0x1p-53;
    }
  } else {
    for (size_t a = 0; a < axes; ++a) {
      Rng rng = stream(a);
      std::vector<size_t> order(n);
      for (size_t i = 0; i < n; ++i) order[i] = i;
      if (method == "latin-hypercube") {
        for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
      }
      for (size_t i = 0; i < n; ++i) {
        const double u = rng.Uniform();
        coordinates_[i * axes + a] = method == "latin-hypercube" ? (static_cast<double>(order[i]) + u) / static_cast<double>(n) : u;
      }
    }
  }
  for (size_t i = 0; i < n; ++i) {
    double* point = &coordinates_[i * axes];
    for (size_t a = 0; a < axes; ++a) {
      if (!axes_[a].when.empty() && !Applies(axes_[a], Decode(point))) point[a] = -1;
    }
  }
}

SweepValues SweepSpec::ValuesOf(int64_t id) const {
  return Decode(&coordinates_[static_cast<size_t>(id / repeats_) * axes_.size()]);
}

int64_t SweepSpec::SeedOf(int64_t id) const {
  const auto column = std::find(columns_.begin(), columns_.end(), "seed");
  if (column != columns_.end()) {
    const SweepValues values = ValuesOf(id);
    const std::optional<YamlNode>& seed = values[static_cast<size_t>(column - columns_.begin())];
    const absl::StatusOr<int64_t> number = seed ? ParseInteger(seed->text()) : absl::StatusOr<int64_t>(base_seed_);
    return number.ok() ? *number : base_seed_;
  }
  return base_seed_ + RepeatOf(id);
}

absl::StatusOr<Scenario> SweepSpec::ScenarioOf(int64_t id) const {
  YamlNode root = base_;
  const SweepValues values = ValuesOf(id);
  for (size_t c = 0; c < columns_.size(); ++c) {
    if (values[c]) SIMRUN_RETURN_IF_ERROR(root.Set(columns_[c], *values[c]));
  }
  SIMRUN_RETURN_IF_ERROR(root.Set("seed", YamlNode::Scalar(fmt::format("{}", SeedOf(id)))));
  return Scenario::FromNode(std::move(root), base_dir_, catalog_);
}

std::string SweepSpec::Hash() const {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : text_) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return fmt::format("{:016x}", hash);
}

PointResult RunPoint(const SweepSpec& spec, int64_t id) {
  PointResult point;
  point.id = id;
  point.repeat = spec.RepeatOf(id);
  point.seed = spec.SeedOf(id);
  point.values = spec.ValuesOf(id);
  const absl::StatusOr<Scenario> scenario = spec.ScenarioOf(id);
  if (!scenario.ok()) {
    point.status = PointStatus::kInvalid;
    point.message = std::string(scenario.status().message());
    return point;
  }
  point.config_hash = scenario->Hash();
  absl::StatusOr<Report> report = Simulate(*scenario, {.auto_replications = false});
  if (!report.ok()) {
    point.status = PointStatus::kFailed;
    point.message = std::string(report.status().message());
    return point;
  }
  point.report = *std::move(report);
  point.report.simulation.wall_s = 0;
  return point;
}

std::string SweepJob(const SweepSpec& spec) { return fmt::format("sweep {} of simrun {}", spec.Hash(), SIMRUN_VERSION); }

std::string PackPoint(const PointResult& point) {
  MessageWriter out;
  out.Add(static_cast<int64_t>(point.status)).Add(point.message).Add(point.config_hash);
  if (point.status == PointStatus::kDone) out.Add(point.report.ToBinary()).Add(ReportLine(point.report));
  return out.Take();
}

absl::StatusOr<PointResult> UnpackPoint(const SweepSpec& spec, int64_t id, const std::string& packed) {
  PointResult point;
  point.id = id;
  point.repeat = spec.RepeatOf(id);
  point.seed = spec.SeedOf(id);
  point.values = spec.ValuesOf(id);
  MessageReader in(packed);
  point.status = static_cast<PointStatus>(std::clamp<int64_t>(in.Number(), 0, 2));
  point.message = in.Text();
  point.config_hash = in.Text();
  if (point.status == PointStatus::kDone) {
    SIMRUN_ASSIGN_OR_RETURN(point.report, Report::FromBinary(in.Text()));
    point.report_line = in.Text();
  }
  if (!in.ok()) return absl::InternalError(fmt::format("the result of point {} arrived damaged", id));
  return point;
}

absl::StatusOr<SweepResult> Sweep(const SweepSpec& spec, const SweepOptions& options) {
  if (options.shards < 1 || options.shard < 1 || options.shard > options.shards) {
    return absl::InvalidArgumentError(fmt::format("shard {} of {} does not exist", options.shard, options.shards));
  }
  TeamOptions team_options;
  team_options.threads = options.threads;
  team_options.job = SweepJob(spec);
  team_options.on_remark = options.on_remark;
  const auto packed = [&](int64_t id) { return PackPoint(RunPoint(spec, id)); };
  if (options.team != nullptr && options.team->rank() > 0) {
    SIMRUN_RETURN_IF_ERROR(WorkFor(*options.team, team_options, packed, options.cancelled));
    return SweepResult();
  }
  const Metric* best_by = nullptr;
  if (!options.best_by.empty()) {
    SIMRUN_ASSIGN_OR_RETURN(best_by, FindMetric(options.best_by));
  }
  std::unique_ptr<ResultsFile> file;
  std::vector<int64_t> finished;
  if (!options.results_file.empty()) {
    SIMRUN_ASSIGN_OR_RETURN(file, ResultsFile::Open(options.results_file, spec));
    SIMRUN_ASSIGN_OR_RETURN(finished, file->Finished());
  }
  SweepResult result;
  SweepProgress& progress = result.progress;
  std::vector<int64_t> todo;
  for (int64_t id = options.shard - 1; id < spec.size(); id += options.shards) {
    ++progress.total;
    if (std::binary_search(finished.begin(), finished.end(), id)) {
      ++progress.found;
    } else {
      todo.push_back(id);
    }
  }
  progress.done = progress.found;

  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  Clock::time_point last_flush = start, last_report = start;
  absl::Status write_error;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  const auto tick = [&] {
    if (file != nullptr && since(last_flush) > 0.25) {
      write_error = file->Flush();
      last_flush = Clock::now();
      if (!write_error.ok()) return false;
    }
    if (options.on_progress != nullptr && since(last_report) > 0.1) {
      last_report = Clock::now();
      progress.elapsed_s = since(start);
      options.on_progress(progress);
    }
    return options.cancelled == nullptr || !options.cancelled();
  };
  const auto consume = [&](const PointResult& point) {
    if (file != nullptr && write_error.ok()) write_error = file->Add(point);
    if (!write_error.ok()) return false;
    ++progress.done;
    if (point.status == PointStatus::kInvalid) ++progress.invalid;
    if (point.status == PointStatus::kFailed) ++progress.failed;
    if (point.status != PointStatus::kDone && result.first_message.empty()) result.first_message = point.message;
    if (point.status == PointStatus::kDone && best_by != nullptr) {
      const double value = best_by->value(point.report);
      if (!progress.best || (best_by->higher_is_better ? value > *progress.best : value < *progress.best)) progress.best = value;
    }
    if (options.on_point != nullptr) options.on_point(point);
    return true;
  };
  bool completed = false;
  if (options.team != nullptr) {
    const auto unpack = [&](int64_t id, const std::string& bytes) {
      const absl::StatusOr<PointResult> point = UnpackPoint(spec, id, bytes);
      if (!point.ok() && write_error.ok()) write_error = point.status();
      return point.ok() && consume(*point);
    };
    SIMRUN_ASSIGN_OR_RETURN(completed, DealOut(*options.team, std::move(todo), team_options, packed, unpack, tick));
  } else {
    completed = RunPool(todo.size(), options.threads, [&](size_t i) { return RunPoint(spec, todo[i]); },
                        [&](size_t, const PointResult& point) { return consume(point); }, tick);
  }
  if (file != nullptr && write_error.ok()) write_error = file->Flush();
  SIMRUN_RETURN_IF_ERROR(write_error);
  progress.elapsed_s = since(start);
  if (options.on_progress != nullptr) options.on_progress(progress);
  result.cancelled = !completed;
  return result;
}

}  // namespace simrun::planner
