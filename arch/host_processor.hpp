// The host's processor, as guest programs see it that run on it directly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "arch/guest_abi.hpp"
#include "arch/user_state.hpp"

namespace ramet::arch {

struct HostProcessor {
  FpFormat fp;
  std::uint64_t hwcap = 0, hwcap2 = 0;  // AT_HWCAP, AT_HWCAP2
  std::string model, features;      // as /proc/cpuinfo names them; features are separated by single spaces
};

HostProcessor host_processor();

// The ABI of the host's own programs.
const GuestAbi& host_abi();
// The vDSO of those programs, at most VDSO_PAGE bytes.
std::span<const std::byte> host_vdso_image();

}  // namespace ramet::arch
