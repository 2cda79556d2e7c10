// Counters of one address space. Relaxed atomics: each is a statistic, none orders anything.
#pragma once

#include <atomic>
#include <cstdint>

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
  Counter faults_spurious;    // the entry already allowed the access
  Counter faults_refused;     // became a signal
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
  // structure
  Counter blocks_split;       // 2 MiB (or 1 GiB) entries replaced by a table
  Counter tables_allocated;
  Counter tables_freed;
};

}  // namespace ramet::mm
