// Interruptible waits: no interruption is lost, and nothing else ends a wait.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

#include "tests/scaled.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/linux/blocking.hpp"

namespace ramet::vmm {
namespace {

// Far longer than anything here takes: it only turns a lost interruption into a failure instead of a hang.
constexpr timespec kGiveUp{60, 0};

std::int64_t wait_long(Interruption& interruption) {
  timespec limit = kGiveUp;
  return interruption.wait(SYS_ppoll, {0, 0, reinterpret_cast<std::uint64_t>(&limit), 0, 0, 0});
}

struct Pipe {
  Pipe() { EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0); }
  ~Pipe() {
    close(ends[0]);
    close(ends[1]);
  }
  std::int64_t read(Interruption& interruption, char& c) {
    return interruption.wait(SYS_read,
                             {static_cast<std::uint64_t>(ends[0]), reinterpret_cast<std::uint64_t>(&c), 1, 0, 0, 0});
  }
  int ends[2];
};

TEST(Blocking, ReturnsWhatTheHostCallReturns) {
  install_kick_signal();
  Interruption interruption;
  EXPECT_EQ(interruption.wait(SYS_getpid, {}), getpid());
  EXPECT_EQ(interruption.wait(SYS_close, {static_cast<std::uint64_t>(-1)}), -EBADF);
}

TEST(Blocking, AnInterruptionThatCameBeforeEndsTheWaitBeforeItTakesEffect) {
  install_kick_signal();
  Interruption interruption;
  Pipe pipe;
  ASSERT_EQ(write(pipe.ends[1], "x", 1), 1);
  interruption.set();
  char c = 0;
  EXPECT_EQ(pipe.read(interruption, c), -EINTR);
  interruption.clear();
  EXPECT_EQ(pipe.read(interruption, c), 1);  // the byte was not taken
  EXPECT_EQ(c, 'x');
}

std::uint64_t word(int n) { return static_cast<std::uint64_t>(n); }
std::uint64_t word(const void* p) { return reinterpret_cast<std::uint64_t>(p); }

TEST(Blocking, WhatNeedNotWaitIsNotInterrupted) {
  install_kick_signal();
  Interruption interruption;
  interruption.set();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  Pipe pipe;
  char c = 'y';
  iovec piece{&c, 1};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  for (const auto& [in, out] : {std::pair{pipe.ends[0], pipe.ends[1]}, std::pair{pair[1], pair[0]}}) {
    EXPECT_EQ(interruption.wait(SYS_preadv2, {word(in), word(&piece), 1, ~0ull, ~0ull, 0}), -EINTR);
    EXPECT_EQ(interruption.wait(SYS_pwritev2, {word(out), word(&piece), 1, ~0ull, ~0ull, 0}), 1);
    EXPECT_EQ(interruption.wait(SYS_preadv2, {word(in), word(&piece), 1, ~0ull, ~0ull, 0}), 1);
  }
  EXPECT_EQ(interruption.wait(SYS_recvmsg, {word(pair[1]), word(&message), 0}), -EINTR);
  EXPECT_EQ(interruption.wait(SYS_sendmsg, {word(pair[0]), word(&message), 0}), 1);

  pollfd one{.fd = pair[1], .events = POLLIN, .revents = 0};
  epoll_event event{.events = EPOLLIN, .data = {}};
  const int set = epoll_create1(EPOLL_CLOEXEC);
  ASSERT_EQ(epoll_ctl(set, EPOLL_CTL_ADD, pair[1], &event), 0);
  EXPECT_EQ(interruption.wait(SYS_ppoll, {word(&one), 1, 0, 0, 8}), 1);
  EXPECT_EQ(interruption.wait(SYS_epoll_pwait, {word(set), word(&event), 1, ~0ull, 0, 8}), 1);
  EXPECT_EQ(interruption.wait(SYS_recvmsg, {word(pair[1]), word(&message), 0}), 1);
  EXPECT_EQ(interruption.wait(SYS_ppoll, {word(&one), 1, 0, 0, 8}), -EINTR);
  EXPECT_EQ(interruption.wait(SYS_epoll_pwait, {word(set), word(&event), 1, ~0ull, 0, 8}), -EINTR);

  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
            client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
  ASSERT_EQ(bind(listener, reinterpret_cast<const sockaddr*>(&name), sizeof name.sun_family),
            0);  // a name that is nobody else's
  socklen_t length = sizeof name;
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&name), &length), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  EXPECT_EQ(interruption.wait(SYS_accept4, {word(listener), 0, 0, SOCK_CLOEXEC}), -EINTR);
  ASSERT_EQ(connect(client, reinterpret_cast<const sockaddr*>(&name), length), 0);
  const auto accepted = interruption.wait(SYS_accept4, {word(listener), 0, 0, SOCK_CLOEXEC});
  EXPECT_GE(accepted, 0);
  for (int fd : {pair[0], pair[1], set, listener, client, static_cast<int>(accepted)}) close(fd);
}

// Were it not kicked once more it would wait for ever.
TEST(Blocking, WhatMustWaitForTheRestIsInterruptedThen) {
  install_kick_signal();
  Interruption interruption;
  interruption.set();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  ASSERT_EQ(write(pair[0], "x", 1), 1);
  char two[2];
  iovec whole{two, 2};
  msghdr message{};
  message.msg_iov = &whole;
  message.msg_iovlen = 1;
  EXPECT_EQ(interruption.wait(SYS_recvmsg, {word(pair[1]), word(&message), MSG_WAITALL}), 1);
  Pipe pipe;
  std::array<char, 1 << 18> much{};
  iovec piece{much.data(), much.size()};
  const auto written = interruption.wait(SYS_pwritev2, {word(pipe.ends[1]), word(&piece), 1, ~0ull, ~0ull, 0});
  EXPECT_GT(written, 0);
  EXPECT_LT(written, static_cast<std::int64_t>(much.size()));
  EXPECT_EQ(interruption.wait(SYS_pwritev2, {word(pipe.ends[1]), word(&piece), 1, ~0ull, ~0ull, 0}), -EINTR);
  close(pair[0]), close(pair[1]);
}

TEST(Blocking, NoInterruptionIsLostWhereverItFallsAroundTheStartOfAWait) {
  install_kick_signal();
  const unsigned kRounds = ramet::test::scaled(20'000, 2000);
  Interruption interruption;
  std::atomic<unsigned> seen{0};
  const pthread_t owner = pthread_self();
  std::thread interrupter([&] {
    std::mt19937 random(1);
    for (unsigned round = 0; round < kRounds; ++round) {
      for (auto spin = random() % 2000; spin > 0; --spin) asm volatile("");
      interruption.raise(owner);
      seen.wait(round);
    }
  });
  unsigned lost = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    if (wait_long(interruption) != -EINTR) ++lost;
    interruption.clear();
    seen.store(round + 1);
    seen.notify_one();
  }
  interrupter.join();
  EXPECT_EQ(lost, 0u);
}

TEST(Blocking, AKickThatIsNotForTheWaitDoesNotEndIt) {
  install_kick_signal();
  Interruption interruption;
  Pipe pipe;
  const pthread_t owner = pthread_self();
  std::atomic<bool> reading{false};
  std::thread other([&] {
    while (!reading.load()) std::this_thread::yield();
    for (unsigned i = 0; i < 1000; ++i) {
      pthread_kill(owner, kick_signal());
      std::this_thread::yield();
    }
    EXPECT_EQ(write(pipe.ends[1], "y", 1), 1);
  });
  char c = 0;
  reading.store(true);
  EXPECT_EQ(pipe.read(interruption, c), 1);
  EXPECT_EQ(c, 'y');
  other.join();
}

TEST(Blocking, CallsThatAreNotInterruptibleDoNotNoticeAKick) {
  install_kick_signal();
  Pipe pipe;
  const pthread_t owner = pthread_self();
  std::thread other([&] {
    for (unsigned i = 0; i < 1000; ++i) {
      pthread_kill(owner, kick_signal());
      std::this_thread::yield();
    }
    EXPECT_EQ(write(pipe.ends[1], "z", 1), 1);
  });
  char c = 0;
  EXPECT_EQ(read(pipe.ends[0], &c, 1), 1);
  other.join();
}

}  // namespace
}  // namespace ramet::vmm
