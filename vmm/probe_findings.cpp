// The host's facts in words: what each is good for, and what to do where it is missing.
#include <fmt/format.h>

#include "arch/host_processor.hpp"
#include "arch/x86_64/guest_abi.hpp"
#include "vmm/probe.hpp"

namespace ramet::vmm {
namespace {

std::string yes(bool b) { return b ? "yes" : "no"; }

std::string bytes(std::uint64_t n) {
  if (n == ~0ull) return "unlimited";
  return n >= 1ull << 30 ? fmt::format("{} GiB", n >> 30) : fmt::format("{} MiB", n >> 20);
}

constexpr std::uint64_t kEnoughMemlock = 64ull << 20;
constexpr std::uint64_t kEnoughMaps = 65530;
constexpr unsigned kEnoughVcpus = 64, kEnoughSlots = 509;

// `add`: as in findings().
void kvm_findings(const HostFacts& f, const auto& add) {
  const bool x86 = &arch::host_abi() == &arch::x86_64::kGuestAbi;
  if (x86) {
    add("guest code on", f.ring3_native ? "this processor's user mode, shadow page tables (no VMX or SVM here)"
                                        : "hardware virtualization");
    add("SYSCALL", f.syscall_enters_ring0 ? "enters the trap stub" : "stops before the trap stub; served from there");
    add("sees changed page-table entries", f.sees_host_writes ? "at once" : "after a flush");
  } else {
    add("access flag and dirty state", f.sets_accessed_dirty ? "set by the processor" : "set beforehand");
    add("time in guests", "an exit each time");
  }
  add("strict flush", f.flush_works ? "works" : "an old entry stays in use", f.flush_works,
      "KVM on this host uses page-table entries after they were taken away: report this kernel as a bug", true);
  add("virtual CPUs", fmt::format("up to {} a guest", f.max_vcpus), f.max_vcpus >= kEnoughVcpus,
      "guests with many threads cannot start them all: use a kernel with a higher KVM limit");
  add("memory slots", fmt::format("up to {}", f.max_memslots), f.max_memslots >= kEnoughSlots,
      "guests that map many files run out of slots: use Linux 3.12 or later");
  add("guest processor", f.cpu_model);
  if (x86) {
    using Clock = HostFacts::Clock;
    add("time in guests", f.clock == Clock::Read ? "read without an exit" : "an exit each time", f.clock == Clock::Read,
        f.clock == Clock::Call
            ? "programs that often ask for the time are slow: use Linux 5.16 or later, on a processor with RDTSCP"
            : "programs that often ask for the time are slow, natively as well: this host's clock source cannot be read "
              "by programs (/sys/devices/system/clocksource/clocksource0); tsc and kvm-clock can");
    add("memory-fault reports", yes(f.memory_fault_info), true);
    add("SSE4.2 in guests", yes(f.sse42), f.sse42,
        "programs built for x86-64-v2 will not start: give this machine a newer CPU model");
    add("AVX in guests", yes(f.avx), f.avx,
        "programs take their slower paths: give this machine a CPU model with AVX and XSAVE");
    add("AVX-512 in guests", yes(f.avx512));
    add("XSAVE in guests", f.xsave ? "yes" : "no, FXSAVE", true);
    add("FSGSBASE in guests", yes(f.fsgsbase));
  }
  add("1 GiB pages in guests", yes(f.giant_pages));
}

}  // namespace

std::vector<Finding> findings(const HostFacts& f) {
  std::vector<Finding> out;
  const auto add = [&](std::string name, std::string value, bool ok = true, std::string advice = "",
                       bool required = false) {
    out.push_back({std::move(name), std::move(value), ok, required, ok ? "" : std::move(advice)});
  };

  add("KVM", f.kvm ? "usable" : "not usable", f.kvm, f.kvm_problem, !f.process);
  add("confined process", f.process ? "usable" : "not usable", f.process, f.process_problem, !f.kvm);
  if (f.kvm || f.process)
    add("guests run", f.kvm ? "on KVM, or by --machine process in a confined process" : "in a confined process");
  if (f.kvm) kvm_findings(f, add);

  add("userfaultfd", yes(f.userfaultfd), f.userfaultfd,
      "snapshots cannot be restored lazily: build the kernel with CONFIG_USERFAULTFD, or allow the call in the container");
  add("io_uring", yes(f.io_uring), f.io_uring,
      "devices cannot write into pinned guest pages: sysctl kernel.io_uring_disabled=0, or allow the call in the container");
  bool huge = f.huge_anonymous == "always" || f.huge_anonymous == "madvise";
  add("huge pages, anonymous memory", f.huge_anonymous.empty() ? "unknown" : f.huge_anonymous, huge,
      "guest memory gets no 2 MiB pages: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
  bool huge_shared = !f.huge_shared.empty() && f.huge_shared != "never" && f.huge_shared != "deny";
  add("huge pages, shared memory", f.huge_shared.empty() ? "unknown" : f.huge_shared, huge_shared,
      "memory files shared with guests get no 2 MiB pages: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
  add("locked memory", bytes(f.memlock), f.memlock >= kEnoughMemlock,
      "little guest memory can be pinned for devices: raise RLIMIT_MEMLOCK (ulimit -l, or limits.conf)");
  add("mappings of a process", f.max_map_count == 0 ? "unknown" : fmt::format("up to {}", f.max_map_count),
      f.max_map_count >= kEnoughMaps,
      "guests with many shared files run out of mappings: sysctl vm.max_map_count=262144");
  return out;
}

}  // namespace ramet::vmm
