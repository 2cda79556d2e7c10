// The upper half of a guest's address space: where ring 0 finds the stub, the vCPU pages and the tables.
//
//   kStubPage               the trap stub       ring 0: read and execute   one page, with its other tables (IDT, GDT)
//   kTrial                  see host_clock.cpp  user: read and execute     one page, in the machine that tried
//   kHole                   no memory           ring 0: read and write     one page; some hosts' stubs store there
//   kHostVdso               the host's vDSO     user: read, and execute    data, then image; if user code may call it
//   kTables + (gpa - base)  the table bank      ring 0: read and write     stub page and vCPU pages included
//
// Nothing else is mapped there.
#pragma once

#include <span>

#include "guest-mm/address_space.hpp"
#include "guest-mm/bank.hpp"
#include "vmm/error.hpp"

namespace ramet::vmm::kvm {

class KernelHalf {
 public:
  static constexpr mm::Gva kStubPage = 0xffff'ffff'8000'0000;
  static constexpr mm::Gva kTrial = kStubPage + mm::kPageSize;
  static constexpr mm::Gva kHole = kStubPage + 2 * mm::kPageSize;
  static constexpr mm::Gpa kHoleGpa = mm::Memory::kTableBase - mm::kPageSize;  // below all banks
  static constexpr mm::Gva kHostVdso = kStubPage + mm::kBlockSize / 2;
  static constexpr mm::Gva kTables = kStubPage + mm::kBlockSize;
  static constexpr std::uint64_t kMaxTables = 0ull - kTables - mm::kBlockSize;

  // Maps the stub page and the table bank. Errors: no frames left, table bank larger than kMaxTables.
  Status install(mm::AddressSpace&);
  bool installed() const { return space_ != nullptr; }
  // Errors: no frames left.
  Status map_hole();
  // Map for user code, once each: the host's vDSO, whose data and image KVM shows at that guest-physical address; and
  // a page with that code. Errors: no frames left.
  Status map_host_vdso(mm::Gpa, std::uint64_t data_bytes, std::uint64_t image_bytes);
  Status map_trial(std::span<const std::byte> code);

  // A page for one vCPU, never given back.
  struct VcpuPage {
    std::span<std::byte> host;
    mm::Gva address = 0;
  };
  std::expected<VcpuPage, Failure> allocate_vcpu_page();

  // Where ring 0 sees a page of the table bank.
  mm::Gva linear(mm::Gpa gpa) const { return kTables + (gpa - base_); }
  mm::Gpa root() const { return space_->root(); }

 private:
  std::expected<std::pair<mm::Gpa, std::span<std::byte>>, Failure> allocate();
  mm::AddressSpace* space_ = nullptr;
  mm::Gpa base_ = 0;
};

}  // namespace ramet::vmm::kvm
