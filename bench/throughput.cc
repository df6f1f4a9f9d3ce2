// End-to-end speed: whole simulations through the public interface, all metrics on, one core.
//
//   bench/throughput [--quick] [--markdown]
//
// --markdown prints the table that bench/renew.sh puts into README.md and docs/performance.md.
//
// Prints requests, iterations and simulated tokens per second of processor time, peak memory, how time and memory grow with
// the number of requests, and how the time per request depends on batch size and output length. Each figure is also
// given as a ratio to a bare hand-written loop in the same run, which is what compares between machines.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/rng.h"
#include "sim/simulation.h"

namespace simrun {
namespace {

// Processor time of this process: what one core spends, whatever else the machine is doing.
double Now() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The least that any simulator of this system does: one queue, one running batch, prompt chunks in a budget, a linear
// step time, sums of the latencies. No KV memory, no percentiles, no energy, no configuration.
double BareLoopRequestsPerSecond(int64_t requests) {
  Rng rng(1, "bare");
  const double start = Now();
  struct Waiting { double arrival; int left, output; };
  struct Running { int64_t finish; double arrival, first; int output; bool operator>(const Running& o) const { return finish > o.finish; } };
  std::deque<Waiting> waiting;
  std::vector<Running> running;
  double clock = 0, next_arrival = 0, kv = 0, sum_ttft = 0, sum_tpot = 0, sum_e2e = 0;
  int64_t arrived = 0, done = 0, step = 0;
  while (done < requests) {
    if (waiting.empty() && running.empty()) clock = std::max(clock, next_arrival);
    while (arrived < requests && next_arrival <= clock) {
      waiting.push_back({next_arrival, static_cast<int>(200 + rng.Below(1900)), static_cast<int>(10 + rng.Below(400))});
      next_arrival += rng.Exponential(1 / 6.45);
      ++arrived;
    }
    int budget = 512 - static_cast<int>(running.size());
    int tokens = static_cast<int>(running.size());
    size_t complete = 0;
    for (size_t i = 0; i < waiting.size() && budget > 0 && running.size() + i < 128; ++i) {
      const int chunk = std::min(budget, waiting[i].left);
      waiting[i].left -= chunk;
      budget -= chunk;
      tokens += chunk;
      if (waiting[i].left == 0) ++complete;
    }
    kv += static_cast<double>(running.size());
    clock += 8e-3 + 6e-5 * tokens + 8e-8 * kv;
    ++step;
    while (!running.empty() && running.front().finish <= step) {
      const Running& r = running.front();
      sum_e2e += clock - r.arrival;
      sum_tpot += (clock - r.first) / r.output;
      kv -= 1000;
      ++done;
      std::pop_heap(running.begin(), running.end(), std::greater<>());
      running.pop_back();
    }
    for (; complete > 0; --complete) {
      const Waiting& w = waiting.front();
      sum_ttft += clock - w.arrival;
      running.push_back({step + w.output, w.arrival, clock, w.output});
      std::push_heap(running.begin(), running.end(), std::greater<>());
      kv += 1000;
      waiting.pop_front();
    }
  }
  const double seconds = Now() - start;
  // Used, so that the loop cannot be optimised away.
  if (sum_ttft + sum_tpot + sum_e2e < 0) std::puts("");
  return static_cast<double>(requests) / seconds;
}

constexpr char kScenario[] = R"(
model: llama-3-8b
hardware: {gpu: a100-sxm-80gb, count: 1}
engine: {profile: vllm-0.19}
scheduler: {policy: chunked-prefill, max_num_seqs: 128, max_num_batched_tokens: 512}
workload:
  requests: 1000
  arrivals: {poisson: {rate: 6.45 /s}}
  input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 7000}}
  output_tokens: {lognormal: {mean: 211, p99: 601, max: 1000}}
slo: {ttft: 1 s, tpot: 100 ms}
)";

struct Measured {
  double seconds = 0, requests = 0, iterations = 0, tokens = 0, peak_mb = 0, bare = 0;
};

// Runs in a process of its own, so that the peak memory is that of this run alone.
Measured Measure(const std::vector<std::pair<std::string, std::string>>& settings) {
  int fds[2];
  Measured m;
  if (pipe(fds) != 0) return m;
  const pid_t child = fork();
  if (child == 0) {
    absl::StatusOr<Scenario> scenario = Scenario::FromYaml(kScenario);
    for (const auto& [path, value] : settings) {
      if (scenario.ok()) scenario = scenario->With(path, value);
    }
    const double start = Now();
    const absl::StatusOr<Report> report = Simulate(scenario);
    m.seconds = Now() - start;
    if (!report.ok()) {
      std::fprintf(stderr, "%s\n", std::string(report.status().message()).c_str());
      _exit(1);
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    m.peak_mb = static_cast<double>(usage.ru_maxrss) / 1024;
    m.requests = static_cast<double>(report->requests.completed);
    m.iterations = report->simulation.iterations;
    m.tokens = static_cast<double>(report->requests.input_tokens + report->requests.output_tokens);
    m.bare = BareLoopRequestsPerSecond(300000);
    const bool written = write(fds[1], &m, sizeof m) == static_cast<ssize_t>(sizeof m);
    _exit(written ? 0 : 1);
  }
  close(fds[1]);
  if (read(fds[0], &m, sizeof m) != static_cast<ssize_t>(sizeof m)) m = Measured();
  close(fds[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return m;
}

class Table {
 public:
  explicit Table(bool markdown) : markdown_(markdown) {
    if (markdown_) {
      fmt::print("| run | requests/s | engine steps/s | simulated tokens/s | peak memory | ratio to a bare loop |\n|---|---:|---:|---:|---:|---:|\n");
    } else {
      fmt::print("{:<44} {:>9} {:>12} {:>12} {:>13} {:>8} {:>9}\n", "run", "cpu s", "requests/s", "iterations/s", "sim tokens/s", "peak MB", "x bare");
    }
  }
  void Row(const std::string& what, const Measured& m) const {
    if (markdown_) {
      fmt::print("| {} | {:.2f} M | {:.1f} M | {:.0f} M | {:.0f} MB | {:.2f} |\n", what, m.requests / m.seconds / 1e6, m.iterations / m.seconds / 1e6,
                 m.tokens / m.seconds / 1e6, m.peak_mb, m.requests / m.seconds / m.bare);
    } else {
      fmt::print("{:<44} {:>9.3f} {:>12.0f} {:>12.0f} {:>13.0f} {:>8.1f} {:>9.3f}\n", what, m.seconds, m.requests / m.seconds,
                 m.iterations / m.seconds, m.tokens / m.seconds, m.peak_mb, m.requests / m.seconds / m.bare);
    }
    std::fflush(stdout);
  }

 private:
  bool markdown_;
};

int Main(bool quick, bool markdown) {
  const std::string million = quick ? "100000" : "1000000";
  const std::string ten_million = quick ? "1000000" : "10000000";
  fmt::print("llama-3-8b on one a100-sxm-80gb, chunked-prefill (budget 512, 128 sequences), Poisson 6.45 /s, Azure-like\n"
             "lengths unless said otherwise; all metrics on, processor time of one core.\n\n");
  const Table table(markdown);
  const Measured one = Measure({{"workload.requests", million}});
  table.Row(million + " requests", one);
  const Measured ten = Measure({{"workload.requests", ten_million}});
  table.Row(ten_million + " requests", ten);
  const std::string n = quick ? "30000" : "200000";
  for (const char* seqs : {"16", "64", "256"}) {
    table.Row(fmt::format("{} requests, overloaded, max_num_seqs {}", n, seqs),
              Measure({{"workload.requests", n}, {"scheduler.max_num_seqs", seqs}, {"workload.arrivals", "{poisson: {rate: 20 /s}}"}}));
  }
  for (const char* output : {"50", "200", "800"}) {
    table.Row(fmt::format("{} requests, {} output tokens each, 4 /s", n, output),
              Measure({{"workload.requests", n}, {"workload.output_tokens", output}, {"workload.arrivals", "{poisson: {rate: 4 /s}}"}}));
  }
  table.Row(fmt::format("{} requests, 4 replicas, 25.8 /s", n),
            Measure({{"workload.requests", n}, {"hardware.count", "4"}, {"plan.replicas", "4"}, {"workload.arrivals", "{poisson: {rate: 25.8 /s}}"}}));
  fmt::print("\n{} against {} requests: {:.1f} times the time, {:.2f} times the peak memory. The bare hand-written loop runs\n"
             "{:.1f} M requests/s.\n", ten_million, million, ten.seconds / one.seconds, ten.peak_mb / one.peak_mb, one.bare / 1e6);
  return one.seconds > 0 && ten.seconds > 0 ? 0 : 1;
}

}  // namespace
}  // namespace simrun

int main(int argc, char** argv) {
  bool quick = false, markdown = false;
  for (int i = 1; i < argc; ++i) {
    quick = quick || std::strcmp(argv[i], "--quick") == 0;
    markdown = markdown || std::strcmp(argv[i], "--markdown") == 0;
  }
  return simrun::Main(quick, markdown);
}
