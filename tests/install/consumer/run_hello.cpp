// The library in one page: a microVM, a program in it, and what it cost. run_hello PROGRAM
#include <iostream>

#include "vmm/run.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  ramet::vmm::RunOptions options;
  options.program = argv[1];
  options.arguments = {"from a microVM"};
  options.memory_bytes = 64ull << 20;

  auto shell = ramet::vmm::Shell::create(options.memory_bytes);
  if (!shell) {
    std::cerr << shell.error().message << "\n";
    return shell.error().status;
  }
  auto report = ramet::vmm::run(**shell, options);
  if (!report) {
    std::cerr << report.error().message << "\n";
    return report.error().status;
  }
  std::cout << report->exits.syscalls << " system calls, " << report->exits.page_faults << " page faults\n";
  return report->ending.status();
}
