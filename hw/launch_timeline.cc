#include "hw/launch_timeline.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace simrun {
namespace {

constexpr double kGraphNodeSeconds = 1e-9;   // straight-line graphs on CUDA 12.6

}  // namespace

LaunchTimeline RunLaunches(std::span<const KernelLaunch> launches, double launch_latency, std::vector<KernelTimes>* times) {
  LaunchTimeline t;
  t.kernels = static_cast<int64_t>(launches.size());
  double issued = 0, end = 0;
  if (times != nullptr) times->clear();
  for (const KernelLaunch& launch : launches) {
    issued += launch.host_seconds;
    const double waits = std::max(launch_latency, end - issued);
    const double start = issued + waits;
    end = start + launch.kernel_seconds;
    t.host_busy += launch.host_seconds;
    t.gpu_busy += launch.kernel_seconds;
    t.launch_queue += waits;
    if (times != nullptr) times->push_back({issued, start, end});
  }
  t.latency = end;
  return t;
}

std::vector<KernelLaunch> LaunchesOf(std::span<const StepOperator> operators, int stage, double host_seconds_per_launch) {
  std::vector<int> ops;
  int64_t layers = 1;
  for (size_t i = 0; i < operators.size(); ++i) {
    const StepOperator& op = operators[i];
    if (op.stage != stage || op.kernels <= 0) continue;
    ops.push_back(static_cast<int>(i));
    layers = std::max(layers, static_cast<int64_t>(std::llround(op.count)));
  }
  std::vector<KernelLaunch> out;
  const auto emit = [&](int index, int64_t times) {
    const StepOperator& op = operators[static_cast<size_t>(index)];
    const double each = op.time.seconds / (op.count * op.kernels);
    for (int64_t i = 0; i < times * op.kernels; ++i) out.push_back({index, host_seconds_per_launch, each});
  };
  // What runs once stands before or after the layers, as listed.
  const auto once = [&](int index) { return layers > 1 && operators[static_cast<size_t>(index)].count < 1.5; };
  size_t first = 0, last = ops.size();
  while (first < ops.size() && once(ops[first])) ++first;
  while (last > first && once(ops[last - 1])) --last;
  for (size_t i = 0; i < first; ++i) emit(ops[i], 1);
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (size_t i = first; i < last; ++i) {
      // Executions are spread over the layers as evenly as they go.
      const int64_t count = std::llround(operators[static_cast<size_t>(ops[i])].count);
      emit(ops[i], (layer + 1) * count / layers - layer * count / layers);
    }
  }
  for (size_t i = last; i < ops.size(); ++i) emit(ops[i], 1);
  return out;
}

FusionWhatIf FuseChains(std::span<const KernelLaunch> launches, int64_t length, double launch_latency) {
  FusionWhatIf what;
  const size_t n = launches.size(), chain = static_cast<size_t>(length);
  what.kernels = what.fused_kernels = static_cast<int64_t>(n);
  std::map<int, size_t> occurrences;
  for (const KernelLaunch& k : launches) ++occurrences[k.op];
  std::vector<size_t> best;
  if (length >= 2 && chain <= n) {
    // One candidate per first kernel: where it stands first.
    std::map<int, size_t> tried;
    for (size_t start = 0; start + chain <= n; ++start) {
      const int op = launches[start].op;
      if (!tried.emplace(op, start).second) continue;
      std::vector<size_t> matches;
      size_t found = 0, next = 0;
      for (size_t at = 0; at + chain <= n; ++at) {
        if (launches[at].op != op) continue;
        bool same = true;
        for (size_t i = 0; i < chain && same; ++i) same = launches[at + i].op == launches[start + i].op;
        if (!same) continue;
        ++found;
        if (at < next) continue;   // overlaps the chain before it
        matches.push_back(at);
        next = at + chain;
      }
      if (found == occurrences[op] && matches.size() > best.size()) best = matches;
    }
  }
  std::vector<KernelLaunch> fused;
  size_t next = 0;
  for (size_t i = 0; i < n;) {
    if (next < best.size() && best[next] == i) {
      KernelLaunch one = launches[i];
      for (size_t k = 1; k < chain; ++k) one.kernel_seconds += launches[i + k].kernel_seconds;
      fused.push_back(one);
      i += chain;
      ++next;
    } else {
      fused.push_back(launches[i++]);
    }
  }
  what.matches = static_cast<int64_t>(best.size());
  what.fused_kernels = static_cast<int64_t>(fused.size());
  if (!best.empty()) what.first_op = launches[best.front()].op;
  if (!fused.empty()) what.ideal_speedup = static_cast<double>(n) / static_cast<double>(fused.size());
  what.fused = RunLaunches(fused, launch_latency);
  return what;
}

LaunchTimeline ReplayGraph(std::span<const KernelLaunch> launches, double graph_launch, double launch_latency) {
  std::vector<KernelLaunch> replay(launches.begin(), launches.end());
  for (KernelLaunch& k : replay) {
    k.host_seconds = 0;
    k.kernel_seconds += kGraphNodeSeconds;
  }
  if (!replay.empty()) replay.front().host_seconds = graph_launch;
  LaunchTimeline t = RunLaunches(replay, launch_latency);
  // One launch waits for the queue, not each kernel.
  t.launch_queue = replay.empty() ? 0 : launch_latency;
  return t;
}

}  // namespace simrun
