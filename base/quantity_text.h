// Numbers with units as people write them: "3.35 TB/s", "500 ms", "80 GiB", "4 /s", "2.5 USD/h".
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/units.h"

namespace simrun {

// The six exponents of a Quantity: time, byte, FLOP, joule, token, dollar.
struct Dimension {
  int time = 0, byte = 0, flop = 0, joule = 0, token = 0, dollar = 0;
  friend bool operator==(const Dimension&, const Dimension&) = default;
};

// Parses text into base units. The unit is required unless the dimension is that of a plain number.
// Errors name the expected kind of unit with examples: `"500" has no unit; write for example "500 ms"`.
absl::StatusOr<double> ParseQuantityText(std::string_view text, const Dimension& dimension);
// Shortest text that parses back to exactly `value`, with a unit from a fitting prefix: 3.35e12 B/s -> "3.35 TB/s".
std::string FormatQuantityText(double value, const Dimension& dimension);
// For tables and messages: four significant digits, "18.4 ms", "3.35 TB/s".
std::string HumanQuantity(double value, const Dimension& dimension);
// Examples of accepted units, for help texts: "ns, us, ms, s, min, h, day".
std::string UnitExamples(const Dimension& dimension);

template <int T, int B, int F, int J, int K, int D>
constexpr Dimension DimensionOf(Quantity<T, B, F, J, K, D>) {
  return {T, B, F, J, K, D};
}
template <class Q>
absl::StatusOr<Q> ParseQuantity(std::string_view text) {
  auto value = ParseQuantityText(text, DimensionOf(Q()));
  if (!value.ok()) return value.status();
  return Q(*value);
}
template <int T, int B, int F, int J, int K, int D>
std::string Human(Quantity<T, B, F, J, K, D> q) {
  return HumanQuantity(q.value(), DimensionOf(q));
}

// A plain decimal number, the whole text, finite. Used for counts and ratios; "90 %" is 0.9.
absl::StatusOr<double> ParseNumber(std::string_view text);
// A whole decimal number without fraction; "10000", "1e6" and "1_000_000" are accepted, "1.5" is not.
absl::StatusOr<int64_t> ParseInteger(std::string_view text);

}  // namespace simrun
