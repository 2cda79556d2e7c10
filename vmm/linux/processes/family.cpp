#include "vmm/linux/processes/family.hpp"

#include <fmt/format.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <new>

#include "vmm/linux/patiently.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/sockets/sockets.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {

siginfo_t Family::child_info(int pid, unsigned user, int code, int value) {
  siginfo_t info{};
  info.si_signo = SIGCHLD;
  info.si_code = code;
  info.si_pid = pid;
  info.si_uid = user;
  info.si_status = value;
  return info;
}

siginfo_t Family::Member::end_info(int pid) const {
  return status & 0x7f ? child_info(pid, user, CLD_KILLED, status & 0x7f)
                       : child_info(pid, user, CLD_EXITED, status >> 8);
}

namespace {

constexpr std::size_t kHostStack = 256 * 1024;  // a host thread only serves calls; the guest has its own stack

std::vector<std::byte> processors_of_caller() {
  std::vector<std::byte> set(1024);  // 8192 processors
  const long bytes = ::syscall(SYS_sched_getaffinity, 0, set.size(), set.data());
  set.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  return set;
}

std::array<unsigned char, 16> random_id() {
  std::array<unsigned char, 16> id{};
  ::arc4random_buf(id.data(), id.size());  // cannot fail: it ends the VMM if the host has no random bytes
  return id;
}

// A program that has run for so long is likely to go on and fork: spare shells are made from then on.
constexpr std::chrono::milliseconds kLikelyToFork{250};

}  // namespace

Family::Family(Shell& like, int first_id)
    : sockets(std::make_unique<SocketNames>()), boot_id(random_id()), nice(::getpriority(PRIO_PROCESS, 0)),
      processors(processors_of_caller()), first_(first_id ? first_id : static_cast<int>(::getpid())), like_(like),
      pool_([this, make = like.maker()] { return new_shell(make); }), next_id_(first_ + 1), foreground_(first_) {
  like_.take_others_from(warm());
  if (like_.machine().slow_to_make()) pool_.start(kLikelyToFork);
}

Family::~Family() {
  async_files->stop();
  like_.take_others_from(nullptr);
}

std::expected<std::unique_ptr<Shell>, Failure> Family::new_shell(const MakeShell& make) {
  auto shell = make();
  if (!shell) return shell;
  if (auto r = (*shell)->machine().make_vcpu(); !r) return std::unexpected(r.error());
  (*shell)->take_others_from(warm());
  return shell;
}

// --- ids ---

Family::Member* Family::member(int pid) {
  auto found = members_.find(pid);
  return found == members_.end() ? nullptr : &found->second;
}

bool Family::in_use_locked(int id) {
  for (auto& [pid, m] : members_) {
    if (pid == id || m.group == id || m.session == id) return true;
    if (!m.process) continue;
    LockGuard guard(m.process->threads_lock);
    if (m.process->find_thread(id)) return true;
  }
  return id == first_;
}

// Ids rise and start over, as on Linux: one that was freed comes again only after all others.
int Family::new_id() {
  LockGuard guard(lock_);
  int id;
  do {
    id = next_id_;
    next_id_ = id + 1 < kMaxId ? id + 1 : 300;  // RESERVED_PIDS
  } while (in_use_locked(id));
  return id;
}

bool Family::in_use(int id) {
  LockGuard guard(lock_);
  return in_use_locked(id);
}

std::size_t Family::size() {
  LockGuard guard(lock_);
  return members_.size();
}

std::shared_ptr<Process> Family::find(int pid) {
  LockGuard guard(lock_);
  Member* m = member(pid);
  return m ? m->process : nullptr;
}

std::shared_ptr<Process> Family::find_by_thread(int tid) {
  LockGuard guard(lock_);
  for (auto& [pid, m] : members_) {
    if (!m.process) continue;
    LockGuard threads(m.process->threads_lock);
    if (m.process->find_thread(tid)) return m.process;
  }
  return nullptr;
}

std::shared_ptr<Process> Family::find_by_any(int id) {
  if (auto process = find(id)) return process;
  auto process = find_by_thread(id);
  if (!process) return nullptr;
  LockGuard guard(process->threads_lock);
  return std::ranges::any_of(process->threads, [id](const auto& t) { return t->tid == id; }) ? process : nullptr;
}

std::int64_t Family::with_thread(Thread& caller, int tid, const std::function<std::int64_t(Thread&)>& call) {
  const auto process = tid == 0 ? caller.process.shared_from_this() : find_by_thread(tid);
  if (!process) return -ESRCH;
  LockGuard guard(process->threads_lock);
  Thread* const found = tid == 0 ? &caller : process->find_thread(tid);
  return found ? call(*found) : -ESRCH;
}

bool Family::exists(int pid) {
  LockGuard guard(lock_);
  return member(pid) != nullptr;
}

std::vector<std::shared_ptr<Process>> Family::all() {
  std::vector<std::shared_ptr<Process>> found;
  LockGuard guard(lock_);
  for (auto& [pid, m] : members_)
    if (m.process) found.push_back(m.process);
  return found;
}

std::vector<std::shared_ptr<Process>> Family::group(int id) {
  std::vector<std::shared_ptr<Process>> found;
  LockGuard guard(lock_);
  for (auto& [pid, m] : members_)
    if (m.process && m.group == id) found.push_back(m.process);
  return found;
}

// --- coming and going ---

std::expected<void, int> Family::add(const std::shared_ptr<Process>& process, int parent, int exit_signal,
                                     std::uint64_t limit) {
  LockGuard guard(lock_);
  if (closing_ || members_.size() >= std::min<std::uint64_t>(limit, Limits::kProcesses)) return std::unexpected(EAGAIN);
  Member& m = members_[process->pid];
  m.process = process;
  m.parent = parent;
  m.exit_signal = exit_signal;
  const Member* of = parent ? member(parent) : nullptr;
  m.group = of ? of->group : process->pid;
  m.session = of ? of->session : process->pid;
  return {};
}

void Family::forget(int pid) {
  LockGuard guard(lock_);
  members_.erase(pid);
}

// The signal is lost if the queue is full, as on Linux, or if the host has no memory.
void Family::send(Process& to, const siginfo_t& info) {
  try {
    (void)send_to_process(to, info);
  } catch (const std::bad_alloc&) {}
}

void Family::send(const Letters& letters) {
  for (const auto& [to, info] : letters) send(*to, info);
}

void Family::tell_parent(Member& parent, int sig, const siginfo_t& info, Letters& letters) {
  if (sig && parent.process) {
    siginfo_t letter = info;
    letter.si_signo = sig;
    // SIGCHLD is pending before a wait can return, as on Linux. Other signals may stop, end or continue a process,
    // which takes our lock.
    if (sig == SIGCHLD) send(*parent.process, letter);
    else letters.emplace_back(parent.process, letter);
  }
  parent.events.fetch_add(1, std::memory_order_release);
  syscall(SYS_futex, &parent.events, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Removes a zombie, and adds its times to its parent's.
Family::Members::iterator Family::bury(Members::iterator zombie) {
  if (Member* parent = member(zombie->second.parent)) {
    add_usage(parent->children, zombie->second.usage);
    add_usage(parent->children, zombie->second.children);
  }
  return members_.erase(zombie);
}

void Family::exited(Process& process, const Ending& ending, const rusage& usage) {
  if (ending.kind == Ending::Kind::Broken && process.pid != first_)
    fmt::print(stderr, "ramet: process {} was ended: {}\n", process.pid, ending.message);
  Letters letters;
  std::shared_ptr<Process> released;  // after the lock
  {
    LockGuard guard(lock_);
    letters.reserve(members_.size() + 1);  // from here on nothing is allocated
    auto self = members_.find(process.pid);
    Member& m = self->second;
    released = std::move(m.process);
    m.status = ending.wait_status();
    m.user = process.user;
    m.usage = usage;
    // Its children go to the nearest ancestor that is a subreaper, or to none.
    int heir = m.parent;
    for (Member* a = member(heir); heir && a && !(a->subreaper && a->process); a = member(heir)) heir = a->parent;
    if (!member(heir)) heir = 0;
    for (auto it = members_.begin(); it != members_.end();) {
      Member& child = it->second;
      if (child.parent != process.pid) {
        ++it;
        continue;
      }
      if (child.death_signal && child.process) {
        siginfo_t info{};
        info.si_signo = child.death_signal;
        info.si_code = SI_USER;
        info.si_pid = process.pid;
        info.si_uid = process.user;
        letters.emplace_back(child.process, info);
      }
      child.parent = heir;
      child.exit_signal = SIGCHLD;
      if (!child.process && !heir) {
        it = members_.erase(it);
        continue;
      }
      if (!child.process) tell_parent(*member(heir), SIGCHLD, child.end_info(it->first), letters);
      ++it;
    }
    Member* parent = member(m.parent);
    if (!parent || !parent->process) {
      members_.erase(self);
    } else {
      bool reaped = false, silent = false;
      if (m.exit_signal == SIGCHLD) {
        LockGuard signals(parent->process->signals.lock);
        const SignalAction& action = parent->process->signals.actions[SIGCHLD - 1];
        silent = action.handler == 1;
        reaped = silent || (action.flags & SA_NOCLDWAIT);
      }
      tell_parent(*parent, silent ? 0 : m.exit_signal, m.end_info(process.pid), letters);
      if (reaped) bury(self);
    }
  }
  send(letters);
}

void Family::executed(int pid) {
  LockGuard guard(lock_);
  Member& m = *member(pid);
  m.exit_signal = SIGCHLD;
  m.executed = true;
}

void Family::end_all() {
  {
    LockGuard guard(lock_);
    closing_ = true;
  }
  for (auto& process : patiently([&] { return all(); })) process->end({Ending::Kind::Signalled, SIGKILL, {}});
  while (std::uint32_t live = live_.load(std::memory_order_acquire))
    syscall(SYS_futex, &live_, FUTEX_WAIT_PRIVATE, live, nullptr, nullptr, 0);
  async_files->stop();  // no process is left to be told, and it holds none any more
  LockGuard guard(lock_);
  if (last_gone_) pthread_join(*std::exchange(last_gone_, std::nullopt), nullptr);
}

// --- host threads ---

namespace {
struct HostStart {
  std::shared_ptr<Process> process;
  Thread* thread;
};
}  // namespace

bool Family::start(const std::shared_ptr<Process>& process, Thread* thread) {
  if (live_.fetch_add(1, std::memory_order_relaxed) >= kMaxThreads) {
    live_.fetch_sub(1, std::memory_order_relaxed);  // relaxed: not the last one, as the caller's host thread lives
    return false;
  }
  std::unique_ptr<HostStart> start(new (std::nothrow) HostStart{process, thread});
  if (!start) {
    live_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  SignalsBlocked blocked;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kHostStack);
  pthread_t host;
  const int error = pthread_create(&host, &attributes, host_thread, start.get());
  pthread_attr_destroy(&attributes);
  if (error) {
    live_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  (void)start.release();  // the thread's
  return true;
}

void* Family::host_thread(void* argument) {
  std::unique_ptr<HostStart> start(static_cast<HostStart*>(argument));
  Family& family = start->process->family;
  start->thread->loop();
  {
    std::unique_ptr<Thread> owned;
    const bool last = start->process->leave(*start->thread, owned);
    owned.reset();
    if (last && start->process->pid != family.first_) start->process->finish();  // the first one's run() does it
  }
  start.reset();
  std::optional<pthread_t> before;
  {
    LockGuard guard(family.lock_);
    before = std::exchange(family.last_gone_, pthread_self());
  }
  // At most one ended host thread waits to be joined: the next one that ends joins it.
  if (before) pthread_join(*before, nullptr);
  if (family.live_.fetch_sub(1, std::memory_order_release) == 1)
    syscall(SYS_futex, &family.live_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  return nullptr;
}

// --- shells ---

std::shared_ptr<Shell> Family::pooled(std::unique_ptr<Shell> shell) {
  return std::shared_ptr<Shell>(shell.release(), [this](Shell* old) {
    std::unique_ptr<Shell> owned(old);
    Machine::Totals t = owned->machine().totals();
    t.mappings = 0;  // of which it has none any more
    try {
      const Counts counts = list(owned->memory().counters());
      LockGuard guard(gone_lock_);
      gone_.totals += t;
      vmm::add(gone_.memory, counts);
    } catch (const std::bad_alloc&) {
      // Its counters are lost.
    }
    pool_.give_back(std::move(owned));
  });
}

Family::Gone Family::gone() {
  LockGuard guard(gone_lock_);
  return gone_;
}

// --- counters ---

namespace {
std::map<Call, std::uint64_t> collect(const auto& counters) {
  std::map<Call, std::uint64_t> result;
  for (unsigned i = 0; i < counters.size(); ++i)
    if (std::uint64_t n = counters[i].load(std::memory_order_relaxed)) result[Call{static_cast<std::uint16_t>(i)}] = n;
  return result;
}
}  // namespace
void Family::add_calls(std::span<const std::uint64_t, arch::kMostCalls> counted) {
  for (std::size_t i = 0; i < counted.size(); ++i)
    if (counted[i]) calls_[i].fetch_add(counted[i], std::memory_order_relaxed);
}
std::map<Call, std::uint64_t> Family::calls() const { return collect(calls_); }
std::map<Call, std::uint64_t> Family::unknown_calls() const { return collect(unknown_); }

}  // namespace ramet::vmm
