#include "workload/trace_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun {
namespace {

constexpr int64_t kTicksPerSecond = 10'000'000'000;
constexpr int64_t kTicksPerMillisecond = kTicksPerSecond / 1000;
constexpr int64_t kMaxSeconds = 900'000'000;  // SimTime ends at 922 million seconds
constexpr int64_t kMaxTokens = 1'000'000'000;
constexpr int64_t kMostHashBlock = int64_t{1} << 20;

struct CsvLayout {
  TraceFormat format;
  const char* time;
  const char* input;
  const char* output;
  const char* session;  // "" when the format has none
  const char* hash;     // likewise
  bool needs_time;
};
constexpr CsvLayout kLayouts[] = {
    {TraceFormat::kGeneric, "arrival_s", "input_tokens", "output_tokens", "session", "hash_ids", false},
    {TraceFormat::kAzure, "TIMESTAMP", "ContextTokens", "GeneratedTokens", "", "", true},
    {TraceFormat::kBurstGpt, "Timestamp", "Request tokens", "Response tokens", "Session ID", "", true},
    {TraceFormat::kVidur, "arrived_at", "num_prefill_tokens", "num_decode_tokens", "", "", false},
};

struct FormatName {
  const char* name;
  TraceFormat format;
};
constexpr FormatName kFormatNames[] = {
    {"auto", TraceFormat::kAuto},         {"generic", TraceFormat::kGeneric},   {"azure", TraceFormat::kAzure},
    {"azure2023", TraceFormat::kAzure},   {"azure2024", TraceFormat::kAzure},   {"burstgpt", TraceFormat::kBurstGpt},
    {"vidur", TraceFormat::kVidur},       {"mooncake", TraceFormat::kMooncake}, {"bailian", TraceFormat::kBailian},
};

bool IsBlank(char c) { return c == ' ' || c == '\t'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string_view Trim(std::string_view s) {
  while (!s.empty() && IsBlank(s.front())) s.remove_prefix(1);
  while (!s.empty() && IsBlank(s.back())) s.remove_suffix(1);
  return s;
}

// Text of a broken file, safe to print and short.
std::string Quoted(std::string_view text) {
  constexpr size_t kMost = 40;
  std::string out = "\"";
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  out += text.size() > kMost ? "...\"" : "\"";
  return out;
}

// One CSV field, quotes and blanks around it removed; doubled quotes inside stay doubled, which no field that is used
// needs. Moves *p behind the comma, or to null after the last field. False when a quote is not closed properly.
bool TakeField(const char** p, const char* end, std::string_view* field) {
  const char* start = *p;
  while (start < end && IsBlank(*start)) ++start;
  if (start < end && *start == '"') {
    const char* close = start + 1;
    while (true) {
      close = static_cast<const char*>(std::memchr(close, '"', static_cast<size_t>(end - close)));
      if (close == nullptr) return false;
      if (close + 1 < end && close[1] == '"') {
        close += 2;
        continue;
      }
      break;
    }
    *field = Trim(std::string_view(start + 1, static_cast<size_t>(close - start - 1)));
    const char* after = close + 1;
    while (after < end && IsBlank(*after)) ++after;
    if (after < end && *after != ',') return false;
    *p = after < end ? after + 1 : nullptr;
    return true;
  }
  const auto* comma = static_cast<const char*>(std::memchr(start, ',', static_cast<size_t>(end - start)));
  const char* stop = comma != nullptr ? comma : end;
  while (stop > start && IsBlank(stop[-1])) --stop;
  *field = std::string_view(start, static_cast<size_t>(stop - start));
  *p = comma != nullptr ? comma + 1 : nullptr;
  return true;
}

// An empty row that keeps the memory of the one before.
void Clear(TraceRow* row) {
  std::vector<uint64_t> ids = std::move(row->hash_ids);
  ids.clear();
  *row = TraceRow();
  row->hash_ids = std::move(ids);
}

// Tokens per id of a prompt with so many ids: the power of two for which they cover its tokens, with or without the last
// block that is not full. 0 when none or several do.
int64_t InferHashBlock(int64_t tokens, int64_t ids) {
  int64_t found = 0;
  for (int64_t block = 1; block <= kMostHashBlock; block *= 2) {
    if (tokens / block != ids && (tokens + block - 1) / block != ids) continue;
    if (found != 0) return 0;
    found = block;
  }
  return found;
}

// FNV-1a; 0 is kept for "no session".
uint64_t SessionHash(std::string_view name) {
  if (name.empty()) return 0;
  uint64_t h = 14695981039346656037u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return h == 0 ? 1 : h;
}

// Days from 1970-01-01 in the Gregorian calendar; 1 <= year <= 9999.
int64_t DaysFromCivil(int64_t year, int month, int day) {
  // March comes first so that the leap day is the last of the year.
  const int64_t y = month > 2 ? year : year - 1;
  const int64_t m = (month + 9) % 12;
  return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + (day - 1) - 719468;
}

bool TwoDigits(const char* p, int* value) {
  if (!IsDigit(p[0]) || !IsDigit(p[1])) return false;
  *value = (p[0] - '0') * 10 + (p[1] - '0');
  return true;
}

// The JSON values of one line, without building a tree.
class JsonCursor {
 public:
  explicit JsonCursor(std::string_view text) : p_(text.data()), end_(text.data() + text.size()) {}
  void SkipSpace() {
    while (p_ < end_ && (IsBlank(*p_) || *p_ == '\r')) ++p_;
  }
  bool AtEnd() {
    SkipSpace();
    return p_ == end_;
  }
  bool Take(char c) {
    SkipSpace();
    if (p_ == end_ || *p_ != c) return false;
    ++p_;
    return true;
  }
  // A string without its quotes; escapes stay as written.
  bool TakeString(std::string_view* text) {
    if (!Take('"')) return false;
    const char* start = p_;
    while (p_ < end_ && *p_ != '"') {
      if (*p_ == '\\' && ++p_ == end_) return false;
      ++p_;
    }
    if (p_ == end_) return false;
    *text = std::string_view(start, static_cast<size_t>(p_ - start));
    ++p_;
    return true;
  }
  // A flat array; *text is what stands between the brackets.
  bool TakeArray(std::string_view* text) {
    if (!Take('[')) return false;
    const auto* close = static_cast<const char*>(std::memchr(p_, ']', static_cast<size_t>(end_ - p_)));
    if (close == nullptr) return false;
    *text = std::string_view(p_, static_cast<size_t>(close - p_));
    p_ = close + 1;
    return true;
  }
  bool AtArray() {
    SkipSpace();
    return p_ < end_ && *p_ == '[';
  }
  // Any value; *text is a string's content, a number or literal as written, empty for arrays and objects.
  bool TakeValue(std::string_view* text) {
    *text = {};
    SkipSpace();
    if (p_ == end_) return false;
    if (*p_ == '"') return TakeString(text);
    if (*p_ == '[' || *p_ == '{') return SkipNested();
    const char* start = p_;
    while (p_ < end_ && *p_ != ',' && *p_ != '}' && *p_ != ']' && !IsBlank(*p_)) ++p_;
    *text = std::string_view(start, static_cast<size_t>(p_ - start));
    return p_ != start;
  }

 private:
  bool SkipNested() {
    if (*p_ == '[') {
      // A flat array of numbers, such as hash_ids: jump to its end.
      const auto* close = static_cast<const char*>(std::memchr(p_, ']', static_cast<size_t>(end_ - p_)));
      if (close == nullptr) return false;
      const auto size = static_cast<size_t>(close - p_ - 1);
      if (std::memchr(p_ + 1, '[', size) == nullptr && std::memchr(p_ + 1, '"', size) == nullptr &&
          std::memchr(p_ + 1, '{', size) == nullptr) {
        p_ = close + 1;
        return true;
      }
    }
    int64_t depth = 0;
    while (p_ < end_) {
      std::string_view ignored;
      switch (*p_) {
        case '"':
          if (!TakeString(&ignored)) return false;
          continue;
        case '[': case '{': ++depth; break;
        case ']': case '}': --depth; break;
        default: break;
      }
      ++p_;
      if (depth == 0) return true;
    }
    return false;
  }

  const char* p_;
  const char* end_;
};

}  // namespace

std::vector<std::string> TraceFormatNames() {
  std::vector<std::string> names;
  for (const FormatName& f : kFormatNames) names.emplace_back(f.name);
  return names;
}

absl::StatusOr<TraceFormat> ParseTraceFormat(std::string_view name) {
  for (const FormatName& f : kFormatNames) {
    if (name == f.name) return f.format;
  }
  return absl::InvalidArgumentError(
      fmt::format("unknown trace format {}; {}", Quoted(name), NameHint(name, TraceFormatNames())));
}

std::string_view TraceFormatName(TraceFormat format) {
  for (const FormatName& f : kFormatNames) {
    if (format == f.format) return f.name;
  }
  return "";
}

absl::StatusOr<std::unique_ptr<TraceReader>> TraceReader::Open(const std::string& path, const TraceOptions& options) {
  auto bytes = OpenFile(path);
  if (!bytes.ok()) {
    return absl::Status(bytes.status().code(),
                        fmt::format("{}: {}", path, std::string(bytes.status().message())));
  }
  return Open(*std::move(bytes), path, options);
}

absl::StatusOr<std::unique_ptr<TraceReader>> TraceReader::Open(std::unique_ptr<ByteSource> bytes, std::string name,
                                                               const TraceOptions& options) {
  auto unpacked = Unpack(std::move(bytes));
  if (!unpacked.ok()) {
    return absl::Status(unpacked.status().code(),
                        fmt::format("{}: {}", name, std::string(unpacked.status().message())));
  }
  std::unique_ptr<TraceReader> reader(new TraceReader(*std::move(unpacked), std::move(name), options));
  SIMRUN_RETURN_IF_ERROR(reader->ReadHeader());
  return reader;
}

TraceReader::TraceReader(std::unique_ptr<ByteSource> bytes, std::string name, const TraceOptions& options)
    : lines_(std::move(bytes)), name_(std::move(name)), options_(options), hash_block_(options.hash_block) {}

std::string TraceReader::Place() const { return fmt::format("{}:{}", name_, lines_.line()); }

TraceReader::RowResult TraceReader::Fail(std::string_view what, std::string_view hint) {
  std::string text = fmt::format("{}: {}", Place(), what);
  if (!hint.empty()) text += fmt::format("; {}", hint);
  error_ = absl::InvalidArgumentError(text);
  return RowResult::kError;
}

absl::Status TraceReader::ReadHeader() {
  std::string_view line;
  do {
    absl::StatusOr<bool> more = lines_.Next(&line);
    if (!more.ok()) {
      return absl::Status(more.status().code(), fmt::format("{}: {}", Place(), std::string(more.status().message())));
    }
    if (!*more) {
      return absl::InvalidArgumentError(
          fmt::format("{}: is empty; a trace starts with a header such as \"arrival_s,input_tokens,output_tokens\"", name_));
    }
    line = Trim(line);
  } while (line.empty());

  const bool looks_json = line.front() == '{';
  const bool wants_json = options_.format == TraceFormat::kMooncake || options_.format == TraceFormat::kBailian;
  if (wants_json || (options_.format == TraceFormat::kAuto && looks_json)) {
    json_ = true;
    format_ = options_.format;
    if (format_ == TraceFormat::kAuto) {
      format_ = line.find("\"chat_id\"") != std::string_view::npos ? TraceFormat::kBailian : TraceFormat::kMooncake;
    }
    column_names_[static_cast<size_t>(Role::kTime)] = "timestamp";
    column_names_[static_cast<size_t>(Role::kInput)] = "input_length";
    column_names_[static_cast<size_t>(Role::kOutput)] = "output_length";
    column_names_[static_cast<size_t>(Role::kHash)] = "hash_ids";
    if (hash_block_ == 0) hash_block_ = format_ == TraceFormat::kMooncake ? 512 : 16;
    first_line_ = std::string(line);
    has_first_line_ = true;
    return absl::OkStatus();
  }
  return ReadColumns(line);
}

absl::Status TraceReader::ReadColumns(std::string_view header) {
  std::vector<std::string> names;
  const char* p = header.data();
  const char* end = p + header.size();
  while (p != nullptr) {
    std::string_view field;
    if (!TakeField(&p, end, &field)) {
      Fail("the header has a quote that is not closed");
      return error_;
    }
    names.emplace_back(field);
  }
  const auto has = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  const auto matches = [&](const CsvLayout& l) {
    return (has(l.time) ? 1 : 0) + (has(l.input) ? 1 : 0) + (has(l.output) ? 1 : 0);
  };
  const CsvLayout* layout = nullptr;
  for (const CsvLayout& l : kLayouts) {
    if (options_.format == l.format) layout = &l;
    if (options_.format == TraceFormat::kAuto && matches(l) > (layout != nullptr ? matches(*layout) : 0)) layout = &l;
  }
  if (layout == nullptr) {
    Fail(fmt::format("the header {} is of no known trace", Quoted(header)),
         "a generic trace starts with \"arrival_s,input_tokens,output_tokens\"");
    return error_;
  }
  format_ = layout->format;
  columns_.assign(names.size(), Role::kSkip);
  const std::pair<Role, const char*> wanted[] = {{Role::kTime, layout->time},
                                                 {Role::kInput, layout->input},
                                                 {Role::kOutput, layout->output},
                                                 {Role::kSession, layout->session},
                                                 {Role::kHash, options_.hash_ids ? layout->hash : ""}};
  for (const auto& [role, name] : wanted) {
    column_names_[static_cast<size_t>(role)] = name;
    if (*name == '\0') continue;
    const auto count = std::count(names.begin(), names.end(), name);
    if (count > 1) {
      Fail(fmt::format("the header names column \"{}\" {} times", name, count));
      return error_;
    }
    const bool needed = role == Role::kInput || role == Role::kOutput || (role == Role::kTime && layout->needs_time);
    if (count == 0 && needed) {
      const std::string near = NearestName(name, names);
      Fail(fmt::format("the {} format needs a column \"{}\"", TraceFormatName(format_), name),
           near.empty() ? fmt::format("the header is {}", Quoted(header)) : fmt::format("is {} meant?", Quoted(near)));
      return error_;
    }
    if (count == 1) {
      columns_[static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin())] = role;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> TraceReader::Next(TraceRow* row) {
  if (!error_.ok()) return error_;
  while (true) {
    std::string_view line;
    if (has_first_line_) {
      has_first_line_ = false;
      line = first_line_;
    } else {
      absl::StatusOr<bool> more = lines_.Next(&line);
      if (!more.ok()) {
        error_ = absl::Status(more.status().code(), fmt::format("{}: {}", Place(), std::string(more.status().message())));
        return error_;
      }
      if (!*more) return false;
      if (line.empty() || (IsBlank(line.front()) && Trim(line).empty())) continue;
    }
    switch (json_ ? ParseJson(line, row) : ParseCsv(line, row)) {
      case RowResult::kRow: ++rows_; return true;
      case RowResult::kSkip: ++skipped_; continue;
      case RowResult::kError: return error_;
    }
  }
}

TraceReader::RowResult TraceReader::ParseCsv(std::string_view line, TraceRow* row) {
  Clear(row);
  const char* p = line.data();
  const char* end = p + line.size();
  for (const Role role : columns_) {
    if (p == nullptr) {
      return Fail(fmt::format("the row has fewer fields than the header's {}", columns_.size()),
                  "is the line cut short?");
    }
    std::string_view field;
    if (!TakeField(&p, end, &field)) {
      return Fail("a quoted field does not end on its line", "remove the quote or the line break");
    }
    switch (role) {
      case Role::kSkip: break;
      case Role::kTime:
        if (!field.empty() && !ParseTime(field, row)) return RowResult::kError;
        break;
      case Role::kInput:
        if (!ParseTokens(field, role, &row->input_tokens)) return RowResult::kError;
        break;
      case Role::kOutput:
        if (!ParseTokens(field, role, &row->output_tokens)) return RowResult::kError;
        break;
      case Role::kSession: row->session = SessionHash(field); break;
      case Role::kHash:
        if (!ParseHashIds(field, ' ', &row->hash_ids)) return RowResult::kError;
        break;
    }
  }
  if (p != nullptr) {
    return Fail(fmt::format("the row has more fields than the header's {}", columns_.size()),
                "numbers are written without thousands separators");
  }
  return Finish(row);
}

TraceReader::RowResult TraceReader::ParseJson(std::string_view line, TraceRow* row) {
  Clear(row);
  bool seen[kRoles] = {};
  JsonCursor json(line);
  const auto broken = [&] { return Fail("is not one complete JSON object", "each line is one {\"timestamp\": ...}"); };
  if (!json.Take('{')) return broken();
  if (!json.Take('}')) {
    do {
      std::string_view key, value;
      if (!json.TakeString(&key) || !json.Take(':')) return broken();
      const bool ids = options_.hash_ids && key == "hash_ids" && json.AtArray();
      if (!(ids ? json.TakeArray(&value) : json.TakeValue(&value))) return broken();
      Role role = Role::kSkip;
      if (key == "timestamp") role = Role::kTime;
      if (key == "input_length") role = Role::kInput;
      if (key == "output_length") role = Role::kOutput;
      if (key == "session_id") role = Role::kSession;
      if (ids) role = Role::kHash;
      if (role == Role::kSkip) continue;
      bool& seen_before = seen[static_cast<size_t>(role)];
      if (seen_before) return Fail(fmt::format("key \"{}\" stands twice", key));
      seen_before = true;
      if (role == Role::kTime && value != "null" && !ParseTime(value, row)) return RowResult::kError;
      if (role == Role::kInput && !ParseTokens(value, role, &row->input_tokens)) return RowResult::kError;
      if (role == Role::kOutput && !ParseTokens(value, role, &row->output_tokens)) return RowResult::kError;
      if (role == Role::kSession) row->session = SessionHash(value);
      if (role == Role::kHash && !ParseHashIds(value, ',', &row->hash_ids)) return RowResult::kError;
    } while (json.Take(','));
    if (!json.Take('}')) return broken();
  }
  if (!json.AtEnd()) return broken();
  for (const Role role : {Role::kInput, Role::kOutput}) {
    if (!seen[static_cast<size_t>(role)]) return Fail(fmt::format("key \"{}\" is missing", Column(role)));
  }
  return Finish(row);
}

TraceReader::RowResult TraceReader::Finish(TraceRow* row) {
  if (!seen_row_) {
    seen_row_ = true;
    timed_ = row->timed;
  } else if (timed_ != row->timed) {
    return Fail(fmt::format("{} is {} but earlier rows {} one", Column(Role::kTime), row->timed ? "given" : "missing",
                            timed_ ? "have" : "do not have"),
                "give it in every row, or in none");
  }
  if (row->timed) {
    if (row->at.ticks() < last_ticks_) {
      return Fail(fmt::format("arrives {:.7g} s before an earlier row",
                              static_cast<double>(last_ticks_ - row->at.ticks()) / SimTime::kTicksPerSecond),
                  fmt::format("sort the trace by {}", Column(Role::kTime)));
    }
    last_ticks_ = row->at.ticks();
  }
  for (const Role role : {Role::kInput, Role::kOutput}) {
    if ((role == Role::kInput ? row->input_tokens : row->output_tokens) > 0) continue;
    if (options_.skip_invalid) return RowResult::kSkip;
    return Fail(fmt::format("{} is 0", Column(role)), "set skip_invalid: true to leave such rows out");
  }
  return row->hash_ids.empty() ? RowResult::kRow : CheckHashIds(*row);
}

TraceReader::RowResult TraceReader::CheckHashIds(const TraceRow& row) {
  const auto ids = static_cast<int64_t>(row.hash_ids.size());
  if (hash_block_ == 0) hash_block_ = InferHashBlock(row.input_tokens, ids);
  if (hash_block_ == 0) {
    return Fail(fmt::format("{} ids for {} tokens do not say how many tokens an id stands for", ids, row.input_tokens),
                "set hash_block");
  }
  const int64_t blocks = (row.input_tokens + hash_block_ - 1) / hash_block_;
  if (ids <= blocks) return RowResult::kRow;
  return Fail(fmt::format("{} has {} ids, but the {} tokens of the prompt are {} blocks of {}", Column(Role::kHash), ids,
                          row.input_tokens, blocks, hash_block_),
              "set hash_block, the tokens that an id stands for");
}

bool TraceReader::ParseHashIds(std::string_view text, char separator, std::vector<uint64_t>* ids) {
  const char* p = text.data();
  const char* end = p + text.size();
  const auto skip_blanks = [&] {
    while (p < end && (IsBlank(*p) || *p == '\r')) ++p;
  };
  skip_blanks();
  while (p < end) {
    uint64_t id = 0;
    const auto [stop, error] = std::from_chars(p, end, id);
    const bool ends = stop == end || IsBlank(*stop) || *stop == '\r' || *stop == separator;
    if (error != std::errc() || !ends) {
      const char* word = p;
      while (p < end && !IsBlank(*p) && *p != separator) ++p;
      Fail(fmt::format("{} {} is not a whole number of at most 64 bits", Column(Role::kHash),
                       Quoted(std::string_view(word, static_cast<size_t>(p - word)))));
      return false;
    }
    ids->push_back(id);
    p = stop;
    skip_blanks();
    if (separator == ' ' || p == end) continue;
    const bool separated = *p == separator;
    ++p;
    skip_blanks();
    if (!separated || p == end) {
      Fail(fmt::format("{} is not an array of numbers", Column(Role::kHash)));
      return false;
    }
  }
  return true;
}

bool TraceReader::ParseTime(std::string_view text, TraceRow* row) {
  int64_t ticks = 0;
  const bool ok = format_ == TraceFormat::kAzure      ? ParseDate(text, &ticks)
                  : format_ == TraceFormat::kMooncake ? ParseDecimal(text, kTicksPerMillisecond, &ticks)
                                                      : ParseDecimal(text, kTicksPerSecond, &ticks);
  if (!ok) return false;
  row->at = SimTime::FromTicks(ticks);
  row->timed = true;
  return true;
}

bool TraceReader::ParseDecimal(std::string_view text, int64_t ticks_per_unit, int64_t* ticks) {
  const int64_t max_units = kMaxSeconds * (kTicksPerSecond / ticks_per_unit);
  const auto too_late = [&] {
    Fail(fmt::format("{} {} is more than 28 years", Column(Role::kTime), Quoted(text)),
         "times count from the start of the trace; subtract the first one");
    return false;
  };
  // Plain decimals, exactly and fast.
  const char* p = text.data();
  const char* end = p + text.size();
  int64_t whole = 0;
  const char* digits = p;
  while (p < end && IsDigit(*p) && whole <= max_units) whole = whole * 10 + (*p++ - '0');
  if (p > digits && whole <= max_units) {
    int64_t part = 0;
    if (p < end && *p == '.') {
      ++p;
      int64_t scale = ticks_per_unit;
      for (; p < end && IsDigit(*p); ++p) {
        if (scale == 1) part += *p >= '5' ? 1 : 0;  // rounds by the first digit below a tick
        scale /= 10;
        part += scale * (*p - '0');
      }
    }
    if (p == end) {
      *ticks = whole * ticks_per_unit + part;
      return true;
    }
  }
  // Exponents, and everything that is wrong.
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range && stop == end) return too_late();
  if (error != std::errc() || stop != end || !std::isfinite(value)) {
    Fail(fmt::format("{} {} is not a number", Column(Role::kTime), Quoted(text)));
    return false;
  }
  if (value < 0) {
    Fail(fmt::format("{} {} is negative", Column(Role::kTime), Quoted(text)), "times count from the start of the trace");
    return false;
  }
  if (value > static_cast<double>(max_units)) return too_late();
  *ticks = static_cast<int64_t>(value * static_cast<double>(ticks_per_unit) + 0.5);
  return true;
}

bool TraceReader::ParseDate(std::string_view text, int64_t* ticks) {
  const auto bad = [&] {
    Fail(fmt::format("{} {} is no date", Column(Role::kTime), Quoted(text)),
         "write it as 2023-11-16 18:17:03.9799600");
    return false;
  };
  if (text.size() < 19) return bad();
  const char* p = text.data();
  const char* end = p + text.size();
  int century = 0, year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  if (!TwoDigits(p, &century) || !TwoDigits(p + 2, &year) || p[4] != '-' || !TwoDigits(p + 5, &month) || p[7] != '-' ||
      !TwoDigits(p + 8, &day) || (p[10] != ' ' && p[10] != 'T') || !TwoDigits(p + 11, &hour) || p[13] != ':' ||
      !TwoDigits(p + 14, &minute) || p[16] != ':' || !TwoDigits(p + 17, &second)) {
    return bad();
  }
  year += 100 * century;
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (year < 1 || month < 1 || month > 12 || day < 1 || day > kDays[month - 1] + (month == 2 && leap ? 1 : 0) ||
      hour > 23 || minute > 59 || second > 60) {
    return bad();
  }
  p += 19;
  int64_t fraction = 0;
  if (p < end && *p == '.') {
    int64_t scale = kTicksPerSecond;
    for (++p; p < end && IsDigit(*p); ++p) {
      scale /= 10;
      fraction += scale * (*p - '0');
    }
  }
  int64_t zone = 0;
  if (p < end && *p == 'Z') {
    ++p;
  } else if (p < end && (*p == '+' || *p == '-')) {
    const int sign = *p == '+' ? 1 : -1;
    int zone_hours = 0, zone_minutes = 0;
    if (end - p < 3 || !TwoDigits(p + 1, &zone_hours)) return bad();
    p += 3;
    if (p < end && *p == ':') ++p;
    if (end - p >= 2 && TwoDigits(p, &zone_minutes)) p += 2;
    zone = sign * (zone_hours * 3600 + zone_minutes * 60);
  }
  if (p != end) return bad();
  const int64_t seconds = DaysFromCivil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - zone;
  if (!has_epoch_) {
    has_epoch_ = true;
    epoch_seconds_ = seconds;
    epoch_ticks_ = fraction;
  }
  const int64_t since = seconds - epoch_seconds_;
  if (since > kMaxSeconds || since < -kMaxSeconds) {
    Fail(fmt::format("{} {} is more than 28 years from the first row", Column(Role::kTime), Quoted(text)));
    return false;
  }
  *ticks = since * kTicksPerSecond + fraction - epoch_ticks_;
  return true;
}

bool TraceReader::ParseTokens(std::string_view text, Role role, int64_t* tokens) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *tokens);
  if (error == std::errc() && *tokens >= 0 && *tokens <= kMaxTokens) {
    if (stop == end) return true;
    // 12.0: how some tools write a whole number.
    if (*stop == '.' && std::all_of(stop + 1, end, [](char c) { return c == '0'; })) return true;
  }
  double value = 0;
  const auto [number_stop, number_error] = std::from_chars(text.data(), end, value);
  if (text.empty()) {
    Fail(fmt::format("{} is empty", Column(role)));
  } else if (number_stop != end || number_error == std::errc::invalid_argument || std::isnan(value)) {
    Fail(fmt::format("{} {} is not a number", Column(role), Quoted(text)));
  } else if (value < 0) {
    Fail(fmt::format("{} {} is negative", Column(role), Quoted(text)));
  } else if (number_error != std::errc() || value > static_cast<double>(kMaxTokens)) {
    Fail(fmt::format("{} {} is more than a billion tokens", Column(role), Quoted(text)));
  } else if (value != std::floor(value)) {
    Fail(fmt::format("{} {} is not a whole number", Column(role), Quoted(text)));
  } else {
    *tokens = static_cast<int64_t>(value);  // 1e3
    return true;
  }
  return false;
}

}  // namespace simrun
