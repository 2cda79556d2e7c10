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

// Truncations of files that are mapped in an image. The process's own threads unmap what was cut off, before they run
// guest code and before they serve it: that may wait for the image's host process, which must not hold up the thread
// that truncates.
class Cuts {
 public:
  // The file ends at `size` now. The caller interrupts the process's threads afterwards.
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
  // Seq_cst: a thread loads it before it enters guest code, and is interrupted after the store.
  std::atomic<bool> any_{false};
  Mutex making_;  // held until all is unmapped: the process's other threads wait. Order: before lock_
  Mutex lock_;  // innermost
  Sizes sizes_ RAMET_GUARDED_BY(lock_);
};

struct Image {
  explicit Image(std::shared_ptr<Shell> in) : shell(std::move(in)), abi(shell->machine().abi()) {}
  // fork(2): the same program over a copy of its memory. `charged`: the strings, to the copy's limit.
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
  // Whether `pc` is in the host's own vDSO, on a machine that lets programs call it: no other code that they can run is
  // above the user end.
  bool in_host_vdso(mm::Gva pc) const { return pc >= abi.user_end; }

  // Filled by the loader, and not changed afterwards.
  std::string executable;  // guest path, for /proc/self/exe
  std::shared_ptr<OpenFile> file;  // what /proc/self/exe opens; null: `executable` as a guest path
  mm::Charge strings;  // for `arguments` and `environment`
  std::vector<std::string> arguments;  // /proc/self/cmdline
  std::vector<std::string> environment;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> auxv;  // /proc/self/auxv
  mm::Gva stack_top = 0;
  std::uint64_t stack_limit = 8ull << 20;  // bytes; as load() was given it
  mm::Gva vdso = 0;  // where the image of its vDSO is; 0: it has none
  mm::Gva brk_start = 0;

  // MCL_FUTURE, MCL_ONFAULT: what mlockall(2) asked for later mappings. For the process's own threads; pairs with
  // nothing.
  std::atomic<unsigned> lock_to_come{0};

  Cuts cuts;
  Mutex brk_lock;  // order: before the address space's
  mm::Gva brk RAMET_GUARDED_BY(brk_lock) = 0;
};

}  // namespace ramet::vmm
