// Machine and address space together: faults resolved, protections and mappings taken away under a guest.
#include "tests/vmm/kvm_guest.hpp"

namespace ramet::vmm::testing {
namespace {

using mm::Prot;

class KvmSpaceTest : public KvmTest {
 protected:
  // Under a top-level entry of its own: the address space frees tables that it finds empty.
  static constexpr mm::Gva kPlace = 0x7000'0000'0000;
  // Runs until something other than a fault that the address space resolves.
  Exit run_program(Vcpu& v) {
    for (;;) {
      Exit e = run(v);
      if (e.kind != Kind::PageFault || !guest->space->fault(e.address, e.access)) return e;
    }
  }
  void map(std::uint64_t length) {
    auto at = guest->space->map({.address = kPlace, .length = length, .prot = Prot::Read | Prot::Write, .fixed = true});
    ASSERT_TRUE(at) << mm::describe(at.error());
  }
  Exit start(Vcpu& v, std::uint64_t pages) {
    // 1: incq (%rdi); add $4096,%rdi; dec %rsi; jnz 1b; syscall
    code({0x48, 0xff, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xce, 0x75, 0xf1, 0x0f, 0x05});
    v.regs()[Rip] = kCode;
    v.regs()[Rdi] = kPlace;
    v.regs()[Rsi] = pages;
    return run_program(v);
  }
};

TEST_F(KvmSpaceTest, ProtectAndUnmapHoldForARunningProgram) {
  constexpr std::uint64_t kPages = 40;
  Vcpu& v = vcpu();
  for (int round = 0; round < 3; round++) {
    map(kPages * mm::kPageSize);
    ASSERT_EXIT_KIND(start(v, kPages), Syscall);
    ASSERT_TRUE(guest->space->protect(kPlace + 8 * mm::kPageSize, mm::kPageSize, Prot::Read));
    Exit e = start(v, kPages);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kPlace + 8 * mm::kPageSize);
    ASSERT_TRUE(guest->space->protect(kPlace + 8 * mm::kPageSize, mm::kPageSize, Prot::Read | Prot::Write));
    ASSERT_EXIT_KIND(start(v, kPages), Syscall);
    std::uint64_t word = 0;
    ASSERT_TRUE(guest->space->read(kPlace + 8 * mm::kPageSize, std::as_writable_bytes(std::span(&word, 1))));
    EXPECT_EQ(word, 2u);
    ASSERT_TRUE(guest->space->unmap(kPlace + 16 * mm::kPageSize, mm::kPageSize));
    e = start(v, kPages);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kPlace + 16 * mm::kPageSize);
    ASSERT_TRUE(guest->space->unmap(kPlace, kPages * mm::kPageSize));
    e = start(v, 1);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kPlace);
  }
}

TEST_F(KvmSpaceTest, MemoryGivenBackIsZeroWhenTouchedAgain) {
  Vcpu& v = vcpu();
  map(mm::kBlockSize);
  for (int round = 0; round < 3; round++) {
    ASSERT_EXIT_KIND(start(v, 512), Syscall);
    ASSERT_TRUE(guest->space->advise(kPlace, mm::kBlockSize, mm::Advice::DontNeed));
    ASSERT_EXIT_KIND(start(v, 512), Syscall);
    std::uint64_t word = 0;
    ASSERT_TRUE(guest->space->read(kPlace + 100 * mm::kPageSize, std::as_writable_bytes(std::span(&word, 1))));
    EXPECT_EQ(word, 1u);
    ASSERT_TRUE(guest->space->advise(kPlace, mm::kBlockSize, mm::Advice::DontNeed));
  }
}

}  // namespace
}  // namespace ramet::vmm::testing
