// Pins: guest memory that a device, or the host kernel on its behalf, may read or write at any time.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "guest-mm/address_space.hpp"

namespace ramet::mm {

// Pinned memory: until the pin ends it stays in its frames, which stay this address space's own. The address space
// outlives the pin.
class Pin {
 public:
  Pin() = default;
  Pin(Pin&&) noexcept = default;
  Pin& operator=(Pin&&) noexcept = default;

  // Where it lies in host memory, in the order of guest addresses.
  std::span<const HostRange> ranges() const { return ranges_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  friend class AddressSpace;
  friend class Pinning;
  explicit Pin(std::shared_ptr<Account> account) : charge_(std::move(account)) {}
  // Appends `bytes` of the guest at `at`, which lie in that frame. False: there is no memory for one more piece.
  bool add(Gva at, Gpa frame, std::uint64_t bytes, std::shared_ptr<Bank> keep, PinHold);
  void drop_last();
  Charge charge_;  // of ranges_
  std::vector<HostRange> ranges_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ramet::mm
