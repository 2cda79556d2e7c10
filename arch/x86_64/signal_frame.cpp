// Signal frames of x86-64: see signal_frame.hpp.
#include "arch/x86_64/signal_frame.hpp"

#include <cstring>

namespace ramet::arch::x86_64 {
namespace {

constexpr std::uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr std::size_t kMxcsr = 24, kSoftware = 464, kHeader = 512, kLegacy = 512, kHeaderBytes = 64;
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

SignalContext save_registers(const UserRegs& r) {
  return {.r8 = r[R8], .r9 = r[R9], .r10 = r[R10], .r11 = r[R11], .r12 = r[R12], .r13 = r[R13], .r14 = r[R14], .r15 = r[R15],
          .rdi = r[Rdi], .rsi = r[Rsi], .rbp = r[Rbp], .rbx = r[Rbx], .rdx = r[Rdx], .rax = r[Rax], .rcx = r[Rcx],
          .rsp = r[Rsp], .rip = r[Rip], .rflags = r[Rflags], .cs = kUserCs, .gs = 0, .fs = 0, .ss = kUserSs,
          .error = 0, .trap = 0, .oldmask = 0, .cr2 = 0, .fpstate = 0, .reserved = {}};
}

UserRegs restore_registers(const SignalContext& c) {
  UserRegs r;
  r[Rax] = c.rax, r[Rbx] = c.rbx, r[Rcx] = c.rcx, r[Rdx] = c.rdx, r[Rsi] = c.rsi, r[Rdi] = c.rdi, r[Rsp] = c.rsp, r[Rbp] = c.rbp;
  r[R8] = c.r8, r[R9] = c.r9, r[R10] = c.r10, r[R11] = c.r11, r[R12] = c.r12, r[R13] = c.r13, r[R14] = c.r14, r[R15] = c.r15;
  r[Rip] = c.rip, r[Rflags] = sanitize_flags(c.rflags);
  return r;
}

std::span<const std::byte> describe_fp(FpState& fp, std::uint32_t xsave_size, std::uint64_t xcr0) {
  Software software{};
  if (xsave_size) {
    software = {.magic1 = kMagic1, .extended_size = xsave_size + 4, .features = xcr0, .xstate_size = xsave_size, .padding = {}};
    // The legacy state is always in the area, so programs that know only FXSAVE find it valid.
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
  // Without the extended part, what lies beyond the legacy state goes to its initial value.
  std::uint64_t features = extended ? get<std::uint64_t>(fp, kHeader) & software.features & xcr0 : 3;
  std::memset(fp.area.data() + kHeader, 0, kHeaderBytes);
  put(fp, kHeader, features);
  put(fp, kSoftware, Software{});
}

}  // namespace ramet::arch::x86_64
