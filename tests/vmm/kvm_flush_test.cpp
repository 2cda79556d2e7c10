// Strict flushes: after one returns no vCPU uses the old entry. Each scenario changes entries behind the
// guest's back, on the vCPU's own thread and under the eyes of a vCPU that runs on another one.
#include <atomic>
#include <mutex>
#include <thread>

#include "arch/x86_64/host/cpu.hpp"
#include "tests/vmm/kvm_guest.hpp"

namespace ramet::vmm::testing {
namespace {

class KvmFlushTest : public KvmTest {
 protected:
  // A vCPU that runs `code` on its own thread until it comes to an exit other than a kick.
  struct Runner {
    explicit Runner(Vcpu& v) : thread([this, &v] { exit = run(v); }) {}
    ~Runner() { if (thread.joinable()) thread.join(); }
    Exit exit;
    std::thread thread;
  };
  std::uint64_t now(unsigned frame) { return std::atomic_ref(words(frame)[0]).load(); }
  void wait_until_running(unsigned frame) {
    for (std::uint64_t start = now(frame); now(frame) == start;) std::this_thread::yield();
  }
  Vcpu& counting_vcpu(mm::Gva where = kData) {
    code({0x48, 0xff, 0x07, 0xeb, 0xfb}, 0x100);  // 1: incq (%rdi); jmp 1b
    Vcpu& v = vcpu();
    v.regs()[Rip] = kCode + 0x100;
    v.regs()[Rdi] = where;
    return v;
  }
  // Another vCPU, so that the machine is not the simple case of one.
  void crowd() { vcpu(); }
};

class KvmFlush : public KvmFlushTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    KvmFlushTest::SetUp();
    if (guest && GetParam()) crowd();
  }
};
INSTANTIATE_TEST_SUITE_P(Vcpus, KvmFlush, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "OneOfTwo" : "Alone"; });

TEST_P(KvmFlush, AStoreToAPageThatBecameReadOnlyFaults) {
  code({0x48, 0xff, 0x07, 0x0f, 0x05});  // incq (%rdi); syscall
  Vcpu& v = vcpu();
  v.regs()[Rdi] = kData;
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    v.regs()[Rip] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
    change_entry(kData, 2, G::kUserRo);
    v.regs()[Rip] = kCode;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.error, 7u);
  }
  EXPECT_EQ(words(2)[0], 20u);
}

TEST_P(KvmFlush, AnUnmappedPageFaults) {
  code({0x48, 0x8b, 0x07, 0x0f, 0x05});  // mov (%rdi),%rax; syscall
  Vcpu& v = vcpu();
  v.regs()[Rdi] = kData;
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    v.regs()[Rip] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
    change_entry(kData, 2, 0);
    v.regs()[Rip] = kCode;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.error, 4u);
  }
}

TEST_P(KvmFlush, ANewFrameIsRead) {
  code({0x48, 0x8b, 0x07, 0x0f, 0x05});
  Vcpu& v = vcpu();
  v.regs()[Rdi] = kData;
  for (unsigned i = 0; i < 20; i++) {
    words(2 + i)[0] = 1000 + i;
    change_entry(kData, 2 + i, G::kUserRw);
    v.regs()[Rip] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
    EXPECT_EQ(v.regs()[Rax], 1000 + i);
  }
}

TEST_P(KvmFlush, APageThatLostExecutePermissionFaultsOnFetch) {
  code({0x0f, 0x05}, 0x200);
  Vcpu& v = vcpu();
  for (int round = 0; round < 5; round++) {
    change_entry(kData, 0, G::kUserRx);
    v.regs()[Rip] = kData + 0x200;
    ASSERT_EXIT_KIND(run(v), Syscall);
    change_entry(kData, 0, G::kUserRo);
    v.regs()[Rip] = kData + 0x200;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.access, mm::Access::Execute);
  }
}

TEST_P(KvmFlush, ManyTablePagesInOneFlushAreAllHonoured) {
  constexpr unsigned kTables = 1000;  // more than ride along with one entry
  auto va = [](unsigned i) { return 0x1'0000'0000 + i * mm::kBlockSize; };
  std::vector<mm::Gpa> tables;
  // One page of data behind each of many tables.
  guest.reset();
  auto made = G::create("/dev/kvm", 8ull << 20);
  ASSERT_TRUE(made) << made.error().message;
  guest = std::move(*made);
  if (GetParam()) crowd();
  // mov (%rdi),%rax; add %rsi,%rdi; dec %rcx... as a loop over all pages: 1: load; add; sub $1,%rdx; jnz 1b; syscall
  code({0x48, 0x8b, 0x07, 0x48, 0x01, 0xf7, 0x48, 0x83, 0xea, 0x01, 0x75, 0xf4, 0x0f, 0x05});
  for (unsigned i = 0; i < kTables; i++) tables.push_back(write_entry(va(i), 2, G::kUserRo));
  Vcpu& v = vcpu();
  v.regs()[Rdi] = va(0), v.regs()[Rsi] = mm::kBlockSize, v.regs()[Rdx] = kTables;
  ASSERT_EXIT_KIND(run(v), Syscall);
  for (unsigned i = 0; i < kTables; i++) write_entry(va(i), 2, 0);
  guest->machine->flush({.ranges = {}, .tables = tables, .everything = true});
  code({0x48, 0x8b, 0x07}, 0x300);
  for (unsigned i = 0; i < kTables; i += 37) {
    v.regs()[Rip] = kCode + 0x300;
    v.regs()[Rdi] = va(i);
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault) << i;
  }
}

// --- another vCPU is using the entry at that moment ---

TEST_F(KvmFlushTest, ARunningVcpuStoresNothingAfterItsPageBecameReadOnly) {
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    Vcpu& v = counting_vcpu();
    Runner r(v);
    wait_until_running(2);
    change_entry(kData, 2, G::kUserRo);
    std::uint64_t after_flush = now(2);
    r.thread.join();
    EXPECT_EQ(now(2), after_flush);
    ASSERT_EXIT_KIND(r.exit, PageFault);
    EXPECT_EQ(r.exit.error, 7u);
    guest->machine->release_vcpu(&v);
  }
}

TEST_F(KvmFlushTest, ARunningVcpuStoresNothingAfterItsPageWasUnmapped) {
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    Vcpu& v = counting_vcpu();
    Runner r(v);
    wait_until_running(2);
    change_entry(kData, 2, 0);
    std::uint64_t after_flush = now(2);
    r.thread.join();
    EXPECT_EQ(now(2), after_flush);
    ASSERT_EXIT_KIND(r.exit, PageFault);
    guest->machine->release_vcpu(&v);
  }
}

TEST_F(KvmFlushTest, ARunningVcpuMovesOnToTheNewFrame) {
  change_entry(kData, 2, G::kUserRw);
  Vcpu& v = counting_vcpu();
  Runner r(v);
  for (unsigned i = 0; i < 50; i++) {
    wait_until_running(2 + i % 2);
    change_entry(kData, 2 + (i + 1) % 2, G::kUserRw);
    std::uint64_t after_flush = now(2 + i % 2);
    wait_until_running(2 + (i + 1) % 2);
    EXPECT_EQ(now(2 + i % 2), after_flush);
  }
  change_entry(kData, 2, 0);
  r.thread.join();
  ASSERT_EXIT_KIND(r.exit, PageFault);
}

// The same with a flusher that runs a vCPU of its own, between its exits.
TEST_F(KvmFlushTest, AVcpuThreadFlushesForAnother) {
  code({0x48, 0x8b, 0x06, 0x0f, 0x05});  // mov (%rsi),%rax; syscall
  Vcpu& mine = vcpu();
  change_entry(kData, 2, G::kUserRw);
  Vcpu& v = counting_vcpu();
  Runner r(v);
  for (unsigned i = 0; i < 50; i++) {
    unsigned old_frame = 2 + i % 2, new_frame = 2 + (i + 1) % 2;
    wait_until_running(old_frame);
    mine.regs()[Rip] = kCode;
    mine.regs()[Rsi] = kData;
    ASSERT_EXIT_KIND(run(mine), Syscall);
    change_entry(kData, new_frame, G::kUserRw);
    std::uint64_t after_flush = now(old_frame);
    words(new_frame)[8] = 5000 + i;
    mine.regs()[Rip] = kCode;
    mine.regs()[Rsi] = kData + 64;
    ASSERT_EXIT_KIND(run(mine), Syscall);
    EXPECT_EQ(mine.regs()[Rax], 5000 + i);
    EXPECT_EQ(now(old_frame), after_flush);
  }
  change_entry(kData, 2, 0);
  r.thread.join();
  ASSERT_EXIT_KIND(r.exit, PageFault);
}

// Every thread flushes under one lock, as the address space does it, and also enters all the time: nobody
// waits for a vCPU whose thread waits for that lock.
TEST_F(KvmFlushTest, ThreadsThatFlushUnderOneLockDoNotWaitForEachOtherForEver) {
  constexpr unsigned kThreads = 3, kRounds = 200;
  code({0x48, 0x8b, 0x07, 0x0f, 0x05});
  std::mutex lock;
  std::atomic<unsigned> wrong{0};
  for (unsigned f = 0; f < 2 * kThreads; f++) words(10 + f)[0] = f;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; t++) {
    Vcpu& v = vcpu();
    threads.emplace_back([&, t] {
      mm::Gva va = kData + t * mm::kPageSize;
      for (unsigned i = 0; i < kRounds; i++) {
        unsigned f = 2 * t + i % 2;
        {
          std::lock_guard hold(lock);
          change_entry(va, 10 + f, G::kUserRw);
        }
        v.regs()[Rip] = kCode;
        v.regs()[Rdi] = va;
        if (run(v).kind != Kind::Syscall || v.regs()[Rax] != f) wrong++;
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong.load(), 0u);
}

// --- that the flush is what does it ---

TEST_F(KvmFlushTest, WithoutAFlushTheOldEntryIsSeen) {
  change_entry(kData, 2, G::kUserRw);
  Vcpu& v = counting_vcpu();
  Runner r(v);
  bool stale = false;
  for (int round = 0; round < 100 && !stale; round++) {
    unsigned old_frame = 2 + round % 2, new_frame = 2 + (round + 1) % 2;
    wait_until_running(old_frame);
    std::uint64_t new_start = now(new_frame);
    write_entry(kData, new_frame, G::kUserRw);
    std::uint64_t at_change = now(old_frame);
    // The store that was under way may still come; a second one uses an entry that is no longer there.
    while (now(new_frame) == new_start && now(old_frame) < at_change + 2) std::this_thread::yield();
    stale = now(old_frame) >= at_change + 2;
    change_entry(kData, new_frame, G::kUserRw);
  }
  change_entry(kData, 2, 0);
  r.thread.join();
  if (!stale && arch::x86_64::host_cpu().virtualization)
    GTEST_SKIP() << "the vCPU dropped the entry by itself, which nested paging does at any exit";
  EXPECT_TRUE(stale) << "the tests above would pass without any flush";
}

TEST_F(KvmFlushTest, FlushesOfOneVcpuCostNoExit) {
  code({0x48, 0x8b, 0x07, 0x0f, 0x05});
  Vcpu& v = vcpu();
  v.regs()[Rdi] = kData;
  for (int i = 0; i < 10; i++) {
    change_entry(kData, 2, G::kUserRw);
    change_entry(kData, 3, G::kUserRw);
    v.regs()[Rip] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
  }
  auto t = guest->machine->totals();
  EXPECT_EQ(t.flush_exits, 0u);
  EXPECT_EQ(t.flushes, 10u) << "one on each entry, for both changes";
  EXPECT_EQ(t.kicks, 0u);
}

}  // namespace
}  // namespace ramet::vmm::testing
