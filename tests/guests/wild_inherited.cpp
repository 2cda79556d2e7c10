// The hostile guest on memory that it has from before: from its parent, which goes on using it, or from a snapshot. A
// page of each kind is laid out once; then it, its children and theirs make wild calls upon what they have left, while
// their other threads touch and advise it, files shrink and grow under their mappings, and devices let go and pin
// again.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "../../vmm/include/ramet_guest.h"
#include "wild.hpp"

namespace wild {
namespace {

constexpr std::size_t kBlock = 2 << 20, kPlotPages = 16, kPlot = kPlotPages * kPage;
enum Plot {
  kWritten,
  kUntouched,
  kReadOnly,
  kNothing,
  kSharedMemory,
  kSharedFile,
  kPrivateFile,
  kSegment,
  kCode,
  kNotForChildren,
  kWiped,
  kDevice,
  kRing,
  kPipe,
  kPlots
};

char* plot(Plot p) { return arena + kBlock + p * kPlot; }

void keep(int fd, int as) {
  if (fd < 0) return;
  dup2(fd, as);
  close(fd);
}

bool map(Plot p, int prot, int flags, int fd = -1) {
  return mmap(plot(p), kPlot, prot, flags | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0) != MAP_FAILED;
}

// False: something of it was refused.
bool lay_out() {
  arena_bytes = kBlock + kPlots * kPlot;
  auto* all = static_cast<char*>(
      mmap(nullptr, arena_bytes + kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (all == MAP_FAILED) return false;
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(all) & (kBlock - 1);
  arena = all + before;
  munmap(all, before);
  munmap(arena + arena_bytes, kBlock - before);
  madvise(arena, kBlock, MADV_HUGEPAGE);
  std::memset(arena, 1, kBlock);
  keep(open("/data/shared", O_RDWR | O_CREAT, 0600), kFile);
  if (ftruncate(kFile, kPlot) != 0 || !map(kSharedFile, PROT_READ | PROT_WRITE, MAP_SHARED, kFile) ||
      !map(kPrivateFile, PROT_READ | PROT_WRITE, MAP_PRIVATE, kFile))
    return false;
  for (Plot p : {kWritten, kReadOnly, kSharedFile, kPrivateFile, kCode, kNotForChildren, kWiped, kDevice, kRing, kPipe})
    for (std::size_t i = 0; i < kPlot; i += 8) {
      const std::uint64_t value = next() >> below(64);
      std::memcpy(plot(p) + i, &value, 8);
    }
  mprotect(plot(kReadOnly), kPlot, PROT_READ);
  mprotect(plot(kCode), kPlot, PROT_READ | PROT_EXEC);
  mprotect(plot(kNothing), kPlot, PROT_NONE);
  madvise(plot(kNotForChildren), kPlot, MADV_DONTFORK);
  return madvise(plot(kWiped), kPlot, MADV_WIPEONFORK) == 0;
}

// What a snapshot cannot hold.
struct Range {
  std::uint64_t address, bytes;
  std::uint32_t flags;
};
constexpr unsigned long kPinPages = _IOW('g', 7, Range), kUnpinPages = _IO('g', 8);

bool pin() {
  Range range{reinterpret_cast<std::uint64_t>(plot(kDevice)), kPlot, 1};
  return ioctl(kPinner, kPinPages, &range) == 0;
}
bool register_buffers() {
  iovec buffers[2] = {{plot(kRing), kPlot}, {arena + kPage, 3 * kPage}};
  return syscall(SYS_io_uring_register, kUring, IORING_REGISTER_BUFFERS, buffers, 2) == 0;
}
bool splice_pages() {
  iovec pages{plot(kPipe), kPlot};
  return vmsplice(kPipeIn, &pages, 1, SPLICE_F_NONBLOCK) > 0;
}

// False: something of it was refused.
bool attach() {
  bool all = map(kSharedMemory, PROT_READ | PROT_WRITE, MAP_SHARED);
  if (all) std::memset(plot(kSharedMemory), 2, kPlot);
  const int segment = shmget(IPC_PRIVATE, kPlot, 0600);
  all = shmat(segment, plot(kSegment), SHM_REMAP) == plot(kSegment) && all;
  shmctl(segment, IPC_RMID, nullptr);
  keep(open("/sys/kernel/debug/gup_test", O_RDWR), kPinner);
  io_uring_params params{};
  keep(static_cast<int>(syscall(SYS_io_uring_setup, 4, &params)), kUring);
  int pipe[2];
  if (pipe2(pipe, O_NONBLOCK) == 0) keep(pipe[0], kPipeOut), keep(pipe[1], kPipeIn);
  const bool pinned = pin(), registered = register_buffers(), spliced = splice_pages();
  return all && pinned && registered && spliced;
}

// What goes on under those who have the memory as well.
void churn() {
  static char bin[kPage];
  switch (below(8)) {
    case 0: (void)!ftruncate(kFile, static_cast<off_t>(below(kPlotPages + 1) * kPage)); break;
    case 1: ioctl(kPinner, kUnpinPages); break;
    case 2: pin(); break;
    case 3: syscall(SYS_io_uring_register, kUring, IORING_UNREGISTER_BUFFERS, nullptr, 0); break;
    case 4: register_buffers(); break;
    case 5: splice_pages(); break;
    case 6:
      while (read(kPipeOut, bin, sizeof bin) > 0) {}
      break;
    default: mprotect(plot(Plot(below(kPlots))), kPlot, static_cast<int>(below(4)));
  }
}

// A thread beside the one that makes the calls: touches, and calls that do not wait.
std::atomic<bool> stop;
void* beside(void* seed) {
  state = reinterpret_cast<std::uint64_t>(seed);
  catch_faults();
  while (!stop.load(std::memory_order_relaxed)) {
    if (sigsetjmp(back, 1) != 0) continue;
    volatile char* at = arena + below(arena_bytes);
    auto* page = reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(at) & ~(kPage - 1));
    switch (below(8)) {
      case 0: *at = static_cast<char>(next()); break;
      case 1: (void)*at; break;
      case 2:
        syscall(SYS_futex, reinterpret_cast<std::uintptr_t>(at) & ~3ul, below(2) * 128 + 1, 1);
        break;  // FUTEX_WAKE
      case 3: madvise(page, kPage, below(2) ? MADV_DONTNEED : MADV_POPULATE_READ); break;
      case 4: mprotect(page, kPage, static_cast<int>(below(4))); break;
      case 5: (void)!pread(kFile, const_cast<char*>(at), below(3 * kPage), 0); break;
      case 6: (void)!pwrite(kFile, const_cast<char*>(at), below(3 * kPage), static_cast<off_t>(below(kPlot))); break;
      default: churn();
    }
  }
  return nullptr;
}

class Beside {
 public:
  Beside() {
    stop = false;
    for (; count_ < below(3); ++count_)
      if (pthread_create(&threads_[count_], nullptr, beside, reinterpret_cast<void*>(next())) != 0) break;
  }
  ~Beside() {
    stop = true;
    for (unsigned i = 0; i < count_; ++i) pthread_join(threads_[i], nullptr);
  }

 private:
  pthread_t threads_[3];
  unsigned count_ = 0;
};

// Makes calls, on its own and in a child, whose children are `depth` generations. False: a child did not come to its
// end.
bool generation(unsigned depth, std::uint64_t calls, Numbers numbers) {
  bool good = true;
  const Beside others;
  run_calls(Style::Inherited, calls, numbers);
  const std::uint64_t seed = next();
  const int child = depth ? static_cast<int>(fork()) : -1;
  if (child == 0) {
    state = seed;
    _exit(generation(depth - 1, calls, numbers) ? 0 : 1);
  }
  for (unsigned i = 0; i < 4; ++i) {
    churn();
    run_calls(Style::Inherited, calls / 8, numbers);
  }
  if (child > 0) {
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (status != 0) std::fprintf(stderr, "wild: a child of depth %u ended with status %#x\n", depth, status);
    good = status == 0;
  }
  return good;
}

}  // namespace

int inherited(std::uint64_t calls, Numbers numbers) {
  const bool laid_out = lay_out();
  state += static_cast<std::uint64_t>(ramet_snapshot("ready"));
  if (!laid_out || !attach()) {
    std::fprintf(stderr, "wild: not every kind of page could be made: %s\n", std::strerror(errno));
    return 1;
  }
  constexpr std::uint64_t kEach = 100;
  bool good = true;
  for (unsigned n = 1; done < calls; ++n) {
    good = generation(static_cast<unsigned>(below(4)), kEach, numbers) && good;
    if (n % 8) continue;
    ioctl(kPinner, kUnpinPages);
    munmap(arena, arena_bytes);
    if (lay_out()) attach();  // calls may have used up what it takes
  }
  return good ? 0 : 1;
}

}  // namespace wild
