// execve and execveat: another program in the same process.
//
// The new program is loaded into a microVM of its own while the old one still stands, so whatever is wrong with it is
// found before the point of no return.
#include <fcntl.h>

#include <cerrno>
#include <string>
#include <vector>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/program/loader.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kMaxString = 32 * mm::kPageSize;  // MAX_ARG_STRLEN
constexpr std::uint64_t kMaxStrings = Limits::kStackBytes / 4;

// argv or envp. `bytes`: how much both may still take; what was read is subtracted. Errors: EFAULT, E2BIG.
OrErrno<std::vector<std::string>> read_strings(Thread& thread, mm::Gva at, std::uint64_t& bytes) {
  std::vector<std::string> strings;
  if (!at) return strings;
  for (;; at += sizeof(std::uint64_t)) {
    auto pointer = read_user<std::uint64_t>(thread.memory(), at);
    if (!pointer) return err(EFAULT);
    if (!*pointer) return strings;
    auto text = thread.memory().read_string(*pointer, kMaxString - 1);
    if (!text) return err(text.error() == mm::Error::Invalid ? E2BIG : EFAULT);
    const std::uint64_t taken = text->size() + 1 + sizeof(std::uint64_t);
    if (taken > bytes) return err(E2BIG);
    bytes -= taken;
    strings.push_back(std::move(*text));
  }
}

// Opens it with the VMM's rights: who may execute a file need not be allowed to read it.
OrErrno<std::shared_ptr<OpenFile>> open_to_run(Thread& thread, Found& found) {
  auto& state = state_of(thread);
  if (int error = refused(state.restricting(thread.tid).get(), found.st, X_OK)) return err(error);
  return state.open_found(nullptr, found, O_RDONLY, 0);
}

// The file to run, opened as the guest may open it.
OrErrno<std::shared_ptr<OpenFile>> open_program(Thread& thread, int dirfd, const std::string& path, int flags) {
  auto& state = state_of(thread);
  if (path.empty()) {
    if (!(flags & AT_EMPTY_PATH)) return err(ENOENT);
    Found found;
    found.file = dirfd == AT_FDCWD ? state.working_directory() : state.get(dirfd);
    if (!found.file) return err(EBADF);
    if (found.file->kind != OpenFile::Kind::File) return err(EACCES);
    auto st = stat_of(state, *found.file);
    if (!st) return err(st.error());
    found.st = *st;
    return open_to_run(thread, found);
  }
  auto base = state.base(dirfd, path);
  if (!base) return err(base.error());
  auto found = state.find(*base, path, !(flags & AT_SYMLINK_NOFOLLOW), thread.tid);
  if (!found) return err(found.error());
  if (S_ISLNK(found->st.st_mode)) return err(ELOOP);
  if (!S_ISREG(found->st.st_mode) || found->synthetic()) return err(EACCES);
  return open_to_run(thread, *found);
}

void reset_signals(Thread& thread) {
  ProcessSignals& signals = thread.process.signals;
  LockGuard guard(signals.lock);
  for (SignalAction& action : signals.actions) action = {.handler = action.handler == 1 ? 1u : 0u};
  thread.process.generation_signal.store(0, std::memory_order_relaxed);
  thread.signals.altstack = {.flags = SS_DISABLE};
  thread.signals.saved_mask.reset();
}

std::int64_t execute(Thread& thread, int dirfd, mm::Gva path_at, mm::Gva argv, mm::Gva envp, int flags) {
  if (flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) return -EINVAL;
  Process& process = thread.process;
  auto path = read_user_path(thread.memory(), path_at);
  if (!path) return -path.error();
  std::uint64_t room = kMaxStrings;
  auto arguments = read_strings(thread, argv, room);
  if (!arguments) return -arguments.error();
  auto environment = read_strings(thread, envp, room);
  if (!environment) return -environment.error();
  if (arguments->empty()) arguments->emplace_back();  // as Linux since 5.18
  auto file = open_program(thread, dirfd, *path, flags);
  if (!file) return -file.error();
  std::string name = *path;
  if (dirfd != AT_FDCWD && !name.starts_with('/'))
    name = "/dev/fd/" + std::to_string(dirfd) + (name.empty() ? "" : "/" + name);

  auto shell = thread.image().shell->another();
  if (!shell) return -(shell.error().error ? shell.error().error : ENOMEM);
  auto image = std::make_shared<Image>(process.family.pooled(std::move(*shell)));
  auto start = load(process, *image, std::move(*file), name, *arguments, *environment, Limits::kStackBytes);
  if (!start) return start.error().error ? -start.error().error : -EIO;
  image->machine().will_run(image->executable);
  auto vcpu = image->machine().acquire_vcpu();
  if (!vcpu) return -ENOMEM;

  const std::string comm = name.substr(name.rfind('/') + 1).substr(0, 15);
  const auto& machine = image->shell;
  if (!process.become(thread, image, **vcpu)) {
    machine->machine().release_vcpu(*vcpu);
    return -EAGAIN;  // nobody sees it: the thread ends
  }
  thread.start_at(start->pc, start->sp);
  thread.set_name(comm);
  thread.set_credentials(thread.credentials()->executed());
  thread.restart = nullptr;
  reset_signals(thread);
  process.timers->remove_posix();
  process.files.close_on_exec();
  process.family.executed(process.pid);
  return kNoResult;
}

std::int64_t sys_execve(Thread& thread, const Args& a) { return execute(thread, AT_FDCWD, a[0], a[1], a[2], 0); }
std::int64_t sys_execveat(Thread& thread, const Args& a) {
  return execute(thread, a.i32(0), a[1], a[2], a[3], a.i32(4));
}

}  // namespace

std::span<const Definition> exec_calls() {
  static constexpr Definition kCalls[] = {
      {Call::execve, sys_execve},
      {Call::execveat, sys_execveat},
  };
  return kCalls;
}

}  // namespace ramet::vmm
