// A guest whose system calls go the whole way: number and arguments in registers, dispatch, delivery of signals.
#pragma once

#include <signal.h>
#include <sys/syscall.h>

#include "tests/vmm/files_guest.hpp"
#include "vmm/linux/signals/state.hpp"

namespace ramet::vmm {

class LinuxGuest : public Guest {
 public:
  static constexpr mm::Gva kCode = 0x401000, kHandler = 0x402000, kRestorer = 0x403000;
  static constexpr std::uint64_t kSaRestorer = 0x04000000;

  LinuxGuest() : Guest({}) {
    stack = *memory().map({.length = kStack, .prot = mm::Prot::Read | mm::Prot::Write, .backing = nullptr, .name = {}});
    regs()[abi().reg.pc] = kCode;
    regs()[abi().reg.sp] = stack + kStack - 256;
  }
  UserRegs& regs() { return thread->regs(); }

  static const arch::GuestAbi& abi() { return arch::host_abi(); }

  // As the instruction at kCode that makes a call; returns what is in the result register afterwards.
  std::int64_t syscall(long number, std::initializer_list<std::uint64_t> arguments = {}) {
    std::array<std::uint64_t, 6> v{};
    std::copy(arguments.begin(), arguments.end(), v.begin());
    UserRegs& r = regs();
    r[abi().reg.number] = static_cast<std::uint64_t>(number);
    for (std::size_t n = 0; n < v.size(); ++n) r[abi().reg.arguments[n]] = v[n];
    dispatch(*thread);
    return static_cast<std::int64_t>(regs()[abi().reg.result]);
  }

  void handle(int sig, std::uint64_t flags = 0, SignalSet mask = 0, std::uint64_t handler = kHandler) {
    const std::array<std::uint64_t, 4> action{handler, flags | kSaRestorer | SA_SIGINFO, kRestorer, mask};
    ASSERT_TRUE(memory().write(buffer, std::as_bytes(std::span(action))));
    ASSERT_EQ(syscall(SYS_rt_sigaction, {as_word(sig), buffer, 0, 8}), 0);
  }
  std::int64_t mask(int how, SignalSet set) {
    EXPECT_TRUE(memory().write(buffer, std::as_bytes(std::span(&set, 1))));
    return syscall(SYS_rt_sigprocmask, {as_word(how), buffer, 0, 8});
  }
  std::int64_t raise(int sig) {
    return syscall(SYS_tgkill, {as_word(process->pid), as_word(process->pid), as_word(sig)});
  }

  // How the program ended, if it did. Ends it otherwise.
  Ending ending() {
    EXPECT_TRUE(process->ending());
    return process->ended();
  }

  mm::Gva stack = 0;
  static constexpr std::uint64_t kStack = 256 << 10;
};

}  // namespace ramet::vmm
