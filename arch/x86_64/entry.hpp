// x86-64 page-table entries, 4-level paging (Intel SDM volume 3, 4.5; AMD APM volume 2, 5.3).
//
//   63  62..59  58..52  51........12  11..9  8  7     6  5  4    3    2   1   0
//   NX  PKEY    ign     address       ign    G  PS/PAT D  A  PCD  PWT  U/S R/W P
#pragma once

#include <atomic>

#include "arch/entry.hpp"

namespace ramet::arch::x86_64 {

struct Stage1 {
  static constexpr Entry kPresent = 1ull << 0;
  static constexpr Entry kWrite = 1ull << 1;
  static constexpr Entry kUser = 1ull << 2;
  static constexpr Entry kAccessed = 1ull << 5;
  static constexpr Entry kDirty = 1ull << 6;
  static constexpr Entry kPageSize = 1ull << 7;       // PMD and PUD: a leaf. In a PTE this bit is PAT.
  static constexpr Entry kDeferredExec = 1ull << 9;   // ignored by the hardware
  static constexpr Entry kAhead = 1ull << 10;         // likewise
  static constexpr Entry kNoExecute = 1ull << 63;
  static constexpr Entry kAddress = 0x000f'ffff'ffff'f000;

  static constexpr bool kBreakBeforeMake = false;

  static constexpr Entry bits(Attributes a) {
    return (a.write ? kWrite : 0) | (a.execute ? 0 : kNoExecute) | (a.user ? kUser : 0) | (a.accessed ? kAccessed : 0) |
           (a.dirty ? kDirty : 0) | (a.deferred_exec ? kDeferredExec : 0) | (a.ahead ? kAhead : 0);
  }
  static constexpr Entry leaf(std::uint64_t pa, Level l, Attributes a) {
    return pa | kPresent | (l == Level::Pte ? 0 : kPageSize) | bits(a);
  }
  // Tables allow everything, leaves restrict. The accessed bit is set in advance, so that the walker need not write it.
  static constexpr Entry table(std::uint64_t pa) { return pa | kPresent | kWrite | kUser | kAccessed; }
  static constexpr Entry shared_table(std::uint64_t pa) { return (table(pa) & ~kWrite) | kSharedTable; }
  static constexpr bool kSharedHidden = false;
  static constexpr bool present(Entry e) { return e & kPresent; }
  static constexpr bool is_leaf(Entry e, Level l) { return l == Level::Pte || (leaf_allowed(l) && (e & kPageSize)); }
  static constexpr std::uint64_t address(Entry e, Level l) {
    return e & kAddress & (is_leaf(e, l) ? ~(span_of(l) - 1) : ~0ull);
  }
  static constexpr Attributes attributes(Entry e) {
    return {.write = (e & kWrite) != 0,
            .execute = (e & kNoExecute) == 0,
            .user = (e & kUser) != 0,
            .accessed = (e & kAccessed) != 0,
            .dirty = (e & kDirty) != 0,
            .deferred_exec = (e & kDeferredExec) != 0,
            .ahead = (e & kAhead) != 0};
  }
  static constexpr Entry with(Entry e, Attributes a) {
    constexpr Entry all = kWrite | kNoExecute | kUser | kAccessed | kDirty | kDeferredExec | kAhead;
    return (e & ~all) | bits(a);
  }
  static constexpr bool leaf_allowed(Level l) { return l <= Level::Pud; }
  static constexpr Entry accessed(Entry e) { return e | kAccessed; }
  static constexpr Entry stable(Entry e) { return e & ~(kAccessed | kDirty | kAhead); }
  static constexpr Entry stable_read_only(Entry e) { return stable(e) & ~kWrite; }

  // x86 makes stores visible in program order, to other processors' page walkers as well: it is enough to keep the
  // compiler from reordering them. On another host a software CPU walks the tables.
  static void publish() {
#if defined(__x86_64__)
    std::atomic_signal_fence(std::memory_order_seq_cst);
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  }
};

static_assert(EntryFormat<Stage1>);
static_assert(kept(Stage1::leaf(0x1'0000'0000, Level::Pmd, {})) != kNone);

}  // namespace ramet::arch::x86_64
