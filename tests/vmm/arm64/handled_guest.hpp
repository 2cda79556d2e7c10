// A guest whose signal handlers run: what is in their frames. Its twin has the same names.
#pragma once

#include <cstring>

#include "arch/arm64/fault_signal.hpp"
#include "arch/arm64/signal_frame.hpp"
#include "arch/arm64/user_state.hpp"
#include "tests/vmm/linux_guest.hpp"

namespace ramet::vmm {

using arch::arm64::kSyscallLength;

class HandledGuest : public LinuxGuest {
 public:
  using Frame = arch::arm64::SignalFrame;
  static constexpr std::uint64_t kRedZone = 0;             // below the stack pointer, left out
  static constexpr std::uint64_t kSmallStack = 5120;       // room for one frame and not two
  static constexpr unsigned kKept = arch::arm64::X0 + 19;  // a register that calls keep

  // What the processor says of a page fault.
  struct Cause {
    std::uint64_t trap, error;
    constexpr Cause(bool present, bool write, bool execute)
        : trap(arch::arm64::class_of(arch::arm64::page_fault_error(present, write, execute))),
          error(arch::arm64::page_fault_error(present, write, execute)) {}
  };

  // The frame of the handler that is about to run.
  Frame frame() { return *read_user<Frame>(memory(), regs()[arch::arm64::Sp]); }
  static std::uint64_t& pc_of(Frame& f) { return f.context.regs[arch::arm64::Pc]; }
  static std::uint64_t& result_of(Frame& f) { return f.context.regs[arch::arm64::X0]; }
  static std::uint64_t& number_of(Frame& f) { return f.context.regs[arch::arm64::X8]; }
  static std::uint64_t& kept_of(Frame& f) { return f.context.regs[kKept]; }
  siginfo_t info() {
    siginfo_t i;
    auto f = frame();
    std::memcpy(&i, f.info.data(), sizeof i);
    return i;
  }
  bool in_handler() { return regs()[arch::arm64::Pc] == kHandler; }
  // Where the handler returns to, and what its convention wants besides arguments.
  void expect_convention() {
    EXPECT_EQ(regs()[arch::arm64::Lr], kRestorer);
    EXPECT_EQ(regs()[arch::arm64::Sp] % 16, 0u);
  }
  void expect_cause(const Cause& c, mm::Gva address) {
    const Frame f = frame();
    EXPECT_EQ(f.context.fault_address, address);
    arch::arm64::EsrRecord record;
    for (std::size_t at = 0;; at += record.head.size) {
      std::memcpy(&record, f.context.records.data() + at, sizeof record);
      ASSERT_NE(record.head.magic, 0u) << "no record of the exception";
      if (record.head.magic == arch::arm64::EsrRecord::kMagic) break;
    }
    EXPECT_EQ(record.esr, c.error);
  }
  // The handler returns to the restorer, which calls rt_sigreturn.
  void sigreturn() { syscall(SYS_rt_sigreturn); }
};

}  // namespace ramet::vmm
