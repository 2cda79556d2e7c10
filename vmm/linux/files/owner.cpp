#include "vmm/linux/files/owner.hpp"

#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <vector>

#include "vmm/linux/files/async.hpp"
#include "vmm/linux/files/charge.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

FileOwner::Setting setting_of(const FileOwner& owner) RAMET_EXCLUDES(owner.lock) {
  LockGuard guard(owner.lock);
  return owner.setting;
}

void set_owner_locked(FileOwner& owner, const Credentials& by, int type, int id) RAMET_REQUIRES(owner.lock) {
  FileOwner::Setting& s = owner.setting;
  s.type = type, s.id = id;
  s.real = by.user.real, s.effective = by.user.effective;
}

std::int64_t set_owner(Thread& thread, OpenFile& file, int type, int id) {
  if (id != 0 && !thread.process.family.in_use(id)) return -ESRCH;
  LockGuard guard(file.owner->lock);
  set_owner_locked(*file.owner, *thread.credentials(), type, id);
  return 0;
}

// F_SETOWN's argument: a process, or a group if it is negative.
std::int64_t set_owner(Thread& thread, OpenFile& file, int who) {
  if (who == INT_MIN) return -EINVAL;
  return who < 0 ? set_owner(thread, file, F_OWNER_PGRP, -who) : set_owner(thread, file, F_OWNER_PID, who);
}

// The owner as F_GETOWN_EX shows it; pid 0: there is none, or it has gone.
f_owner_ex owner_of(Thread& thread, const OpenFile& file) {
  const auto s = setting_of(*file.owner);
  Family& family = thread.process.family;
  const bool there = s.type == F_OWNER_TID   ? family.find_by_thread(s.id) != nullptr
                     : s.type == F_OWNER_PID ? family.exists(s.id)
                                             : !family.group(s.id).empty();
  return {static_cast<decltype(f_owner_ex::type)>(s.type), there ? s.id : 0};
}

// F_GETOWN's result: negative for a group.
int owner_number(Thread& thread, const OpenFile& file) {
  const f_owner_ex owner = owner_of(thread, file);
  return owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
}

// As Linux's sigio_perm() has it: CAP_KILL does not count, being root does.
bool may_tell(const FileOwner::Setting& s, const Credentials& target) {
  const auto is_target = [&](unsigned user) { return user == target.user.real || user == target.user.saved; };
  return s.effective == 0 || is_target(s.effective) || is_target(s.real);
}

// Signals whose positive si_codes mean something of their own.
constexpr SignalSet kWithOwnCodes = bit_of(SIGILL) | bit_of(SIGFPE) | bit_of(SIGSEGV) | bit_of(SIGBUS) |
                                    bit_of(SIGTRAP) | bit_of(SIGCHLD) | bit_of(SIGSYS);

siginfo_t told_by(const FileOwner::Setting& s, int reason) {
  static constexpr std::array<long, 6> kBands{  // of POLL_IN and those that follow
                                              POLLIN | POLLRDNORM,           POLLOUT | POLLWRNORM | POLLWRBAND,
                                              POLLIN | POLLRDNORM | POLLMSG, POLLERR,
                                              POLLPRI | POLLRDBAND,          POLLHUP | POLLERR};
  siginfo_t info{};
  info.si_signo = s.signal;
  info.si_code = kWithOwnCodes & bit_of(s.signal) ? SI_SIGIO : reason;
  info.si_band = kBands[static_cast<std::size_t>(reason - POLL_IN)];
  info.si_fd = s.number;
  return info;
}

}  // namespace

void tell_owner(Family& family, const FileOwner& owner, int reason) {
  const auto s = setting_of(owner);
  if (s.id == 0) return;
  std::vector<std::shared_ptr<Process>> owners;
  if (s.type == F_OWNER_PGRP) owners = family.group(s.id);
  else if (auto one = s.type == F_OWNER_TID ? family.find_by_thread(s.id) : family.find(s.id))
    owners.push_back(std::move(one));
  const auto send = [&](Process& to, const siginfo_t& info) {
    return s.type == F_OWNER_TID ? send_to_thread(to, s.id, info) : send_to_process(to, info);
  };
  for (const auto& to : owners) {
    if (!may_tell(s, *to->credentials())) continue;
    if (s.signal != 0 && send(*to, told_by(s, reason)) == 0) continue;
    siginfo_t plain{};  // also where the queue is full
    plain.si_signo = SIGIO;
    plain.si_code = SI_KERNEL;
    (void)send(*to, plain);  // fails if the process has gone
  }
}

std::int64_t owner_call(Thread& thread, OpenFile& file, int command, std::uint64_t argument) {
  switch (command) {
    case F_SETOWN: return set_owner(thread, file, static_cast<int>(argument));
    case F_GETOWN:
      thread.set_result(
          static_cast<std::uint64_t>(std::int64_t{owner_number(thread, file)}));  // a group's is negative, but no error
      return kNoResult;
    case F_SETOWN_EX: {
      auto owner = read_user<f_owner_ex>(thread.memory(), argument);
      if (!owner) return -owner.error();
      if (owner->type != F_OWNER_TID && owner->type != F_OWNER_PID && owner->type != F_OWNER_PGRP) return -EINVAL;
      return set_owner(thread, file, owner->type, owner->pid);
    }
    case F_GETOWN_EX: return put_user(thread.memory(), argument, owner_of(thread, file));
    case F_SETSIG: {
      if (argument > static_cast<std::uint64_t>(kSignals)) return -EINVAL;
      LockGuard guard(file.owner->lock);
      file.owner->setting.signal = static_cast<int>(argument);
      return 0;
    }
    case F_GETSIG: return setting_of(*file.owner).signal;
    default: return -EINVAL;
  }
}

std::int64_t owner_ioctl(Thread& thread, OpenFile& file, unsigned request, mm::Gva at) {
  if (!is_socket(file)) return -ENOTTY;
  if (request == FIOGETOWN || request == SIOCGPGRP) return put_user(thread.memory(), at, owner_number(thread, file));
  auto who = read_user<int>(thread.memory(), at);
  return who ? set_owner(thread, file, *who) : -who.error();
}

void claim_if_unowned(Thread& thread, OpenFile& file, int number) {
  LockGuard guard(file.owner->lock);
  if (file.owner->setting.id == 0)
    set_owner_locked(*file.owner, *thread.credentials(), F_OWNER_PID, thread.process.pid);
  file.owner->setting.number = number;
}

void disown(FileOwner& owner) {
  LockGuard guard(owner.lock);
  owner.setting.id = owner.setting.signal = 0;
}

bool can_be_async(const OpenFile& file) {
  using enum OpenFile::Kind;
  if (file.kind != Pipe && file.kind != Socket && file.kind != Stdio && file.kind != Device) return false;
  struct stat st;
  if ((file.flags & O_PATH) || ::fstat(file.host.get(), &st) != 0) return false;
  return S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || ::isatty(file.host.get());
}

bool is_async(const OpenFile& file) {
  LockGuard guard(file.owner->lock);
  return file.async.watch != nullptr;
}

std::int64_t set_async(Family& family, OpenFile& file, int number, bool on) {
  OpenFile::Async& async = file.async;
  LockGuard guard(file.owner->lock);
  if (on == (async.watch != nullptr)) return 0;
  if (!on) {
    async.watch.reset();
    return 0;
  }
  if (!async.charged && file.charged && !file.charged->grow(AsyncFiles::kBytes)) return -ENOMEM;
  async.charged = true;
  auto watch = family.async_files->watch(file);
  if (!watch) return -watch.error();
  async.watch = std::move(*watch);
  file.owner->setting.number = number;
  return 0;
}

std::int64_t set_async(Thread& thread, OpenFile& file, int number, bool on) {
  if (on && ::isatty(file.host.get())) {
    const int foreground = thread.process.family.foreground();
    LockGuard guard(file.owner->lock);
    if (file.owner->setting.id == 0 && !file.async.watch)
      set_owner_locked(*file.owner, *thread.credentials(), F_OWNER_PGRP, foreground);
  }
  return set_async(thread.process.family, file, number, on);
}

std::int64_t no_room(const OpenFile& file, std::int64_t result) {
  if (result != -EAGAIN) return result;
  LockGuard guard(file.owner->lock);
  if (file.async.watch) file.async.watch->wants_room();
  return result;
}

}  // namespace ramet::vmm
