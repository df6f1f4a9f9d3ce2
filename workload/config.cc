#include "workload/config.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/quantity_text.h"
#include "workload/distributions.h"
#include "workload/trace_reader.h"

namespace simrun {
namespace {

constexpr int64_t kMaxZipfValues = int64_t{1} << 20;
constexpr double kMaxPhasesPerArrival = 1e4;

const char kArrivalKinds[] = "poisson, gamma, weibull, onoff, constant or all_at_once";
const char kLengthKinds[] = "fixed, uniform, lognormal, zipf or empirical";

// Collects problems with the place of the setting they are about.
class Checker {
 public:
  Checker(const std::string& path, const YamlNode* node, Problems* problems)
      : path_(path), node_(node), problems_(problems) {}

  void Add(const std::string& at, std::string_view what, std::string_view hint = {}) {
    const YamlNode* node = node_;
    if (node_ != nullptr && !at.empty()) {
      if (const YamlNode* inner = node_->Get(at); inner != nullptr) node = inner;
    }
    const std::string path = at.empty() ? path_ : path_.empty() ? at : path_ + "." + at;
    problems_->Add(node != nullptr ? node->location() : SourceLocation(), path, what, hint);
  }

  // A choice among several keys where `given` were found. An unknown key has been reported by the reader.
  void OneOf(const std::string& at, int given, std::string_view kinds, const std::vector<std::string>& known) {
    if (given == 1) return;
    if (given > 1) return Add(at, fmt::format("has {} of {}", given, kinds), "keep one");
    const YamlNode* node = node_ != nullptr ? node_->Get(at) : nullptr;
    if (node != nullptr) {
      for (const YamlNode::Entry& e : node->entries()) {
        if (std::find(known.begin(), known.end(), e.key) == known.end()) return;
      }
    }
    Add(at, fmt::format("needs one of {}", kinds));
  }

 private:
  const std::string& path_;
  const YamlNode* node_;
  Problems* problems_;
};

void CheckArrivals(const ArrivalsConfig& a, Checker* check) {
  check->OneOf("arrivals", a.poisson.has_value() + a.gamma.has_value() + a.weibull.has_value() + a.onoff.has_value() +
                               a.constant.has_value() + a.all_at_once.has_value(),
               kArrivalKinds, {"poisson", "gamma", "weibull", "onoff", "constant", "all_at_once"});
  if (a.weibull && a.weibull->cv.has_value() == a.weibull->shape.has_value()) {
    check->Add("arrivals.weibull", a.weibull->cv ? "has both cv and shape" : "needs cv or shape",
               a.weibull->cv ? "keep one" : "cv: 2 is bursty, cv: 1 is Poisson");
  }
  if (a.onoff) {
    const OnOffArrivals& o = *a.onoff;
    const double cycle = (o.mean_on + o.mean_off).value();
    const double arrivals = o.rate_on * o.mean_on + o.rate_off * o.mean_off;
    if (cycle > 0 && arrivals * kMaxPhasesPerArrival < 1) {
      check->Add("arrivals.onoff", fmt::format("has {:.3g} requests per burst and pause", arrivals),
                 "make mean_on longer or rate_on higher");
    }
  }
}

void CheckLength(const LengthConfig& l, const std::string& at, Checker* check) {
  check->OneOf(at, l.fixed.has_value() + l.uniform.has_value() + l.lognormal.has_value() + l.zipf.has_value() +
                       l.empirical.has_value(),
               kLengthKinds, {"fixed", "uniform", "lognormal", "zipf", "empirical"});
  if (l.uniform && l.uniform->min > l.uniform->max) check->Add(at + ".uniform", "min is greater than max");
  if (l.zipf && l.zipf->min > l.zipf->max) check->Add(at + ".zipf", "min is greater than max");
  if (l.zipf && l.zipf->max - l.zipf->min >= kMaxZipfValues) {
    check->Add(at + ".zipf", fmt::format("has {} values", l.zipf->max - l.zipf->min + 1),
               fmt::format("at most {} are supported", kMaxZipfValues));
  }
  if (l.lognormal) {
    if (auto solved = SolveLognormal(*l.lognormal); !solved.ok()) {
      check->Add(at + ".lognormal", std::string(solved.status().message()),
                 "for example {mean: 1155, p99: 4142, max: 8192}");
    }
  }
  if (l.empirical) {
    if (l.empirical->file.empty()) check->Add(at + ".empirical.file", "is empty", "name a trace file");
    const std::string& column = l.empirical->column;
    const std::vector<std::string> columns = {"input_tokens", "output_tokens"};
    if (!column.empty() && std::find(columns.begin(), columns.end(), column) == columns.end()) {
      check->Add(at + ".empirical.column", fmt::format("there is no column \"{}\"", column), NameHint(column, columns));
    }
  }
}

std::string Number(double value) { return fmt::format("{:.6g}", value); }

std::string LengthText(const LengthConfig& l) {
  if (l.fixed) return fmt::format("{}", *l.fixed);
  if (l.uniform) return fmt::format("uniform {}-{}", l.uniform->min, l.uniform->max);
  if (l.lognormal) {
    std::string text;
    const auto add = [&text](const char* name, const std::string& value) {
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
    };
    if (l.lognormal->mean) add("mean", Number(*l.lognormal->mean));
    if (l.lognormal->p50) add("p50", Number(*l.lognormal->p50));
    if (l.lognormal->p99) add("p99", Number(*l.lognormal->p99));
    if (l.lognormal->sigma) add("sigma", Number(*l.lognormal->sigma));
    if (l.lognormal->min > 1) add("min", fmt::format("{}", l.lognormal->min));
    if (l.lognormal->max) add("max", fmt::format("{}", *l.lognormal->max));
    return fmt::format("lognormal ({})", text);
  }
  if (l.zipf) return fmt::format("Zipf {}-{} (exponent {})", l.zipf->min, l.zipf->max, Number(l.zipf->exponent));
  if (l.empirical) return fmt::format("from {}", l.empirical->file);
  return "none";
}

std::string ArrivalsText(const ArrivalsConfig& a) {
  if (a.poisson) return fmt::format("Poisson {}", Human(a.poisson->rate));
  if (a.gamma) return fmt::format("Gamma {} (CV {})", Human(a.gamma->rate), Number(a.gamma->cv));
  if (a.weibull) {
    return fmt::format("Weibull {} ({} {})", Human(a.weibull->rate), a.weibull->cv ? "CV" : "shape",
                       Number(a.weibull->cv ? *a.weibull->cv : a.weibull->shape.value_or(1)));
  }
  if (a.onoff) {
    return fmt::format("bursts of {} for {} and {} for {}", Human(a.onoff->rate_on), Human(a.onoff->mean_on),
                       Human(a.onoff->rate_off), Human(a.onoff->mean_off));
  }
  if (a.constant) return fmt::format("constant {}", Human(a.constant->rate));
  return "all at once";
}

std::string ThinkTimeText(const ThinkTimeConfig& t) {
  if (t.fixed) return Human(*t.fixed);
  if (t.exponential) return fmt::format("exponential, mean {}", Human(t.exponential->mean));
  if (t.uniform) return fmt::format("{} to {}", Human(t.uniform->min), Human(t.uniform->max));
  return "none";
}

}  // namespace

std::vector<std::string> TraceFormatChoices() { return TraceFormatNames(); }

absl::Status ArrivalsConfig::ReadScalar(const YamlNode& node) {
  all_at_once.emplace();
  const std::string& text = node.text();
  if (text == "all_at_once") return absl::OkStatus();
  const std::vector<std::string> names = {"poisson", "gamma", "weibull", "onoff", "constant", "all_at_once"};
  if (std::find(names.begin(), names.end(), text) != names.end()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" needs settings; write {{{}: {{rate: 4 /s}}}}", text, text));
  }
  return absl::InvalidArgumentError(fmt::format("unknown arrival process \"{}\"; {}", text, NameHint(text, names)));
}

absl::Status RoutingConfig::ReadScalar(const YamlNode& node) {
  uniform.emplace();
  const std::string& text = node.text();
  if (text == "uniform") return absl::OkStatus();
  const std::vector<std::string> names = {"uniform", "gamma", "zipf", "popularity", "recorded"};
  if (std::find(names.begin(), names.end(), text) != names.end()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" needs settings; for example {{gamma: {{cv: 0.8}}}}", text));
  }
  return absl::InvalidArgumentError(fmt::format("unknown kind of routing \"{}\"; {}", text, NameHint(text, names)));
}

absl::Status LengthConfig::ReadScalar(const YamlNode& node) {
  fixed = 1;  // a length there is, so that nothing reports it as missing
  int64_t value = 0;
  if (const std::string error = params_internal::ReadInteger(node, &value); !error.empty()) {
    return absl::InvalidArgumentError(error);
  }
  if (value < 1 || value > 1'000'000'000) return absl::InvalidArgumentError("must be 1 to 1000000000 tokens");
  fixed = value;
  return absl::OkStatus();
}

bool LengthConfig::WriteScalar(YamlNode* node) const {
  if (!fixed || uniform || lognormal || zipf || empirical) return false;
  *node = YamlNode::Scalar(fmt::format("{}", *fixed));
  return true;
}

absl::Status ThinkTimeConfig::ReadScalar(const YamlNode& node) {
  fixed = Seconds(0);
  double value = 0;
  if (const std::string error = params_internal::ReadQuantity(node, DimensionOf(Seconds()), &value); !error.empty()) {
    return absl::InvalidArgumentError(error);
  }
  if (value < 0 || value > kMaxWorkloadSeconds) return absl::InvalidArgumentError("must be 0 s to 28 years");
  fixed = Seconds(value);
  return absl::OkStatus();
}

bool ThinkTimeConfig::WriteScalar(YamlNode* node) const {
  if (!fixed || exponential || uniform) return false;
  *node = YamlNode::Scalar(FormatQuantityText(fixed->value(), DimensionOf(Seconds())));
  return true;
}

void ValidateWorkload(const WorkloadConfig& c, const std::string& path, const YamlNode* node, Problems* problems) {
  Checker check(path, node, problems);
  const bool has_trace = !c.trace.empty();
  const int clocks = c.arrivals.has_value() + c.concurrency.has_value() + c.static_batch.has_value();
  const bool trace_times = has_trace && clocks == 0;

  if (clocks == 0 && !has_trace) {
    check.Add("", "nothing says when requests arrive",
              "give trace, arrivals, concurrency or static_batch, for example arrivals: {poisson: {rate: 4 /s}}");
  }
  if (clocks > 1) {
    check.Add("", "has more than one of arrivals, concurrency and static_batch", "keep the one that sets the times");
  }
  if (c.arrivals) CheckArrivals(*c.arrivals, &check);

  for (const auto& [name, length] : {std::pair("input_tokens", &c.input_tokens), std::pair("output_tokens", &c.output_tokens)}) {
    if (*length) {
      CheckLength(**length, name, &check);
    } else if (!has_trace) {
      check.Add("", fmt::format("{} is missing", name), fmt::format("give a number or a distribution, such as {}: 200", name));
    }
  }
  if (has_trace && clocks > 0 && c.input_tokens && c.output_tokens) {
    check.Add("trace", "is not used: times and both lengths come from elsewhere",
              "remove trace, or what should come from it");
  }

  if (c.think_time) {
    const ThinkTimeConfig& t = *c.think_time;
    check.OneOf("think_time", t.fixed.has_value() + t.exponential.has_value() + t.uniform.has_value(),
                "fixed, exponential or uniform", {"fixed", "exponential", "uniform"});
    if (t.uniform && t.uniform->min > t.uniform->max) check.Add("think_time.uniform", "min is greater than max");
    if (!c.concurrency) check.Add("think_time", "needs a closed loop", "give concurrency, the number of clients");
  }
  if (c.ramp_up.value() > 0 && !c.concurrency) check.Add("ramp_up", "needs a closed loop", "give concurrency, the number of clients");
  if (c.batches != 1 && !c.static_batch) check.Add("batches", "needs static_batch", "give static_batch, the size of a batch");

  if (c.routing) {
    const RoutingConfig& r = *c.routing;
    check.OneOf("routing", r.uniform.has_value() + r.gamma.has_value() + r.zipf.has_value() + r.popularity.has_value() + r.recorded.has_value(),
                "uniform, gamma, zipf, popularity or recorded", {"uniform", "gamma", "zipf", "popularity", "recorded"});
    if (r.popularity && r.popularity->file.empty()) check.Add("routing.popularity.file", "is empty", "name a table");
    if (r.recorded && r.recorded->file.empty()) check.Add("routing.recorded.file", "is empty", "name a recording");
  }

  if (c.hash_block && !has_trace) check.Add("hash_block", "needs a trace");
  if (c.hash_block && (c.shared_prefix || c.conversations || c.input_tokens)) {
    check.Add("hash_block", "is not used: the prompts are not those of the trace", "leave it out");
  }
  if (!has_trace && c.format != "auto") check.Add("format", "needs a trace");
  if (auto format = ParseTraceFormat(c.format); !format.ok()) check.Add("format", std::string(format.status().message()));
  if (c.start.value() != 0 && !trace_times) check.Add("start", "needs a trace that sets the times of arrival");
  const bool scales = trace_times || (c.arrivals && !c.arrivals->all_at_once);
  if (c.time_scale != 1 && !scales) check.Add("time_scale", "has nothing to scale", "it needs a trace or an arrival rate");
  if (c.rate_scale != 1 && !scales) check.Add("rate_scale", "has nothing to scale", "it needs a trace or an arrival rate");

  if (!has_trace && !c.static_batch && clocks == 1 && !c.requests) {
    if (c.arrivals && c.arrivals->all_at_once) {
      check.Add("", "requests is missing: the number that arrive at once");
    } else if (!c.duration) {
      check.Add("", "would never end", "give requests, the number to send, or duration");
    }
  }
}

void ReadWorkload(const YamlNode& node, const std::string& path, Problems* problems, WorkloadConfig* out) {
  ReadParams(node, path, problems, out);
  if (node.IsMap()) ValidateWorkload(*out, path, &node, problems);
}

std::optional<PerSecond> OfferedRate(const WorkloadConfig& config) {
  if (!config.arrivals) return std::nullopt;
  const ArrivalsConfig& a = *config.arrivals;
  PerSecond rate;
  if (a.poisson) {
    rate = a.poisson->rate;
  } else if (a.gamma) {
    rate = a.gamma->rate;
  } else if (a.weibull) {
    rate = a.weibull->rate;
  } else if (a.onoff) {
    const OnOffArrivals& o = *a.onoff;
    rate = (o.rate_on * o.mean_on + o.rate_off * o.mean_off) / (o.mean_on + o.mean_off);
  } else if (a.constant) {
    rate = a.constant->rate;
  } else {
    return std::nullopt;
  }
  return rate * (config.rate_scale / config.time_scale);
}

bool IsRandom(const WorkloadConfig& config) {
  const auto random = [](const std::optional<LengthConfig>& length) { return length && !length->fixed; };
  return (config.arrivals && !config.arrivals->constant && !config.arrivals->all_at_once) || random(config.input_tokens) ||
         random(config.output_tokens) || (config.think_time && !config.think_time->fixed) || (config.shared_prefix && config.shared_prefix->groups > 1) ||
         (config.conversations && config.conversations->active > 1) ||
         (config.priorities && config.priorities->levels > 1) || config.routing.has_value();
}

std::string WorkloadSummary(const WorkloadConfig& c) {
  std::vector<std::string> parts;
  if (c.requests) parts.push_back(fmt::format("{} requests", *c.requests));
  if (c.duration) parts.push_back(Human(*c.duration));
  if (!c.trace.empty()) parts.push_back(fmt::format("trace {}", c.trace));
  if (c.start.value() != 0) parts.push_back(fmt::format("from {}", Human(c.start)));
  if (c.arrivals) parts.push_back(ArrivalsText(*c.arrivals));
  if (c.time_scale != 1 || c.rate_scale != 1) parts.push_back(fmt::format("rate x {}", Number(c.rate_scale / c.time_scale)));
  if (c.concurrency) parts.push_back(fmt::format("closed loop of {}", *c.concurrency));
  if (c.think_time) parts.push_back(fmt::format("think time {}", ThinkTimeText(*c.think_time)));
  if (c.static_batch) parts.push_back(fmt::format("{} static {} of {}", c.batches, c.batches == 1 ? "batch" : "batches", *c.static_batch));
  if (c.input_tokens) parts.push_back(fmt::format("input {}", LengthText(*c.input_tokens)));
  if (c.output_tokens) parts.push_back(fmt::format("output {}", LengthText(*c.output_tokens)));
  if (c.conversations) parts.push_back(fmt::format("{} conversations of {} turns", c.conversations->active, c.conversations->turns));
  if (c.shared_prefix) {
    const SharedPrefixConfig& s = *c.shared_prefix;
    const std::string skew = s.exponent > 0 ? fmt::format(" (exponent {})", Number(s.exponent)) : "";
    parts.push_back(s.groups == 1 ? fmt::format("system prompt of {} tokens", s.tokens)
                                  : fmt::format("{} system prompts of {} tokens{}", s.groups, s.tokens, skew));
  }
  if (c.priorities) parts.push_back(fmt::format("{} priority levels", c.priorities->levels));
  if (c.deadline) parts.push_back(fmt::format("deadline {}", Human(*c.deadline)));
  std::string text;
  for (const std::string& p : parts) text += (text.empty() ? "" : ", ") + p;
  return text;
}

}  // namespace simrun
