// Physical quantities as strong types: adding seconds to bytes does not compile.
//
// A Quantity carries six integer exponents (time, byte, FLOP, joule, token, dollar) and one double in the
// base unit (s, B, FLOP, J, token, USD). Products and quotients of quantities have the right dimension;
// a dimensionless result converts to double. The generated code is the same as for raw doubles.
//
//   Seconds t = 3.35e12_B / BytesPerSecond(3.35e12);   // 1 s
//   Seconds u = 80_GiB / 2_TBps;                        // SI and IEC prefixes are kept apart
#pragma once

#include <cstdint>

namespace simrun {

template <int T, int B, int F, int J, int K, int D>
class Quantity {
 public:
  constexpr Quantity() = default;
  constexpr explicit Quantity(double value) : value_(value) {}

  // The number in base units (s, B, FLOP, J, token, USD and their products).
  constexpr double value() const { return value_; }

  constexpr Quantity& operator+=(Quantity o) { value_ += o.value_; return *this; }
  constexpr Quantity& operator-=(Quantity o) { value_ -= o.value_; return *this; }
  constexpr Quantity& operator*=(double s) { value_ *= s; return *this; }
  constexpr Quantity& operator/=(double s) { value_ /= s; return *this; }

  friend constexpr Quantity operator+(Quantity a, Quantity b) { return Quantity(a.value_ + b.value_); }
  friend constexpr Quantity operator-(Quantity a, Quantity b) { return Quantity(a.value_ - b.value_); }
  friend constexpr Quantity operator-(Quantity a) { return Quantity(-a.value_); }
  friend constexpr Quantity operator*(Quantity a, double s) { return Quantity(a.value_ * s); }
  friend constexpr Quantity operator*(double s, Quantity a) { return Quantity(a.value_ * s); }
  friend constexpr Quantity operator/(Quantity a, double s) { return Quantity(a.value_ / s); }

  // Written out instead of a defaulted <=>: that keeps a NaN branch in the hot path.
  friend constexpr bool operator==(Quantity a, Quantity b) { return a.value_ == b.value_; }
  friend constexpr bool operator!=(Quantity a, Quantity b) { return a.value_ != b.value_; }
  friend constexpr bool operator<(Quantity a, Quantity b) { return a.value_ < b.value_; }
  friend constexpr bool operator>(Quantity a, Quantity b) { return a.value_ > b.value_; }
  friend constexpr bool operator<=(Quantity a, Quantity b) { return a.value_ <= b.value_; }
  friend constexpr bool operator>=(Quantity a, Quantity b) { return a.value_ >= b.value_; }

 private:
  double value_ = 0;
};

namespace units_internal {
template <int T, int B, int F, int J, int K, int D>
struct Make {
  using type = Quantity<T, B, F, J, K, D>;
  static constexpr type Of(double v) { return type(v); }
};
template <>
struct Make<0, 0, 0, 0, 0, 0> {
  using type = double;
  static constexpr double Of(double v) { return v; }
};
}  // namespace units_internal

template <int T1, int B1, int F1, int J1, int K1, int D1, int T2, int B2, int F2, int J2, int K2, int D2>
constexpr auto operator*(Quantity<T1, B1, F1, J1, K1, D1> a, Quantity<T2, B2, F2, J2, K2, D2> b) {
  return units_internal::Make<T1 + T2, B1 + B2, F1 + F2, J1 + J2, K1 + K2, D1 + D2>::Of(a.value() * b.value());
}
template <int T1, int B1, int F1, int J1, int K1, int D1, int T2, int B2, int F2, int J2, int K2, int D2>
constexpr auto operator/(Quantity<T1, B1, F1, J1, K1, D1> a, Quantity<T2, B2, F2, J2, K2, D2> b) {
  return units_internal::Make<T1 - T2, B1 - B2, F1 - F2, J1 - J2, K1 - K2, D1 - D2>::Of(a.value() / b.value());
}
template <int T, int B, int F, int J, int K, int D>
constexpr auto operator/(double s, Quantity<T, B, F, J, K, D> a) {
  return units_internal::Make<-T, -B, -F, -J, -K, -D>::Of(s / a.value());
}

using Seconds = Quantity<1, 0, 0, 0, 0, 0>;
using Bytes = Quantity<0, 1, 0, 0, 0, 0>;
using Flops = Quantity<0, 0, 1, 0, 0, 0>;
using Joules = Quantity<0, 0, 0, 1, 0, 0>;
using Tokens = Quantity<0, 0, 0, 0, 1, 0>;
using Dollars = Quantity<0, 0, 0, 0, 0, 1>;
using PerSecond = Quantity<-1, 0, 0, 0, 0, 0>;  // rates of events, and clock frequencies
using BytesPerSecond = Quantity<-1, 1, 0, 0, 0, 0>;
using FlopsPerSecond = Quantity<-1, 0, 1, 0, 0, 0>;
using TokensPerSecond = Quantity<-1, 0, 0, 0, 1, 0>;
using Watts = Quantity<-1, 0, 0, 1, 0, 0>;
using DollarsPerSecond = Quantity<-1, 0, 0, 0, 0, 1>;

namespace literals {
#define SIMRUN_UNIT_LITERAL(suffix, Type, scale)                                                     \
  constexpr Type operator""_##suffix(long double v) { return Type(static_cast<double>(v) * (scale)); } \
  constexpr Type operator""_##suffix(unsigned long long v) { return Type(static_cast<double>(v) * (scale)); }
SIMRUN_UNIT_LITERAL(s, Seconds, 1.0)
SIMRUN_UNIT_LITERAL(ms, Seconds, 1e-3)
SIMRUN_UNIT_LITERAL(us, Seconds, 1e-6)
SIMRUN_UNIT_LITERAL(ns, Seconds, 1e-9)
SIMRUN_UNIT_LITERAL(B, Bytes, 1.0)
SIMRUN_UNIT_LITERAL(KB, Bytes, 1e3)
SIMRUN_UNIT_LITERAL(MB, Bytes, 1e6)
SIMRUN_UNIT_LITERAL(GB, Bytes, 1e9)
SIMRUN_UNIT_LITERAL(TB, Bytes, 1e12)
SIMRUN_UNIT_LITERAL(KiB, Bytes, 1024.0)
SIMRUN_UNIT_LITERAL(MiB, Bytes, 1048576.0)
SIMRUN_UNIT_LITERAL(GiB, Bytes, 1073741824.0)
SIMRUN_UNIT_LITERAL(GBps, BytesPerSecond, 1e9)
SIMRUN_UNIT_LITERAL(TBps, BytesPerSecond, 1e12)
SIMRUN_UNIT_LITERAL(TFLOPs, FlopsPerSecond, 1e12)
SIMRUN_UNIT_LITERAL(J, Joules, 1.0)
SIMRUN_UNIT_LITERAL(W, Watts, 1.0)
SIMRUN_UNIT_LITERAL(tok, Tokens, 1.0)
SIMRUN_UNIT_LITERAL(usd, Dollars, 1.0)
#undef SIMRUN_UNIT_LITERAL
}  // namespace literals

}  // namespace simrun
