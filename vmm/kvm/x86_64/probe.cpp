// What KVM can do on this host: runs a micro-guest.
#include "vmm/kvm/probe.hpp"

#include <sys/mman.h>

#include <array>
#include <ctime>

#include "arch/x86_64/host/cpu.hpp"
#include "arch/x86_64/user_state.hpp"
#include "vmm/kvm/device.hpp"
#include "vmm/kvm/micro_guest.hpp"

namespace ramet::vmm::kvm {

const std::string_view kHowToHaveKvm =
    "load the kvm module for this processor (modprobe kvm_intel or kvm_amd), or run on a host with hardware virtualization enabled in its firmware";

namespace {

// mov (%rdi),%rax; syscall
constexpr std::array<std::uint8_t, 5> kLoadAndCall = {0x48, 0x8b, 0x07, 0x0f, 0x05};

Exit run(Vcpu& vcpu) {
  for (;;) {
    Exit e = vcpu.run();
    if (e.kind != Exit::Kind::Kicked) return e;
  }
}

// Loads the word at kData; the exit is a system call if there was an entry for it.
Exit load(Vcpu& vcpu) {
  vcpu.regs()[arch::x86_64::Rip] = MicroGuest::kCode;
  vcpu.regs()[arch::x86_64::Rdi] = MicroGuest::kData;
  return run(vcpu);
}

Status try_guest(HostFacts& f, MicroGuest& guest) {
  auto vcpu = guest.vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  guest.load(std::as_bytes(std::span(kLoadAndCall)));
  if (auto table = guest.map(MicroGuest::kData, guest.frame(2), MicroGuest::kUserRw); !table)
    return std::unexpected(table.error());
  Exit first = load(**vcpu);
  if (first.kind != Exit::Kind::Syscall)
    return failure(first.kind == Exit::Kind::Broken ? first.detail : "a guest of two instructions does not run");
  f.syscall_enters_ring0 = !first.by_fault;
  // The entry goes away behind KVM's back. A host that shadows the tables goes on using it.
  auto table = guest.map(MicroGuest::kData, 0, MicroGuest::kAbsent);
  if (!table) return std::unexpected(table.error());
  f.sees_host_writes = load(**vcpu).kind == Exit::Kind::PageFault;
  guest.flush(MicroGuest::kData, *table);
  f.flush_works = load(**vcpu).kind == Exit::Kind::PageFault;
  return {};
}

HostFacts::Clock clock_of(MicroGuest& guest) {
  using namespace arch::x86_64;
  constexpr std::array<std::uint8_t, 4> kCallRaxAndCall = {0xff, 0xd0, 0x0f, 0x05};  // call *%rax; syscall
  const mm::Gva clock_gettime = guest.machine->host_vdso().clock_gettime;
  auto vcpu = guest.vcpu();
  if (!clock_gettime || !vcpu || !guest.map(MicroGuest::kData, guest.frame(2), MicroGuest::kUserRw))
    return HostFacts::Clock::Call;
  guest.load(std::as_bytes(std::span(kCallRaxAndCall)));
  auto& regs = (*vcpu)->regs();
  regs[Rip] = MicroGuest::kCode, regs[Rsp] = MicroGuest::kStack;
  regs[Rax] = clock_gettime, regs[Rdi] = CLOCK_MONOTONIC, regs[Rsi] = MicroGuest::kData;
  const bool called = run(**vcpu).kind == Exit::Kind::Syscall;
  const bool returned = called && regs[Rip] == MicroGuest::kCode + kCallRaxAndCall.size();
  guest.machine->release_vcpu(*vcpu);
  return returned ? HostFacts::Clock::Read : HostFacts::Clock::HostsCall;
}

// Host memory that nobody may touch, behind a guest page.
bool gives_memory_fault_info(MicroGuest& guest) {
  void* host = mmap(nullptr, mm::kBlockSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (host == MAP_FAILED) return false;
  auto bank = guest.memory->add({static_cast<std::byte*>(host), mm::kBlockSize},
                                [host] { munmap(host, mm::kBlockSize); });
  if (!bank) {
    munmap(host, mm::kBlockSize);
    return false;
  }
  bool given = false;
  auto vcpu = guest.vcpu();
  if (vcpu && guest.map(MicroGuest::kData, (*bank)->base(), MicroGuest::kUserRw)) {
    Exit e = load(**vcpu);
    given = e.kind == Exit::Kind::HostFault && e.detail.find("guest-physical address") != e.detail.npos;
  }
  guest.memory->remove(*bank);
  return given;
}

}  // namespace

Status probe_with(HostFacts& f, MicroGuest& guest) {
  if (auto ok = try_guest(f, guest); !ok) return ok;
  f.clock = clock_of(guest);
  f.memory_fault_info = gives_memory_fault_info(guest);
  const auto& features = guest.machine->features();
  std::string flags = " " + features.flags + " ";
  auto has = [&](const char* flag) { return flags.find(" " + std::string(flag) + " ") != flags.npos; };
  f.sse42 = has("sse4_2"), f.avx = has("avx") && (features.fp.components & 4) != 0,
  f.avx512 = has("avx512f") && (features.fp.components & 0x80) != 0;
  f.xsave = features.fp.bytes != 0, f.fsgsbase = (features.hwcap2 & 2) != 0, f.giant_pages = has("pdpe1gb");
  f.cpu_model = features.model_name;
  f.ring3_native = !arch::x86_64::host_cpu().virtualization;
  return {};
}

}  // namespace ramet::vmm::kvm
