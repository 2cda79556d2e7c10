#include "vmm/kvm/x86_64/cpuid.hpp"

#include <fmt/format.h>

#include <cstring>
#include <memory>

#include "arch/x86_64/cpuid_names.hpp"
#include "arch/x86_64/host/cpu.hpp"
#include "arch/x86_64/host/cpu_state.hpp"
#include "vmm/kvm/ask_once.hpp"
#include "vmm/kvm/x86_64/ioctl.hpp"

namespace ramet::vmm::kvm {
namespace {

constexpr unsigned kMaxLeaves = 512;
struct LeafList {
  ListHeader header;
  kvm_cpuid_entry2 entries[kMaxLeaves];
};

constexpr std::uint32_t bit(unsigned n) { return 1u << n; }

// Features that need a kernel's help or state that FpState has no room for.
void drop_unserved(kvm_cpuid_entry2& e) {
  if (e.function == 7 && e.index == 0) {
    e.ecx &= ~(bit(3) | bit(4) | bit(7));             // PKU, OSPKE, CET shadow stacks
    e.edx &= ~(bit(20) | bit(22) | bit(24) | bit(25)); // CET branch tracking, AMX
  }
  if (e.function == 7 && e.index == 1) e.eax &= ~bit(21), e.edx &= ~(bit(8) | bit(21));  // AMX, APX
  if (e.function == 0xd && e.index == 0) e.eax &= std::uint32_t(arch::x86_64::kXcr0), e.edx = 0;
  if (e.function == 0xd && e.index == 1) e.eax &= ~bit(3), e.ecx = e.edx = 0;  // supervisor states
  if (e.function == 0xd && e.index >= 2 && (e.index >= 64 || (arch::x86_64::kXcr0 >> e.index & 1) == 0))
    e.eax = e.ebx = e.ecx = e.edx = 0;
}

// Bytes of the standard layout with all of the guest's components: the end of the last one.
std::uint32_t xsave_size(const std::vector<kvm_cpuid_entry2>& leaves, std::uint64_t xcr0) {
  std::uint32_t end = 576;  // legacy area and header
  for (const auto& e : leaves)
    if (e.function == 0xd && e.index >= 2 && e.index < 64 && (xcr0 >> e.index & 1) != 0)
      end = std::max(end, e.ebx + e.eax);
  return end;
}

using Leaves = std::vector<kvm_cpuid_entry2>;

std::expected<Leaves, Failure> supported_leaves(const Device& device) {
  auto list = std::make_unique<LeafList>();
  list->header.count = kMaxLeaves;
  if (int r = call(device.fd, kGetSupportedCpuid, list.get()); r < 0)
    return failure(fmt::format("KVM_GET_SUPPORTED_CPUID: {}", std::strerror(-r)));
  return Leaves(list->entries, list->entries + list->header.count);
}

// The leaves for a host where user code asks the processor itself: they only tell KVM what ring 0 may use, which is
// long mode. KVM_GET_SUPPORTED_CPUID would look up eighty leaves, each an exit to the hypervisor below.
Leaves ring0_leaves(std::uint64_t xcr0) {
  Leaves leaves;
  auto add = [&](std::uint32_t function, std::uint32_t index, bool indexed) -> kvm_cpuid_entry2& {
    const auto a = arch::x86_64::cpuid(function, index);
    leaves.push_back({.function = function,
                      .index = index,
                      .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0u,
                      .eax = a.eax,
                      .ebx = a.ebx,
                      .ecx = a.ecx,
                      .edx = a.edx,
                      .padding = {}});
    return leaves.back();
  };
  add(0, 0, false).eax = 0xd;
  add(1, 0, false).ecx &= bit(13);                     // CMPXCHG16B
  add(0xd, 0, true);
  for (std::uint32_t component = 2; component < 64; component++)
    if ((xcr0 >> component & 1) != 0) add(0xd, component, true);
  add(0x80000000, 0, false).eax = 0x80000008;
  auto& extended = add(0x80000001, 0, false);
  extended.ecx &= bit(0);                               // LAHF in long mode
  extended.edx &= ~bit(26);                             // 1 GiB pages
  add(0x80000008, 0, false);                            // address widths
  return leaves;
}

std::expected<CpuModel, Failure> ask(const Device& device) {
  const auto host = arch::x86_64::host_cpu();
  CpuModel m;
  m.native_ring3 = !host.virtualization;
  if (m.native_ring3) {
    m.leaves = ring0_leaves(host.xcr0 & arch::x86_64::kXcr0);
  } else {
    auto leaves = supported_leaves(device);
    if (!leaves) return std::unexpected(leaves.error());
    m.leaves = std::move(*leaves);
  }
  arch::x86_64::CpuidFeatures f;
  char brand[49] = {};
  std::uint64_t xcr0 = 0;
  for (auto& e : m.leaves) {
    drop_unserved(e);
    if (e.function == 0) m.intel = e.ebx == 0x756e6547;  // "Genu"
    if (e.function == 1) f.leaf1_edx = e.edx, f.leaf1_ecx = e.ecx;
    if (e.function == 7 && e.index == 0) f.leaf7_ebx = e.ebx, f.leaf7_ecx = e.ecx, f.leaf7_edx = e.edx;
    if (e.function == 0xd && e.index == 0) xcr0 = e.eax;
    if (e.function == 0xd && e.index == 1) f.xsave_eax = e.eax;
    if (e.function == 0x80000001) f.extended_edx = e.edx, f.extended_ecx = e.ecx;
    if (e.function >= 0x80000002 && e.function <= 0x80000004)
      std::memcpy(brand + 16 * (e.function - 0x80000002), &e.eax, 16);
  }
  namespace cr4 = arch::x86_64::cr4;
  bool xsave = (f.leaf1_ecx & bit(26)) != 0 && (xcr0 & 3) == 3;
  m.cr4 = cr4::kBase | ((f.leaf7_ebx & bit(0)) != 0 ? cr4::kFsgsbase : 0) | (xsave ? cr4::kOsxsave : 0) |
          ((f.leaf7_ebx & bit(7)) != 0 ? cr4::kSmep : 0) | ((f.leaf7_ecx & bit(2)) != 0 ? cr4::kUmip : 0);
  m.giant_pages = (f.extended_edx & bit(26)) != 0;
  if (m.native_ring3) {
    f = host.features;
    if (!m.giant_pages) f.extended_edx &= ~bit(26);  // the shadowed tables are KVM's business
    xcr0 &= host.xcr0;
    xsave = host.xcr0 != 0;
  }
  m.features.giant_pages = m.giant_pages;
  // One bit is left to hypervisors that use the topmost one themselves.
  const unsigned bits = arch::x86_64::cpuid(0x80000008, 0).eax & 0xff;
  m.features.physical_bits = bits > 41 ? std::min(bits - 1, 46u) : 40;
  m.features.dear_accessed_dirty = m.native_ring3;
  m.features.hwcap = f.leaf1_edx;
  m.features.hwcap2 = (m.cr4 & cr4::kFsgsbase) != 0 ? bit(1) : 0;
  m.features.fp.components = xsave ? xcr0 : 0;
  m.features.fp.bytes = xsave ? xsave_size(m.leaves, xcr0) : 0;
  m.features.model_name = brand[0] != 0 ? brand : "unknown";
  m.features.flags = arch::x86_64::feature_names(f);
  return m;
}

}  // namespace

std::expected<const CpuModel*, Failure> CpuModel::get(const Device& device) {
  return ask_once<CpuModel>([&] { return ask(device); });
}

Status set_cpuid(const HostFd& vcpu, const CpuModel& model, unsigned apic_id) {
  auto list = std::make_unique_for_overwrite<LeafList>();
  list->header = {.count = std::uint32_t(model.leaves.size()), .pad = 0};
  for (std::size_t i = 0; i < model.leaves.size(); i++) {
    auto& e = list->entries[i] = model.leaves[i];
    if (e.function == 1) e.ebx = (e.ebx & 0x00ff'ffff) | (apic_id & 0xff) << 24;
    if (e.function == 0xb || e.function == 0x1f) e.edx = apic_id;
    if (e.function == 0x8000001e) e.eax = apic_id;
  }
  if (int r = call(vcpu, kSetCpuid2, list.get()); r < 0)
    return failure(fmt::format("KVM_SET_CPUID2: {}", std::strerror(-r)));
  return {};
}

}  // namespace ramet::vmm::kvm
