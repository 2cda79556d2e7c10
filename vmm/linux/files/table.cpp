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

std::shared_ptr<OpenFile> Files::State::get(int fd) const {
  LockGuard guard(lock);
  if (fd < 0 || static_cast<std::size_t>(fd) >= slots.size()) return nullptr;
  return slots[static_cast<std::size_t>(fd)].file;
}

namespace {

// Lowest free number at or above `from`, the table grown to hold it; -1 from `limit` on. Table locked.
int free_slot(std::vector<Files::State::Slot>& slots, int from, std::size_t limit) {
  auto n = static_cast<std::size_t>(from);
  while (n < slots.size() && (slots[n].file || slots[n].reserved)) ++n;
  if (n >= limit) return -1;
  if (n >= slots.size()) slots.resize(n + 1);
  return static_cast<int>(n);
}

}  // namespace

// RLIMIT_NOFILE, within what the table can hold.
std::size_t Files::State::descriptor_limit() const {
  if (!process) return kMaxDescriptors;
  return std::min<rlim64_t>(process->limits.soft(RLIMIT_NOFILE), kMaxDescriptors);
}

OrErrno<int> Files::State::install(std::shared_ptr<OpenFile> file, bool close_on_exec, int from) {
  const std::size_t limit = descriptor_limit();
  if (!charge(*file)) return err(ENFILE);
  if (from < 0 || static_cast<std::size_t>(from) >= limit) return err(from == 0 ? EMFILE : EINVAL);
  LockGuard guard(lock);
  int fd = free_slot(slots, from, limit);
  if (fd < 0) return err(EMFILE);
  slots[static_cast<std::size_t>(fd)] = {std::move(file), close_on_exec};
  return fd;
}

OrErrno<Files::State::Reserved> Files::State::reserve() {
  const std::size_t limit = descriptor_limit();
  LockGuard guard(lock);
  const int fd = free_slot(slots, 0, limit);
  if (fd < 0) return err(EMFILE);
  slots[static_cast<std::size_t>(fd)].reserved = true;
  return Reserved(*this, fd);
}

int Files::State::Reserved::put(std::shared_ptr<OpenFile> file, bool close_on_exec) && {
  State& state = *std::exchange(state_, nullptr);
  LockGuard guard(state.lock);
  state.slots[static_cast<std::size_t>(fd_)] = {std::move(file), close_on_exec};
  return fd_;
}

Files::State::Reserved::~Reserved() {
  if (!state_) return;
  LockGuard guard(state_->lock);
  state_->slots[static_cast<std::size_t>(fd_)] = {};
}

OrErrno<std::array<int, 2>> Files::State::install_pair(std::shared_ptr<OpenFile> a, std::shared_ptr<OpenFile> b,
                                                       bool close_on_exec) {
  const std::size_t limit = descriptor_limit();
  if (!charge(*a) || !charge(*b)) return err(ENFILE);
  LockGuard guard(lock);
  int first = free_slot(slots, 0, limit);
  if (first < 0) return err(EMFILE);
  int second = free_slot(slots, first + 1, limit);
  if (second < 0) return err(EMFILE);
  slots[static_cast<std::size_t>(first)] = {std::move(a), close_on_exec};
  slots[static_cast<std::size_t>(second)] = {std::move(b), close_on_exec};
  return std::array{first, second};
}

bool Files::State::close(int fd) {
  std::shared_ptr<OpenFile> file;  // gone after the table is free again: a host's close may take long
  {
    LockGuard guard(lock);
    auto n = static_cast<std::size_t>(fd);
    if (fd < 0 || n >= slots.size() || !slots[n].file) return false;
    file = std::move(slots[n].file);
    slots[n] = {};
  }
  release_locks(*file);
  return true;
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
    LockGuard guard(state_->lock);
    if (state_->slots.size() < 3) state_->slots.resize(3);
    std::swap(state_->slots[static_cast<std::size_t>(fd)].file, file);
  }
}

Files::State::State() = default;

Files::State::State(const State& parent)
    : all_mounts(parent.all_mounts), naming(parent.naming), mapped(parent.mapped), mappings(parent.mappings),
      account(parent.account), devices(std::make_shared<Devices>(*parent.devices)) {
  LockGuard guard(parent.lock);
  slots = parent.slots;
  for (Slot& slot : slots) slot.reserved = false;  // by threads of the parent's
  cwd = parent.cwd;
  umask = parent.umask;
}

Files Files::fork() const { return Files(std::make_unique<State>(*state_)); }

void Files::close_on_exec() {
  std::vector<std::shared_ptr<OpenFile>> closed;
  {
    LockGuard guard(state_->lock);
    for (State::Slot& slot : state_->slots)
      if (slot.close_on_exec) closed.push_back(std::move(std::exchange(slot, {}).file));
  }
  for (const auto& file : closed)
    if (file) state_->release_locks(*file);
}

void Files::close_all() {
  std::vector<State::Slot> closed;
  {
    LockGuard guard(state_->lock);
    closed.swap(state_->slots);
  }
  LockGuard guard(state_->locks_lock);
  state_->locked.clear();
}

std::shared_ptr<OpenFile> Files::get(int fd) const { return state_->get(fd); }

bool Files::holds(const OpenFile& file) const {
  LockGuard guard(state_->lock);
  return std::ranges::any_of(state_->slots, [&](const State::Slot& slot) { return slot.file.get() == &file; });
}

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
  std::vector<std::shared_ptr<OpenFile>> closed;
  {
    LockGuard guard(state.lock);
    for (std::uint64_t fd = first; fd <= last && fd < state.slots.size(); ++fd) {
      if (!state.slots[fd].file) continue;
      if (flags & kCloexec) {
        state.slots[fd].close_on_exec = true;
      } else {
        closed.push_back(std::move(state.slots[fd].file));
        state.slots[fd] = {};
      }
    }
  }
  for (const auto& file : closed) state.release_locks(*file);
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
  std::shared_ptr<OpenFile> replaced;
  const std::size_t limit = state.descriptor_limit();
  {
    LockGuard guard(state.lock);
    if (from >= state.slots.size() || !state.slots[from].file || to >= limit) return -EBADF;
    if (to >= state.slots.size()) state.slots.resize(to + 1);
    if (state.slots[to].reserved) return -EBUSY;
    replaced = std::exchange(state.slots[to].file, state.slots[from].file);
    state.slots[to].close_on_exec = close_on_exec;
  }
  if (replaced) state.release_locks(*replaced);
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
