// A hostile guest: calls every system call there is with random wild pointers, huge lengths, closed
// descriptors, paths outside and nonsense.
//   wild SEED CALLS [FIRST LAST]
//   wild extreme SEED CALLS [FIRST LAST]     numbers at the ends of their types, in structures as well; of any call, in
//                                            children
//   wild inherited SEED CALLS [FIRST LAST]   after fork and after a snapshot (hook "ready"), see wild_inherited.cpp
// FIRST and LAST are numbers of calls. Whatever it gets is right, as long as the VMM lives. Natively it must not be
// run: it would mean it. At its end it waits for the end of its standard input: until then one can look at the VMM.
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <iterator>

#include "isa.h"
#include "wild.hpp"

namespace wild {

thread_local std::uint64_t state;
std::uint64_t next() {  // splitmix64 (Steele, Lea and Flood 2014)
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

char* arena;
std::size_t arena_bytes;
std::uint64_t done, failed;

namespace {

constexpr std::size_t kArena = 64 * 4096;  // some writable, some read-only, some not there

void lay_out_arena() {
  mmap(arena, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  for (std::size_t i = 0; i < kArena; i += 8) {
    std::uint64_t value = next() >> below(64);
    std::memcpy(arena + i, &value, 8);
  }
  mprotect(arena + 16 * 4096, 8 * 4096, PROT_READ);
  mprotect(arena + 32 * 4096, 8 * 4096, PROT_NONE);
  munmap(arena + 48 * 4096, 8 * 4096);
}

const char* const kPaths[] = {"/etc/passwd",
                              "../../../../etc/passwd",
                              "/data/../../etc/passwd",
                              "/proc/self/../../etc/passwd",
                              "/proc/1/root/etc/passwd",
                              "/proc/self/root/etc/passwd",
                              "/proc/self/fd/3",
                              "/proc/self/maps",
                              "/proc/self/exe",
                              "/dev/kvm",
                              "/dev/mem",
                              "/data/link",
                              "/data/file",
                              "/data/file/",
                              "/data/sub/x",
                              "/data/",
                              "",
                              ".",
                              "..",
                              "////",
                              "/data/link/..",
                              "/proc/self/cwd/../x",
                              "/dev/fd/0",
                              "file",
                              "sub"};

std::uint64_t pointer() {
  char* in = arena + below(arena_bytes);
  switch (below(12)) {
    case 0: return 0;
    case 1: return next();
    case 2: return 0xffff800000000000 + below(1ull << 40);
    case 3: return 0x7ffffffff000 - below(16);
    case 4: return 0xfffffffffffff000 + below(4096);
    case 5:
      return reinterpret_cast<std::uint64_t>(arena + (below(arena_bytes / kPage) + 1) * kPage -
                                             below(9));  // across a page's end
    case 6: return reinterpret_cast<std::uint64_t>(kPaths[below(std::size(kPaths))]);
    case 7: return below(1 << 20);
    default: return reinterpret_cast<std::uint64_t>(in) & ~std::uint64_t{7};
  }
}
std::uint64_t length() {
  switch (below(8)) {
    case 0: return 0;
    case 1: return ~0ull >> below(64);
    case 2: return 0x7fffffff + below(3);
    case 3: return 1ull << below(64);
    case 4: return next();
    default: return below(20000);
  }
}
std::uint64_t number() {
  switch (below(6)) {
    case 0: return below(64);  // a descriptor, maybe
    case 1: return static_cast<std::uint64_t>(-1 - static_cast<std::int64_t>(below(200)));
    case 2: return 1ull << below(64);
    case 3: return next() >> below(64);
    default: return below(10);
  }
}

constexpr std::int64_t kEnds[] = {0,           1,
                                  -1,          INT32_MIN,
                                  INT32_MAX,   UINT32_MAX,
                                  INT64_MIN,   INT64_MAX,
                                  INT16_MAX,   UINT16_MAX,
                                  999'999,     1'000'000,
                                  999'999'999, 1'000'000'000,
                                  kPage,       -static_cast<std::int64_t>(kPage)};

// A number at the end of some type.
std::uint64_t extreme() {
  switch (below(4)) {
    case 0: return (1ull << below(64)) + below(3) - 1;
    case 1: return -(1ull << below(64)) + below(3) - 1;
    default: return static_cast<std::uint64_t>(kEnds[below(std::size(kEnds))]);
  }
}

// Where a structure of such numbers lies.
std::uint64_t soup() {
  constexpr std::size_t kWords = 32;
  char* at = arena + below(8) * kPage + below(kPage / 8 - kWords) * 8;
  for (std::size_t i = 0; i < kWords; ++i) {
    std::uint64_t word;
    switch (below(5)) {
      case 0: word = 0; break;
      case 1: word = below(20); break;  // a descriptor, a signal, a kind of something
      case 2: word = reinterpret_cast<std::uint64_t>(arena + below(arena_bytes)); break;
      case 3: word = (extreme() & UINT32_MAX) | extreme() << 32; break;
      default: word = extreme(); break;
    }
    std::memcpy(at + i * 8, &word, 8);
  }
  return reinterpret_cast<std::uint64_t>(at);
}

std::uint64_t argument(Style style) {
  const auto kind = below(3);
  if (style == Style::Extreme) return kind == 0 ? soup() : kind == 1 ? extreme() : below(20);
  return kind == 0 ? pointer() : kind == 1 ? length() : number();
}

// Calls that end the program or this thread, as they should, or that would only put an end to the test.
bool leave_out(long call) {
  switch (call) {
    case SYS_exit:
    case SYS_exit_group:
    case SYS_execve:
    case SYS_execveat:
    case SYS_fork:
    case SYS_vfork:
    case SYS_rt_sigreturn:  // restores nonsense; the test `wild_context` does that on purpose
    case SYS_rt_sigaction:  // would take our handlers away
    case SYS_rt_sigprocmask:
    case SYS_rt_sigsuspend:
    case SYS_sigaltstack:
    case SYS_set_tid_address:
    case SYS_set_robust_list:
    case SYS_arch_prctl:
    case SYS_clone:
    case SYS_clone3:
    case SYS_kill:
    case SYS_tkill:
    case SYS_tgkill:
    case SYS_rt_sigqueueinfo:
    case SYS_rt_tgsigqueueinfo:
    case SYS_setrlimit:
    case SYS_prlimit64: return true;
    default: return false;
  }
}

// Memory calls may hit our own code and stack: keep their first argument inside the arena or in free space.
bool changes_memory(long call) {
  return call == SYS_munmap || call == SYS_mmap || call == SYS_mprotect || call == SYS_mremap || call == SYS_madvise ||
         call == SYS_brk || call == SYS_remap_file_pages || call == SYS_shmat;
}

void on_fault(int) { siglongjmp(back, 1); }
void on_other(int) {}
const struct sigaction kHeard = [] {
  struct sigaction action{};
  action.sa_handler = on_other;
  return action;
}();

// What calls mapped goes again: touched by later calls, it would use up the guest's memory.
struct Mapping {
  std::uint64_t start, length;
};
Mapping mappings[64];
unsigned mapped = 0;
void unmap_all() {
  while (mapped > 0) {
    --mapped;
    munmap(reinterpret_cast<void*>(mappings[mapped].start), mappings[mapped].length);
  }
}

void open_descriptors() {
  for (int fd = 3; fd < 40; ++fd) close(fd);
  open("/data/file", O_RDWR | O_CREAT, 0600);
  open("/data", O_RDONLY | O_DIRECTORY);
  int p[2];
  if (pipe2(p, O_NONBLOCK)) return;
  eventfd(1, EFD_NONBLOCK);
  epoll_create1(0);
  timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  open("/proc/self/maps", O_RDONLY);
  open("/dev/zero", O_RDWR);
}

}  // namespace

thread_local sigjmp_buf back;
void catch_faults() {
  static thread_local char stack[65536];
  stack_t alternate{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
  sigaltstack(&alternate, nullptr);
  struct sigaction action{};
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  for (int signal : {SIGSEGV, SIGBUS}) sigaction(signal, &action, nullptr);
}

namespace {

constexpr long kFileCalls[] = {SYS_read,     SYS_write,      SYS_pread64,           SYS_pwrite64,
                               SYS_readv,    SYS_writev,     SYS_preadv2,           SYS_pwritev2,
                               SYS_vmsplice, SYS_getdents64, SYS_io_uring_register, SYS_io_uring_enter,
                               SYS_ioctl,    SYS_fstat};
constexpr long kMemoryCalls[] = {SYS_mmap,  SYS_munmap, SYS_mprotect, SYS_madvise,   SYS_mremap, SYS_msync, SYS_mincore,
                                 SYS_mlock, SYS_futex,  SYS_poll,     SYS_getrandom, SYS_getcwd, SYS_uname, SYS_open};
bool is_vector(long call) {
  return call == SYS_readv || call == SYS_writev || call == SYS_preadv2 || call == SYS_pwritev2 ||
         call == SYS_vmsplice || call == SYS_io_uring_register;
}
bool takes_file(long call) {
  return std::find(std::begin(kFileCalls), std::end(kFileCalls), call) != std::end(kFileCalls);
}
// One of those that read, write or change what they are pointed at.
long upon_memory() {
  return below(2) ? kFileCalls[below(std::size(kFileCalls))] : kMemoryCalls[below(std::size(kMemoryCalls))];
}

// Arguments with which a call does something: nonsense alone is turned away before memory is touched.
void make_plausible(long call, std::uint64_t (&a)[6]) {
  const std::uint64_t page = below(arena_bytes / kPage), left = arena_bytes / kPage - page,
                      at = reinterpret_cast<std::uint64_t>(arena) + page * kPage;
  const std::uint64_t pages = 1 + below(left < 6 ? left : 6),
                      length = below(4) ? pages * kPage : 1 + below(pages * kPage);
  const std::uint64_t file = below(2) ? 3 + below(8) : kFile + below(5);
  if (is_vector(call)) {
    const std::uint64_t vector[] = {at, length, reinterpret_cast<std::uint64_t>(arena) + below(arena_bytes),
                                    below(3 * kPage)};
    a[1] = reinterpret_cast<std::uint64_t>(arena) + below(arena_bytes / kPage) * kPage + below(2) * (kPage - 8);
    std::memcpy(reinterpret_cast<void*>(a[1]), vector, sizeof vector);
    a[0] = file, a[2] = 1 + below(2), a[3] = below(4) ? below(1 << 16) : ~0ull, a[4] = a[5] = 0;
    if (call == SYS_vmsplice) a[3] = SPLICE_F_NONBLOCK;
    if (call == SYS_io_uring_register) a[3] = a[2], a[2] = a[1], a[1] = below(2);
    return;
  }
  switch (call) {
    case SYS_mmap: {
      const std::uint64_t flags[] = {MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED};
      a[0] = at, a[1] = length, a[2] = below(8),
      a[3] = flags[below(4)] | (below(4) ? 0 : MAP_POPULATE) | (below(2) ? 0 : MAP_FIXED);
      a[4] = kFile, a[5] = below(16) * kPage;
      return;
    }
    case SYS_mremap: a[0] = at, a[1] = length, a[2] = below(2 * length), a[3] = below(2); return;
    case SYS_mprotect: a[0] = at, a[1] = length, a[2] = below(8); return;
    case SYS_madvise: a[0] = at, a[1] = length, a[2] = below(26); return;
    case SYS_munmap:
    case SYS_mincore:
    case SYS_mlock:
    case SYS_msync: a[0] = at, a[1] = length, a[2] = call == SYS_mincore ? pointer() : 1; return;
    case SYS_futex:
      a[0] = at + below(2) * 4092, a[1] = below(13) | below(2) << 7, a[2] = below(3), a[3] = 0, a[4] = at;
      return;
    case SYS_poll: a[0] = at, a[1] = below(20), a[2] = 0; return;
    case SYS_getrandom:
    case SYS_getcwd: a[0] = at, a[1] = length, a[2] = 0; return;
    case SYS_ioctl:
      a[0] = kPinner, a[1] = (below(2) ? 0xc0006700 : 0x40006700) | (below(2) ? 64 : 24) << 16 | below(10), a[2] = at;
      return;
    default:
      if (takes_file(call)) a[0] = file, a[1] = at + below(8), a[2] = length, a[3] = below(1 << 16);
  }
}

// Its parent is to live and to go on; all other signals have a handler there.
void spare_others(long call, std::uint64_t (&a)[6]) {
  if (call == SYS_prlimit64) a[0] = 0;
  const bool to_thread = call == SYS_tgkill || call == SYS_rt_tgsigqueueinfo;
  if (!to_thread && call != SYS_kill && call != SYS_tkill && call != SYS_rt_sigqueueinfo) return;
  std::uint64_t& signal = a[to_thread ? 2 : 1];
  if (static_cast<int>(signal) == SIGKILL || static_cast<int>(signal) == SIGSTOP) signal = SIGUSR1;
}

void make_call(Style style, long call) {
  std::uint64_t a[6];
  if (sigsetjmp(back, 1) != 0) return;  // structures are written where nothing can be, too
  for (auto& value : a) value = argument(style);
  if (changes_memory(call) && (style != Style::Extreme || below(4))) {
    const std::uint64_t page = below(arena_bytes / kPage) * kPage;
    a[0] = reinterpret_cast<std::uint64_t>(arena) + page + (below(4) ? 0 : next() >> 20);
    if (call == SYS_mmap || call == SYS_mremap) {
      a[3] &= ~std::uint64_t{MAP_FIXED};
      if (style != Style::Extreme) a[1] = length();
    }
    if (call == SYS_brk && style != Style::Extreme) a[0] = next();
    if (call == SYS_munmap || call == SYS_mprotect || call == SYS_madvise) {
      a[0] = reinterpret_cast<std::uint64_t>(arena) + page;
      a[1] = below(2) ? below(arena_bytes - page) : ~0ull >> below(12);
      if (style == Style::Inherited) a[1] = below(6 * kPage);  // something is to be left
    }
  }
  if (style == Style::Inherited && below(4)) make_plausible(call, a);
  if (call == SYS_close || call == SYS_dup2 || call == SYS_dup3 || call == SYS_close_range)
    a[0] = 3 + below(60), a[1] = 3 + below(60);
  if (style == Style::Extreme) spare_others(call, a);
  long result = syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
  failed += result == -1;
  const auto at = static_cast<std::uint64_t>(result) - reinterpret_cast<std::uint64_t>(arena);
  if (result != -1 && (call == SYS_mmap || call == SYS_mremap) && at >= arena_bytes)
    mappings[mapped++] = {static_cast<std::uint64_t>(result), a[call == SYS_mmap ? 1 : 2]};
}

void ring_often() {  // ends calls that wait
  const itimerval often{{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &often, nullptr);
}

}  // namespace

void run_calls(Style style, std::uint64_t calls, Numbers numbers) {
  long call = -1;
  for (std::uint64_t i = 0; i < calls; ++i) {
    if (i == 0 || call == SYS_alarm || call == SYS_setitimer) ring_often();  // the last call may have switched that off
    if (i % 64 == 0) {
      open_descriptors();
      unmap_all();
      if (style != Style::Inherited) lay_out_arena();
      dup2(kOut, 1);
    }
    do call = numbers.first + static_cast<long>(below(static_cast<std::uint64_t>(numbers.last - numbers.first) + 1));
    while (style != Style::Extreme && leave_out(call));
    if (style == Style::Inherited && below(2)) call = upon_memory();
    if (style == Style::Inherited && (call == SYS_wait4 || call == SYS_waitid)) continue;  // our own children are ours
    make_call(style, call);
    ++done;
  }
  unmap_all();
}

namespace {

// Calls of every number, in children that make a few each and may come to any end: by what they called, or stuck in a
// wait with signals blocked, or with a timer that leaves them time for nothing else (as it would on Linux). So each is
// ended from outside.
void extremes(std::uint64_t calls, Numbers numbers) {
  constexpr std::uint64_t kEach = 32;
  constexpr int kPatience = 100;  // so many alarms
  std::uint64_t ended = 0;
  for (int signal : {SIGSEGV, SIGBUS}) sigaction(signal, &kHeard, nullptr);  // children send them
  ring_often();
  for (; done < calls; done += kEach) {
    const std::uint64_t seed = next();
    int child = fork();
    if (child < 0) std::fprintf(stderr, "wild: no child yet: %s\n", std::strerror(errno));
    for (; child < 0; child = fork()) pause();  // what the children of earlier ones have comes back, if nobody keeps it
    if (child == 0) {
      state = seed;
      catch_faults();
      run_calls(Style::Extreme, kEach, numbers);
      _exit(0);
    }
    int patience = kPatience;
    while (patience > 0 && waitpid(child, nullptr, 0) < 0 && errno == EINTR) --patience;
    ended += patience == 0;
    kill(-1, SIGKILL);  // and what it left behind
    while (wait(nullptr) > 0 || errno == EINTR) {}
  }
  std::fprintf(stderr, "wild: %llu children did not come to an end by themselves\n",
               static_cast<unsigned long long>(ended));
}

}  // namespace

}  // namespace wild

int main(int argc, char** argv) {
  using namespace wild;
  auto style = Style::Random;
  if (argc > 1 && std::strcmp(argv[1], "extreme") == 0) style = Style::Extreme;
  if (argc > 1 && std::strcmp(argv[1], "inherited") == 0) style = Style::Inherited;
  if (style != Style::Random) --argc, ++argv;
  if (argc < 3) return 2;
  state = std::strtoull(argv[1], nullptr, 0);
  std::uint64_t calls = std::strtoull(argv[2], nullptr, 0);
  const Numbers numbers{argc > 3 ? std::atol(argv[3]) : 0, argc > 4 ? std::atol(argv[4]) : 450};
  std::fprintf(stderr, "wild: seed %s, %s calls, numbers %ld to %ld\n", argv[1], argv[2], numbers.first, numbers.last);

  for (int signal = 1; signal <= 64; ++signal) sigaction(signal, &kHeard, nullptr);  // whatever a call may send us
  catch_faults();
  symlink("/etc/passwd", "/data/link");
  mkdir("/data/sub", 0700);
  fcntl(1, F_DUPFD, kOut);
  fcntl(0, F_DUPFD, kIn);
  close(0);
  open("/dev/null", O_RDONLY);  // for the calls
  int status = 0;
  if (style == Style::Inherited) {
    status = inherited(calls, numbers);
  } else {
    arena_bytes = kArena;
    arena = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (style == Style::Extreme) extremes(calls, numbers);
    else run_calls(style, calls, numbers);
  }
  char line[64];
  int n = std::snprintf(line, sizeof line, "survived %llu calls\n", static_cast<unsigned long long>(done));
  if (style != Style::Extreme)
    std::fprintf(stderr, "wild: %llu of them failed\n", static_cast<unsigned long long>(failed));
  // Its output may be gone: a call can have shut it down. The status tells as well. And a call may have let it wait no
  // longer.
  fcntl(kOut, F_SETFL, 0);
  (void)!write(kOut, line, static_cast<std::size_t>(n));
  for (ssize_t got = 1; got > 0 || (got < 0 && errno == EINTR);) got = read(kIn, line, sizeof line);
  return status;
}
