#include "guest-mm/memory_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8  // Linux 6.3
#endif

namespace ramet::mm {
namespace {

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

MemoryFile::MemoryFile(int descriptor, bool writable, std::shared_ptr<const void> keep)
    : descriptor_(descriptor), keep_(std::move(keep)), writable_(writable), id_(next_id()) {}

MemoryFile::~MemoryFile() {
  if (!keep_) ::close(descriptor_);
  if (const int other = read_only_.load(std::memory_order_acquire); other >= 0) ::close(other);
}

Result<std::shared_ptr<MemoryFile>> MemoryFile::create(std::uint64_t size) {
  // Not to be executed as a program. Kernels before 6.3 do not know the flag.
  int file = ::memfd_create("ramet-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (file < 0) file = ::memfd_create("ramet-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return fail(Error::NoMemory);
  // No seal against growing, which is harmless, nor against writing, which would forbid punching holes.
  if (::ftruncate(file, static_cast<off_t>(size)) != 0 ||
      ::fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    ::close(file);
    return fail(Error::NoMemory);
  }
  return std::shared_ptr<MemoryFile>(new MemoryFile(file, true, nullptr));
}

std::shared_ptr<MemoryFile> MemoryFile::of(int descriptor, bool writable, std::shared_ptr<const void> keep) {
  return std::shared_ptr<MemoryFile>(new MemoryFile(descriptor, writable, std::move(keep)));
}

Result<int> MemoryFile::read_only() const {
  if (!writable_) return descriptor_;
  int made = read_only_.load(std::memory_order_acquire);
  if (made >= 0) return made;
  const std::string name = "/proc/self/fd/" + std::to_string(descriptor_);
  const int opened = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (opened < 0) return fail(Error::NoMemory);
  if (read_only_.compare_exchange_strong(made, opened, std::memory_order_acq_rel)) return opened;
  ::close(opened);  // another thread has made one
  return made;
}

}  // namespace ramet::mm
