// The host has no memory at some moment of a system call: whichever allocation fails, at most that one process ends, no
// lock stays taken, nothing leaks (as AddressSanitizer sees it), and what processes share serves the others as before.
#include <gtest/gtest.h>

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>

#include <functional>
#include <utility>

#include "tests/scarce.hpp"
#include "tests/vmm/x86_64/handled_guest.hpp"
#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {
namespace {

bool is_free(Mutex& lock) {
  if (!lock.try_lock()) return false;
  lock.unlock();
  return true;
}

using test::scarce::allocations_left, test::scarce::failed, test::scarce::Paused;

class Shortage : public LinuxGuest {
 public:
  // As the thread's own loop does it.
  std::int64_t call(long number, std::initializer_list<std::uint64_t> arguments = {}) {
    std::array<std::uint64_t, 6> v{};
    std::copy(arguments.begin(), arguments.end(), v.begin());
    UserRegs& r = regs();
    r[Rax] = static_cast<std::uint64_t>(number);
    r[Rdi] = v[0], r[Rsi] = v[1], r[Rdx] = v[2], r[R10] = v[3], r[R8] = v[4], r[R9] = v[5];
    thread->serve({.kind = Exit::Kind::Syscall, .detail = {}});
    return static_cast<std::int64_t>(regs()[Rax]);
  }
  template <class T>
  void put_at(mm::Gva at, const T& value) {
    Paused paused;
    ASSERT_TRUE(memory().write(at, std::as_bytes(std::span(&value, 1))));
  }
};

std::array<int, 2> ends_at_buffer(Shortage& g) {
  Paused paused;
  return *read_user<std::array<int, 2>>(g.memory(), g.buffer);
}

struct Step {
  const char* name;
  std::function<void(Shortage&)> run;
};

std::uint64_t fd(std::int64_t n) { return static_cast<std::uint64_t>(n); }

constexpr std::uint64_t kRw = PROT_READ | PROT_WRITE;

// Each does something whose parts must hold together, and undoes nothing.
const std::vector<Step> kSteps{
    {"mmap of private memory",
     [](Shortage& g) {
       const auto at = g.call(SYS_mmap, {0, 1 << 20, kRw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, ~0ull, 0});
       g.call(SYS_mprotect, {fd(at) + 0x3000, 0x2000, PROT_READ});
       g.call(SYS_munmap, {fd(at) + 0x8000, 0x5000});
     }},
    {"mmap of shared memory",
     [](Shortage& g) {
       const auto at = g.call(SYS_mmap, {0, 0x4000, kRw, MAP_SHARED | MAP_ANONYMOUS, ~0ull, 0});
       g.call(SYS_mremap, {fd(at), 0x4000, 0x2000, 0});
     }},
    {"shmget", [](Shortage& g) { g.call(SYS_shmat, {fd(g.call(SYS_shmget, {IPC_PRIVATE, 0x3000, 0600})), 0, 0}); }},
    {"memfd, mapped and truncated",
     [](Shortage& g) {
       g.put_at(g.buffer, std::array{'m', '\0'});
       const auto file = g.call(SYS_memfd_create, {g.buffer, 0});
       g.call(SYS_ftruncate, {fd(file), 0x4000});
       g.call(SYS_mmap, {0, 0x4000, kRw, MAP_SHARED, fd(file), 0});
       g.call(SYS_ftruncate, {fd(file), 0x1000});
     }},
    {"pipes and scattered buffers",
     [](Shortage& g) {
       g.call(SYS_pipe2, {g.buffer, 0});
       const auto ends = ends_at_buffer(g);
       g.put_at(g.buffer + 64, std::array<std::uint64_t, 4>{g.buffer + 4096, 10, g.buffer + 8192, 20});
       g.call(SYS_writev, {fd(ends[1]), g.buffer + 64, 2});
       g.call(SYS_readv, {fd(ends[0]), g.buffer + 64, 2});
     }},
    {"poll and epoll",
     [](Shortage& g) {
       const auto event = g.call(SYS_eventfd2, {1, 0}), epoll = g.call(SYS_epoll_create1, {0});
       g.put_at(g.buffer, epoll_event{.events = EPOLLIN, .data = {}});
       g.call(SYS_epoll_ctl, {fd(epoll), EPOLL_CTL_ADD, fd(event), g.buffer});
       g.call(SYS_epoll_wait, {fd(epoll), g.buffer, 4, 0});
     }},
    {"sockets",
     [](Shortage& g) {
       g.call(SYS_socketpair, {AF_UNIX, SOCK_STREAM, 0, g.buffer});
       const auto ends = ends_at_buffer(g);
       g.call(SYS_sendto, {fd(ends[0]), g.buffer, 100, 0, 0, 0});
       g.call(SYS_recvfrom, {fd(ends[1]), g.buffer, 100, 0, 0, 0});
     }},
    {"signals",
     [](Shortage& g) {
       g.put_at(g.buffer, bit_of(SIGRTMIN) | bit_of(SIGUSR1));
       g.call(SYS_rt_sigprocmask, {SIG_BLOCK, g.buffer, 0, 8});
       g.call(SYS_kill, {fd(g.process->pid), fd(SIGRTMIN)});
       g.call(SYS_kill, {fd(g.process->pid), SIGUSR1});
     }},
    {"timers",
     [](Shortage& g) {
       sigevent event{};
       event.sigev_notify = SIGEV_SIGNAL;
       event.sigev_signo = SIGALRM;
       g.put_at(g.buffer, event);
       g.call(SYS_timer_create, {CLOCK_MONOTONIC, g.buffer, g.buffer + 256});
     }},
    {"a file of /proc",
     [](Shortage& g) {
       const char path[] = "/proc/self/maps";
       g.put_at(g.buffer, path);
       g.call(SYS_read, {fd(g.call(SYS_openat, {fd(AT_FDCWD), g.buffer, O_RDONLY, 0})), g.buffer, 4096});
     }},
};

// One who works with what all processes of a family share.
void another_process_works(Shortage& g) {
  auto other = std::make_shared<Process>(g.process->family, g.process->family.new_id(), g.process->image(),
                                         g.process->files.fork());
  ASSERT_TRUE(g.process->family.add(other, 0, SIGCHLD, 8));
  auto shared = other->files.shared_memory(0x2000, g.memory());
  EXPECT_TRUE(shared);
  other->finish();
  EXPECT_EQ(g.process->family.size(), 1u);
}

TEST(Shortage, Whichever_allocation_fails_at_most_the_process_ends) {
  for (const Step& step : kSteps) {
    SCOPED_TRACE(step.name);
    long n = 0;
    for (bool more = true; more; ++n) {
      SCOPED_TRACE(n);
      Shortage g;
      failed = false;
      allocations_left = n;
      step.run(g);
      more = failed.exchange(false);
      allocations_left = -1;
      // Nobody else is there: a lock that can be taken was given back.
      EXPECT_TRUE(is_free(g.process->signals.lock));
      EXPECT_TRUE(is_free(g.process->files.state().lock));
      g.memory().usage();
      if (g.process->ending() && more) {
        EXPECT_EQ(g.process->ended().code, SIGKILL);
      }
      another_process_works(g);
      if (HasFailure()) return;
    }
    EXPECT_GT(n, 1) << "nothing was allocated: nothing is tested";
  }
}

TEST(Shortage, A_process_ends_however_little_memory_the_host_has) {
  for (long n = 0; n < 200; ++n) {
    SCOPED_TRACE(n);
    Shortage g;
    auto other = std::make_shared<Process>(g.process->family, g.process->family.new_id(), g.process->image(),
                                           g.process->files.fork());
    ASSERT_TRUE(g.process->family.add(other, g.process->pid, SIGCHLD, 8));
    other->end({Ending::Kind::Exited, 3, {}});
    allocations_left = n;
    other->finish();
    const bool over = allocations_left > 0;
    allocations_left = -1;
    const auto child = g.process->family.reap(g.process->pid,
                                              {.which = Family::Request::Which::Any, .options = WEXITED});
    ASSERT_TRUE(child && *child);
    EXPECT_EQ((*child)->pid, other->pid);
    if (over) return;
  }
}

}  // namespace
}  // namespace ramet::vmm
