// The contents of signal frames on any instruction set. GuestAbi lays them out on the program's stack, where the
// program reads and edits them and unwinders parse them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "arch/user_state.hpp"

namespace ramet::arch {

struct SignalStack {                // sigaltstack(2)
  std::uint64_t sp = 0, size = 0;
  std::int32_t flags = 0;
};

// The thread's last exception, as its next frame shows it: trap number, error code and the address of the access.
// GuestAbi::note_fault() says which of them an exception changes.
struct FaultRecord {
  std::uint64_t trap = 0, error = 0, address = 0;
};

struct Handling {
  int signal = 0;
  std::span<const std::byte, 128> info;     // siginfo_t
  bool wants_info = true;                   // the program asked for it (SA_SIGINFO)
  std::uint64_t handler = 0;
  std::optional<std::uint64_t> restorer;    // where the handler returns to, if the program said so (SA_RESTORER)
  std::uint64_t vdso = 0;                   // address of the program's vDSO image
  std::uint64_t mask = 0;                   // signal mask to restore after the handler
  SignalStack stack;
  FaultRecord fault;
};

// The state that rt_sigreturn(2) restores from a frame, except FpState. Registers are sanitised: user code may have
// them.
struct Returned {
  UserRegs regs;
  std::uint64_t mask = 0;
  SignalStack stack;
};

// Access to the program's memory. False: it cannot be accessed.
using ReadMemory = std::function<bool(std::uint64_t at, std::span<std::byte>)>;
using WriteMemory = std::function<bool(std::uint64_t at, std::span<const std::byte>)>;

}  // namespace ramet::arch
