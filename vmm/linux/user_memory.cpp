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

namespace {

// Linux refuses other addresses before it transfers anything.
bool in_user_half(mm::Gva at, std::uint64_t length) {
  return static_cast<std::int64_t>(at) >= 0 &&
         static_cast<std::int64_t>(at + std::min(length, UserBuffers::kMaxBytes)) >= 0;
}

}  // namespace

OrErrno<std::string> read_user_path(mm::AddressSpace& memory, mm::Gva at) {
  auto path = memory.read_string(at, PATH_MAX - 1);
  if (path) return *path;
  return err(path.error() == mm::Error::Invalid ? ENAMETOOLONG : EFAULT);
}

bool UserBuffers::append(mm::AddressSpace& memory, mm::Gva at, std::uint64_t length, mm::Access access) {
  // More than a sensible program has, each of whose buffers may lie in a few pieces.
  constexpr std::size_t kMost = 4 * mm::AddressSpace::kMostPieces;
  if (length == 0) return true;
  if (held_.size() >= kMost) return false;
  const std::uint64_t got = memory.gather(at, length, access, held_).value_or(0);
  bytes_ += got;
  if (got == length) return true;
  std::vector<mm::HostRange> next;
  if (!memory.gather(at + got, 1, access, next)) lacking_ = length - got;
  return false;
}

void UserBuffers::describe() {
  iov_.reserve(held_.size());
  for (const mm::HostRange& piece : held_) {
    // Frames that are adjacent on the host are one piece.
    if (!iov_.empty() && static_cast<std::byte*>(iov_.back().iov_base) + iov_.back().iov_len == piece.bytes.address()) {
      iov_.back().iov_len += piece.bytes.size();
    } else {
      iov_.push_back({piece.bytes.address(), piece.bytes.size()});
    }
  }
  // Page 0, which the VMM has not mapped: the host's kernel faults on it.
  if (lacking_) iov_.push_back({nullptr, std::min<std::uint64_t>(lacking_, mm::kPageSize)});
}

OrErrno<void> UserBuffers::put(std::uint64_t offset, std::span<const std::byte> bytes) const {
  for (const mm::HostRange& piece : held_) {
    if (bytes.empty()) break;
    if (offset >= piece.bytes.size()) {
      offset -= piece.bytes.size();
      continue;
    }
    const std::size_t n = std::min<std::size_t>(piece.bytes.size() - offset, bytes.size());
    if (!piece.bytes.write(offset, bytes.first(n))) return err(EFAULT);
    bytes = bytes.subspan(n);
    offset = 0;
  }
  return {};
}

OrErrno<void> UserBuffers::get(std::span<std::byte> out) const {
  for (const mm::HostRange& piece : held_) {
    const std::size_t n = std::min<std::size_t>(piece.bytes.size(), out.size());
    if (!piece.bytes.read(0, out.first(n))) return err(EFAULT);
    out = out.subspan(n);
  }
  return {};
}

OrErrno<UserBuffers> UserBuffers::one(mm::AddressSpace& memory, mm::Gva at, std::uint64_t length, mm::Access access) {
  if (!in_user_half(at, length)) return err(EFAULT);
  UserBuffers buffers;
  buffers.append(memory, at, std::min(length, kMaxBytes), access);
  buffers.describe();
  return buffers;
}

OrErrno<UserBuffers> UserBuffers::vector(mm::AddressSpace& memory, mm::Gva iov, std::uint64_t count,
                                         mm::Access access) {
  auto segments = read_user_array<GuestIovec>(memory, iov, count, 1024);
  if (!segments) return err(segments.error());
  for (const GuestIovec& s : *segments)
    if (static_cast<std::int64_t>(s.length) < 0) return err(EINVAL);
  for (const GuestIovec& s : *segments)
    if (!in_user_half(s.base, s.length)) return err(EFAULT);
  UserBuffers buffers;
  for (const GuestIovec& s : *segments)
    if (!buffers.append(memory, s.base, std::min(s.length, kMaxBytes - buffers.bytes_), access)) break;
  buffers.describe();
  return buffers;
}

}  // namespace ramet::vmm
