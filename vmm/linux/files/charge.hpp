// What open files cost the host besides guest memory: objects of the kernel and the VMM, what a pipe or a socket may
// hold, contents of /proc, and lists that the host's kernel keeps for a descriptor. It counts against the limit of the
// family's shared memory.
#pragma once

#include <cstdint>
#include <memory>

#include "guest-mm/account.hpp"
#include "guest-mm/thread_annotations.hpp"

namespace ramet::vmm {

// Of one open file, or of both ends of a pipe. Thread-safe.
class FileCharge {
 public:
  explicit FileCharge(std::shared_ptr<mm::Account> account) : charge_(std::move(account)) {}
  // False: the family's limit is reached.
  [[nodiscard]] bool grow(std::uint64_t bytes) RAMET_EXCLUDES(lock_);
  // Charges `more` entries of `each` bytes in a list that the host's kernel keeps for the descriptor. The list's length
  // is the number of lines of /proc/self/fdinfo/`fd` that begin with `prefix`; it is counted again only when what was
  // charged is used up, as entries go without our hearing of it. False: as grow().
  [[nodiscard]] bool reserve_entries(int fd, const char* prefix, std::uint64_t more, std::uint64_t each)
      RAMET_EXCLUDES(lock_);

 private:
  Mutex lock_;
  mm::Charge charge_ RAMET_GUARDED_BY(lock_);
  std::uint64_t listed_ RAMET_GUARDED_BY(lock_) = 0;  // the list has at most so many entries
  std::uint64_t room_ RAMET_GUARDED_BY(lock_) = 0;  // entries that are charged
};

// Whether a host descriptor is too high to be a guest's: the last numbers below RLIMIT_NOFILE are kept for the VMM. The
// host gives the lowest free number.
bool beyond_descriptors(int host);

}  // namespace ramet::vmm
