// System calls that make threads and processes: clone, clone3, fork, vfork.
#include <linux/sched.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

struct Request {
  std::uint64_t flags = 0, stack_pointer = 0, parent_tid = 0, child_tid = 0, tls = 0;
  int exit_signal = 0;
};

// What both threads and processes start with.
std::expected<Process::Spawn, int> spawn_of(Thread& thread, const Request& c, FpState& fp) {
  if ((c.flags & CLONE_SETTLS) && c.tls >= thread.abi().base_end) return err(EPERM);
  if (!thread.vcpu().get_fp(fp)) return err(EAGAIN);
  Process::Spawn spawn;
  spawn.regs = thread.regs();
  const arch::GuestAbi& abi = thread.abi();
  spawn.regs[abi.reg.result] = 0;
  if (c.stack_pointer) spawn.regs[abi.reg.sp] = c.stack_pointer;
  for (unsigned n = 0; n < abi.bases; ++n) spawn.bases[n] = thread.vcpu().base(n);
  if (c.flags & CLONE_SETTLS) spawn.bases[0] = c.tls;
  if (c.flags & CLONE_CHILD_SETTID) spawn.set_child_tid = c.child_tid;
  if (c.flags & CLONE_CHILD_CLEARTID) spawn.clear_child_tid = c.child_tid;
  spawn.signal_mask = thread.signals.blocked;  // only this thread changes it
  spawn.fp = &fp;
  spawn.name = thread.name();
  spawn.credentials = thread.credentials();
  LockGuard guard(thread.process.threads_lock);
  spawn.nice = thread.nice();
  spawn.scheduling = thread.scheduling;
  inherit(spawn.scheduling, spawn.nice);
  spawn.affinity.assign(thread.affinity().begin(), thread.affinity().end());
  return spawn;
}

std::int64_t make_thread(Thread& thread, const Request& c) {
  FpState fp;
  auto spawn = spawn_of(thread, c, fp);
  if (!spawn) return -spawn.error();
  if (c.flags & CLONE_PARENT_SETTID) spawn->set_parent_tid = c.parent_tid;
  return thread.process.spawn(*spawn);
}

// What a new process, which is not in the family yet, inherits besides memory and descriptors.
void inherit(Process& child, Process& parent, bool clear_handlers) {
  child.deny_wx = parent.deny_wx;
  child.oom.adjustment = parent.oom.adjustment.load(std::memory_order_relaxed);
  child.oom.least = parent.oom.least.load(std::memory_order_relaxed);
  {
    LockGuard guard(parent.limits.lock);
    LockGuard of_child(child.limits.lock);
    child.limits.value = parent.limits.value;
  }
  LockGuard guard(parent.signals.lock);
  LockGuard of_child(child.signals.lock);
  child.signals.actions = parent.signals.actions;
  child.signals.fds = parent.signals.fds;
  if (!clear_handlers) return;
  for (SignalAction& action : child.signals.actions)
    if (action.handler != 1) action = {};
}

std::int64_t make_process(Thread& thread, const Request& c) {
  Process& parent = thread.process;
  Family& family = parent.family;
  FpState fp;
  auto spawn = spawn_of(thread, c, fp);
  if (!spawn) return -spawn.error();
  spawn->leader = true;
  const bool share = c.flags & CLONE_VM, wait = c.flags & CLONE_VFORK;
  if (!share || wait) spawn->altstack_of = &thread.signals;

  // A place in the family comes first, so that nothing is copied for a process that is refused.
  const int pid = family.new_id();
  auto child = std::make_shared<Process>(family, pid, parent.image(), parent.files.fork());
  inherit(*child, parent, c.flags & CLONE_CLEAR_SIGHAND);
  const std::uint64_t limit = parent.limits.soft(RLIMIT_NPROC);
  const int parent_id = (c.flags & CLONE_PARENT) ? family.relations(parent.pid)->parent : parent.pid;
  if (auto added = family.add(child, parent_id, c.exit_signal, limit); !added) return -added.error();
  // On each return before the child has a thread, it leaves the family again.
  struct Known {
    Family& family;
    int pid;
    ~Known() {
      if (pid) family.forget(pid);
    }
  } known{family, pid};
  if (!share) {
    auto shell = thread.image().shell->fork();
    if (!shell) return -(shell.error().error ? shell.error().error : ENOMEM);
    auto pooled = family.pooled(std::move(*shell));
    mm::Charge strings(pooled->memory().account());
    if (!strings.grow(thread.image().strings.bytes())) return -ENOMEM;
    child->set_image(std::make_shared<Image>(thread.image(), std::move(pooled), std::move(strings)));
  }
  if (c.flags & CLONE_PARENT_SETTID)
    (void)write_user(thread.memory(), c.parent_tid, pid);  // bad addresses are ignored, as for threads
  if (!child->timers->watch_limit()) return -EAGAIN;
  std::shared_ptr<std::atomic<std::uint32_t>> done;
  if (wait) done = child->vfork_done = std::make_shared<std::atomic<std::uint32_t>>(0);
  if (std::int64_t r = child->spawn(*spawn); r < 0) return r;
  known.pid = 0;
  child.reset();
  if (done) thread.wait_while(*done, 0);
  return pid;
}

std::int64_t clone(Thread& thread, Call call, const Request& c) {
  const std::uint64_t flags = c.flags;
  if ((flags & CLONE_SIGHAND) && !(flags & CLONE_VM)) return -EINVAL;
  if ((flags & CLONE_THREAD) && !(flags & CLONE_SIGHAND)) return -EINVAL;
  if ((flags & CLONE_SIGHAND) && (flags & CLONE_CLEAR_SIGHAND)) return -EINVAL;
  // Threads share everything, and processes nothing but memory; what lies between is not served.
  constexpr std::uint64_t kShared = CLONE_FS | CLONE_FILES | CLONE_SIGHAND;
  constexpr std::uint64_t kRefused = CLONE_PTRACE | CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                     CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_INTO_CGROUP;
  const bool thread_wanted = flags & CLONE_THREAD;
  const bool refused = (flags & kRefused) || (thread_wanted && (flags & CLONE_VFORK));
  if (refused || (flags & kShared) != (thread_wanted ? kShared : 0)) {
    thread.process.family.count_unknown(call);  // counted like calls that are not served at all
    return -EINVAL;
  }
  return thread_wanted ? make_thread(thread, c) : make_process(thread, c);
}

std::int64_t sys_clone(Thread& thread, const Args& a) {
  return clone(thread, Call::clone,
               {.flags = (a[0] & 0xffff'ffff) & ~std::uint64_t{CSIGNAL},
                .stack_pointer = a[1],
                .parent_tid = a[2],
                .child_tid = a[thread.abi().clone_child_tid],
                .tls = a[thread.abi().clone_tls],
                .exit_signal = static_cast<int>(a[0] & CSIGNAL)});
}

std::int64_t sys_clone3(Thread& thread, const Args& a) {
  const std::uint64_t size = a[1];
  if (size < CLONE_ARGS_SIZE_VER0) return -EINVAL;
  if (size > mm::kPageSize) return -E2BIG;
  clone_args args{};
  std::vector<std::byte> bytes(size);
  if (!thread.memory().read(a[0], bytes)) return -EFAULT;
  std::memcpy(&args, bytes.data(), std::min<std::uint64_t>(size, sizeof args));
  for (std::uint64_t i = sizeof args; i < size; ++i)
    if (bytes[i] != std::byte{0}) return -E2BIG;
  if (args.flags & (CLONE_DETACHED | CSIGNAL)) return -EINVAL;
  if ((args.flags & (CLONE_THREAD | CLONE_PARENT)) && args.exit_signal) return -EINVAL;
  if ((args.exit_signal & ~std::uint64_t{CSIGNAL}) || args.exit_signal > kSignals) return -EINVAL;
  constexpr std::uint64_t kMaxPidNsLevel = 32;  // MAX_PID_NS_LEVEL of Linux
  if ((args.set_tid == 0) != (args.set_tid_size == 0) || args.set_tid_size > kMaxPidNsLevel) return -EINVAL;
  if (args.set_tid_size) {
    thread.process.family.count_unknown(Call::clone3);
    return -EPERM;  // as without CAP_CHECKPOINT_RESTORE
  }
  if ((args.stack == 0) != (args.stack_size == 0) || args.stack > thread.abi().user_end ||
      args.stack_size > thread.abi().user_end - args.stack)
    return -EINVAL;
  return clone(thread, Call::clone3,
               {.flags = args.flags,
                .stack_pointer = args.stack ? args.stack + args.stack_size : 0,
                .parent_tid = args.parent_tid,
                .child_tid = args.child_tid,
                .tls = args.tls,
                .exit_signal = static_cast<int>(args.exit_signal)});
}

std::int64_t sys_fork(Thread& thread, const Args&) { return clone(thread, Call::fork, {.exit_signal = SIGCHLD}); }
std::int64_t sys_vfork(Thread& thread, const Args&) {
  return clone(thread, Call::vfork, {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD});
}

}  // namespace

std::span<const Definition> clone_calls() {
  static constexpr Definition kCalls[] = {
      {Call::clone, sys_clone},
      {Call::clone3, sys_clone3},
      {Call::fork, sys_fork},
      {Call::vfork, sys_vfork},
  };
  return kCalls;
}

}  // namespace ramet::vmm
