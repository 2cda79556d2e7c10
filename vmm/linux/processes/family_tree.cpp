// Who is whose parent in a family, its groups and sessions, and waiting for children.
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

// --- relations ---

std::optional<Family::Relations> Family::relations(int pid) {
  LockGuard guard(lock_);
  Member* m = member(pid);
  if (!m) return std::nullopt;
  return Relations{m->parent, m->group, m->session, !m->process ? 'Z' : m->stop_signal ? 'T' : 'R'};
}

bool Family::group_in(int session, int group) const {
  return std::ranges::any_of(members_,
                             [&](const auto& e) { return e.second.group == group && e.second.session == session; });
}

std::expected<void, int> Family::set_group(int caller, int pid, int group) {
  LockGuard guard(lock_);
  Member* m = member(pid);
  const Member* by = member(caller);
  if (!m || (pid != caller && m->parent != caller)) return std::unexpected(ESRCH);
  if (m->session != by->session) return std::unexpected(EPERM);
  if (pid != caller && m->executed) return std::unexpected(EACCES);
  if (m->session == pid) return std::unexpected(EPERM);
  if (group != pid && !group_in(m->session, group)) return std::unexpected(EPERM);
  m->group = group;
  return {};
}

std::expected<int, int> Family::new_session(int pid) {
  LockGuard guard(lock_);
  for (auto& [other, m] : members_)
    if (m.group == pid) return std::unexpected(EPERM);
  Member* m = member(pid);
  m->group = m->session = pid;
  return pid;
}

bool Family::orphaned_group(int group) {
  LockGuard guard(lock_);
  for (auto& [pid, m] : members_) {
    if (m.group != group || !m.process) continue;
    const Member* parent = member(m.parent);
    if (parent && parent->process && parent->group != group && parent->session == m.session) return false;
  }
  return true;
}

void Family::set_subreaper(int pid, bool on) {
  LockGuard guard(lock_);
  member(pid)->subreaper = on;
}

bool Family::subreaper(int pid) {
  LockGuard guard(lock_);
  return member(pid)->subreaper;
}

void Family::set_death_signal(int pid, int sig) {
  LockGuard guard(lock_);
  member(pid)->death_signal = sig;
}

int Family::death_signal(int pid) {
  LockGuard guard(lock_);
  return member(pid)->death_signal;
}

int Family::foreground() {
  LockGuard guard(lock_);
  return foreground_;
}

std::expected<void, int> Family::set_foreground(int session, int group) {
  LockGuard guard(lock_);
  if (!group_in(session, group)) return std::unexpected(EPERM);
  foreground_ = group;
  return {};
}

// --- waiting ---

std::expected<std::optional<Family::Child>, int> Family::reap(int parent, const Request& request) {
  LockGuard guard(lock_);
  const int own_group = member(parent)->group;
  const bool peek = request.options & WNOWAIT;
  bool any = false;
  for (auto it = members_.begin(); it != members_.end(); ++it) {
    Member& m = it->second;
    if (m.parent != parent) continue;
    if (request.which == Request::Which::Pid && it->first != request.id) continue;
    if (request.which == Request::Which::Group && m.group != (request.id ? request.id : own_group)) continue;
    const bool clone = m.exit_signal != SIGCHLD;
    if (!(request.options & static_cast<int>(__WALL)) && clone != ((request.options & static_cast<int>(__WCLONE)) != 0))
      continue;
    any = true;
    Child child{.pid = it->first, .user = m.process ? m.process->user.load() : m.user, .usage = m.usage};
    if (!m.process) {
      if (!(request.options & WEXITED)) continue;
      const siginfo_t info = m.end_info(it->first);
      child.code = info.si_code;
      child.value = info.si_status;
      child.status = m.status;
      add_usage(child.usage, m.children);
      if (!peek) bury(it);
      return child;
    }
    if (m.untold_stop && (request.options & WSTOPPED)) {
      child.code = CLD_STOPPED;
      child.value = m.untold_stop;
      child.status = m.untold_stop << 8 | 0x7f;
      if (!peek) m.untold_stop = 0;
      return child;
    }
    if (m.untold_continue && (request.options & WCONTINUED)) {
      child.code = CLD_CONTINUED;
      child.value = SIGCONT;
      child.status = 0xffff;
      if (!peek) m.untold_continue = false;
      return child;
    }
  }
  if (!any) return std::unexpected(ECHILD);
  return std::nullopt;
}

std::atomic<std::uint32_t>& Family::events(int pid) {
  LockGuard guard(lock_);
  return member(pid)->events;
}

void Family::changed(int pid, int code, int sig, std::uint64_t change) {
  Letters letters;
  {
    LockGuard guard(lock_);
    Member* m = member(pid);
    if (!m || change < m->change) return;
    m->change = change;
    const bool stopped = code == CLD_STOPPED;
    m->stop_signal = m->untold_stop = stopped ? sig : 0;
    m->untold_continue = !stopped;
    Member* parent = member(m->parent);
    if (!parent || !parent->process) return;
    bool wanted;
    {
      LockGuard signals(parent->process->signals.lock);
      const SignalAction& action = parent->process->signals.actions[SIGCHLD - 1];
      wanted = action.handler != 1 && !(action.flags & SA_NOCLDSTOP);
    }
    tell_parent(*parent, wanted ? SIGCHLD : 0,
                child_info(pid, m->process ? m->process->user.load() : m->user, code, sig), letters);
  }
  send(letters);
}

void Family::stopped(int pid, int sig, std::uint64_t change) { changed(pid, CLD_STOPPED, sig, change); }
void Family::continued(int pid, std::uint64_t change) { changed(pid, CLD_CONTINUED, SIGCONT, change); }

rusage Family::children_usage(int pid) {
  LockGuard guard(lock_);
  return member(pid)->children;
}

}  // namespace ramet::vmm
