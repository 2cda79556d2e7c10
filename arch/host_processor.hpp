// What programs see of the processor that this program itself runs on, where nothing is in between.
#pragma once

#include <string>

#include "arch/guest_abi.hpp"
#include "arch/user_state.hpp"

namespace ramet::arch {

struct HostProcessor {
  FpFormat fp;
  std::string model, features;      // as /proc/cpuinfo names them; features are separated by single spaces
};

HostProcessor host_processor();

// Whose programs it runs.
const GuestAbi& host_abi();

}  // namespace ramet::arch
