// Helpers of the workload tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/yaml.h"
#include "workload/byte_source.h"
#include "workload/config.h"
#include "workload/source.h"
#include "workload/trace_reader.h"

namespace simrun {

inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

// A folder of its own for the running test, removed at the end.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "simrun_workload_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string Write(const std::string& name, std::string_view text) const {
    const std::string full = path_ + "/" + name;
    std::ofstream(full, std::ios::binary) << text;
    return full;
  }

 private:
  std::string path_;
};

struct ReadResult {
  std::vector<TraceRow> rows;
  absl::Status status;
  int64_t skipped = 0;
  TraceFormat format = TraceFormat::kAuto;
};

inline ReadResult ReadTrace(std::string_view text, TraceOptions options = {}) {
  ReadResult result;
  auto reader = TraceReader::Open(FromMemory(text), "t.csv", options);
  if (!reader.ok()) {
    result.status = reader.status();
    return result;
  }
  result.format = (*reader)->format();
  TraceRow row;
  while (true) {
    auto more = (*reader)->Next(&row);
    result.skipped = (*reader)->skipped();
    if (!more.ok()) {
      result.status = more.status();
      return result;
    }
    if (!*more) return result;
    result.rows.push_back(row);
  }
}

// The workload section in `yaml`, which must be free of problems.
inline WorkloadConfig Config(std::string_view yaml) {
  WorkloadConfig config;
  auto node = ParseYaml(yaml, "w.yaml");
  EXPECT_TRUE(node.ok()) << node.status();
  if (!node.ok()) return config;
  Problems problems;
  ReadWorkload(*node, "workload", &problems, &config);
  EXPECT_TRUE(problems.empty()) << Message(problems.ToStatus());
  return config;
}

// Its problems, one a line.
inline std::string ProblemsOf(std::string_view yaml) {
  auto node = ParseYaml(yaml, "w.yaml");
  EXPECT_TRUE(node.ok()) << node.status();
  if (!node.ok()) return "";
  WorkloadConfig config;
  Problems problems;
  ReadWorkload(*node, "workload", &problems, &config);
  return Message(problems.ToStatus());
}

// Up to `most` arrivals of an open-loop source.
inline std::vector<Arrival> Take(ArrivalSource& source, size_t most) {
  std::vector<Arrival> arrivals;
  Arrival a;
  while (arrivals.size() < most) {
    const SimTime expected = source.next_time();
    auto r = source.Next(&a);
    EXPECT_TRUE(r.ok()) << r.status();
    if (!r.ok() || *r != NextResult::kArrival) {
      EXPECT_EQ(expected, SimTime::Infinite());
      break;
    }
    EXPECT_EQ(expected, a.at);
    EXPECT_EQ(a.id, arrivals.size());
    EXPECT_TRUE(arrivals.empty() || a.at >= arrivals.back().at);
    arrivals.push_back(a);
  }
  return arrivals;
}

inline std::vector<Arrival> Arrivals(std::string_view yaml, size_t most = SIZE_MAX, uint64_t seed = 1,
                                     const std::string& base_dir = "") {
  auto source = MakeSource(Config(yaml), seed, base_dir);
  EXPECT_TRUE(source.ok()) << source.status();
  if (!source.ok()) return {};
  return Take(**source, most);
}

}  // namespace simrun
