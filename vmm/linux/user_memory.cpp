// Access to guest memory from system calls.
#include "vmm/linux/user_memory.hpp"

#include <limits.h>

#include <algorithm>
#include <cerrno>

namespace ramet::vmm {

int errno_of(mm::Error e) {
  switch (e) {
    case mm::Error::NoMemory: return ENOMEM;
    case mm::Error::NotMapped: return ENOMEM;
    case mm::Error::NotPermitted: return EACCES;
    case mm::Error::BeyondEnd: return EFAULT;
    case mm::Error::Invalid: return EINVAL;
    case mm::Error::Exists: return EEXIST;
    case mm::Error::Io: return EIO;
    case mm::Error::Pinned: return EBUSY;
  }
  return EINVAL;
}

OrErrno<std::string> read_user_path(mm::AddressSpace& memory, mm::Gva at) {
  auto path = memory.read_string(at, PATH_MAX - 1);
  if (path) return *path;
  return err(path.error() == mm::Error::Invalid ? ENAMETOOLONG : EFAULT);
}

namespace {

// Pinned, so that it stays where it is while a host call waits and another thread forks. Returns how many bytes of it
// are there.
OrErrno<mm::Pin> pin_buffer(mm::AddressSpace& memory, mm::Gva at, std::uint64_t length, mm::Access access, std::uint64_t& got) {
  constexpr std::uint64_t kSmall = 256 << 10;
  got = length;
  if (length <= kSmall)
    if (auto pin = memory.pin(at, length, access, mm::AddressSpace::PinTerm::Short)) return std::move(*pin);
  // Large, or only partly there: as much as one host call may take.
  std::vector<mm::HostRange> pieces;
  auto there = memory.gather(at, length, access, pieces);
  if (!there) return err(EFAULT);
  got = *there;
  auto pin = memory.pin(at, got, access, mm::AddressSpace::PinTerm::Short);
  if (!pin) return err(EFAULT);
  return std::move(*pin);
}

// Appends the host pieces of one guest buffer; returns how many bytes of it are there.
OrErrno<std::uint64_t> append(mm::AddressSpace& memory, mm::Gva at, std::uint64_t length, mm::Access access,
                              std::vector<iovec>& iov, std::vector<mm::Pin>& pins) {
  if (length == 0) return 0;
  std::uint64_t got = 0;
  auto pin = pin_buffer(memory, at, length, access, got);
  if (!pin) return err(pin.error());
  for (const mm::HostRange& piece : pin->ranges()) {
    // Frames that lie behind each other on the host are one piece to it.
    if (!iov.empty() && static_cast<std::byte*>(iov.back().iov_base) + iov.back().iov_len == piece.bytes.data()) {
      iov.back().iov_len += piece.bytes.size();
    } else {
      iov.push_back({piece.bytes.data(), piece.bytes.size()});
    }
  }
  pins.push_back(std::move(*pin));
  return got;
}

}  // namespace

OrErrno<UserBuffers> UserBuffers::one(mm::AddressSpace& memory, mm::Gva at, std::uint64_t length, mm::Access access) {
  UserBuffers buffers;
  auto got = append(memory, at, std::min(length, kMaxBytes), access, buffers.iov_, buffers.pins_);
  if (!got) return err(got.error());
  buffers.bytes_ = *got;
  return buffers;
}

OrErrno<UserBuffers> UserBuffers::vector(mm::AddressSpace& memory, mm::Gva iov, std::uint64_t count, mm::Access access) {
  struct Segment {
    std::uint64_t base, length;
  };
  auto segments = read_user_array<Segment>(memory, iov, count, 1024);
  if (!segments) return err(segments.error());
  for (const Segment& s : *segments)
    if (static_cast<std::int64_t>(s.length) < 0) return err(EINVAL);
  UserBuffers buffers;
  for (const Segment& s : *segments) {
    std::uint64_t wanted = std::min(s.length, kMaxBytes - buffers.bytes_);
    auto got = append(memory, s.base, wanted, access, buffers.iov_, buffers.pins_);
    if (!got) {
      if (buffers.bytes_ == 0) return err(got.error());
      break;
    }
    buffers.bytes_ += *got;
    if (*got < wanted) break;
  }
  return buffers;
}

}  // namespace ramet::vmm
