// Counters of one address space. Relaxed atomics: each is a statistic, none orders anything.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "arch/entry.hpp"
#include "guest-mm/exec_history.hpp"

namespace ramet::mm {

struct Counter {
  std::atomic<std::uint64_t> value{0};  // pairs with nothing
  void add(std::uint64_t n = 1) { value.fetch_add(n, std::memory_order_relaxed); }
  operator std::uint64_t() const { return value.load(std::memory_order_relaxed); }
};

struct Counters {
  // faults, by how they ended; `faults` is their sum
  Counter faults;
  Counter faults_zero;        // anonymous memory mapped
  Counter faults_file;        // file-backed memory mapped
  Counter faults_flipped;     // an entry that was there gained permission: writable <-> executable flips
  Counter faults_cow;         // a page that others see as well was copied to be written
  Counter faults_spurious;    // the entry already allowed the access
  Counter faults_refused;     // became a signal
  // faults settled without the address-space lock, and why others were not (the names of the Linux proposal)
  Counter spf;                // settled speculatively
  Counter spf_pte_lock;       // somebody held the table's lock
  Counter spf_region_changed; // the region was being changed, or had changed when its table was locked
  Counter spf_not_supported;  // no region there, a stack to grow, an entry that would lose something
  Counter spf_table_changed;  // a table was missing, merged or split
  Counter spf_budget;         // too many frames in flight, or none left
  Counter faults_vmm;         // of `faults`: taken by the VMM on the guest's behalf (system-call buffers)
  // what one fault mapped
  Counter pages_mapped;       // 4 KiB entries written by faults
  Counter pages_around;       // of them, beyond the one that faulted
  Counter blocks_mapped;      // 2 MiB entries written by faults
  Counter blocks_around;      // of them, beyond the one that faulted
  // flushes
  Counter flushes;            // strict flushes issued (one per batch)
  Counter flushes_relaxed;    // relaxed ones
  Counter flush_ranges;       // ranges in strict flushes
  Counter flush_tables;       // table pages in strict flushes
  Counter flushes_avoided;    // batches that changed only entries which were never present
  Counter exec_syncs;         // 4 KiB pages that code may run from by an entry that was written
  Counter exec_deferred;      // 4 KiB pages of entries that withheld execution
  Counter exec_granted;       // of them, that a fetch was let through to
  Counter exec_sync_time;     // ns that the syncs took: where fetches do not see all stores
  Counter exec_fault_time;    // ns that faults took which let a fetch through, and
  Counter exec_faults;        // how many
  // migration, 4 KiB pages; by reason, in the order of MoveReason
  std::array<Counter, kMoveReasons> migrated;
  Counter migrate_pinned, migrate_shared, migrate_failed;  // those that stayed: a device has them, others see them, no memory
  // huge mappings, by the level of the leaf: PMD 2 MiB, PUD 1 GiB
  Counter split_pmd, split_pud;    // leaves replaced by a table
  Counter merge_pmd, merge_pud;    // tables replaced by a leaf
  // uniform tables that stayed tables, and why
  Counter merge_refused_keep_4k;   // the range is to stay in small pages, or takes no blocks
  Counter merge_refused_region;    // the region does not cover all of it
  Counter merge_refused_alignment; // the frames do not lie on a boundary of the larger leaf
  Counter merge_refused_shared;    // children see a part of the frames, the rest is the VM's own
  Counter merge_refused_format;    // the processor has no such leaf, or it was switched off
  Counter& split(arch::Level leaf) { return leaf == arch::Level::Pmd ? split_pmd : split_pud; }
  Counter& merged(arch::Level leaf) { return leaf == arch::Level::Pmd ? merge_pmd : merge_pud; }
  // copy-on-write
  Counter pages_copied;       // 4 KiB pages
  Counter pages_copied_pinned; // for children, because a device may write to ours
  Counter pages_moved_pinned; // into the pin bank, by long-term pins
  Counter tables_unshared;    // tables copied because something below them was to change
  Counter freezes;
  Counter resets;
  // structure
  Counter tables_allocated;
  Counter tables_freed;
};

}  // namespace ramet::mm
