#include "base/yaml.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>
#include <sstream>
#include <unordered_map>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

namespace simrun {

namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxKeyBytes = 256;    // YAML itself ends at 1024 for keys on one line
constexpr size_t kMaxValues = 500'000;  // bounds the memory of a small file made of nothing but commas
constexpr size_t kMaxProblems = 1000;

// Decodes one UTF-8 code point at `i` and moves past it; nullopt for an invalid sequence.
std::optional<uint32_t> NextCodePoint(std::string_view text, size_t* i) {
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  const uint32_t first = byte(*i);
  if (first < 0x80) {
    ++*i;
    return first;
  }
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  if (first < 0xC2 || first > 0xF4 || *i + more >= text.size()) return std::nullopt;
  uint32_t code = first & (0x3Fu >> more);
  for (int k = 1; k <= more; ++k) {
    if ((byte(*i + k) & 0xC0) != 0x80) return std::nullopt;
    code = code << 6 | (byte(*i + k) & 0x3Fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0x80, 0x800, 0x10000};
  if (code < kSmallest[more] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return std::nullopt;
  *i += 1 + static_cast<size_t>(more);
  return code;
}

bool IsControl(uint32_t code) {
  return (code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7F && code <= 0x9F) || code == 0xFEFF ||
         code == 0xFFFE || code == 0xFFFF;
}

// What is wrong with the bytes of a decoded scalar, or empty.
std::string_view BadCharacters(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const std::optional<uint32_t> code = NextCodePoint(text, &i);
    if (!code) return "holds bytes that are not UTF-8 text";
    if (IsControl(*code)) return "holds a control character";
  }
  return {};
}

// Checks the raw bytes; the YAML scanner must not see binary junk.
void CheckBytes(std::string_view text, std::string_view file, Problems* problems) {
  int line = 1;
  size_t line_start = 0;
  bool indentation = true;
  for (size_t i = 0; i < text.size();) {
    const int column = static_cast<int>(i - line_start) + 1;
    const auto here = [&] { return SourceLocation{std::string(file), line, column}; };
    const std::optional<uint32_t> code = NextCodePoint(text, &i);
    if (!code) {
      problems->Add(here(), "", "is not UTF-8 text", "save the file as UTF-8");
      return;
    }
    if (*code == '\r' && i < text.size() && text[i] == '\n') continue;
    if (IsControl(*code)) {
      problems->Add(here(), "", fmt::format("control character U+{:04X}", *code), "is this a text file?");
      return;
    }
    if (*code == '\t' && indentation) {
      problems->Add(here(), "", "tab in the indentation", "indent with spaces");
      if (problems->size() >= kMaxProblems) return;
    }
    indentation = (indentation && *code == ' ') || *code == '\n';
    if (*code == '\n') {
      ++line;
      line_start = i;
    }
  }
}

// Unwinds the yaml-cpp parser once the rest of the document no longer matters.
struct StopParsing {};

// Builds the tree from parse events. Problems are collected; the tree is used only when there are none.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::string_view text, std::string_view file, Problems* problems)
      : text_(text), file_(file), problems_(problems) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 1) return;
    const bool marked = At(mark, "---");
    problems_->Add(Where(mark), "", marked ? "a second document starts here" : "does not belong to what stands above",
                   marked ? "put each document in its own file" : "check the indentation");
    throw StopParsing{};
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (Refused(mark)) return Ignore();
    if (ExpectsKey()) {
      Problem(Where(mark), "a key is missing", "write `key: value`");
      return Ignore();
    }
    // The mark of an omitted value is that of whatever follows; its key is the place to look.
    YamlNode node;
    node.set_location(InMap() ? frames_.back().key_location : Where(mark));
    Place(std::move(node));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Refused(mark);
    Ignore();
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t, const std::string& value) override {
    if (Refused(mark)) return Ignore();
    const char c = Character(mark);
    const bool quoted = c == '"' || c == '\'' || c == '|' || c == '>';
    const SourceLocation where = Where(mark);
    if (const std::string_view bad = BadCharacters(value); !bad.empty()) Problem(where, bad, "write plain text");
    // yaml-cpp closes a single quote at the end of the file by itself, and takes a lone word between `key: value` lines
    // for a key.
    size_t end = static_cast<size_t>(std::max(mark.pos, 0)) + value.size();
    if (c == '"' || c == '\'') end = AfterQuote(static_cast<size_t>(mark.pos));
    if (end == std::string_view::npos) Problem(where, "a quote is not closed", "end the text with the same quote");
    if (ExpectsKey()) return Key(where, value, quoted, end);
    YamlNode node = YamlNode::Scalar(value, where);
    node.set_quoted(quoted);
    Place(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    Open(mark, YamlNode::Sequence(Where(mark)));
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    Open(mark, YamlNode::Map(Where(mark)));
  }
  void OnMapEnd() override { Close(); }

  void OnParseError(const YAML::Exception& e) {
    if (e.mark.is_null()) {
      problems_->Add({std::string(file_), 0, 0}, "", fmt::format("not valid YAML: {}", e.msg));
    } else if (At(e.mark, "*")) {
      Refused(e.mark);
    } else {
      problems_->Add(Where(e.mark), "", fmt::format("not valid YAML: {}", e.msg),
                     "check quotes, brackets, colons and indentation up to here");
    }
  }

  YamlNode TakeRoot() { return std::move(root_); }

 private:
  struct Frame {
    YamlNode node;
    bool is_map = false;
    bool has_key = false;
    bool ignored_key = false;  // the value that follows is dropped: its key was refused
    std::string key;
    SourceLocation key_location;
    std::unordered_map<std::string, int> lines;  // key -> line of its first appearance
  };

  SourceLocation Where(const YAML::Mark& mark) const { return {std::string(file_), mark.line + 1, mark.column + 1}; }
  bool At(const YAML::Mark& mark, std::string_view prefix) const {
    return mark.pos >= 0 && static_cast<size_t>(mark.pos) < text_.size() &&
           text_.substr(static_cast<size_t>(mark.pos)).substr(0, prefix.size()) == prefix;
  }
  char Character(const YAML::Mark& mark) const {
    return mark.pos >= 0 && static_cast<size_t>(mark.pos) < text_.size() ? text_[static_cast<size_t>(mark.pos)] : '\0';
  }

  bool ColonFollows(size_t position) const {
    const size_t next = text_.find_first_not_of(" \t\r\n", std::min(position, text_.size()));
    return next != std::string_view::npos && text_[next] == ':';
  }
  // The position after the closing quote of the quoted text at `from`, or npos.
  size_t AfterQuote(size_t from) const {
    const char quote = text_[from];
    for (size_t i = from + 1; i < text_.size(); ++i) {
      if (quote == '"' && text_[i] == '\\') {
        ++i;
      } else if (text_[i] == quote) {
        if (quote == '"' || i + 1 >= text_.size() || text_[i + 1] != quote) return i + 1;
        ++i;  // '' is a quote inside the text
      }
    }
    return std::string_view::npos;
  }

  std::string Path() const {
    std::string path;
    for (const Frame& f : frames_) {
      const std::string part = f.is_map ? (f.has_key ? f.key : "") : std::to_string(f.node.items().size());
      if (part.empty()) continue;
      if (!path.empty()) path += '.';
      path += part;
    }
    return path;
  }
  void Problem(const SourceLocation& where, std::string_view what, std::string_view hint) {
    problems_->Add(where, Path(), what, hint);
    if (problems_->size() >= kMaxProblems) {
      problems_->Add(where, "", "too many problems; the rest of the file was not read");
      throw StopParsing{};
    }
  }
  // Reports tags, anchors and aliases, which stand in front of the value they belong to.
  bool Refused(const YAML::Mark& mark) {
    const char c = Character(mark);
    if (c != '&' && c != '*' && c != '!') return false;
    if (mark.pos == refused_at_) return true;  // a map and its first key start at the same place
    refused_at_ = mark.pos;
    if (c == '!') {
      Problem(Where(mark), "tags are not supported", "write the plain value, or text in quotes");
    } else {
      Problem(Where(mark), "anchors and aliases are not supported", "write the value out");
    }
    return true;
  }

  bool InMap() const { return !frames_.empty() && frames_.back().is_map; }
  bool ExpectsKey() const { return InMap() && !frames_.back().has_key; }
  void Ignore() {
    if (ExpectsKey()) {
      frames_.back().has_key = true;
      frames_.back().ignored_key = true;
      frames_.back().key.clear();
    } else {
      Place(YamlNode());
    }
  }
  // `end` is the position after the key.
  void Key(const SourceLocation& where, const std::string& key, bool quoted, size_t end) {
    Frame& f = frames_.back();
    const auto [first, is_new] = f.lines.emplace(key, where.line);
    f.ignored_key = true;
    if (key.empty()) {
      Problem(where, "a key is empty", "write `key: value`");
    } else if (key.size() > kMaxKeyBytes) {
      Problem(where, fmt::format("a key has more than {} bytes", kMaxKeyBytes), "is a colon missing or misplaced?");
    } else if (key == "<<" && !quoted) {
      Problem(where, "merge keys are not supported", "write the settings out");
    } else if (!ColonFollows(end)) {
      Problem(where, fmt::format("no colon after \"{}\"", key), "write `key: value`");
    } else if (!is_new) {
      Problem(where, fmt::format("duplicate key \"{}\"", key), fmt::format("first given in line {}", first->second));
    } else {
      f.ignored_key = false;
    }
    f.has_key = true;
    f.key = key;
    f.key_location = where;
  }
  void Place(YamlNode node) {
    if (++values_ > kMaxValues) {
      problems_->Add(node.location(), "", fmt::format("more than {} values", kMaxValues), "split the file");
      throw StopParsing{};
    }
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& f = frames_.back();
    if (!f.is_map) {
      f.node.items().push_back(std::move(node));
      return;
    }
    if (!f.ignored_key) f.node.entries().push_back({std::move(f.key), std::move(f.key_location), std::move(node)});
    f.has_key = false;
    f.ignored_key = false;
  }
  void Open(const YAML::Mark& mark, YamlNode node) {
    Refused(mark);
    if (ExpectsKey()) {
      Problem(Where(mark), "a key must be a name, not a list or map", "write `key: value`");
      Ignore();  // marks the key refused; the container below then stands in the key's place and is dropped on Close
      frames_.back().has_key = false;
    }
    if (frames_.size() >= kMaxDepth) {
      problems_->Add(Where(mark), "", fmt::format("nested deeper than {} levels", kMaxDepth));
      throw StopParsing{};
    }
    Frame f;
    f.is_map = node.IsMap();
    f.node = std::move(node);
    frames_.push_back(std::move(f));
  }
  void Close() {
    YamlNode node = std::move(frames_.back().node);
    frames_.pop_back();
    if (ExpectsKey()) {
      frames_.back().has_key = true;  // the container was a (refused) key
    } else {
      Place(std::move(node));
    }
  }

  std::string_view text_;
  std::string_view file_;
  Problems* problems_;
  int documents_ = 0;
  size_t values_ = 0;
  int refused_at_ = -1;  // position of the last tag, anchor or alias reported
  std::vector<Frame> frames_;
  YamlNode root_;
};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlnum(char c) { return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// True when plain (unquoted) text would be read as something else. Stays plain: everything that can be a number, a
// quantity, a boolean, a name or a simple path.
bool NeedsQuotes(std::string_view text) {
  if (text.empty() || text == "null" || text == "Null" || text == "NULL" || text == "~") return true;
  const char first = text[0];
  const bool signed_start = (first == '-' || first == '+' || first == '.') && text.size() > 1 &&
                            (IsAlnum(text[1]) || (text[1] == '.' && text.size() > 2 && IsAlnum(text[2])));
  if (!IsAlnum(first) && first != '/' && first != '_' && first != '$' && !signed_start) return true;
  if (text.back() == ' ') return true;
  for (const char c : text) {
    if (!IsAlnum(c) && std::strchr("._+-/%$^* ()=", c) == nullptr) return true;
  }
  return text.size() > kMaxKeyBytes;
}

void AppendQuoted(std::string_view text, std::string* out) {
  *out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      *out += fmt::format("\\x{:02x}", byte);
    } else {
      *out += c;
    }
  }
  *out += '"';
}

void AppendScalar(std::string_view text, bool quoted, std::string* out) {
  if (quoted || NeedsQuotes(text)) {
    AppendQuoted(text, out);
  } else {
    *out += text;
  }
}

bool IsBlock(const YamlNode& node) {
  return (node.IsMap() && !node.entries().empty()) || (node.IsSequence() && !node.items().empty());
}

// Writes a node whose first line continues the current one; later lines are indented by `indent`.
void AppendNode(const YamlNode& node, int indent, std::string* out) {
  const std::string margin(static_cast<size_t>(indent), ' ');
  bool first = true;
  const auto start_line = [&] {
    if (!first) *out += margin;
    first = false;
  };
  switch (node.kind()) {
    case YamlNode::Kind::kNull:
      *out += "null\n";
      return;
    case YamlNode::Kind::kScalar:
      AppendScalar(node.text(), node.quoted(), out);
      *out += '\n';
      return;
    case YamlNode::Kind::kMap:
      if (node.entries().empty()) {
        *out += "{}\n";
        return;
      }
      for (const YamlNode::Entry& e : node.entries()) {
        start_line();
        AppendScalar(e.key, false, out);
        *out += ':';
        if (IsBlock(e.value)) {
          *out += '\n' + margin + "  ";
        } else {
          *out += ' ';
        }
        AppendNode(e.value, indent + 2, out);
      }
      return;
    case YamlNode::Kind::kSequence:
      if (node.items().empty()) {
        *out += "[]\n";
        return;
      }
      for (const YamlNode& item : node.items()) {
        start_line();
        *out += "- ";
        AppendNode(item, indent + 2, out);
      }
      return;
  }
}

// The parts of a dotted path; error when one is empty or there are more than the parser's nesting limit.
absl::StatusOr<std::vector<std::string_view>> SplitPath(std::string_view path) {
  std::vector<std::string_view> parts;
  for (size_t from = 0; from <= path.size();) {
    const size_t to = std::min(path.find('.', from), path.size());
    if (to == from) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is not a path to a setting; write for example plan.tp or axes.0.values", path));
    }
    parts.push_back(path.substr(from, to - from));
    from = to + 1;
  }
  if (parts.size() > kMaxDepth) {
    return absl::InvalidArgumentError(fmt::format("path \"{}\" is deeper than {} levels", path, kMaxDepth));
  }
  return parts;
}

// The item of a sequence that a path part names, or null.
const YamlNode* Item(const YamlNode& sequence, std::string_view part) {
  if (part.size() > 9 || (part.size() > 1 && part[0] == '0')) return nullptr;
  size_t index = 0;
  for (const char c : part) {
    if (!IsDigit(c)) return nullptr;
    index = index * 10 + static_cast<size_t>(c - '0');
  }
  return index < sequence.items().size() ? &sequence.items()[index] : nullptr;
}

const YamlNode* Child(const YamlNode& node, std::string_view part) {
  return node.IsSequence() ? Item(node, part) : node.Find(part);
}

}  // namespace

YamlNode YamlNode::Scalar(std::string text, SourceLocation where) {
  YamlNode node;
  node.kind_ = Kind::kScalar;
  node.text_ = std::move(text);
  node.where_ = std::move(where);
  return node;
}

YamlNode YamlNode::Map(SourceLocation where) {
  YamlNode node;
  node.kind_ = Kind::kMap;
  node.where_ = std::move(where);
  return node;
}

YamlNode YamlNode::Sequence(SourceLocation where) {
  YamlNode node;
  node.kind_ = Kind::kSequence;
  node.where_ = std::move(where);
  return node;
}

const YamlNode* YamlNode::Find(std::string_view key) const {
  for (const Entry& e : entries_) {
    if (e.key == key) return &e.value;
  }
  return nullptr;
}

absl::Status YamlNode::Set(std::string_view path, YamlNode value) {
  SIMRUN_ASSIGN_OR_RETURN(const std::vector<std::string_view> parts, SplitPath(path));
  YamlNode* node = this;
  std::string walked;
  for (const std::string_view part : parts) {
    if (node->IsScalar()) {
      return absl::InvalidArgumentError(
          fmt::format("cannot set \"{}\": {} is the value \"{}\", not a map", path, walked, node->text()));
    }
    if (node->IsNull()) *node = Map(node->location());
    auto* next = const_cast<YamlNode*>(Child(*node, part));
    if (next == nullptr && node->IsSequence()) {
      return absl::InvalidArgumentError(fmt::format("cannot set \"{}\": {} is a list of {}, and \"{}\" is not one of its "
                                                    "positions (counted from 0)",
                                                    path, walked.empty() ? "the document" : walked,
                                                    node->items().size(), part));
    }
    if (next == nullptr) {
      node->entries_.push_back({std::string(part), value.location(), YamlNode()});
      next = &node->entries_.back().value;
    }
    node = next;
    if (!walked.empty()) walked += '.';
    walked += part;
  }
  *node = std::move(value);
  return absl::OkStatus();
}

const YamlNode* YamlNode::Get(std::string_view path) const {
  const auto parts = SplitPath(path);
  if (!parts.ok()) return nullptr;
  const YamlNode* node = this;
  for (const std::string_view part : *parts) {
    node = Child(*node, part);
    if (node == nullptr) return nullptr;
  }
  return node;
}

std::string YamlNode::ToYaml() const {
  std::string out;
  AppendNode(*this, 0, &out);
  return out;
}

bool operator==(const YamlNode& a, const YamlNode& b) {
  if (a.kind_ != b.kind_ || a.text_ != b.text_) return false;
  // Text that cannot stand plain is the same text whether or not quotes were asked for.
  if (a.quoted_ != b.quoted_ && a.IsScalar() && !NeedsQuotes(a.text_)) return false;
  return a.items_ == b.items_ &&
         std::equal(a.entries_.begin(), a.entries_.end(), b.entries_.begin(), b.entries_.end(),
                    [](const YamlNode::Entry& x, const YamlNode::Entry& y) {
                      return x.key == y.key && x.value == y.value;
                    });
}

absl::StatusOr<YamlNode> ParseYaml(std::string_view text, std::string_view file) {
  Problems problems;
  if (text.size() > kMaxBytes) {
    problems.Add({std::string(file), 0, 0}, "", fmt::format("is larger than {} MiB", kMaxBytes >> 20),
                 "put tables into a CSV file");
    return problems.ToStatus();
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);  // some editors write a byte order mark
  CheckBytes(text, file, &problems);
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());

  Builder builder(text, file, &problems);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const StopParsing&) {
  } catch (const YAML::Exception& e) {
    builder.OnParseError(e);
  } catch (const std::exception& e) {
    problems.Add({std::string(file), 0, 0}, "", fmt::format("not valid YAML: {}", e.what()));
  }
  SIMRUN_RETURN_IF_ERROR(problems.ToStatus());
  YamlNode root = builder.TakeRoot();
  if (root.IsNull()) root.set_location({std::string(file), 1, 1});  // an empty document has no event of its own
  return root;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  const auto failed = [&](int error) -> absl::Status {
    const std::string message = fmt::format("{}: cannot be read: {}", path, std::strerror(error));
    if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(fmt::format("{}: no such file", path));
    if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
    return absl::UnknownError(message);
  };
  // O_NONBLOCK: opening a pipe must fail the check below instead of waiting for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failed(errno);
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  struct stat info {};
  if (::fstat(fd, &info) != 0) return failed(errno);
  if (S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(fmt::format("{}: is a directory, not a file", path));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(fmt::format("{}: is not a regular file", path));
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > max_bytes) {
      return absl::InvalidArgumentError(fmt::format("{}: is larger than {} bytes", path, max_bytes));
    }
  }
}

absl::StatusOr<YamlNode> ReadYamlFile(const std::string& path) {
  SIMRUN_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxBytes));
  return ParseYaml(text, path);
}

}  // namespace simrun
