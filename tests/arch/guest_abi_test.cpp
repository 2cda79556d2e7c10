// What Linux is to programs of each instruction set, on any host.
#include "arch/guest_abi.hpp"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/stat.hpp"
#include "arch/x86_64/guest_abi.hpp"
#include "arch/x86_64/stat.hpp"

// The kernel's own, for architectures without one of theirs.
#undef st_atime
#undef st_mtime
#undef st_ctime
namespace generic {
#include <asm-generic/stat.h>
}

namespace ramet::arch {
namespace {

class GuestAbiTest : public ::testing::TestWithParam<const GuestAbi*> {
 protected:
  const GuestAbi& abi = *GetParam();
};
INSTANTIATE_TEST_SUITE_P(Twins, GuestAbiTest, ::testing::Values(&x86_64::kGuestAbi, &arm64::kGuestAbi),
                         [](const auto& twin) { return std::string(twin.param->machine); });

TEST_P(GuestAbiTest, IsFoundByElfsNumber) { EXPECT_EQ(find_guest_abi(abi.elf_machine), &abi); }

TEST_P(GuestAbiTest, LaysProgramsOutWhereTheyMayBe) {
  EXPECT_EQ(abi.user_end % 4096, 0u);
  EXPECT_LT(abi.user_end, abi.processor_end);
  EXPECT_LT(abi.program_base + abi.program_spread, abi.user_end);
}

TEST_P(GuestAbiTest, NamesRegistersThatItHas) {
  std::set<unsigned> arguments(abi.reg.arguments.begin(), abi.reg.arguments.end());
  EXPECT_EQ(arguments.size(), 6u) << "each has its own";
  for (unsigned n : arguments) EXPECT_LT(n, abi.reg.count);
  const std::set<unsigned> others{abi.reg.pc, abi.reg.sp, abi.reg.flags, abi.reg.number};
  EXPECT_EQ(others.size(), 4u);
  for (unsigned n : others) {
    EXPECT_LT(n, abi.reg.count);
    EXPECT_FALSE(arguments.contains(n));
  }
  EXPECT_LE(abi.reg.count, UserRegs::kWords);
  EXPECT_TRUE(abi.bases >= 1 && abi.bases <= kMostBases);
}

TEST_P(GuestAbiTest, ACallIsReadFromRegistersAndMadeAgain) {
  UserRegs r = abi.initial_registers();
  EXPECT_EQ(r[abi.reg.flags], abi.fixed_flags);
  r[abi.reg.pc] = 0x1000;
  for (unsigned i = 0; i < 6; ++i) r[abi.reg.arguments[i]] = 100 + i;
  EXPECT_EQ(abi.arguments(r), (std::array<std::uint64_t, 6>{100, 101, 102, 103, 104, 105}));
  abi.repeat_call(r);
  EXPECT_EQ(r[abi.reg.pc], 0x1000u - abi.syscall_length);
}

TEST_P(GuestAbiTest, OpenFlagsGoToTheHostAndBack) {
  const std::set<std::uint32_t> values{abi.open.directory, abi.open.nofollow, abi.open.direct, abi.open.large_file};
  EXPECT_EQ(values.size(), 4u);
  EXPECT_EQ(abi.open_flags_to_host(abi.open.directory), static_cast<unsigned>(O_DIRECTORY));
  EXPECT_EQ(abi.open_flags_to_host(abi.open.nofollow), static_cast<unsigned>(O_NOFOLLOW));
  EXPECT_EQ(abi.open_flags_to_host(abi.open.direct), static_cast<unsigned>(O_DIRECT));
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t flag = 1ull << bit;
    EXPECT_EQ(abi.open_flags_to_guest(abi.open_flags_to_host(flag)), flag) << "bit " << bit;
    if (!values.contains(static_cast<std::uint32_t>(flag))) {
      EXPECT_EQ(abi.open_flags_to_host(flag), flag) << "bit " << bit;
    }
  }
}

TEST_P(GuestAbiTest, StatIsWrittenWhollyAndNoFurther) {
  struct stat st;
  std::memset(&st, 0xff, sizeof st);
  std::array<std::byte, GuestAbi::kMostStatBytes + 1> bytes{};
  ASSERT_LE(abi.stat_bytes, GuestAbi::kMostStatBytes);
  abi.put_stat(st, std::span(bytes).first(abi.stat_bytes));
  EXPECT_EQ(bytes[0], std::byte{0xff});
  EXPECT_EQ(bytes[abi.stat_bytes], std::byte{0});
  EXPECT_EQ(abi.epoll_event.bytes, abi.epoll_event.data + 8);
  EXPECT_EQ(abi.clone_tls + abi.clone_child_tid, 7);
}

// As arch/x86/include/uapi/asm/stat.h and include/uapi/asm-generic/stat.h have them.
TEST(GuestAbi, StatIsLaidOutAsEachLinuxDoes) {
  using X = x86_64::Stat;
  EXPECT_TRUE(offsetof(X, links) == 16 && offsetof(X, mode) == 24 && offsetof(X, special) == 40 &&
              offsetof(X, size) == 48 && offsetof(X, block_size) == 56 && offsetof(X, blocks) == 64 &&
              offsetof(X, times) == 72);
  using A = arm64::Stat;
  EXPECT_EQ(sizeof(A), sizeof(generic::stat));
  EXPECT_EQ(offsetof(A, mode), offsetof(generic::stat, st_mode));
  EXPECT_EQ(offsetof(A, links), offsetof(generic::stat, st_nlink));
  EXPECT_EQ(offsetof(A, group), offsetof(generic::stat, st_gid));
  EXPECT_EQ(offsetof(A, special), offsetof(generic::stat, st_rdev));
  EXPECT_EQ(offsetof(A, size), offsetof(generic::stat, st_size));
  EXPECT_EQ(offsetof(A, block_size), offsetof(generic::stat, st_blksize));
  EXPECT_EQ(offsetof(A, blocks), offsetof(generic::stat, st_blocks));
  EXPECT_EQ(offsetof(A, times), offsetof(generic::stat, st_atime));
}

TEST_P(GuestAbiTest, ANumberIsOneCallAndACallOneNumber) {
  std::set<Call> seen;
  for (std::uint32_t n = 0; n < kMostCalls; ++n)
    if (const Call call = abi.call_of(n); call != kNoCall) {
      EXPECT_TRUE(seen.insert(call).second) << n;
    }
  for (Call call : {Call::read, Call::openat, Call::clone, Call::execve, Call::rt_sigreturn, Call::futex, Call::statx})
    EXPECT_TRUE(seen.contains(call)) << static_cast<unsigned>(call);
  EXPECT_EQ(abi.call_of(abi.restart_syscall), Call::restart_syscall);
  EXPECT_EQ(abi.call_of(400), Call{400}) << "no call of any Linux";
  EXPECT_EQ(abi.call_of(kMostCalls), kNoCall);
  EXPECT_EQ(abi.call_of(~0u), kNoCall);
}

// Against the kernel's own list, for what it has: it may be older or younger than ours.
TEST(GuestAbi, Arm64sCallsHaveTheNumbersOfLinux) {
  std::map<std::string, Call> names;
#define X(value, name) names[#name] = Call::name;
#include "arch/calls.inc"
#undef X
  std::ifstream header("/usr/include/asm-generic/unistd.h");
  unsigned checked = 0;
  for (std::string line; std::getline(header, line);) {
    char word[64];
    std::uint32_t number = 0;
    if (std::sscanf(line.c_str(), "#define __NR_%63[a-z0-9_] %u", word, &number) != 2 &&
        std::sscanf(line.c_str(), "#define __NR3264_%63[a-z0-9_] %u", word, &number) != 2)
      continue;
    const std::string name = std::strcmp(word, "fstatat") == 0 ? "newfstatat" : word;
    const auto known = names.find(name);
    if (known == names.end() || number >= kMostCalls) continue;
    EXPECT_EQ(arm64::kGuestAbi.call_of(number), known->second) << name;
    ++checked;
  }
  if (!header.eof()) GTEST_SKIP() << "this host has no headers of its kernel";
  EXPECT_GT(checked, 250u);
}

TEST(GuestAbi, Arm64HasNotTheCallsThatOnlyX86Has) {
  std::set<Call> seen;
  for (std::uint32_t n = 0; n < kMostCalls; ++n) seen.insert(arm64::kGuestAbi.call_of(n));
  for (Call call : {Call::open, Call::fork, Call::arch_prctl, Call::pause, Call::epoll_wait})
    EXPECT_FALSE(seen.contains(call));
}

TEST(GuestAbi, X86sCallsHaveTheNumbersOfLinux) {
  EXPECT_EQ(x86_64::kGuestAbi.call_of(0), Call::read);
  EXPECT_EQ(x86_64::kGuestAbi.call_of(231), Call::exit_group);
  EXPECT_EQ(x86_64::kGuestAbi.call_of(435), Call::clone3);
}

TEST(GuestAbi, StatSaysOfAFileWhatTheHostSays) {
  struct stat st;
  ASSERT_EQ(::stat("/", &st), 0);
  const auto check = [&](const auto& guest) {
    EXPECT_EQ(guest.device, st.st_dev);
    EXPECT_EQ(guest.inode, st.st_ino);
    EXPECT_EQ(guest.mode, st.st_mode);
    EXPECT_EQ(guest.links, st.st_nlink);
    EXPECT_EQ(guest.size, st.st_size);
    EXPECT_EQ(guest.block_size, st.st_blksize);
    EXPECT_EQ(guest.blocks, st.st_blocks);
    EXPECT_EQ(guest.times[2], st.st_mtim.tv_sec);
    EXPECT_EQ(guest.times[3], st.st_mtim.tv_nsec);
  };
  check(x86_64::stat_of(st));
  check(arm64::stat_of(st));
}

TEST(GuestAbi, OnlyX86HasArchPrctl) {
  const auto fs = x86_64::kGuestAbi.arch_prctl(0x1002), gs = x86_64::kGuestAbi.arch_prctl(0x1004);
  ASSERT_TRUE(fs && gs);
  EXPECT_TRUE(fs->set && fs->base == 0 && !gs->set && gs->base == 1);
  EXPECT_FALSE(x86_64::kGuestAbi.arch_prctl(0x1012)) << "CPUID faulting";
  EXPECT_FALSE(arm64::kGuestAbi.arch_prctl(0x1002));
}

TEST(GuestAbi, CpuinfoIsWhatProgramsParse) {
  const std::string text = x86_64::kGuestAbi.cpuinfo(
      {.number = 5, .position = 1, .count = 2, .model = "AMD X", .features = "fpu sse2"});
  for (const char* line : {"processor\t: 5\n", "vendor_id\t: AuthenticAMD\n", "model name\t: AMD X\n",
                           "siblings\t: 2\n", "core id\t\t: 1\n", "cpu cores\t: 2\n", "flags\t\t: fpu sse2\n"})
    EXPECT_NE(text.find(line), text.npos) << line;
  EXPECT_TRUE(text.ends_with("\n\n"));
}

TEST(GuestAbi, Arm64sCpuinfoIsThatOfItsLinux) {
  EXPECT_EQ(arm64::kGuestAbi.cpuinfo(
                {.number = 5, .position = 1, .count = 2, .model = "a program", .features = "fp asimd"}),
            "processor\t: 5\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x00\nCPU architecture: 8\n"
            "CPU variant\t: 0x0\nCPU part\t: 0x000\nCPU revision\t: 0\n\n");
}

TEST(GuestAbi, ABaseIsWhatTheProcessorTakes) {
  EXPECT_TRUE(x86_64::kGuestAbi.is_base(0x7fff'ffff'ffff));
  EXPECT_FALSE(x86_64::kGuestAbi.is_base(0x8000'0000'0000));
  EXPECT_TRUE(arm64::kGuestAbi.is_base(0x8000'0000'0000));
}

TEST(GuestAbi, AnUnknownInstructionSetHasNone) {
  EXPECT_EQ(find_guest_abi(EM_386), nullptr);
  EXPECT_EQ(find_guest_abi(EM_NONE), nullptr);
  EXPECT_EQ(find_guest_abi(0x10000 | EM_X86_64), nullptr);
}

}  // namespace
}  // namespace ramet::arch
