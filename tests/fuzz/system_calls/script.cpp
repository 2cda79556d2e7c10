#include "tests/fuzz/system_calls/script.hpp"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sanitizer/common_interface_defs.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "arch/x86_64/user_state.hpp"
#include "tests/scarce.hpp"

namespace ramet::fuzz {

using enum arch::x86_64::Register;
using arch::x86_64::kSyscallLength;

void finding(const std::string& what) {
  __sanitizer_report_error_summary(("ERROR: " + what).c_str());
  std::abort();
}

namespace {

vmm::Exit exit_of(vmm::Exit::Kind kind) {
  vmm::Exit e;
  e.kind = kind;
  return e;
}

}  // namespace

void Script::begin(Run& run) {
  *this = {};
  run_ = &run, bytes_ = run.input;
  mode_ = u8();
  setup_ = kArenaSteps + kFileSteps;
  use_part(0);
}

// Its maker left in a register which bytes are its own: see call().
void Script::begin(Run& run, const vmm::UserRegs& r) {
  *this = {};
  const std::size_t from = std::min<std::size_t>(r[R15] & 0xffff'ffff, run.input.size());
  run_ = &run, bytes_ = run.input.subspan(from, std::min<std::size_t>(r[R15] >> 32, run.input.size() - from));
  use_part(static_cast<unsigned>(1 + from));
}

vmm::Exit Script::call(vmm::UserRegs& r, Word number, std::array<Word, 6> a) {
  r[Rax] = number;
  r[Rdi] = a[0], r[Rsi] = a[1], r[Rdx] = a[2], r[R10] = a[3], r[R8] = a[4], r[R9] = a[5];
  r[R15] = 0;
  const auto nr = static_cast<std::uint32_t>(number);
  if (nr == SYS_clone || nr == SYS_clone3 || nr == SYS_fork || nr == SYS_vfork) {
    const std::size_t length = std::min<std::size_t>(u8() * 2u, bytes_.size());
    r[R15] = static_cast<Word>(bytes_.data() - run_->input.data()) | static_cast<Word>(length) << 32;
    bytes_ = bytes_.subspan(length);
  }
  r[Rip] = kCode + kSyscallLength;
  if (r[Rsp] < kStack + (kStackBytes >> 2) || r[Rsp] > kStack + kStackBytes) r[Rsp] = kStack + kStackBytes - 256;
  issued_ = number;
  restarts_ = 0;
  return exit_of(vmm::Exit::Kind::Syscall);
}

// The pages are touched; then, perhaps, they become a layer, as after a fork whose child lives.
vmm::Exit Script::last_setup_call(vmm::UserRegs& r) {
  for (Gva at : {kReadOnly, kPinned, kCodePage}) (void)memory_->fault(at, mm::Access::Read);
  if (mode_ & 1) {
    if (auto layer = memory_->freeze()) {
      std::lock_guard guard(run_->lock);
      run_->layers.push_back(*layer);
    }
  }
  return call(r, SYS_chdir, {put(std::string("/w"))});
}

// An io_uring with its two mappings, in some programs; others have a further descriptor in its place.
vmm::Exit Script::ring_call(vmm::UserRegs& r, unsigned step) {
  if (!(mode_ & 4)) return step == 0 ? call(r, SYS_dup, {3}) : call(r, SYS_getpid, {});
  if (step == 0) {
    std::array<Word, 15> parameters{};
    return call(r, SYS_io_uring_setup, {8, put(std::as_bytes(std::span(parameters)))});
  }
  const auto [at, offset] = step == 1 ? std::pair<Word, Word>(kRing, 0)
                                      : std::pair<Word, Word>(kRingEntries, IORING_OFF_SQES);
  return call(r, SYS_mmap, {at, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, 21, offset});
}

// What every program finds: memory of each kind, and descriptors of each kind in the same places.
vmm::Exit Script::setup_call(vmm::UserRegs& r) {
  const unsigned step = kArenaSteps + kFileSteps - setup_--;
  auto map = [&](Gva at, Word bytes, int prot, int flags, Word file = ~0ull) {
    return call(r, SYS_mmap, {at, bytes, static_cast<Word>(prot), static_cast<Word>(flags | MAP_FIXED), file, 0});
  };
  auto open = [&](const char* name, int flags) {
    return call(r, SYS_open, {put(std::string(name)), static_cast<Word>(flags), 0644});
  };
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS, kBoth = PROT_READ | PROT_WRITE;
  switch (step) {
    case 0: return map(kBuffer, kBufferBytes, kBoth, kPrivate);
    case 1: return map(kStack, kStackBytes, kBoth, kPrivate);
    case 2: return map(kNone, 0x10000, PROT_NONE, kPrivate);
    case 3: return map(kReadOnly, 0x10000, PROT_READ, kPrivate);
    case 4: return map(kSharedMemory, 0x10000, kBoth, MAP_SHARED | MAP_ANONYMOUS);
    case 5: return map(kBlock, 2 * mm::kBlockSize, kBoth, kPrivate | MAP_POPULATE);
    case 6: return map(kCodePage, 0x10000, PROT_READ | PROT_EXEC, kPrivate);
    case 7: return map(kPinned, 0x10000, kBoth, kPrivate);
    case 8: return call(r, SYS_mprotect, {kReadOnly, 0x10000, PROT_READ});
    case 9:
      return call(r, SYS_rt_sigaction,
                  {static_cast<Word>(kWakeSignal), put_all(std::vector<Word>{kHandler, 0x0400'0000, kRestorer, 0}), 0,
                   8});
    case 10: return call(r, SYS_getpid, {});
    // Descriptors; 0 to 2 are there.
    case 11: return open("/w/a", O_RDWR);                                              // 3
    case 12: return open("/w", O_RDONLY | O_DIRECTORY);                                // 4
    case 13: return call(r, SYS_pipe2, {room(8), O_NONBLOCK});                         // 5, 6
    case 14: return call(r, SYS_socketpair, {AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, room(8)});  // 7, 8
    case 15: return call(r, SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, room(8)});   // 9, 10
    case 16: return call(r, SYS_epoll_create1, {0});                                   // 11
    case 17: return call(r, SYS_eventfd2, {3, EFD_NONBLOCK});                          // 12
    case 18: return call(r, SYS_timerfd_create, {CLOCK_MONOTONIC, TFD_NONBLOCK});      // 13
    case 19: return call(r, SYS_signalfd4, {~0ull, put_all(std::vector<Word>{1ull << 40}), 8, O_NONBLOCK});  // 14
    case 20: return call(r, SYS_memfd_create, {put(std::string("m")), MFD_ALLOW_SEALING});  // 15
    case 21: return open("/w/map", O_RDWR);                                            // 16
    case 22: return map(kSharedFile, 4 * kPageSize, kBoth, MAP_SHARED, 16);
    case 23: return map(kPrivateFile, 4 * kPageSize, kBoth, MAP_PRIVATE, 16);
    case 24: return open("/r/file", O_RDONLY);                                         // 17
    case 25: return map(kSharedReadOnly, 4 * kPageSize, PROT_READ, MAP_SHARED, 17);
    case 26: return open("/proc/self/status", O_RDONLY);                               // 18
    case 27: return open("/sys/kernel/debug/gup_test", O_RDWR);                        // 19
    case 28: return call(r, SYS_socket, {AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0});    // 20
    case 29:
    case 30:
    case 31: return ring_call(r, step - 29);                                            // 21
    case 32: return call(r, SYS_ftruncate, {16, mode_ & 8 ? 4 * kPageSize : 100});
    case 33:
      if (!(mode_ & 2)) return call(r, SYS_getpid, {});
      return call(r, SYS_ioctl, {19, _IOC(1, 'g', 7, 24), put_all(std::vector<Word>{kPinned, 2 * kPageSize, 1})});
    case 34: return call(r, SYS_fcntl, {15, F_DUPFD, 0});                              // 22
    case 35: return call(r, SYS_ftruncate, {15, 2 * kPageSize});
    default: return last_setup_call(r);
  }
}

vmm::Exit Script::fault() {
  vmm::Exit e = exit_of(vmm::Exit::Kind::PageFault);
  const std::uint8_t b = u8();
  if (b < 0xa0) {
    e.address = pointer();
    constexpr mm::Access kAccesses[] = {mm::Access::Write, mm::Access::Read, mm::Access::Execute};
    e.access = kAccesses[b % 3];
    return e;
  }
  if (b < 0xc0) return exit_of(vmm::Exit::Kind::Kicked);
  if (b < 0xc8) return exit_of(vmm::Exit::Kind::HostFault);
  constexpr int kSignals[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS};
  e.kind = vmm::Exit::Kind::Exception;
  e.signal = pick(kSignals), e.code = 1, e.address = pointer(), e.trap = 13;
  return e;
}

// An entry for the ring's queue, and the tail moved on.
void Script::ring_entry() {
  io_uring_sqe entry{};
  constexpr std::uint8_t kOperations[] = {IORING_OP_NOP,          IORING_OP_READ,        IORING_OP_WRITE,
                                          IORING_OP_READV,        IORING_OP_WRITEV,      IORING_OP_READ_FIXED,
                                          IORING_OP_WRITE_FIXED,  IORING_OP_FSYNC,       IORING_OP_POLL_ADD,
                                          IORING_OP_POLL_REMOVE,  IORING_OP_TIMEOUT,     IORING_OP_TIMEOUT_REMOVE,
                                          IORING_OP_LINK_TIMEOUT, IORING_OP_ASYNC_CANCEL};
  entry.opcode = wrong() ? u8() : pick(kOperations);
  const std::uint8_t flags = u8();
  entry.flags = flags < 0x80 ? 0 : flags & 0x1f;
  entry.fd = static_cast<int>(fd());
  unsigned pieces = 0;
  if (entry.opcode == IORING_OP_READV || entry.opcode == IORING_OP_WRITEV) entry.addr = iov(pieces), entry.len = pieces;
  else if (entry.opcode == IORING_OP_TIMEOUT || entry.opcode == IORING_OP_LINK_TIMEOUT)
    entry.addr = times(), entry.len = 1;
  else if (entry.opcode == IORING_OP_READ || entry.opcode == IORING_OP_WRITE || entry.opcode == IORING_OP_READ_FIXED ||
           entry.opcode == IORING_OP_WRITE_FIXED)
    entry.addr = pointer(), entry.len = static_cast<std::uint32_t>(size());
  if (wrong()) entry.addr = scalar();
  if (wrong()) entry.len = static_cast<std::uint32_t>(scalar());
  entry.off = u8() < 0x80 ? 0 : scalar();
  entry.user_data = u8() % 4;
  if (u8() >= 0xc0) entry.rw_flags = static_cast<int>(scalar());
  if (u8() >= 0xf0) entry.buf_index = static_cast<std::uint16_t>(scalar());
  // Where the queue's tail and array lie in the ring of 8 and 16 entries: see UringQueues::Shared.
  constexpr Gva kTail = kRing + 64, kCompletions = kRing + 6 * 64, kArray = kCompletions + 16 * 16;
  std::uint32_t tail = 0;
  if (!memory_->read(kTail, std::as_writable_bytes(std::span(&tail, 1)))) return;
  const std::uint32_t place = wrong() ? static_cast<std::uint32_t>(scalar()) : tail & 7;
  (void)memory_->write(kRingEntries + (place & 63) * sizeof entry, std::as_bytes(std::span(&entry, 1)));
  (void)memory_->write(kArray + (tail & 7) * 4, std::as_bytes(std::span(&place, 1)));
  tail += wrong() ? static_cast<std::uint32_t>(scalar()) : 1;
  (void)memory_->write(kTail, std::as_bytes(std::span(&tail, 1)));
}

// A call that came to its end gives a value or an errno that Linux knows, never a code of ours.
void Script::check_result(const vmm::UserRegs& r) {
  if (!issued_) return;
  const Word number = *std::exchange(issued_, std::nullopt);
  if (r[Rip] != kCode + kSyscallLength || static_cast<std::uint32_t>(number) == SYS_rt_sigreturn) return;
  const auto result = static_cast<std::int64_t>(r[Rax]);
  constexpr std::int64_t kLastErrno = 133;
  if (result < -kLastErrno) finding("call " + std::to_string(number) + " gave " + std::to_string(result));
  if (result <= 2) return;
  gave(r[Rax]);
  constexpr Word kOpen[] = {SYS_open,         SYS_openat,         SYS_creat,         SYS_openat2,
                            SYS_dup,          SYS_fcntl,          SYS_socket,        SYS_accept,
                            SYS_accept4,      SYS_epoll_create,   SYS_epoll_create1, SYS_eventfd,
                            SYS_eventfd2,     SYS_timerfd_create, SYS_signalfd,      SYS_signalfd4,
                            SYS_memfd_create, SYS_io_uring_setup};
  if (std::ranges::find(kOpen, number) != std::end(kOpen) && !setup_) opened(r[Rax]);
}

vmm::Exit Script::next(mm::AddressSpace& memory, bool fresh, vmm::UserRegs& r) {
  test::scarce::allocations_left = -1;
  const vmm::Exit next = choose(memory, fresh, r);
  test::scarce::allocations_left = std::exchange(scarce_, -1);
  return next;
}

vmm::Exit Script::choose(mm::AddressSpace& memory, bool fresh, vmm::UserRegs& r) {
  memory_ = &memory;
  if (fresh && !setup_ && !memory_->find_region(kBuffer)) setup_ = kArenaSteps + kFileSteps;  // after execve
  // The guest runs the SYSCALL instruction again when a call was interrupted.
  if (issued_ && r[Rip] == kCode && restarts_++ < 2) {
    r[Rip] = kCode + kSyscallLength;
    return exit_of(vmm::Exit::Kind::Syscall);
  }
  check_result(r);
  if (setup_) return setup_call(r);
  if (++exits_ > kMostExits) bytes_ = {};
  if (std::exchange(follow_, false) && static_cast<std::int64_t>(r[Rax]) > 2) {
    const Word fd = r[Rax];
    switch (u8() % 8) {
      default: return call(r, SYS_read, {fd, pointer(), size()});
      case 1: return call(r, SYS_getdents64, {fd, pointer(), size()});
      case 2:
        return call(r, SYS_mmap,
                    {page(), size(), u8() % 8u, static_cast<Word>(u8() & 1 ? MAP_SHARED : MAP_PRIVATE), fd,
                     u8() & 1 ? 0 : kPageSize});
      case 3: return call(r, SYS_write, {fd, pointer(), size()});
      case 4: return call(r, SYS_dup2, {fd, u8() % 32u});
    }
  }
  if (!bytes_.empty()) return operation(r);
  // The end of its bytes: children are waited for, then the thread ends.
  if (ends_++ < 3) return call(r, SYS_wait4, {~0ull, 0, 0x4000'0000, 0, 0, 0});
  return call(r, ends_ < 6 ? SYS_exit : SYS_exit_group, {});
}

vmm::Exit Script::operation(vmm::UserRegs& r) {
  switch (u8() % 16) {
    default: {
      const CallShape& shape = call_shapes()[little_endian(2) % call_shapes().size()];
      std::array<Word, 6> a{};
      count_ = 4;
      for (std::size_t i = 0; i < a.size(); ++i) a[i] = value(shape.arguments[i]);
      return call(r, shape.number, a);
    }
    case 10:
      follow_ = true;
      return call(r, SYS_open,
                  {path(), u8() < 0x80 ? 0 : pick(std::array<Word, 4>{O_RDWR, O_PATH, O_RDWR | O_CREAT, O_DIRECTORY}),
                   0644});
    case 11: {
      const Word number = u8() < 0xe0 ? little_endian(2) % 520 : scalar();
      std::array<Word, 6> a{};
      for (Word& w : a) w = scalar();
      return call(r, number, a);
    }
    case 12: {
      const Gva at = pointer();
      std::vector<Word> words;
      for (unsigned n = u8() % 9; n > 0; --n) words.push_back(scalar());
      (void)memory_->write(at, std::as_bytes(std::span(words)));
      return exit_of(vmm::Exit::Kind::Kicked);
    }
    case 13: return fault();
    case 14: {
      for (unsigned n = 1 + u8() % 4; n > 0; --n) ring_entry();
      return call(r, SYS_io_uring_enter, {21, wrong() ? scalar() : 4, u8() & 1u, u8() & 1u, 0, 0});
    }
    case 15:
      switch (u8() % 4) {
        case 0:  // a handler returns, if there is one
          r[Rsp] = r[Rsp] + 8;
          return call(r, SYS_rt_sigreturn, {});
        case 1: r[Rsp] = wrong() ? pointer() : kStack + kStackBytes - 256; break;
        case 2: return call(r, SYS_tgkill, {kFirstId, kFirstId, u8() % 65u});
        default: scarce_ = u8() % 64; return bytes_.empty() ? exit_of(vmm::Exit::Kind::Kicked) : operation(r);
      }
      return exit_of(vmm::Exit::Kind::Kicked);
  }
}

}  // namespace ramet::fuzz
