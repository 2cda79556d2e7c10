#include "arch/arm64/guest_abi.hpp"

#include <elf.h>

#include <cstring>

#include "arch/arm64/stat.hpp"
#include "arch/arm64/user_state.hpp"

namespace ramet::arch::arm64 {
namespace {

constexpr auto kCalls = [] {
  std::array<Call, kMostCalls> calls;
  for (std::size_t n = 0; n < calls.size(); ++n) calls[n] = Call{static_cast<std::uint16_t>(n)};
#define X(value, name) calls[value] = kNoCall;  // another's
#include "arch/calls.inc"
#undef X
#define X(number, name) calls[number] = Call::name;
#include "arch/arm64/calls.inc"
#undef X
  return calls;
}();

}  // namespace

// With addresses of 39 bits, which every machine has.
const GuestAbi kGuestAbi{
    .name = "arm64",
    .machine = "aarch64",
    .elf_machine = EM_AARCH64,
    .user_end = 0x7f'fc00'0000,
    .processor_end = 1ull << 48,
    .program_base = 0x55'0000'0000,
    .program_spread = 1ull << 30,
    .calls = &kCalls,
    .restart_syscall = 128,
    .reg = {.count = kRegisterCount, .pc = Pc, .sp = Sp, .flags = Pstate, .number = X8, .result = X0,
            .arguments = {X0, X0 + 1, X0 + 2, X0 + 3, X0 + 4, X0 + 5}},
    .bases = 1,
    .syscall_length = kSyscallLength,
    .step_flag = kStepFlag,
    .user_flags = kUserFlags,
    .fixed_flags = kFixedFlags,
    .is_base = [](std::uint64_t) { return true; },
    .base_end = ~std::uint64_t{0},
    .arch_prctl = [](int) { return std::optional<GuestAbi::BaseAccess>(); },
    // Faults and handlers come with the first machine that runs it.
    .trap = {},
    .page_fault_error = nullptr,
    .red_zone = 0,
    .max_frame_bytes = nullptr,
    .min_signal_stack = 5120,
    .frame_place = nullptr,
    .enter_handler = nullptr,
    .leave_handler = nullptr,
    .stat_bytes = sizeof(Stat),
    .put_stat =
        [](const struct ::stat& st, std::span<std::byte> out) {
          const Stat guest = stat_of(st);
          std::memcpy(out.data(), &guest, sizeof guest);
        },
    .epoll_event = {.bytes = 16, .data = 8},
    .open = {.directory = 0040000, .nofollow = 0100000, .direct = 0200000, .large_file = 0400000},
    .clone_tls = 3,
    .clone_child_tid = 4,
    .cpuinfo = nullptr,  // as above
};

}  // namespace ramet::arch::arm64
