// The descriptor table: numbers, flags and locks.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

TEST(Table, NumbersAreTheLowestFree) {
  Guest g({});
  EXPECT_EQ(g.open("/dev/null"), 0);
  EXPECT_EQ(g.open("/dev/null"), 1);
  EXPECT_EQ(g.call("dup", {0}), 2);
  EXPECT_EQ(g.call("close", {1}), 0);
  EXPECT_EQ(g.call("close", {1}), -EBADF);
  EXPECT_EQ(g.call("dup", {2}), 1);
  EXPECT_EQ(g.call("dup2", {0, 7}), 7);
  EXPECT_EQ(g.call("dup2", {0, 0}), 0);
  EXPECT_EQ(g.call("dup2", {50, 50}), -EBADF);
  EXPECT_EQ(g.call("dup2", {50, 1}), -EBADF);
  EXPECT_EQ(g.call("dup2", {0, 4096}), -EBADF);
  EXPECT_EQ(g.call("dup3", {0, 0, 0}), -EINVAL);
  EXPECT_EQ(g.call("dup3", {0, 8, 1}), -EINVAL);
  EXPECT_EQ(g.call("fcntl", {0, F_DUPFD, 100}), 100);
  EXPECT_EQ(g.call("fcntl", {0, F_DUPFD, 4096}), -EINVAL);
  EXPECT_EQ(g.call("fcntl", {0, F_DUPFD, as_word(-1)}), -EINVAL);
}

TEST(Table, CloseOnExecBelongsToTheNumber) {
  Guest g({});
  g.open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(g.call("fcntl", {0, F_GETFD}), FD_CLOEXEC);
  EXPECT_EQ(g.call("dup", {0}), 1);
  EXPECT_EQ(g.call("fcntl", {1, F_GETFD}), 0);
  EXPECT_EQ(g.call("fcntl", {1, F_SETFD, FD_CLOEXEC}), 0);
  EXPECT_EQ(g.call("fcntl", {1, F_GETFD}), FD_CLOEXEC);
  EXPECT_EQ(g.call("ioctl", {1, 0x5450 /* FIONCLEX */}), 0);
  EXPECT_EQ(g.call("fcntl", {1, F_GETFD}), 0);
  EXPECT_EQ(g.call("close_range", {0, UINT32_MAX, 4}), 0);
  EXPECT_EQ(g.call("fcntl", {1, F_GETFD}), FD_CLOEXEC);
  EXPECT_EQ(g.call("close_range", {1, UINT32_MAX, 0}), 0);
  EXPECT_EQ(g.call("fcntl", {1, F_GETFD}), -EBADF);
  EXPECT_EQ(g.call("fcntl", {0, F_GETFD}), FD_CLOEXEC);
  EXPECT_EQ(g.call("close_range", {2, 1, 0}), -EINVAL);
}

TEST(Table, StatusFlagsAreSharedByDuplicates) {
  Scratch s;
  Guest g({{s.path.string(), "/w", true}});
  std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  std::int64_t copy = g.call("dup", {as_word(fd)});
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETFL, O_APPEND | O_NONBLOCK | O_ASYNC}), 0);
  EXPECT_EQ(g.call("fcntl", {as_word(copy), F_GETFL}) & ~0100000, O_RDWR | O_APPEND | O_NONBLOCK);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETOWN, 1}), -ESRCH);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), 1234, 1}), -EINVAL);
}

TEST(Table, TheLimitIsAnError) {
  Guest g({});
  std::int64_t last = 0, n;
  while ((n = g.open("/dev/null")) >= 0) last = n;
  EXPECT_EQ(n, -EMFILE);
  EXPECT_EQ(last, 4095);
  EXPECT_EQ(g.call("dup", {0}), -EMFILE);
  EXPECT_EQ(g.call("pipe", {g.buffer}), -EMFILE);
  EXPECT_EQ(g.call("close", {17}), 0);
  EXPECT_EQ(g.call("pipe", {g.buffer}), -EMFILE);  // two are needed; the free one stays free
  EXPECT_EQ(g.open("/dev/null"), 17);
}

TEST(Table, LocksAreThoseOfTheHost) {
  Scratch s;
  s.file("f", "0123456789");
  Guest g({{s.path.string(), "/w", true}});
  std::int64_t fd = g.open("/w/f", O_RDWR);
  struct flock l{};
  l.l_type = F_WRLCK;
  l.l_len = 4;
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETLK, g.put_object(l)}), 0);
  // Another open file description of this process: only OFD locks conflict with it.
  HostFd host(::open((s.path / "f").c_str(), O_RDWR));
  struct flock mine{};
  mine.l_type = F_WRLCK;
  EXPECT_NE(::fcntl(host.get(), F_OFD_SETLK, &mine), 0);
  // Closing any descriptor of the file drops the process's locks, even a duplicate.
  std::int64_t copy = g.call("dup", {as_word(fd)});
  EXPECT_EQ(g.call("close", {as_word(copy)}), 0);
  EXPECT_EQ(::fcntl(host.get(), F_OFD_SETLK, &mine), 0);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETLK, g.put_object(l)}), -EAGAIN);
  std::uint64_t at = g.put_object(l);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_GETLK, at}), 0);
  EXPECT_EQ(g.get<struct flock>(at).l_type, F_WRLCK);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETLK, 0x10}), -EFAULT);
  g.thread->look_at_signals();
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETLKW, g.put_object(l)}), kRestartSys);
}

TEST(Table, WholeFileLocksConflictBetweenDescriptions) {
  Scratch s;
  s.file("f", "");
  Guest g({{s.path.string(), "/w", true}});
  std::int64_t a = g.open("/w/f"), b = g.open("/w/f");
  EXPECT_EQ(g.call("flock", {as_word(a), LOCK_EX | LOCK_NB}), 0);
  EXPECT_EQ(g.call("flock", {as_word(b), LOCK_EX | LOCK_NB}), -EAGAIN);
  EXPECT_EQ(g.call("close", {as_word(a)}), 0);
  EXPECT_EQ(g.call("flock", {as_word(b), LOCK_EX | LOCK_NB}), 0);
}

// As on Linux, where the number is had first.
TEST(Table, AFullTableLeavesFilesAsTheyAre) {
  Work w;
  w.s.file("full", "text");
  const std::int64_t last = w.g.open("/w/full");
  ASSERT_GE(last, 0);
  const rlim64_t before = w.g.limit_files(static_cast<rlim64_t>(last) + 1);
  EXPECT_EQ(w.g.open("/w/new", O_CREAT | O_EXCL | O_RDWR), -EMFILE);
  EXPECT_FALSE(fs::exists(w.s.path / "new"));
  EXPECT_EQ(w.g.open("/w/full", O_TRUNC | O_RDWR), -EMFILE);
  EXPECT_EQ(w.s.text("full"), "text");
  EXPECT_EQ(w.g.open("/w/nothing"), -EMFILE);
  const std::uint64_t at = w.g.put_object(std::array{7, 8});
  EXPECT_EQ(w.g.call("pipe2", {at, 0}), -EMFILE);
  EXPECT_EQ(w.g.get<int>(at), 7) << "a call that fails writes nothing";
  w.g.limit_files(before);
  EXPECT_EQ(w.g.open("/w/nothing"), -ENOENT);
  EXPECT_EQ(w.g.call("pipe2", {0x1000, 0}), -EFAULT);
  EXPECT_EQ(w.g.call("socketpair", {AF_UNIX, SOCK_STREAM, 0, 0x1000}), -EFAULT);
  EXPECT_EQ(w.g.open("/w/full"), last + 1) << "a call that failed keeps its numbers";
}

// Each takes one of the host's.
TEST(Table, NumbersThatAreWatchedLeaveTheVmmItsDescriptors) {
  Guest g({});
  const std::int64_t epoll = g.call("epoll_create1", {0}), event = g.call("eventfd2", {1, 0});
  const std::uint64_t watch = g.put_object(epoll_event{.events = EPOLLIN, .data = {}});
  const auto add = [&] {
    return g.call("epoll_ctl", {as_word(epoll), EPOLL_CTL_ADD, as_word(g.call("dup", {as_word(event)})), watch});
  };
  ASSERT_EQ(add(), 0);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const HostFd next(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const rlimit few{static_cast<rlim_t>(next.get()) + 128 + 5, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  unsigned added = 0;
  while (added < 100 && add() == 0) ++added;
  const std::int64_t last = add();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_GT(added, 0u);
  EXPECT_LE(added, 5u);
  EXPECT_EQ(last, -ENOSPC);
  EXPECT_EQ(add(), 0);
}

}  // namespace
}  // namespace ramet::vmm
