// Image: what runs in a process: its microVM, and what the loader laid out there (Linux: mm_struct). execve(2) gives
// the process another one, fork(2) the child a copy; a vfork child has its parent's until it calls execve.
#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/shell.hpp"

namespace ramet::vmm {

struct OpenFile;

// What is cut off files that are mapped here. The process's own threads take it away before they run guest code, and
// before they serve it: that may have to wait for its process of the host, which is to hold up nobody else.
class Cuts {
 public:
  // Whoever calls interrupts the process's threads afterwards.
  void add(const std::shared_ptr<const mm::Backing>& backing, std::uint64_t size) RAMET_EXCLUDES(lock_) {
    LockGuard guard(lock_);
    const auto at = sizes_.try_emplace(backing, size).first;
    at->second = std::min(at->second, size);
    any_.store(true, std::memory_order_seq_cst);
  }
  void make(mm::AddressSpace& memory) RAMET_EXCLUDES(making_, lock_) {
    while (any_.load(std::memory_order_seq_cst)) {
      LockGuard making(making_);
      Sizes sizes;
      {
        LockGuard guard(lock_);
        sizes.swap(sizes_);
      }
      for (const auto& [backing, size] : sizes)
        if (const auto mapped = backing.lock()) memory.truncated(*mapped, size);
      LockGuard guard(lock_);
      if (sizes_.empty()) any_.store(false, std::memory_order_seq_cst);
    }
  }

 private:
  using Sizes = std::map<std::weak_ptr<const mm::Backing>, std::uint64_t, std::owner_less<>>;
  std::atomic<bool> any_{
      false};  // seq_cst: a thread looks before it enters guest code, and is interrupted after the store
  Mutex making_;             // the process's other threads wait for it. Order: before lock_
  Mutex lock_;  // a leaf
  Sizes sizes_ RAMET_GUARDED_BY(lock_);
};

struct Image {
  explicit Image(std::shared_ptr<Shell> in) : shell(std::move(in)), abi(shell->machine().abi()) {}
  // The same program over a copy of its memory, whose limit the strings are charged to.
  Image(Image& of, std::shared_ptr<Shell> copy, mm::Charge charged)
      : shell(std::move(copy)), abi(of.abi), strings(std::move(charged)) {
    LockGuard guard(of.brk_lock);
    executable = of.executable, file = of.file, arguments = of.arguments, environment = of.environment, auxv = of.auxv;
    stack_top = of.stack_top, stack_limit = of.stack_limit, vdso = of.vdso, brk_start = of.brk_start, brk = of.brk;
  }

  const std::shared_ptr<Shell> shell;
  const arch::GuestAbi& abi;                    // its machine's: a program of another is refused
  mm::AddressSpace& memory() const { return shell->memory(); }
  Machine& machine() const { return shell->machine(); }
  // `pc` is in the host's own vDSO, on a machine that lets programs call it: above the user end there is no other code
  // of theirs.
  bool in_host_vdso(mm::Gva pc) const { return pc >= abi.user_end; }

  // Filled by the loader, and not changed afterwards.
  std::string executable;  // guest path, for /proc/self/exe
  std::shared_ptr<OpenFile> file;  // what /proc/self/exe opens; null: `executable` as a guest path
  mm::Charge strings;  // of the next two
  std::vector<std::string> arguments;  // /proc/self/cmdline
  std::vector<std::string> environment;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> auxv;  // /proc/self/auxv
  mm::Gva stack_top = 0;
  std::uint64_t stack_limit = 8ull << 20;  // what the loader laid out; see load()
  mm::Gva vdso = 0;  // where the image of its vDSO is; 0: it has none
  mm::Gva brk_start = 0;

  // MCL_FUTURE, MCL_ONFAULT: what mlockall(2) asked for all that is mapped from now on. Its own threads'; pairs with
  // nothing.
  std::atomic<unsigned> lock_to_come{0};

  Cuts cuts;
  Mutex brk_lock;  // order: before the address space's
  mm::Gva brk RAMET_GUARDED_BY(brk_lock) = 0;
};

}  // namespace ramet::vmm
