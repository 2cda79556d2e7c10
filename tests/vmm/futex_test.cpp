// Futex calls and robust lists on guest memory.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>

#include "tests/vmm/linux_guest.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/futex.hpp"

namespace ramet::vmm {
namespace {

struct FutexTest : ::testing::Test {
  std::int64_t futex(mm::Gva at, int op, std::uint64_t value, std::uint64_t timeout = 0, mm::Gva second = 0,
                     std::uint64_t value3 = 0) {
    return g.syscall(SYS_futex, {at, as_word(op), value, timeout, second, value3});
  }
  mm::Gva timeout(timespec t) {
    EXPECT_TRUE(write_user(g.memory(), g.buffer + 4096, t));
    return g.buffer + 4096;
  }
  LinuxGuest g;
};

TEST_F(FutexTest, WaitingForAValueThatIsNotThereReturnsAtOnce) {
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_PRIVATE, 1), -EAGAIN);
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT, 1), -EAGAIN);
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_BITSET_PRIVATE, 1, 0, 0, ~0u), -EAGAIN);
}

TEST_F(FutexTest, AWaitEndsWithItsTimeout) {
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_PRIVATE, 0, timeout({0, 1000})), -ETIMEDOUT);
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, timeout({1, 0}), 0, ~0u), -ETIMEDOUT);
}

TEST_F(FutexTest, WrongArgumentsAreRefused) {
  EXPECT_EQ(futex(g.buffer + 1, FUTEX_WAIT_PRIVATE, 0), -EINVAL) << "misaligned";
  EXPECT_EQ(futex(0x1000, FUTEX_WAIT_PRIVATE, 0), -EFAULT);
  EXPECT_EQ(futex(0xffff'8000'0000'0000, FUTEX_WAIT_PRIVATE, 0), -EFAULT);
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_BITSET_PRIVATE, 0, 0, 0, 0), -EINVAL) << "no bits";
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_PRIVATE, 0, timeout({0, 1'000'000'000})), -EINVAL);
  EXPECT_EQ(futex(g.buffer, FUTEX_WAIT_PRIVATE, 0, 8), -EFAULT);
  EXPECT_EQ(futex(g.buffer, 99, 0), -ENOSYS);
  EXPECT_EQ(futex(g.buffer, FUTEX_LOCK_PI, 0), -ENOSYS);
}

TEST_F(FutexTest, WakingAPrivateWordThatIsGoneWakesNobody) {
  EXPECT_EQ(futex(0x1000, FUTEX_WAKE_PRIVATE, 1), 0);
  EXPECT_EQ(futex(0x1000, FUTEX_WAKE, 1), -EFAULT);
}

TEST_F(FutexTest, WakeOpChangesTheSecondWord) {
  EXPECT_EQ(futex(g.buffer, FUTEX_WAKE_OP_PRIVATE, 1, 1, g.buffer + 64, FUTEX_OP(FUTEX_OP_SET, 42, FUTEX_OP_CMP_EQ, 0)),
            0);
  EXPECT_EQ(g.get<std::uint32_t>(g.buffer + 64), 42u);
  EXPECT_EQ(futex(g.buffer, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, g.buffer + 64, 7), -EAGAIN) << "the first word is not 7";
}

// A robust list in guest memory: head, then entries whose lock lies 16 bytes behind them.
struct RobustTest : FutexTest {
  void list(std::vector<std::uint64_t> entries, std::uint64_t pending = 0) {
    mm::Gva head = g.buffer;
    const std::array<std::uint64_t, 3> start{entries.empty() ? head : entries.front(), 16, pending};
    ASSERT_TRUE(write_user(g.memory(), head, start));
    for (std::size_t i = 0; i < entries.size(); ++i)
      ASSERT_TRUE(write_user(g.memory(), entries[i], i + 1 < entries.size() ? entries[i + 1] : head));
    ASSERT_EQ(g.syscall(SYS_set_robust_list, {head, 24}), 0);
  }
  void lock(mm::Gva entry, std::uint32_t value) { ASSERT_TRUE(write_user(g.memory(), entry + 16, value)); }
  std::uint32_t value(mm::Gva entry) { return g.get<std::uint32_t>(entry + 16); }
  std::uint32_t mine = static_cast<std::uint32_t>(g.thread->tid);
  mm::Gva a = g.buffer + 1024, b = g.buffer + 2048, c = g.buffer + 3072;
};

TEST_F(RobustTest, LocksOfADeadThreadAreMarkedAndOthersLeftAlone) {
  list({a, b});
  lock(a, mine | FUTEX_WAITERS);
  lock(b, mine + 1);
  release_robust_futexes(*g.thread);
  EXPECT_EQ(value(a), FUTEX_OWNER_DIED | FUTEX_WAITERS);
  EXPECT_EQ(value(b), mine + 1);
}

TEST_F(RobustTest, ALockThatWasBeingTakenIsMarkedToo) {
  list({}, c);
  lock(c, mine);
  release_robust_futexes(*g.thread);
  EXPECT_EQ(value(c), FUTEX_OWNER_DIED);
}

// Shrunk by somebody else on the host: the VMM still thinks that it is all there.
struct ShrunkFutexTest : RobustTest {
  ShrunkFutexTest() {
    EXPECT_TRUE(write_user(g.memory(), g.buffer, std::array<char, 5>{"file"}));
    const auto fd = g.syscall(SYS_memfd_create, {g.buffer, 0});
    EXPECT_EQ(g.syscall(SYS_ftruncate, {as_word(fd), 8192}), 0);
    const auto at = g.syscall(SYS_mmap, {0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, as_word(fd), 0});
    EXPECT_GT(at, 0);
    page = static_cast<mm::Gva>(at) + 4096;
    file = g.process->files.get(static_cast<int>(fd));
  }
  void shrink() { ASSERT_EQ(::ftruncate(file->host.get(), 4096), 0); }
  mm::Gva page = 0;
  std::shared_ptr<OpenFile> file;
};

TEST_F(ShrunkFutexTest, EveryCallOnItIsEFAULT) {
  EXPECT_EQ(futex(page, FUTEX_WAKE, 1), 0);
  shrink();
  EXPECT_EQ(futex(page, FUTEX_WAIT, 0), -EFAULT);
  EXPECT_EQ(futex(page, FUTEX_WAKE, 1), -EFAULT);
  EXPECT_EQ(futex(page, FUTEX_WAKE_OP, 1, 1, page + 64, 0), -EFAULT);
  EXPECT_EQ(futex(page - 64, FUTEX_CMP_REQUEUE, 1, 1, page, 0), -EFAULT);
}

TEST_F(ShrunkFutexTest, ARobustListEndsThereAndLocksBeforeItAreMarked) {
  lock(page, mine);  // the lock lies 16 bytes behind the entry
  list({a, page, b}, c);
  lock(a, mine), lock(b, mine), lock(c, mine);
  shrink();
  release_robust_futexes(*g.thread);
  EXPECT_EQ(value(a), FUTEX_OWNER_DIED);
  EXPECT_EQ(value(b), mine) << "Linux does not go on behind what it cannot reach";
  EXPECT_EQ(value(c), mine);
}

TEST_F(RobustTest, AListThatLoopsOrLeadsNowhereEnds) {
  list({a, b});
  ASSERT_TRUE(write_user(g.memory(), b, a));  // never back to the head
  lock(a, mine);
  release_robust_futexes(*g.thread);
  EXPECT_EQ(value(a), FUTEX_OWNER_DIED);
  list({a});
  ASSERT_TRUE(write_user(g.memory(), a, std::uint64_t{0xffff'8000'0000'0000}));
  lock(a, mine);
  release_robust_futexes(*g.thread);
  EXPECT_EQ(value(a), FUTEX_OWNER_DIED);
  ASSERT_EQ(g.syscall(SYS_set_robust_list, {0x1000, 24}), 0);
  release_robust_futexes(*g.thread);
}

}  // namespace
}  // namespace ramet::vmm
