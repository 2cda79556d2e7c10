// Reading, writing, seeking and copying.
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

std::array<int, 2> make_pipe(Guest& g, int flags = 0) {
  std::uint64_t at = g.room(8);
  EXPECT_EQ(g.call("pipe2", {at, as_word(flags)}), 0);
  return g.get<std::array<int, 2>>(at);
}

TEST(Io, ReadsAndWritesMoveTheOffset) {
  Work w;
  Guest& g = w.g;
  std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  EXPECT_EQ(g.write(fd, "hello"), 5);
  EXPECT_EQ(g.call("lseek", {as_word(fd), 1, SEEK_SET}), 1);
  EXPECT_EQ(g.read_all(fd, 3), "ell");
  EXPECT_EQ(g.call("lseek", {as_word(fd), 0, SEEK_CUR}), 4);
  EXPECT_EQ(g.call("lseek", {as_word(fd), as_word(-1), SEEK_SET}), -EINVAL);
  std::uint64_t at = g.put("XY");
  EXPECT_EQ(g.call("pwrite64", {as_word(fd), at, 2, 1}), 2);
  EXPECT_EQ(w.s.text("f"), "hXYlo");
  at = g.room(16);
  EXPECT_EQ(g.call("pread64", {as_word(fd), at, 16, 2}), 3);
  EXPECT_EQ(g.bytes(at, 3), "Ylo");
  EXPECT_EQ(g.call("pread64", {as_word(fd), at, 16, as_word(-1)}), -EINVAL);
}

TEST(Io, VectorsAreGatheredAndScattered) {
  Work w;
  Guest& g = w.g;
  std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  std::uint64_t a = g.put("abc"), b = g.put("defg");
  std::array<std::uint64_t, 6> iov{a, 3, 0, 0, b, 4};  // an empty piece may point anywhere
  EXPECT_EQ(g.call("writev", {as_word(fd), g.put_object(iov), 3}), 7);
  EXPECT_EQ(w.s.text("f"), "abcdefg");
  std::uint64_t x = g.room(2), y = g.room(16);
  std::array<std::uint64_t, 4> into{x, 2, y, 16};
  EXPECT_EQ(g.call("preadv", {as_word(fd), g.put_object(into), 2, 1, 0}), 6);
  EXPECT_EQ(g.bytes(x, 2) + g.bytes(y, 4), "bcdefg");
  EXPECT_EQ(g.call("readv", {as_word(fd), g.put_object(into), 1025}), -EINVAL);
  EXPECT_EQ(g.call("preadv2", {as_word(fd), g.put_object(into), 2, 0, 0, 0x4000}), -EOPNOTSUPP);
}

TEST(Io, WrongArgumentsHaveLinuxsErrors) {
  Work w;
  Guest& g = w.g;
  std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR), reader = g.open("/w/f"), writer = g.open("/w/f", O_WRONLY),
               dir = g.open("/w");
  EXPECT_EQ(g.call("read", {99, g.buffer, 1}), -EBADF);
  EXPECT_EQ(g.call("read", {as_word(-1), g.buffer, 1}), -EBADF);
  EXPECT_EQ(g.call("read", {as_word(writer), g.buffer, 1}), -EBADF);
  EXPECT_EQ(g.call("write", {as_word(reader), g.buffer, 1}), -EBADF);
  EXPECT_EQ(g.call("read", {as_word(dir), g.buffer, 1}), -EISDIR);
  EXPECT_EQ(g.call("write", {as_word(fd), 0x10, 5}), -EFAULT);
  EXPECT_EQ(g.call("write", {as_word(fd), g.buffer, as_word(-1)}), -EINVAL);
  EXPECT_EQ(g.call("write", {as_word(fd), 0xffff'8000'0000'0000, 8}), -EFAULT);
  // A buffer that is only partly there gives what is there.
  EXPECT_EQ(g.call("write", {as_word(fd), g.buffer + Guest::kBuffer - 3, 4096}), 3);
}

TEST(Io, MoreThanTheHostTakesAtOnceIsStillWritten) {
  Work w;
  Guest& g = w.g;
  std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  // Every other page elsewhere: pieces cannot be joined, and there are more than IOV_MAX of them.
  std::vector<std::uint64_t> iov;
  for (std::uint64_t i = 0; i < 1024; ++i) {
    iov.push_back(g.buffer + (1024 + 2 * i) * 4096 - 8);  // crosses a page: two pieces where frames are apart
    iov.push_back(16);
  }
  mm::Gva at = g.buffer;
  ASSERT_TRUE(g.memory().write(at, std::as_bytes(std::span(iov))));
  EXPECT_EQ(g.call("writev", {as_word(fd), at, 1024}), 16 * 1024);
  EXPECT_EQ(fs::file_size(w.s.path / "f"), 16u * 1024);
  EXPECT_EQ(g.call("write", {as_word(fd), g.buffer, Guest::kBuffer}), static_cast<std::int64_t>(Guest::kBuffer));
}

TEST(Io, APipeWithoutReadersRaisesSigpipe) {
  Guest g({});
  auto p = make_pipe(g);
  EXPECT_EQ(g.write(p[1], "x"), 1);
  EXPECT_EQ(g.read_all(p[0], 10), "x");
  g.call("close", {as_word(p[0])});
  EXPECT_EQ(g.write(p[1], "x"), -EPIPE);
  std::lock_guard guard(g.process->signals.lock);
  EXPECT_TRUE(g.thread->signals.pending.set & bit_of(SIGPIPE));
}

TEST(Io, APipeThatWouldBlockSaysSo) {
  Guest g({});
  auto p = make_pipe(g, O_NONBLOCK);
  EXPECT_EQ(g.read_all(p[0], 1), error(EAGAIN));
  std::int64_t total = 0, n;
  while ((n = g.call("write", {as_word(p[1]), g.buffer, 4096})) > 0) total += n;
  EXPECT_EQ(n, -EAGAIN);
  EXPECT_EQ(total, g.call("fcntl", {as_word(p[1]), F_GETPIPE_SZ}));
  EXPECT_EQ(g.call("fcntl", {as_word(p[1]), F_SETPIPE_SZ, 2 << 20}), -EPERM);
  std::uint64_t at = g.room(4);
  EXPECT_EQ(g.call("ioctl", {as_word(p[0]), 0x541B /* FIONREAD */, at}), 0);
  EXPECT_EQ(g.get<int>(at), total);
  EXPECT_EQ(g.call("lseek", {as_word(p[0]), 0, SEEK_SET}), -ESPIPE);
  EXPECT_EQ(g.call("pread64", {as_word(p[0]), g.buffer, 1, 0}), -ESPIPE);
}

TEST(Io, AnInterruptedReadIsRestartedOrEnds) {
  Guest g({});
  auto p = make_pipe(g);
  g.thread->look_at_signals();
  EXPECT_EQ(g.read_all(p[0], 1), error(512));  // kRestartSys
}

TEST(Io, CopiesGoBetweenDescriptors) {
  Work w;
  Guest& g = w.g;
  w.s.file("from", "0123456789");
  std::int64_t in = g.open("/w/from"), out = g.open("/w/to", O_CREAT | O_RDWR);
  std::uint64_t offset = g.put_object<std::int64_t>(4);
  EXPECT_EQ(g.call("sendfile", {as_word(out), as_word(in), offset, 100}), 6);
  EXPECT_EQ(g.get<std::int64_t>(offset), 10);
  EXPECT_EQ(g.call("copy_file_range", {as_word(in), 0, as_word(out), 0, 3, 0}), 3);
  EXPECT_EQ(w.s.text("to"), "456789012");
  EXPECT_EQ(g.call("sendfile", {as_word(in), as_word(out), 0, 1}), -EBADF);
  EXPECT_EQ(g.call("sendfile", {as_word(out), as_word(in), 0x10, 1}), -EFAULT);
  auto p = make_pipe(g);
  EXPECT_EQ(g.call("splice", {as_word(in), 0, as_word(p[1]), 0, 4, 0}), 4);
  auto q = make_pipe(g);
  EXPECT_EQ(g.call("tee", {as_word(p[0]), as_word(q[1]), 10, 0}), 4);
  EXPECT_EQ(g.read_all(q[0], 10) + g.read_all(p[0], 10), "34563456");
}

TEST(Io, MemoryFilesCountAgainstTheGuestsMemory) {
  Guest g({});
  std::int64_t fd = g.call("memfd_create", {g.put("name"), MFD_ALLOW_SEALING});
  ASSERT_GE(fd, 0);
  std::uint64_t limit = g.memory().usage().limit_bytes;
  EXPECT_EQ(g.call("ftruncate", {as_word(fd), limit + 1}), -ENOSPC);
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, limit, 1}), -ENOSPC);
  EXPECT_EQ(g.call("ftruncate", {as_word(fd), limit}), 0);
  std::int64_t second = g.call("memfd_create", {g.put("second"), 0});
  EXPECT_EQ(g.write(second, "x"), -ENOSPC);
  EXPECT_EQ(g.call("ftruncate", {as_word(fd), limit - 4096}), 0);
  EXPECT_EQ(g.write(second, "x"), 1);
  EXPECT_EQ(g.call("lseek", {as_word(second), limit * 8, SEEK_SET}), static_cast<std::int64_t>(limit * 8));
  EXPECT_EQ(g.write(second, "x"), -ENOSPC);
  // A second descriptor of the same file counts with it, and what is closed counts no more.
  std::int64_t again = g.open("/proc/self/fd/" + std::to_string(fd), O_RDWR);
  EXPECT_EQ(g.call("ftruncate", {as_word(again), limit * 2}), -ENOSPC);
  for (std::int64_t f : {fd, again, second}) g.call("close", {as_word(f)});
  std::int64_t third = g.call("memfd_create", {g.put("third"), 0});
  EXPECT_EQ(g.call("ftruncate", {as_word(third), limit}), 0);
  EXPECT_EQ(g.call("memfd_create", {g.put(std::string(250, 'n')), 0}), -EINVAL);
  EXPECT_EQ(g.call("memfd_create", {g.put("x"), 0x80}), -EINVAL);
}

TEST(Io, SealsHoldOnMemoryFilesOnly) {
  Work w;
  Guest& g = w.g;
  std::int64_t fd = g.call("memfd_create", {g.put("name"), MFD_ALLOW_SEALING}),
               plain = g.open("/w/f", O_CREAT | O_RDWR);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_ADD_SEALS, F_SEAL_WRITE}), 0);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_GET_SEALS}), F_SEAL_WRITE);
  EXPECT_EQ(g.write(fd, "x"), -EPERM);
  EXPECT_EQ(g.call("fcntl", {as_word(plain), F_ADD_SEALS, F_SEAL_WRITE}), -EINVAL);
}

}  // namespace
}  // namespace ramet::vmm
