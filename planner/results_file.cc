#include "planner/results_file.h"

#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/quantity_text.h"
#include "planner/metrics.h"

namespace simrun::planner {
namespace {

constexpr int kApplicationId = 0x73696d72;  // "simr"
constexpr const char* kFormat = "1";
constexpr int kRowsPerTransaction = 256;

std::string Quoted(const std::string& name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

// One line of text of a setting: scalars as written, maps and lists as YAML flow.
std::string CellText(const YamlNode& node) {
  if (node.IsScalar()) return node.text();
  std::string text;
  if (node.IsMap()) {
    for (const YamlNode::Entry& e : node.entries()) text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", e.key, CellText(e.value));
    return fmt::format("{{{}}}", text);
  }
  for (const YamlNode& item : node.items()) text += fmt::format("{}{}", text.empty() ? "" : ", ", CellText(item));
  return node.IsSequence() ? fmt::format("[{}]", text) : "null";
}

// A prepared statement and its owner.
class Statement {
 public:
  Statement() = default;
  explicit Statement(sqlite3_stmt* s) : s_(s) {}
  ~Statement() { sqlite3_finalize(s_); }
  Statement(Statement&& o) noexcept : s_(std::exchange(o.s_, nullptr)) {}
  Statement& operator=(Statement&& o) noexcept {
    std::swap(s_, o.s_);
    return *this;
  }
  sqlite3_stmt* get() const { return s_; }

  void Bind(int column, int64_t value) { sqlite3_bind_int64(s_, column, value); }
  void Bind(int column, double value) { sqlite3_bind_double(s_, column, value); }
  void Bind(int column, const std::string& value) {
    sqlite3_bind_text64(s_, column, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  std::string Text(int column) const {
    const auto* text = sqlite3_column_text(s_, column);
    return text == nullptr ? "" : std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(sqlite3_column_bytes(s_, column)));
  }

 private:
  sqlite3_stmt* s_ = nullptr;
};

class Database {
 public:
  static absl::StatusOr<Database> Open(const std::string& path, bool write) {
    Database db;
    db.path_ = path;
    // A file that a crash left with a journal can only be read after its last transaction was taken back, which writes.
    const bool writable = ::access(path.c_str(), W_OK) == 0;
    const int flags = write ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : writable ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY;
    if (!write && ::access(path.c_str(), R_OK) != 0) {
      if (errno == ENOENT) return absl::NotFoundError(fmt::format("{}: no such file", path));
      return absl::PermissionDeniedError(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
    }
    if (sqlite3_open_v2(path.c_str(), &db.handle_, flags, nullptr) != SQLITE_OK) {
      return absl::InvalidArgumentError(fmt::format("{}: cannot be opened: {}", path, sqlite3_errmsg(db.handle_)));
    }
    sqlite3_busy_timeout(db.handle_, 20000);
    return db;
  }
  Database() = default;
  ~Database() { sqlite3_close(handle_); }
  Database(Database&& o) noexcept : handle_(std::exchange(o.handle_, nullptr)), path_(std::move(o.path_)) {}
  Database& operator=(Database&& o) noexcept {
    std::swap(handle_, o.handle_);
    std::swap(path_, o.path_);
    return *this;
  }

  const std::string& path() const { return path_; }
  absl::Status Run(const std::string& sql) {
    if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return Error();
    return absl::OkStatus();
  }
  absl::StatusOr<Statement> Prepare(const std::string& sql) {
    sqlite3_stmt* s = nullptr;
    if (sqlite3_prepare_v2(handle_, sql.c_str(), -1, &s, nullptr) != SQLITE_OK) return Error();
    return Statement(s);
  }
  // True while there are rows.
  absl::StatusOr<bool> Step(const Statement& s) {
    const int code = sqlite3_step(s.get());
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return Error();
  }
  absl::StatusOr<std::string> Value(const std::string& sql) {
    SIMRUN_ASSIGN_OR_RETURN(const Statement s, Prepare(sql));
    SIMRUN_ASSIGN_OR_RETURN(const bool row, Step(s));
    return row ? s.Text(0) : std::string();
  }

 private:
  absl::Status Error() const {
    const int code = sqlite3_errcode(handle_) & 0xff;
    const std::string message = fmt::format("{}: {}", path_, sqlite3_errmsg(handle_));
    if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) {
      return absl::FailedPreconditionError(fmt::format("{}: is not a results file of a sweep; nothing was changed", path_));
    }
    if (code == SQLITE_FULL || code == SQLITE_IOERR) {
      return absl::ResourceExhaustedError(fmt::format("{}; make room and run the command again: finished points are kept", message));
    }
    return absl::UnavailableError(message);
  }
  sqlite3* handle_ = nullptr;
  std::string path_;
};

std::string Meta(Database& db, const std::string& key) {
  const absl::StatusOr<std::string> value = db.Value(fmt::format("SELECT value FROM meta WHERE key = '{}'", key));
  return value.ok() ? *value : "";
}

absl::Status CheckIsResults(Database& db) {
  SIMRUN_ASSIGN_OR_RETURN(const std::string id, db.Value("PRAGMA application_id"));
  if (id != fmt::format("{}", kApplicationId)) {
    return absl::FailedPreconditionError(fmt::format("{}: is not a results file of a sweep; nothing was changed", db.path()));
  }
  if (const std::string format = Meta(db, "format"); format != kFormat) {
    return absl::FailedPreconditionError(fmt::format("{}: has format {} of another simrun; nothing was changed", db.path(), format));
  }
  return absl::OkStatus();
}

absl::StatusOr<Database> OpenResults(const std::string& path) {
  SIMRUN_ASSIGN_OR_RETURN(Database db, Database::Open(path, false));
  SIMRUN_RETURN_IF_ERROR(CheckIsResults(db));
  return db;
}

// True when there is no file, or an empty one: also when a crash came before the tables were complete.
bool IsFresh(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return true;
  if (std::filesystem::file_size(path, ignored) > 0) {
    absl::StatusOr<Database> db = Database::Open(path, false);
    if (db.ok()) db->Value("SELECT count(*) FROM sqlite_master").status().IgnoreError();  // takes back what was half done
  }
  return std::filesystem::file_size(path, ignored) == 0;
}

// Columns of `points` in their order.
absl::StatusOr<std::vector<std::string>> ColumnsOf(Database& db) {
  SIMRUN_ASSIGN_OR_RETURN(const Statement s, db.Prepare("SELECT name FROM pragma_table_info('points')"));
  std::vector<std::string> names;
  while (true) {
    SIMRUN_ASSIGN_OR_RETURN(const bool row, db.Step(s));
    if (!row) return names;
    names.push_back(s.Text(0));
  }
}

bool IsMetric(const std::string& name) {
  return std::any_of(Metrics().begin(), Metrics().end(), [&](const Metric& m) { return m.name == name; });
}

// Columns between the fixed ones and the report that are no metrics.
std::vector<std::string> SettingsOf(const std::vector<std::string>& columns) {
  static const std::vector<std::string> kFixed = {"id", "repeat", "seed", "status", "message", "config_hash", "report"};
  std::vector<std::string> out;
  for (const std::string& c : columns) {
    if (std::find(kFixed.begin(), kFixed.end(), c) == kFixed.end() && !IsMetric(c)) out.push_back(c);
  }
  return out;
}

absl::Status CreateSchema(Database& db, const SweepSpec& spec) {
  std::string sql = fmt::format(
      "BEGIN IMMEDIATE; PRAGMA application_id = {}; CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
      "CREATE TABLE points (id INTEGER PRIMARY KEY, repeat INTEGER NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL, "
      "message TEXT NOT NULL, config_hash TEXT NOT NULL", kApplicationId);
  for (const std::string& c : spec.columns()) {
    if (c != "seed") sql += ", " + Quoted(c);
  }
  for (const Metric& m : Metrics()) sql += ", " + Quoted(m.name) + " REAL";
  sql += ", report TEXT);";
  SIMRUN_RETURN_IF_ERROR(db.Run(sql));
  SIMRUN_ASSIGN_OR_RETURN(const Statement insert, db.Prepare("INSERT INTO meta VALUES (?, ?)"));
  const std::pair<const char*, std::string> entries[] = {{"format", kFormat},
                                                         {"simrun", SIMRUN_VERSION},
                                                         {"sweep_hash", spec.Hash()},
                                                         {"sweep", spec.text()},
                                                         {"points", fmt::format("{}", spec.size())}};
  for (const auto& [key, value] : entries) {
    Statement& s = const_cast<Statement&>(insert);
    s.Bind(1, std::string(key));
    s.Bind(2, value);
    SIMRUN_RETURN_IF_ERROR(db.Step(s).status());
    sqlite3_reset(s.get());
  }
  return db.Run("COMMIT");
}

}  // namespace

std::string ReportLine(const Report& report) {
  const std::string json = report.ToJson();
  std::string out;
  out.reserve(json.size());
  bool in_string = false, escaped = false;
  for (const char c : json) {
    if (!in_string && (c == ' ' || c == '\n' || c == '\t')) continue;
    out += c;
    if (in_string && escaped) {
      escaped = false;
    } else if (in_string && c == '\\') {
      escaped = true;
    } else if (c == '"') {
      in_string = !in_string;
    }
  }
  return out;
}

struct ResultsFile::Impl {
  Database db;
  Statement insert;
  std::vector<std::string> settings;   // columns of the sweep without the seed
  std::vector<size_t> setting_places;  // in SweepSpec::columns()
  int pending = 0;
};

ResultsFile::ResultsFile() : impl_(std::make_unique<Impl>()) {}
ResultsFile::~ResultsFile() {
  if (impl_->pending > 0) Flush().IgnoreError();
}

absl::StatusOr<std::unique_ptr<ResultsFile>> ResultsFile::Open(const std::string& path, const SweepSpec& spec) {
  const bool fresh = IsFresh(path);
  if (!fresh) {
    SIMRUN_ASSIGN_OR_RETURN(Database old, OpenResults(path));
    if (Meta(old, "sweep_hash") != spec.Hash()) {
      return absl::FailedPreconditionError(
          fmt::format("{}: holds the results of another sweep (its base, axes, repeats or sampling differ); choose another file with --db, "
                      "or put the sweep back as it was. Nothing was changed", path));
    }
    if (const std::string version = Meta(old, "simrun"); version != SIMRUN_VERSION) {
      return absl::FailedPreconditionError(fmt::format("{}: was written by simrun {}, whose results may differ from those of {}; choose another "
                                                       "file with --db. Nothing was changed", path, version, SIMRUN_VERSION));
    }
  }
  std::unique_ptr<ResultsFile> file(new ResultsFile());
  Impl& impl = *file->impl_;
  SIMRUN_ASSIGN_OR_RETURN(impl.db, Database::Open(path, true));
  if (fresh) {
    if (const absl::Status made = CreateSchema(impl.db, spec); !made.ok()) {
      // Another process may have made it a moment ago.
      impl.db.Run("ROLLBACK").IgnoreError();
      if (Meta(impl.db, "sweep_hash") != spec.Hash()) return made;
    }
  }
  std::string columns = "id, repeat, seed, status, message, config_hash";
  size_t count = 6;
  for (size_t i = 0; i < spec.columns().size(); ++i) {
    if (spec.columns()[i] == "seed") continue;
    impl.setting_places.push_back(i);
    impl.settings.push_back(spec.columns()[i]);
    columns += ", " + Quoted(spec.columns()[i]);
    ++count;
  }
  for (const Metric& m : Metrics()) {
    columns += ", " + Quoted(m.name);
    ++count;
  }
  columns += ", report";
  ++count;
  std::string marks = "?";
  for (size_t i = 1; i < count; ++i) marks += ", ?";
  SIMRUN_ASSIGN_OR_RETURN(impl.insert, impl.db.Prepare(fmt::format("INSERT OR IGNORE INTO points ({}) VALUES ({})", columns, marks)));
  return file;
}

absl::StatusOr<std::vector<int64_t>> ResultsFile::Finished() {
  SIMRUN_ASSIGN_OR_RETURN(const Statement s, impl_->db.Prepare("SELECT id FROM points ORDER BY id"));
  std::vector<int64_t> ids;
  while (true) {
    SIMRUN_ASSIGN_OR_RETURN(const bool row, impl_->db.Step(s));
    if (!row) return ids;
    ids.push_back(sqlite3_column_int64(s.get(), 0));
  }
}

absl::Status ResultsFile::Add(const PointResult& point) {
  Impl& impl = *impl_;
  if (impl.pending == 0) SIMRUN_RETURN_IF_ERROR(impl.db.Run("BEGIN IMMEDIATE"));
  ++impl.pending;
  Statement& s = impl.insert;
  sqlite3_reset(s.get());
  sqlite3_clear_bindings(s.get());
  int c = 0;
  s.Bind(++c, point.id);
  s.Bind(++c, point.repeat);
  s.Bind(++c, point.seed);
  s.Bind(++c, std::string(PointStatusName(point.status)));
  s.Bind(++c, point.message);
  s.Bind(++c, point.config_hash);
  for (const size_t place : impl.setting_places) {
    ++c;
    const std::optional<YamlNode>& value = point.values[place];
    if (!value) continue;
    const std::string text = CellText(*value);
    if (value->quoted()) {
      s.Bind(c, text);
    } else if (const absl::StatusOr<int64_t> whole = ParseInteger(text); whole.ok()) {
      s.Bind(c, *whole);
    } else if (const absl::StatusOr<double> number = ParseNumber(text); number.ok()) {
      s.Bind(c, *number);
    } else {
      s.Bind(c, text);
    }
  }
  if (point.status == PointStatus::kDone) {
    for (const Metric& m : Metrics()) s.Bind(++c, m.value(point.report));
    s.Bind(++c, point.report_line.empty() ? ReportLine(point.report) : point.report_line);
  }
  if (const absl::Status added = impl.db.Step(s).status(); !added.ok()) {
    sqlite3_reset(s.get());
    impl.db.Run("ROLLBACK").IgnoreError();
    impl.pending = 0;
    return added;
  }
  sqlite3_reset(s.get());
  return impl.pending >= kRowsPerTransaction ? Flush() : absl::OkStatus();
}

absl::Status ResultsFile::Flush() {
  if (impl_->pending == 0) return absl::OkStatus();
  impl_->pending = 0;
  const absl::Status committed = impl_->db.Run("COMMIT");
  if (!committed.ok()) impl_->db.Run("ROLLBACK").IgnoreError();
  return committed;
}

absl::StatusOr<ResultsInfo> InspectResults(const std::string& path) {
  SIMRUN_ASSIGN_OR_RETURN(Database db, OpenResults(path));
  ResultsInfo info;
  if (const absl::StatusOr<int64_t> points = ParseInteger(Meta(db, "points")); points.ok()) info.points = *points;
  const auto count = [&](const char* status) -> absl::StatusOr<int64_t> {
    SIMRUN_ASSIGN_OR_RETURN(const std::string n, db.Value(fmt::format("SELECT count(*) FROM points WHERE status = '{}'", status)));
    return ParseInteger(n);
  };
  SIMRUN_ASSIGN_OR_RETURN(info.done, count("done"));
  SIMRUN_ASSIGN_OR_RETURN(info.invalid, count("invalid"));
  SIMRUN_ASSIGN_OR_RETURN(info.failed, count("failed"));
  SIMRUN_ASSIGN_OR_RETURN(const std::vector<std::string> columns, ColumnsOf(db));
  info.settings = SettingsOf(columns);
  return info;
}

namespace {

absl::StatusOr<ResultsTable> Select(Database& db, const std::vector<std::string>& columns, const std::string& rest) {
  ResultsTable table;
  table.columns = columns;
  std::string list;
  for (const std::string& c : columns) list += fmt::format("{}{}", list.empty() ? "" : ", ", Quoted(c));
  SIMRUN_ASSIGN_OR_RETURN(const Statement s, db.Prepare(fmt::format("SELECT {} FROM points {}", list, rest)));
  while (true) {
    SIMRUN_ASSIGN_OR_RETURN(const bool row, db.Step(s));
    if (!row) return table;
    std::vector<std::string> cells;
    for (size_t c = 0; c < columns.size(); ++c) {
      const int column = static_cast<int>(c);
      // The shortest text that reads back as the same number.
      cells.push_back(sqlite3_column_type(s.get(), column) == SQLITE_FLOAT ? fmt::format("{}", sqlite3_column_double(s.get(), column)) : s.Text(column));
    }
    table.rows.push_back(std::move(cells));
  }
}

// id, seed where it varies, settings.
absl::StatusOr<std::vector<std::string>> LeadingColumns(Database& db) {
  SIMRUN_ASSIGN_OR_RETURN(const std::vector<std::string> all, ColumnsOf(db));
  SIMRUN_ASSIGN_OR_RETURN(const std::string seeds, db.Value("SELECT min(seed) < max(seed) FROM points"));
  std::vector<std::string> columns = {"id"};
  if (seeds == "1") columns.push_back("seed");
  for (std::string& c : SettingsOf(all)) columns.push_back(std::move(c));
  return columns;
}

}  // namespace

absl::StatusOr<ResultsTable> BestResults(const std::string& path, const std::string& by, int64_t top, const std::vector<std::string>& more) {
  SIMRUN_ASSIGN_OR_RETURN(const Metric* metric, FindMetric(by));
  SIMRUN_ASSIGN_OR_RETURN(Database db, OpenResults(path));
  SIMRUN_ASSIGN_OR_RETURN(std::vector<std::string> columns, LeadingColumns(db));
  columns.push_back(metric->name);
  for (const std::string& name : more) {
    SIMRUN_ASSIGN_OR_RETURN(const Metric* m, FindMetric(name));
    if (std::find(columns.begin(), columns.end(), m->name) == columns.end()) columns.push_back(m->name);
  }
  return Select(db, columns, fmt::format("WHERE status = 'done' ORDER BY {} {}, id LIMIT {}", Quoted(metric->name),
                                         metric->higher_is_better ? "DESC" : "ASC", top));
}

absl::StatusOr<ResultsTable> ParetoResults(const std::string& path, const std::vector<std::string>& metrics) {
  std::vector<std::string> names;
  std::vector<bool> higher;
  for (const std::string& name : metrics) {
    SIMRUN_ASSIGN_OR_RETURN(const Metric* m, FindMetric(name));
    names.push_back(m->name);
    higher.push_back(m->higher_is_better);
  }
  SIMRUN_ASSIGN_OR_RETURN(Database db, OpenResults(path));
  SIMRUN_ASSIGN_OR_RETURN(std::vector<std::string> columns, LeadingColumns(db));
  const size_t leading = columns.size();
  columns.insert(columns.end(), names.begin(), names.end());
  SIMRUN_ASSIGN_OR_RETURN(ResultsTable all, Select(db, columns, "WHERE status = 'done' ORDER BY id"));
  std::vector<std::vector<double>> values;
  for (const std::vector<std::string>& row : all.rows) {
    std::vector<double> point;
    for (size_t c = leading; c < row.size(); ++c) {
      const absl::StatusOr<double> number = ParseNumber(row[c]);
      point.push_back(number.ok() ? *number : std::nan(""));
    }
    values.push_back(std::move(point));
  }
  ResultsTable front;
  front.columns = std::move(all.columns);
  for (const size_t i : ParetoFront(values, higher)) front.rows.push_back(std::move(all.rows[i]));
  return front;
}

absl::Status ExportCsv(const std::string& results, const std::string& csv) {
  SIMRUN_ASSIGN_OR_RETURN(Database db, OpenResults(results));
  SIMRUN_ASSIGN_OR_RETURN(std::vector<std::string> columns, ColumnsOf(db));
  columns.pop_back();  // the report
  SIMRUN_ASSIGN_OR_RETURN(const ResultsTable table, Select(db, columns, "ORDER BY id"));
  const auto cell = [](const std::string& text) {
    if (text.find_first_of(",\"\n") == std::string::npos) return text;
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"') out += '"';
      out += c;
    }
    return out + '"';
  };
  const std::string temporary = csv + ".part";
  std::FILE* file = std::fopen(temporary.c_str(), "w");
  const auto failed = [&] {
    const absl::Status status = absl::PermissionDeniedError(fmt::format("{}: cannot be written: {}", csv, std::strerror(errno)));
    std::remove(temporary.c_str());
    return status;
  };
  if (file == nullptr) return failed();
  const auto write = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{}{}", i > 0 ? "," : "", cell(row[i]));
    line += '\n';
    return std::fwrite(line.data(), 1, line.size(), file) == line.size();
  };
  bool written = write(table.columns);
  for (const std::vector<std::string>& row : table.rows) written = written && write(row);
  if (std::fclose(file) != 0 || !written || std::rename(temporary.c_str(), csv.c_str()) != 0) return failed();
  return absl::OkStatus();
}

absl::Status MergeResults(const std::string& out, const std::vector<std::string>& inputs) {
  if (inputs.empty()) return absl::InvalidArgumentError("no files to merge");
  std::string hash, schema;
  for (const std::string& input : inputs) {
    SIMRUN_ASSIGN_OR_RETURN(Database db, OpenResults(input));
    SIMRUN_ASSIGN_OR_RETURN(const std::string sql, db.Value("SELECT sql FROM sqlite_master WHERE name = 'points'"));
    if (hash.empty()) {
      hash = Meta(db, "sweep_hash");
      schema = sql;
    }
    if (Meta(db, "sweep_hash") != hash || sql != schema) {
      return absl::InvalidArgumentError(fmt::format("{}: is from another sweep than {}; nothing was merged", input, inputs.front()));
    }
  }
  const bool fresh = IsFresh(out);
  if (!fresh) {
    SIMRUN_ASSIGN_OR_RETURN(Database old, OpenResults(out));
    SIMRUN_ASSIGN_OR_RETURN(const std::string sql, old.Value("SELECT sql FROM sqlite_master WHERE name = 'points'"));
    if (Meta(old, "sweep_hash") != hash || sql != schema) {
      return absl::InvalidArgumentError(fmt::format("{}: is from another sweep than {}; nothing was merged", out, inputs.front()));
    }
  }
  SIMRUN_ASSIGN_OR_RETURN(Database db, Database::Open(out, true));
  // ATTACH does not work inside a transaction, so all files are attached first; SQLite allows ten at a time.
  constexpr size_t kAtOnce = 8;
  for (size_t from = 0; from < inputs.size(); from += kAtOnce) {
    const size_t to = std::min(inputs.size(), from + kAtOnce);
    for (size_t i = from; i < to; ++i) {
      SIMRUN_ASSIGN_OR_RETURN(Statement attach, db.Prepare(fmt::format("ATTACH ? AS shard{}", i - from)));
      attach.Bind(1, inputs[i]);
      SIMRUN_RETURN_IF_ERROR(db.Step(attach).status());
    }
    SIMRUN_RETURN_IF_ERROR(db.Run("BEGIN IMMEDIATE"));
    absl::Status merged;
    if (fresh && from == 0) {
      merged = db.Run(fmt::format("PRAGMA application_id = {}; CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID; "
                                  "INSERT INTO meta SELECT * FROM shard0.meta; {}", kApplicationId, schema));
    }
    for (size_t i = from; i < to && merged.ok(); ++i) {
      const std::string shard = fmt::format("shard{}", i - from);
      const absl::StatusOr<std::string> clash = db.Value(fmt::format(
          "SELECT a.id FROM main.points a JOIN {}.points b ON a.id = b.id WHERE a.report IS NOT b.report OR a.status <> b.status LIMIT 1", shard));
      if (!clash.ok()) {
        merged = clash.status();
      } else if (!clash->empty()) {
        merged = absl::InvalidArgumentError(fmt::format("{}: holds another result for point {} than {}", inputs[i], *clash, out));
      } else {
        merged = db.Run(fmt::format("INSERT OR IGNORE INTO main.points SELECT * FROM {}.points ORDER BY id", shard));
      }
    }
    if (merged.ok()) merged = db.Run("COMMIT");
    if (!merged.ok()) {
      db.Run("ROLLBACK").IgnoreError();
      return merged;
    }
    for (size_t i = from; i < to; ++i) SIMRUN_RETURN_IF_ERROR(db.Run(fmt::format("DETACH shard{}", i - from)));
  }
  return absl::OkStatus();
}

}  // namespace simrun::planner
