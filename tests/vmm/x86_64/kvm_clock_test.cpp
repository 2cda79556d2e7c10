// The host's clocks on KVM: what user code finds above the guest's memory, and programs that read the time there, or
// must not.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "arch/ticks.h"
#include "tests/vmm/kvm_guest.hpp"
#include "vmm/host_vdso.hpp"
#include "vmm/kvm/kernel_half.hpp"
#include "vmm/kvm/x86_64/vcpu.hpp"
#include "vmm/probe.hpp"
#include "vmm/run.hpp"

namespace ramet::vmm::testing {
namespace {

constexpr mm::Gva kPages = kvm::KernelHalf::kHostVdso;
constexpr clockid_t kClocks[] = {
    CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
    CLOCK_BOOTTIME, CLOCK_TAI};

std::int64_t nanos(const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; }
std::int64_t now(clockid_t clock) {
  timespec t;
  ::clock_gettime(clock, &t);
  return nanos(t);
}

class KvmClockTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (!guest) return;
    if (host_vdso().image_bytes == 0) GTEST_SKIP() << "this host has no vDSO";
    shown = guest->machine->host_vdso();
    ASSERT_NE(shown.clock_gettime, 0u);
    write_entry(kData, 2, G::kUserRw);
  }
  // Calls the host's function; what it makes a system call for itself is not known here.
  bool tell(Vcpu& v, clockid_t clock, timespec& told) {
    code({0xff, 0xd0, 0x0f, 0x05});  // call *%rax; syscall
    v.regs()[Rip] = kCode, v.regs()[Rsp] = kStack;
    v.regs()[Rax] = shown.clock_gettime, v.regs()[Rdi] = static_cast<std::uint64_t>(clock), v.regs()[Rsi] = kData;
    const Exit e = run(v);
    EXPECT_EXIT_KIND(e, Syscall);
    told = {static_cast<time_t>(words(2)[0]), static_cast<long>(words(2)[1])};
    return v.regs()[Rip] == kCode + 4;
  }
  // Whether the vCPU's counter is between two readings of the host's.
  bool counts_as_the_host(Vcpu& v) {
    code({0x0f, 0x01, 0xf9, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x0f,
          0x05});  // rdtscp; shl $32,%rdx; or %rdx,%rax; syscall
    v.regs()[Rip] = kCode;
    const std::uint64_t before = ramet_ticks();
    const Exit e = run(v);
    const std::uint64_t after = ramet_ticks();
    EXPECT_EXIT_KIND(e, Syscall);
    return before <= v.regs()[Rax] && v.regs()[Rax] <= after;
  }
  VdsoFunctions shown;
};

TEST_F(KvmClockTest, UserCodeReadsTheClocksThatTheHostReads) {
  Vcpu& v = vcpu();
  for (int round = 0; round < 20; ++round)
    for (const clockid_t clock : kClocks) {
      timespec told;
      const std::int64_t before = now(clock);
      if (!tell(v, clock, told)) GTEST_SKIP() << "the host's own vDSO makes a system call for clock " << clock;
      const std::int64_t after = now(clock);
      EXPECT_LE(before, nanos(told)) << clock;
      EXPECT_LE(nanos(told), after) << clock;
    }
}

TEST_F(KvmClockTest, TheProcessorThatItRunsOnIsNotTold) {
  EXPECT_EQ(shown.getcpu, 0u) << "a virtual CPU does not know";
}

TEST_F(KvmClockTest, UserCodeCannotWriteThere) {
  Vcpu& v = vcpu();
  code({0xc6, 0x07, 0x2a, 0x0f, 0x05});  // movb $42,(%rdi); syscall
  for (const mm::Gva at : {kPages, kPages + host_vdso().data_bytes}) {
    v.regs()[Rip] = kCode, v.regs()[Rdi] = at;
    const Exit e = run(v);
    EXPECT_EXIT_KIND(e, PageFault);
    EXPECT_TRUE(e.present);
    EXPECT_EQ(e.access, mm::Access::Write);
  }
}

// Its page tables say what they like: the memory is not the guest's to write.
TEST_F(KvmClockTest, NotEvenWithPageTablesOfItsOwn) {
  std::array<char, 64> image;
  const char* host = reinterpret_cast<const char*>(host_vdso().address + host_vdso().data_bytes);
  std::copy_n(host, image.size(), image.begin());
  Vcpu& v = vcpu();
  code({0xc6, 0x07, 0x2a, 0x0f, 0x05});
  ASSERT_TRUE(guest->map(kData + mm::kPageSize, host_vdso().data_bytes,
                         G::kUserRw));  // the image, at its guest-physical address
  v.regs()[Rip] = kCode, v.regs()[Rdi] = kData + mm::kPageSize;
  const Exit e = run(v);
  EXPECT_TRUE(e.kind == Kind::Broken || e.kind == Kind::HostFault) << describe(e);
  EXPECT_TRUE(std::equal(image.begin(), image.end(), host));
}

TEST_F(KvmClockTest, WhatLiesBesideThemIsNotThere) {
  Vcpu& v = vcpu();
  code({0x48, 0x8b, 0x07, 0x0f, 0x05});  // mov (%rdi),%rax; syscall
  for (const mm::Gva at : {kPages - 8, kPages + host_vdso().data_bytes + host_vdso().image_bytes}) {
    v.regs()[Rip] = kCode, v.regs()[Rdi] = at;
    EXPECT_EXIT_KIND(run(v), PageFault);
  }
}

TEST_F(KvmClockTest, EveryVcpuCountsAsTheHostDoes) {
  Vcpu& first = vcpu();
  timespec told;
  if (!tell(first, CLOCK_MONOTONIC, told)) GTEST_SKIP() << "the host does not read its counter";
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(counts_as_the_host(vcpu()));
    EXPECT_TRUE(counts_as_the_host(first));
  }
}

// The number of the open file that is vCPU 0.
int file_of_first_vcpu() {
  for (int fd = 0; fd < 1024; ++fd) {
    std::array<char, 64> name{};
    const auto link = "/proc/self/fd/" + std::to_string(fd);
    if (::readlink(link.c_str(), name.data(), name.size() - 1) > 0 &&
        std::string(name.data()) == "anon_inode:kvm-vcpu:0")
      return fd;
  }
  return -1;
}

// As KVM does it to a counter when its host wakes up.
TEST_F(KvmClockTest, AfterASuspensionTheCounterIsSetAnew) {
  auto& v = static_cast<kvm::KvmVcpu&>(vcpu());  // the one that was tried with, or made now: number 0
  timespec told;
  if (!tell(v, CLOCK_MONOTONIC, told)) GTEST_SKIP() << "the host does not read its counter";
  const int fd = file_of_first_vcpu();
  ASSERT_GE(fd, 0);
  const std::uint64_t ahead = 1ull << 40;
  kvm_device_attr attribute = {};
  attribute.group = KVM_VCPU_TSC_CTRL, attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uint64_t>(&ahead);
  ASSERT_EQ(::ioctl(fd, KVM_SET_DEVICE_ATTR, &attribute), 0);
  if (counts_as_the_host(v)) GTEST_SKIP() << "user code has the host's counter, whatever KVM's offset";
  ASSERT_TRUE(v.set_counter(std::chrono::hours(1)));
  EXPECT_TRUE(counts_as_the_host(v));
}

// --- programs ---

class KvmClockPrograms : public ::testing::Test {
 protected:
  void SetUp() override {
    NEED_KVM();
    const char* guests = std::getenv("GUESTS");
    program = std::string(guests ? guests : "guests") + "/vdso";
    if (::access(program.c_str(), X_OK) != 0) GTEST_SKIP() << "no guest " << program;
  }
  // How often it left the guest.
  std::uint64_t exits(bool host_clocks, std::vector<std::string> arguments) {
    auto shell = Shell::create(64ull << 20, {}, {.kind = MachineChoice::Kind::Kvm, .host_clocks = host_clocks});
    EXPECT_TRUE(shell) << shell.error().message;
    if (!shell) return 0;
    RunOptions options;
    options.program = program, options.arguments = std::move(arguments);
    options.standard = {-1, -1, 2};
    const auto report = run(**shell, options);
    EXPECT_TRUE(report) << report.error().message;
    if (!report) return 0;
    EXPECT_EQ(report->ending.kind, Ending::Kind::Exited);
    EXPECT_EQ(report->ending.code, 0);
    return report->exits.syscalls;
  }
  std::string program;
};

TEST_F(KvmClockPrograms, TheTimeIsReadWithoutAnExit) {
  if (probe_host().clock == HostFacts::Clock::HostsCall) GTEST_SKIP() << "the host's own vDSO makes a system call";
  EXPECT_LT(exits(true, {"count", "10000"}), 100u);
}

TEST_F(KvmClockPrograms, WhereTheHostsClocksAreOutOfReachItIsACall) {
  EXPECT_GE(exits(false, {"count", "1000"}), 1000u);
  exits(false, {});  // all that the program checks
}

}  // namespace
}  // namespace ramet::vmm::testing
