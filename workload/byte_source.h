// Bytes of a trace, in order: a file, memory, or either unpacked from gzip.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace simrun {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills `buffer` with up to `size` bytes, size >= 1. 0 is the end. Errors carry no file name.
  virtual absl::StatusOr<size_t> Read(char* buffer, size_t size) = 0;
};

// Opens a file or pipe. NotFound, PermissionDenied, or InvalidArgument for a directory.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenFile(const std::string& path);
// Reads `text`, which must outlive the source.
std::unique_ptr<ByteSource> FromMemory(std::string_view text);
// Passes `packed` through, or unpacks it when it starts with the two bytes of a gzip file. Several gzip members in a
// row are one stream, as with gunzip. InvalidArgument for a truncated or damaged file, and for bytes after its end.
absl::StatusOr<std::unique_ptr<ByteSource>> Unpack(std::unique_ptr<ByteSource> packed);

// Lines of a byte source in constant memory.
class LineReader {
 public:
  static constexpr size_t kMaxLine = size_t{1} << 20;

  explicit LineReader(std::unique_ptr<ByteSource> bytes);
  ~LineReader();

  // The next line without its end ("\n" or "\r\n"), valid until the next call; false at the end of the source.
  // A byte order mark before the first line is dropped. InvalidArgument for a line longer than kMaxLine or one with a
  // NUL byte; other codes when reading fails.
  absl::StatusOr<bool> Next(std::string_view* line) {
    if (const char* end = static_cast<const char*>(FindNewline()); end != nullptr) {
      const char* start = begin_;
      begin_ = end + 1;
      ++line_;
      if (end > start && end[-1] == '\r') --end;
      *line = std::string_view(start, static_cast<size_t>(end - start));
      return true;
    }
    return NextSlow(line);
  }
  // 1-based number of the line that Next returned last, or failed on.
  int64_t line() const { return line_; }

 private:
  const void* FindNewline() const;
  absl::StatusOr<bool> NextSlow(std::string_view* line);

  std::unique_ptr<ByteSource> bytes_;
  std::unique_ptr<char[]> buffer_;
  size_t capacity_;
  const char* begin_;  // not yet returned: [begin_, end_)
  const char* end_;
  const char* nul_ = nullptr;  // first NUL byte in [begin_, end_)
  bool at_end_ = false;
  int64_t line_ = 0;
};

}  // namespace simrun
