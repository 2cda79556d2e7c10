#include "vmm/process/child.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "arch/exec_sync.hpp"
#include "arch/process_stub.hpp"
#include "vmm/host_time.hpp"
#include "vmm/host_vdso.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/process/child_maker.hpp"
#include "vmm/process/rights.hpp"
#include "vmm/process/seccomp_filter.hpp"

namespace ramet::vmm::process {
namespace {

constexpr std::size_t kContextBytes = std::size_t{RAMET_CONTEXTS} * (RAMET_TOLD_SIZE + RAMET_SAID_SIZE);
constexpr unsigned kMapper = 0, kFilters = RAMET_CONTEXTS - 1;
constexpr std::chrono::microseconds kLook{50};  // for an answer, before sleeping

// In the told page of kFilters: two struct sock_fprog, then the programs.
constexpr std::size_t kMapperProgram = 0, kVcpuProgram = 16, kPrograms = 64;

std::uint64_t filters_at() { return RAMET_TOLD + std::uint64_t{kFilters} * RAMET_TOLD_SIZE; }

bool lay_out_filters(std::byte* page, bool hardened) {
  std::size_t at = kPrograms;
  for (const auto& [place, program] :
       {std::pair{kMapperProgram, mapper_filter()}, std::pair{kVcpuProgram, vcpu_filter(!hardened)}}) {
    const std::size_t bytes = program.size() * sizeof(sock_filter);
    if (bytes > RAMET_TOLD_SIZE - at) return false;
    const auto length = static_cast<std::uint16_t>(program.size());
    const std::uint64_t where = filters_at() + at;
    std::memcpy(page + place, &length, sizeof length);
    std::memcpy(page + place + 8, &where, sizeof where);
    std::memcpy(page + at, program.data(), bytes);
    at += bytes;
  }
  return true;
}

// The VMM's RLIMIT_NOFILE, which its processes inherit.
rlim_t descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

// What the mapper does first. `names`: of the commands, for messages about those that fail.
struct SetUp {
  std::vector<Command> commands;
  std::vector<const char*> names;
  std::size_t map_vdso = 0;  // index of the command that maps the vDSO, and the next checks its place; 0: there is none
  void add(const char* name, Command c) { commands.push_back(c), names.push_back(name); }
  void add(const arch::process_stub::NamedCall& call) {
    Command c{.number = call.number};
    std::ranges::copy(call.arguments, c.arguments);
    add(call.name, c);
  }
};

SetUp set_up(const Context& mapper, const HostVdso& vdso) {
  // What commands point to, in the mapper's told page.
  struct {
    struct {
      std::uint64_t handler, flags, restorer, mask;  // the kernel's struct sigaction
    } action;
    std::uint64_t all_signals;
    rlimit no_core;
  } data{.action = {.handler = arch::process_stub::handler(),
                    .flags = SA_SIGINFO | SA_ONSTACK | 0x04000000,
                    .restorer = RAMET_STUB_TEXT,
                    .mask = ~0ull},
         .all_signals = ~0ull,
         .no_core = {0, 0}};
  static_assert(sizeof data <= RAMET_TOLD_SIZE - TOLD_DATA);
  std::memcpy(mapper.data().data(), &data, sizeof data);
  const std::uint64_t action = mapper.data_at(), mask = action + sizeof data.action, limit = mask + 8;

  constexpr std::uint64_t kTextEnd = RAMET_STUB_TEXT + 0x1000,
                          kToldEnd = RAMET_TOLD + std::uint64_t{RAMET_CONTEXTS} * RAMET_TOLD_SIZE,
                          kSaidEnd = RAMET_SAID + std::uint64_t{RAMET_CONTEXTS} * RAMET_SAID_SIZE;
  namespace stub = arch::process_stub;
  SetUp s;
  s.add("munmap", {SYS_munmap, {0, RAMET_STUB_TEXT}});
  s.add("munmap", {SYS_munmap, {kTextEnd, RAMET_TOLD - kTextEnd}});
  s.add("munmap", {SYS_munmap, {kToldEnd, RAMET_SAID - kToldEnd}});
  s.add("munmap", {SYS_munmap, {kSaidEnd, stub::address_end() - kSaidEnd}});
  if (vdso.image_bytes && stub::kMapVdso) {
    // The calls above have unmapped execve(2)'s vDSO. The kernel maps another at the given address, or elsewhere:
    // mprotect(2) fails unless it is at that address, where nothing else can be.
    s.map_vdso = s.commands.size();
    s.add(*stub::kMapVdso);
    s.add("a vDSO at its place (mprotect)",
          {SYS_mprotect, {RAMET_HOST_VDSO + vdso.data_bytes, vdso.image_bytes, PROT_READ | PROT_EXEC}});
  }
  s.add("setsid", {SYS_setsid, {}});
  s.add("prctl(PR_SET_NO_NEW_PRIVS)", {SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1}});
  for (const auto& call : stub::first_calls()) s.add(call);
  s.add("prctl(PR_SET_DUMPABLE)", {SYS_prctl, {PR_SET_DUMPABLE, 0}});
  s.add("setrlimit", {SYS_prlimit64, {0, RLIMIT_CORE, limit, 0}});
  for (int signal : {SIGSYS, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, kick_signal()})
    s.add("sigaction", {SYS_rt_sigaction, {static_cast<std::uint64_t>(signal), action, 0, 8}});
  s.add("sigprocmask", {SYS_rt_sigprocmask, {SIG_SETMASK, mask, 0, 8}});
  s.add("close", {SYS_close, {3}});
  s.add("close", {SYS_close, {4}});
  s.add("seccomp",
        {SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, filters_at() + kMapperProgram}});
  return s;
}

}  // namespace

std::expected<std::unique_ptr<Child>, Failure> Child::create(bool hardened) {
  std::unique_ptr<Child> child(new Child(hardened));
  if (auto started = child->start(); !started) return std::unexpected(started.error());
  return child;
}

namespace {

// Checks the results of set_up()'s commands; returns whether the process has the host's vDSO. All processes of this
// VMM's guests have it, or none has: its addresses pass from one to another.
std::expected<bool, Failure> results(const Context& mapper, const SetUp& first) {
  const std::int64_t vdso_result = first.map_vdso ? mapper.result(first.map_vdso) : -ENOSYS;
  const bool never = vdso_result == -EINVAL || vdso_result == -EPERM || vdso_result == -ENOSYS;
  for (std::size_t i = 0; i < first.commands.size(); ++i) {
    if (never && first.map_vdso && (i == first.map_vdso || i == first.map_vdso + 1)) continue;
    if (const std::int64_t r = mapper.result(i); r < 0)
      return failure(fmt::format("the host refuses the guest's process {}: {}", first.names[i],
                                 std::strerror(static_cast<int>(-r))));
  }
  return !never;
}

}  // namespace

Status Child::start() {
  if (const char* const why = arch::exec_sync_problem()) return failure(why);
  auto maker = ChildMaker::get();
  if (!maker) return std::unexpected(maker.error());
  maker_ = std::move(*maker);
  const auto no = [](const char* what) {
    return failure(fmt::format("the host gives a guest's process no {}: {}", what, std::strerror(errno)));
  };
  const int contexts = ::memfd_create("ramet-contexts", MFD_CLOEXEC);
  if (contexts < 0) return no("memory file");
  void* mapped = ::ftruncate(contexts, kContextBytes) == 0
                     ? ::mmap(nullptr, kContextBytes, PROT_READ | PROT_WRITE, MAP_SHARED, contexts, 0)
                     : MAP_FAILED;
  if (mapped == MAP_FAILED) {
    ::close(contexts);
    return no("memory");
  }
  contexts_ = static_cast<std::byte*>(mapped);
  ::madvise(contexts_, kContextBytes, MADV_DONTDUMP);
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    ::close(contexts);
    return no("socket");
  }
  socket_ = pair[0];
  const int theirs = pair[1];

  if (!lay_out_filters(contexts_ + std::size_t{kFilters} * RAMET_TOLD_SIZE, hardened_)) {
    ::close(contexts), ::close(theirs);
    return failure("the system-call filters of a guest's process do not fit into their page");
  }
  const Context mapper = context(kMapper);
  const HostVdso& vdso = host_vdso();
  const SetUp first = set_up(mapper, vdso);
  mapper.prepare(first.commands, Then::Answer);
  mapper.go();
  // The mapper never spins, which would keep a processor from the guest: spin() is not called.
  const ChildMaker::Made made = maker_->make(contexts, theirs);
  ::close(contexts), ::close(theirs);
  pid_ = made.pid;
  pidfd_ = made.pidfd;
  if (pid_ < 0)
    return failure(fmt::format("the host gives the guest no process of its own: {}{}", std::strerror(made.error),
                               made.error == EAGAIN ? " (raise the limit on processes, ulimit -u)" : ""),
                   125, made.error == EAGAIN ? EAGAIN : 0);
  {
    LockGuard guard(mapper_lock_);
    numbers_.set(kMapperSocket);
  }
  if (!answered(mapper))
    return failure(
        "the guest's process did not start: the host must let unprivileged programs use clone, execveat of a memory file, and seccomp");
  const auto with_vdso = results(mapper, first);
  if (!with_vdso) return std::unexpected(with_vdso.error());
  if (*with_vdso) vdso_ = vdso.functions_at(RAMET_HOST_VDSO + vdso.data_bytes);
  return {};
}

Child::~Child() {
  if (pid_ > 0) {
    kill();
    // Waits until the process is gone: the caller then frees layers, banks and files that it had mapped.
    siginfo_t info;
    while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd_), &info, WEXITED | __WALL) != 0 &&
           errno == EINTR) {}
  }
  if (pidfd_ >= 0) ::close(pidfd_);
  if (socket_ >= 0) ::close(socket_);
  if (contexts_) ::munmap(contexts_, kContextBytes);
}

bool Child::alive() {
  if (ended_.load(std::memory_order_relaxed)) return false;
  pollfd ready{.fd = pidfd_, .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, 0) == 1) ended_.store(true, std::memory_order_relaxed);
  return !ended_.load(std::memory_order_relaxed);
}

void Child::kill() {
  ended_.store(true, std::memory_order_relaxed);
  (void)::syscall(SYS_pidfd_send_signal, pidfd_, SIGKILL, nullptr, 0);  // ESRCH: it has ended by itself
}

void Child::signal(Who who, int signal) { (void)::syscall(SYS_tgkill, who.process, who.thread, signal); }

std::chrono::nanoseconds Child::time_of_all() const {
  clockid_t clock;
  if (::clock_getcpuclockid(pid_, &clock) != 0) return {};
  return host_time(clock).value_or(std::chrono::nanoseconds{});
}

// Clocks of another process's threads cannot be read, only those of whole processes. /proc tells of threads, but once
// one of their files was opened, the end of the process takes the kernel a quarter of a millisecond longer.
std::chrono::nanoseconds Child::time_of(int thread) const {
  if (threads_.load(std::memory_order_acquire) == 1)
    return std::max(time_of_all() - before_threads_, std::chrono::nanoseconds(0));
  char path[64], text[64];
  std::snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", pid_, thread);
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t n = file >= 0 ? ::read(file, text, sizeof text) : -1;
  if (file >= 0) ::close(file);
  std::int64_t used = 0;
  if (n > 0 && std::from_chars(text, text + n, used).ec == std::errc{}) return std::chrono::nanoseconds(used);
  return time_of_all();  // /proc does not show other processes: that of all threads
}

int Child::set_nice(int thread, int nice) const {
  return ::setpriority(PRIO_PROCESS, static_cast<id_t>(thread), nice) == 0 ? 0 : errno;
}

int Child::bind(int thread, std::span<const std::byte> processors) const {
  return ::syscall(SYS_sched_setaffinity, thread, processors.size(), processors.data()) == 0 ? 0 : errno;
}

int Child::unset_nice(int thread) const {
  errno = 0;
  const int before = ::getpriority(PRIO_PROCESS, static_cast<id_t>(pid_));  // may be -1
  return errno != 0 ? errno : set_nice(thread, before);
}

int Child::unbind(int thread) const {
  std::array<std::byte, 1024> processors;
  const long bytes = ::syscall(SYS_sched_getaffinity, pid_, processors.size(), processors.data());
  return bytes < 0 ? errno : bind(thread, std::span(processors).first(static_cast<std::size_t>(bytes)));
}

bool Child::stopped() const {
  std::ifstream stat("/proc/" + std::to_string(pid_) + "/stat");
  std::string line;
  std::getline(stat, line);
  const auto name_end = line.rfind(") ");
  return name_end != line.npos && (line[name_end + 2] == 'T' || line[name_end + 2] == 't');
}

bool Child::patient(unsigned& silent) {
  if (!alive()) return false;
  if (stopped()) return true;
  constexpr unsigned kSlices = 100;  // of 100 ms; a slice in which the VMM itself is stopped counts as one
  if (++silent < kSlices) return true;
  kill();
  return false;
}

// --- the mapper ---

bool Child::answered(const Context& context) { return context.look(kLook).answered || context.sleep(Patience(*this)); }

std::expected<void, int> Child::ask(std::span<const Command> commands) {
  const Context mapper = context(kMapper);
  while (!commands.empty()) {
    const auto part = commands.first(std::min<std::size_t>(commands.size(), TOLD_MOST_COMMANDS));
    if (ended_.load(std::memory_order_relaxed)) return std::unexpected(ESRCH);
    mapper.prepare(part, Then::Answer);
    mapper.go();
    if (!answered(mapper)) return std::unexpected(ESRCH);
    for (std::size_t i = 0; i < part.size(); ++i)
      if (const std::int64_t r = mapper.result(i); r < 0 && r > -4096) return std::unexpected(static_cast<int>(-r));
    commands = commands.subspan(part.size());
  }
  return {};
}

std::expected<void, int> Child::carry_out(std::span<const Command> commands) {
  LockGuard guard(mapper_lock_);
  return ask(commands);
}

std::optional<int> Child::free_number(int from) const {
  const int end = static_cast<int>(std::min<rlim_t>(descriptor_limit(), numbers_.size()));
  while (from < end && numbers_.test(from)) ++from;
  return from < end ? std::optional(from) : std::nullopt;
}

std::expected<std::array<int, Mapper::kMostGiven>, int> Child::give(std::span<const int> descriptors) {
  LockGuard guard(mapper_lock_);
  std::array<int, kMostGiven> numbers{};
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const auto number = free_number(i == 0 ? 0 : numbers[i - 1] + 1);
    if (!number) return std::unexpected(EMFILE);
    numbers[i] = *number;
  }
  static_assert(kMostGiven <= kMostRights);
  if (!send_descriptors(socket_, descriptors)) return std::unexpected(errno);
  // The msghdr lies where guest code can write: nobody reads what the kernel stores there.
  const Context mapper = context(kMapper);
  constexpr std::size_t kMessage = RAMET_SIGNAL_STACK;  // the mapper has no use for a signal stack
  const std::uint64_t at = mapper.said_at() + kMessage;
  const iovec there{reinterpret_cast<void*>(at + 128), 1};
  msghdr receiving{};
  receiving.msg_iov = reinterpret_cast<iovec*>(at + 64);
  receiving.msg_iovlen = 1;
  receiving.msg_control = reinterpret_cast<void*>(at + 192);
  receiving.msg_controllen = CMSG_SPACE(kMostGiven * sizeof(int));
  std::memcpy(mapper.said().data() + kMessage, &receiving, sizeof receiving);
  std::memcpy(mapper.said().data() + kMessage + 64, &there, sizeof there);
  const Command receive{SYS_recvmsg, {kMapperSocket, at, MSG_CMSG_CLOEXEC}};
  if (auto done = ask({&receive, 1}); !done) return std::unexpected(done.error());
  for (std::size_t i = 0; i < descriptors.size(); ++i) numbers_.set(numbers[i]);
  return numbers;
}

std::expected<void, int> Child::take_back(int number) {
  LockGuard guard(mapper_lock_);
  const Command close{SYS_close, {static_cast<std::uint64_t>(number)}};
  if (auto done = ask({&close, 1}); !done) return done;
  numbers_.reset(number);
  return {};
}

std::expected<void, int> Child::take_all_back(std::span<const Command> then) {
  LockGuard guard(mapper_lock_);
  std::vector<Command> commands{{SYS_close_range, {0, kMapperSocket - 1}}, {SYS_close_range, {kMapperSocket + 1, ~0u}}};
  commands.insert(commands.end(), then.begin(), then.end());
  numbers_.reset();
  numbers_.set(kMapperSocket);
  return ask(commands);
}

std::expected<Listener, int> Child::fetch_listener(int number) {
  const Context mapper = context(kMapper);
  struct {
    msghdr message;
    iovec piece;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control;
  } data{};
  static_assert(sizeof data <= RAMET_TOLD_SIZE - TOLD_DATA);
  const auto there = [&](std::size_t offset) { return reinterpret_cast<void*>(mapper.data_at() + offset); };
  data.message.msg_iov = static_cast<iovec*>(there(offsetof(decltype(data), piece)));
  data.message.msg_iovlen = 1;
  data.message.msg_control = there(offsetof(decltype(data), control));
  data.message.msg_controllen = sizeof data.control;
  data.piece = {there(0), 1};
  auto* const header = reinterpret_cast<cmsghdr*>(data.control.data());
  header->cmsg_len = CMSG_LEN(sizeof number), header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
  std::memcpy(CMSG_DATA(header), &number, sizeof number);
  std::memcpy(mapper.data().data(), &data, sizeof data);
  const Command commands[] = {{SYS_sendmsg, {kMapperSocket, kMapperMessage, 0}},
                              {SYS_close, {static_cast<std::uint64_t>(number)}}};
  if (auto done = ask(commands); !done) return std::unexpected(done.error());
  int listener = -1;
  (void)receive_descriptors(socket_, {&listener, 1});
  // Descriptors are short: go on without the listener, by futexes.
  if (listener >= 0 && static_cast<rlim_t>(listener) >= descriptor_limit() / 2) {
    ::close(listener);
    return Listener();
  }
  return listener >= 0 ? Listener(listener) : Listener();
}

std::expected<Child::Thread, int> Child::make_thread(unsigned number) {
  LockGuard guard(mapper_lock_);
  const Context c = context(number);
  struct {
    stack_t stack;
    std::uint64_t no_signals;
  } data{};
  data.stack.ss_sp = reinterpret_cast<void*>(c.said_at() + RAMET_SIGNAL_STACK);
  data.stack.ss_size = RAMET_SAID_SIZE - RAMET_SIGNAL_STACK;
  data.stack.ss_flags = static_cast<int>(1u << 31);  // SS_AUTODISARM
  std::memcpy(c.data().data(), &data, sizeof data);
  if (arch::process_stub::reads_bases()) c.tell_bases();
  const auto listener = free_number();
  constexpr std::size_t kFilter = 2;
  const Command begin[] = {
      {SYS_sigaltstack, {c.data_at(), 0}},
      {SYS_rt_sigprocmask, {SIG_SETMASK, c.data_at() + offsetof(decltype(data), no_signals), 0, 8}},
      {SYS_seccomp,
       {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW | (listener ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0),
        filters_at() + kVcpuProgram}},
      {RAMET_FIRST_TRAP, {}},
  };
  c.prepare(begin, Then::Guest);
  c.go();
  const Command clone{SYS_clone, {thread_flags(), c.said_at() + RAMET_FIRST_STACK}};
  if (threads_.load(std::memory_order_relaxed) == 0) before_threads_ = time_of_all();
  if (auto made = ask({&clone, 1}); !made) return std::unexpected(made.error());
  threads_.fetch_add(1, std::memory_order_release);
  const auto thread = static_cast<int>(context(kMapper).result(0));
  if (!answered(c)) return std::unexpected(ESRCH);
  for (std::size_t i = 0; i + 1 < std::size(begin); ++i) {
    if (c.result(i) >= 0 && (i != kFilter || !listener || c.result(i) == *listener)) continue;
    kill();  // it must not run without its filter
    return std::unexpected(ESRCH);
  }
  if (!listener) return Thread{.id = thread, .listener = {}};
  auto fetched = fetch_listener(*listener);
  if (!fetched && fetched.error() == ESRCH) return std::unexpected(ESRCH);
  return Thread{.id = thread, .listener = fetched ? std::move(*fetched) : Listener()};
}

}  // namespace ramet::vmm::process
