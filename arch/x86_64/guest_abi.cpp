#include "arch/x86_64/guest_abi.hpp"

#include <elf.h>

#include <cstring>

#include "arch/x86_64/fault_signal.hpp"
#include "arch/x86_64/signal_frame.hpp"
#include "arch/x86_64/stat.hpp"
#include "arch/x86_64/user_state.hpp"

namespace ramet::arch::x86_64 {
namespace {

// The other codes are for CPUID faulting, shadow stacks and features by permission.
std::optional<GuestAbi::BaseAccess> arch_prctl(int code) {
  constexpr int kSetGs = 0x1001, kSetFs = 0x1002, kGetFs = 0x1003, kGetGs = 0x1004;
  switch (code) {
    case kSetGs: return {{.base = GsBase, .set = true}};
    case kSetFs: return {{.base = FsBase, .set = true}};
    case kGetFs: return {{.base = FsBase, .set = false}};
    case kGetGs: return {{.base = GsBase, .set = false}};
    default: return std::nullopt;
  }
}

std::string cpuinfo(const GuestAbi::Processor& p) {
  const auto made_by = [&](const char* name) { return p.model.find(name) != p.model.npos; };
  std::string out;
  const auto line = [&](const char* name, std::string_view value) {
    out.append(name).append(": ").append(value).append("\n");
  };
  line("processor\t", std::to_string(p.number));
  line("vendor_id\t", made_by("AMD") ? "AuthenticAMD" : made_by("Intel") ? "GenuineIntel" : "unknown");
  line("model name\t", p.model);
  line("cpu MHz\t\t", "1000.000");
  line("physical id\t", "0");
  line("siblings\t", std::to_string(p.count));
  line("core id\t\t", std::to_string(p.position));
  line("cpu cores\t", std::to_string(p.count));
  line("fpu\t\t", "yes");
  line("flags\t\t", p.features);
  line("clflush size\t", "64");
  line("cache_alignment\t", "64");
  line("address sizes\t", "40 bits physical, 48 bits virtual");
  return out + "\n";
}

constexpr auto kCalls = [] {
  std::array<Call, kMostCalls> calls;
  for (std::size_t n = 0; n < calls.size(); ++n) calls[n] = Call{static_cast<std::uint16_t>(n)};
  return calls;
}();

}  // namespace

const GuestAbi kGuestAbi{
    .name = "x86-64",
    .machine = "x86_64",
    .elf_machine = EM_X86_64,
    .user_end = kUserEnd,
    .processor_end = 1ull << 47,
    .program_base = 0x5500'0000'0000,
    .program_spread = 1ull << 38,
    .mmap_top = 0x7fff'f000'0000,
    .mmap_spread = 1ull << 36,
    .calls = &kCalls,
    .restart_syscall = static_cast<std::uint32_t>(Call::restart_syscall),
    .reg = {.count = kRegisterCount,
            .pc = Rip,
            .sp = Rsp,
            .flags = Rflags,
            .number = Rax,
            .result = Rax,
            .arguments = {Rdi, Rsi, Rdx, R10, R8, R9}},
    .bases = 2,
    .syscall_length = kSyscallLength,
    .step_flag = kTrapFlag,
    .user_flags = kUserFlags,
    .fixed_flags = kFixedFlags,
    .is_base = is_canonical,
    .base_end = kUserEnd,
    .arch_prctl = arch_prctl,
    .trap = {.page = kVectorPageFault,
             .step = kVectorDebug,
             .bad_return = kVectorProtection,
             .write = 2,
             .bad_return_at_sp = false},
    .note_fault = note_fault,
    .page_fault_error = page_fault_error,
    .red_zone = kRedZone,
    .max_frame_bytes = [](const FpFormat& fp) { return max_frame_bytes(fp.bytes); },
    .min_signal_stack = 2048,
    .frame_place = [](std::uint64_t sp, const FpFormat& fp) { return place_frame(sp, fp.bytes).frame; },
    .enter_handler = enter_handler,
    .handler_resets_fp = true,
    .leave_handler = leave_handler,
    .stat_bytes = sizeof(Stat),
    .put_stat =
        [](const struct ::stat& st, std::span<std::byte> out) {
          const Stat guest = stat_of(st);
          std::memcpy(out.data(), &guest, sizeof guest);
        },
    .epoll_event = {.bytes = 12, .data = 4},
    .open = {.directory = 0200000, .nofollow = 0400000, .direct = 0040000, .large_file = 0100000},
    .tag_bits = 0,
    .clone_tls = 4,
    .clone_child_tid = 3,
    .cpuinfo = cpuinfo,
};

}  // namespace ramet::arch::x86_64
