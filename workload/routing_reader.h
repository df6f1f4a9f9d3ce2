// Recorded expert choices: CSV, plain or gzip, one row per token, as published with ESFT (deepseek-ai/ESFT).
//
//   seq,token,L1,L2,...
//   0,0,8 11 26 56 57 60,3 38 50 60 62 63,...
//
// `seq` numbers the sequences, whose rows are consecutive, `token` counts 0, 1, 2, ... within one. Each further column
// is a layer with experts and holds the numbers of the experts that the token chose, separated by spaces, as many in
// every cell. And popularity tables: how many tokens each expert of each layer got.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/csv.h"
#include "workload/byte_source.h"

namespace simrun {

struct RoutingRecording {
  int layers = 0, top_k = 0;
  int experts = 0;                // largest number seen plus 1
  std::vector<uint32_t> starts;   // first token of each sequence, and the number of tokens
  std::vector<uint16_t> choices;  // [token][layer][top_k]
};
// InvalidArgument "file:line: what; hint". At most 2^28 choices.
absl::StatusOr<RoutingRecording> ReadRoutingRecording(const std::string& path);
absl::StatusOr<RoutingRecording> ReadRoutingRecording(std::unique_ptr<ByteSource> bytes, const std::string& name);

// CSV with the columns layer, expert and tokens_routed. The columns before them, joined by "/", name groups of rows, of
// which one is read: `group`, or the first where that is empty.
struct PopularityTable {
  std::string group;
  std::vector<int> layer_numbers;
  std::vector<std::vector<double>> tokens;  // [layer][expert]
};
absl::StatusOr<PopularityTable> ReadPopularityTable(const std::string& path, const std::string& group);
absl::StatusOr<PopularityTable> ReadPopularityTable(const CsvTable& table, const std::string& group);

}  // namespace simrun
