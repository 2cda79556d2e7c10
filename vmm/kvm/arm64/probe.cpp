// What KVM can do on this host: runs a guest of a few instructions.
#include "vmm/kvm/probe.hpp"

#include <fmt/format.h>

#include <array>

#include "arch/arm64/user_state.hpp"
#include "guest-mm/address_space.hpp"
#include "vmm/kvm/arm64/machine.hpp"

namespace ramet::vmm::kvm {
namespace {

using mm::Prot;

constexpr mm::Gva kCode = 0x400000, kData = 0x600000;
constexpr std::array<std::uint32_t, 2> kLoadAndCall = {0xf9400020, 0xd4000001};  // ldr x0, [x1]; svc #0

Exit load(Vcpu& vcpu) {
  vcpu.regs()[arch::arm64::Pc] = kCode;
  vcpu.regs()[arch::arm64::X0 + 1] = kData;
  for (;;) {
    Exit e = vcpu.run();
    if (e.kind != Exit::Kind::Kicked) return e;
  }
}

// On through faults that the address space settles.
Exit load_mapped(Vcpu& vcpu, mm::AddressSpace& space) {
  for (;;) {
    Exit e = load(vcpu);
    if (e.kind != Exit::Kind::PageFault || !space.fault(e.address, e.access)) return e;
  }
}

Status try_guest(HostFacts& f, KvmMachine& machine) {
  auto memory = mm::Memory::create({.data_bytes = 8ull << 20, .table_bytes = 2ull << 20});
  if (!memory || !(*memory)->observe(machine)) return failure("no memory for a guest to try with");
  mm::AddressSpace::Config config;
  config.format = machine.needs().format;
  config.end = machine.abi().user_end, config.mmap_top = machine.abi().mmap_top;
  config.eager_accessed_dirty = machine.features().dear_accessed_dirty;
  auto space = mm::AddressSpace::create(config, **memory, machine);
  if (!space) return failure(fmt::format("no address space for a guest to try with: {}", mm::describe(space.error())));
  auto ok = machine.attach(**space);
  if (!ok) return ok;
  const auto page = [&](mm::Gva at) {
    return (*space)->map({.address = at, .length = mm::kPageSize, .prot = Prot::Read | Prot::Write, .fixed = true}).has_value();
  };
  if (!page(kCode) || !page(kData) || !(*space)->write(kCode, std::as_bytes(std::span(kLoadAndCall))) ||
      !(*space)->protect(kCode, mm::kPageSize, Prot::Read | Prot::Exec))
    return failure("no pages for a guest to try with");
  auto vcpu = machine.acquire_vcpu();
  if (!vcpu) {
    ok = std::unexpected(vcpu.error());
  } else {
    const Exit first = load_mapped(**vcpu, **space);
    if (first.kind != Exit::Kind::Syscall) ok = failure(first.kind == Exit::Kind::Broken ? first.detail : "a guest of two instructions does not run");
    else if (!(*space)->unmap(kData, mm::kPageSize)) ok = failure("a page of a guest to try with cannot be taken away");
    else f.flush_works = load(**vcpu).kind == Exit::Kind::PageFault;
    machine.release_vcpu(*vcpu);
  }
  space->reset();
  (*memory)->unobserve();
  return ok;
}

}  // namespace

void probe_kvm(HostFacts& f, const std::string& path) {
  auto device = Device::open(path);
  if (!device) {
    f.kvm_problem = device.error().message;
    return;
  }
  f.max_vcpus = unsigned(device->capability(KVM_CAP_MAX_VCPUS));
  f.max_memslots = unsigned(device->capability(KVM_CAP_NR_MEMSLOTS));
  auto machine = KvmMachine::create(path);
  if (!machine) {
    f.kvm_problem = machine.error().message;
    return;
  }
  const Machine::Features& features = (*machine)->features();
  f.cpu_model = features.model_name;
  f.sets_accessed_dirty = !features.dear_accessed_dirty;
  f.giant_pages = features.giant_pages;
  if (auto ok = try_guest(f, **machine); !ok) {
    f.kvm_problem = ok.error().message;
    return;
  }
  f.kvm = true;
}

}  // namespace ramet::vmm::kvm
