// Guest memory as the VMM uses it for system calls.
#pragma once

#include "guest-mm/faults.hpp"

namespace ramet::mm {

class UserMemory {
 public:
  UserMemory(SpaceCore& core, Faults& faults) : core_(core), faults_(faults) {}

  // The leaf of a page that the VMM is about to access, faulted in if need be. Errors: as fault().
  Result<PageTable::Leaf> touch_locked(Gva address, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // The host memory behind `address`, up to `length` bytes as far as it is in one piece.
  struct Piece {
    HostBytes bytes;
    bool object = false;  // of a shared object, not the VM's own or a layer's
    Gpa gpa = 0;
  };
  Result<Piece> piece_locked(Gva address, std::uint64_t length, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);

 private:
  SpaceCore& core_;
  Faults& faults_;
};

}  // namespace ramet::mm
