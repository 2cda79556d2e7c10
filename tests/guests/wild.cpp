// A hostile guest: calls every system call there is with random wild pointers, huge lengths, closed
// descriptors, paths outside and nonsense. wild SEED CALLS [FIRST LAST]
// Whatever it gets is right, as long as the VMM lives. Natively it must not be run: it would mean it.
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
#include <ucontext.h>
#include <unistd.h>

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <iterator>

namespace {

std::uint64_t state;
std::uint64_t next() {  // splitmix64 (Steele, Lea and Flood 2014)
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}
std::uint64_t below(std::uint64_t n) { return next() % n; }

char* arena;  // 64 pages: some writable, some read-only, some not there
constexpr std::size_t kArena = 64 * 4096;

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

const char* const kPaths[] = {"/etc/passwd", "../../../../etc/passwd", "/data/../../etc/passwd", "/proc/self/../../etc/passwd",
                              "/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/fd/3", "/proc/self/maps",
                              "/proc/self/exe", "/dev/kvm", "/dev/mem", "/data/link", "/data/file", "/data/file/", "/data/sub/x",
                              "/data/", "", ".", "..", "////", "/data/link/..", "/proc/self/cwd/../x", "/dev/fd/0", "file", "sub"};

std::uint64_t pointer() {
  char* in = arena + below(kArena);
  switch (below(12)) {
    case 0: return 0;
    case 1: return next();
    case 2: return 0xffff800000000000 + below(1ull << 40);
    case 3: return 0x7ffffffff000 - below(16);
    case 4: return 0xfffffffffffff000 + below(4096);
    case 5: return reinterpret_cast<std::uint64_t>(arena + (below(64) + 1) * 4096 - below(9));  // across a page's end
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
    case 0: return below(64);                                      // a descriptor, maybe
    case 1: return static_cast<std::uint64_t>(-1 - static_cast<std::int64_t>(below(200)));
    case 2: return 1ull << below(64);
    case 3: return next() >> below(64);
    default: return below(10);
  }
}
std::uint64_t argument() {
  switch (below(3)) {
    case 0: return pointer();
    case 1: return length();
    default: return number();
  }
}

// Calls that end the program or this thread, as they should, or that would only put an end to the test.
bool leave_out(long call) {
  switch (call) {
    case SYS_exit: case SYS_exit_group: case SYS_execve: case SYS_execveat: case SYS_fork: case SYS_vfork:
    case SYS_rt_sigreturn:    // restores nonsense; the test `wild_context` does that on purpose
    case SYS_rt_sigaction:    // would take our handlers away
    case SYS_rt_sigprocmask: case SYS_rt_sigsuspend: case SYS_sigaltstack:
    case SYS_set_tid_address: case SYS_set_robust_list: case SYS_arch_prctl:
    case SYS_clone: case SYS_clone3:
    case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo:
    case SYS_setrlimit: case SYS_prlimit64:
      return true;
    default: return false;
  }
}

// Memory calls may hit our own code and stack: keep their first argument inside the arena or in free space.
bool changes_memory(long call) {
  return call == SYS_munmap || call == SYS_mmap || call == SYS_mprotect || call == SYS_mremap || call == SYS_madvise ||
         call == SYS_brk || call == SYS_remap_file_pages || call == SYS_shmat;
}

sigjmp_buf back;
void on_fault(int) { siglongjmp(back, 1); }
void on_alarm(int) {}

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

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  state = std::strtoull(argv[1], nullptr, 0);
  std::uint64_t calls = std::strtoull(argv[2], nullptr, 0);
  long first = argc > 3 ? std::atol(argv[3]) : 0, last = argc > 4 ? std::atol(argv[4]) : 450;
  std::fprintf(stderr, "wild: seed %s, %s calls, numbers %ld to %ld\n", argv[1], argv[2], first, last);

  arena = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  static char stack[65536];
  stack_t alternate{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
  sigaltstack(&alternate, nullptr);
  struct sigaction action {};
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  for (int signal : {SIGSEGV, SIGBUS}) sigaction(signal, &action, nullptr);
  action.sa_handler = on_alarm;
  for (int signal = 1; signal <= 64; ++signal)  // whatever a call may send us
    if (signal != SIGSEGV && signal != SIGBUS) sigaction(signal, &action, nullptr);
  symlink("/etc/passwd", "/data/link");
  mkdir("/data/sub", 0700);
  int out = fcntl(1, F_DUPFD, 100);

  std::uint64_t failed = 0, done = 0;
  long call = -1;
  for (std::uint64_t i = 0; i < calls; ++i) {
    if (i == 0 || call == SYS_alarm || call == SYS_setitimer) {
      // Calls that wait are ended by an alarm, which the last call may have switched off.
      itimerval often{{0, 2000}, {0, 2000}};
      setitimer(ITIMER_REAL, &often, nullptr);
    }
    if (i % 64 == 0) {
      open_descriptors();
      unmap_all();
      lay_out_arena();
      dup2(out, 1);
    }
    do call = first + static_cast<long>(below(static_cast<std::uint64_t>(last - first) + 1));
    while (leave_out(call));
    std::uint64_t a[6];
    for (auto& value : a) value = argument();
    if (changes_memory(call)) a[0] = reinterpret_cast<std::uint64_t>(arena) + below(64) * 4096 + (below(4) ? 0 : next() >> 20);
    if (call == SYS_mmap || call == SYS_mremap) a[3] &= ~std::uint64_t{MAP_FIXED}, a[1] = length();
    if (call == SYS_brk) a[0] = next();
    if (call == SYS_munmap || call == SYS_mprotect || call == SYS_madvise) {
      a[0] = reinterpret_cast<std::uint64_t>(arena) + below(64) * 4096;
      a[1] = below(2) ? below(kArena - (a[0] - reinterpret_cast<std::uint64_t>(arena))) : ~0ull >> below(12);
    }
    if (call == SYS_close || call == SYS_dup2 || call == SYS_dup3 || call == SYS_close_range) a[0] = 3 + below(60), a[1] = 3 + below(60);
    if (sigsetjmp(back, 1) == 0) {
      long result = syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
      failed += result == -1;
      if (result != -1 && (call == SYS_mmap || call == SYS_mremap))
        mappings[mapped++] = {static_cast<std::uint64_t>(result), a[call == SYS_mmap ? 1 : 2]};
    }
    ++done;
  }
  char line[64];
  int n = std::snprintf(line, sizeof line, "survived %llu calls\n", static_cast<unsigned long long>(done));
  std::fprintf(stderr, "wild: %llu of them failed\n", static_cast<unsigned long long>(failed));
  // Its output may be gone: a call can have shut it down. The status tells as well.
  (void)!write(out, line, static_cast<std::size_t>(n));
  return 0;
}
