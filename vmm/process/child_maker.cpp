#include "vmm/process/child_maker.hpp"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "arch/host_processor.hpp"
#include "arch/process_stub.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/process/rights.hpp"
#include "vmm/process/seccomp_filter.hpp"
#include "vmm/signals_blocked.hpp"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U  // Linux 6.3
#endif

namespace ramet::vmm::process {
namespace {

constexpr std::uint64_t kProgramAt = 0x200000;
constexpr std::size_t kPage = 4096;

// An ELF program of two pages: headers, and the stub.
std::vector<std::byte> program() {
  std::vector<std::byte> file(2 * kPage);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = arch::host_abi().elf_machine;
  header.e_version = EV_CURRENT;
  header.e_entry = kProgramAt;
  header.e_phoff = sizeof header;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 2;
  const Elf64_Phdr segments[] = {{.p_type = PT_LOAD,
                                  .p_flags = PF_R | PF_X,
                                  .p_offset = kPage,
                                  .p_vaddr = kProgramAt,
                                  .p_paddr = kProgramAt,
                                  .p_filesz = kPage,
                                  .p_memsz = kPage,
                                  .p_align = kPage},
                                 {.p_type = PT_GNU_STACK,
                                  .p_flags = PF_R | PF_W,
                                  .p_offset = 0,
                                  .p_vaddr = 0,
                                  .p_paddr = 0,
                                  .p_filesz = 0,
                                  .p_memsz = 0,
                                  .p_align = 16}};
  std::memcpy(file.data(), &header, sizeof header);
  std::memcpy(file.data() + sizeof header, segments, sizeof segments);
  const auto code = arch::process_stub::code();
  std::memcpy(file.data() + kPage, code.data(), code.size());
  return file;
}

// The thread's descriptors: below kOrders all are the program, as a new process closes or overwrites them; kOrders is
// the socket that orders come from; those that come with an order lie above.
constexpr int kOrders = 6;

struct Begin {
  int contexts, socket;
  pid_t parent;
};

// Runs in the new process until execve, in the VMM's memory.
int begin(void* argument) {
  const Begin& b = *static_cast<const Begin*>(argument);
  if (::dup2(b.contexts, 3) < 0 || ::dup2(b.socket, kMapperSocket) < 0) ::_exit(1);
  for (int fd = 0; fd < 3; ++fd) ::close(fd);
  if (::syscall(SYS_close_range, kOrders, ~0u, 0) != 0) ::_exit(1);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != b.parent) ::_exit(1);
  char* const none[] = {nullptr};
  ::syscall(SYS_execveat, 4, "", none, none, AT_EMPTY_PATH);
  ::_exit(2);
}

}  // namespace

std::expected<std::shared_ptr<ChildMaker>, Failure> ChildMaker::get() {
  static Mutex lock;
  static std::weak_ptr<ChildMaker> known;
  LockGuard guard(lock);
  if (auto there = known.lock()) return there;
  std::shared_ptr<ChildMaker> fresh(new ChildMaker);
  if (auto started = fresh->start(); !started) return std::unexpected(started.error());
  known = fresh;
  return fresh;
}

Status ChildMaker::start() {
  const auto bytes = program();
  int file = ::memfd_create("ramet-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  if (file < 0 && errno == EINVAL) file = ::memfd_create("ramet-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0)
    return failure(
        fmt::format("the host gives no memory file that can be run: {} (sysctl vm.memfd_noexec must not be 2)",
                    std::strerror(errno)));
  program_ = file;
  if (::write(program_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      ::fcntl(program_, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    return failure(fmt::format("the host gives no memory for the guest's process: {}", std::strerror(errno)));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return failure(fmt::format("the host gives no socket for the guest's process: {}", std::strerror(errno)));
  orders_ = ends[0], hearer_ = ends[1];
  try {
    SignalsBlocked blocked;
    thread_ = std::thread([this] { work(); });
  } catch (const std::system_error& e) {
    return failure(fmt::format("the host cannot start a thread: {}", e.what()));
  }
  UniqueLock guard(lock_);
  changed_.wait(guard.standard(), [&]() RAMET_REQUIRES(lock_) { return ready_ || stop_; });
  ::close(std::exchange(hearer_, -1)), ::close(std::exchange(program_, -1));
  if (ready_) return {};
  return failure(
      "the host gives a thread no descriptors of its own: it must let unprivileged programs use close_range");
}

// Gives the thread a descriptor table of its own. False: the host refuses, and the thread must take no order.
bool ChildMaker::separate() {
  const unsigned above = static_cast<unsigned>(std::max(program_, hearer_)) + 1;
  if (::syscall(SYS_close_range, above, ~0u, CLOSE_RANGE_UNSHARE) != 0) return false;
  // Move both above the numbers that are overwritten next.
  const int hearer = ::fcntl(hearer_, F_DUPFD_CLOEXEC, kOrders), text = ::fcntl(program_, F_DUPFD_CLOEXEC, kOrders);
  if (hearer < 0 || text < 0) return false;
  for (int fd = 0; fd < kOrders; ++fd)
    if (::dup2(text, fd) < 0) return false;
  if (hearer != kOrders && ::dup3(hearer, kOrders, O_CLOEXEC) < 0) return false;
  return ::syscall(SYS_close_range, kOrders + 1, ~0u, 0) == 0;
}

ChildMaker::~ChildMaker() {
  {
    LockGuard guard(lock_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (const int fd : {program_, hearer_, orders_})
    if (fd >= 0) ::close(fd);
}

ChildMaker::Made ChildMaker::make(int contexts, int socket) {
  Order order;
  UniqueLock guard(lock_);
  changed_.wait(guard.standard(), [&]() RAMET_REQUIRES(lock_) { return order_ == nullptr; });
  if (!send_descriptors(orders_, std::array{contexts, socket})) return {.error = errno};
  order_ = &order;
  changed_.notify_all();
  changed_.wait(guard.standard(), [&] { return order.done; });
  if (order.made.pid < 0) return order.made;
  // No one else reaps the process, so its id is not reused even if it has ended.
  order.made.pidfd = static_cast<int>(::syscall(SYS_pidfd_open, order.made.pid, 0));
  if (order.made.pidfd >= 0) return order.made;
  const int error = errno;
  ::kill(order.made.pid, SIGKILL);
  while (::waitpid(order.made.pid, nullptr, __WALL) < 0 && errno == EINTR) {}
  return {.error = error};
}

void ChildMaker::work() {
  const bool separated = separate();
  UniqueLock guard(lock_);
  ready_ = separated, stop_ = stop_ || !separated;
  changed_.notify_all();
  for (;;) {
    changed_.wait(guard.standard(), [&]() RAMET_REQUIRES(lock_) { return stop_ || (order_ && !order_->done); });
    if (stop_) return;
    Order& order = *order_;
    guard.unlock();
    const Made made = spawn();
    guard.lock();
    order.made = made;
    order.done = true;
    order_ = nullptr;
    changed_.notify_all();
  }
}

ChildMaker::Made ChildMaker::spawn() {
  std::array<int, 2> given;
  if (!receive_descriptors(kOrders, given)) return {.error = EMFILE};
  Begin b{given[0], given[1], ::getpid()};
  alignas(64) static std::byte stack[32 << 10];  // this thread alone makes them, and waits until each has begun
  Made made;
  {
    // No handler of the VMM's may run in the new process, which keeps this mask over execve(2).
    const SignalsBlocked blocked{SignalsBlocked::All{}};
    made.pid = ::clone(begin, stack + sizeof stack, CLONE_VM | CLONE_VFORK, &b);
    made.error = made.pid < 0 ? errno : 0;
  }
  for (const int fd : given) ::close(fd);
  return made;
}

}  // namespace ramet::vmm::process
