// KVM's ioctls as the kernel numbers them. Some kernel headers give structures that end in a flexible
// array another size in C++ than in C, and the size is part of the number: those are spelled out here.
#pragma once

#include <cstdint>

#include "vmm/kvm/ioctl.hpp"

namespace ramet::vmm::kvm {

struct ListHeader {
  std::uint32_t count = 0, pad = 0;
};
struct XsaveArea {
  std::uint32_t region[1024];
};
inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, ListHeader);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, ListHeader);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, ListHeader);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, ListHeader);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, XsaveArea);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveArea);

template <unsigned N>
struct MsrList {
  ListHeader header{.count = N, .pad = 0};
  kvm_msr_entry entries[N]{};
};

}  // namespace ramet::vmm::kvm
