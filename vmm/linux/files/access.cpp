// Permissions of guests' ids. The host checks those of the VMM. Where a thread has other ids after setuid(2) and the
// like, the VMM checks them before it asks the host, and chowns to them the files that the thread creates.
#include <fcntl.h>
#include <linux/capability.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

std::shared_ptr<const Credentials> Files::State::restricting(int tid) const {
  if (tid == 0 || !process || !process->other_ids.load(std::memory_order_acquire)) return nullptr;
  LockGuard guard(process->threads_lock);
  const Thread* thread = process->find_thread(tid);
  return thread && thread->credentials() != Credentials::of_vmm() ? thread->credentials() : nullptr;
}

int refused(const Credentials* who, const struct stat& st, unsigned wanted) {
  return who && !may_access(*who, st.st_uid, st.st_gid, st.st_mode, wanted) ? EACCES : 0;
}

int refused(const Credentials* who, const Node& at, unsigned wanted) {
  struct stat st;
  if (!who || !at.fd) return 0;  // nothing is made or removed in /proc and its like
  return ::fstat(at.fd->get(), &st) != 0 ? errno : refused(who, st, wanted);
}

int refused_removal(const Credentials* who, const Node& from, const struct stat& what) {
  struct stat directory;
  if (!who || !from.fd) return 0;
  if (::fstat(from.fd->get(), &directory) != 0) return errno;
  if (int error = refused(who, directory, W_OK | X_OK)) return error;
  const bool sticky = (directory.st_mode & S_ISVTX) && who->user.file != directory.st_uid && !owns(*who, what.st_uid);
  return sticky ? EPERM : 0;
}

int give_to(const Credentials* who, int made, const struct stat& directory) {
  if (!who) return 0;
  const gid_t group = directory.st_mode & S_ISGID ? static_cast<gid_t>(-1)
                                                  : who->group.file;  // with S_ISGID it has the directory's already
  return ::fchownat(made, "", who->user.file, group, AT_EMPTY_PATH) == 0 ? 0 : errno;
}

}  // namespace ramet::vmm
