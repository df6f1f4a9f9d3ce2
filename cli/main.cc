#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "cli/command_line.h"

namespace {
// `simrun ... | head`: the reader has seen what it wanted.
bool ReaderGone() {
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  return poll(&output, 1, 0) > 0 && (output.revents & POLLERR) != 0;
}
}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // or a worker's end would be the end of all
  std::ios::sync_with_stdio(false);
  std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  int code = simrun::RunCommandLine(arguments, {std::cout, std::cerr});
  std::cout.flush();
  if (!std::cout && code == simrun::kDone) {
    if (!ReaderGone()) std::cerr << "simrun: the result could not be written to standard output\n";
    code = simrun::kRunFailed;
  }
  return code;
}
