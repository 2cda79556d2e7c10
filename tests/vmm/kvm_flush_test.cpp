// Strict flushes: after one returns no vCPU uses the old entry. Each scenario changes entries behind the
// guest's back, on the vCPU's own thread and under the eyes of a vCPU that runs on another one.
#include <atomic>
#include <mutex>
#include <thread>

#include "tests/vmm/kvm_guest.hpp"

namespace ramet::vmm::testing {
namespace {

using namespace programs;

class KvmFlushTest : public KvmTest {
 protected:
  // A vCPU that runs on its own thread until it comes to an exit other than a kick, or until `until` to one other than
  // a page fault.
  struct Runner {
    explicit Runner(Vcpu& v, const std::atomic<bool>* until = nullptr)
        : thread([this, &v, until] {
            do exit = run(v);
            while (exit.kind == Kind::PageFault && until && !until->load());
            ended = true;
          }) {}
    ~Runner() {
      if (thread.joinable()) thread.join();
    }
    Exit exit;
    std::atomic<bool> ended{false};
    std::thread thread;
  };
  std::uint64_t now(unsigned frame) { return std::atomic_ref(words(frame)[0]).load(); }
  void wait_until_running(unsigned frame) {
    for (std::uint64_t start = now(frame); now(frame) == start;) std::this_thread::yield();
  }
  Vcpu& counting_vcpu(mm::Gva where = kData) {
    code(kIncrementForEver, 0x100);
    Vcpu& v = vcpu();
    v.regs()[Pc] = kCode + 0x100;
    v.regs()[Place] = where;
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
  code(kIncrementAndCall);
  Vcpu& v = vcpu();
  v.regs()[Place] = kData;
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    v.regs()[Pc] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
    change_entry(kData, 2, G::kUserRo);
    v.regs()[Pc] = kCode;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.access, mm::Access::Write);
    EXPECT_TRUE(e.present);
  }
  EXPECT_EQ(words(2)[0], 20u);
}

TEST_P(KvmFlush, AnUnmappedPageFaults) {
  code(kLoadAndCall);
  Vcpu& v = vcpu();
  v.regs()[Place] = kData;
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    v.regs()[Pc] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
    change_entry(kData, 2, G::kAbsent);
    v.regs()[Pc] = kCode;
    Exit e = run(v);
    ASSERT_EXIT_KIND(e, PageFault);
    EXPECT_FALSE(e.present);
  }
}

TEST_P(KvmFlush, ANewFrameIsRead) {
  code(kLoadAndCall);
  Vcpu& v = vcpu();
  v.regs()[Place] = kData;
  for (unsigned i = 0; i < 20; i++) {
    words(2 + i)[0] = 1000 + i;
    change_entry(kData, 2 + i, G::kUserRw);
    v.regs()[Pc] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
    EXPECT_EQ(v.regs()[Value], 1000 + i);
  }
}

TEST_P(KvmFlush, APageThatLostExecutePermissionFaultsOnFetch) {
  code(kCall, 0x200);
  Vcpu& v = vcpu();
  for (int round = 0; round < 5; round++) {
    change_entry(kData, 0, G::kUserRx);
    v.regs()[Pc] = kData + 0x200;
    ASSERT_EXIT_KIND(run(v), Syscall);
    change_entry(kData, 0, G::kUserRo);
    v.regs()[Pc] = kData + 0x200;
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
  code(kLoadEachAndCall);
  for (unsigned i = 0; i < kTables; i++) tables.push_back(write_entry(va(i), 2, G::kUserRo));
  Vcpu& v = vcpu();
  v.regs()[Place] = va(0), v.regs()[Step] = mm::kBlockSize, v.regs()[Times] = kTables;
  ASSERT_EXIT_KIND(run(v), Syscall);
  for (unsigned i = 0; i < kTables; i++) write_entry(va(i), 2, G::kAbsent);
  guest->machine->flush({.ranges = {}, .tables = tables, .everything = true});
  code(kLoadAndCall, 0x300);
  for (unsigned i = 0; i < kTables; i += 37) {
    v.regs()[Pc] = kCode + 0x300;
    v.regs()[Place] = va(i);
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
    EXPECT_EQ(r.exit.access, mm::Access::Write);
    EXPECT_TRUE(r.exit.present);
    guest->machine->release_vcpu(&v);
  }
}

TEST_F(KvmFlushTest, ARunningVcpuStoresNothingAfterItsPageWasUnmapped) {
  for (int round = 0; round < 20; round++) {
    change_entry(kData, 2, G::kUserRw);
    Vcpu& v = counting_vcpu();
    Runner r(v);
    wait_until_running(2);
    change_entry(kData, 2, G::kAbsent);
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
  std::atomic<bool> over{false};
  Runner r(v, &over);
  for (unsigned i = 0; i < 50; i++) {
    wait_until_running(2 + i % 2);
    change_entry(kData, 2 + (i + 1) % 2, G::kUserRw);
    std::uint64_t after_flush = now(2 + i % 2);
    wait_until_running(2 + (i + 1) % 2);
    EXPECT_EQ(now(2 + i % 2), after_flush);
  }
  over = true;
  change_entry(kData, 2, G::kAbsent);
  r.thread.join();
  ASSERT_EXIT_KIND(r.exit, PageFault);
}

// The same with a flusher that runs a vCPU of its own, between its exits.
TEST_F(KvmFlushTest, AVcpuThreadFlushesForAnother) {
  code(kLoadAndCall);
  Vcpu& mine = vcpu();
  change_entry(kData, 2, G::kUserRw);
  Vcpu& v = counting_vcpu();
  std::atomic<bool> over{false};
  Runner r(v, &over);
  for (unsigned i = 0; i < 50; i++) {
    unsigned old_frame = 2 + i % 2, new_frame = 2 + (i + 1) % 2;
    wait_until_running(old_frame);
    mine.regs()[Pc] = kCode;
    mine.regs()[Place] = kData;
    ASSERT_EXIT_KIND(run(mine), Syscall);
    change_entry(kData, new_frame, G::kUserRw);
    std::uint64_t after_flush = now(old_frame);
    words(new_frame)[8] = 5000 + i;
    mine.regs()[Pc] = kCode;
    mine.regs()[Place] = kData + 64;
    ASSERT_EXIT_KIND(run(mine), Syscall);
    EXPECT_EQ(mine.regs()[Value], 5000 + i);
    EXPECT_EQ(now(old_frame), after_flush);
  }
  over = true;
  change_entry(kData, 2, G::kAbsent);
  r.thread.join();
  ASSERT_EXIT_KIND(r.exit, PageFault);
}

// Every thread flushes under one lock, as the address space does it, and also enters all the time: nobody
// waits for a vCPU whose thread waits for that lock.
TEST_F(KvmFlushTest, ThreadsThatFlushUnderOneLockDoNotWaitForEachOtherForEver) {
  constexpr unsigned kThreads = 3, kRounds = 200;
  code(kLoadAndCall);
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
        v.regs()[Pc] = kCode;
        v.regs()[Place] = va;
        if (run(v).kind != Kind::Syscall || v.regs()[Value] != f) wrong++;
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
  bool stale = false;
  for (int round = 0; round < (drops_by_itself() ? 10 : 100) && !stale; round++) {
    Runner r(v);
    wait_until_running(2);
    write_entry(kData, 2, G::kAbsent);
    const std::uint64_t at_change = now(2);
    // The store that was under way may still come; a second one uses an entry that is no longer there.
    while (!r.ended && now(2) < at_change + 2) std::this_thread::yield();
    stale = now(2) >= at_change + 2;
    change_entry(kData, 2, G::kAbsent);
    r.thread.join();
    ASSERT_EXIT_KIND(r.exit, PageFault);
    change_entry(kData, 2, G::kUserRw);
  }
  if (!stale && drops_by_itself()) GTEST_SKIP() << "the vCPU dropped the entry by itself";
  EXPECT_TRUE(stale) << "the tests above would pass without any flush";
}

TEST_F(KvmFlushTest, FlushesOfOneVcpuCostNoExit) {
  code(kLoadAndCall);
  Vcpu& v = vcpu();
  v.regs()[Place] = kData;
  for (int i = 0; i < 10; i++) {
    change_entry(kData, 2, G::kUserRw);
    change_entry(kData, 3, G::kUserRw);
    v.regs()[Pc] = kCode;
    ASSERT_EXIT_KIND(run(v), Syscall);
  }
  auto t = guest->machine->totals();
  EXPECT_EQ(t.flush_exits, 0u);
  EXPECT_EQ(t.flushes, 10u) << "one on each entry, for both changes";
  EXPECT_EQ(t.kicks, 0u);
}

}  // namespace
}  // namespace ramet::vmm::testing
