// Uses the installed library as an outside program does: headers as simrun/<folder>/..., one target to link.
#include <cstdio>

#include "simrun/base/quantity_text.h"
#include "simrun/base/units.h"

int main() {
  // A header-only part, and a function that only links when the archives and what they depend on are found.
  const simrun::Seconds expected = simrun::Bytes(3.35e12) / simrun::BytesPerSecond(3.35e12);
  const absl::StatusOr<simrun::Seconds> parsed = simrun::ParseQuantity<simrun::Seconds>("1000 ms");
  if (!parsed.ok() || *parsed != expected) {
    std::fprintf(stderr, "1000 ms is not 1 s: %s\n", parsed.status().ToString().c_str());
    return 1;
  }
  std::printf("simrun is installed and usable\n");
  return 0;
}
