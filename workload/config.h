// The `workload:` section of a scenario: who arrives when, with how many tokens.
//
// Two questions have independent answers:
//   when:  a trace's own times, an arrival process (`arrivals`), a closed loop (`concurrency`), or `static_batch`
//   what:  a trace's lengths, or the distributions `input_tokens` and `output_tokens`; a distribution replaces the
//          trace's column of the same name
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/params.h"
#include "base/status.h"
#include "base/units.h"
#include "base/yaml.h"

namespace simrun {

// Simulated time ends a little later, after 29 years.
inline constexpr double kMaxWorkloadSeconds = 9e8;

// Independent exponential gaps.
struct PoissonArrivals {
  PerSecond rate{1};
  template <class V> void Describe(V& v) {
    v.Field("rate", rate, {.help = "mean requests per second", .min = 0, .above_min = true, .required = true});
  }
};

// Independent Gamma gaps: shape 1/cv^2, scale cv^2/rate. cv 1 is Poisson, above 1 is bursty.
struct GammaArrivals {
  PerSecond rate{1};
  double cv = 1;
  template <class V> void Describe(V& v) {
    v.Field("rate", rate, {.help = "mean requests per second", .min = 0, .above_min = true, .required = true});
    v.Field("cv", cv, {.help = "coefficient of variation of the gaps", .min = 0.01, .max = 100, .required = true});
  }
};

// Independent Weibull gaps, by `cv` or by `shape` (shape < 1 is bursty).
struct WeibullArrivals {
  PerSecond rate{1};
  std::optional<double> cv;
  std::optional<double> shape;
  template <class V> void Describe(V& v) {
    v.Field("rate", rate, {.help = "mean requests per second", .min = 0, .above_min = true, .required = true});
    v.Field("cv", cv, {.help = "coefficient of variation of the gaps; give this or shape", .min = 0.01, .max = 100});
    v.Field("shape", shape, {.help = "Weibull shape parameter; give this or cv", .min = 0.1, .max = 100});
  }
};

// Two Poisson rates in alternation, each phase exponentially long: a two-state Markov-modulated Poisson process.
struct OnOffArrivals {
  PerSecond rate_on{1};
  PerSecond rate_off{0};
  Seconds mean_on{1};
  Seconds mean_off{1};
  template <class V> void Describe(V& v) {
    v.Field("rate_on", rate_on, {.help = "requests per second in a burst", .min = 0, .above_min = true, .required = true});
    v.Field("rate_off", rate_off, {.help = "requests per second between bursts", .min = 0});
    v.Field("mean_on", mean_on, {.help = "mean length of a burst", .min = 0, .above_min = true, .required = true});
    v.Field("mean_off", mean_off, {.help = "mean time between bursts", .min = 0, .above_min = true, .required = true});
  }
};

// Equal gaps, the first request at 0.
struct ConstantArrivals {
  PerSecond rate{1};
  template <class V> void Describe(V& v) {
    v.Field("rate", rate, {.help = "requests per second", .min = 0, .above_min = true, .required = true});
  }
};

// Every request at 0: an offline job.
struct AllAtOnceArrivals {
  template <class V> void Describe(V&) {}
};

// Exactly one of these. `arrivals: all_at_once` is short for `{all_at_once: {}}`.
struct ArrivalsConfig {
  std::optional<PoissonArrivals> poisson;
  std::optional<GammaArrivals> gamma;
  std::optional<WeibullArrivals> weibull;
  std::optional<OnOffArrivals> onoff;
  std::optional<ConstantArrivals> constant;
  std::optional<AllAtOnceArrivals> all_at_once;
  template <class V> void Describe(V& v) {
    v.Field("poisson", poisson, {.help = "independent exponential gaps"});
    v.Field("gamma", gamma, {.help = "Gamma gaps with a chosen burstiness"});
    v.Field("weibull", weibull, {.help = "Weibull gaps with a chosen burstiness"});
    v.Field("onoff", onoff, {.help = "bursts: two Poisson rates in alternation"});
    v.Field("constant", constant, {.help = "equal gaps, the first request at 0"});
    v.Field("all_at_once", all_at_once, {.help = "every request at 0"});
  }
  absl::Status ReadScalar(const YamlNode& node);
};

struct UniformLength {
  int64_t min = 1;
  int64_t max = 1;
  template <class V> void Describe(V& v) {
    v.Field("min", min, {.help = "smallest length, tokens", .min = 1, .max = 1e9});
    v.Field("max", max, {.help = "largest length, tokens", .min = 1, .max = 1e9, .required = true});
  }
};

// A lognormal cut to [min, max] by drawing again (not by clamping, which would pile requests up at max), then rounded
// to whole tokens. Two of mean, p50, p99 and sigma; mean, p50 and p99 are those of the lengths drawn, after the cut:
// mu and sigma are solved for that.
struct LognormalLength {
  std::optional<double> mean;
  std::optional<double> p50;
  std::optional<double> p99;
  std::optional<double> sigma;
  int64_t min = 1;
  std::optional<int64_t> max;
  template <class V> void Describe(V& v) {
    v.Field("mean", mean, {.help = "mean of the lengths drawn, tokens", .min = 1, .max = 1e9});
    v.Field("p50", p50, {.help = "median of the lengths drawn, tokens", .min = 1, .max = 1e9});
    v.Field("p99", p99, {.help = "99th percentile of the lengths drawn, tokens", .min = 1, .max = 1e9});
    v.Field("sigma", sigma, {.help = "standard deviation of the logarithm before the cut", .min = 0.001, .max = 4});
    v.Field("min", min, {.help = "shortest length drawn, tokens", .min = 1, .max = 1e9});
    v.Field("max", max, {.help = "longest length drawn, tokens; auto: no limit", .min = 1, .max = 1e9});
  }
};

// P(length) proportional to (length - min + 1)^-exponent on min..max.
struct ZipfLength {
  int64_t min = 1;
  int64_t max = 1;
  double exponent = 1;
  template <class V> void Describe(V& v) {
    v.Field("min", min, {.help = "smallest and most frequent length, tokens", .min = 1, .max = 1e9});
    v.Field("max", max, {.help = "largest length, tokens; at most 2^20 values", .min = 1, .max = 1e9, .required = true});
    v.Field("exponent", exponent, {.help = "how fast the frequency falls", .min = 0, .max = 10});
  }
};

// Lengths of a trace file, each row equally likely, drawn independently.
struct EmpiricalLength {
  std::string file;
  std::string column;
  std::optional<int64_t> max;
  template <class V> void Describe(V& v) {
    v.Field("file", file, {.help = "trace file in any format of `trace`", .required = true});
    v.Field("column", column, {.help = "input_tokens or output_tokens; empty: the one being described"});
    v.Field("max", max, {.help = "rows with a longer value are left out; auto: none", .min = 1, .max = 1e9});
  }
};

// Exactly one of these. `output_tokens: 200` is short for `{fixed: 200}`.
struct LengthConfig {
  std::optional<int64_t> fixed;
  std::optional<UniformLength> uniform;
  std::optional<LognormalLength> lognormal;
  std::optional<ZipfLength> zipf;
  std::optional<EmpiricalLength> empirical;
  template <class V> void Describe(V& v) {
    v.Field("fixed", fixed, {.help = "the same length for all, tokens", .min = 1, .max = 1e9});
    v.Field("uniform", uniform, {.help = "every length in a range equally likely"});
    v.Field("lognormal", lognormal, {.help = "lognormal, the usual fit to chat traffic"});
    v.Field("zipf", zipf, {.help = "power law"});
    v.Field("empirical", empirical, {.help = "drawn from a column of a trace file"});
  }
  absl::Status ReadScalar(const YamlNode& node);
  bool WriteScalar(YamlNode* node) const;
};

struct ExponentialTime {
  Seconds mean{1};
  template <class V> void Describe(V& v) {
    v.Field("mean", mean, {.help = "mean time", .min = 0, .max = kMaxWorkloadSeconds, .above_min = true, .required = true});
  }
};
struct UniformTime {
  Seconds min{0};
  Seconds max{0};
  template <class V> void Describe(V& v) {
    v.Field("min", min, {.help = "shortest time", .min = 0, .max = kMaxWorkloadSeconds});
    v.Field("max", max, {.help = "longest time", .min = 0, .max = kMaxWorkloadSeconds, .required = true});
  }
};

// Time between a client's completion and its next request. `think_time: 2 s` is short for `{fixed: 2 s}`.
struct ThinkTimeConfig {
  std::optional<Seconds> fixed;
  std::optional<ExponentialTime> exponential;
  std::optional<UniformTime> uniform;
  template <class V> void Describe(V& v) {
    v.Field("fixed", fixed, {.help = "the same time for all", .min = 0, .max = kMaxWorkloadSeconds});
    v.Field("exponential", exponential, {.help = "exponentially distributed"});
    v.Field("uniform", uniform, {.help = "every time in a range equally likely"});
  }
  absl::Status ReadScalar(const YamlNode& node);
  bool WriteScalar(YamlNode* node) const;
};

struct PrioritiesConfig {
  int64_t levels = 1;
  template <class V> void Describe(V& v) {
    v.Field("levels", levels,
            {.help = "each request gets one of 0 (first) to levels - 1, equally likely", .min = 1, .max = 1e6,
             .required = true});
  }
};

// System prompts: each request's prompt starts with one of `groups` texts of `tokens` tokens, drawn with probability
// proportional to rank^-exponent.
struct SharedPrefixConfig {
  int64_t tokens = 0;
  int64_t groups = 1;
  double exponent = 0;
  template <class V> void Describe(V& v) {
    v.Field("tokens", tokens, {.help = "length of the text, in front of and beside input_tokens", .min = 1, .max = 1e8, .required = true});
    v.Field("groups", groups, {.help = "number of different texts", .min = 1, .max = 1 << 20});
    v.Field("exponent", exponent, {.help = "how fast the popularity of the texts falls with their rank; 0: all equally likely", .min = 0, .max = 10});
  }
};

// Each request is the next turn of one of `active` conversations, chosen at random: its prompt is all that was said before,
// prompts and answers, and input_tokens more. After `turns` turns a new conversation begins in its place.
struct ConversationsConfig {
  int64_t active = 1;
  int64_t turns = 1;
  template <class V> void Describe(V& v) {
    v.Field("active", active, {.help = "conversations going on at once", .min = 1, .max = 1e6, .required = true});
    v.Field("turns", turns, {.help = "requests of a conversation", .min = 1, .max = 1e6, .required = true});
  }
};

struct UniformRouting {
  template <class V> void Describe(V&) {}
};
struct GammaRouting {
  double cv = 0.83;
  template <class V> void Describe(V& v) {
    v.Field("cv", cv, {.help = "standard deviation over mean of expert popularity", .min = 0, .max = 10, .required = true});
  }
};
struct ZipfRouting {
  double exponent = 1;
  template <class V> void Describe(V& v) {
    v.Field("exponent", exponent, {.help = "how fast popularity falls with rank", .min = 0, .max = 10, .required = true});
  }
};
struct PopularityRouting {
  std::string file;
  std::string group;
  template <class V> void Describe(V& v) {
    v.Field("file", file, {.help = "CSV with columns layer, expert, tokens_routed", .required = true});
    v.Field("group", group, {.help = "rows to use, by the columns before layer joined by /; empty: those of the first row"});
  }
};
struct RecordedRouting {
  std::string file;
  template <class V> void Describe(V& v) {
    v.Field("file", file, {.help = "CSV with one row per token: seq, token, and the experts chosen in each layer; plain or gzip", .required = true});
  }
};

// How tokens choose experts. At most one of the first five; without any, popularity as measured or typical for the
// model. `routing: uniform` is short for `{uniform: {}}`.
struct RoutingConfig {
  std::optional<UniformRouting> uniform;
  std::optional<GammaRouting> gamma;
  std::optional<ZipfRouting> zipf;
  std::optional<PopularityRouting> popularity;
  std::optional<RecordedRouting> recorded;
  template <class V> void Describe(V& v) {
    v.Field("uniform", uniform, {.help = "every expert equally likely"});
    v.Field("gamma", gamma, {.help = "popularity by a gamma law, drawn for each layer"});
    v.Field("zipf", zipf, {.help = "popularity falls as a power of the rank, ranks drawn for each layer"});
    v.Field("popularity", popularity, {.help = "popularity from a table"});
    v.Field("recorded", recorded, {.help = "choices recorded token by token"});
  }
  absl::Status ReadScalar(const YamlNode& node);
};

std::vector<std::string> TraceFormatChoices();  // "auto", "generic", ...

struct WorkloadConfig {
  std::string trace;
  std::string format = "auto";
  Seconds start{0};
  double time_scale = 1;
  double rate_scale = 1;
  bool skip_invalid = false;
  std::optional<int64_t> hash_block;
  std::optional<ArrivalsConfig> arrivals;
  std::optional<int64_t> concurrency;
  std::optional<ThinkTimeConfig> think_time;
  Seconds ramp_up{0};
  std::optional<int64_t> static_batch;
  int64_t batches = 1;
  std::optional<LengthConfig> input_tokens;
  std::optional<LengthConfig> output_tokens;
  std::optional<SharedPrefixConfig> shared_prefix;
  std::optional<ConversationsConfig> conversations;
  std::optional<int64_t> requests;
  std::optional<Seconds> duration;
  std::optional<PrioritiesConfig> priorities;
  std::optional<Seconds> deadline;
  std::optional<RoutingConfig> routing;

  template <class V> void Describe(V& v) {
    v.Field("trace", trace, {.help = "request trace, CSV or JSON lines, plain or gzip; relative to the configuration file"});
    v.Field("format", format, {.help = "layout of the trace; auto looks at its first line", .choices = &TraceFormatChoices});
    v.Field("start", start, {.help = "leave out the trace before this time, which becomes 0", .min = 0, .max = kMaxWorkloadSeconds});
    v.Field("time_scale", time_scale,
            {.help = "multiplies the gaps of a trace or arrival process", .min = 1e-9, .max = 1e9});
    v.Field("rate_scale", rate_scale,
            {.help = "multiplies the rate of a trace or arrival process", .min = 1e-9, .max = 1e9});
    v.Field("skip_invalid", skip_invalid,
            {.help = "leave out and count trace rows with zero tokens (failed requests) instead of stopping"});
    v.Field("hash_block", hash_block,
            {.help = "tokens that one of the trace's hash_ids stands for, which say what prompts have in common; auto: 512 for mooncake, "
                     "16 for bailian, else by the first row that has any", .min = 1, .max = 1 << 20});
    v.Field("arrivals", arrivals, {.help = "arrival process"});
    v.Field("concurrency", concurrency,
            {.help = "closed loop: this many clients, each with one request at a time, all starting at 0", .min = 1,
             .max = 1e7});
    v.Field("ramp_up", ramp_up,
            {.help = "the clients of a closed loop start evenly over this time; 0: all at once", .min = 0});
    v.Field("think_time", think_time, {.help = "closed loop: from a completion to the client's next request; default 0"});
    v.Field("static_batch", static_batch,
            {.help = "this many requests at once, the next batch when all have finished", .min = 1, .max = 1e9});
    v.Field("batches", batches, {.help = "number of static batches", .min = 1, .max = 1e9});
    v.Field("input_tokens", input_tokens, {.help = "prompt lengths"});
    v.Field("output_tokens", output_tokens, {.help = "generated lengths"});
    v.Field("shared_prefix", shared_prefix, {.help = "system prompts that requests have in common; hash_ids of a trace are then not used"});
    v.Field("conversations", conversations, {.help = "each prompt repeats what was said in its conversation; hash_ids of a trace are then not used"});
    v.Field("requests", requests, {.help = "stop after this many requests; auto: no limit", .min = 1});
    v.Field("duration", duration,
            {.help = "only arrivals before this time; requests under way are finished; auto: no limit", .min = 0,
             .max = kMaxWorkloadSeconds, .above_min = true});
    v.Field("priorities", priorities, {.help = "random priority classes"});
    v.Field("deadline", deadline, {.help = "deadline of a request after its arrival; auto: none", .min = 0,
                                      .max = kMaxWorkloadSeconds, .above_min = true});
    v.Field("routing", routing, {.help = "which experts tokens choose, for models that have them; auto: the model's"});
  }
};

// Adds every contradiction and gap of the section to `problems`: no or several sources of times or lengths, no end,
// bounds the wrong way round, moments that no lognormal has. `node` is the section as read, for line numbers, or
// null when the configuration was built in code. Opens no file.
void ValidateWorkload(const WorkloadConfig& config, const std::string& path, const YamlNode* node, Problems* problems);
// ReadParams and ValidateWorkload.
void ReadWorkload(const YamlNode& node, const std::string& path, Problems* problems, WorkloadConfig* out);

// The traffic depends on the seed.
bool IsRandom(const WorkloadConfig& config);
// Mean arrival rate by the parameters, rate_scale included. None for a trace's own times, closed loops, batches and
// all_at_once.
std::optional<PerSecond> OfferedRate(const WorkloadConfig& config);
// One line for people: `10000 requests, Poisson 4 /s, input lognormal (mean 1155, p99 4142, max 8192), output 200`.
std::string WorkloadSummary(const WorkloadConfig& config);

}  // namespace simrun
