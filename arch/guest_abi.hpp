// The ABI of Linux on one instruction set, as data and a few functions: the rooms above serve programs by it on any
// host. A machine runs guests of one ABI (vmm/machine.hpp), a program image has one. The twins x86_64/guest_abi.cpp and
// arm64/guest_abi.cpp define them.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "arch/calls.hpp"
#include "arch/signal_frame.hpp"
#include "arch/user_state.hpp"

namespace ramet::arch {

// The host's O_LARGEFILE, which the C library defines as 0: it and the three other flags use the same four bits on
// every architecture, in different orders.
inline constexpr int kLargeFile = 0740000 & ~(O_DIRECTORY | O_NOFOLLOW | O_DIRECT);

struct GuestAbi {
  const char* name;  // for messages: "x86-64"
  const char* machine;  // what uname(2) and AT_PLATFORM call it
  std::uint16_t elf_machine;  // e_machine of its programs

  // Addresses. Those of programs end at user_end on every machine: some machines need room between it and
  // processor_end, where the processor's user half ends.
  std::uint64_t user_end, processor_end;
  // Position-independent programs go at program_base and up to program_spread bytes above.
  std::uint64_t program_base, program_spread;
  // Free ranges are searched from mmap_top downwards, or from up to mmap_spread bytes below.
  std::uint64_t mmap_top, mmap_spread;

  // System calls.
  const std::array<Call, kMostCalls>* calls;  // by the ABI's number
  std::uint32_t restart_syscall;  // the number of that call
  Call call_of(std::uint32_t number) const { return number < calls->size() ? (*calls)[number] : kNoCall; }

  // Registers, as places in UserRegs.
  struct {
    std::uint8_t count;  // from 0 on
    std::uint8_t pc, sp, flags;
    std::uint8_t number, result;  // of a system call
    std::array<std::uint8_t, 6> arguments;
  } reg;
  std::uint8_t bases;  // how many of Bases are used
  std::uint8_t syscall_length;  // bytes of the system-call instruction
  std::uint64_t step_flag;  // in flags: SIGTRAP after each instruction
  // User code may change user_flags; all others are as in fixed_flags.
  std::uint64_t user_flags, fixed_flags;
  bool (*is_base)(std::uint64_t);  // whether the processor accepts the value as a base
  std::uint64_t base_end;  // arch_prctl(2) and clone(2) refuse bases from here on (EPERM)
  // Which base a code of arch_prctl(2) sets or reads; nullopt: none. x86-64 alone has that call.
  struct BaseAccess {
    std::uint8_t base;
    bool set;
  };
  std::optional<BaseAccess> (*arch_prctl)(int code);

  // Faults, as signal frames show them.
  struct {
    std::uint64_t page, step;  // trap numbers of a page fault, of a single step
    std::uint64_t bad_return;  // trap number that is shown if rt_sigreturn(2) finds no valid frame
    std::uint64_t write;  // bit of a page fault's error code
    // SIGSEGV for such a frame: at the stack pointer, with SEGV_MAPERR or SEGV_ACCERR; else with SI_KERNEL.
    bool bad_return_at_sp;
  } trap;
  // Updates what frames show from now on, after an exception with this number and error code and si_addr `address`.
  void (*note_fault)(FaultRecord&, std::uint64_t trap, std::uint64_t error, std::uint64_t address);
  std::uint64_t (*page_fault_error)(bool present, bool write, bool execute);

  // Signal handlers. A frame is put below `sp`, which on the interrupted stack is red_zone below the stack pointer.
  std::uint64_t red_zone;
  std::uint64_t (*max_frame_bytes)(const FpFormat&);  // AT_MINSIGSTKSZ
  std::uint64_t min_signal_stack;  // least size that sigaltstack(2) accepts: MINSIGSTKSZ
  std::uint64_t (*frame_place)(std::uint64_t sp, const FpFormat&);  // the frame's lowest address; wraps for a tiny sp
  // Writes the frame and sets the registers for the handler, except FpState. False: the stack cannot be written, or the
  // program did not say where the handler returns to; the registers are as before.
  bool (*enter_handler)(const Handling&, std::uint64_t sp, const FpFormat&, UserRegs&, FpState&, const WriteMemory&);
  bool handler_resets_fp;  // the handler begins with the initial FpState, not with the interrupted code's
  // rt_sigreturn(2): `fp` holds the thread's state and is replaced by the frame's. nullopt: there is no valid frame.
  std::optional<Returned> (*leave_handler)(const UserRegs&, const FpFormat&, FpState& fp, const ReadMemory&);

  // Structures and values that differ. The same on both: struct sigaction, statfs, flock and all newer ones.
  std::uint8_t stat_bytes;  // of struct stat, at most kMostStatBytes
  void (*put_stat)(const struct ::stat&, std::span<std::byte>);  // of stat_bytes
  struct {
    std::uint8_t bytes, data;  // of struct epoll_event: its size, and the offset of its data; its events come first
  } epoll_event;
  // Flags of open(2) that differ.
  struct OpenFlags {
    std::uint32_t directory, nofollow, direct, large_file;
  } open;
  // Bits of an address that the processor and system calls ignore (Arm: top-byte ignore).
  std::uint64_t tag_bits;
  std::uint8_t clone_tls, clone_child_tid;  // which argument of clone(2)

  // The text of /proc/cpuinfo for one processor.
  struct Processor {
    unsigned number, position, count;  // position: 0 to count-1 among all processors
    std::string_view model, features;
  };
  std::string (*cpuinfo)(const Processor&);

  static constexpr std::size_t kMostStatBytes = 144;
  // All flags of open(2), from the program's values to those of the host's <fcntl.h> and back. One to one.
  std::uint64_t open_flags_to_host(std::uint64_t) const;
  std::uint64_t open_flags_to_guest(std::uint64_t) const;

  // As after execve(2), but without program counter and stack pointer: all zero except flags.
  constexpr UserRegs initial_registers() const {
    UserRegs r;
    r[reg.flags] = fixed_flags;
    return r;
  }
  constexpr std::array<std::uint64_t, 6> arguments(const UserRegs& r) const {
    std::array<std::uint64_t, 6> v;
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = r[reg.arguments[i]];
    return v;
  }
  // Sets the program counter back, so that the program makes its system call again.
  constexpr void repeat_call(UserRegs& r) const { r[reg.pc] -= syscall_length; }
};

// By e_machine; null: ramet has no ABI for it.
const GuestAbi* find_guest_abi(std::uint32_t elf_machine);

}  // namespace ramet::arch
