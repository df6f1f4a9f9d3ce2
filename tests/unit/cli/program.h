// Runs the built `simrun` in a folder of its own and keeps what it printed and left behind.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace simrun {

inline std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

struct ProgramResult {
  int code = -1;      // exit status, -1 when killed by a signal
  int signal = 0;
  std::string out, err;
};

// A temporary folder that is removed at the end.
class Workplace {
 public:
  Workplace() {
    std::string pattern = (std::filesystem::temp_directory_path() / "simrun-test-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~Workplace() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void Write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  std::string Read(const std::string& name) const { return ReadAll(path_ / name); }
  // Everything in the folder, at any depth.
  std::set<std::string> Files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
      names.insert(std::filesystem::relative(entry.path(), path_).string());
    }
    return names;
  }

  // Runs simrun here.
  ProgramResult Run(const std::vector<std::string>& arguments) const {
    const Workplace* here = this;
    const std::filesystem::path out = here->path_.string() + ".out", err = here->path_.string() + ".err";
    std::vector<const char*> argv = {SIMRUN_BINARY};
    for (const std::string& a : arguments) argv.push_back(a.c_str());
    argv.push_back(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
      ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
      if (::chdir(path_.c_str()) == 0) ::execv(SIMRUN_BINARY, const_cast<char* const*>(argv.data()));
      ::_exit(127);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    ProgramResult result;
    if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
    result.out = ReadAll(out);
    result.err = ReadAll(err);
    std::filesystem::remove(out);
    std::filesystem::remove(err);
    return result;
  }

 private:
  std::filesystem::path path_;
};

// A scenario that runs, in one line per section: model 1, hardware 2, plan 3, engine 4, scheduler 5, workload 6, slo 7,
// seed 8.
class ScenarioText {
 public:
  ScenarioText& Set(const std::string& section, const std::string& value) {
    for (auto& [name, text] : sections_) {
      if (name == section) text = value;
    }
    return *this;
  }
  ScenarioText& Remove(const std::string& section) { return Set(section, kRemoved); }
  std::string text() const {
    std::string out;
    for (const auto& [name, value] : sections_) {
      if (value != kRemoved) out += name + ": " + value + "\n";
    }
    return out;
  }

 private:
  static constexpr const char* kRemoved = "(removed)";
  std::vector<std::pair<std::string, std::string>> sections_ = {
      {"model", "llama-3.1-8b"},
      {"hardware", "{gpu: h100-sxm-80gb}"},
      {"plan", "{tp: 1}"},
      {"engine", "{profile: vllm-0.19}"},
      {"scheduler", "{max_num_seqs: 128}"},
      {"workload", "{requests: 10, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 100, output_tokens: 20}"},
      {"slo", "{ttft: 500 ms}"},
      {"seed", "1"},
  };
};

}  // namespace simrun
