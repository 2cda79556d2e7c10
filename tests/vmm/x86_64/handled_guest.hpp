// A guest whose signal handlers run: what is in their frames.
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
  // The frame of the handler that is about to run.
  arch::x86_64::SignalFrame frame() { return *read_user<arch::x86_64::SignalFrame>(memory(), regs()[Rsp]); }
  siginfo_t info() {
    siginfo_t i;
    auto f = frame();
    std::memcpy(&i, f.info.data(), sizeof i);
    return i;
  }
  bool in_handler() { return regs()[Rip] == kHandler; }
  // The handler returns: RET to the restorer, which calls rt_sigreturn.
  void sigreturn() {
    regs()[Rsp] = regs()[Rsp] + 8;
    syscall(SYS_rt_sigreturn);
  }
};

}  // namespace ramet::vmm
