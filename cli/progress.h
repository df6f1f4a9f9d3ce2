// How a long command tells how far it is, and how it is stopped.
#pragma once

#include <cstdint>
#include <deque>
#include <ostream>
#include <string>
#include <utility>

namespace simrun {

// While it lives, Ctrl-C and a request to terminate are noted instead of ending the program.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool interrupted();

 private:
  void (*previous_int_)(int);
  void (*previous_term_)(int);
};

// One line that is rewritten on a terminal; elsewhere a plain line every ten seconds.
class ProgressLine {
 public:
  ProgressLine(std::ostream& err, bool quiet);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  // `elapsed_s` since the start.
  void Show(const std::string& text, double elapsed_s);
  // "120/1,000 points, 35.2 points/s, 25 s left". The rate is that of the later half of the time since the start: what
  // comes first is often not like the rest. `found` of the done ones took no time.
  std::string Text(int64_t done, int64_t found, int64_t total, double elapsed_s, const char* unit);

 private:
  std::ostream& err_;
  bool quiet_, terminal_;
  size_t shown_ = 0;
  double next_s_ = 10;
  std::deque<std::pair<double, int64_t>> marks_ = {{0, 0}};   // seconds since the start, done by then without `found`
};

// "12 s", "3 min 20 s", "2 h 05 min".
std::string DurationText(double seconds);

}  // namespace simrun
