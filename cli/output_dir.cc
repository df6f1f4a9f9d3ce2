#include "cli/output_dir.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun {

namespace fs = std::filesystem;

namespace {
absl::Status CannotWrite(const std::string& path, const std::string& why) {
  return absl::UnknownError(fmt::format("{}: cannot be written: {}", path, why));
}
}  // namespace

absl::StatusOr<std::unique_ptr<OutputDir>> OutputDir::Create(const std::string& directory) {
  std::unique_ptr<OutputDir> out(new OutputDir);
  out->directory_ = directory;
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_directory(directory, error)) {
    return CannotWrite(directory, "is a file, not a directory");
  }
  fs::path missing;
  for (fs::path p = fs::absolute(directory, error).lexically_normal(); !p.empty() && !fs::exists(p, error); p = p.parent_path()) {
    if (p.has_filename()) missing = p;
  }
  fs::create_directories(directory, error);
  out->made_ = missing.string();
  if (error) return CannotWrite(directory, error.message());
  std::string pattern = (fs::path(directory) / ".simrun-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) return CannotWrite(directory, std::strerror(errno));
  out->staging_ = std::move(pattern);
  return out;
}

OutputDir::~OutputDir() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
  // Only empty directories go: something else may have been put there meanwhile.
  if (made_.empty()) return;
  for (fs::path p = fs::absolute(directory_, ignored).lexically_normal(); p.string().size() >= made_.size(); p = p.parent_path()) {
    if (p.has_filename() && !fs::remove(p, ignored)) break;
  }
}

std::string OutputDir::StagingPath(const std::string& name) {
  names_.push_back(name);
  return (fs::path(staging_) / name).string();
}

absl::Status OutputDir::Write(const std::string& name, std::string_view text) {
  SIMRUN_ASSIGN_OR_RETURN(FileWriter file, FileWriter::Open(StagingPath(name)));
  file.Append(text);
  return file.Close();
}

absl::Status OutputDir::Commit() {
  std::error_code error;
  for (const std::string& name : names_) {
    const fs::path target = fs::path(directory_) / name;
    if (fs::is_directory(target, error)) return CannotWrite(target.string(), "is a directory");
  }
  for (const std::string& name : names_) {
    const fs::path target = fs::path(directory_) / name;
    fs::rename(fs::path(staging_) / name, target, error);
    if (error) return CannotWrite(target.string(), error.message());
    made_.clear();
  }
  return absl::OkStatus();
}

absl::StatusOr<FileWriter> FileWriter::Open(const std::string& path) {
  FileWriter file;
  file.path_ = path;
  file.fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd_ < 0) return CannotWrite(path, std::strerror(errno));
  return file;
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), error_(other.error_), path_(std::move(other.path_)), buffer_(std::move(other.buffer_)) {}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::Append(std::string_view text) {
  buffer_ += text;
  if (buffer_.size() >= (size_t{1} << 16)) Flush();
}

void FileWriter::Flush() {
  size_t done = 0;
  while (error_ == 0 && done < buffer_.size()) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      error_ = errno;
    }
  }
  buffer_.clear();
}

absl::Status FileWriter::Close() {
  Flush();
  if (::close(std::exchange(fd_, -1)) != 0 && error_ == 0) error_ = errno;
  return error_ == 0 ? absl::OkStatus() : CannotWrite(path_, std::strerror(error_));
}

}  // namespace simrun
