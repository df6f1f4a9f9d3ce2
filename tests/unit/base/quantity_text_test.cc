#include "base/quantity_text.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"

namespace simrun {
namespace {

using testing::HasSubstr;

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
constexpr Dimension kEnergyPerToken{.joule = 1, .token = -1};

struct Case {
  const char* text;
  Dimension dimension;
  double value;
};

TEST(QuantityText, Table) {
  const Case cases[] = {
      {"3 s", kTime, 3},
      {"500 ms", kTime, 0.5},
      {"500ms", kTime, 0.5},
      {"  500   ms ", kTime, 0.5},
      {"18.4 ms", kTime, 0.0184},  // the nearest double, not 18.4 * 1e-3
      {"1.1 us", kTime, 1.1e-6},
      {"1.1 \u00B5s", kTime, 1.1e-6},
      {"1.1 \u03BCs", kTime, 1.1e-6},
      {"7 ns", kTime, 7e-9},
      {"2 min", kTime, 120},
      {"1.5 h", kTime, 5400},
      {"1 day", kTime, 86400},
      {"2 days", kTime, 172800},
      {"-3 ms", kTime, -0.003},
      {"+3 ms", kTime, 0.003},
      {"1e3 ms", kTime, 1},
      {"1E-3 s", kTime, 1e-3},
      {".5 s", kTime, 0.5},
      {"5. s", kTime, 5},
      {"0 s", kTime, 0},
      {"12 B", kSize, 12},
      {"3 kB", kSize, 3000},
      {"3 KB", kSize, 3000},
      {"3 MB", kSize, 3e6},
      {"80 GB", kSize, 80e9},
      {"1.5 TB", kSize, 1.5e12},
      {"2 PB", kSize, 2e15},
      {"4 KiB", kSize, 4096},
      {"1 MiB", kSize, 1048576},
      {"80 GiB", kSize, 85899345920.0},
      {"1 TiB", kSize, 1099511627776.0},
      {"8 bit", kSize, 1},
      {"1 Gbit", kSize, 1.25e8},
      {"5 FLOP", kCompute, 5},
      {"5 FLOPs", kCompute, 5},
      {"2 GFLOP", kCompute, 2e9},
      {"2 TFLOP", kCompute, 2e12},
      {"2 PFLOPs", kCompute, 2e15},
      {"2 TOP", kCompute, 2e12},
      {"2 OP", kCompute, 2},
      {"3 J", kEnergy, 3},
      {"3 kJ", kEnergy, 3000},
      {"3 MJ", kEnergy, 3e6},
      {"1 Wh", kEnergy, 3600},
      {"1.5 kWh", kEnergy, 5.4e6},
      {"1.5 tok", kTokens, 1.5},
      {"1 token", kTokens, 1},
      {"300 tokens", kTokens, 300},
      {"3 ktok", kTokens, 3000},
      {"1 Mtok", kTokens, 1e6},
      {"2.5 USD", kMoney, 2.5},
      {"2.5 $", kMoney, 2.5},
      {"4 /s", kRate, 4},
      {"4/s", kRate, 4},
      {"4 / s", kRate, 4},
      {"4 req/s", kRate, 4},
      {"4 requests/s", kRate, 4},
      {"30 /min", kRate, 0.5},
      {"3600 /h", kRate, 1},
      {"36 requests/min", kRate, 0.6},
      {"5 Hz", kRate, 5},
      {"1980 MHz", kRate, 1.98e9},
      {"1.98 GHz", kRate, 1.98e9},
      {"3.35 TB/s", kBandwidth, 3.35e12},
      {"900 GB/s", kBandwidth, 9e11},
      {"400 Gbit/s", kBandwidth, 5e10},
      {"400 Gbps", kBandwidth, 5e10},
      {"1 GiB/s", kBandwidth, 1073741824.0},
      {"60 MB/min", kBandwidth, 1e6},
      {"3 GB/ms", kBandwidth, 3e12},
      {"8 bit/day", kBandwidth, 1.0 / 86400},
      {"0.5 J/ktok", kEnergyPerToken, 0.0005},
      {"989 TFLOP/s", kComputeRate, 9.89e14},
      {"989 TFLOPs/s", kComputeRate, 9.89e14},
      {"989 TFLOPS", kComputeRate, 9.89e14},
      {"1979 TOPS", kComputeRate, 1.979e15},
      {"1979 TOP/s", kComputeRate, 1.979e15},
      {"1500 tok/s", kTokenRate, 1500},
      {"60 tok/min", kTokenRate, 1},
      {"700 W", kPower, 700},
      {"10.2 kW", kPower, 10200},
      {"250 mW", kPower, 0.25},
      {"700 J/s", kPower, 700},
      {"2.5 USD/h", kPrice, 2.5 / 3600},
      {"2.5 $/h", kPrice, 2.5 / 3600},
      {"0.4 J/tok", kEnergyPerToken, 0.4},
      {"0.9", {}, 0.9},
      {"90 %", {}, 0.9},
      {"-1e3", {}, -1000},
  };
  for (const Case& c : cases) {
    const auto value = ParseQuantityText(c.text, c.dimension);
    ASSERT_TRUE(value.ok()) << c.text << ": " << value.status();
    EXPECT_EQ(*value, c.value) << c.text;
  }
}

struct BadCase {
  const char* text;
  Dimension dimension;
  const char* message;
};

TEST(QuantityText, ErrorsNameTheProblemAndARemedy) {
  const BadCase cases[] = {
      {"500", kTime, "\"500\" has no unit; write for example \"500 ms\""},
      {"500 GB", kTime, "\"500 GB\" is a size, not a time; use ns, us, ms, s, min, h or day"},
      {"3 s", kBandwidth, "\"3 s\" is a time, not a bandwidth; use MB/s, GB/s, TB/s, GiB/s or Gbit/s"},
      {"900 GB", kBandwidth, "\"900 GB\" is a size, not a bandwidth"},
      {"4", kRate, "\"4\" has no unit; write for example \"4 /s\""},
      {"5 sec", kTime, "unknown unit \"sec\""},
      {"5 gb", kSize, "unknown unit \"gb\" (did you mean"},
      {"5 GB/sx", kBandwidth, "unknown unit \"sx\""},
      {"ms", kTime, "\"ms\" is not a number with a unit; write for example \"500 ms\""},
      {"", kTime, "is not a number with a unit"},
      {"   ", kTime, "is not a number with a unit"},
      {"nan s", kTime, "is not a number with a unit"},
      {"inf s", kTime, "is not a number with a unit"},
      {"-inf s", kTime, "is not a number with a unit"},
      {"infinity s", kTime, "is not a number with a unit"},
      {"0x10 s", kTime, "unknown unit \"x10 s\""},
      {"1,5 s", kTime, "unknown unit \",5 s\""},
      {"1 s s", kTime, "unknown unit \"s s\""},
      {"1 s/", kTime, "unknown unit \"\""},
      {"1 //s", kRate, "unknown unit \"\""},
      {"1 /", kRate, "unknown unit \"\""},
      {"1e s", kTime, "unknown unit \"e s\""},
      {"1e999 s", kTime, "outside the range of a number"},
      {"1e99999999999999999999 s", kTime, "outside the range of a number"},
      {"1e308 day", kTime, "outside the range of a number"},
      {"- 5 s", kTime, "is not a number with a unit"},
      {"5 ms", kEnergyPerToken, "\"5 ms\" is a time, not in J/tok; use J/tok"},
      {"nan", {}, "is not a number"},
      {"inf", {}, "is not a number"},
      {"0x10", {}, "not a plain number; remove \"x10\""},
      {"5 s", {}, "\"5 s\" is not a plain number; remove \"s\" (this setting has no unit)"},
      {"5 %%", {}, "remove \"%%\""},
      {"1_000", {}, "remove \"_000\""},
      {"1e400", {}, "outside the range"},
  };
  for (const BadCase& c : cases) {
    const auto value = ParseQuantityText(c.text, c.dimension);
    ASSERT_FALSE(value.ok()) << c.text << " gave " << *value;
    EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(value.status().message()), HasSubstr(c.message)) << c.text;
  }
}

TEST(QuantityText, TypedParse) {
  const auto t = ParseQuantity<Seconds>("1.5 ms");
  ASSERT_TRUE(t.ok());
  EXPECT_EQ(t->value(), 0.0015);
  EXPECT_FALSE(ParseQuantity<Bytes>("1.5 ms").ok());
}

TEST(QuantityText, FormatPicksAFittingUnit) {
  const Case cases[] = {
      {"3.35 TB/s", kBandwidth, 3.35e12}, {"500 ms", kTime, 0.5},         {"18.4 ms", kTime, 0.0184},
      {"1 h", kTime, 3600},               {"90 s", kTime, 90},            {"0 s", kTime, 0},
      {"-500 ms", kTime, -0.5},           {"80 GiB", kSize, 85899345920}, {"80 GB", kSize, 80e9},
      {"4 /s", kRate, 4},                 {"0.5 /s", kRate, 0.5},         {"1.98 GHz", kRate, 1.98e9},
      {"2.5 USD/h", kPrice, 2.5 / 3600},  {"700 W", kPower, 700},         {"2048 tok", kTokens, 2048},
      {"989 TFLOP/s", kComputeRate, 9.89e14}, {"0.4 J/tok", kEnergyPerToken, 0.4}, {"0.9", {}, 0.9},
      {"1 ns", kTime, 1e-9},              {"0.1 ns", kTime, 1e-10},       {"400 B", kSize, 400},
  };
  for (const Case& c : cases) EXPECT_EQ(FormatQuantityText(c.value, c.dimension), c.text);
}

TEST(QuantityText, FormatParsesBackExactly) {
  const Dimension dimensions[] = {kTime,      kSize,        kCompute,   kEnergy, kTokens, kMoney,         kRate,
                                  kBandwidth, kComputeRate, kTokenRate, kPower,  kPrice,  kEnergyPerToken,
                                  Dimension{.time = 2}, Dimension{.time = -1, .dollar = -1}, Dimension{}};
  Rng rng(1, "format");
  for (const Dimension& d : dimensions) {
    for (int i = 0; i < 2000; ++i) {
      // Magnitudes from 1e-12 to 1e18, half of them with few digits as people write them.
      double value = Exp(rng.Uniform(-27.6, 41.4)) * (rng.Below(2) == 0 ? 1 : -1);
      if (i % 2 == 0) value = std::strtod(std::to_string(static_cast<int64_t>(value)).substr(0, 4).c_str(), nullptr);
      const std::string text = FormatQuantityText(value, d);
      const auto parsed = ParseQuantityText(text, d);
      ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.status();
      ASSERT_EQ(*parsed, value) << text;
    }
    for (const double value : {5e-324, 1e-308, 1.7976931348623157e308, 1e300, 0.1 + 0.2}) {
      const std::string text = FormatQuantityText(value, d);
      const auto parsed = ParseQuantityText(text, d);
      ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.status();
      ASSERT_EQ(*parsed, value) << text;
    }
  }
}

TEST(QuantityText, HumanHasFourDigits) {
  EXPECT_EQ(HumanQuantity(0.0184321, kTime), "18.43 ms");
  EXPECT_EQ(HumanQuantity(3.35e12, kBandwidth), "3.35 TB/s");
  EXPECT_EQ(HumanQuantity(0, kTime), "0 s");
  EXPECT_EQ(HumanQuantity(90, kTime), "90 s");
  EXPECT_EQ(HumanQuantity(600, kTime), "10 min");
  EXPECT_EQ(HumanQuantity(2.5 * 3600, kTime), "2.5 h");
  EXPECT_EQ(HumanQuantity(0.99996, kTime), "1 s");  // not "1000 ms"
  EXPECT_EQ(HumanQuantity(80e9, kSize), "80 GB");
  EXPECT_EQ(HumanQuantity(12345, kTokens), "12345 tok");
  EXPECT_EQ(HumanQuantity(1234.5678, kTokenRate), "1235 tok/s");
  EXPECT_EQ(HumanQuantity(2.5 / 3600, kPrice), "2.5 USD/h");
  EXPECT_EQ(HumanQuantity(0.41234, kEnergyPerToken), "0.4123 J/tok");
  EXPECT_EQ(HumanQuantity(0.25, kPower), "250 mW");
  EXPECT_EQ(HumanQuantity(12.5, kRate), "12.5 /s");
  EXPECT_EQ(HumanQuantity(1e-12, kTime), "0.001 ns");
  EXPECT_EQ(HumanQuantity(-0.5, kTime), "-500 ms");
  EXPECT_EQ(HumanQuantity(0.12345678, {}), "0.1235");
  EXPECT_EQ(Human(Seconds(0.5)), "500 ms");
}

TEST(QuantityText, EveryExampleUnitIsAccepted) {
  for (const Dimension& d : {kTime, kSize, kCompute, kEnergy, kTokens, kMoney, kRate, kBandwidth, kComputeRate,
                             kTokenRate, kPower, kPrice, kEnergyPerToken}) {
    const std::string examples = UnitExamples(d) + ", ";
    for (size_t from = 0, to; (to = examples.find(", ", from)) != std::string::npos; from = to + 2) {
      const std::string text = "1 " + examples.substr(from, to - from);
      EXPECT_TRUE(ParseQuantityText(text, d).ok()) << text;
    }
  }
}

TEST(ParseInteger, Table) {
  const std::pair<const char*, int64_t> good[] = {
      {"0", 0}, {"10000", 10000}, {"1e6", 1'000'000}, {"1_000_000", 1'000'000}, {"-5", -5}, {"+5", 5}, {"25e2", 2500},
      {"0e99", 0}, {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}, {"9e18", 9'000'000'000'000'000'000},
      {"007", 7}};
  for (const auto& [text, value] : good) {
    const auto parsed = ParseInteger(text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.status();
    EXPECT_EQ(*parsed, value) << text;
  }
  for (const char* text : {"", "1.5", "1.0", "1e", "e5", "1e-1", "0x10", "nan", "1__0", "_1", "1_", "1 000", "5 s", "-",
                           "9223372036854775808", "-9223372036854775809", "1e19", "1e999999999999", "--5", "5a"}) {
    const auto parsed = ParseInteger(text);
    EXPECT_FALSE(parsed.ok()) << text << " gave " << *parsed;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("whole number")) << text;
  }
}

}  // namespace
}  // namespace simrun
