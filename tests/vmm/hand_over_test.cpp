// How the VMM and a guest's thread take turns: a thread of this test does what the process machine's stub does, with a
// filter and a listener of its own, and is interrupted all the time, which makes a call that waits for a reply begin
// anew, as SIGSTOP and SIGCONT do.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <random>
#include <thread>
#include <vector>

#include "arch/relax.hpp"
#include "vmm/process/context.hpp"
#include "vmm/process/pace.hpp"

namespace ramet::vmm::process {
namespace {

using namespace std::chrono_literals;

class Stub {
 public:
  Stub() {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
    context_ = Context(bytes_.data(), 1);
    thread_ = std::thread([this] { run(); });
    listener_fd_.wait(0);
    listener_ = Listener(listener_fd_);
    context_.set_listener(listener_);
  }
  ~Stub() {
    stop_ = true;
    go();
    // It may be about to hand over.
    while (!ended_) {
      if (listener_.wait(1ms) == Listener::Heard::Thread) listener_.reply();
      ::syscall(SYS_futex, &told(TOLD_GO), FUTEX_WAKE, 1, nullptr, nullptr, 0);
    }
    thread_.join();
  }

  Context& context() { return context_; }
  Listener& listener() { return listener_; }
  void go() { context_.prepare({}, Then::Guest), context_.go(); }
  void interrupt() { pthread_kill(thread_.native_handle(), SIGUSR1); }

 private:
  std::uint32_t& told(std::size_t at) {
    return *reinterpret_cast<std::uint32_t*>(bytes_.data() + RAMET_TOLD_SIZE + at);
  }
  std::uint32_t& said(std::size_t at) { return *reinterpret_cast<std::uint32_t*>(context_.said().data() + at); }
  static std::uint32_t look(std::uint32_t& word) { return std::atomic_ref(word).load(std::memory_order_seq_cst); }
  static void say(std::uint32_t& word, std::uint32_t value) {
    std::atomic_ref(word).store(value, std::memory_order_seq_cst);
  }

  void run() {
    sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                             BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RAMET_HAND_OVER, 0, 1),
                             BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
                             BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog filter{4, program};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    listener_fd_ = static_cast<int>(
        ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter));
    listener_fd_.notify_all();
    for (std::uint32_t list = 0;;) {
      const std::uint32_t sleeps = look(told(TOLD_SLEEPS));
      if (sleeps == TOLD_SLEEPS_ON_LISTENER) ::syscall(RAMET_HAND_OVER);
      else if (sleeps == TOLD_SLEEPS_ON_FUTEX)
        ::syscall(SYS_futex, &said(SAID_DONE), FUTEX_WAKE, 1, nullptr, nullptr, 0);
      for (unsigned i = 0; i < 50 && look(told(TOLD_GO)) == list; ++i) arch::relax();
      say(said(SAID_SLEEPS), 1);
      while (look(told(TOLD_GO)) == list) ::syscall(SYS_futex, &told(TOLD_GO), FUTEX_WAIT, list, nullptr, nullptr, 0);
      say(said(SAID_SLEEPS), 0);
      if (stop_) break;
      list = look(told(TOLD_GO));
      say(said(SAID_DONE), list);
    }
    ended_ = true;
  }

  std::vector<std::byte> bytes_ = std::vector<std::byte>(std::size_t{RAMET_CONTEXTS} *
                                                         (RAMET_TOLD_SIZE + RAMET_SAID_SIZE));
  Context context_;
  std::atomic<int> listener_fd_{0};
  std::atomic<bool> stop_{false}, ended_{false};
  Listener listener_;
  std::thread thread_;
};

// For ten seconds.
auto patience() {
  return [slices = 0]() mutable { return ++slices < 100; };
}

TEST(HandOver, WhateverWayIsTakenEachListIsAnswered) {
  Stub stub;
  ASSERT_TRUE(stub.listener().usable());
  const std::jthread interrupts([&](std::stop_token done) {
    while (!done.stop_requested()) stub.interrupt(), ::usleep(30);
  });
  std::mt19937 random(std::random_device{}());
  constexpr unsigned kRounds = 5'000;
  unsigned heard = 0;
  for (unsigned i = 0; i < kRounds; ++i) {
    const auto way = random() % 3;
    if (way == 0) stub.context().listen();
    stub.go();
    const bool looked = way == 1 && stub.context().look(20us).answered;
    ASSERT_TRUE(looked || stub.context().sleep(patience())) << "list " << i;
    heard += stub.listener().pending();
    if (random() % 4 == 0) ::usleep(static_cast<useconds_t>(random() % 100));  // the call is served
  }
  EXPECT_GE(heard, kRounds / 4);
}

// Which processors there are is not looked at: only what looking brings.
TEST(HandOver, LookingThatBringsNothingIsGivenUpAndTriedAgain) {
  Pace pace;
  unsigned looks = 0, listens = 0;
  for (unsigned i = 0; i < 1000; ++i) {
    const auto how = pace.next();
    if (how == Pace::Wait::Look) pace.looked({}), ++looks;
    listens += how == Pace::Wait::Listen;
  }
  EXPECT_LT(looks, 200u);
  EXPECT_GT(looks, 50u);
  EXPECT_GT(listens, 700u);
  while (pace.next() != Pace::Wait::Look) {}
  pace.looked({.answered = true});
  for (unsigned i = 0; i < 100; ++i) {
    ASSERT_EQ(pace.next(), Pace::Wait::Look);
    pace.looked({.answered = i % 3 != 0});
  }
}

// Looks until that does not pay any longer. How many traps it rests then.
unsigned rest_of(Pace& pace, const Context::Looked& looked) {
  unsigned looks = 0, listens = 0;
  Pace::Wait how;
  while ((how = pace.next()) == Pace::Wait::Look) {
    pace.looked(looked);
    if (++looks == 10'000) return 0;
  }
  for (; how == Pace::Wait::Listen; how = pace.next()) ++listens;
  EXPECT_EQ(how, Pace::Wait::Sleep) << "each side gets a processor of its own before the VMM looks again";
  return listens;
}

TEST(HandOver, WhereLookingDoesNotPayItIsDoneSeldom) {
  const Context::Looked found{.answered = true}, shared{.answered = true, .at_once = true},
      displaced{.answered = true, .displaced = 4ms}, disturbed{.answered = true, .displaced = 11us};
  for (const auto& costly : {shared, displaced}) {
    Pace pace;
    const unsigned first = rest_of(pace, costly);
    EXPECT_GT(first, 0u);
    EXPECT_LT(first, 20u);
    for (unsigned i = 0; i < 10; ++i) rest_of(pace, costly);
    EXPECT_GT(rest_of(pace, costly), 500u);
    for (unsigned i = 0; i < 20'000; ++i) pace.looked(found);
    EXPECT_LE(rest_of(pace, costly), first) << "that others were there is forgotten";
  }
  for (const auto& cheap : {found, disturbed}) {
    Pace pace;
    EXPECT_EQ(rest_of(pace, cheap), 0u);
  }
}

}  // namespace
}  // namespace ramet::vmm::process
