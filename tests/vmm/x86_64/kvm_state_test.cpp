// Registers beyond the general ones: FP and AVX state, segment bases; and vCPUs that are used again.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "arch/x86_64/host/cpu.hpp"
#include "tests/vmm/kvm_guest.hpp"

namespace ramet::vmm::testing {
namespace {

using KvmStateTest = KvmTest;

std::uint16_t control_word(const FpState& fp) {
  std::uint16_t v;
  std::memcpy(&v, &fp.area[0], 2);
  return v;
}
std::uint32_t mxcsr(const FpState& fp) {
  std::uint32_t v;
  std::memcpy(&v, &fp.area[24], 4);
  return v;
}

TEST_F(KvmStateTest, AFreshVcpuHasTheFpStateThatExecveGives) {
  Vcpu& v = vcpu();
  FpState fp;
  ASSERT_TRUE(v.get_fp(fp));
  EXPECT_EQ(control_word(fp), 0x37f);
  EXPECT_EQ(mxcsr(fp), 0x1f80u);
  EXPECT_TRUE(std::all_of(fp.area.begin() + 32, fp.area.begin() + 416, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(KvmStateTest, SseRegistersGoInAndOut) {
  code({0x66, 0x0f, 0x6f, 0xc8, 0x0f, 0x05});  // movdqa %xmm0,%xmm1; syscall
  Vcpu& v = vcpu();
  FpState fp;
  ASSERT_TRUE(v.get_fp(fp));
  for (unsigned i = 0; i < 16; i++) fp.area[160 + i] = std::byte(0xa0 + i);
  ASSERT_TRUE(v.set_fp(fp));
  ASSERT_EXIT_KIND(run(v), Syscall);
  FpState out;
  ASSERT_TRUE(v.get_fp(out));
  EXPECT_EQ(std::memcmp(&out.area[176], &fp.area[160], 16), 0);
  v.reset_fp();
  ASSERT_TRUE(v.get_fp(out));
  EXPECT_TRUE(std::all_of(&out.area[160], &out.area[416], [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(control_word(out), 0x37f);
}

TEST_F(KvmStateTest, SseStateSurvivesExits) {
  // movq %rax,%xmm7; syscall; movq %xmm7,%rbx; syscall
  code({0x66, 0x48, 0x0f, 0x6e, 0xf8, 0x0f, 0x05, 0x66, 0x48, 0x0f, 0x7e, 0xfb, 0x0f, 0x05});
  Vcpu& v = vcpu();
  v.regs()[Rax] = 0xfeedface12345678;
  ASSERT_EXIT_KIND(run(v), Syscall);
  v.regs()[Rax] = 0;
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(v.regs()[Rbx], 0xfeedface12345678u);
}

TEST_F(KvmStateTest, AvxRegistersGoInAndOut) {
  const auto& f = guest->machine->features();
  if ((f.fp.components & 4) == 0) GTEST_SKIP() << "this host's KVM gives guests no AVX";
  ASSERT_GE(f.fp.bytes, 832u);
  // vmovdqu (%rdi),%ymm3; syscall; vmovdqu %ymm3,32(%rdi); syscall
  code({0xc5, 0xfe, 0x6f, 0x1f, 0x0f, 0x05, 0xc5, 0xfe, 0x7f, 0x5f, 0x20, 0x0f, 0x05});
  Vcpu& v = vcpu();
  write_entry(kData, 2, G::kUserRw);
  auto* bytes = reinterpret_cast<std::byte*>(words(2));
  for (unsigned i = 0; i < 32; i++) bytes[i] = std::byte(i + 1);
  v.regs()[Rdi] = kData;
  ASSERT_EXIT_KIND(run(v), Syscall);
  FpState fp;
  ASSERT_TRUE(v.get_fp(fp));
  constexpr std::size_t kXmm3 = 160 + 3 * 16, kYmm3 = 576 + 3 * 16;
  EXPECT_EQ(std::memcmp(&fp.area[kXmm3], bytes, 16), 0);
  EXPECT_EQ(std::memcmp(&fp.area[kYmm3], bytes + 16, 16), 0);
  fp.area[kYmm3] = std::byte{0x77};
  ASSERT_TRUE(v.set_fp(fp));
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(bytes[32 + 16], std::byte{0x77});
  EXPECT_EQ(std::memcmp(bytes + 32 + 17, bytes + 17, 15), 0);
}

TEST_F(KvmStateTest, AnFpStateThatTheProcessorRefusesIsAnError) {
  Vcpu& v = vcpu();
  FpState fp;
  ASSERT_TRUE(v.get_fp(fp));
  std::uint32_t bad = 0xffff'ffff;
  std::memcpy(&fp.area[24], &bad, 4);  // reserved bits of MXCSR
  EXPECT_FALSE(v.set_fp(fp));
  v.reset_fp();
  code({0x0f, 0x05});
  EXPECT_EXIT_KIND(run(v), Syscall);
}

TEST_F(KvmStateTest, SegmentBasesTakeEffectAndStay) {
  // mov %fs:8,%rax; mov %gs:16,%rbx; syscall
  code({0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0, 0x65, 0x48, 0x8b, 0x1c, 0x25, 16, 0, 0, 0, 0x0f, 0x05});
  Vcpu& v = vcpu();
  write_entry(kData, 2, G::kUserRw);
  for (unsigned i = 0; i < 512; i++) words(2)[i] = i;
  v.set_base(FsBase, kData);
  v.set_base(GsBase, kData + 0x100);
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(v.regs()[Rax], 1u);
  EXPECT_EQ(v.regs()[Rbx], 0x20u + 2);
  v.set_base(FsBase, kData + 0x200);  // after the first run: another way
  v.regs()[Rip] = kCode;
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(v.regs()[Rax], 0x40u + 1);
  EXPECT_EQ(v.regs()[Rbx], 0x20u + 2);
  EXPECT_EQ(v.base(FsBase), kData + 0x200);
  EXPECT_EQ(v.base(GsBase), kData + 0x100);
}

TEST_F(KvmStateTest, ABaseThatTheProgramSetItselfIsSeenAndKept) {
  if ((guest->machine->features().hwcap2 & 2) == 0) GTEST_SKIP() << "this host's KVM gives guests no FSGSBASE";
  code({0xf3, 0x48, 0x0f, 0xae, 0xd3, 0x0f, 0x05});  // wrfsbase %rbx; syscall
  Vcpu& v = vcpu();
  v.regs()[Rbx] = 0x123450;
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(v.base(FsBase), 0x123450u);
  v.set_base(GsBase, 0x77000);
  v.kick();
  ASSERT_EXIT_KIND(v.run(), Kicked);
  EXPECT_EQ(v.base(FsBase), 0x123450u);
  EXPECT_EQ(v.base(GsBase), 0x77000u);
}

// A thread without a vCPU flushes while another one is in user code: the flush may borrow the idle one, and load what
// its own thread has set.
TEST_F(KvmStateTest, WhatIsSetWhileAFlushBorrowsTheVcpuIsKept) {
  Vcpu& idle = vcpu();
  Vcpu& busy = vcpu();
  code(programs::kCountForEver);
  const mm::Gpa table = write_entry(kData, 2, G::kUserRw);
  std::atomic<bool> over{false};
  std::thread runner([&] {
    while (!over) busy.run();
  });
  std::thread flusher([&] {
    while (!over) guest->flush(kData, table);
  });
  FpState fp;
  EXPECT_TRUE(idle.get_fp(fp));
  const bool borrowed = !arch::x86_64::host_cpu().virtualization;  // else flushes interrupt the other one
  for (std::uint64_t i = 1; (i <= 20000 || (borrowed && idle.counters().flush_exits < 20000)) && !HasFailure(); ++i) {
    idle.set_base(FsBase, i << 12);
    fp.area[160] = std::byte(i);
    idle.copy_fp(fp);
    EXPECT_EQ(idle.base(FsBase), i << 12);
    FpState out;
    EXPECT_TRUE(idle.get_fp(out));
    EXPECT_EQ(out.area[160], std::byte(i));
  }
  over = true;
  busy.kick();
  runner.join();
  flusher.join();
}

TEST_F(KvmStateTest, ABaseThatIsNoAddressBreaksThisGuestOnly) {
  Vcpu& v = vcpu();
  v.set_base(FsBase, 0x8000'0000'0000'0000);
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, Broken);
  EXPECT_NE(e.detail.find("segment base"), std::string::npos) << e.detail;
}

TEST_F(KvmStateTest, AReleasedVcpuComesBackAsNew) {
  code({0x66, 0x48, 0x0f, 0x6e, 0xf8, 0x0f, 0x05, 0xeb, 0xfe});  // movq %rax,%xmm7; syscall; 1: jmp 1b
  for (bool leave_it_in_user_code : {false, true}) {
    Vcpu& v = vcpu();
    v.regs()[Rax] = 42;
    v.set_base(FsBase, kData);
    ASSERT_EXIT_KIND(run(v), Syscall);
    if (leave_it_in_user_code) {
      std::atomic<bool> kicked{false};
      std::thread kicker([&] {
        while (!kicked.load()) v.kick();
      });
      ASSERT_EXIT_KIND(v.run(), Kicked);
      ASSERT_EXIT_KIND(v.run(), Kicked);
      kicked = true;
      kicker.join();
    }
    guest->machine->release_vcpu(&v);
    Vcpu& again = vcpu();
    EXPECT_EQ(&again, &v);
    EXPECT_EQ(again.regs()[Rax], 0u);
    EXPECT_EQ(again.base(FsBase), 0u);
    FpState fp;
    ASSERT_TRUE(again.get_fp(fp));
    EXPECT_EQ(fp.area[160 + 7 * 16], std::byte{0});
    ASSERT_EXIT_KIND(run(again), Syscall);
    guest->machine->release_vcpu(&again);
  }
}

TEST_F(KvmStateTest, EachVcpuHasItsOwnApicId) {
  if (!arch::x86_64::host_cpu().virtualization) GTEST_SKIP() << "user code on this host sees the processor's own CPUID";
  code({0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x0f, 0x05});  // mov $1,%eax; cpuid; syscall
  for (unsigned id = 0; id < 3; id++) {
    Vcpu& v = vcpu();
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, Syscall);
    EXPECT_EQ(v.regs()[Rbx] >> 24, id);
    EXPECT_EQ(v.regs()[Rdx] & 0xffff'ffff, guest->machine->features().hwcap);
  }
}

}  // namespace
}  // namespace ramet::vmm::testing
