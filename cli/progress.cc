#include "cli/progress.h"

#include <unistd.h>

#include <cmath>
#include <csignal>
#include <iostream>

#include <fmt/format.h>

#include "cli/text.h"

namespace simrun {
namespace {
// A signal handler has nothing else to write to.
volatile std::sig_atomic_t interrupted_by = 0;
extern "C" void NoteInterrupt(int signal) {
  interrupted_by = signal;
  std::signal(signal, SIG_DFL);  // the second one ends the program at once
}
}  // namespace

InterruptGuard::InterruptGuard() {
  interrupted_by = 0;
  previous_int_ = std::signal(SIGINT, NoteInterrupt);
  previous_term_ = std::signal(SIGTERM, NoteInterrupt);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, previous_int_);
  std::signal(SIGTERM, previous_term_);
}

bool InterruptGuard::interrupted() { return interrupted_by != 0; }

ProgressLine::ProgressLine(std::ostream& err, bool quiet)
    : err_(err), quiet_(quiet), terminal_(&err == &std::cerr && ::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (shown_ > 0) err_ << '\r' << std::string(shown_, ' ') << '\r' << std::flush;
}

void ProgressLine::Show(const std::string& text, double elapsed_s) {
  if (quiet_) return;
  if (terminal_) {
    err_ << '\r' << text;
    if (text.size() < shown_) err_ << std::string(shown_ - text.size(), ' ');
    err_ << std::flush;
    shown_ = std::max(shown_, text.size());
  } else if (elapsed_s >= next_s_) {
    err_ << "simrun: " << text << std::endl;
    next_s_ = elapsed_s + 10;
  }
}

std::string DurationText(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

std::string ProgressLine::Text(int64_t done, int64_t found, int64_t total, double elapsed_s, const char* unit) {
  const int64_t ran = done - found;
  // Marks grow apart with the time, so there are never many.
  if (elapsed_s > marks_.back().first * 1.01 + 0.01) marks_.emplace_back(elapsed_s, ran);
  while (marks_.size() > 2 && marks_[1].first <= elapsed_s / 2) marks_.pop_front();
  const auto& [since_s, before] = marks_.front();
  const double per_s = elapsed_s > since_s ? static_cast<double>(ran - before) / (elapsed_s - since_s) : 0;
  std::string text = fmt::format("{}/{} {}, {} {}/s", CountText(static_cast<double>(done)), CountText(static_cast<double>(total)), unit,
                                 NumberText(per_s), unit);
  if (per_s > 0) text += fmt::format(", {} left", DurationText(static_cast<double>(total - done) / per_s));
  return text;
}

}  // namespace simrun
