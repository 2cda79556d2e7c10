#include "vmm/kvm/kernel_half.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "arch/trap_stub.hpp"
#include "vmm/host_vdso.hpp"

namespace ramet::vmm::kvm {

using mm::Prot;

static_assert(KernelHalf::kHostVdso + kMostHostVdsoBytes <= KernelHalf::kTables);
static_assert(KernelHalf::kHoleGpa >= kMostHostVdsoBytes);

Status KernelHalf::install(mm::AddressSpace& space) {
  space_ = &space;
  const mm::Bank& tables = space.physical().tables();
  base_ = tables.base();
  if (tables.size() > kMaxTables)
    return failure("the guest's page tables do not fit into its kernel half: ask for less memory");
  auto stub = allocate();
  if (!stub) return std::unexpected(stub.error());
  if (!arch::write_stub_page(stub->second, kStubPage)) return failure("the trap stub does not fit into its page");
  auto mapped = space.map_kernel(kTables, base_, tables.size(), Prot::Read | Prot::Write);
  if (mapped) mapped = space.map_kernel(kStubPage, stub->first, mm::kPageSize, Prot::Read | Prot::Exec);
  if (!mapped) return failure(fmt::format("cannot map the trap stub: {}", mm::describe(mapped.error())));
  return {};
}

Status KernelHalf::map_hole() {
  if (auto mapped = space_->map_kernel(kHole, kHoleGpa, mm::kPageSize, Prot::Read | Prot::Write); !mapped)
    return failure(fmt::format("cannot map the way out of the trap stub: {}", mm::describe(mapped.error())));
  return {};
}

Status KernelHalf::map_host_vdso(mm::Gpa at, std::uint64_t data_bytes, std::uint64_t image_bytes) {
  auto mapped = space_->map_for_user(kHostVdso, at, data_bytes, Prot::Read);
  if (mapped)
    mapped = space_->map_for_user(kHostVdso + data_bytes, at + data_bytes, image_bytes, Prot::Read | Prot::Exec);
  if (!mapped) return failure(fmt::format("cannot map the host's vDSO: {}", mm::describe(mapped.error())));
  return {};
}

Status KernelHalf::map_trial(std::span<const std::byte> code) {
  auto page = allocate();
  if (!page) return std::unexpected(page.error());
  std::ranges::copy(code, page->second.begin());
  if (auto mapped = space_->map_for_user(kTrial, page->first, mm::kPageSize, Prot::Read | Prot::Exec); !mapped)
    return failure(fmt::format("cannot map a page to try with: {}", mm::describe(mapped.error())));
  return {};
}

std::expected<KernelHalf::VcpuPage, Failure> KernelHalf::allocate_vcpu_page() {
  auto page = allocate();
  if (!page) return std::unexpected(page.error());
  VcpuPage out{.host = page->second, .address = linear(page->first)};
  arch::write_vcpu_page(out.host, out.address);
  return out;
}

std::expected<std::pair<mm::Gpa, std::span<std::byte>>, Failure> KernelHalf::allocate() {
  auto gpa = space_->allocate_kernel_frame();
  if (!gpa) return failure(fmt::format("no frame for the guest's kernel half: {}", mm::describe(gpa.error())));
  std::byte* host = space_->physical().host(*gpa);
  if (host == nullptr) return failure("a kernel frame lies outside the table bank");
  return std::pair{*gpa, std::span(host, mm::kPageSize)};
}

}  // namespace ramet::vmm::kvm
