#include "workload/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/status.h"

namespace simrun {
namespace {

std::string ErrnoText(int error) { return std::generic_category().message(error); }

class FileSource : public ByteSource {
 public:
  explicit FileSource(int fd) : fd_(fd) {}
  ~FileSource() override { ::close(fd_); }
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    while (true) {
      const ssize_t n = ::read(fd_, buffer, size);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EINTR) return absl::UnavailableError("cannot be read: " + ErrnoText(errno));
    }
  }

 private:
  int fd_;
};

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::string_view text) : text_(text) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    const size_t n = std::min(size, text_.size());
    if (n > 0) std::memcpy(buffer, text_.data(), n);
    text_.remove_prefix(n);
    return n;
  }

 private:
  std::string_view text_;
};

// Bytes already read, then the rest.
class PrefixedSource : public ByteSource {
 public:
  PrefixedSource(std::string prefix, std::unique_ptr<ByteSource> rest)
      : prefix_(std::move(prefix)), rest_(std::move(rest)) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    if (at_ == prefix_.size()) return rest_->Read(buffer, size);
    const size_t n = std::min(size, prefix_.size() - at_);
    std::memcpy(buffer, prefix_.data() + at_, n);
    at_ += n;
    return n;
  }

 private:
  std::string prefix_;
  size_t at_ = 0;
  std::unique_ptr<ByteSource> rest_;
};

class GunzipSource : public ByteSource {
 public:
  explicit GunzipSource(std::unique_ptr<ByteSource> packed) : packed_(std::move(packed)) {}
  ~GunzipSource() override {
    if (ready_) inflateEnd(&stream_);
  }
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    if (!ready_) {
      if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) {
        return absl::ResourceExhaustedError("cannot be unpacked: out of memory");
      }
      ready_ = true;
    }
    stream_.next_out = reinterpret_cast<Bytef*>(buffer);
    stream_.avail_out = static_cast<uInt>(std::min(size, size_t{1} << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (stream_.avail_in == 0) {
        SIMRUN_ASSIGN_OR_RETURN(const size_t n, packed_->Read(input_, sizeof(input_)));
        if (n == 0) {
          if (between_members_) return 0;
          return absl::InvalidArgumentError("the gzip file is cut short; fetch or pack it again");
        }
        stream_.next_in = reinterpret_cast<Bytef*>(input_);
        stream_.avail_in = static_cast<uInt>(n);
      }
      if (between_members_) {
        if (stream_.next_in[0] != 0x1f) {
          return absl::InvalidArgumentError("there are bytes after the end of the gzip data; fetch or pack it again");
        }
        inflateReset(&stream_);
        between_members_ = false;
      }
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        between_members_ = true;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return absl::InvalidArgumentError("the gzip file is damaged; fetch or pack it again");
      }
    }
    return wanted - stream_.avail_out;
  }

 private:
  std::unique_ptr<ByteSource> packed_;
  z_stream stream_{};
  bool ready_ = false;
  bool between_members_ = false;
  char input_[1 << 16];
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenFile(const std::string& path) {
  if (path.find('\0') != std::string::npos) return absl::InvalidArgumentError("the file name holds a NUL byte");
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return absl::NotFoundError("no such file");
    if (errno == EACCES) return absl::PermissionDeniedError("may not be read");
    return absl::UnavailableError("cannot be opened: " + ErrnoText(errno));
  }
  auto source = std::make_unique<FileSource>(fd);
  struct stat info;
  if (::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) return absl::InvalidArgumentError("is a directory, not a file");
  return source;
}

std::unique_ptr<ByteSource> FromMemory(std::string_view text) { return std::make_unique<MemorySource>(text); }

absl::StatusOr<std::unique_ptr<ByteSource>> Unpack(std::unique_ptr<ByteSource> packed) {
  std::string head;
  while (head.size() < 2) {
    char buffer[2];
    SIMRUN_ASSIGN_OR_RETURN(const size_t n, packed->Read(buffer, 2 - head.size()));
    if (n == 0) break;
    head.append(buffer, n);
  }
  const bool gzip = head == "\x1f\x8b";
  std::unique_ptr<ByteSource> whole = std::make_unique<PrefixedSource>(std::move(head), std::move(packed));
  if (!gzip) return whole;
  return std::make_unique<GunzipSource>(std::move(whole));
}

LineReader::LineReader(std::unique_ptr<ByteSource> bytes)
    // Not value-initialised: untouched pages of a short trace cost nothing.
    : bytes_(std::move(bytes)), buffer_(new char[size_t{1} << 18]), capacity_(size_t{1} << 18), begin_(buffer_.get()),
      end_(buffer_.get()) {}
LineReader::~LineReader() = default;

const void* LineReader::FindNewline() const {
  // A block with a NUL byte goes the slow way, which checks line by line.
  if (nul_ != nullptr || line_ == 0) return nullptr;
  return std::memchr(begin_, '\n', static_cast<size_t>(end_ - begin_));
}

absl::StatusOr<bool> LineReader::NextSlow(std::string_view* line) {
  const bool first = line_ == 0;
  ++line_;
  size_t searched = 0;
  while (true) {
    const size_t available = static_cast<size_t>(end_ - begin_);
    const void* found = std::memchr(begin_ + searched, '\n', available - searched);
    if (found != nullptr || (at_end_ && available > 0)) {
      const char* stop = found != nullptr ? static_cast<const char*>(found) : end_;
      if (static_cast<size_t>(stop - begin_) > kMaxLine) break;
      if (nul_ != nullptr && nul_ < stop) {
        return absl::InvalidArgumentError("holds a NUL byte; this is not a text file");
      }
      std::string_view text(begin_, static_cast<size_t>(stop - begin_));
      begin_ = found != nullptr ? stop + 1 : end_;
      if (nul_ != nullptr) nul_ = static_cast<const char*>(std::memchr(begin_, 0, static_cast<size_t>(end_ - begin_)));
      if (!text.empty() && text.back() == '\r') text.remove_suffix(1);
      if (first && text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
      *line = text;
      return true;
    }
    if (at_end_) {
      --line_;
      return false;
    }
    if (available > kMaxLine) break;
    searched = available;
    if (begin_ != buffer_.get()) {
      std::memmove(buffer_.get(), begin_, available);
    }
    if (available == capacity_) {
      std::unique_ptr<char[]> larger(new char[2 * capacity_]);
      std::memcpy(larger.get(), buffer_.get(), available);
      buffer_ = std::move(larger);
      capacity_ *= 2;
    }
    begin_ = buffer_.get();
    end_ = begin_ + available;
    SIMRUN_ASSIGN_OR_RETURN(const size_t n, bytes_->Read(buffer_.get() + available, capacity_ - available));
    at_end_ = n == 0;
    end_ += n;
    nul_ = static_cast<const char*>(std::memchr(begin_, 0, available + n));
  }
  return absl::InvalidArgumentError("the line is longer than 1 MiB; this is not a trace");
}

}  // namespace simrun
