// System calls upon a shared mapping whose file somebody on the host has cut short: the VMM still thinks that all of it
// is there. What a call has done by then counts; else it is EFAULT.
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/vmm/linux_guest.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/uring/gup_test.hpp"

namespace ramet::vmm {
namespace {

struct VanishedMemory : ::testing::Test {
  VanishedMemory() {
    EXPECT_TRUE(write_user(g.memory(), g.buffer, std::array<char, 5>{"file"}));
    const auto fd = g.syscall(SYS_memfd_create, {g.buffer, 0});
    EXPECT_EQ(g.syscall(SYS_ftruncate, {as_word(fd), 2 * kPage}), 0);
    const auto at = g.syscall(SYS_mmap, {0, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, as_word(fd), 0});
    EXPECT_GT(at, 0);
    page = static_cast<mm::Gva>(at) + kPage;
    file = g.process->files.get(static_cast<int>(fd));
    EXPECT_TRUE(write_user(g.memory(), page, 1));
    EXPECT_TRUE(write_user(g.memory(), page - 8, 1));
  }
  void shrink() { ASSERT_EQ(::ftruncate(file->host.get(), kPage), 0); }
  static constexpr mm::Gva kPage = 4096;
  LinuxGuest g;
  mm::Gva page = 0;  // the one that goes
  std::shared_ptr<OpenFile> file;
};

TEST_F(VanishedMemory, AReadOfSignalsTellsThoseThatItCan) {
  g.mask(SIG_BLOCK, bit_of(SIGUSR1) | bit_of(SIGUSR2));
  ASSERT_TRUE(write_user(g.memory(), g.buffer, bit_of(SIGUSR1) | bit_of(SIGUSR2)));
  const auto fd = g.syscall(SYS_signalfd4, {~0ull, g.buffer, 8, SFD_NONBLOCK});
  ASSERT_GE(fd, 0);
  constexpr std::uint64_t kRecord = sizeof(signalfd_siginfo);
  g.raise(SIGUSR1), g.raise(SIGUSR2);
  shrink();
  EXPECT_EQ(g.syscall(SYS_read, {as_word(fd), page - kRecord, 2 * kRecord}), static_cast<std::int64_t>(kRecord));
  EXPECT_EQ(g.get<std::uint32_t>(page - kRecord), static_cast<std::uint32_t>(SIGUSR1));
  EXPECT_EQ(g.syscall(SYS_read, {as_word(fd), g.buffer, kRecord}), -EAGAIN)
      << "the other one went with what it was told to";
  g.raise(SIGUSR1);
  EXPECT_EQ(g.syscall(SYS_read, {as_word(fd), page, kRecord}), -EFAULT);
}

TEST_F(VanishedMemory, RandomBytesComeAsFarAsThereIsMemory) {
  shrink();
  EXPECT_EQ(g.syscall(SYS_getrandom, {page, 64, 0}), -EFAULT);
  const auto got = g.syscall(SYS_getrandom, {page - 256, 512, 0});
  EXPECT_TRUE(got == 256 || got == -EFAULT) << got;  // as the host's kernel has it
}

TEST_F(VanishedMemory, OtherBuffersAreUsedAsEver) {
  ASSERT_EQ(g.syscall(SYS_pipe2, {g.buffer, O_NONBLOCK}), 0);
  const auto ends = g.get<std::array<int, 2>>(g.buffer);
  shrink();
  EXPECT_EQ(g.syscall(SYS_write, {as_word(ends[1]), page, 8}), -EFAULT);
  EXPECT_EQ(g.syscall(SYS_write, {as_word(ends[1]), page - 8, 8}), 8);
  EXPECT_EQ(g.syscall(SYS_read, {as_word(ends[0]), page, 8}), -EFAULT);
}

TEST_F(VanishedMemory, WhatADeviceHasPinnedIsReadOrIsNot) {
  const std::string path = kGupTestPath;
  ASSERT_TRUE(g.memory().write(g.buffer, std::as_bytes(std::span(path.c_str(), path.size() + 1))));
  const auto fd = g.syscall(SYS_open, {g.buffer, O_RDWR});
  ASSERT_GE(fd, 0);
  struct Range {
    std::uint64_t address, bytes;
    std::uint32_t flags;
  };
  ASSERT_TRUE(write_user(g.memory(), g.buffer, Range{page, kPage, 1}));
  ASSERT_EQ(g.syscall(SYS_ioctl, {as_word(fd), _IOW('g', 7, Range), g.buffer}), 0);
  ASSERT_TRUE(write_user(g.memory(), g.buffer, std::uint64_t{g.buffer + kPage}));
  EXPECT_EQ(g.syscall(SYS_ioctl, {as_word(fd), _IOW('g', 9, std::uint64_t), g.buffer}), 0);
  EXPECT_EQ(g.get<int>(g.buffer + kPage), 1);
  shrink();
  EXPECT_EQ(g.syscall(SYS_ioctl, {as_word(fd), _IOW('g', 9, std::uint64_t), g.buffer}), -EFAULT);
}

TEST_F(VanishedMemory, ASignalsFrameThatCannotBeWrittenIsSIGSEGV) {
  g.handle(SIGUSR1, SA_ONSTACK);
  struct Stack {
    std::uint64_t sp;
    std::int32_t flags, pad;
    std::uint64_t size;
  };
  ASSERT_TRUE(write_user(g.memory(), g.buffer, Stack{page - 64, 0, 0, kPage + 64}));
  ASSERT_EQ(g.syscall(SYS_sigaltstack, {g.buffer, 0}), 0);
  shrink();
  g.raise(SIGUSR1);
  const auto ending = g.ending();
  EXPECT_EQ(ending.kind, Ending::Kind::Signalled);
  EXPECT_EQ(ending.code, SIGSEGV);
}

}  // namespace
}  // namespace ramet::vmm
