// What KVM can do on this host: runs a micro-guest.
#include "vmm/kvm/probe.hpp"

#include <array>

#include "arch/arm64/user_state.hpp"
#include "vmm/kvm/device.hpp"
#include "vmm/kvm/micro_guest.hpp"

namespace ramet::vmm::kvm {

// No module can be loaded: KVM is part of the kernel.
const std::string_view kHowToHaveKvm =
    "the kernel has to be built with CONFIG_KVM and started by its firmware at exception level 2, which a virtual machine without nested "
    "virtualization has not (dmesg | grep -i kvm says which)";

namespace {

constexpr std::array<std::uint32_t, 2> kLoadAndCall = {0xf9400020, 0xd4000001};  // ldr x0, [x1]; svc #0

// Loads the word at kData; the exit is a system call if there was an entry for it.
Exit load(Vcpu& vcpu) {
  vcpu.regs()[arch::arm64::Pc] = MicroGuest::kCode;
  vcpu.regs()[arch::arm64::X0 + 1] = MicroGuest::kData;
  for (;;) {
    Exit e = vcpu.run();
    if (e.kind != Exit::Kind::Kicked) return e;
  }
}

Status try_guest(HostFacts& f, MicroGuest& guest) {
  auto vcpu = guest.vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  guest.load(std::as_bytes(std::span(kLoadAndCall)));
  if (auto table = guest.map(MicroGuest::kData, guest.frame(2), MicroGuest::kUserRw); !table)
    return std::unexpected(table.error());
  const Exit first = load(**vcpu);
  if (first.kind != Exit::Kind::Syscall)
    return failure(first.kind == Exit::Kind::Broken ? first.detail : "a guest of two instructions does not run");
  auto table = guest.map(MicroGuest::kData, 0, MicroGuest::kAbsent);
  if (!table) return std::unexpected(table.error());
  guest.flush(MicroGuest::kData, *table);
  f.flush_works = load(**vcpu).kind == Exit::Kind::PageFault;
  return {};
}

}  // namespace

Status probe_with(HostFacts& f, MicroGuest& guest) {
  const Machine::Features& features = guest.machine->features();
  f.cpu_model = features.model_name;
  f.sets_accessed_dirty = !features.dear_accessed_dirty;
  f.giant_pages = features.giant_pages;
  return try_guest(f, guest);
}

}  // namespace ramet::vmm::kvm
