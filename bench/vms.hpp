// What benchmarks of whole VMs share.
#pragma once

#include <errno.h>

#include <cstdlib>
#include <expected>
#include <iostream>
#include <string>
#include <type_traits>
#include <utility>

#include "bench/ticks.h"
#include "vmm/error.hpp"

namespace ramet::bench {

// Ends the program at once, whatever its other threads do.
[[noreturn]] inline void give_up(const std::string& why) {
  std::cerr << program_invocation_short_name << ": " << why << std::endl;
  std::_Exit(1);
}

template <class T>
T must(std::expected<T, vmm::Failure> r) {
  if (!r) give_up(r.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

// Between two readings of ramet_ticks().
inline double microseconds(std::uint64_t from, std::uint64_t to) {
  static const double us_per_tick = ns_per_tick() / 1e3;
  return double(to - from) * us_per_tick;
}

}  // namespace ramet::bench
