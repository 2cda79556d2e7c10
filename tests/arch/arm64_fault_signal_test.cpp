// Exceptions of arm64 user code: the signals they become, and what frames show of them.
#include "arch/arm64/fault_signal.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/hwcap_names.hpp"

namespace ramet::arch::arm64 {
namespace {

TEST(Arm64FaultSignal, ExceptionsBecomeTheSignalsOfLinux) {
  using enum FaultSignal::Address;
  const auto is = [](std::uint64_t esr, int sig, int code, FaultSignal::Address address) {
    const FaultSignal s = fault_signal(esr);
    return s.signal == sig && s.code == code && s.address == address;
  };
  EXPECT_TRUE(is(0x02000000, SIGILL, ILL_ILLOPC, Pc)) << "undefined";
  EXPECT_TRUE(is(0x62300000, SIGILL, ILL_ILLOPC, Pc)) << "a system register";
  EXPECT_TRUE(is(0xf2000001, SIGTRAP, TRAP_BRKPT, Pc)) << "BRK #1";
  EXPECT_TRUE(is(0xca000022, SIGTRAP, TRAP_TRACE, Pc)) << "single step";
  EXPECT_TRUE(is(0x8a000000, SIGBUS, BUS_ADRALN, Accessed)) << "PC alignment";
  EXPECT_TRUE(is(0x9a000000, SIGBUS, BUS_ADRALN, Sp)) << "SP alignment";
  EXPECT_TRUE(is(0x92000021, SIGBUS, BUS_ADRALN, Accessed)) << "a misaligned exclusive access";
  EXPECT_TRUE(is(0xb2800002, SIGFPE, FPE_FLTDIV, Pc));
  EXPECT_TRUE(is(0xb2000002, SIGFPE, FPE_FLTUNK, Pc)) << "which one is not told";
}

TEST(Arm64FaultSignal, PageFaultsHaveTheSyndromeOfTheProcessor) {
  const auto& error = kGuestAbi.page_fault_error;
  EXPECT_EQ(error(false, false, false), 0x92000007u);
  EXPECT_EQ(error(false, true, false), 0x92000047u);
  EXPECT_EQ(error(true, false, false), 0x9200000fu);
  EXPECT_EQ(error(true, true, false), 0x9200004fu);
  EXPECT_EQ(error(false, false, true), 0x82000007u);
  EXPECT_EQ(error(true, false, true), 0x8200000fu);
  EXPECT_TRUE(error(true, true, false) & kGuestAbi.trap.write);
  EXPECT_FALSE(error(true, false, true) & kGuestAbi.trap.write);
  EXPECT_EQ(class_of(0x92000007), kGuestAbi.trap.page);
}

TEST(Arm64FaultSignal, FramesTellOfWhatLinuxWritesDown) {
  const auto note = kGuestAbi.note_fault;
  FaultRecord last;
  note(last, kClassData, 0x9200004f, 0x1234);
  EXPECT_TRUE(last.error == 0x9200004f && last.address == 0x1234);
  note(last, kClassBreakpoint, 0xf2000000, 0x40);
  note(last, kClassStep, 0xca000022, 0x40);
  EXPECT_TRUE(last.error == 0x9200004f && last.address == 0x1234) << "as before";
  note(last, kClassData, 0x9200004f, 0x8000'0000'0000'0000);
  EXPECT_EQ(last.error, 0x92000044u) << "not what is mapped in the kernel";
  note(last, kClassData, 0x92000007, 0x80'0000'0000);
  EXPECT_EQ(last.error, 0x92000004u) << "with addresses of 39 bits";
  note(last, kClassPcAlignment, 0x8a000000, 0x41);
  EXPECT_TRUE(last.error == 0x8a000000 && last.address == 0);
  note(last, kClassUnknown, 0x02000000, 0x40);
  EXPECT_TRUE(last.error == 0 && last.address == 0) << "undefined instructions are not told of";
}

TEST(Arm64Features, HaveTheBitsAndNamesOfLinux) {
  static_assert(hwcap("fp") == 1 && hwcap("atomics") == 1 << 8 && hwcap("cpuid") == 1 << 11 && hwcap("sve") == 1 << 22);
  static_assert(hwcap("pacg") == 1ull << 31);
  EXPECT_EQ(feature_names(0, 0), "");
  EXPECT_EQ(feature_names(hwcap("fp") | hwcap("asimd") | hwcap("aes"), 0), "fp asimd aes");
  EXPECT_EQ(feature_names(hwcap("crc32"), 1u << 17 | 1u << 18 | 1ull << 31), "crc32 bti mte wfxt");
  EXPECT_EQ(feature_names(0, 1ull << 63), "") << "no name, no feature";
}

}  // namespace
}  // namespace ramet::arch::arm64
