// What vmm::run() leaves of the process that called it: everything as it was.
#include <dirent.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/vmm/x86_64/handled_guest.hpp"
#include "vmm/run.hpp"

extern char** environ;

namespace ramet::vmm {
namespace {

using Facts = std::map<std::string, std::string>;

std::string bytes_of(const void* p, std::size_t n) {
  std::string text;
  for (std::size_t i = 0; i < n; ++i) text += fmt::format("{:02x}", static_cast<const unsigned char*>(p)[i]);
  return text;
}

// By name, so that a difference says what it is.
Facts facts() {
  Facts f;
  std::vector<std::string> descriptors;
  {
    std::unique_ptr<DIR, int (*)(DIR*)> list(::opendir("/proc/self/fd"), ::closedir);
    while (dirent* e = ::readdir(list.get()))
      if (e->d_name[0] != '.' && std::stoi(e->d_name) != ::dirfd(list.get())) descriptors.push_back(e->d_name);
  }
  for (const auto& fd : descriptors) f["descriptor " + fd] = fs::read_symlink("/proc/self/fd/" + fd).string();
  for (const auto& task : fs::directory_iterator("/proc/self/task"))
    f["thread " + task.path().filename().string()] = "runs";
  sigset_t mask, pending;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  ::sigpending(&pending);
  for (int sig = 1; sig <= SIGRTMAX; ++sig) {
    struct sigaction action{};
    if (::sigaction(sig, nullptr, &action) != 0) continue;  // the C library's own
    f[fmt::format("signal {}", sig)] = fmt::format("handler {} flags {:x}{}{}",
                                                   reinterpret_cast<void*>(action.sa_handler), action.sa_flags,
                                                   sigismember(&mask, sig) ? " blocked" : "",
                                                   sigismember(&pending, sig) ? " pending" : "");
  }
  stack_t stack{};
  ::sigaltstack(nullptr, &stack);
  f["signal stack"] = fmt::format("{} {} {}", stack.ss_sp, stack.ss_flags, stack.ss_size);
  for (int limit = 0; limit < RLIMIT_NLIMITS; ++limit) {
    rlimit r{};
    ::getrlimit(static_cast<__rlimit_resource_t>(limit), &r);
    f[fmt::format("limit {}", limit)] = fmt::format("{} {}", r.rlim_cur, r.rlim_max);
  }
  for (int timer : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    itimerval value{};
    ::getitimer(static_cast<__itimer_which_t>(timer), &value);
    f[fmt::format("interval timer {}", timer)] = bytes_of(&value, sizeof value);
  }
  std::ifstream timers("/proc/self/timers");
  f["timers"] = std::string(std::istreambuf_iterator<char>(timers), {});
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    for (const char* name : {"Umask:", "NoNewPrivs:", "Seccomp:", "CapEff:"})
      if (line.starts_with(name)) f[name] = line;
  f["working directory"] = fs::current_path().string();
  for (char** e = environ; *e; ++e) f[std::string("environment ") + *e] = "there";
  std::ifstream children(fmt::format("/proc/self/task/{}/children", ::getpid()));
  f["children"] = std::string(std::istreambuf_iterator<char>(children), {});
  return f;
}

void expect_same(const Facts& before, const Facts& after) {
  for (const auto& [name, value] : before) EXPECT_EQ(after.contains(name) ? after.at(name) : "gone", value) << name;
  for (const auto& [name, value] : after) EXPECT_TRUE(before.contains(name)) << name << " is new: " << value;
}

// This program, in a guest whose processor does what `script` says.
struct Program {
  explicit Program(std::function<Exit(FakeVcpu&)> script = {}) {
    options.program = fs::read_symlink("/proc/self/exe");
    if (script) vcpu().script = [this, script] { return script(vcpu()); };
  }
  FakeVcpu& vcpu() { return static_cast<FakeMachine&>(shell->machine()).vcpu; }
  std::expected<Report, Failure> operator()() { return run(*shell, options); }
  std::shared_ptr<Shell> shell = make_fake_shell();
  RunOptions options;
};

Exit call(FakeVcpu& vcpu, long number, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0) {
  UserRegs& r = vcpu.regs();
  r[Rax] = static_cast<std::uint64_t>(number);
  r[Rdi] = a, r[Rsi] = b, r[Rdx] = c;
  return {.kind = Exit::Kind::Syscall, .detail = {}};
}

// What stays after the first run, see run.hpp, is there before the test looks.
class Manners : public ::testing::Test {
 protected:
#ifdef RAMET_SANITIZED
  void SetUp() override { GTEST_SKIP() << "the sanitizers' build of this program is dynamic, and it is its own guest"; }
#else
  static void SetUpTestSuite() {
    install_kick_signal();
    const auto report = Program()();
    ASSERT_TRUE(report) << report.error().message;
  }
#endif
};

TEST_F(Manners, AProgramThatUsesTimersPipesAndDirectoriesLeavesEverythingAsItWas) {
  const Facts before = facts();
  {
    int step = 0;
    Program run([&step](FakeVcpu& vcpu) {
      const std::uint64_t stack = vcpu.regs()[Rsp];
      switch (step++) {
        case 0: return call(vcpu, SYS_alarm, 1000);
        case 1: return call(vcpu, SYS_timer_create, CLOCK_MONOTONIC, 0, stack);
        case 2: return call(vcpu, SYS_pipe2, stack, 0);
        case 3: return call(vcpu, SYS_umask, 0);
        case 4: return call(vcpu, SYS_chdir, 0);
        case 5: return call(vcpu, SYS_prlimit64, 0, RLIMIT_NOFILE, 0);
        case 6: return call(vcpu, SYS_epoll_create1, 0);
        case 7: return call(vcpu, SYS_memfd_create, stack, 0);
        default: return call(vcpu, SYS_exit_group, 7);
      }
    });
    run.options.timeout = std::chrono::hours(1);
    run.options.observer = {.look = [](const mm::AddressSpace&, bool) {}, .every = std::chrono::hours(1)};
    auto report = run();
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->ending.status(), 7);
  }
  expect_same(before, facts());
}

TEST_F(Manners, AWriteToAPipeWithoutReadersLeavesTheCallersSignalsAsTheyWere) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  ::close(pipe[0]);
  for (int attempt = 0; attempt < 2; ++attempt) {  // the second of a thread as well
    const Facts before = facts();
    {
      Program run([](FakeVcpu& vcpu) { return call(vcpu, SYS_write, 1, vcpu.regs()[Rsp], 1); });
      run.options.standard = {-1, pipe[1], -1};
      auto report = run();
      ASSERT_TRUE(report) << report.error().message;
      EXPECT_EQ(report->ending.status(), 128 + SIGPIPE);
    }
    expect_same(before, facts());
  }
  ::close(pipe[1]);
}

TEST_F(Manners, AProgramThatIsNotThereLeavesEverythingAsItWas) {
  const Facts before = facts();
  {
    Program run;
    run.options.program = "/nothing-of-this-name";
    EXPECT_FALSE(run());
    run.options.shares = {{.host = "/nothing-of-this-name", .guest = "/b", .writable = false}};
    EXPECT_FALSE(run());
  }
  expect_same(before, facts());
}

TEST_F(Manners, AHostWithoutThreadsIsAFailureWithASentence) {
  // Stacks that no address space has room for: no std::thread begins.
  pthread_attr_t usual, huge;
  ASSERT_EQ(::pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(::pthread_attr_init(&huge), 0);
  ASSERT_EQ(::pthread_attr_setstacksize(&huge, std::size_t{1} << 50), 0);
  for (bool observed : {false, true}) {
    const Facts before = facts();
    {
      Program run;
      if (observed)
        run.options.observer = {.look = [](const mm::AddressSpace&, bool) {}, .every = std::chrono::hours(1)};
      else run.options.timeout = std::chrono::hours(1);
      ASSERT_EQ(::pthread_setattr_default_np(&huge), 0);
      const auto report = run();
      ASSERT_EQ(::pthread_setattr_default_np(&usual), 0);
      ASSERT_FALSE(report);
      EXPECT_EQ(report.error().status, 125);
      EXPECT_TRUE(report.error().message.starts_with("the host cannot start a thread to ")) << report.error().message;
    }
    expect_same(before, facts());
  }
}

// With a KVM a microVM, without one the way in which that fails.
TEST_F(Manners, AShellOfTheHostsLeavesEverythingAsItWas) {
  (void)Shell::create(64ull << 20);
  const Facts before = facts();
  {
    auto shell = Shell::create(64ull << 20);
    if (shell) {
      Program run;  // this one for once: it finds no test of that name
      run.options.arguments = {"--gtest_filter=Nothing"};
      run.options.standard = {-1, -1, -1};
      auto report = ramet::vmm::run(**shell, run.options);
      ASSERT_TRUE(report) << report.error().message;
      EXPECT_EQ(report->ending.status(), 0) << report->ending.message;
    } else {
      EXPECT_NE(shell.error().message, "");
    }
  }
  expect_same(before, facts());
}

}  // namespace
}  // namespace ramet::vmm
