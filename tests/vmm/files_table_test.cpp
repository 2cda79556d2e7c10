// The descriptor table: numbers, flags and locks.
#include <sys/file.h>
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
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETOWN, 1}), -EINVAL);
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

}  // namespace
}  // namespace ramet::vmm
