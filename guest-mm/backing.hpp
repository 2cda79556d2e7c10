// The object behind a region that is not anonymous, such as a file. Implemented by rooms above this one.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "guest-mm/bank.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

class Backing {
 public:
  virtual ~Backing() = default;

  // Bytes the object holds now. Pages wholly beyond it fault with BeyondEnd.
  virtual std::uint64_t size() const = 0;

  // For a fault at `offset` of a private region: size(), or one above `offset` that size() gave before, which saves
  // asking the host. A read() that found less makes it size() again.
  virtual std::uint64_t recent_size(std::uint64_t offset) const {
    (void)offset;
    return size();
  }

  // Private regions: fills dst with the object's bytes from offset on, zeroes past its end.
  // Called with the address-space lock held; must not call back into it. Errors: Io.
  virtual Result<> read(std::uint64_t offset, std::span<std::byte> dst) = 0;

  // Shared regions: the bank whose byte 0 is the object's byte `bank_offset`, so that stores go to the
  // object itself. Null for objects that can only be mapped privately.
  struct Shared {
    std::shared_ptr<Bank> bank;
    std::uint64_t bank_offset = 0;
  };
  virtual Shared shared() const { return {}; }

  // msync(2) of a part of a shared region. Errors: Io.
  virtual Result<> sync(std::uint64_t offset, std::uint64_t length, bool wait) {
    (void)offset, (void)length, (void)wait;
    return {};
  }

  // mincore(2) of pages of the object from offset on: sets bit 0 for those that the host has in memory, of shared and
  // private regions alike, and leaves the others.
  virtual void residency(std::uint64_t offset, std::span<std::uint8_t> out) const { (void)offset, (void)out; }

  // What /proc/self/maps shows: device major/minor, inode and path.
  struct Identity {
    unsigned major = 0, minor = 0;
    std::uint64_t inode = 0;
    std::string path;
  };
  virtual Identity identity() const { return {}; }
};

}  // namespace ramet::mm
