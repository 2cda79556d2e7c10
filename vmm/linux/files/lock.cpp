// POSIX record locks, and those of open file descriptions.
//
// POSIX locks belong to a process. The host would take all processes of the family for one, so theirs are locks of an
// open file description that each process has for each file it locks, opened anew and used for nothing else: they
// conflict with each other's, with those of other VMMs, and with every lock of the host. Deadlocks are not detected
// (EDEADLK).
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/files/host_fdinfo.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

// The file opened once more, for reading and writing if the host lets us.
OrErrno<std::shared_ptr<LockHolder>> open_again(Files::State& state, int host) {
  const std::string path = fd_path(host);
  for (int access : {O_RDWR, O_WRONLY, O_RDONLY}) {
    HostFd fd(::open(path.c_str(), access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (fd) return std::make_shared<LockHolder>(std::move(fd), std::make_shared<FileCharge>(state.account));
  }
  return err(ENOLCK);
}

// The description that holds the process's locks on the file; opened if there is none yet, and kept if `make`. Errors:
// ENOLCK, those of fstat(2).
OrErrno<std::shared_ptr<LockHolder>> lock_holder(Files::State& state, int host, bool make) {
  struct stat st;
  if (::fstat(host, &st) != 0) return err(errno);
  LockGuard guard(state.locks_lock);
  for (const auto& l : state.locked)
    if (l.device == st.st_dev && l.inode == st.st_ino) return l.holder;
  auto holder = open_again(state, host);
  if (holder && make) state.locked.push_back({st.st_dev, st.st_ino, *holder});
  return holder;
}

// Whether the description holds a lock that begins at lock.l_start.
bool holds(const HostFd& fd, const struct flock& lock) {
  return std::ranges::any_of(host_fdinfo(fd.get(), "lock:"), [&](const std::string& line) {
    long long start;
    return std::sscanf(line.c_str(), " %*[^:]: %*s %*s %*s %*s %*s %lld", &start) == 1 && start == lock.l_start;
  });
}

// The guest process whose lock was in the way; -1: a process of the host.
int owner(Thread& thread, int host, const struct flock& lock) {
  struct stat st;
  if (::fstat(host, &st) != 0) return -1;
  for (const auto& process : thread.process.family.all()) {
    Files::State& state = process->files.state();
    LockGuard guard(state.locks_lock);
    for (const auto& l : state.locked)
      if (l.device == st.st_dev && l.inode == st.st_ino && holds(l.holder->host, lock)) return process->pid;
  }
  return -1;
}

}  // namespace

void Files::State::release_locks(const OpenFile& file) {
  std::vector<Locked> released;  // closed after the lock
  LockGuard guard(locks_lock);
  if (locked.empty()) return;
  struct stat st;
  if (::fstat(file.host.get(), &st) != 0) return;
  auto gone = std::ranges::partition(locked,
                                     [&](const Locked& l) { return l.device != st.st_dev || l.inode != st.st_ino; });
  released.assign(std::make_move_iterator(gone.begin()), std::make_move_iterator(gone.end()));
  locked.erase(gone.begin(), gone.end());
}

std::int64_t lock_call(Thread& thread, const OpenFile& file, int command, mm::Gva at) {
  if (file.flags & O_PATH) return -EBADF;
  auto given = read_user<struct flock>(thread.memory(), at);
  if (!given) return -given.error();
  struct flock& l = *given;
  if (command == F_GETLK && l.l_type != F_RDLCK && l.l_type != F_WRLCK) return -EINVAL;  // F_OFD_GETLK takes F_UNLCK
  int host = file.host.get();
  std::shared_ptr<LockHolder> holder;
  if (command == F_GETLK || command == F_SETLK || command == F_SETLKW) {
    const int access = file.flags & O_ACCMODE;
    const bool wrong_access = (l.l_type == F_RDLCK && access == O_WRONLY) ||
                              (l.l_type == F_WRLCK && access == O_RDONLY);
    if (command != F_GETLK && wrong_access) return -EBADF;
    if (l.l_whence == SEEK_CUR) {  // by the offset of the guest's description
      const off_t current = ::lseek(host, 0, SEEK_CUR);
      if (current < 0) return -errno;
      const auto start = checked_sum<std::int64_t>(l.l_start, current);
      if (!start) return -EOVERFLOW;
      l.l_start = *start;
      l.l_whence = SEEK_SET;
    }
    auto found = lock_holder(state_of(thread), host, command != F_GETLK);
    if (!found) return -found.error();
    holder = std::move(*found);
    host = holder->host.get();
    l.l_pid = 0;
    command = command == F_GETLK ? F_OFD_GETLK : command == F_SETLK ? F_OFD_SETLK : F_OFD_SETLKW;
  }
  // A change inside of a lock splits it in three: two entries more at most, in the list of the file that is locked.
  constexpr std::uint64_t kLockBytes = 256;  // struct file_lock
  const bool all_unlocked = l.l_type == F_UNLCK && l.l_whence == SEEK_SET && l.l_start == 0 && l.l_len == 0;
  const auto& charged = holder ? holder->charged : file.charged;
  if (command != F_OFD_GETLK && !all_unlocked && charged && !charged->reserve_entries(host, "lock:", 2, kLockBytes))
    return -ENOLCK;
  if (command == F_OFD_SETLKW) {
    std::int64_t result = thread.blocking(SYS_fcntl, static_cast<std::uint64_t>(host),
                                          static_cast<std::uint64_t>(command), reinterpret_cast<std::uint64_t>(&l));
    return restartable(result);
  }
  if (::fcntl(host, command, &l) != 0) return -errno;
  if (command != F_OFD_GETLK) return 0;
  if (l.l_type != F_UNLCK) l.l_pid = owner(thread, host, l);
  auto written = write_user(thread.memory(), at, l);
  return written ? 0 : -written.error();
}

}  // namespace ramet::vmm
