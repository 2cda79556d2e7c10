// A guest whose signal handlers run: what is in their frames. Its twin has the same names.
#pragma once

#include <cstring>

#include "arch/x86_64/signal_frame.hpp"
#include "arch/x86_64/user_state.hpp"
#include "tests/vmm/linux_guest.hpp"

namespace ramet::vmm {

using enum arch::x86_64::Register;
using arch::x86_64::kSyscallLength;
using arch::x86_64::kTrapFlag;

class HandledGuest : public LinuxGuest {
 public:
  using Frame = arch::x86_64::SignalFrame;
  static constexpr std::uint64_t kRedZone = arch::x86_64::kRedZone;  // below the stack pointer, left out
  static constexpr std::uint64_t kSmallStack = 2048;                 // room for one frame and not two
  static constexpr unsigned kKept = Rbx;                             // a register that calls keep

  // What the processor says of a page fault.
  struct Cause {
    std::uint64_t trap = 14, error;
    constexpr Cause(bool present, bool write, bool execute) : error(present | write << 1 | 4 | execute << 4) {}
  };

  // The frame of the handler that is about to run.
  Frame frame() { return *read_user<Frame>(memory(), regs()[Rsp]); }
  static std::uint64_t& pc_of(Frame& f) { return f.context.rip; }
  static std::uint64_t& result_of(Frame& f) { return f.context.rax; }
  static std::uint64_t& number_of(Frame& f) { return f.context.rax; }
  static std::uint64_t& kept_of(Frame& f) { return f.context.rbx; }
  siginfo_t info() {
    siginfo_t i;
    auto f = frame();
    std::memcpy(&i, f.info.data(), sizeof i);
    return i;
  }
  bool in_handler() { return regs()[Rip] == kHandler; }
  // Where the handler returns to, and what its convention wants besides arguments.
  void expect_convention() {
    EXPECT_EQ(regs()[Rax], 0u);
    EXPECT_EQ(frame().restorer, kRestorer);
  }
  void expect_cause(const Cause& c, mm::Gva address) {
    const Frame f = frame();
    EXPECT_EQ(f.context.trap, c.trap);
    EXPECT_EQ(f.context.error, c.error);
    EXPECT_EQ(f.context.cr2, address);
  }
  // The handler returns: RET to the restorer, which calls rt_sigreturn.
  void sigreturn() {
    regs()[Rsp] = regs()[Rsp] + 8;
    syscall(SYS_rt_sigreturn);
  }
};

}  // namespace ramet::vmm
