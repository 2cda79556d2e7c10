#include "arch/arm64/guest_abi.hpp"

#include <elf.h>

#include <cstring>

#include "arch/arm64/fault_signal.hpp"
#include "arch/arm64/signal_frame.hpp"
#include "arch/arm64/stat.hpp"
#include "arch/arm64/user_state.hpp"

namespace ramet::arch::arm64 {
namespace {

// Implementer and part are 0: the guest's processor is not a product of any maker.
std::string cpuinfo(const GuestAbi::Processor& p) {
  std::string out;
  const auto line = [&](const char* name, std::string_view value) {
    out.append(name).append(": ").append(value).append("\n");
  };
  line("processor\t", std::to_string(p.number));
  line("BogoMIPS\t", "100.00");
  line("Features\t", p.features);
  line("CPU implementer\t", "0x00");
  line("CPU architecture", "8");
  line("CPU variant\t", "0x0");
  line("CPU part\t", "0x000");
  line("CPU revision\t", "0");
  return out + "\n";
}

constexpr auto kCalls = [] {
  std::array<Call, kMostCalls> calls;
  for (std::size_t n = 0; n < calls.size(); ++n) calls[n] = Call{static_cast<std::uint16_t>(n)};
#define X(value, name) calls[value] = kNoCall;  // Call's values are x86-64's numbers
#include "arch/calls.inc"
#undef X
#define X(number, name) calls[number] = Call::name;
#include "arch/arm64/calls.inc"
#undef X
  return calls;
}();

}  // namespace

// With addresses of 39 bits, which every machine supports.
const GuestAbi kGuestAbi{
    .name = "arm64",
    .machine = "aarch64",
    .elf_machine = EM_AARCH64,
    .user_end = 0x7f'fc00'0000,
    .processor_end = 1ull << 48,
    .program_base = 0x55'0000'0000,
    .program_spread = 1ull << 30,
    .mmap_top = 0x7f'f000'0000,
    .mmap_spread = 1ull << 32,
    .calls = &kCalls,
    .restart_syscall = 128,
    .reg = {.count = kRegisterCount,
            .pc = Pc,
            .sp = Sp,
            .flags = Pstate,
            .number = X8,
            .result = X0,
            .arguments = {X0, X0 + 1, X0 + 2, X0 + 3, X0 + 4, X0 + 5}},
    .bases = 1,
    .syscall_length = kSyscallLength,
    .step_flag = kStepFlag,
    .user_flags = kUserFlags,
    .fixed_flags = kFixedFlags,
    .is_base = [](std::uint64_t) { return true; },
    .base_end = ~std::uint64_t{0},
    .arch_prctl = [](int) { return std::optional<GuestAbi::BaseAccess>(); },
    .trap = {.page = kClassData,
             .step = kClassStep,
             .bad_return = kClassUnknown,
             .write = kWrite,
             .bad_return_at_sp = true},
    .note_fault = note_fault,
    .page_fault_error = page_fault_error,
    .red_zone = 0,
    .max_frame_bytes = [](const FpFormat&) { return kMaxFrameBytes; },
    .min_signal_stack = 5120,
    .frame_place = [](std::uint64_t sp, const FpFormat&) { return place_frame(sp).frame; },
    .enter_handler = enter_handler,
    .handler_resets_fp = false,
    .leave_handler = leave_handler,
    .stat_bytes = sizeof(Stat),
    .put_stat =
        [](const struct ::stat& st, std::span<std::byte> out) {
          const Stat guest = stat_of(st);
          std::memcpy(out.data(), &guest, sizeof guest);
        },
    .epoll_event = {.bytes = 16, .data = 8},
    .open = {.directory = 0040000, .nofollow = 0100000, .direct = 0200000, .large_file = 0400000},
    .tag_bits = 0xffull << 56,
    .clone_tls = 3,
    .clone_child_tid = 4,
    .cpuinfo = cpuinfo,
};

}  // namespace ramet::arch::arm64
