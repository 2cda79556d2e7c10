// Signal frames of x86-64: see signal_frame.hpp.
#include "arch/x86_64/signal_frame.hpp"

#include <cstring>

namespace ramet::arch::x86_64 {
namespace {

constexpr std::uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr std::size_t kMxcsr = 24, kMxcsrMask = 28, kSoftware = 464, kHeader = 512, kLegacy = 512, kHeaderBytes = 64;
constexpr std::uint32_t kDefaultMxcsrMask = 0xffbf;

struct Software {  // struct _fpx_sw_bytes, in the part of the FXSAVE area that the processor leaves alone
  std::uint32_t magic1, extended_size;
  std::uint64_t features;
  std::uint32_t xstate_size;
  std::array<std::uint32_t, 7> padding;
};
static_assert(sizeof(Software) == 48);

template <class T>
T get(const FpState& fp, std::size_t at) {
  T value;
  std::memcpy(&value, fp.area.data() + at, sizeof value);
  return value;
}
template <class T>
void put(FpState& fp, std::size_t at, const T& value) {
  std::memcpy(fp.area.data() + at, &value, sizeof value);
}

}  // namespace

void reset(FpState& fp) {
  fp.area.fill(std::byte{0});
  put<std::uint16_t>(fp, 0, 0x37f);     // control word of x87
  put<std::uint32_t>(fp, kMxcsr, 0x1f80);
  put<std::uint64_t>(fp, kHeader, 3);   // XSTATE_BV: x87 and SSE are in the area, the rest is initial
}

SignalContext save_registers(const UserRegs& r) {
  return {.r8 = r[R8],
          .r9 = r[R9],
          .r10 = r[R10],
          .r11 = r[R11],
          .r12 = r[R12],
          .r13 = r[R13],
          .r14 = r[R14],
          .r15 = r[R15],
          .rdi = r[Rdi],
          .rsi = r[Rsi],
          .rbp = r[Rbp],
          .rbx = r[Rbx],
          .rdx = r[Rdx],
          .rax = r[Rax],
          .rcx = r[Rcx],
          .rsp = r[Rsp],
          .rip = r[Rip],
          .rflags = r[Rflags],
          .cs = kUserCs,
          .gs = 0,
          .fs = 0,
          .ss = kUserSs,
          .error = 0,
          .trap = 0,
          .oldmask = 0,
          .cr2 = 0,
          .fpstate = 0,
          .reserved = {}};
}

UserRegs restore_registers(const SignalContext& c) {
  UserRegs r;
  r[Rax] = c.rax, r[Rbx] = c.rbx, r[Rcx] = c.rcx, r[Rdx] = c.rdx, r[Rsi] = c.rsi, r[Rdi] = c.rdi, r[Rsp] = c.rsp,
  r[Rbp] = c.rbp;
  r[R8] = c.r8, r[R9] = c.r9, r[R10] = c.r10, r[R11] = c.r11, r[R12] = c.r12, r[R13] = c.r13, r[R14] = c.r14,
  r[R15] = c.r15;
  r[Rip] = c.rip, r[Rflags] = sanitize_flags(c.rflags);
  return r;
}

std::span<const std::byte> describe_fp(FpState& fp, std::uint32_t xsave_size, std::uint64_t xcr0) {
  Software software{};
  if (xsave_size) {
    software = {
        .magic1 = kMagic1, .extended_size = xsave_size + 4, .features = xcr0, .xstate_size = xsave_size, .padding = {}};
    // The legacy state is always marked valid, for programs that know only FXSAVE.
    put(fp, kHeader, get<std::uint64_t>(fp, kHeader) | 3);
    put(fp, xsave_size, kMagic2);
  }
  put(fp, kSoftware, software);
  return std::span(fp.area).first(frame_fp_bytes(xsave_size));
}

void sanitize_fp(FpState& fp, std::uint32_t xsave_size, std::uint64_t xcr0, std::uint32_t mxcsr_mask) {
  put(fp, kMxcsr, get<std::uint32_t>(fp, kMxcsr) & (mxcsr_mask ? mxcsr_mask : kDefaultMxcsrMask));
  auto software = get<Software>(fp, kSoftware);
  bool extended = xsave_size && software.magic1 == kMagic1 && software.xstate_size <= xsave_size &&
                  software.xstate_size >= kLegacy + kHeaderBytes &&
                  software.extended_size == software.xstate_size + 4 &&
                  get<std::uint32_t>(fp, software.xstate_size) == kMagic2;
  // Without the extended part, state beyond the legacy part gets its initial value.
  std::uint64_t features = extended ? get<std::uint64_t>(fp, kHeader) & software.features & xcr0 : 3;
  std::memset(fp.area.data() + kHeader, 0, kHeaderBytes);
  put(fp, kHeader, features);
  put(fp, kSoftware, Software{});
}

bool enter_handler(const Handling& h, std::uint64_t sp, const FpFormat& format, UserRegs& regs, FpState& fp,
                   const WriteMemory& write) {
  constexpr std::uint64_t kFlagsOff = kTrapFlag | 0x400 | 0x10000;  // TF, DF, RF: off in a handler
  if (!h.restorer) return false;
  const FramePlace place = place_frame(sp, format.bytes);
  SignalFrame frame{};
  frame.restorer = *h.restorer;
  frame.uc_flags = (format.bytes ? 1u : 0u) | 2u | 4u;  // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
  frame.stack_sp = h.stack.sp;
  frame.stack_flags = h.stack.flags;
  frame.stack_size = h.stack.size;
  frame.context = save_registers(regs);
  frame.context.error = h.fault.error;
  frame.context.trap = h.fault.trap;
  frame.context.oldmask = h.mask;
  frame.context.cr2 = h.fault.address;
  frame.context.fpstate = place.fp;
  frame.mask = h.mask;
  std::memcpy(frame.info.data(), h.info.data(), h.info.size());

  if (!write(place.fp, describe_fp(fp, format.bytes, format.components))) return false;
  if (!write(place.frame, std::as_bytes(std::span(&frame, 1)))) return false;

  regs[Rdi] = static_cast<std::uint64_t>(h.signal);
  regs[Rsi] = place.frame + offsetof(SignalFrame, info);
  regs[Rdx] = place.frame + offsetof(SignalFrame, uc_flags);
  regs[Rax] = 0;
  regs[Rsp] = place.frame;
  regs[Rip] = h.handler;
  regs[Rflags] &= ~kFlagsOff;
  return true;
}

std::optional<Returned> leave_handler(const UserRegs& regs, const FpFormat& format, FpState& fp,
                                      const ReadMemory& read) {
  // The handler's RET took the restorer's address off the stack.
  SignalFrame frame;
  if (!read(regs[Rsp] - sizeof frame.restorer, std::as_writable_bytes(std::span(&frame, 1)))) return std::nullopt;
  if (const std::uint64_t at = frame.context.fpstate; !at) {
    reset(fp);
  } else {
    const auto mxcsr_mask = get<std::uint32_t>(fp, kMxcsrMask);
    fp = {};
    const auto area = std::span(fp.area);
    // A frame that a program made itself may hold the FXSAVE part only.
    if (!read(at, area.first(frame_fp_bytes(format.bytes))) && !read(at, area.first(kLegacy))) return std::nullopt;
    sanitize_fp(fp, format.bytes, format.components, mxcsr_mask);
  }
  return Returned{.regs = restore_registers(frame.context),
                  .mask = frame.mask,
                  .stack = {.sp = frame.stack_sp, .size = frame.stack_size, .flags = frame.stack_flags}};
}

}  // namespace ramet::arch::x86_64
