// mmap and its relatives: arguments as Linux checks them.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "tests/vmm/linux_guest.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kPrivate = MAP_PRIVATE | MAP_ANONYMOUS, kNoFd = ~0ull;

struct MemoryCalls : ::testing::Test {
  std::int64_t mmap(std::uint64_t address, std::uint64_t length, std::uint64_t prot, std::uint64_t flags,
                    std::uint64_t fd = kNoFd, std::uint64_t offset = 0) {
    return g.syscall(SYS_mmap, {address, length, prot, flags, fd, offset});
  }
  std::uint64_t map(std::uint64_t length, std::uint64_t prot = PROT_READ | PROT_WRITE) {
    std::int64_t at = mmap(0, length, prot, kPrivate);
    EXPECT_GT(at, 0);
    return static_cast<std::uint64_t>(at);
  }
  LinuxGuest g;
};

TEST_F(MemoryCalls, MmapRefusesWhatLinuxRefuses) {
  EXPECT_EQ(mmap(0, 0, 3, kPrivate), -EINVAL);
  EXPECT_EQ(mmap(0, ~0ull, 3, kPrivate), -ENOMEM);
  EXPECT_EQ(mmap(0, 4096, 3, MAP_ANONYMOUS), -EINVAL) << "neither shared nor private";
  EXPECT_EQ(mmap(0, 4096, 3, MAP_PRIVATE, kNoFd), -EBADF);
  EXPECT_EQ(mmap(0, 4096, 3, MAP_PRIVATE, 0, 17), -EINVAL) << "misaligned offset";
  EXPECT_EQ(mmap(0x12345, 4096, 3, kPrivate | MAP_FIXED), -EINVAL);
  EXPECT_EQ(mmap(0x1000, 4096, 3, kPrivate | MAP_FIXED), -EPERM) << "below vm.mmap_min_addr";
  EXPECT_EQ(mmap(0x7fff'ffff'f000, 4096, 3, kPrivate | MAP_FIXED), -ENOMEM);
  EXPECT_EQ(mmap(0xffff'8000'0000'0000, 4096, 3, kPrivate | MAP_FIXED), -ENOMEM);
  EXPECT_EQ(mmap(0, 4096, 3, kPrivate | MAP_HUGETLB), -ENOMEM);
  EXPECT_EQ(mmap(0, 4096, 3, MAP_SHARED_VALIDATE | MAP_ANONYMOUS), -EINVAL);
  EXPECT_EQ(mmap(g.buffer, 4096, 3, kPrivate | MAP_FIXED_NOREPLACE), -EEXIST);
}

TEST_F(MemoryCalls, MoreThanTheWholeMemoryIsRefusedButReservationsAreNot) {
  const std::uint64_t all = g.memory().physical().data().size();
  EXPECT_EQ(mmap(0, all + 4096, 3, kPrivate), -ENOMEM);
  EXPECT_GT(mmap(0, all * 16, PROT_NONE, kPrivate), 0);
  EXPECT_GT(mmap(0, all * 16, 3, kPrivate | MAP_NORESERVE), 0);
  auto reserved = static_cast<std::uint64_t>(mmap(0, all * 4, PROT_NONE, kPrivate));
  EXPECT_EQ(g.syscall(SYS_mprotect, {reserved, all * 2, 3}), -ENOMEM);
  EXPECT_EQ(g.syscall(SYS_mprotect, {reserved, 4096, 3}), 0);
}

TEST_F(MemoryCalls, Map32BitStaysBelowTwoGigabytesUntilNothingIsFree) {
  std::int64_t at = mmap(0, 1 << 20, 3, kPrivate | MAP_32BIT);
  EXPECT_GT(at, 0);
  EXPECT_LE(at + (1 << 20), 0x8000'0000);
  EXPECT_GT(mmap(0, 0x4000'0000, PROT_NONE, kPrivate | MAP_32BIT), 0);
  EXPECT_EQ(mmap(0, 0x7000'0000, PROT_NONE, kPrivate | MAP_32BIT), -ENOMEM);
}

TEST_F(MemoryCalls, Map32BitGoesWhereTheProgramWantsItIfThatIsFreeAndBelowTwoGigabytes) {
  EXPECT_EQ(mmap(0x5000'0000, 1 << 20, 3, kPrivate | MAP_32BIT), 0x5000'0000);
  EXPECT_EQ(mmap(0x5100'0123, 4096, 3, kPrivate | MAP_32BIT), 0x5100'0000);
  EXPECT_EQ(mmap(0x7fff'f000, 4096, 3, kPrivate | MAP_32BIT), 0x7fff'f000) << "the last page";
  for (std::uint64_t elsewhere :
       {0x500f'f000ull, 0x7fff'f000ull, 0x7fff'e000ull, 0x1'0000'0000ull, 0xffff'ffff'ffff'f000ull, 0x1000ull}) {
    const std::int64_t at = mmap(elsewhere, 8192, 3, kPrivate | MAP_32BIT);
    EXPECT_NE(at, static_cast<std::int64_t>(elsewhere));
    EXPECT_GE(at, 0x1'0000) << std::hex << elsewhere;
    EXPECT_LE(at + 8192, 0x8000'0000) << std::hex << elsewhere;
  }
}

TEST_F(MemoryCalls, WritableAndExecutableIsRefusedWhereThatIsThePolicy) {
  EXPECT_GT(mmap(0, 4096, 7, kPrivate), 0);
  g.process->deny_wx = true;
  EXPECT_EQ(mmap(0, 4096, 7, kPrivate), -EACCES);
  std::uint64_t at = map(4096);
  EXPECT_EQ(g.syscall(SYS_mprotect, {at, 4096, 7}), -EACCES);
  EXPECT_EQ(g.syscall(SYS_mprotect, {at, 4096, PROT_READ | PROT_EXEC}), 0);
}

TEST_F(MemoryCalls, MunmapAndMprotectCheckTheirRange) {
  std::uint64_t at = map(8192);
  EXPECT_EQ(g.syscall(SYS_munmap, {at + 1, 4096}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_munmap, {at, 0}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_munmap, {at, ~0ull}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_mprotect, {at + 1, 4096, 1}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_mprotect, {at, 4096, 0x100}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_mprotect, {at, 0, 1}), 0);
  EXPECT_EQ(g.syscall(SYS_munmap, {at, 8192}), 0);
  EXPECT_EQ(g.syscall(SYS_mprotect, {at, 4096, 1}), -ENOMEM) << "not mapped";
  EXPECT_EQ(g.syscall(SYS_munmap, {at, 8192}), 0) << "unmapping nothing is no error";
}

TEST_F(MemoryCalls, MremapGrowsMovesAndRefuses) {
  std::uint64_t at = map(4096);
  ASSERT_TRUE(write_user(g.memory(), at, 0x1234));
  std::int64_t moved = g.syscall(SYS_mremap, {at, 4096, 1 << 20, MREMAP_MAYMOVE, 0});
  ASSERT_GT(moved, 0);
  EXPECT_EQ(g.get<int>(as_word(moved)), 0x1234);
  EXPECT_EQ(g.syscall(SYS_mremap, {as_word(moved), 4096, 0, MREMAP_MAYMOVE, 0}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_mremap, {as_word(moved), 4096, 4096, MREMAP_FIXED, 0}), -EINVAL) << "fixed needs maymove";
  EXPECT_EQ(g.syscall(SYS_mremap, {as_word(moved), 8192, 8192, MREMAP_MAYMOVE | MREMAP_FIXED, as_word(moved) + 4096}),
            -EINVAL)
      << "overlap";
  EXPECT_EQ(g.syscall(SYS_mremap, {0x10000, 4096, 8192, MREMAP_MAYMOVE, 0}), -EFAULT);
  EXPECT_EQ(g.syscall(SYS_mremap, {as_word(moved), 4096, ~0ull, MREMAP_MAYMOVE, 0}), -EINVAL);
}

TEST_F(MemoryCalls, TheBreakGrowsAndShrinksAndStopsAtWhatIsMapped) {
  const auto image = g.process->image();
  image->brk_start = 0x1000'0000;
  {
    LockGuard guard(image->brk_lock);
    image->brk = image->brk_start;
  }
  EXPECT_EQ(g.syscall(SYS_brk, {0}), 0x1000'0000);
  EXPECT_EQ(g.syscall(SYS_brk, {0x1000'1800}), 0x1000'1800);
  ASSERT_TRUE(write_user(g.memory(), 0x1000'1ffc, 7));
  EXPECT_EQ(g.syscall(SYS_brk, {0x0fff'0000}), 0x1000'1800) << "not below its start";
  EXPECT_EQ(g.syscall(SYS_brk, {~0ull}), 0x1000'1800);
  ASSERT_GT(mmap(0x1001'0000, 4096, 3, kPrivate | MAP_FIXED), 0);
  EXPECT_EQ(g.syscall(SYS_brk, {0x1002'0000}), 0x1000'1800) << "something is in the way";
  EXPECT_EQ(g.syscall(SYS_brk, {0x1000'0000}), 0x1000'0000);
  EXPECT_FALSE(write_user(g.memory(), 0x1000'0000, 7)) << "given back";
}

TEST_F(MemoryCalls, MincoreAnswersForEachPageAndFaultsOnWildPointers) {
  std::uint64_t at = map(4 * 4096);
  ASSERT_TRUE(write_user(g.memory(), at + 4096, 1));
  ASSERT_EQ(g.syscall(SYS_mincore, {at, 4 * 4096, g.buffer}), 0);
  EXPECT_EQ(g.get<std::uint8_t>(g.buffer + 1) & 1, 1);
  EXPECT_EQ(g.syscall(SYS_mincore, {at, 4096, 8}), -EFAULT);
  EXPECT_EQ(g.syscall(SYS_mincore, {at + 1, 4096, g.buffer}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_mincore, {0x10000, 4096, g.buffer}), -ENOMEM);
}

TEST_F(MemoryCalls, AdviceAndLocksCheckTheirRange) {
  std::uint64_t at = map(8192);
  EXPECT_EQ(g.syscall(SYS_madvise, {at + 1, 4096, MADV_DONTNEED}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_madvise, {at, 4096, 12345}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_madvise, {0x10000, 4096, MADV_DONTNEED}), -ENOMEM);
  EXPECT_EQ(g.syscall(SYS_madvise, {0x10000, 4096, MADV_RANDOM}), -ENOMEM);
  ASSERT_TRUE(write_user(g.memory(), at, 5));
  EXPECT_EQ(g.syscall(SYS_madvise, {at, 8192, MADV_DONTNEED}), 0);
  EXPECT_EQ(g.get<int>(at), 0);
  EXPECT_EQ(g.syscall(SYS_mlock, {at, 8192}), 0);
  EXPECT_EQ(g.syscall(SYS_mlock, {0x10000, 8192}), -ENOMEM);
  EXPECT_EQ(g.syscall(SYS_mlockall, {99}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_msync, {at, 4096, MS_SYNC | MS_ASYNC}), -EINVAL);
}

}  // namespace
}  // namespace ramet::vmm
