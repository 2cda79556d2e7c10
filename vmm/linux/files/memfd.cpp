// Sizes of files: truncate, ftruncate, fallocate; and memory files, which count against the guest's limit.
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

bool MemoryCharge::grow(std::uint64_t end) {
  if (end <= charged_) return true;
  if (!account_->take(end - charged_)) return false;
  charged_ = end;
  return true;
}

void MemoryCharge::shrink(std::uint64_t end) {
  if (end >= charged_) return;
  account_->give(charged_ - end);
  charged_ = end;
}

namespace {

std::int64_t resize(Thread& thread, const OpenFile& file, std::int64_t size) {
  if (std::int64_t bad = refused_size(thread, file, static_cast<std::uint64_t>(size))) return bad;
  auto& state = state_of(thread);
  auto host = [&] { return result_of(::ftruncate(file.host.get(), size)); };
  if (!file.charge) return truncating(state, file.host.get(), static_cast<std::uint64_t>(size), host);
  LockGuard guard(file.charge->lock);
  if (!file.charge->grow(static_cast<std::uint64_t>(size))) return -ENOSPC;
  std::int64_t result = truncating(state, file.host.get(), static_cast<std::uint64_t>(size), host);
  if (result == 0) file.charge->shrink(static_cast<std::uint64_t>(size));
  return result;
}

OrErrno<std::shared_ptr<OpenFile>> writable_file(Thread& thread, int fd) {
  auto file = thread.process.files.get(fd);
  if (!file || (file->flags & O_PATH)) return err(EBADF);
  return file;
}

std::int64_t sys_ftruncate(Thread& thread, const Args& a) {
  if (a.i64(1) < 0) return -EINVAL;
  auto file = writable_file(thread, a.i32(0));
  if (!file) return -file.error();
  if ((*file)->kind != OpenFile::Kind::File && (*file)->kind != OpenFile::Kind::Stdio) return -EINVAL;
  return resize(thread, **file, a.i64(1));
}

std::int64_t sys_truncate(Thread& thread, const Args& a) {
  if (a.i64(1) < 0) return -EINVAL;
  auto& state = state_of(thread);
  auto found = locate(thread, AT_FDCWD, a[0], 0);
  if (!found) return -found.error();
  if (S_ISDIR(found->st.st_mode)) return -EISDIR;
  if (!S_ISREG(found->st.st_mode)) return -EINVAL;
  auto file = state.open_found(&thread, *found, O_WRONLY, 0);
  if (!file) return file.error() == EINTR ? kRestartSys : -file.error();  // EINTR: while waiting for a lease
  return resize(thread, **file, a.i64(1));
}

std::int64_t sys_fallocate(Thread& thread, const Args& a) {
  auto file = writable_file(thread, a.i32(0));
  if (!file) return -file.error();
  int mode = a.i32(1);
  const std::int64_t offset = a.i64(2), length = a.i64(3);
  if (offset < 0 || length <= 0) return -EINVAL;
  const auto end = checked_sum(offset, length);
  if (!end) return -EFBIG;
  // Those that move a file's bytes to other offsets would have to move them under mappings as well.
  if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) return -EOPNOTSUPP;
  if (!(mode & FALLOC_FL_KEEP_SIZE))
    if (std::int64_t bad = refused_size(thread, **file, static_cast<std::uint64_t>(*end))) return bad;
  std::unique_lock<std::mutex> charged;
  if ((*file)->charge) {
    charged = std::unique_lock((*file)->charge->lock);
    if (!(mode & FALLOC_FL_PUNCH_HOLE) && !(*file)->charge->grow(static_cast<std::uint64_t>(*end))) return -ENOSPC;
  }
  // A signal of the guest interrupts and restarts it; a kick of the vCPU alone does not.
  const std::int64_t result = thread.blocking(SYS_fallocate, static_cast<std::uint64_t>((*file)->host.get()),
                                              static_cast<std::uint64_t>(mode), static_cast<std::uint64_t>(offset),
                                              static_cast<std::uint64_t>(length));
  return restartable(result);
}

std::int64_t sys_memfd_create(Thread& thread, const Args& a) {
  constexpr unsigned kNoexecSeal = 8, kExec = 16;  // MFD_*, newer than some hosts: of no effect here
  unsigned flags = a.u32(1);
  if (flags & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoexecSeal | kExec)) return -EINVAL;
  auto name = thread.memory().read_string(a[0], 249);  // Linux's own limit
  if (!name) return name.error() == mm::Error::Invalid ? -EINVAL : -EFAULT;
  HostFd host(static_cast<int>(::memfd_create(name->c_str(), MFD_CLOEXEC | (flags & MFD_ALLOW_SEALING))));
  if (!host) return -errno;
  auto file = make_file(OpenFile::Kind::File, std::move(host), O_RDWR, "/memfd:" + *name);
  file->writable_mount = true;
  auto& state = state_of(thread);
  file->charge = std::make_shared<MemoryCharge>(state.account);
  auto fd = state.install(std::move(file), flags & MFD_CLOEXEC);
  return fd ? *fd : -fd.error();
}

}  // namespace

std::span<const Definition> memfd_calls() {
  static constexpr Definition kCalls[] = {
      {Call::truncate, sys_truncate},
      {Call::ftruncate, sys_ftruncate},
      {Call::fallocate, sys_fallocate},
      {Call::memfd_create, sys_memfd_create},
  };
  return kCalls;
}

}  // namespace ramet::vmm
