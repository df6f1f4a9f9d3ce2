// Any text: reading a number or a quantity returns a finite value or an error, and a value survives printing.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/quantity_text.h"

namespace {

void Check(std::string_view text, const simrun::Dimension& dimension) {
  const absl::StatusOr<double> value = simrun::ParseQuantityText(text, dimension);
  if (!value.ok()) {
    if (value.status().message().empty()) std::abort();
    return;
  }
  if (!std::isfinite(*value)) std::abort();
  const absl::StatusOr<double> again =
      simrun::ParseQuantityText(simrun::FormatQuantityText(*value, dimension), dimension);
  if (!again.ok() || *again != *value) std::abort();
  if (simrun::HumanQuantity(*value, dimension).empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Check(text, simrun::DimensionOf(simrun::Seconds()));
  Check(text, simrun::DimensionOf(simrun::Bytes()));
  Check(text, simrun::DimensionOf(simrun::BytesPerSecond()));
  Check(text, simrun::DimensionOf(simrun::FlopsPerSecond()));
  Check(text, simrun::DimensionOf(simrun::Watts()));
  Check(text, simrun::DimensionOf(simrun::PerSecond()));
  Check(text, simrun::DimensionOf(simrun::Dollars() / simrun::Seconds(1)));
  const absl::StatusOr<double> number = simrun::ParseNumber(text);
  if (number.ok() && !std::isfinite(*number)) std::abort();
  if (simrun::ParseInteger(text).ok() && !number.ok() && text.find('_') == std::string_view::npos) std::abort();
  return 0;
}
