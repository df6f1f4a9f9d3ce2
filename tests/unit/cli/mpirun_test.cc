// Sweeps and searches shared by processes that mpirun starts. Skipped where there is no mpirun.
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/instrumented.h"
#include "tests/unit/cli/program.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

constexpr const char* kSweep = R"(
base:
  model: llama-3.1-8b
  hardware: {gpu: h100-sxm-80gb}
  workload: {requests: 100, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 200, output_tokens: 20}
axes:
  - {path: workload.arrivals.poisson.rate, range: {from: 1 /s, to: 30 /s, points: 30}}
  - {path: scheduler.max_num_seqs, values: [1, 16]}
  - {path: plan.tp, values: [1, 3]}
)";

class Mpirun : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "no mpirun here (Debian: openmpi-bin)";
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    // Open MPI keeps what it allocates until the end of the process; a sanitized simrun would call that its own leak.
    const char* options = std::getenv("ASAN_OPTIONS");
    ::setenv("ASAN_OPTIONS", ((options != nullptr ? std::string(options) + ":" : "") + "detect_leaks=0").c_str(), 1);
    workplace_.Write("sweep.yaml", kSweep);
    if (Shell("mpirun --oversubscribe -n 2 " SIMRUN_BINARY " sweep sweep.yaml --dry-run").err.find("without MPI") != std::string::npos) {
      GTEST_SKIP() << "this simrun was built without MPI (Debian: libopenmpi-dev)";
    }
  }
  ProgramResult Shell(const std::string& command) {
    const std::string in = "cd '" + workplace_.path().string() + "' && { " + command + "; } >out.txt 2>err.txt";
    const int status = std::system(in.c_str());
    ProgramResult result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    result.out = workplace_.Read("out.txt");
    result.err = workplace_.Read("err.txt");
    return result;
  }
  std::string Rows(const std::string& db) {
    const ProgramResult r = workplace_.Run({"query", db, "--csv", db + ".csv"});
    EXPECT_EQ(r.code, 0) << r.err;
    return workplace_.Read(db + ".csv");
  }
  Workplace workplace_;
};

TEST_F(Mpirun, FourProcessesGiveTheResultsOfOne) {
  ASSERT_EQ(workplace_.Run({"sweep", "sweep.yaml", "--db", "one.db", "--threads", "1"}).code, 0);
  ASSERT_EQ(workplace_.Run({"sweep", "sweep.yaml", "--db", "eight.db", "--threads", "8"}).code, 0);
  const ProgramResult four = Shell("mpirun --oversubscribe -n 4 " SIMRUN_BINARY " sweep sweep.yaml --db four.db");
  ASSERT_EQ(four.code, 0) << four.err;
  EXPECT_THAT(four.out, HasSubstr("four.db: 120 points, 60 impossible; 120 runs"));
  const std::string one = Rows("one.db");
  EXPECT_EQ(one, Rows("four.db"));
  EXPECT_EQ(one, Rows("eight.db"));
}

TEST_F(Mpirun, ASearchIsTheSame) {
  workplace_.Write("plan.yaml", "model: llama-3.1-8b\nhardware: {gpu: h100-sxm-80gb, count: 8}\nslo: {ttft: 1 s}\n"
                                "workload: {requests: 60, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 200, output_tokens: 20}\n");
  const ProgramResult one = workplace_.Run({"plan", "plan.yaml", "--top", "100"});
  const ProgramResult three = Shell("mpirun --oversubscribe -n 3 " SIMRUN_BINARY " plan plan.yaml --top 100");
  ASSERT_EQ(one.code, 0) << one.err;
  ASSERT_EQ(three.code, 0) << three.err;
  EXPECT_EQ(one.out, three.out);
}

TEST_F(Mpirun, MistakesAreReportedOnce) {
  const ProgramResult wrong = Shell("mpirun --oversubscribe -n 3 " SIMRUN_BINARY " sweep none.yaml");
  EXPECT_NE(wrong.code, 0);
  EXPECT_EQ(wrong.err.find("none.yaml: no such file"), wrong.err.rfind("none.yaml: no such file")) << wrong.err;
  EXPECT_THAT(wrong.err, HasSubstr("none.yaml: no such file"));
  const ProgramResult run = Shell("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 " SIMRUN_BINARY " run none.yaml");
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.err, HasSubstr("simrun run runs in one process, but mpirun started 2"));
}

// The child of `parent` that is process `rank` of its job; 0: none yet.
pid_t ProcessOf(pid_t parent, const std::string& rank) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string stat = ReadAll(entry.path() / "stat");
    const size_t after = stat.rfind(')');
    int ppid = 0;
    if (after == std::string::npos || std::sscanf(stat.c_str() + after + 1, " %*c %d", &ppid) != 1 || ppid != parent) continue;
    const std::string environment = ReadAll(entry.path() / "environ") + '\0';
    if (environment.find("OMPI_COMM_WORLD_RANK=" + rank + '\0') != std::string::npos) return static_cast<pid_t>(std::stol(name));
  }
  return 0;
}

TEST_F(Mpirun, AKilledWorkerLosesNothing) {
  // Long enough to be killed on the way, also without instrumentation.
  std::string sweep = kSweep;
  sweep.replace(sweep.find("requests: 100"), 13, "requests: " + std::to_string(kInstrumented ? 1500 : 20000));
  workplace_.Write("sweep.yaml", sweep);
  const auto killed = [&](const std::vector<const char*>& flags, const char* db) {
    std::vector<const char*> argv = {"mpirun", "--oversubscribe", "-n", "3"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    for (const char* a : {SIMRUN_BINARY, "sweep", "sweep.yaml", "--db", db}) argv.push_back(a);
    argv.push_back(nullptr);
    const pid_t mpirun = ::fork();
    if (mpirun == 0) {
      if (::chdir(workplace_.path().c_str()) != 0) ::_exit(127);
      ::dup2(::open("killed.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
      ::dup2(1, 2);
      ::execvp("mpirun", const_cast<char* const*>(argv.data()));
      ::_exit(127);
    }
    // Once there are results, all processes are at work.
    pid_t victim = 0;
    for (int i = 0; i < 1000 && victim == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      std::error_code none;
      if (std::filesystem::file_size(workplace_.path() / db, none) > 40000 && !none) victim = ProcessOf(mpirun, "2");
    }
    EXPECT_NE(victim, 0);
    if (victim != 0) ::kill(victim, SIGKILL);
    int status = 0;
    ::waitpid(mpirun, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  // Open MPI ends the other processes by default, and kills those that take more than a second: it says what happened.
  EXPECT_NE(killed({}, "ended.db"), 0);
  EXPECT_THAT(workplace_.Read("killed.txt"), HasSubstr("exited on signal 9 (Killed)"));
  const ProgramResult rest = Shell("mpirun --oversubscribe -n 2 " SIMRUN_BINARY " sweep sweep.yaml --db ended.db");
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_THAT(rest.out, HasSubstr("found finished"));
  // Asked to, it lets them go on.
  EXPECT_EQ(killed({"--enable-recovery"}, "on.db"), 0);
  EXPECT_THAT(workplace_.Read("killed.txt"), HasSubstr("is taken for lost"));
  EXPECT_EQ(Rows("on.db"), Rows("ended.db"));
}

}  // namespace
}  // namespace simrun
