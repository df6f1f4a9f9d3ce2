// Result files that appear together or not at all.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace simrun {

// Files are written to a hidden folder inside the directory and moved into place by Commit. Without Commit everything
// is removed again, directories that were made included.
class OutputDir {
 public:
  // Makes the directory when it is missing. Errors say what cannot be written and why.
  static absl::StatusOr<std::unique_ptr<OutputDir>> Create(const std::string& directory);
  ~OutputDir();
  OutputDir(const OutputDir&) = delete;
  OutputDir& operator=(const OutputDir&) = delete;

  // Where a file of this name is written until Commit.
  std::string StagingPath(const std::string& name);
  absl::Status Write(const std::string& name, std::string_view text);
  // Replaces files of the same names.
  absl::Status Commit();

 private:
  OutputDir() = default;
  std::string directory_, staging_;
  std::string made_;                    // topmost directory that was made, empty: none
  std::vector<std::string> names_;
};

// A text file written piece by piece.
class FileWriter {
 public:
  static absl::StatusOr<FileWriter> Open(const std::string& path);
  ~FileWriter();
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;

  void Append(std::string_view text);
  // The first error of all writes.
  absl::Status Close();

 private:
  FileWriter() = default;
  void Flush();
  int fd_ = -1;
  int error_ = 0;
  std::string path_, buffer_;
};

}  // namespace simrun
