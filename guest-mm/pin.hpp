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
  friend class Pinning;
  explicit Pin(std::shared_ptr<Account> account) : charge_(std::move(account)) {}
  // The `bytes` of the guest at `at` in that frame's page, behind those before. False: there is no memory for one more
  // piece.
  bool add(Gva at, Gpa frame, std::uint64_t bytes, std::shared_ptr<Bank> keep, PinHold);
  void drop_last();
  Charge charge_;  // of ranges_
  std::vector<HostRange> ranges_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ramet::mm
