// The frame that Linux puts on an x86-64 program's stack when it runs a signal handler, byte for byte
// (struct rt_sigframe; its layout is user ABI). Programs read and edit it, unwinders parse it.
//
//   higher   red zone, 128 bytes below the interrupted stack pointer (or the top of the alternate stack)
//            XSAVE area, 64-byte aligned, its length + 4 bytes of closing magic
//            SignalFrame, so that the stack pointer is 8 below a multiple of 16, as after a CALL
//   lower
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "arch/signal_frame.hpp"
#include "arch/x86_64/user_state.hpp"

namespace ramet::arch::x86_64 {

struct SignalContext {  // struct sigcontext
  std::uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
  std::uint16_t cs, gs, fs, ss;
  std::uint64_t error, trap, oldmask, cr2;
  std::uint64_t fpstate;
  std::array<std::uint64_t, 8> reserved;
};
struct SignalFrame {
  std::uint64_t restorer;
  std::uint64_t uc_flags, uc_link;
  std::uint64_t stack_sp;
  std::int32_t stack_flags;
  std::uint32_t stack_pad;
  std::uint64_t stack_size;
  SignalContext context;
  std::uint64_t mask;
  std::array<std::byte, 128> info;  // siginfo_t
};
static_assert(sizeof(SignalContext) == 256 && offsetof(SignalFrame, context) == 48);
static_assert(offsetof(SignalFrame, mask) == 304 && offsetof(SignalFrame, info) == 312 && sizeof(SignalFrame) == 440);

inline constexpr std::uint64_t kRedZone = 128;

// Where the two pieces go below `sp` (red zone already left out). Wraps for a tiny sp: writing then fails.
struct FramePlace {
  std::uint64_t fp, frame;
};
// Bytes of the floating-point piece; xsave_size 0 means FXSAVE only.
constexpr std::uint64_t frame_fp_bytes(std::uint32_t xsave_size) { return xsave_size ? xsave_size + 4u : 512u; }
constexpr FramePlace place_frame(std::uint64_t sp, std::uint32_t xsave_size) {
  std::uint64_t fp = (sp - frame_fp_bytes(xsave_size)) & ~std::uint64_t{63};
  return {fp, ((fp - sizeof(SignalFrame)) & ~std::uint64_t{15}) - 8};
}
// AT_MINSIGSTKSZ: what a handler's frame takes at most.
constexpr std::uint64_t max_frame_bytes(std::uint32_t xsave_size) {
  return kRedZone + frame_fp_bytes(xsave_size) + 63 + sizeof(SignalFrame) + 15 + 8;
}

// Registers into the frame and back. restore_registers() sanitises everything that user code may not choose, but keeps
// an instruction pointer that is not canonical: the caller checks it before it resumes the thread.
SignalContext save_registers(const UserRegs&);
UserRegs restore_registers(const SignalContext&);

// Adds Linux's description (magic numbers, sizes, features) to a state in the processor's format; returns the bytes
// that go into the frame.
std::span<const std::byte> describe_fp(FpState&, std::uint32_t xsave_size, std::uint64_t xcr0);
// Removes the description from a state read from a frame: `fp` holds frame_fp_bytes() of hostile bytes and becomes a
// state that the processor accepts. `mxcsr_mask`: of the processor (bytes 28-31 of a saved area; 0 means 0xffbf).
void sanitize_fp(FpState& fp, std::uint32_t xsave_size, std::uint64_t xcr0, std::uint32_t mxcsr_mask);

// See GuestAbi.
bool enter_handler(const Handling&, std::uint64_t sp, const FpFormat&, UserRegs&, FpState&, const WriteMemory&);
std::optional<Returned> leave_handler(const UserRegs&, const FpFormat&, FpState&, const ReadMemory&);

}  // namespace ramet::arch::x86_64
