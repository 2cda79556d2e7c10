// Image: what runs in a process: its microVM, and what the loader laid out there (Linux: mm_struct). execve(2) gives the
// process another one, fork(2) the child a copy; a vfork child has its parent's until it calls execve.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "vmm/shell.hpp"

namespace ramet::vmm {

struct OpenFile;

struct Image {
  explicit Image(std::shared_ptr<Shell> in) : shell(std::move(in)), abi(shell->machine().abi()) {}
  // The same program over a copy of its memory, whose limit the strings are charged to.
  Image(Image& of, std::shared_ptr<Shell> copy, mm::Charge charged) : shell(std::move(copy)), abi(of.abi), strings(std::move(charged)) {
    std::lock_guard guard(of.brk_lock);
    executable = of.executable, file = of.file, arguments = of.arguments, environment = of.environment, auxv = of.auxv;
    stack_top = of.stack_top, stack_limit = of.stack_limit, vdso = of.vdso, brk_start = of.brk_start, brk = of.brk;
  }

  const std::shared_ptr<Shell> shell;
  const arch::GuestAbi& abi;                    // its machine's: a program of another is refused
  mm::AddressSpace& memory() const { return shell->memory(); }
  Machine& machine() const { return shell->machine(); }

  // Filled by the loader, and not changed afterwards.
  std::string executable;                       // guest path, for /proc/self/exe
  std::shared_ptr<OpenFile> file;               // what /proc/self/exe opens; null: `executable` as a guest path
  mm::Charge strings;                           // of the next two
  std::vector<std::string> arguments;           // /proc/self/cmdline
  std::vector<std::string> environment;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> auxv;  // /proc/self/auxv
  mm::Gva stack_top = 0;
  std::uint64_t stack_limit = 8ull << 20;       // what the loader laid out; see load()
  mm::Gva vdso = 0;                             // where the image of its vDSO is; 0: it has none
  mm::Gva brk_start = 0;

  std::mutex brk_lock;                          // guards brk; lock order: before AddressSpace's
  mm::Gva brk = 0;
};

}  // namespace ramet::vmm
