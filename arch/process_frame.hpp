// What a trap of the process machine's host process tells: the frame that the host's kernel wrote onto the signal stack
// of a context (process_layout.h). It is edited there, never built, and the process may write into it at any time:
// every field is copied once, and what the copy says is then checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "arch/user_state.hpp"

namespace ramet::arch {

// Where the pieces are, as offsets into the said area.
struct HostFrame {
  std::uint32_t context = 0, info = 0, fp = 0;
  std::uint32_t fp_bytes = 0;  // of the floating-point area
};

// Nothing: the process does not tell the truth about it. `base`: where the process sees the area.
std::optional<HostFrame> find_host_frame(std::span<const std::byte> said, std::uint64_t base);

// What happened.
struct HostTrap {
  enum class Kind : std::uint8_t {
    Syscall,
    ForeignSyscall,
    PageFault,
    FileFault,
    Exception,
    Kick,
    Unknown
  } kind = Kind::Unknown;
  int signal = 0, code = 0;
  std::uint64_t address = 0;  // PageFault, FileFault: what was accessed. Exception: si_addr
  std::uint32_t trap = 0;
  std::uint64_t error = 0;
  bool write = false, execute = false;
};
// ForeignSyscall: by x86-64's int 0x80 or from 32-bit code; the registers stand behind it. FileFault: the file behind a
// page ends before it.
HostTrap read_host_trap(std::span<const std::byte> said, const HostFrame&, int kick_signal);

// What the processor would do before the first instruction, where the host's kernel would end the process for it
// instead.
std::optional<HostTrap> fault_of_start(const UserRegs&);

UserRegs read_host_registers(std::span<const std::byte> said, const HostFrame&);
// Those and everything else that rt_sigreturn takes from the frame but the floating-point state.
void write_host_registers(std::span<std::byte> said, const HostFrame&, const UserRegs&, std::uint64_t base);
// In the layout of FpState, without what the kernel says of the area. The way back leaves that as it is.
void read_host_fp(std::span<const std::byte> said, const HostFrame&, FpState&);
void write_host_fp(std::span<std::byte> said, const HostFrame&, const FpState&);
// As the process begins.
void reset_host_fp(FpState&);

}  // namespace ramet::arch
