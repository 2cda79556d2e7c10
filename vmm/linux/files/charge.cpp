#include "vmm/linux/files/charge.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/host_fdinfo.hpp"
#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kFileBytes = 1024;       // struct file, inode and directory entry; OpenFile
constexpr int kReservedDescriptors = 128;        // of the host's, for the VMM itself

// Bytes that the file costs the host, or can come to cost.
std::uint64_t cost(const OpenFile& file) {
  std::uint64_t bytes = kFileBytes + file.path.capacity();
  const int host = file.host.get();
  struct stat st;
  if (file.kind == OpenFile::Kind::Pipe) bytes += static_cast<std::uint64_t>(std::max(::fcntl(host, F_GETPIPE_SZ), 0));
  if (file.kind == OpenFile::Kind::Socket) bytes += send_buffer(host);
  if (file.kind == OpenFile::Kind::Synthetic && ::fstat(host, &st) == 0)
    bytes += static_cast<std::uint64_t>(st.st_size);
  return bytes;
}

}  // namespace

bool beyond_descriptors(int host) {
  rlimit limit{};
  return host >= 0 && ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
         static_cast<rlim_t>(host) + kReservedDescriptors >= limit.rlim_cur;
}

bool FileCharge::grow(std::uint64_t bytes) {
  LockGuard guard(lock_);
  return charge_.grow(bytes);
}

bool FileCharge::reserve_entries(int fd, const char* prefix, std::uint64_t more, std::uint64_t each) {
  LockGuard guard(lock_);
  if (listed_ + more > room_) {
    listed_ = host_fdinfo(fd, prefix).size();
    // More than asked for, so that the list is not counted again soon.
    const std::uint64_t wanted = std::max<std::uint64_t>(64, listed_ + listed_ / 2 + more);
    if (wanted > room_) {
      if (!charge_.grow((wanted - room_) * each)) return false;
      room_ = wanted;
    }
  }
  listed_ += more;
  return true;
}

std::uint64_t send_buffer(int host) {
  int bytes = 0;
  socklen_t length = sizeof bytes;
  return ::getsockopt(host, SOL_SOCKET, SO_SNDBUF, &bytes, &length) == 0 ? static_cast<std::uint64_t>(bytes) : 0;
}

bool Files::State::charge(OpenFile& file) const {
  if (file.charged) return true;
  if (beyond_descriptors(file.host.get())) return false;
  auto charge = std::make_shared<FileCharge>(account);
  if (!charge->grow(cost(file))) {
    // As Linux, which gives those who have many pipes the smallest ones.
    if (file.kind != OpenFile::Kind::Pipe || ::fcntl(file.host.get(), F_SETPIPE_SZ, mm::kPageSize) < 0) return false;
    if (!charge->grow(cost(file))) return false;
  }
  file.charged = std::move(charge);
  return true;
}

}  // namespace ramet::vmm
