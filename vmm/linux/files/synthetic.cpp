// Opening files of /proc, /sys and /dev: the contents that proc/ gives become a memory file of the host.
#include "vmm/linux/files/synthetic.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

// The bytes of a file of /proc, sealed. Opened for reading only, so that the host refuses writes.
OrErrno<HostFd> content_file(const std::string& bytes) {
  HostFd file(static_cast<int>(::memfd_create("proc", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  if (!file) return err(errno);
  for (std::size_t done = 0; done < bytes.size();) {
    ssize_t n = ::pwrite(file.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0) return err(errno);
    done += static_cast<std::size_t>(n);
  }
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return err(errno);
  HostFd reader(::open(fd_path(file.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!reader) return err(errno);
  return reader;
}

}  // namespace

OrErrno<std::shared_ptr<OpenFile>> open_synthetic(Files::State& state, const Found& found, int flags, int tid) {
  const std::string& path = found.node.path;
  auto kept = flags & (O_ACCMODE | O_PATH | O_DIRECTORY);
  if (S_ISDIR(found.st.st_mode)) {
    if ((flags & O_CREAT) || ((flags & O_ACCMODE) != O_RDONLY)) return err(EISDIR);
    auto host = content_file("");
    if (!host) return err(host.error());
    auto file = make_file(OpenFile::Kind::Directory, std::move(*host), kept, path);
    file->synthetic = true;
    return file;
  }
  if (flags & O_DIRECTORY) return err(ENOTDIR);
  if (S_ISLNK(found.st.st_mode) && !(flags & O_PATH)) return err(ELOOP);
  ProcContext context{state, state.process, tid};
  auto entry = proc_lookup(context, path);
  if (!entry) return err(ENOENT);
  if (flags & O_PATH) {
    auto host = content_file("");
    if (!host) return err(host.error());
    return make_file(OpenFile::Kind::Synthetic, std::move(*host), kept, path);
  }
  if (entry->open) return entry->open(*state.process, flags);
  if (entry->type == ProcEntry::Type::Device) {
    HostFd host(::open(entry->target.c_str(), (flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC | O_NOCTTY));
    if (!host) return err(errno);
    bool terminal = entry->minor == 0;
    return make_file(terminal ? OpenFile::Kind::Stdio : OpenFile::Kind::Device, std::move(host), kept, path);
  }
  if (wants_write(flags) && !(entry->mode & 0222)) return err(EACCES);
  if (int error = refused(state.restricting(tid).get(), found.st, wanted_of(flags))) return err(error);
  auto bytes = proc_content(context, path);
  if (!bytes) return err(bytes.error());
  auto host = content_file(*bytes);
  if (!host) return err(host.error());
  auto file = make_file(OpenFile::Kind::Synthetic, std::move(*host), kept, path);
  file->operations = proc_operations();
  return file;
}

void refresh_synthetic(Thread& thread, const OpenFile& file) {
  auto& state = state_of(thread);
  auto bytes = proc_content({state, state.process, thread.tid}, file.path);
  if (!bytes) return;  // of a process that has ended: the file keeps its contents
  struct stat before;
  if (::fstat(file.host.get(), &before) != 0) return;
  const auto had = static_cast<std::uint64_t>(before.st_size);
  if (bytes->size() > had && file.charged && !file.charged->grow(bytes->size() - had)) return;
  auto host = content_file(*bytes);
  const off_t at = ::lseek(file.host.get(), 0, SEEK_CUR);
  // The memory file is sealed, so another one takes its place; reads in progress finish in the old one.
  if (host && at >= 0 && ::lseek(host->get(), at, SEEK_SET) == at) ::dup3(host->get(), file.host.get(), O_CLOEXEC);
}

}  // namespace ramet::vmm
