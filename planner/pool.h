// Independent pieces of work on several threads, their results consumed on one.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace simrun::planner {

// Calls work(i) for i = 0 .. count-1 on `threads` threads, and on the calling thread consume(i, result) for each, in the
// order in which they finish, and tick() now and then. When consume or tick returns false no further work is started;
// what is running is finished and consumed. Returns false when it was stopped. `work` must not throw and is called from
// several threads at once.
template <class Work, class Consume, class Tick>
bool RunPool(size_t count, int threads, const Work& work, const Consume& consume, const Tick& tick) {
  if (threads <= 1 || count <= 1) {
    for (size_t i = 0; i < count; ++i) {
      if (!tick() || !consume(i, work(i))) return false;
    }
    return true;
  }
  using Result = decltype(work(size_t{0}));
  std::mutex mutex;
  std::condition_variable results_ready, room_left;
  std::deque<std::pair<size_t, Result>> results;
  size_t next = 0, running = 0;
  bool stop = false;
  // A consumer that falls behind must not fill the memory.
  const size_t most_waiting = static_cast<size_t>(threads) * 4 + 16;
  const auto loop = [&] {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      room_left.wait(lock, [&] { return stop || results.size() < most_waiting; });
      if (stop || next == count) break;
      const size_t i = next++;
      ++running;
      lock.unlock();
      Result result = work(i);
      lock.lock();
      results.emplace_back(i, std::move(result));
      --running;
      results_ready.notify_one();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    try {
      pool.emplace_back(loop);
    } catch (const std::system_error&) {
      break;  // the system has no more threads: go on with those there are
    }
  }
  bool completed = true;
  if (pool.empty()) {
    completed = RunPool(count, 1, work, consume, tick);
  } else {
    std::unique_lock<std::mutex> lock(mutex);
    const auto finished = [&] { return running == 0 && results.empty() && (stop || next == count); };
    while (!finished()) {
      // tick() is also called while nothing comes out.
      results_ready.wait_for(lock, std::chrono::milliseconds(100), [&] { return !results.empty(); });
      std::deque<std::pair<size_t, Result>> taken;
      taken.swap(results);
      room_left.notify_all();
      lock.unlock();
      bool go_on = tick();
      for (auto& [i, result] : taken) go_on = consume(i, std::move(result)) && go_on;
      lock.lock();
      if (!go_on && !stop) {
        stop = true;
        completed = false;
        room_left.notify_all();
      }
    }
  }
  for (std::thread& t : pool) t.join();
  return completed;
}

}  // namespace simrun::planner
