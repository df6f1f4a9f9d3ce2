// Feeds arbitrary bytes to the reader of recorded expert choices: what it accepts is a whole recording.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string_view>

#include "workload/byte_source.h"
#include "workload/routing_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto r = simrun::ReadRoutingRecording(simrun::FromMemory(text), "fuzz");
  if (!r.ok()) {
    if (r.status().message().find("fuzz:") != 0) std::abort();
    return 0;
  }
  if (r->layers < 1 || r->top_k < 1 || r->experts < r->top_k || r->starts.size() < 2 || r->starts.front() != 0) std::abort();
  for (size_t i = 1; i < r->starts.size(); ++i) {
    if (r->starts[i] <= r->starts[i - 1]) std::abort();
  }
  const size_t k = static_cast<size_t>(r->top_k);
  if (r->choices.size() != r->starts.back() * static_cast<size_t>(r->layers) * k) std::abort();
  for (size_t i = 0; i < r->choices.size(); i += k) {
    std::set<uint16_t> chosen(r->choices.begin() + static_cast<std::ptrdiff_t>(i), r->choices.begin() + static_cast<std::ptrdiff_t>(i + k));
    if (chosen.size() != k || *chosen.rbegin() >= r->experts) std::abort();
  }
  return 0;
}
