#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "cli/command_line.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is reported like any other failed write
  std::ios::sync_with_stdio(false);
  std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  int code = simrun::RunCommandLine(arguments, {std::cout, std::cerr});
  std::cout.flush();
  if (!std::cout && code == simrun::kDone) {
    std::cerr << "simrun: the result could not be written to standard output\n";
    code = simrun::kRunFailed;
  }
  return code;
}
