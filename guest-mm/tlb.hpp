// What guest-mm asks of whoever owns the translation and instruction caches: a machine's vCPUs, or the model in the
// tests.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>

#include "guest-mm/types.hpp"

namespace ramet::mm {

// One batch of entries whose old value may still be cached. Built by FlushBatch, see flush.hpp.
struct FlushRequest {
  struct Range {
    Gva start, end;  // page-aligned, end exclusive
  };
  std::span<const Range> ranges;     // virtual ranges whose entries changed; empty with `everything`
  std::span<const Gpa> tables;       // table pages in which an entry lost something, and freed table pages:
                                // what a shadow-paging host must be told (each once)
  bool everything = false;  // ranges would be more work than dropping all
  bool frees_tables = false;  // some of `tables` go, and `ranges` need not say where they were
};

class Tlb {
 public:
  virtual ~Tlb() = default;

  // Strict: when it returns, no vCPU can use an old value of the entries, and the frames and tables they led to may be
  // given to somebody else.
  // Called by several threads at once, each a vCPU's own or one that runs no guest. A thread that changes a range holds
  // the address-space lock meanwhile. A fault that does without that lock (a copy on write, an entry that gains
  // permission) flushes without it, within its rcu::Reader, and holds the lock of its table or none. flush.hpp says
  // where each is. So several flushes of one space may be under way at once.
  // flush() takes no lock of the address space: it calls back into it for translate() alone. Nor does it wait for
  // another thread's next step, as that thread may be waiting for the caller's locks, or for the caller's rcu::Reader
  // to leave. It may wait until a vCPU is out of the guest: a vCPU's thread that waits for a lock is.
  // Never throws, nor does flush_relaxed(): a machine that has no memory for what it must do runs nobody any more.
  virtual void flush(const FlushRequest&) = 0;

  // Whether flush() may wait for something outside the VMM. Then no fault without the address-space lock flushes: it
  // would keep its rcu::Reader, for which other VMs wait.
  virtual bool waits() const { return false; }

  // Relaxed: permission was only added, and the generation has advanced. The caller's own vCPU drops the entries;
  // others may keep them until they fault on one that now allows the access (FaultOutcome::Spurious). Such a vCPU
  // drops that entry, if its fault has not, compares generation() with what it was when it last dropped everything,
  // drops everything again if it has moved, as more of its entries are likely to be old, and carries on
  // (Amit, "mm: relaxed TLB flushes", 2022). Need not be called with the address-space lock.
  virtual void flush_relaxed(const FlushRequest&) = 0;

  // Instruction fetches of every vCPU see what these frames hold by now. Called before an entry lets guest code execute
  // what others may have written there, with the lock of its table or before the table can be reached: like flush() it
  // waits for no other thread's next step. They are those of a bank, or the machine's own. Nothing where instruction
  // fetches see all stores.
  virtual void exec_sync(Gpa first, std::uint64_t bytes) { (void)first, (void)bytes; }
  // Whether exec_sync() does anything: if not, there is nothing to be gained by deferring it.
  virtual bool needs_exec_sync() const { return false; }

  // A clock, nanoseconds: for what a sync takes, and a fault.
  virtual std::uint64_t now() const {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
  }

  // Counts relaxed flushes. Release in advance() pairs with acquire here: a vCPU that reads the new value and then
  // walks the tables finds the entries that the flush was for.
  std::uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  void advance() { generation_.fetch_add(1, std::memory_order_release); }

 private:
  std::atomic<std::uint64_t> generation_{0};
};

}  // namespace ramet::mm
