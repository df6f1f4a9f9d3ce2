// Request traces, one row at a time: CSV and JSON lines of the public data sets, plain or gzip.
//
//   generic    CSV   arrival_s,input_tokens,output_tokens[,session,...]     seconds since the start
//   azure      CSV   TIMESTAMP,ContextTokens,GeneratedTokens                ISO dates, rebased to the first row
//              (AzureLLMInferenceTrace 2023 and 2024; also called azure2023 and azure2024)
//   burstgpt   CSV   Timestamp,Model,Request tokens,Response tokens,...     seconds since the start of the collection
//   vidur      CSV   arrived_at,num_prefill_tokens,num_decode_tokens        seconds since the start
//   mooncake   JSON  {"timestamp":, "input_length":, "output_length":, ...} milliseconds since the start
//   bailian    JSON  the same keys and chat_id                              seconds since the start
//
// CSV columns are found by the names in the header, in any order; other columns are passed over. Quoted fields, blank
// lines, CRLF line ends, a byte order mark and whole numbers written as 12.0 are accepted. Without a time column, or
// with empty times, a trace has lengths only. Arrivals must not decrease.
//
// Generic, mooncake and bailian traces may say in `hash_ids` (numbers separated by blanks, or a JSON array) which blocks
// of a prompt stand in other prompts too: equal ids after equal ids are equal tokens. They are read when asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/sim_time.h"
#include "workload/byte_source.h"

namespace simrun {

enum class TraceFormat { kAuto, kGeneric, kAzure, kBurstGpt, kVidur, kMooncake, kBailian };

// Names as in `workload.format`: auto, generic, azure, azure2023, azure2024, burstgpt, vidur, mooncake, bailian.
std::vector<std::string> TraceFormatNames();
// InvalidArgument with the nearest name.
absl::StatusOr<TraceFormat> ParseTraceFormat(std::string_view name);
// "azure" for both Azure names.
std::string_view TraceFormatName(TraceFormat format);

struct TraceRow {
  SimTime at;                 // since the start of the trace; meaningless unless `timed`
  bool timed = false;         // false: the trace gives lengths only
  int64_t input_tokens = 0;   // 1 .. 1e9
  int64_t output_tokens = 0;  // 1 .. 1e9
  uint64_t session = 0;       // 64-bit hash of the session's name, 0 when there is none
  std::vector<uint64_t> hash_ids;  // of the prompt's blocks of hash_block() tokens; at most as many as it has
};

struct TraceOptions {
  TraceFormat format = TraceFormat::kAuto;
  bool skip_invalid = false;  // leave out and count rows with zero tokens instead of failing
  bool hash_ids = false;      // read them
  int64_t hash_block = 0;     // tokens per id; 0: 512 for mooncake, 16 for bailian, else by the first row that has ids
};

class TraceReader {
 public:
  // Opens a file and reads its header. NotFound, PermissionDenied and Unavailable when it cannot be read;
  // InvalidArgument "file:line: what; hint" when it is no trace.
  static absl::StatusOr<std::unique_ptr<TraceReader>> Open(const std::string& path, const TraceOptions& options);
  // The same from bytes, which may be gzip; `name` stands for the file in messages.
  static absl::StatusOr<std::unique_ptr<TraceReader>> Open(std::unique_ptr<ByteSource> bytes, std::string name,
                                                           const TraceOptions& options);

  // The next row; false at the end. InvalidArgument for broken content, other codes when reading fails. After an
  // error every call returns it again.
  absl::StatusOr<bool> Next(TraceRow* row);

  TraceFormat format() const { return format_; }
  int64_t rows() const { return rows_; }        // returned so far
  int64_t skipped() const { return skipped_; }  // left out so far
  // Tokens that an id in hash_ids stands for; 0 before the first row that has any.
  int64_t hash_block() const { return hash_block_; }
  // "file:line" of the row that Next returned last.
  std::string Place() const;

 private:
  enum class Role : uint8_t { kSkip, kTime, kInput, kOutput, kSession, kHash };
  static constexpr size_t kRoles = 6;
  enum class RowResult { kRow, kSkip, kError };

  TraceReader(std::unique_ptr<ByteSource> bytes, std::string name, const TraceOptions& options);
  absl::Status ReadHeader();
  absl::Status ReadColumns(std::string_view header);
  RowResult ParseCsv(std::string_view line, TraceRow* row);
  RowResult ParseJson(std::string_view line, TraceRow* row);
  RowResult Finish(TraceRow* row);
  bool ParseTime(std::string_view text, TraceRow* row);
  bool ParseDecimal(std::string_view text, int64_t ticks_per_unit, int64_t* ticks);
  bool ParseDate(std::string_view text, int64_t* ticks);
  bool ParseTokens(std::string_view text, Role role, int64_t* tokens);
  // Numbers with `separator` and blanks between them.
  bool ParseHashIds(std::string_view text, char separator, std::vector<uint64_t>* ids);
  RowResult CheckHashIds(const TraceRow& row);
  const std::string& Column(Role role) const { return column_names_[static_cast<size_t>(role)]; }
  RowResult Fail(std::string_view what, std::string_view hint = {});

  LineReader lines_;
  std::string name_;
  TraceOptions options_;
  TraceFormat format_ = TraceFormat::kAuto;
  bool json_ = false;
  std::vector<Role> columns_;      // CSV: what each column holds
  std::string column_names_[kRoles];    // by Role, for messages
  std::string first_line_;         // JSON: the line that told the format
  bool has_first_line_ = false;
  int64_t rows_ = 0;
  int64_t skipped_ = 0;
  int64_t hash_block_ = 0;
  bool seen_row_ = false;
  bool timed_ = false;             // of the first row; the others must agree
  int64_t last_ticks_ = 0;
  bool has_epoch_ = false;         // azure: the first row's date
  int64_t epoch_seconds_ = 0;
  int64_t epoch_ticks_ = 0;
  absl::Status error_;
};

}  // namespace simrun
