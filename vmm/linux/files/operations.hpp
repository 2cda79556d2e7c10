// FileOperations: what the VMM itself does for an open file, where the host's descriptor is not all there is to it
// (Linux: file_operations). Sockets, rings, signalfds, files of /proc and gup_test are such, each in the room of its
// subject: so files/ knows none of them.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>

#include "guest-mm/types.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

class Thread;
class UserBuffers;
struct OpenFile;

inline constexpr std::int64_t kCurrentOffset = -1;  // at the file's own offset

class FileOperations {
 public:
  virtual ~FileOperations() = default;

  // read(2) and write(2), or pread(2) and pwrite(2) with an offset. Return bytes or -errno. None: the host's descriptor
  // is to do it.
  virtual std::optional<std::int64_t> read(Thread&, const OpenFile&, const UserBuffers&, std::int64_t /*offset*/) {
    return std::nullopt;
  }
  virtual std::optional<std::int64_t> write(Thread&, const OpenFile&, const UserBuffers&, std::int64_t /*offset*/) {
    return std::nullopt;
  }

  // ioctl(2) with a request that not all files have. 0 or more, or -errno.
  virtual std::int64_t ioctl(Thread&, unsigned /*request*/, mm::Gva) { return -ENOTTY; }

  // mmap(2) of `length` bytes at `offset`: the file that is mapped instead of this one; `offset` becomes the offset in
  // it. Null, `offset` unchanged: this file itself. Errors: EINVAL.
  virtual OrErrno<std::shared_ptr<OpenFile>> mapped(std::uint64_t& /*offset*/, std::uint64_t /*length*/) {
    return nullptr;
  }

  // The guest is going to wait until the host's descriptor is ready, in poll(2), select(2) or an epoll.
  virtual void watch() {}
};

}  // namespace ramet::vmm
