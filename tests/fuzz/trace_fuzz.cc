// Feeds arbitrary bytes to the trace reader in every format: it must end, stay in bounds and keep its promises.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "workload/byte_source.h"
#include "workload/trace_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  using simrun::TraceFormat;
  constexpr TraceFormat kFormats[] = {TraceFormat::kAuto,  TraceFormat::kGeneric,  TraceFormat::kAzure,  TraceFormat::kBurstGpt,
                                      TraceFormat::kVidur, TraceFormat::kMooncake, TraceFormat::kBailian};
  const simrun::TraceOptions options{.format = kFormats[data[0] % 7], .skip_invalid = (data[0] & 8) != 0,
                                      .hash_ids = (data[0] & 16) != 0, .hash_block = (data[0] & 32) != 0 ? 16 : 0};
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  auto reader = simrun::TraceReader::Open(simrun::FromMemory(text), "fuzz", options);
  if (!reader.ok()) return 0;
  simrun::TraceRow row;
  simrun::SimTime last;
  while (true) {
    const auto more = (*reader)->Next(&row);
    if (!more.ok()) {
      if ((*reader)->Next(&row).status() != more.status()) std::abort();
      return 0;
    }
    if (!*more) return 0;
    if (row.input_tokens < 1 || row.output_tokens < 1) std::abort();
    if (row.timed && row.at < last) std::abort();
    if (!options.hash_ids && !row.hash_ids.empty()) std::abort();
    const int64_t block = (*reader)->hash_block();
    if (!row.hash_ids.empty() && (block < 1 || static_cast<int64_t>(row.hash_ids.size()) > (row.input_tokens + block - 1) / block)) std::abort();
    if (row.timed) last = row.at;
  }
}
