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

// What a failed memory operation is to a system call: map, unmap, protect, remap, advise.
int errno_of(mm::Error);

// Objects; T is one of the kernel's own structures.
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
// As the last thing a call does: 0 or -EFAULT.
template <class T>
std::int64_t put_user(mm::AddressSpace& as, mm::Gva at, const T& value) {
  return write_user(as, at, value) ? 0 : -EFAULT;
}
// count is checked against limit first (EINVAL).
template <class T>
OrErrno<std::vector<T>> read_user_array(mm::AddressSpace& as, mm::Gva at, std::uint64_t count, std::uint64_t limit) {
  if (count > limit) return err(EINVAL);
  std::vector<T> values(count);
  if (count && !as.read(at, std::as_writable_bytes(std::span(values)))) return err(EFAULT);
  return values;
}
// ENAMETOOLONG past PATH_MAX, EFAULT.
OrErrno<std::string> read_user_path(mm::AddressSpace&, mm::Gva at);

// Guest buffers as host iovecs, to be handed to readv/writev and the like. The memory stays where it is as long as it
// lives. Where the guest has no such memory a piece follows that the host's kernel cannot use either: what it has done
// by then, whether that counts, and whether it needed the memory at all, is the host's to say of each kind of file. At
// most kMaxBytes (Linux's own limit, 0x7ffff000) are taken, and some thousands of pieces. The host kernel returns
// EFAULT by itself should a shared file have shrunk below a piece.
class UserBuffers {
 public:
  static constexpr std::uint64_t kMaxBytes = 0x7ffff000;
  // One buffer. EFAULT: it is not in user memory.
  static OrErrno<UserBuffers> one(mm::AddressSpace&, mm::Gva at, std::uint64_t length, mm::Access);
  // The guest's own array of struct iovec (count at most 1024, else EINVAL). EFAULT also for one of them, as above.
  static OrErrno<UserBuffers> vector(mm::AddressSpace&, mm::Gva iov, std::uint64_t count, mm::Access);
  std::span<const iovec> iov() const { return iov_; }  // for the host's kernel alone
  bool whole() const { return lacking_ == 0; }
  // Copies into them from `offset` on; what does not fit is left out. Errors: EFAULT.
  OrErrno<void> put(std::uint64_t offset, std::span<const std::byte>) const;
  // Copies out of their beginning; precondition: there are so many bytes. Errors: EFAULT.
  OrErrno<void> get(std::span<std::byte>) const;
  std::uint64_t bytes() const { return bytes_; }  // that are there

 private:
  // One guest buffer more. False: it is not there to its end, or one piece too many.
  bool append(mm::AddressSpace&, mm::Gva at, std::uint64_t length, mm::Access);
  void describe();              // fills iov_
  std::vector<iovec> iov_;
  std::vector<mm::HostRange> held_;
  std::uint64_t bytes_ = 0;
  std::uint64_t lacking_ = 0;   // bytes behind them, that are not there
};

}  // namespace ramet::vmm
