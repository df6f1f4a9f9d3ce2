// File names in a configuration.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace simrun {

// `path` taken from `base_dir` unless it is absolute or `base_dir` is empty.
inline std::string ResolvePath(const std::string& base_dir, const std::string& path) {
  if (base_dir.empty() || (!path.empty() && path.front() == '/')) return path;
  return base_dir.back() == '/' ? base_dir + path : base_dir + "/" + path;
}

// Up to the last slash: "" for a file in the working directory.
inline std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : slash == 0 ? std::string("/") : path.substr(0, slash);
}

// Whether what stands for a catalogue entry is a file of its own: "mine/gpu.yaml".
inline bool IsEntryFile(std::string_view name) {
  const auto ends = [&](std::string_view suffix) {
    return name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix;
  };
  return ends(".yaml") || ends(".yml");
}

// The entry's name as it stands, or its file taken from `base_dir`.
inline std::string LocateEntry(const std::string& base_dir, const std::string& name) {
  return IsEntryFile(name) ? ResolvePath(base_dir, name) : name;
}

// A name that stands in `entry`: paths in a file are taken from its directory.
inline std::string Beside(std::string_view entry, const std::string& name) {
  return IsEntryFile(entry) ? LocateEntry(DirectoryOf(std::string(entry)), name) : name;
}

// What reports call an entry: its name, or that of its file ("gpu").
inline std::string EntryName(const std::string& name) {
  return IsEntryFile(name) ? std::filesystem::path(name).stem().string() : name;
}

}  // namespace simrun
