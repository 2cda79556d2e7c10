// What the KVM machine reports when user code traps, and that no register is lost on the way.
#include <signal.h>

#include <array>
#include <bit>
#include <cstring>

#include "arch/x86_64/host/cpu_state.hpp"
#include "arch/x86_64/host/stub.hpp"
#include "tests/vmm/kvm_guest.hpp"
#include "vmm/kvm/kernel_half.hpp"

namespace ramet::vmm::testing {
namespace {

using kvm::KernelHalf;

UserRegs pattern(std::uint64_t seed) {
  UserRegs r;
  for (unsigned i = 0; i < Rip; i++) r[i] = seed * 0x9e37'79b9'7f4a'7c15 + i * 0x0101'0101'0101'0101;
  r[Rip] = kvm::MicroGuest::kCode;
  r[Rflags] = 0x202;
  return r;
}

TEST_F(KvmTest, SystemCallKeepsEveryRegisterButThoseItDefines) {
  code({0x0f, 0x05, 0x0f, 0x0b});  // syscall; ud2
  Vcpu& v = vcpu();
  for (std::uint64_t seed = 1; seed <= 50; seed++) {
    UserRegs before = pattern(seed);
    before[Rflags] = seed % 2 ? 0x202 : 0xad7;  // CF PF AF ZF SF OF
    v.regs() = before;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, Syscall);
    UserRegs expected = before, got = v.regs();
    expected[Rip] = kCode + 2;
    expected[Rcx] = kCode + 2;
    expected[R11] = got[R11];
    EXPECT_EQ(got.word, expected.word);
    EXPECT_EQ(got[R11] & 0xad7, before[Rflags]);

    v.regs() = before = pattern(seed + 1000);
    v.regs()[Rip] = before[Rip] = kCode + 2;
    e = run(v);
    ASSERT_EXIT_KIND(e, Exception);
    UserRegs after = v.regs();
    after[Rflags] &= ~0x10000ull;  // RF, which a fault sets
    EXPECT_EQ(after.word, before.word);
  }
}

TEST_F(KvmTest, SystemCallWorksWithAnyStackPointer) {
  code({0x0f, 0x05});
  Vcpu& v = vcpu();
  for (std::uint64_t sp : {0ull, 8ull, 0xdead'beef'dead'beefull, 0xffff'ffff'8000'0800ull, ~0ull}) {
    v.regs()[Rip] = kCode;
    v.regs()[Rsp] = sp;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, Syscall);
    EXPECT_EQ(v.regs()[Rsp], sp);
  }
}

struct FaultCase {
  const char* what;
  std::initializer_list<std::uint8_t> code;
  kvm::PageEntry entry;
  mm::Access access;
  std::uint64_t error;
};

TEST_F(KvmTest, PageFaultTellsAddressAccessAndWhetherAnEntryWasThere) {
  const FaultCase cases[] = {
      {"load, no entry", {0x48, 0x8b, 0x07}, G::kAbsent, mm::Access::Read, 4},
      {"store, no entry", {0x48, 0x89, 0x07}, G::kAbsent, mm::Access::Write, 6},
      {"fetch, no entry", {0xff, 0xe7}, G::kAbsent, mm::Access::Execute, 20},
      {"store, read-only", {0x48, 0x89, 0x07}, G::kUserRo, mm::Access::Write, 7},
      {"fetch, not executable", {0xff, 0xe7}, G::kUserRw, mm::Access::Execute, 21},
      {"load, ring 0 only",
       {0x48, 0x8b, 0x07},
       arch::Attributes{.write = true, .user = false, .dirty = true},
       mm::Access::Read,
       5},
  };
  Vcpu& v = vcpu();
  for (const FaultCase& c : cases) {
    SCOPED_TRACE(c.what);
    code(c.code);
    change_entry(kData, 2, c.entry);
    v.regs() = pattern(7);
    v.regs()[Rdi] = kData + 0x123;
    UserRegs before = v.regs();
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kData + 0x123);
    EXPECT_EQ(e.access, c.access);
    EXPECT_EQ(e.present, (c.error & 1) != 0);
    EXPECT_EQ(e.error, c.error);
    if (c.access == mm::Access::Execute) before[Rip] = kData + 0x123;
    UserRegs after = v.regs();
    after[Rflags] &= ~0x10000ull;
    EXPECT_EQ(after.word, before.word);
  }
}

struct ExceptionCase {
  const char* what;
  std::initializer_list<std::uint8_t> code;
  unsigned vector;
  unsigned past;        // bytes by which the program counter has moved
  std::uint64_t error;
  int signal, si_code;
  bool at_pc;           // si_addr is the program counter, else 0
  std::uint64_t flags = 0x202;
};

TEST_F(KvmTest, EveryExceptionOfUserCodeIsReportedWithItsTrapAndTheSignalOfLinux) {
  const ExceptionCase cases[] = {
      {"division by zero", {0x48, 0x31, 0xc9, 0x48, 0xf7, 0xf1}, 0, 3, 0, SIGFPE, FPE_INTDIV, true},  // xor %rcx,%rcx;
                                                                                                      // div %rcx
      {"single step", {0x90, 0x90}, 1, 1, 0, SIGTRAP, TRAP_TRACE, true, 0x302},
      {"int3", {0xcc}, 3, 1, 0, SIGTRAP, SI_KERNEL, false},
      {"undefined instruction", {0x0f, 0x0b}, 6, 0, 0, SIGILL, ILL_ILLOPN, true},
      {"privileged instruction", {0xf4}, 13, 0, 0, SIGSEGV, SI_KERNEL, false},
      {"port access", {0xe6, 0x20}, 13, 0, 0, SIGSEGV, SI_KERNEL, false},  // out %al,$0x20
      {"address that is none",
       {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x48, 0x8b, 0x00},
       13,
       10,
       0,
       SIGSEGV,
       SI_KERNEL,
       false},
      {"x87 exception",
       {0x9b, 0xdb, 0xe3, 0xd9, 0x2c, 0x24, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b},
       16,
       12,
       0,
       SIGFPE,
       FPE_FLTDIV,
       true},
  };
  Vcpu& v = vcpu();
  for (const ExceptionCase& c : cases) {
    SCOPED_TRACE(c.what);
    v.reset_fp();
    code(c.code);
    v.regs() = {};
    v.regs()[Rip] = kCode;
    v.regs()[Rsp] = kStack - 64;
    v.regs()[Rflags] = c.flags;
    std::uint16_t unmasked = 0x340;  // an x87 control word that lets every exception through
    std::memcpy(guest->memory->host(guest->frame(1)) + mm::kPageSize - 64, &unmasked, sizeof unmasked);
    Exit e = run(v);
    EXPECT_EXIT_KIND(e, Exception);
    EXPECT_EQ(e.trap, c.vector);
    EXPECT_EQ(e.error, c.error);
    EXPECT_EQ(e.signal, c.signal);
    EXPECT_EQ(e.code, c.si_code);
    EXPECT_EQ(e.address, c.at_pc ? v.regs()[Rip] : 0);
    EXPECT_EQ(v.regs()[Rip], kCode + c.past);
  }
}

TEST_F(KvmTest, SoftwareInterruptsOutsideTheTableAreAnExceptionAndNoSystemCall) {
  code({0xcd, 0x80});
  Vcpu& v = vcpu();
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, Exception);
  EXPECT_TRUE(e.trap == 13 || e.trap == 6) << e.trap;  // hosts differ
  EXPECT_EQ(v.regs()[Rip], kCode);
}

TEST_F(KvmTest, AlignmentCheckIsReportedWhenTheProgramAsksForIt) {
  code({0x8b, 0x47, 0x01});  // mov 1(%rdi),%eax
  Vcpu& v = vcpu();
  write_entry(kData, 2, G::kUserRw);
  v.regs()[Rdi] = kData;
  v.regs()[Rflags] = 0x40202;
  Exit e = run(v);
  if (e.kind == Kind::Exception && e.trap == 6) GTEST_SKIP() << "this processor does not check alignment";
  if (e.kind == Kind::PageFault) GTEST_SKIP() << "this processor does not check alignment";
  ASSERT_EXIT_KIND(e, Exception);
  EXPECT_EQ(e.trap, 17u);
}

TEST_F(KvmTest, AProgramCounterThatIsNoAddressIsAnException) {
  Vcpu& v = vcpu();
  v.regs()[Rip] = 0x8000'0000'0000'0000;
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, Exception);
  EXPECT_EQ(e.trap, 13u);
  EXPECT_EQ(v.regs()[Rip], 0x8000'0000'0000'0000u);
}

TEST_F(KvmTest, UserCodeCannotReachTheKernelHalf) {
  Vcpu& v = vcpu();
  code({0x0f, 0x05});
  ASSERT_EXIT_KIND(run(v), Syscall);
  code({0x48, 0x8b, 0x07, 0x48, 0x89, 0x07, 0xff, 0xe7});  // load; store; jmp *%rdi
  for (mm::Gva target : {KernelHalf::kStubPage, KernelHalf::kStubPage + arch::x86_64::stub::resume(),
                         KernelHalf::kTables, KernelHalf::kTables + mm::kPageSize}) {
    for (unsigned offset : {0u, 3u, 6u}) {
      v.regs()[Rip] = kCode + offset;
      v.regs()[Rdi] = target;
      Exit e = run(v);
      ASSERT_EXIT_KIND(e, PageFault);
      EXPECT_EQ(e.address, target);
    }
  }
}

TEST_F(KvmTest, AJumpToTheSystemCallEntryIsAPageFault) {
  Vcpu& v = vcpu();
  code({0xff, 0xe7, 0x0f, 0x05});  // jmp *%rdi; syscall
  for (int round = 0; round < 2; round++) {
    v.regs()[Rip] = kCode;
    v.regs()[Rdi] = KernelHalf::kStubPage + arch::x86_64::stub::syscall_entry();
    v.regs()[Rcx] = kCode;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, v.regs()[Rdi]);
    EXPECT_EQ(e.access, mm::Access::Execute);
    v.regs()[Rip] = kCode + 2;
    ASSERT_EXIT_KIND(run(v), Syscall);
  }
}

// Three that emulated processors do differently from silicon: what must hold everywhere is that the exit
// is one of the two.
TEST_F(KvmTest, ExceptionsThatProcessorsDifferInAreReported) {
  Vcpu& v = vcpu();
  code({0xf1});  // int1: #DB
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, Exception);
  EXPECT_TRUE(e.trap == 1 || e.trap == 6) << e.trap;

  code({0x48, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x58});  // mov $non-canonical,%rsp; pop %rax: #SS
  v.regs()[Rip] = kCode;
  e = run(v);
  ASSERT_EXIT_KIND(e, Exception);
  EXPECT_TRUE(e.trap == 12 || e.trap == 13) << e.trap;
  EXPECT_EQ(v.regs()[Rip], kCode + 10);

  // ldmxcsr (%rsp), with all exceptions let through; xorps %xmm0,%xmm0; divps %xmm0,%xmm0: #XM; syscall
  code({0x0f, 0xae, 0x14, 0x24, 0x0f, 0x57, 0xc0, 0x0f, 0x5e, 0xc0, 0x0f, 0x05});
  v.regs()[Rip] = kCode;
  v.regs()[Rsp] = kStack - 64;
  e = run(v);
  if (e.kind != Kind::Syscall) {
    ASSERT_EXIT_KIND(e, Exception);
    EXPECT_EQ(e.trap, 19u);
    EXPECT_EQ(v.regs()[Rip], kCode + 7);
  }
}

TEST_F(KvmTest, FlagsThatUserCodeMustNotHaveAreTakenAway) {
  code({0x9c, 0x58, 0x0f, 0x05});  // pushf; pop %rax; syscall
  Vcpu& v = vcpu();
  v.regs()[Rflags] = 0x0013'7202 | 0x4000;  // IOPL, NT, VM, ...
  v.regs()[Rflags] &= ~0x100ull;
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(v.regs()[Rax] & 0x27000, 0u);
}

std::byte* stub_page(kvm::MicroGuest& g) {
  std::uint64_t entry = g.space->root();
  for (unsigned shift = 39; shift >= 12; shift -= 9)
    entry = g.words(entry & 0x000f'ffff'ffff'f000)[KernelHalf::kStubPage >> shift & 511];
  return g.memory->host(entry & 0x000f'ffff'ffff'f000);
}

TEST_F(KvmTest, ADamagedDescriptorTableEndsInAMessage) {
  code({0x0f, 0x0b});
  Vcpu& v = vcpu();
  std::memset(stub_page(*guest) + arch::x86_64::kIdtOffset, 0, 512);
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, Broken);
  EXPECT_NE(e.detail.find("triple fault"), std::string::npos) << e.detail;
}

TEST_F(KvmTest, ExitsAreCounted) {
  code({0x0f, 0x05, 0x0f, 0x0b});
  Vcpu& v = vcpu();
  for (int i = 0; i < 3; i++) {
    v.regs()[Rip] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
  }
  ASSERT_EXIT_KIND(run(v), Exception);
  v.regs()[Rip] = kData;
  ASSERT_EXIT_KIND(run(v), PageFault);
  auto t = guest->machine->totals();
  EXPECT_EQ(t.syscalls, 3u);
  EXPECT_EQ(t.exceptions, 1u);
  EXPECT_EQ(t.page_faults, 1u);
}

}  // namespace
}  // namespace ramet::vmm::testing
