// Machine and address space together: faults resolved, protections and mappings taken away under a guest.
#include <optional>

#include "tests/vmm/kvm_vm.hpp"

namespace ramet::vmm::testing {
namespace {

using namespace programs;
using mm::Prot;

class KvmSpaceTest : public ::testing::Test {
 protected:
  static constexpr mm::Gva kProgram = 0x60'0000'0000, kPlace = 0x70'0000'0000;
  void SetUp() override {
    NEED_KVM();
    vm.emplace();
    map(kProgram, mm::kPageSize);
    ASSERT_TRUE(vm->space->write(kProgram, std::as_bytes(std::span(kIncrementPagesAndCall))));
    ASSERT_TRUE(vm->space->protect(kProgram, mm::kPageSize, Prot::Read | Prot::Exec));
  }
  void map(mm::Gva where, std::uint64_t length) {
    auto at = vm->space->map({.address = where, .length = length, .prot = Prot::Read | Prot::Write, .fixed = true});
    ASSERT_TRUE(at) << mm::describe(at.error());
  }
  Exit start(std::uint64_t pages) {
    Vcpu& v = *vm->vcpu;
    v.regs()[Pc] = kProgram;
    v.regs()[Place] = kPlace;
    v.regs()[Times] = pages;
    return vm->run(v);
  }
  std::optional<KvmVm> vm;
};

TEST_F(KvmSpaceTest, ProtectAndUnmapHoldForARunningProgram) {
  constexpr std::uint64_t kPages = 40;
  for (int round = 0; round < 3; round++) {
    map(kPlace, kPages * mm::kPageSize);
    ASSERT_EXIT_KIND(start(kPages), Syscall);
    ASSERT_TRUE(vm->space->protect(kPlace + 8 * mm::kPageSize, mm::kPageSize, Prot::Read));
    Exit e = start(kPages);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kPlace + 8 * mm::kPageSize);
    ASSERT_TRUE(vm->space->protect(kPlace + 8 * mm::kPageSize, mm::kPageSize, Prot::Read | Prot::Write));
    ASSERT_EXIT_KIND(start(kPages), Syscall);
    EXPECT_EQ(vm->word(kPlace + 8 * mm::kPageSize), 2u);
    ASSERT_TRUE(vm->space->unmap(kPlace + 16 * mm::kPageSize, mm::kPageSize));
    e = start(kPages);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kPlace + 16 * mm::kPageSize);
    ASSERT_TRUE(vm->space->unmap(kPlace, kPages * mm::kPageSize));
    e = start(1);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kPlace);
  }
}

TEST_F(KvmSpaceTest, MemoryGivenBackIsZeroWhenTouchedAgain) {
  map(kPlace, mm::kBlockSize);
  for (int round = 0; round < 3; round++) {
    ASSERT_EXIT_KIND(start(512), Syscall);
    ASSERT_TRUE(vm->space->advise(kPlace, mm::kBlockSize, mm::Advice::DontNeed));
    ASSERT_EXIT_KIND(start(512), Syscall);
    EXPECT_EQ(vm->word(kPlace + 100 * mm::kPageSize), 1u);
    ASSERT_TRUE(vm->space->advise(kPlace, mm::kBlockSize, mm::Advice::DontNeed));
  }
}

}  // namespace
}  // namespace ramet::vmm::testing
