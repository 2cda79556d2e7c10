// Interruptible waits: no interruption is lost, and nothing else ends a wait.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

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
    return interruption.wait(SYS_read, {static_cast<std::uint64_t>(ends[0]), reinterpret_cast<std::uint64_t>(&c), 1, 0, 0, 0});
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

TEST(Blocking, NoInterruptionIsLostWhereverItFallsAroundTheStartOfAWait) {
  install_kick_signal();
  constexpr unsigned kRounds = 20000;
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
