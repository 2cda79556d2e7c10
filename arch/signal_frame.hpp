// What signal handlers' frames are made from, whatever the instruction set: GuestAbi lays them out on the program's
// stack, where the program reads and edits them and unwinders parse them.
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

// The last exception of the thread: the processor's number and error code, and the address of an access at which one
// told an address. GuestAbi says what of an exception is noted there.
struct FaultRecord {
  std::uint64_t trap = 0, error = 0, address = 0;
};

struct Handling {
  int signal = 0;
  std::span<const std::byte, 128> info;     // siginfo_t
  bool wants_info = true;                   // the program asked for it (SA_SIGINFO)
  std::uint64_t handler = 0;
  std::optional<std::uint64_t> restorer;    // where it returns to, if the program said so (SA_RESTORER)
  std::uint64_t vdso = 0;                   // where the image of its vDSO is
  std::uint64_t mask = 0;                   // of signals, as it is to be after the handler
  SignalStack stack;
  FaultRecord fault;
};

// What a frame that a handler returned to gives back but for FpState; registers are such as user code may have.
struct Returned {
  UserRegs regs;
  std::uint64_t mask = 0;
  SignalStack stack;
};

// The program's memory. False: it is not there.
using ReadMemory = std::function<bool(std::uint64_t at, std::span<std::byte>)>;
using WriteMemory = std::function<bool(std::uint64_t at, std::span<const std::byte>)>;

}  // namespace ramet::arch
