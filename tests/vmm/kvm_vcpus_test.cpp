// vCPUs that work together, more of them than the host has, and memory that is not there.
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "tests/vmm/kvm_guest.hpp"

namespace ramet::vmm::testing {
namespace {

using namespace programs;
using KvmVcpusTest = KvmTest;

TEST_F(KvmVcpusTest, LockedIncrementsOfTwoVcpusAreExact) {
  const std::uint64_t kTimes = emulated() ? 100'000 : 2'000'000;
  code(kAtomicIncrementsAndCall);
  write_entry(kData, 2, G::kUserRw);
  std::atomic<unsigned> ended{0};
  auto work = [&](Vcpu& v) {
    v.regs()[Place] = kData;
    v.regs()[Times] = kTimes;
    if (run(v).kind == Kind::Syscall) ended++;
  };
  Vcpu &a = vcpu(), &b = vcpu();
  std::thread t([&] { work(a); });
  work(b);
  t.join();
  EXPECT_EQ(ended.load(), 2u);
  EXPECT_EQ(words(2)[0], 2 * kTimes);
}

TEST_F(KvmVcpusTest, HostMemoryThatCannotBeReachedIsAHostFaultAndTheGuestGoesOn) {
  code(kLoadAndCall);
  void* host = mmap(nullptr, mm::kBlockSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(host, MAP_FAILED);
  auto bank = guest->memory->add({static_cast<std::byte*>(host), mm::kBlockSize},
                                 [host] { munmap(host, mm::kBlockSize); });
  ASSERT_TRUE(bank);
  ASSERT_EQ(mprotect(host, mm::kBlockSize, PROT_NONE), 0);
  ASSERT_TRUE(guest->map(kData, (*bank)->base(), G::kUserRw));
  Vcpu& v = vcpu();
  v.regs()[Place] = kData;
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, HostFault);
  EXPECT_EQ(v.regs()[Pc], kCode);
  EXPECT_FALSE(e.detail.empty());
  ASSERT_EQ(mprotect(host, mm::kBlockSize, PROT_READ | PROT_WRITE), 0);
  *static_cast<std::uint64_t*>(host) = 99;
  ASSERT_EXIT_KIND(run(v), Syscall);
  EXPECT_EQ(v.regs()[Value], 99u);
  guest->memory->remove(*bank);
}

TEST_F(KvmVcpusTest, VcpusBeyondTheHostsLimitAreRefusedWithAMessage) {
  for (unsigned i = 0; i < 100'000; i++) {
    auto v = guest->machine->acquire_vcpu();
    if (v) continue;
    EXPECT_GT(i, 0u);
    EXPECT_FALSE(v.error().message.empty());
    return;
  }
  FAIL() << "no limit";
}

TEST_F(KvmVcpusTest, AnEntryWrittenAfterAFaultIsUsedAtOnce) {
  code(kLoadAndCall);
  Vcpu& v = vcpu();
  write_entry(kData, 2, G::kAbsent);
  words(2)[0] = 0x1122334455667788;
  v.regs()[Place] = kData;
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, PageFault);
  write_entry(kData, 2, G::kUserRo);
  e = run(v);
  ASSERT_EXIT_KIND(e, Syscall);
  EXPECT_EQ(v.regs()[Value], 0x1122334455667788u);
}

TEST_F(KvmVcpusTest, AnEntryThatPointsOutsideMemoryEndsInAMessage) {
  code(kLoadAndCall);
  Vcpu& v = vcpu();
  auto table = guest->map(kData, 0x80'0000'0000, G::kUserRw);
  ASSERT_TRUE(table);
  v.regs()[Place] = kData + 8;
  Exit e = run(v);
  ASSERT_EXIT_KIND(e, Broken);
  EXPECT_NE(e.detail.find("0x8000000008"), std::string::npos) << e.detail;
}

}  // namespace
}  // namespace ramet::vmm::testing
