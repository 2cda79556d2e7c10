// A trap of the process machine's host process: the signal frame that the host's kernel wrote onto the signal stack of
// a context (process_layout.h). The VMM edits the frame there and never builds one. The process may write into it at
// any time, so every field is copied once and the copy is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "arch/user_state.hpp"

namespace ramet::arch {

// Where the parts of the frame are, as offsets into the said area.
struct HostFrame {
  std::uint32_t context = 0, info = 0, fp = 0;
  std::uint32_t fp_bytes = 0;  // of the floating-point area
};

// nullopt: what the process says of the frame is not valid. `base`: the address of the area in the process.
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
// ForeignSyscall: made by x86-64's int 0x80 or by 32-bit code; the program counter is after it. FileFault: the page
// lies beyond the end of its file.
HostTrap read_host_trap(std::span<const std::byte> said, const HostFrame&, int kick_signal);

// The fault that the processor would raise before the first instruction, if the host's kernel would kill the process
// instead of raising it; nullopt: there is none.
std::optional<HostTrap> fault_of_start(const UserRegs&);

UserRegs read_host_registers(std::span<const std::byte> said, const HostFrame&);
// Writes the registers, and everything else that rt_sigreturn restores from the frame except the floating-point state.
void write_host_registers(std::span<std::byte> said, const HostFrame&, const UserRegs&, std::uint64_t base);
// In the layout of FpState, without the kernel's description of the area, which write_host_fp() leaves as it is.
void read_host_fp(std::span<const std::byte> said, const HostFrame&, FpState&);
void write_host_fp(std::span<std::byte> said, const HostFrame&, const FpState&);
// The state with which a process begins.
void reset_host_fp(FpState&);

}  // namespace ramet::arch
