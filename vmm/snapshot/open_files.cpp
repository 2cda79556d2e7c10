#include "vmm/snapshot/open_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm::snapshot {
namespace {

using Kind = OpenFile::Kind;

// What fcntl(2) tells and open(2) sets.
constexpr int kStatusFlags = O_APPEND | O_NONBLOCK | O_DIRECT | O_SYNC | O_NOATIME;

}  // namespace

// --- saving ---

std::expected<void, std::string> FilesToSave::describe_nameless(const OpenFile& file, FileState& f) {
  switch (file.kind) {
    case Kind::Event:
    case Kind::Timer:
    case Kind::Signal:
    case Kind::Epoll: return describe_event_file(file, f);
    case Kind::Pipe: return pipes_.describe(file, f);
    case Kind::Socket: return std::unexpected("is a socket");
    case Kind::Uring: return std::unexpected("is an io_uring");
    default: return std::unexpected("has no name by which it could be opened again");
  }
}

std::expected<void, std::string> FilesToSave::describe_named(const OpenFile& file, FileState& f) {
  const Files::State& files = first_.process.files.state();
  if (file.kind == Kind::Pipe && !(file.flags & O_PATH))
    return std::unexpected("is a pipe with a name, whose other end may be elsewhere");
  if (file.kind == Kind::GupTest) return std::unexpected("is the device gup_test");
  if (file.charge) return std::unexpected("is a memory file");
  if (first_.process.family.leases->get(file) != F_UNLCK) return std::unexpected("has a lease");
  if (file.mount >= 0 && files.mounts[static_cast<std::size_t>(file.mount)].scratch)
    return std::unexpected("lies in a directory that goes with the program; share one instead (--dir)");
  f.path = file.path;
  auto found = files.find(files.root(), file.path, !(file.flags & O_NOFOLLOW), first_.tid);
  if (!found) return std::unexpected("cannot be found by its path any more");
  if (file.synthetic || file.kind == Kind::Synthetic || file.kind == Kind::Event) return {};
  if (file.kind == Kind::Device && found->synthetic()) return {};  // ours, wherever the host's are
  struct stat st;
  if (::fstat(file.host.get(), &st) != 0 || st.st_dev != found->st.st_dev || st.st_ino != found->st.st_ino)
    return std::unexpected("is another file than its path leads to now");
  f.device = st.st_dev, f.inode = st.st_ino, f.size = static_cast<std::uint64_t>(st.st_size);
  f.modified = vmm::nanoseconds(st.st_mtim);
  if (file.flags & O_PATH) return {};
  const off_t offset = ::lseek(file.host.get(), 0, SEEK_CUR);
  f.offset = offset < 0 ? 0 : offset;
  return {};
}

std::expected<FileState, std::string> FilesToSave::describe(const OpenFile& file) {
  FileState f;
  f.kind = static_cast<int>(file.kind);
  f.standard = file.standard;
  const int status = std::max(::fcntl(file.host.get(), F_GETFL), 0);
  const int flags = file.standard >= 0 ? status & O_NONBLOCK : file.flags | (status & kStatusFlags);
  f.flags = static_cast<int>(first_.abi().open_flags_to_guest(static_cast<unsigned>(flags)));
  if (file.standard < 0) {
    auto described = file.path.empty() ? describe_nameless(file, f) : describe_named(file, f);
    if (!described) return std::unexpected(described.error());
  }
  if (file.listing) {
    LockGuard guard(file.listing->lock);
    if (file.listing->position) f.offset = static_cast<std::int64_t>(kExtraEntries + file.listing->position);
  }
  const FileOwner& owner = *file.owner;
  LockGuard guard(owner.lock);
  const FileOwner::Setting& s = owner.setting;
  const bool async = file.async.watch != nullptr;
  // A copy is saved under the id that the program had first.
  const int id = s.id == first_.process.pid ? state_.pid : s.id;
  if (s.id || s.signal || async) f.owner.push_back({s.type, id, s.real, s.effective, s.signal, s.number, async});
  return f;
}

std::expected<int, std::string> FilesToSave::add(const std::shared_ptr<OpenFile>& file) {
  if (auto found = known_.find(file.get()); found != known_.end()) return found->second;
  auto described = describe(*file);
  if (!described) return std::unexpected(described.error());
  state_.files.push_back(std::move(*described));
  return known_[file.get()] = static_cast<int>(state_.files.size() - 1);
}

std::expected<void, std::string> FilesToSave::add_descriptors() {
  const std::vector<Descriptor> all = first_.process.files.state().descriptors.list();
  const auto refused = [&](const Descriptor& d, const std::string& why) {
    const std::string& path = d.file->path;
    return std::unexpected(
        fmt::format("its descriptor {}{} {}", d.number, path.empty() ? "" : fmt::format(" ({})", path), why));
  };
  for (const Descriptor& d : all) {
    auto index = add(d.file);
    if (!index) return refused(d, index.error());
    state_.descriptors.push_back({d.number, *index, d.close_on_exec});
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    FileState& f = state_.files[static_cast<std::size_t>(state_.descriptors[i].file)];
    if (all[i].file->kind != Kind::Epoll || !f.watches.empty()) continue;
    auto watches = describe_watches(*all[i].file, known_);
    if (!watches) return refused(all[i], watches.error());
    f.watches = std::move(*watches);
  }
  auto taken = pipes_.take_contents();
  return taken ? taken : std::unexpected("it " + taken.error());
}

// --- opening again ---

namespace {

constexpr int kReopenFlags = O_ACCMODE | O_PATH | O_DIRECTORY | O_NOFOLLOW | kStatusFlags;

// The saved owner's id is that of the saved program's process, or of one of its threads.
Status restore_owner(const File& file, Process& process, const FileState& saved,
                     const std::shared_ptr<OpenFile>& opened) {
  if (saved.owner.size() > 1) return impossible(file, "owners of files");
  for (const OwnerState& o : saved.owner) {
    const bool type = o.type == F_OWNER_TID || o.type == F_OWNER_PID || o.type == F_OWNER_PGRP;
    if (!type || o.signal < 0 || o.signal > kSignals || o.number < -1 || o.number >= kMaxDescriptors)
      return impossible(file, "owners of files");
    const bool thread = std::ranges::any_of(file.state().threads, [&](const ThreadState& t) { return t.tid == o.id; });
    const int id = o.id == file.state().pid ? process.pid : o.type == F_OWNER_TID && thread ? o.id : 0;
    if (o.async && can_be_async(*opened))
      if (set_async(process.family, *opened, o.number, true) != 0)
        return failure(
            fmt::format("{} cannot be continued: the host cannot watch a file that has O_ASYNC", file.path()));
    LockGuard guard(opened->owner->lock);
    opened->owner->setting = {o.type, id, o.real, o.effective, o.signal, o.number};
  }
  return {};
}

class FilesToOpen {
 public:
  FilesToOpen(const File& file, Process& process)
      : file_(file), process_(process), pipes_(file, process.files.state()), opened_(file.state().files.size()) {}
  // Returns the same OpenFile for all descriptors of a file. Errors: damaged, or the file cannot be opened again.
  std::expected<std::shared_ptr<OpenFile>, Failure> open(const DescriptorState&);
  Status restore_watches();

 private:
  std::expected<std::shared_ptr<OpenFile>, Failure> open_new(const FileState&, int fd);
  std::expected<std::shared_ptr<OpenFile>, Failure> make(const FileState&);

  const File& file_;
  Process& process_;
  PipesToRestore pipes_;
  std::vector<std::shared_ptr<OpenFile>> opened_;
};

std::expected<std::shared_ptr<OpenFile>, Failure> FilesToOpen::make(const FileState& f) {
  switch (static_cast<Kind>(f.kind)) {
    case Kind::Event:
    case Kind::Timer:
    case Kind::Signal:
    case Kind::Epoll: return make_event_file(file_, process_, f);
    case Kind::Pipe: return pipes_.open(f);
    default: return impossible(file_, "open files");
  }
}

std::expected<std::shared_ptr<OpenFile>, Failure> FilesToOpen::open_new(const FileState& f, int fd) {
  std::shared_ptr<OpenFile> opened;
  if (f.standard >= 0) {
    if (f.standard > 2) return impossible(file_, "descriptors");
    opened = process_.files.get(f.standard);
    if (!opened)
      return failure(
          fmt::format("{} cannot be continued: the program uses its descriptor {}, which is closed", file_.path(), fd));
  } else {
    auto made = f.path.empty() ? make(f) : open_by_path(file_, process_.files.state(), f);
    if (!made) return made;
    opened = std::move(*made);
    if (!process_.files.state().charge(*opened))
      return failure(
          fmt::format("{} cannot be continued: its files are more than the host or --memory allows", file_.path()));
  }
  if (f.path.empty()) {
    const int had = ::fcntl(opened->host.get(), F_GETFL);
    // Standard input, output and error belong to other processes as well: none of their flags is cleared.
    const int wanted = (f.standard < 0 ? had & ~kStatusFlags : had) | (f.flags & kStatusFlags);
    if (had < 0 || (wanted != had && ::fcntl(opened->host.get(), F_SETFL, wanted) != 0))
      return impossible(file_, "open files");
  }
  if (auto owned = restore_owner(file_, process_, f, opened); !owned) return std::unexpected(owned.error());
  return opened;
}

std::expected<std::shared_ptr<OpenFile>, Failure> FilesToOpen::open(const DescriptorState& d) {
  if (!index_ok(d.file, opened_.size()) || d.fd < 0 || d.fd >= kMaxDescriptors) return impossible(file_, "descriptors");
  auto& opened = opened_[static_cast<std::size_t>(d.file)];
  if (opened) return opened;
  auto made = open_new(file_.state().files[static_cast<std::size_t>(d.file)], d.fd);
  if (made) opened = *made;
  return made;
}

Status FilesToOpen::restore_watches() {
  for (std::size_t i = 0; i < opened_.size(); ++i) {
    const FileState& f = file_.state().files[i];
    if (f.watches.empty() || !opened_[i]) continue;
    if (opened_[i]->kind != Kind::Epoll) return impossible(file_, "epoll instances");
    if (auto added = snapshot::restore_watches(file_, *opened_[i], f, opened_); !added) return added;
  }
  return {};
}

}  // namespace

std::expected<std::shared_ptr<OpenFile>, Failure> open_by_path(const File& file, Files::State& files,
                                                               const FileState& saved) {
  const auto cannot = [&](std::string_view why) {
    return failure(
        fmt::format("{} cannot be continued: the program has {} open, which {}", file.path(), saved.path, why));
  };
  auto found = files.find(files.root(), saved.path, !(saved.flags & O_NOFOLLOW), 0);
  if (!found) {
    const bool shared = files.covering_mount(normalised(saved.path)) >= 0;
    return cannot(shared ? fmt::format("cannot be found any more: {}", std::strerror(found.error()))
                         : "is not shared with it now (--dir, --root)");
  }
  const mode_t type = found->st.st_mode;
  if (!found->synthetic() && !S_ISREG(type) && !S_ISDIR(type) && !S_ISCHR(type) && !(saved.flags & O_PATH))
    return cannot("is something else now");
  if (S_ISREG(type) && !found->synthetic()) {
    // What is only read must be as it was; what is written must be the same file.
    const struct stat& st = found->st;
    const bool same = (saved.flags & O_ACCMODE) == O_RDONLY ? static_cast<std::uint64_t>(st.st_size) == saved.size &&
                                                                  vmm::nanoseconds(st.st_mtim) == saved.modified
                                                            : st.st_dev == saved.device && st.st_ino == saved.inode;
    if (!same) return cannot("has changed since");
  }
  auto opened = files.open_found(nullptr, *found, saved.flags & kReopenFlags, 0);
  if (!opened) return cannot(fmt::format("cannot be opened: {}", std::strerror(opened.error())));
  if (static_cast<int>((*opened)->kind) != saved.kind) return cannot("is something else now");
  if ((*opened)->listing && saved.offset > static_cast<std::int64_t>(kExtraEntries)) {
    LockGuard guard((*opened)->listing->lock);
    (*opened)->listing->position = std::min(static_cast<std::uint64_t>(saved.offset) - kExtraEntries, kMaxExtra);
  } else if (saved.offset && !(saved.flags & O_PATH) && (*opened)->host &&
             ::lseek((*opened)->host.get(), saved.offset, SEEK_SET) < 0) {
    return cannot("cannot be read from where the program was");
  }
  return std::move(*opened);
}

Status restore_descriptors(const File& file, Process& process) {
  FilesToOpen files(file, process);
  std::vector<Descriptor> all;
  for (const DescriptorState& d : file.state().descriptors) {
    auto opened = files.open(d);
    if (!opened) return std::unexpected(opened.error());
    all.push_back({d.fd, std::move(*opened), d.close_on_exec});
  }
  if (auto watched = files.restore_watches(); !watched) return watched;
  Descriptors& descriptors = process.files.state().descriptors;
  descriptors.close_all();  // the three that a new program begins with
  for (Descriptor& d : all) descriptors.set(std::move(d));
  return {};
}

}  // namespace ramet::vmm::snapshot
