// RLIMIT_FSIZE: how large a thread may make a file.
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

int too_large(Thread& thread) {
  thread.raise(SIGXFSZ);
  return EFBIG;
}

}  // namespace

OrErrno<WriteStart> write_start(const OpenFile& file, std::int64_t offset, int flags) {
  const int host = file.host.get();
  struct stat st;
  if (::fstat(host, &st) != 0) return err(errno);
  if (!S_ISREG(st.st_mode)) return WriteStart{};
  const int status = ::fcntl(host, F_GETFL);
  if (status < 0) return err(errno);
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if ((status & O_APPEND) || (flags & RWF_APPEND)) return WriteStart{.regular = true, .size = size, .at = size};
  if (offset < kCurrentOffset) return err(EINVAL);
  if (offset == kCurrentOffset && (offset = ::lseek(host, 0, SEEK_CUR)) < 0) return err(errno);
  return WriteStart{.regular = true, .size = size, .at = static_cast<std::uint64_t>(offset)};
}

OrErrno<std::uint64_t> room_to_write(Thread& thread, const OpenFile& file, std::int64_t offset, int flags,
                                     std::uint64_t length) {
  const rlim64_t limit = thread.process.limits.soft(RLIMIT_FSIZE);
  if (limit == RLIM64_INFINITY || length == 0) return length;
  auto start = write_start(file, offset, flags);
  if (!start) return err(start.error());
  if (!start->regular) return length;
  if (start->at >= limit) return err(too_large(thread));
  return std::min<std::uint64_t>(length, limit - start->at);
}

std::int64_t refused_size(Thread& thread, const OpenFile& file, std::uint64_t size) {
  const rlim64_t limit = thread.process.limits.soft(RLIMIT_FSIZE);
  if (size <= limit || (file.flags & O_ACCMODE) == O_RDONLY) return 0;  // the host refuses what may not be written
  struct stat st;
  if (::fstat(file.host.get(), &st) != 0) return -errno;
  return S_ISREG(st.st_mode) && size > static_cast<std::uint64_t>(st.st_size) ? -too_large(thread) : 0;
}

void cut_to(std::vector<iovec>& pieces, std::uint64_t bytes) {
  auto piece = pieces.begin();
  for (; piece != pieces.end() && bytes; ++piece) {
    piece->iov_len = std::min<std::uint64_t>(piece->iov_len, bytes);
    bytes -= piece->iov_len;
  }
  pieces.erase(piece, pieces.end());
}

}  // namespace ramet::vmm
