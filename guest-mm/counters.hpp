// Counters of one address space. Relaxed atomics: each is a statistic, none orders anything.
//
// FaultCounter: what faults add to, many threads at once; it has a value per group of threads, in cache lines of their
// own, and reading sums them up. Counter: everything else, added to rarely or with the address-space lock.
// vmm/counters.cpp lists them by name for people, but for exec_sync_time, exec_fault_time and exec_faults: they
// are only the inputs of AddressSpace::exec_costs().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "arch/entry.hpp"
#include "guest-mm/exec_history.hpp"
#include "guest-mm/thread_shard.hpp"

namespace ramet::mm {

struct Counter {
  std::atomic<std::uint64_t> value{0};  // pairs with nothing
  void add(std::uint64_t n = 1) { value.fetch_add(n, std::memory_order_relaxed); }
  operator std::uint64_t() const { return value.load(std::memory_order_relaxed); }
};

// The values of all FaultCounters of a space, in lines: a thread adds in the line of its thread_shard(), and a counter
// has the same place in each line.
class FaultLines {
  friend class FaultCounter;
  friend class FaultSum;
  static constexpr unsigned kShards = 16, kLine = 32;  // counters that a line has room for; whole cache lines
  alignas(kLine * 8) std::array<std::atomic<std::uint64_t>, kShards * kLine> values_{};
  unsigned used_ = 0;  // places, by the counters that were made

  std::atomic<std::uint64_t>* take_place() {
    if (used_ == kLine) {
      std::fputs("ramet: more than 32 FaultCounters: enlarge FaultLines::kLine\n", stderr);
      std::abort();
    }
    return &values_[used_++];
  }
};

class FaultCounter {
 public:
  explicit FaultCounter(FaultLines& lines) : first_(lines.take_place()) {}
  FaultCounter(const FaultCounter&) = delete;
  FaultCounter& operator=(const FaultCounter&) = delete;
  void add(std::uint64_t n = 1) {
    first_[thread_shard() % FaultLines::kShards * FaultLines::kLine].fetch_add(n, std::memory_order_relaxed);
  }
  // While other threads add: a value between what it was when this began and what it is when this ends.
  operator std::uint64_t() const {
    std::uint64_t sum = 0;
    for (unsigned i = 0; i < FaultLines::kShards; ++i)
      sum += first_[i * FaultLines::kLine].load(std::memory_order_relaxed);
    return sum;
  }

 private:
  std::atomic<std::uint64_t>* const first_;  // its place in the first line
};

// The sum of all FaultCounters made before it.
class FaultSum {
 public:
  explicit FaultSum(const FaultLines& lines) : lines_(lines), count_(lines.used_) {}
  FaultSum(const FaultSum&) = delete;
  FaultSum& operator=(const FaultSum&) = delete;
  operator std::uint64_t() const {
    std::uint64_t sum = 0;
    for (unsigned i = 0; i < FaultLines::kShards * FaultLines::kLine; ++i)
      if (i % FaultLines::kLine < count_) sum += lines_.values_[i].load(std::memory_order_relaxed);
    return sum;
  }

 private:
  const FaultLines& lines_;
  const unsigned count_;
};

struct Counters {
 private:
  FaultLines lines_;

 public:
  // faults, by how they ended
  FaultCounter faults_zero{lines_};        // anonymous memory mapped
  FaultCounter faults_file{lines_};        // file-backed memory mapped
  FaultCounter faults_flipped{lines_};  // an entry that was there gained permission: writable <-> executable flips
  FaultCounter faults_cow{lines_};  // a page was copied on write
  FaultCounter faults_spurious{lines_};  // the entry already allowed the access
  FaultCounter faults_refused{lines_};  // became a signal
  FaultSum faults{lines_};  // all of these
  // faults settled without the address-space lock, and why the rest were not (names as in the Linux patches)
  FaultCounter spf{lines_};  // settled speculatively
  FaultCounter spf_pte_lock{lines_};  // another thread held the table's lock
  FaultCounter spf_region_changed{lines_};  // the region was being changed, or had changed when its table was locked
  FaultCounter spf_not_supported{lines_};  // no region there, a stack to grow, an entry that would lose something
  FaultCounter spf_table_changed{lines_};  // a table was missing, merged or split
  FaultCounter spf_budget{lines_};  // too many frames in flight, or none left
  FaultCounter faults_vmm{lines_};  // of all faults: taken by the VMM on the guest's behalf (system-call buffers)
  // what one fault mapped
  FaultCounter pages_mapped{lines_};  // 4 KiB entries written by faults
  FaultCounter pages_around{lines_};  // of them, beyond the one that faulted
  FaultCounter blocks_mapped{lines_};  // 2 MiB entries written by faults
  FaultCounter blocks_around{lines_};  // of them, beyond the one that faulted
  FaultCounter pages_copied{lines_};  // 4 KiB pages, copied on write
  // flushes
  Counter flushes;  // strict flushes issued (one per batch)
  Counter flushes_relaxed;  // relaxed ones
  Counter flush_ranges;  // ranges in strict flushes
  Counter flush_tables;  // table pages in strict flushes
  Counter flushes_avoided;  // batches that changed only entries which were never present
  // instruction syncs, in 4 KiB pages
  Counter exec_syncs;  // pages synced because an entry was written that lets code run from them
  Counter exec_deferred;  // pages whose entries withheld execution
  Counter exec_granted;  // of them, those that became executable by a fetch
  Counter exec_sync_time;  // ns in syncs; only where fetches do not see all stores
  Counter exec_fault_time;  // ns in faults that granted execution, without their syncs
  Counter exec_faults;  // those faults
  // migration, 4 KiB pages; by reason, in the order of MoveReason
  std::array<Counter, kMoveReasons> migrated;
  Counter migrate_pinned, migrate_shared,
      migrate_failed;  // pages that stayed: pinned; not exclusive; no memory
  // huge mappings, by the level of the leaf: PMD 2 MiB, PUD 1 GiB
  Counter split_pmd, split_pud;  // leaves replaced by a table
  Counter merge_pmd, merge_pud;  // tables replaced by a leaf
  // uniform tables that stayed tables, and why
  Counter merge_refused_keep_4k;  // the range is to stay in small pages, or takes no blocks
  Counter merge_refused_region;  // the region does not cover all of it
  Counter merge_refused_alignment;  // the frames do not lie on a boundary of the larger leaf
  Counter merge_refused_shared;  // children see some of the frames, the rest is the VM's own
  Counter merge_refused_format;  // the processor has no such leaf, or it was switched off
  Counter& split(arch::Level leaf) { return leaf == arch::Level::Pmd ? split_pmd : split_pud; }
  Counter& merged(arch::Level leaf) { return leaf == arch::Level::Pmd ? merge_pmd : merge_pud; }
  // copy-on-write
  Counter pages_copied_pinned;  // by freezes, for children: devices may write the frames themselves
  Counter pages_moved_pinned;  // into the pin bank, by long-term pins
  Counter tables_unshared;  // tables copied because something below them was to change
  Counter freezes;
  Counter resets;
  // structure
  Counter tables_allocated;
  Counter tables_freed;
};

}  // namespace ramet::mm
