// Pins: guest memory that a device, or the host kernel on its behalf, may read or write at any time.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "guest-mm/address_space.hpp"

namespace ramet::mm {

// Memory that stays where it is, and this address space's own, until the pin goes. The address space outlives it.
class Pin {
 public:
  Pin() = default;
  Pin(Pin&&) noexcept = default;
  Pin& operator=(Pin&&) noexcept = default;

  // Where it lies on the host, in order.
  std::span<const HostRange> ranges() const { return ranges_; }

 private:
  friend class AddressSpace;
  explicit Pin(std::vector<HostRange> ranges) : ranges_(std::move(ranges)) {}
  std::vector<HostRange> ranges_;
};

}  // namespace ramet::mm
