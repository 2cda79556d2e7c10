// What guest-mm asks of the owner of the translation and instruction caches: a machine, or the model in the tests.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>

#include "guest-mm/types.hpp"

namespace ramet::mm {

// One batch of entries whose old value may still be cached. Built by EntryFlush, see flush.hpp.
struct FlushRequest {
  std::span<const Range> ranges;  // virtual, page-aligned ranges whose entries changed; empty with `everything`
  std::span<const Gpa> tables;  // table pages in which an entry lost something, and freed ones, each once: what a
                                // shadow-paging host must be told
  bool everything = false;  // dropping all entries costs less than naming the ranges
  bool frees_tables = false;  // some of `tables` are freed, and `ranges` need not say where they were
};

class Tlb {
 public:
  virtual ~Tlb() = default;

  // Strict: when it returns, no vCPU can use an old value of the entries, and the frames and tables they led to may be
  // reused.
  // Several threads call it at once, each a vCPU's own or one that runs no guest. A thread that changes a range holds
  // the address-space lock meanwhile; a fault without that lock (a copy on write, an entry that gains permission) calls
  // it within its rcu::Reader, with the lock of its table or none. flush.hpp lists the callers.
  // An implementation takes no lock of the address space, of which it may call translate() alone. It does not wait for
  // another thread's progress, as that thread may be waiting for the caller's locks or its rcu::Reader. It may wait
  // until a vCPU is out of the guest: a vCPU's thread that waits for a lock is out.
  // Never throws, nor does flush_relaxed(): a machine without memory for what it must do stops all its vCPUs.
  virtual void flush(const FlushRequest&) = 0;

  // Whether flush() may wait for something outside the VMM. Then no fault without the address-space lock calls it:
  // other VMs would wait for the fault's rcu::Reader.
  virtual bool waits() const { return false; }

  // Relaxed: permission was only added, and the generation has advanced. The caller's own vCPU drops the entries; other
  // vCPUs may keep them until they fault on an entry that now allows the access (FaultOutcome::Spurious). Such a vCPU
  // drops that entry, if the fault itself has not. If generation() has moved since the vCPU last dropped everything, it
  // drops everything again, as more of its entries are likely to be old (Amit, "mm: relaxed TLB flushes", 2022). Need
  // not be called with the address-space lock.
  virtual void flush_relaxed(const FlushRequest&) = 0;

  // When it returns, instruction fetches of every vCPU see what these frames, of a bank or of the machine's own, hold.
  // Called before an entry becomes executable, with the lock of the entry's table or before that table can be reached:
  // like flush() it does not wait for another thread's progress. Does nothing where fetches see all stores.
  virtual void exec_sync(Gpa first, std::uint64_t bytes) { (void)first, (void)bytes; }
  // Whether exec_sync() does anything; if not, deferring it gains nothing.
  virtual bool needs_exec_sync() const { return false; }

  // A monotonic clock, nanoseconds, to measure syncs and faults.
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
