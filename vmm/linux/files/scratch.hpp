// The guest's own /tmp, where nothing is shared there: an empty directory of the host that nobody else
// knows, made when a path first leads to it and removed with the guest.
#pragma once

#include <mutex>
#include <string>

#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

class ScratchDirectory {
 public:
  ScratchDirectory() = default;
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  // O_PATH. Invalid if the host has no room for it; the guest then gets EBADF there. Thread-safe.
  const HostFd& directory() const;
  dev_t device() const;  // st_dev of directory(), which it makes as well; 0 where that is invalid
  // Whether something lies in it. While no guest thread runs.
  bool used() const;

 private:
  mutable std::once_flag made_;
  std::string inner() const { return path_ + "/guest"; }
  mutable std::string path_;  // empty: never made
  mutable HostFd root_;
  mutable dev_t device_ = 0;
};

}  // namespace ramet::vmm
