#include "base/quantity_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun {

namespace {

constexpr Dimension kNumber{};
constexpr Dimension kTime{.time = 1};
constexpr Dimension kSize{.byte = 1};
constexpr Dimension kCompute{.flop = 1};
constexpr Dimension kEnergy{.joule = 1};
constexpr Dimension kTokens{.token = 1};
constexpr Dimension kMoney{.dollar = 1};
constexpr Dimension kRate{.time = -1};
constexpr Dimension kBandwidth{.time = -1, .byte = 1};
constexpr Dimension kComputeRate{.time = -1, .flop = 1};
constexpr Dimension kTokenRate{.time = -1, .token = 1};
constexpr Dimension kPower{.time = -1, .joule = 1};
constexpr Dimension kPrice{.time = -1, .dollar = 1};

// A unit is factor / divisor * 10^exponent base units. Powers of ten are kept apart so that "18.4 ms" is read as the
// double nearest to 0.0184, without a second rounding.
struct Unit {
  std::string_view name;
  Dimension dimension;
  int exponent = 0;
  double factor = 1;
  double divisor = 1;
};

constexpr Unit kUnits[] = {
    {"s", kTime},
    {"ms", kTime, -3},
    {"us", kTime, -6},
    {"\u00B5s", kTime, -6},  // micro sign
    {"\u03BCs", kTime, -6},  // Greek mu
    {"ns", kTime, -9},
    {"min", kTime, 0, 60},
    {"h", kTime, 0, 3600},
    {"day", kTime, 0, 86400},
    {"days", kTime, 0, 86400},
    {"B", kSize},
    {"kB", kSize, 3},
    {"KB", kSize, 3},
    {"MB", kSize, 6},
    {"GB", kSize, 9},
    {"TB", kSize, 12},
    {"PB", kSize, 15},
    {"KiB", kSize, 0, 0x1p10},
    {"MiB", kSize, 0, 0x1p20},
    {"GiB", kSize, 0, 0x1p30},
    {"TiB", kSize, 0, 0x1p40},
    {"bit", kSize, 0, 1, 8},
    {"kbit", kSize, 3, 1, 8},
    {"Mbit", kSize, 6, 1, 8},
    {"Gbit", kSize, 9, 1, 8},
    {"Tbit", kSize, 12, 1, 8},
    {"Mbps", kBandwidth, 6, 1, 8},
    {"Gbps", kBandwidth, 9, 1, 8},
    {"Tbps", kBandwidth, 12, 1, 8},
    {"FLOP", kCompute},
    {"FLOPs", kCompute},
    {"MFLOP", kCompute, 6},
    {"GFLOP", kCompute, 9},
    {"GFLOPs", kCompute, 9},
    {"TFLOP", kCompute, 12},
    {"TFLOPs", kCompute, 12},
    {"PFLOP", kCompute, 15},
    {"PFLOPs", kCompute, 15},
    {"OP", kCompute},
    {"GOP", kCompute, 9},
    {"TOP", kCompute, 12},
    {"POP", kCompute, 15},
    {"FLOPS", kComputeRate},
    {"GFLOPS", kComputeRate, 9},
    {"TFLOPS", kComputeRate, 12},
    {"PFLOPS", kComputeRate, 15},
    {"TOPS", kComputeRate, 12},
    {"POPS", kComputeRate, 15},
    {"J", kEnergy},
    {"mJ", kEnergy, -3},
    {"kJ", kEnergy, 3},
    {"MJ", kEnergy, 6},
    {"Wh", kEnergy, 2, 36},
    {"kWh", kEnergy, 5, 36},
    {"MWh", kEnergy, 8, 36},
    {"W", kPower},
    {"mW", kPower, -3},
    {"kW", kPower, 3},
    {"MW", kPower, 6},
    {"tok", kTokens},
    {"token", kTokens},
    {"tokens", kTokens},
    {"ktok", kTokens, 3},
    {"Mtok", kTokens, 6},
    {"USD", kMoney},
    {"$", kMoney},
    {"req", kNumber},
    {"request", kNumber},
    {"requests", kNumber},
    {"Hz", kRate},
    {"kHz", kRate, 3},
    {"MHz", kRate, 6},
    {"GHz", kRate, 9},
};

const Unit* FindUnit(std::string_view name) {
  for (const Unit& u : kUnits) {
    if (u.name == name) return &u;
  }
  return nullptr;
}

// How one dimension is called, exemplified and printed.
struct Kind {
  Dimension dimension;
  std::string_view name;      // "a time"
  std::string_view example;   // "500 ms"
  std::string_view examples;  // units for help texts
  // Units for printing, with the range of numbers that reads well in each. The first is the fallback.
  struct Scale {
    std::string_view unit;
    double low, high;
  };
  Scale scales[8];
};

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr Kind kKinds[] = {
    {kTime, "a time", "500 ms", "ns, us, ms, s, min, h, day",
     {{"s", 1, 1e5}, {"ms", 1, 1000}, {"us", 1, 1000}, {"ns", 0, 1000}, {"min", 1, 60}, {"h", 1, 100},
      {"day", 2, kInfinity}}},
    {kSize, "a size", "80 GB", "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB",
     {{"B", 0, 1000}, {"KB", 1, 1000}, {"MB", 1, 1000}, {"GB", 1, 1000}, {"TB", 1, kInfinity}, {"KiB", 1, 1024},
      {"MiB", 1, 1024}, {"GiB", 1, 1024}}},
    {kCompute, "an amount of computation", "2 TFLOP", "FLOP, GFLOP, TFLOP, PFLOP",
     {{"FLOP", 0, 1000}, {"MFLOP", 1, 1000}, {"GFLOP", 1, 1000}, {"TFLOP", 1, 1000}, {"PFLOP", 1, kInfinity}}},
    {kEnergy, "an energy", "5 kJ", "J, kJ, MJ, Wh, kWh",
     {{"J", 1, 1000}, {"mJ", 0, 1000}, {"kJ", 1, 1000}, {"MJ", 1, kInfinity}}},
    {kTokens, "a number of tokens", "300 tok", "tok, ktok, Mtok", {{"tok", 0, kInfinity}}},
    {kMoney, "an amount of money", "2.5 USD", "USD", {{"USD", 0, kInfinity}}},
    {kRate, "a rate or frequency", "4 /s", "/s, /min, /h, Hz, MHz, GHz",
     {{"/s", 0, 1e6}, {"MHz", 1, 1000}, {"GHz", 1, kInfinity}, {"/min", 1, 1000}, {"/h", 1, 1000}}},
    {kBandwidth, "a bandwidth", "3.35 TB/s", "MB/s, GB/s, TB/s, GiB/s, Gbit/s",
     {{"B/s", 0, 1000}, {"KB/s", 1, 1000}, {"MB/s", 1, 1000}, {"GB/s", 1, 1000}, {"TB/s", 1, kInfinity},
      {"GiB/s", 1, 1024}}},
    {kComputeRate, "a compute rate", "989 TFLOP/s", "GFLOP/s, TFLOP/s, PFLOP/s",
     {{"FLOP/s", 0, 1000}, {"MFLOP/s", 1, 1000}, {"GFLOP/s", 1, 1000}, {"TFLOP/s", 1, 1000},
      {"PFLOP/s", 1, kInfinity}}},
    {kTokenRate, "a token rate", "1000 tok/s", "tok/s, ktok/s, tok/min", {{"tok/s", 0, kInfinity}}},
    {kPower, "a power", "700 W", "mW, W, kW", {{"W", 1, 1000}, {"mW", 0, 1000}, {"kW", 1, 1000}, {"MW", 1, kInfinity}}},
    {kPrice, "a price per time", "2.5 USD/h", "USD/h, USD/s", {{"USD/s", 1, kInfinity}, {"USD/h", 0, kInfinity}}},
};

const Kind* FindKind(const Dimension& dimension) {
  for (const Kind& k : kKinds) {
    if (k.dimension == dimension) return &k;
  }
  return nullptr;
}

// "J/tok", "FLOP/B", "/tok": base units of a dimension that has no entry above.
std::string BaseUnit(const Dimension& d) {
  const std::pair<int, std::string_view> parts[] = {{d.byte, "B"},  {d.flop, "FLOP"},  {d.joule, "J"},
                                                    {d.token, "tok"}, {d.dollar, "USD"}, {d.time, "s"}};
  std::string above, below;
  for (const auto& [exponent, name] : parts) {
    for (int i = 0; i < exponent; ++i) above += fmt::format("{}{}", above.empty() ? "" : "*", name);
    for (int i = 0; i > exponent; --i) below += fmt::format("/{}", name);
  }
  return above + below;
}

std::string KindName(const Dimension& dimension) {
  if (const Kind* kind = FindKind(dimension)) return std::string(kind->name);
  return dimension == kNumber ? "a plain number" : "in " + BaseUnit(dimension);
}

std::string Example(const Dimension& dimension) {
  if (const Kind* kind = FindKind(dimension)) return std::string(kind->example);
  return "1.5 " + BaseUnit(dimension);
}

// "ns, us or ms": the examples as the end of a sentence.
std::string UnitAdvice(const Dimension& dimension) {
  std::string units = UnitExamples(dimension);
  const size_t comma = units.rfind(", ");
  if (comma != std::string::npos) units.replace(comma, 2, " or ");
  return units;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// A decimal literal split into its digits and its power of ten.
struct Decimal {
  std::string mantissa;  // as from_chars reads it, without exponent
  int exponent = 0;
};

// Takes a decimal number off the front of `text`; nullopt when there is none ("inf", "nan" and "0x10" are none).
std::optional<Decimal> TakeDecimal(std::string_view* text) {
  const std::string_view t = *text;
  size_t i = 0;
  Decimal d;
  if (i < t.size() && (t[i] == '-' || t[i] == '+')) {
    if (t[i] == '-') d.mantissa += '-';
    ++i;
  }
  int digits = 0;
  for (; i < t.size() && IsDigit(t[i]); ++i, ++digits) d.mantissa += t[i];
  if (i < t.size() && t[i] == '.') {
    if (digits == 0) d.mantissa += '0';
    d.mantissa += t[i++];
    for (; i < t.size() && IsDigit(t[i]); ++i, ++digits) d.mantissa += t[i];
  }
  if (digits == 0) return std::nullopt;
  if (i < t.size() && (t[i] == 'e' || t[i] == 'E')) {
    size_t j = i + 1;
    const bool negative = j < t.size() && t[j] == '-';
    if (j < t.size() && (t[j] == '-' || t[j] == '+')) ++j;
    if (j < t.size() && IsDigit(t[j])) {
      int exponent = 0;
      for (; j < t.size() && IsDigit(t[j]); ++j) exponent = std::min(exponent * 10 + (t[j] - '0'), 100000);
      d.exponent = negative ? -exponent : exponent;
      i = j;
    }
  }
  text->remove_prefix(i);
  return d;
}

// The double nearest to the decimal times 10^shift; nullopt when outside the range of a double.
std::optional<double> ToDouble(const Decimal& d, int shift) {
  const std::string text = fmt::format("{}e{}", d.mantissa, d.exponent + shift);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Reads "GB/s", "/s", "tok", "J/tok" into one unit; an error names the part that is unknown.
absl::StatusOr<Unit> ParseUnit(std::string_view text) {
  Unit result{text, kNumber};
  bool below = false;
  for (size_t from = 0; from <= text.size();) {
    const size_t to = std::min(text.find_first_of("/*", from), text.size());
    const std::string_view part = Trim(text.substr(from, to - from));
    const bool leading_slash = part.empty() && from == 0 && to < text.size() && text[to] == '/';
    if (!leading_slash) {
      const Unit* unit = FindUnit(part);
      if (unit == nullptr) {
        std::vector<std::string> names;
        for (const Unit& u : kUnits) names.emplace_back(u.name);
        // A name as long as its edit distance says nothing: "x" is one edit from "s".
        const std::string near = part.size() > 1 ? NearestName(part, names) : "";
        return absl::InvalidArgumentError(
            fmt::format("unknown unit \"{}\"{}", part, near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
      }
      const int sign = below ? -1 : 1;
      const Dimension& d = unit->dimension;
      Dimension& r = result.dimension;
      r.time += sign * d.time;
      r.byte += sign * d.byte;
      r.flop += sign * d.flop;
      r.joule += sign * d.joule;
      r.token += sign * d.token;
      r.dollar += sign * d.dollar;
      result.exponent += sign * unit->exponent;
      result.factor *= below ? unit->divisor : unit->factor;
      result.divisor *= below ? unit->factor : unit->divisor;
    }
    if (to < text.size()) below = text[to] == '/';
    from = to + 1;
  }
  return result;
}

// The value of a decimal in a unit, or nullopt when it is out of range.
std::optional<double> Value(const Decimal& number, const Unit& unit) {
  std::optional<double> value = ToDouble(number, unit.exponent);
  if (!value) return value;
  *value = *value * unit.factor / unit.divisor;
  if (!std::isfinite(*value)) return std::nullopt;
  return value;
}

// Shortest digits that read back to `value` with the decimal point moved by -exponent: 0.0184, -3 -> "18.4".
std::string ShortestShifted(double value, int exponent) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int power = 0;
  const char* power_text = buffer + e + 1 + (text[e + 1] == '+' ? 1 : 0);
  std::from_chars(power_text, end, power);
  power -= exponent;
  std::string digits;
  const bool negative = text[0] == '-';
  for (const char c : text.substr(0, e)) {
    if (IsDigit(c)) digits += c;
  }
  std::string out = negative ? "-" : "";
  if (power < -5 || power > 15) {
    out += digits.substr(0, 1);
    if (digits.size() > 1) out += fmt::format(".{}", digits.substr(1));
    return out + fmt::format("e{}", power);
  }
  if (power < 0) return out + "0." + std::string(static_cast<size_t>(-power - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(power) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0');
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

// Text of `value` in `unit` that reads back to exactly `value`; empty when 17 digits do not suffice.
std::string ExactText(double value, const Unit& unit, std::string_view unit_name) {
  if (unit.factor == 1 && unit.divisor == 1) return fmt::format("{} {}", ShortestShifted(value, unit.exponent), unit_name);
  const double scaled = value / (unit.factor * std::pow(10.0, unit.exponent)) * unit.divisor;
  for (int digits = 1; digits <= 17; ++digits) {
    const std::string rounded = fmt::format("{:.{}g}", scaled, digits);
    std::string_view rest = rounded;
    const std::optional<Decimal> decimal = TakeDecimal(&rest);
    if (decimal && Value(*decimal, unit) == value) {
      return fmt::format("{} {}", ShortestShifted(*ToDouble(*decimal, 0), 0), unit_name);
    }
  }
  return "";
}

double ScaleOf(const Unit& unit) { return unit.factor / unit.divisor * std::pow(10.0, unit.exponent); }

}  // namespace

absl::StatusOr<double> ParseQuantityText(std::string_view text, const Dimension& dimension) {
  if (dimension == kNumber) return ParseNumber(text);
  std::string_view rest = Trim(text);
  const std::optional<Decimal> number = TakeDecimal(&rest);
  if (!number) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is not a number with a unit; write for example \"{}\"", text,
                                                  Example(dimension)));
  }
  rest = Trim(rest);
  if (rest.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" has no unit; write for example \"{}\"", text, Example(dimension)));
  }
  const absl::StatusOr<Unit> unit = ParseUnit(rest);
  if (!unit.ok()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\": {}; use {}", text, std::string(unit.status().message()),
                                                  UnitAdvice(dimension)));
  }
  if (!(unit->dimension == dimension)) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is {}, not {}; use {}", text, KindName(unit->dimension),
                                                  KindName(dimension), UnitAdvice(dimension)));
  }
  const std::optional<double> value = Value(*number, *unit);
  if (!value) return absl::InvalidArgumentError(fmt::format("\"{}\" is outside the range of a number", text));
  return *value;
}

std::string FormatQuantityText(double value, const Dimension& dimension) {
  if (dimension == kNumber) return fmt::format("{}", value);
  const Kind* kind = FindKind(dimension);
  const std::string base = kind != nullptr ? std::string(kind->scales[0].unit) : BaseUnit(dimension);
  if (!std::isfinite(value)) return fmt::format("{} {}", value, base);
  if (kind == nullptr || value == 0) return ExactText(value, *ParseUnit(base), base);
  std::string best;
  double best_score = kInfinity;
  for (const Kind::Scale& scale : kind->scales) {
    if (scale.unit.empty()) break;
    const Unit unit = *ParseUnit(scale.unit);
    const std::string candidate = ExactText(value, unit, scale.unit);
    if (candidate.empty()) continue;
    const double size = std::abs(value) / ScaleOf(unit);
    const double score = static_cast<double>(candidate.size()) + (size >= scale.low && size < scale.high ? 0 : 100);
    if (score < best_score) {
      best = candidate;
      best_score = score;
    }
  }
  return best;
}

std::string HumanQuantity(double value, const Dimension& dimension) {
  const Kind* kind = FindKind(dimension);
  if (kind == nullptr) {
    const std::string unit = BaseUnit(dimension);
    return unit.empty() ? fmt::format("{:.4g}", value) : fmt::format("{:.4g} {}", value, unit);
  }
  if (!std::isfinite(value) || value == 0) return fmt::format("{} {}", value, kind->scales[0].unit);
  // The largest decimal unit in which the rounded number is at least 1.
  std::string_view best;
  double best_scale = 0;
  for (const Kind::Scale& scale : kind->scales) {
    if (scale.unit.empty()) break;
    const bool binary = scale.unit.find("iB") != scale.unit.npos;  // KiB, GiB/s: for exact text only
    const bool slow_rate = dimension == kRate && scale.unit[0] == '/' && scale.unit != "/s";
    if (binary || slow_rate) continue;
    const double size = ScaleOf(*ParseUnit(scale.unit));
    // Two minutes are better read as 120 s, two hours as 120 min.
    const bool clock = scale.unit == "min" || scale.unit == "h" || scale.unit == "day";
    const bool fits = std::abs(value) / size >= (clock ? 2 : 0.99995);
    const bool smaller_fallback = best_scale == 0 || (std::abs(value) / best_scale < 0.99995 && size < best_scale);
    if ((fits && size > best_scale) || smaller_fallback) {
      best = scale.unit;
      best_scale = size;
    }
  }
  if (dimension == kPrice) {
    best = "USD/h";
    best_scale = 1.0 / 3600;
  }
  const double shown = value / best_scale;
  // More than four digits before the point are all shown: "12345 tok" rather than "1.234e+04 tok".
  const bool large = std::abs(shown) >= 9999.5 && std::abs(shown) < 1e15;
  return large ? fmt::format("{:.0f} {}", shown, best) : fmt::format("{:.4g} {}", shown, best);
}

std::string UnitExamples(const Dimension& dimension) {
  if (const Kind* kind = FindKind(dimension)) return std::string(kind->examples);
  return BaseUnit(dimension);
}

absl::StatusOr<double> ParseNumber(std::string_view text) {
  std::string_view rest = Trim(text);
  const std::optional<Decimal> number = TakeDecimal(&rest);
  if (!number) return absl::InvalidArgumentError(fmt::format("\"{}\" is not a number; write for example 0.9", text));
  rest = Trim(rest);
  const bool percent = rest == "%";
  if (!rest.empty() && !percent) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" is not a plain number; remove \"{}\" (this setting has no unit)", text, rest));
  }
  const std::optional<double> value = ToDouble(*number, percent ? -2 : 0);
  if (!value) return absl::InvalidArgumentError(fmt::format("\"{}\" is outside the range of a number", text));
  return *value;
}

absl::StatusOr<int64_t> ParseInteger(std::string_view text) {
  const auto failed = [&](std::string_view why) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" {}; write for example 4096", text, why));
  };
  const std::string_view t = Trim(text);
  size_t i = 0;
  const bool negative = !t.empty() && t[0] == '-';
  if (!t.empty() && (t[0] == '-' || t[0] == '+')) ++i;
  if (i >= t.size() || !IsDigit(t[i])) return failed("is not a whole number");
  int64_t value = 0;
  const auto append = [&](int digit) {  // kept negative: the most negative integer has no positive twin
    return !__builtin_mul_overflow(value, int64_t{10}, &value) && !__builtin_sub_overflow(value, int64_t{digit}, &value);
  };
  for (; i < t.size(); ++i) {
    if (t[i] == '_' && IsDigit(t[i - 1]) && i + 1 < t.size() && IsDigit(t[i + 1])) continue;
    if (!IsDigit(t[i])) break;
    if (!append(t[i] - '0')) return failed("is too large for a whole number");
  }
  if (i < t.size() && (t[i] == 'e' || t[i] == 'E')) {
    int exponent = 0;
    size_t j = i + 1;
    if (j < t.size() && t[j] == '+') ++j;
    const size_t first = j;
    for (; j < t.size() && IsDigit(t[j]); ++j) exponent = std::min(exponent * 10 + (t[j] - '0'), 100);
    if (j > first) i = j;
    for (int k = 0; k < exponent && value != 0; ++k) {
      if (!append(0)) return failed("is too large for a whole number");
    }
  }
  if (i < t.size()) return failed("is not a whole number");
  if (!negative && __builtin_sub_overflow(int64_t{0}, value, &value)) return failed("is too large for a whole number");
  return value;
}

}  // namespace simrun
