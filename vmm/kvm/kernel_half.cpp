#include "vmm/kvm/kernel_half.hpp"

#include <fmt/format.h>

#include "arch/x86_64/host/cpu_state.hpp"
#include "arch/x86_64/host/stub.hpp"

namespace ramet::vmm::kvm {

using mm::Prot;

Status KernelHalf::install(mm::AddressSpace& space) {
  space_ = &space;
  const mm::Bank& tables = space.memory().tables();
  base_ = tables.base();
  if (tables.size() > kMaxTables) return failure("the guest's page tables do not fit into its kernel half: ask for less memory");
  if (arch::x86_64::stub::size() > arch::x86_64::kIdtOffset) return failure("the trap stub does not fit into its page");
  auto stub = allocate();
  if (!stub) return std::unexpected(stub.error());
  arch::x86_64::write_stub_page(stub->second, kStubPage);
  auto mapped = space.map_kernel(kTables, base_, tables.size(), Prot::Read | Prot::Write);
  if (mapped) mapped = space.map_kernel(kStubPage, stub->first, mm::kPageSize, Prot::Read | Prot::Exec);
  if (!mapped) return failure(fmt::format("cannot map the trap stub: {}", mm::describe(mapped.error())));
  return {};
}

std::expected<KernelHalf::VcpuPage, Failure> KernelHalf::allocate_vcpu_page() {
  auto page = allocate();
  if (!page) return std::unexpected(page.error());
  VcpuPage out{.host = page->second, .address = linear(page->first)};
  arch::x86_64::write_vcpu_page(out.host, out.address);
  return out;
}

std::expected<std::pair<mm::Gpa, std::span<std::byte>>, Failure> KernelHalf::allocate() {
  auto gpa = space_->allocate_kernel_frame();
  if (!gpa) return failure(fmt::format("no frame for the guest's kernel half: {}", mm::describe(gpa.error())));
  std::byte* host = space_->memory().host(*gpa);
  if (host == nullptr) return failure("a kernel frame lies outside the table bank");
  return std::pair{*gpa, std::span(host, mm::kPageSize)};
}

}  // namespace ramet::vmm::kvm
