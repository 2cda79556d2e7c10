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
  std::uint64_t bytes() const { return bytes_; }

 private:
  friend class AddressSpace;
  explicit Pin(std::shared_ptr<Account> account) : charge_(std::move(account)) {}
  Charge charge_;                               // of ranges_
  std::vector<HostRange> ranges_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ramet::mm
