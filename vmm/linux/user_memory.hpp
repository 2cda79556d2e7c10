// Access to guest memory from system calls. Every pointer comes from a hostile program: nothing here
// crashes, and a wrong one gives EFAULT.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {

template <class T>
using OrErrno = std::expected<T, int>;  // a positive errno
inline std::unexpected<int> err(int e) { return std::unexpected<int>(e); }

// The errno of a system call whose map, unmap, protect, remap or advise failed.
int errno_of(mm::Error);

// One object, whose type has the kernel's layout. Errors: EFAULT.
template <class T>
  requires std::is_trivially_copyable_v<T>
OrErrno<T> read_user(mm::AddressSpace& as, mm::Gva at) {
  T value;
  if (!as.read(at, std::as_writable_bytes(std::span(&value, 1)))) return err(EFAULT);
  return value;
}
template <class T>
  requires std::is_trivially_copyable_v<T>
OrErrno<void> write_user(mm::AddressSpace& as, mm::Gva at, const T& value) {
  if (!as.write(at, std::as_bytes(std::span(&value, 1)))) return err(EFAULT);
  return {};
}
// write_user() as the last thing a call does: 0 or -EFAULT.
template <class T>
std::int64_t put_user(mm::AddressSpace& as, mm::Gva at, const T& value) {
  return write_user(as, at, value) ? 0 : -EFAULT;
}
// Errors: EINVAL if count is above limit, EFAULT.
template <class T>
OrErrno<std::vector<T>> read_user_array(mm::AddressSpace& as, mm::Gva at, std::uint64_t count, std::uint64_t limit) {
  if (count > limit) return err(EINVAL);
  std::vector<T> values(count);
  if (count && !as.read(at, std::as_writable_bytes(std::span(values)))) return err(EFAULT);
  return values;
}
// Errors: ENAMETOOLONG past PATH_MAX, EFAULT.
OrErrno<std::string> read_user_path(mm::AddressSpace&, mm::Gva at);

// struct iovec as guests have it.
struct GuestIovec {
  mm::Gva base;
  std::uint64_t length;  // bytes; Linux refuses what is negative as an ssize_t
};

// Guest buffers as host iovecs, for readv(2), writev(2) and the like. The memory stays in place while the object lives.
// Where guest memory ends early, the last iovec is one that the host's kernel faults on: so the host decides, for each
// kind of file, what a transfer returns that has come so far. At most kMaxBytes (Linux's own limit) and
// some 4 * AddressSpace::kMostPieces pieces are taken. Should a shared file have shrunk below a piece, the host's
// kernel returns EFAULT.
class UserBuffers {
 public:
  static constexpr std::uint64_t kMaxBytes = 0x7ffff000;
  // One buffer. Errors: EFAULT if it leaves the user half of the address space.
  static OrErrno<UserBuffers> one(mm::AddressSpace&, mm::Gva at, std::uint64_t length, mm::Access);
  // The guest's array of `count` struct iovec. Errors: EINVAL for more than 1024, or a negative length; EFAULT if the
  // array cannot be read, or one of the buffers is as above.
  static OrErrno<UserBuffers> vector(mm::AddressSpace&, mm::Gva iov, std::uint64_t count, mm::Access);
  std::span<const iovec> iov() const { return iov_; }  // for the host's kernel alone
  bool whole() const { return lacking_ == 0; }  // no guest memory was missing
  // Copies into the buffers from `offset` on; what does not fit is left out. Errors: EFAULT.
  OrErrno<void> put(std::uint64_t offset, std::span<const std::byte>) const;
  // Copies the first bytes out; precondition: bytes() is not less. Errors: EFAULT.
  OrErrno<void> get(std::span<std::byte>) const;
  std::uint64_t bytes() const { return bytes_; }  // of guest memory that is there

 private:
  // Adds a guest buffer. False: a part of its memory is missing, or there are too many pieces.
  bool append(mm::AddressSpace&, mm::Gva at, std::uint64_t length, mm::Access);
  void describe();  // fills iov_
  std::vector<iovec> iov_;
  std::vector<mm::HostRange> held_;
  std::uint64_t bytes_ = 0;
  std::uint64_t lacking_ = 0;  // bytes that are missing behind held_
};

}  // namespace ramet::vmm
