// The descriptor table: open files by number, and the calls that only move them about.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

OpenFile::OpenFile() = default;
OpenFile::~OpenFile() = default;

std::shared_ptr<OpenFile> make_file(OpenFile::Kind kind, HostFd host, int flags, std::string path) {
  auto file = std::make_shared<OpenFile>();
  file->kind = kind;
  file->host = std::move(host);
  file->flags = flags;
  file->path = std::move(path);
  if (kind == OpenFile::Kind::Directory) file->listing = std::make_shared<OpenFile::Listing>();
  return file;
}

bool may_block(const OpenFile& file) {
  switch (file.kind) {
    case OpenFile::Kind::File:
    case OpenFile::Kind::Directory:
    case OpenFile::Kind::Synthetic: return false;
    default: return true;
  }
}

// RLIMIT_NOFILE, within what the table can hold.
std::size_t Files::State::descriptor_limit() const {
  if (!process) return kMaxDescriptors;
  return std::min<rlim64_t>(process->limits.soft(RLIMIT_NOFILE), kMaxDescriptors);
}

OrErrno<int> Files::State::install(std::shared_ptr<OpenFile> file, bool close_on_exec, int from) {
  const std::size_t limit = descriptor_limit();
  if (!charge(*file)) return err(ENFILE);
  if (from < 0 || static_cast<std::size_t>(from) >= limit) return err(from == 0 ? EMFILE : EINVAL);
  return descriptors.install(std::move(file), close_on_exec, static_cast<std::size_t>(from), limit);
}

OrErrno<Files::State::Reserved> Files::State::reserve() {
  const auto number = descriptors.reserve(descriptor_limit());
  if (!number) return err(number.error());
  return Reserved(*this, *number);
}

int Files::State::Reserved::put(std::shared_ptr<OpenFile> file, bool close_on_exec) && {
  std::exchange(state_, nullptr)->descriptors.set({fd_, std::move(file), close_on_exec});
  return fd_;
}

Files::State::Reserved::~Reserved() {
  if (state_) state_->descriptors.give_back(fd_);
}

OrErrno<std::array<int, 2>> Files::State::install_pair(std::shared_ptr<OpenFile> a, std::shared_ptr<OpenFile> b,
                                                       bool close_on_exec) {
  if (!charge(*a) || !charge(*b)) return err(ENFILE);
  return descriptors.install_pair(std::move(a), std::move(b), close_on_exec, descriptor_limit());
}

bool Files::State::close(int fd) {
  const auto file = descriptors.close(fd);
  if (file) release_locks(*file);
  return file != nullptr;
}

mode_t Files::State::masked(mode_t mode) const {
  LockGuard guard(lock);
  return mode & ~umask.value_or(host_umask());
}

std::shared_ptr<OpenFile> Files::State::working_directory() const {
  LockGuard guard(lock);
  return cwd;
}

void Files::attach_stdio(int in, int out, int err_) {
  const int host[] = {in, out, err_};
  for (int fd = 0; fd < 3; ++fd) {
    std::shared_ptr<OpenFile> file;
    if (host[fd] >= 0) {
      HostFd copy(::fcntl(host[fd], F_DUPFD_CLOEXEC, 0));
      int flags = copy ? ::fcntl(copy.get(), F_GETFL) : -1;
      if (flags >= 0) file = make_file(OpenFile::Kind::Stdio, std::move(copy), flags & O_ACCMODE);
      if (file) {
        file->standard = fd;
        (void)state_->charge(*file);  // nothing was charged before it
      }
    }
    state_->descriptors.set({fd, std::move(file)});
  }
}

Files::State::State() = default;

Files::State::State(const State& parent)
    : descriptors(parent.descriptors), all_mounts(parent.all_mounts), naming(parent.naming), mapped(parent.mapped),
      mappings(parent.mappings), account(parent.account), devices(std::make_shared<Devices>(*parent.devices)) {
  LockGuard guard(parent.lock);
  cwd = parent.cwd;
  umask = parent.umask;
}

Files Files::fork() const { return Files(std::make_unique<State>(*state_)); }

void Files::close_on_exec() {
  for (const auto& file : state_->descriptors.exec()) state_->release_locks(*file);
}

void Files::close_all() {
  state_->descriptors.close_all();
  LockGuard guard(state_->locks_lock);
  state_->locked.clear();
}

std::shared_ptr<OpenFile> Files::get(int fd) const { return state_->get(fd); }

bool Files::holds(const OpenFile& file) const { return state_->descriptors.holds(file); }

bool Files::close(int fd) { return state_->close(fd); }

OrErrno<int> Files::install(std::shared_ptr<OpenFile> file, bool close_on_exec, int from) {
  return state_->install(std::move(file), close_on_exec, from);
}

Files::State& state_of(Thread& thread) { return thread.process.files.state(); }

namespace {

std::int64_t sys_close(Thread& thread, const Args& a) { return state_of(thread).close(a.i32(0)) ? 0 : -EBADF; }

std::int64_t sys_close_range(Thread& thread, const Args& a) {
  constexpr unsigned kUnshare = 2, kCloexec = 4;  // CLOSE_RANGE_*; the table has one owner already
  std::uint64_t first = a.u32(0), last = a.u32(1);
  unsigned flags = a.u32(2);
  if ((flags & ~(kUnshare | kCloexec)) || first > last) return -EINVAL;
  auto& state = state_of(thread);
  if (flags & kCloexec) {
    state.descriptors.close_range_on_exec(first, last);
    return 0;
  }
  for (const auto& file : state.descriptors.close_range(first, last)) state.release_locks(*file);
  return 0;
}

std::int64_t sys_dup(Thread& thread, const Args& a) {
  auto file = state_of(thread).get(a.i32(0));
  if (!file) return -EBADF;
  auto fd = state_of(thread).install(std::move(file), false);
  return fd ? *fd : -fd.error();
}

std::int64_t dup_to(Thread& thread, unsigned from, unsigned to, bool close_on_exec) {
  auto& state = state_of(thread);
  const auto replaced = state.descriptors.duplicate(from, to, close_on_exec, state.descriptor_limit());
  if (!replaced) return -replaced.error();
  if (*replaced) state.release_locks(**replaced);
  return to;
}

std::int64_t sys_dup2(Thread& thread, const Args& a) {
  if (a.u32(0) == a.u32(1)) return state_of(thread).get(a.i32(0)) ? a.i32(0) : -EBADF;
  return dup_to(thread, a.u32(0), a.u32(1), false);
}

std::int64_t sys_dup3(Thread& thread, const Args& a) {
  if ((a.u32(2) & ~unsigned(O_CLOEXEC)) || a.u32(0) == a.u32(1)) return -EINVAL;
  return dup_to(thread, a.u32(0), a.u32(1), a.u32(2) & O_CLOEXEC);
}

std::int64_t sys_umask(Thread& thread, const Args& a) {
  auto& state = state_of(thread);
  LockGuard guard(state.lock);
  return std::exchange(state.umask, a.u32(0) & 0777).value_or(state.host_umask());
}

}  // namespace

std::span<const Definition> descriptor_calls() {
  static constexpr Definition kCalls[] = {
      {Call::close, sys_close}, {Call::close_range, sys_close_range},
      {Call::dup, sys_dup},     {Call::dup2, sys_dup2},
      {Call::dup3, sys_dup3},   {Call::umask, sys_umask},
  };
  return kCalls;
}

}  // namespace ramet::vmm
