// Numbers at the ends of their types, as a hostile guest gives them: each has the result that it has on Linux.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>

#include "tests/vmm/files_guest.hpp"
#include "vmm/linux/checked.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm {
namespace {

constexpr std::int64_t kMax = INT64_MAX, kMin = INT64_MIN;

bool same(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

TEST(ExtremeValues, ASumThatATypeCannotHoldIsNone) {
  EXPECT_EQ(checked_sum<std::int64_t>(kMax, -1), kMax - 1);
  EXPECT_EQ(checked_sum<std::int64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_sum<std::int64_t>(kMin, -1), std::nullopt);
  EXPECT_EQ(checked_sum<std::uint64_t>(UINT64_MAX, 1), std::nullopt);
}

TEST(ExtremeValues, ASumOfTimesStopsAtTheLastSecondAndADifferenceAtZero) {
  EXPECT_TRUE(same(sum({1, 999'999'999}, {2, 1}), {4, 0}));
  EXPECT_TRUE(same(sum({kMax, 0}, {1, 0}), {kMax, 0}));
  EXPECT_TRUE(same(sum({kMax, 999'999'999}, {0, 1}), {kMax, 0}));
  EXPECT_TRUE(same(sum({kMax, 999'999'999}, {kMax, 999'999'999}), {kMax, 0}));
  EXPECT_TRUE(same(difference({4, 0}, {2, 1}), {1, 999'999'999}));
  EXPECT_TRUE(same(difference({2, 0}, {2, 1}), {0, 0}));
  EXPECT_TRUE(same(difference({0, 0}, {kMax, 999'999'999}), {0, 0}));
  EXPECT_TRUE(same(difference({kMax, 0}, {0, 999'999'999}), {kMax - 1, 1}));
}

TEST(ExtremeValues, TimesAreConvertedWithoutLeavingTheirTypes) {
  EXPECT_EQ(to_timespec(timeval{0, -1}).error(), EINVAL);
  EXPECT_EQ(to_timespec(timeval{0, 1'000'000}).error(), EINVAL);
  EXPECT_TRUE(same(*to_timespec(timeval{kMin, 999'999}), {kMin, 999'999'000}));  // files may be that old
  EXPECT_EQ(to_milliseconds({0, 1}), 1);
  EXPECT_EQ(to_milliseconds({INT_MAX / 1000, 0}), INT_MAX);
  EXPECT_EQ(to_milliseconds({kMax, 999'999'999}), INT_MAX);
  EXPECT_TRUE(same(from_milliseconds(INT_MAX), {2'147'483, 647'000'000}));
  EXPECT_NE(nanoseconds({kMax, 0}), nanoseconds({kMax, 1}));
  EXPECT_NE(nanoseconds({kMin, 0}), nanoseconds({kMax, 0}));
}

TEST(ExtremeValues, SelectCarriesMicrosecondsAsLinuxDoes) {
  struct {
    timeval time;
    std::int64_t seconds;  // -1: EINVAL
  } const cases[] = {
      {{0, 1'000'000}, 1},
      {{0, -1}, -1},
      {{1, -1'000'000}, 0},
      {{-1, 1'000'000}, 0},
      {{0, kMax}, kMax / 1'000'000},
      {{0, kMin}, -1},
      {{kMax, 0}, kMax},
      {{kMax, 999'999}, kMax},
      {{kMax, 1'000'000}, -1},
      {{kMax, kMax}, -1},
      {{kMin, 0}, -1},
      {{kMin, 1'000'000}, -1},
      {{kMin, -1'000'000}, kMax},
      {{kMax, -1'000'000}, kMax - 1},
  };
  for (const auto& c : cases) {
    auto time = carried(c.time);
    EXPECT_EQ(time ? time->tv_sec : -1, c.seconds) << c.time.tv_sec << " s " << c.time.tv_usec << " us";
    EXPECT_EQ(time ? EINVAL : time.error(), EINVAL);
  }
}

TEST(ExtremeValues, TheLongestWaitsAreWaitsAndSayWhatIsLeft) {
  Guest g({});
  const auto interrupted = [&](const char* name, std::initializer_list<std::uint64_t> arguments) {
    g.thread->look_at_signals();
    return g.call(name, arguments);
  };
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  std::uint64_t at = g.put_object(timespec{kMax, 999'999'999});
  EXPECT_EQ(interrupted("ppoll", {0, 0, at, 0, 8}), kRestartNoHand);
  timespec left = g.get<timespec>(at);
  EXPECT_LE(left.tv_sec, kMax - now.tv_sec);
  EXPECT_GT(left.tv_sec, kMax - now.tv_sec - 3600);
  at = g.put_object(timeval{kMax, 999'999});
  EXPECT_EQ(interrupted("select", {0, 0, 0, 0, at}), kRestartNoHand);
  EXPECT_LE(g.get<timeval>(at).tv_sec, kMax - now.tv_sec);
  at = g.put_object(timeval{kMax, 1'000'000});
  EXPECT_EQ(g.call("select", {0, 0, 0, 0, at}), -EINVAL);
  EXPECT_EQ(interrupted("poll", {0, 0, as_word(INT_MIN)}), kRestartBlock);
  EXPECT_EQ(interrupted("poll", {0, 0, INT_MAX}), kRestartBlock);
}

TEST(ExtremeValues, OffsetsInADirectoryDoNotWrap) {
  Scratch s;
  for (int i = 0; i < 3; ++i) s.file("f" + std::to_string(i), "");
  Guest g({{s.path.string(), "/", true}});
  const std::int64_t fd = g.open("/", O_RDONLY | O_DIRECTORY);
  while (g.call("getdents64", {as_word(fd), g.buffer, 4096}) > 0) {}
  // It stands at one of our own entries now, and those are numbered close to the end.
  ASSERT_GT(g.call("lseek", {as_word(fd), 0, SEEK_CUR}), kMax >> 1);
  EXPECT_EQ(g.call("lseek", {as_word(fd), as_word(kMax), SEEK_CUR}), -EINVAL);
  EXPECT_EQ(g.call("lseek", {as_word(fd), as_word(kMin), SEEK_CUR}), -EINVAL);
}

TEST(ExtremeValues, OffsetsAtTheEndOfAllFilesAreRefused) {
  Work w;
  Guest& g = w.g;
  const std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  std::uint64_t at = g.room(100);
  EXPECT_EQ(g.call("pwrite64", {as_word(fd), at, 100, as_word(kMax - 10)}), -EINVAL);
  EXPECT_EQ(g.call("pread64", {as_word(fd), at, 100, as_word(kMax - 10)}), -EINVAL);
  EXPECT_EQ(g.call("pread64", {as_word(fd), at, 0, as_word(kMax)}), 0);
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, as_word(kMax), 1}), -EFBIG);
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, as_word(kMin), 1}), -EINVAL);
  for (std::uint64_t offset : {as_word(kMax & ~4095), as_word(kMin), as_word(-4096)})
    EXPECT_EQ(g.call("mmap", {0, 4096, PROT_READ, MAP_SHARED, as_word(fd), offset}), -EOVERFLOW);
  g.call("lseek", {as_word(fd), 10, SEEK_SET});
  struct flock lock{};
  lock.l_type = F_WRLCK, lock.l_whence = SEEK_CUR, lock.l_start = kMax, lock.l_len = kMax;
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETLK, g.put_object(lock)}), -EOVERFLOW);
  lock.l_start = lock.l_len = kMin;
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_SETLK, g.put_object(lock)}), -EINVAL);
}

TEST(ExtremeValues, AFileMayHaveAnyTime) {
  Work w;
  Guest& g = w.g;
  const std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  const std::array<timeval, 2> times{{{kMax, 999'999}, {kMin, 0}}}, wrong{{{0, 1'000'000}, {0, 0}}};
  EXPECT_EQ(g.call("futimesat", {as_word(fd), 0, g.put_object(times)}), 0);
  EXPECT_EQ(g.call("futimesat", {as_word(fd), 0, g.put_object(wrong)}), -EINVAL);
}

TEST(ExtremeValues, TheUpperHalfOfAnIntIsLookedAtByNobody) {
  Work w;
  Guest& g = w.g;
  const std::int64_t fd = g.open("/w/f", O_CREAT | O_RDWR);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_DUPFD, (1ull << 32) | 50}), 50);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_DUPFD, as_word(-1)}), -EINVAL);
}

TEST(ExtremeValues, NegativeLengthsAreInvalid) {
  Guest g({});
  const std::uint64_t at = g.room(8);
  ASSERT_EQ(g.call("pipe2", {at, 0}), 0);
  const auto pipe = g.get<std::array<int, 2>>(at);
  const iovec negative{reinterpret_cast<void*>(g.buffer), SIZE_MAX};
  for (const char* name : {"vmsplice", "writev"})
    EXPECT_EQ(g.call(name, {as_word(pipe[1]), g.put_object(negative), 1}), -EINVAL) << name;
}

// Lengths that wrap when they are rounded up: Linux takes some for nothing, some for too much.
TEST(ExtremeValues, LengthsUpToTheLastByteAreRoundedAsLinuxRoundsThem) {
  Guest g({});
  EXPECT_EQ(g.call("mlock", {4096, as_word(-1)}), 0);
  EXPECT_EQ(g.call("mlock", {as_word(-1), 1}), -EINVAL);
  EXPECT_EQ(g.call("mlock", {as_word(kMax), as_word(kMax)}), -EINVAL);
  EXPECT_EQ(g.call("mlock", {4096, as_word(kMax)}), -ENOMEM);
  EXPECT_EQ(g.call("msync", {4096, as_word(-1), MS_ASYNC}), 0);
  EXPECT_EQ(g.call("msync", {4096, as_word(-8192), MS_ASYNC}), -ENOMEM);
  EXPECT_EQ(g.call("mprotect", {4096, as_word(-1), 0}), -ENOMEM);
  EXPECT_EQ(g.call("munmap", {4096, as_word(-1)}), -EINVAL);
  EXPECT_EQ(g.call("munmap", {as_word(-4096), 4096}), -EINVAL);
  EXPECT_EQ(g.call("madvise", {0, as_word(-1), MADV_NORMAL}), -EINVAL);
  EXPECT_EQ(g.call("madvise", {as_word(-4096), 8192, MADV_NORMAL}), -EINVAL);
  EXPECT_EQ(g.call("mincore", {4096, as_word(-1), g.buffer}), -ENOMEM);
}

}  // namespace
}  // namespace ramet::vmm
