// Futexes. A guest futex is a host futex at the host address of the guest's word: the host kernel keeps
// the queues, and two guest threads that wait at one guest address wait at one host address, since the
// frame of a writable page stays where it is while it is mapped: a fork would have it copied, but for the waiter's pin.
//
// FUTEX_PRIVATE_FLAG is ours to choose: words of the private bank are private to this host process,
// words of shared files may be waited for by others.
#include "vmm/linux/processes/futex.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

using Word = mm::HostWord;

std::uint64_t as_argument(const void* p) { return reinterpret_cast<std::uint64_t>(p); }
int flag(const Word& word) { return word.shared() ? 0 : FUTEX_PRIVATE_FLAG; }

// Waiting needs no more than reading, but a page that is copied on write later would move away from its
// waiters: so it is made the guest's own first where the guest may write.
OrErrno<Word> find_word(mm::AddressSpace& memory, mm::Gva at) {
  auto word = memory.word(at, mm::Access::Write);
  if (!word && word.error() == mm::Error::NotPermitted) word = memory.word(at, mm::Access::Read);
  if (word) return std::move(*word);
  return err(word.error() == mm::Error::Invalid ? EINVAL : EFAULT);
}

struct Wait {
  mm::Gva at;
  std::uint32_t value, mask;
  std::optional<timespec> deadline;
  bool realtime;
};

std::int64_t wait(Thread& thread, const Wait& w) {
  auto word = find_word(thread.memory(), w.at);
  if (!word) return -word.error();
  int operation = FUTEX_WAIT_BITSET | flag(*word) | (w.realtime ? FUTEX_CLOCK_REALTIME : 0);
  std::int64_t r = thread.blocking(SYS_futex, word->address(), static_cast<std::uint64_t>(operation), w.value,
                                   w.deadline ? as_argument(&*w.deadline) : 0, 0, w.mask);
  if (r != -EINTR) return r;
  if (!w.deadline) return kRestartSys;
  thread.restart = [w](Thread& same) { return wait(same, w); };
  return kRestartBlock;
}

std::int64_t start_wait(Thread& thread, const Args& a, bool bitset, bool realtime) {
  Wait w{.at = a[0],
         .value = a.u32(2),
         .mask = bitset ? a.u32(5) : FUTEX_BITSET_MATCH_ANY,
         .deadline = {},
         .realtime = realtime};
  if (w.mask == 0) return -EINVAL;
  if (!a[3]) return wait(thread, w);
  auto time = read_time(thread.memory(), a[3]);
  if (!time) return -time.error();
  // FUTEX_WAIT's timeout is relative; a deadline survives interruptions.
  w.deadline = bitset ? thread.process.family.clocks.host(realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC, *time)
                      : deadline_after(realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC, *time);
  return wait(thread, w);
}

std::int64_t host_futex(const Word& word, int operation, std::uint64_t value, std::uint64_t value2 = 0,
                        std::uint64_t word2 = 0, std::uint32_t value3 = 0) {
  long r = syscall(SYS_futex, word.address(), operation, value, value2, word2, value3);
  return r < 0 ? -errno : r;
}

std::int64_t wake(Thread& thread, const Args& a, std::uint32_t mask) {
  if (mask == 0) return -EINVAL;
  auto word = find_word(thread.memory(), a[0]);
  // glibc and musl wake locks whose memory another thread has freed by then; Linux looks at no memory
  // to find a private futex, and so finds nobody there.
  if (!word) return word.error() == EFAULT && (a.i32(1) & FUTEX_PRIVATE_FLAG) ? 0 : -word.error();
  return host_futex(*word, FUTEX_WAKE_BITSET | flag(*word), a.u32(2), 0, 0, mask);
}

// REQUEUE, CMP_REQUEUE, WAKE_OP: two words, and a number in place of the timeout.
std::int64_t two_words(Thread& thread, const Args& a, int command) {
  auto first = find_word(thread.memory(), a[0]), second = find_word(thread.memory(), a[4]);
  if (!first) return -first.error();
  if (!second) return -second.error();
  // The host's call has one flag for both words, so a private and a shared one cannot be served together. No program
  // has such a pair, as both words are of one object.
  if (first->shared() != second->shared()) return -EINVAL;
  return host_futex(*first, command | flag(*first), a.u32(2), a.u32(3), second->address(), a.u32(5));
}

std::int64_t sys_futex(Thread& thread, const Args& a) {
  int operation = a.i32(1), command = operation & FUTEX_CMD_MASK;
  bool realtime = operation & FUTEX_CLOCK_REALTIME;
  if (realtime && command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET) return -ENOSYS;
  switch (command) {
    case FUTEX_WAIT: return start_wait(thread, a, false, realtime);
    case FUTEX_WAIT_BITSET: return start_wait(thread, a, true, realtime);
    case FUTEX_WAKE: return wake(thread, a, FUTEX_BITSET_MATCH_ANY);
    case FUTEX_WAKE_BITSET: return wake(thread, a, a.u32(5));
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
    case FUTEX_WAKE_OP: return two_words(thread, a, command);
    default: return -ENOSYS;  // priority inheritance among them
  }
}

// --- robust lists ---

struct RobustHead {  // struct robust_list_head
  std::uint64_t next;
  std::int64_t futex_offset;
  std::uint64_t pending;
};
constexpr unsigned kRobustLimit = 2048;  // ROBUST_LIST_LIMIT

// One lock of a dead thread: handle_futex_death(). False: it cannot be reached, and the walk ends.
bool release_one(Thread& thread, mm::Gva at, bool pending) {
  auto word = thread.memory().word(at, mm::Access::Write);
  if (!word) return false;
  for (auto seen = word->load(); seen;) {
    const std::uint32_t value = *seen;
    const bool unlocked = pending && value == 0;  // died between unlocking and waking
    if (!unlocked) {
      if (!thread.goes_by(static_cast<int>(value & FUTEX_TID_MASK))) return true;
      seen = word->compare_exchange(value, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED);
      if (!seen) return false;
      if (*seen != value) continue;
    }
    if (unlocked || (value & FUTEX_WAITERS)) host_futex(*word, FUTEX_WAKE | flag(*word), 1);
    return true;
  }
  return false;
}

std::int64_t sys_set_robust_list(Thread& thread, const Args& a) {
  if (a[1] != sizeof(RobustHead)) return -EINVAL;
  thread.robust_list = a[0];
  return 0;
}

std::int64_t sys_get_robust_list(Thread& thread, const Args& a) {
  mm::Gva head = thread.robust_list;
  if (a.i32(0) != 0 && a.i32(0) != thread.tid) {
    LockGuard guard(thread.process.threads_lock);
    if (!thread.process.find_thread(a.i32(0))) return -ESRCH;
    return -EPERM;  // the list of a running thread is its own business
  }
  if (!write_user(thread.memory(), a[2], std::uint64_t{sizeof(RobustHead)})) return -EFAULT;
  return put_user(thread.memory(), a[1], head);
}

}  // namespace

void wake_futex(mm::AddressSpace& memory, mm::Gva at, int count) {
  if (auto word = memory.word(at, mm::Access::Write))
    host_futex(*word, FUTEX_WAKE | flag(*word), static_cast<std::uint64_t>(count));
}

void release_robust_futexes(Thread& thread) {
  const mm::Gva head_at = thread.robust_list;
  if (!head_at) return;
  auto head = read_user<RobustHead>(thread.memory(), head_at);
  if (!head) return;
  // Bit 0 of an entry's address marks a priority-inheritance lock; those are not served.
  auto lock_of = [&](std::uint64_t entry) {
    return (entry & ~std::uint64_t{1}) + static_cast<std::uint64_t>(head->futex_offset);
  };
  std::uint64_t entry = head->next;
  for (unsigned n = 0; n < kRobustLimit && (entry & ~std::uint64_t{1}) != head_at; ++n) {
    auto next = read_user<std::uint64_t>(thread.memory(), entry & ~std::uint64_t{1});
    if (entry != head->pending && !release_one(thread, lock_of(entry), false)) return;
    if (!next) return;
    entry = *next;
  }
  if (head->pending) (void)release_one(thread, lock_of(head->pending), true);
}

std::span<const Definition> futex_calls() {
  static constexpr Definition kCalls[] = {
      {Call::futex, sys_futex},
      {Call::set_robust_list, sys_set_robust_list},
      {Call::get_robust_list, sys_get_robust_list},
  };
  return kCalls;
}

}  // namespace ramet::vmm
