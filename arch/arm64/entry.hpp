// arm64 translation-table descriptors, VMSAv8-64, 4 KiB granule, 48-bit addresses (Arm ARM, D8.3).
//
//   stage 1:  63..59  58..55   54   53   52    51   47........12  11  10  9..8  7..6   5   4..2      1     0
//             ign     software UXN  PXN  cont  DBM  address       nG  AF  SH    AP     NS  AttrIndx  type  valid
//   stage 2:  63..59  58..55   54..53    52    51   47........12      10  9..8  7..6       5..2      1     0
//             ign     software XN        cont  DBM  address           AF  SH    S2AP       MemAttr   type  valid
//
// Dirty state as in the architecture (FEAT_HAFDBS): DBM says that writing is allowed, but the permission bits refuse it
// until the first write; then the hardware (or, without the feature, the fault handler) sets them to allow it. That a
// read-only page was written earlier is kept in a software bit.
#pragma once

#include <atomic>

#include "arch/entry.hpp"

namespace ramet::arch::arm64 {

// What both stages have in common.
struct Descriptor {
  static constexpr Entry kValid = 1ull << 0;
  static constexpr Entry kTableOrPage = 1ull << 1;  // set: a table, or at the last level a page; clear: a block
  static constexpr Entry kInnerShareable = 3ull << 8;
  static constexpr Entry kAccessFlag = 1ull << 10;
  static constexpr Entry kDirtyBitModifier = 1ull << 51;
  static constexpr Entry kSoftDirty = 1ull << 55;  // software
  static constexpr Entry kDeferredExec = 1ull << 56;  // software
  static constexpr Entry kAhead = 1ull << 57;  // software
  static constexpr Entry kAddress = 0x0000'ffff'ffff'f000;

  static constexpr bool kBreakBeforeMake = true;

  static constexpr Entry table(std::uint64_t pa) { return pa | kValid | kTableOrPage; }
  static constexpr bool present(Entry e) { return e & kValid; }
  static constexpr bool is_leaf(Entry e, Level l) { return l == Level::Pte || !(e & kTableOrPage); }
  static constexpr std::uint64_t address(Entry e, Level l) {
    return e & kAddress & (is_leaf(e, l) ? ~(span_of(l) - 1) : ~0ull);
  }
  static constexpr bool leaf_allowed(Level l) { return l <= Level::Pud; }

  // When it returns, the walkers of all processors in the inner shareable domain see the stores before it.
  static void publish() {
#if defined(__aarch64__)
    asm volatile("dsb ishst" ::: "memory");
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  }

 protected:
  static constexpr Entry common(Attributes a) {
    return kInnerShareable | (a.accessed ? kAccessFlag : 0) | (a.write ? kDirtyBitModifier : 0) |
           (a.dirty && !a.write ? kSoftDirty : 0) | (a.deferred_exec ? kDeferredExec : 0) | (a.ahead ? kAhead : 0);
  }
  static constexpr Entry kCommonBits = kInnerShareable | kAccessFlag | kDirtyBitModifier | kSoftDirty | kDeferredExec |
                                       kAhead;
  static constexpr Entry type(Level l) { return kValid | (l == Level::Pte ? kTableOrPage : 0); }
};

struct Stage1 : Descriptor {
  static constexpr Entry kTableReadOnly = 2ull << 61;  // APTable: no write at any exception level
  static constexpr Entry kNormalMemory = 0ull << 2;  // AttrIndx 0: MAIR_EL1.Attr0 is Normal write-back
  static constexpr Entry kUser = 1ull << 6;  // AP[1]
  static constexpr Entry kReadOnly = 1ull << 7;  // AP[2]
  static constexpr Entry kNotGlobal = 1ull << 11;
  static constexpr Entry kPrivilegedNoExecute = 1ull << 53;
  static constexpr Entry kUserNoExecute = 1ull << 54;

  static constexpr Entry bits(Attributes a) {
    // EL1 and EL0 execute only their own pages: the stub never runs user code, and user code never runs the stub.
    const Entry never = a.user ? kPrivilegedNoExecute : kUserNoExecute;
    const Entry maybe = a.user ? kUserNoExecute : kPrivilegedNoExecute;
    return common(a) | kNormalMemory | (a.write && a.dirty ? 0 : kReadOnly) | (a.user ? kUser | kNotGlobal : 0) |
           never | (a.execute ? 0 : maybe);
  }
  static constexpr Entry leaf(std::uint64_t pa, Level l, Attributes a) { return pa | type(l) | bits(a); }
  static constexpr Entry shared_table(std::uint64_t pa) { return table(pa) | kTableReadOnly | kSharedTable; }
  static constexpr bool kSharedHidden = false;
  static constexpr Attributes attributes(Entry e) {
    const bool user = (e & kUser) != 0;
    const bool write = (e & kDirtyBitModifier) != 0;
    return {.write = write,
            .execute = (e & (user ? kUserNoExecute : kPrivilegedNoExecute)) == 0,
            .user = user,
            .accessed = (e & kAccessFlag) != 0,
            .dirty = (e & kSoftDirty) != 0 || (write && !(e & kReadOnly)),
            .deferred_exec = (e & kDeferredExec) != 0,
            .ahead = (e & kAhead) != 0};
  }
  static constexpr Entry with(Entry e, Attributes a) {
    constexpr Entry all = kCommonBits | kUser | kReadOnly | kNotGlobal | kPrivilegedNoExecute | kUserNoExecute;
    return (e & ~all) | bits(a);
  }
  static constexpr Entry accessed(Entry e) { return e | kAccessFlag; }
  // The hardware sets the access flag, and clears AP[2] where DBM is set.
  static constexpr Entry stable(Entry e) {
    return e & ~(kAccessFlag | kSoftDirty | kAhead | ((e & kDirtyBitModifier) ? kReadOnly : 0));
  }
  static constexpr Entry stable_read_only(Entry e) {
    return (e & ~(kAccessFlag | kSoftDirty | kAhead | kDirtyBitModifier)) | kReadOnly;
  }
};

// Stage 2 does not distinguish user and kernel: both may use what it allows, and attributes() returns `user`.
struct Stage2 : Descriptor {
  static constexpr Entry kNormalMemory = 0xfull << 2;  // MemAttr: Normal, outer and inner write-back
  static constexpr Entry kRead = 1ull << 6;  // S2AP[0]
  static constexpr Entry kWrite = 1ull << 7;  // S2AP[1]
  static constexpr Entry kNoExecute = 1ull << 54;  // XN[1]; XN[0] stays 0, as hosts without FEAT_XNX want

  static constexpr Entry bits(Attributes a) {
    return common(a) | kNormalMemory | kRead | (a.write && a.dirty ? kWrite : 0) | (a.execute ? 0 : kNoExecute);
  }
  static constexpr Entry leaf(std::uint64_t pa, Level l, Attributes a) { return pa | type(l) | bits(a); }
  // Table descriptors of stage 2 have no permission bits, so a shared table is hidden from the hardware.
  static constexpr Entry shared_table(std::uint64_t pa) { return (table(pa) & ~kValid) | kSharedTable; }
  static constexpr bool kSharedHidden = true;
  static constexpr Attributes attributes(Entry e) {
    const bool write = (e & kDirtyBitModifier) != 0;
    return {.write = write,
            .execute = (e & kNoExecute) == 0,
            .user = true,
            .accessed = (e & kAccessFlag) != 0,
            .dirty = (e & kSoftDirty) != 0 || (write && (e & kWrite)),
            .deferred_exec = (e & kDeferredExec) != 0,
            .ahead = (e & kAhead) != 0};
  }
  static constexpr Entry with(Entry e, Attributes a) {
    constexpr Entry all = kCommonBits | kRead | kWrite | kNoExecute;
    return (e & ~all) | bits(a);
  }
  static constexpr Entry accessed(Entry e) { return e | kAccessFlag; }
  static constexpr Entry stable(Entry e) {
    return e & ~(kAccessFlag | kSoftDirty | kAhead | ((e & kDirtyBitModifier) ? kWrite : 0));
  }
  static constexpr Entry stable_read_only(Entry e) {
    return e & ~(kAccessFlag | kSoftDirty | kAhead | kDirtyBitModifier | kWrite);
  }
};

static_assert(EntryFormat<Stage1>);
static_assert(EntryFormat<Stage2>);
static_assert(kept(Stage1::leaf(0x1'0000'0000, Level::Pmd, {})) != kNone);

}  // namespace ramet::arch::arm64
