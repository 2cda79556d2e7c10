// What Linux of one instruction set is to its programs, as data and a few functions: the rooms above serve programs by
// it, whatever the host they run on. A machine runs guests of one (vmm/machine.hpp), an image is of one. The twins
// x86_64/guest_abi.cpp and arm64/guest_abi.cpp fill it in.
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

// The host's O_LARGEFILE, which the C library calls 0: it and three others share four bits, everywhere in another
// order.
inline constexpr int kLargeFile = 0740000 & ~(O_DIRECTORY | O_NOFOLLOW | O_DIRECT);

struct GuestAbi {
  const char* name;                 // for people: "x86-64"
  const char* machine;              // what uname(2) and AT_PLATFORM call it
  std::uint16_t elf_machine;        // e_machine of its programs

  // Addresses. A program's end at user_end, on every machine: some of them need room above it, below processor_end,
  // where the processor's own user half ends.
  std::uint64_t user_end, processor_end;
  // Position-independent programs go at program_base and up to program_spread bytes above.
  std::uint64_t program_base, program_spread;
  // Free ranges are searched from mmap_top downwards, or from up to mmap_spread bytes below.
  std::uint64_t mmap_top, mmap_spread;

  // System calls.
  const std::array<Call, kMostCalls>* calls;  // by the number that a program makes them by
  std::uint32_t restart_syscall;              // the number of that call
  Call call_of(std::uint32_t number) const { return number < calls->size() ? (*calls)[number] : kNoCall; }

  // Registers, as places in UserRegs.
  struct {
    std::uint8_t count;             // from 0 on
    std::uint8_t pc, sp, flags;
    std::uint8_t number, result;    // of a system call
    std::array<std::uint8_t, 6> arguments;
  } reg;
  std::uint8_t bases;               // how many of Bases there are
  std::uint8_t syscall_length;  // bytes of the instruction: that far back, the program counter makes the call again
  std::uint64_t step_flag;  // in flags: SIGTRAP after each instruction
  // User code chooses among user_flags only, others are as in fixed_flags.
  std::uint64_t user_flags, fixed_flags;
  bool (*is_base)(std::uint64_t);  // the processor takes it for a base
  std::uint64_t base_end;  // arch_prctl(2) and clone(2) refuse bases from here on (EPERM)
  // What a code of arch_prctl(2) does to which base, if anything. x86-64 alone has that call.
  struct BaseAccess {
    std::uint8_t base;
    bool set;
  };
  std::optional<BaseAccess> (*arch_prctl)(int code);

  // Faults, as signal frames tell of them.
  struct {
    std::uint64_t page, step;  // numbers of a page fault, of a single step
    std::uint64_t bad_return;  // what a frame that nobody can return to is told as
    std::uint64_t write;  // bit of a page fault's error code
    // Which SIGSEGV a bad return is: at the stack pointer, of code SEGV_MAPERR or SEGV_ACCERR; else of code SI_KERNEL.
    bool bad_return_at_sp;
  } trap;
  // An exception has this number, this error code and si_addr `address`: what frames show of it from then on.
  void (*note_fault)(FaultRecord&, std::uint64_t trap, std::uint64_t error, std::uint64_t address);
  std::uint64_t (*page_fault_error)(bool present, bool write, bool execute);

  // Signal handlers. A frame goes below a stack pointer, from which red_zone has been taken off on the interrupted
  // stack.
  std::uint64_t red_zone;
  std::uint64_t (*max_frame_bytes)(const FpFormat&);  // AT_MINSIGSTKSZ
  std::uint64_t min_signal_stack;  // that sigaltstack(2) takes: MINSIGSTKSZ
  std::uint64_t (*frame_place)(std::uint64_t sp, const FpFormat&);  // its lowest address; wraps for a tiny sp
  // Writes the frame and changes the registers to the handler's, but for FpState. False, and they are as before: the
  // stack cannot take it, or the program did not say where the handler returns to.
  bool (*enter_handler)(const Handling&, std::uint64_t sp, const FpFormat&, UserRegs&, FpState&, const WriteMemory&);
  bool handler_resets_fp;  // the handler begins with the initial FpState, not with that of what it interrupts
  // rt_sigreturn(2): `fp` holds the thread's, and leaves with the frame's. Nothing: there is no frame.
  std::optional<Returned> (*leave_handler)(const UserRegs&, const FpFormat&, FpState& fp, const ReadMemory&);

  // Structures and values that differ. Alike are struct sigaction, statfs, flock and all that came later.
  std::uint8_t stat_bytes;  // of struct stat, at most kMostStatBytes
  void (*put_stat)(const struct ::stat&, std::span<std::byte>);  // of stat_bytes
  struct {
    std::uint8_t bytes, data;  // of struct epoll_event: its size, where its data are; its events come first
  } epoll_event;
  // Of open(2), where they differ.
  struct OpenFlags {
    std::uint32_t directory, nofollow, direct, large_file;
  } open;
  // Bits of an address that say nothing of where it is, neither to the processor nor in system calls (Arm: top byte
  // ignored).
  std::uint64_t tag_bits;
  std::uint8_t clone_tls, clone_child_tid;  // which argument of clone(2)

  // What /proc/cpuinfo says of a processor, one of so many.
  struct Processor {
    unsigned number, position, count;  // position: 0 to count-1
    std::string_view model, features;
  };
  std::string (*cpuinfo)(const Processor&);

  static constexpr std::size_t kMostStatBytes = 144;
  // All flags of open(2), as the program has them and as the host's <fcntl.h>. One to one.
  std::uint64_t open_flags_to_host(std::uint64_t) const;
  std::uint64_t open_flags_to_guest(std::uint64_t) const;

  // All zero but for flags: what execve(2) gives, without program counter and stack pointer.
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
  // The program makes its system call again.
  constexpr void repeat_call(UserRegs& r) const { r[reg.pc] -= syscall_length; }
};

// By ELF's number; null: none that ramet knows.
const GuestAbi* find_guest_abi(std::uint32_t elf_machine);

}  // namespace ramet::arch
