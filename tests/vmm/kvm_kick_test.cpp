// Kicks: each ends a run of the guest, none is lost, and none costs the guest anything.
#include <pthread.h>

#include <atomic>
#include <csignal>
#include <random>
#include <thread>

#include "tests/vmm/kvm_guest.hpp"

namespace ramet::vmm::testing {
namespace {

using namespace programs;

class KvmKickTest : public KvmTest {
 protected:
  // Kicks the vCPU at random moments, a few times in each round of the test and no more, so that rounds end.
  class Storm {
   public:
    Storm(Vcpu& v, const std::atomic<unsigned>& round)
        : thread_([&v, &round, this] {
            std::minstd_rand random(std::random_device{}());
            while (!stop_.load()) {
              unsigned at = round.load();
              for (int kicks = 0; kicks < 3 && round.load() == at && !stop_.load(); kicks++) {
                for (auto spin = random() % 65536; spin > 0; spin--)
                  std::atomic_signal_fence(std::memory_order_seq_cst);
                v.kick();
              }
              while (round.load() == at && !stop_.load()) std::this_thread::yield();
            }
          }) {}
    ~Storm() {
      stop_ = true;
      thread_.join();
    }

   private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
  };
};

TEST_F(KvmKickTest, AKickEndsAnEndlessLoop) {
  code(kCountForEver);
  Vcpu& v = vcpu();
  std::atomic<bool> started{false};
  std::thread kicker([&] {
    while (!started.load()) std::this_thread::yield();
    v.kick();
  });
  started = true;
  Exit e = v.run();
  kicker.join();
  ASSERT_EXIT_KIND(e, Kicked);
  EXPECT_GE(v.regs()[Pc], kCode);
  EXPECT_LT(v.regs()[Pc], kCode + sizeof kCountForEver);
}

TEST_F(KvmKickTest, AKickOutsideOfARunEndsTheNextOneOnce) {
  code(kCall);
  Vcpu& v = vcpu();
  for (int i = 0; i < 10; i++) {
    v.regs()[Pc] = kCode;
    v.kick();
    v.kick();
    ASSERT_EXIT_KIND(v.run(), Kicked);
    EXPECT_EQ(v.regs()[Pc], kCode);
    ASSERT_EXIT_KIND(v.run(), Syscall);
  }
}

TEST_F(KvmKickTest, AKickForAReleasedVcpuHarmsNobody) {
  code(kCall);
  Vcpu& v = vcpu();
  std::thread([&] { ASSERT_EXIT_KIND(run(v), Syscall); }).join();
  guest->machine->release_vcpu(&v);
  v.kick();
  Vcpu& again = vcpu();
  EXPECT_EQ(&again, &v);
  ASSERT_EXIT_KIND(again.run(), Syscall);
}

// The kicker waits for each kick to be answered: a lost one stops the test.
TEST_F(KvmKickTest, TenThousandKicksAtRandomMomentsAreAllAnswered) {
  // An emulated processor takes its time for each.
  const unsigned kKicks = emulated() ? 200 : 10'000;
  code(kCountAndCall);  // so that kicks meet user code, the stub and KVM
  Vcpu& v = vcpu();
  // A kick that meets the end of a run may be answered twice, so the answers are not to be counted.
  std::atomic<unsigned> answered{0};
  std::atomic<bool> done{false};
  std::uint64_t calls = 0, wrong = 0;
  auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::thread kicker([&] {
    std::minstd_rand random(seed);
    for (unsigned i = 0; i < kKicks; i++) {
      for (auto spin = random() % 4096; spin > 0; spin--) std::atomic_signal_fence(std::memory_order_seq_cst);
      unsigned before = answered.load();
      v.kick();
      // Mostly without giving up the processor: on a busy machine each time costs a time slice.
      for (unsigned polls = 1; answered.load() == before; polls++)
        if (polls % 100'000 == 0) std::this_thread::yield();
    }
    done = true;
  });
  while (!done.load()) {
    Exit e = v.run();
    if (e.kind == Kind::Kicked) {
      answered++;
      continue;
    }
    EXPECT_EXIT_KIND(e, Syscall);
    calls++;
    // Every iteration of the guest's loop has been done exactly once.
    if (v.regs()[Count] != calls * 0x1000) wrong++;
    v.regs()[Pc] = kCode;
  }
  kicker.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GE(answered.load(), 1u);
}

// System calls and page faults under fire: none is lost, none comes twice, no register changes.
TEST_F(KvmKickTest, AStormOfKicksLosesNoExit) {
  code(kCallAndStore);  // to a page that is not there
  Vcpu& v = vcpu();
  v.regs()[Place] = kData;
  v.regs()[Other] = 0x1212;
  write_entry(kData, 2, G::kAbsent);
  std::atomic<unsigned> round{0};
  Storm storm(v, round);
  for (std::uint64_t i = 1; i <= (emulated() ? 400 : 2000); i++, round++) {
    Exit e = run(v);
    EXPECT_EXIT_KIND(e, Syscall);
    EXPECT_EQ(v.regs()[Count], i);
    EXPECT_EQ(v.regs()[Pc], kCode + kBehindCall);
    e = run(v);
    EXPECT_EXIT_KIND(e, PageFault);
    EXPECT_EQ(e.address, kData);
    EXPECT_EQ(v.regs()[Other], 0x1212u);
    v.regs()[Pc] += kStoreLength;
    if (HasFailure()) break;
  }
}

// Entries change, and a flush is due, at the very moment the vCPU is kicked out of its way back.
TEST_F(KvmKickTest, AStormOfKicksLosesNoFlush) {
  code(kLoadAndCall);
  for (bool crowded : {false, true}) {
    Vcpu& v = vcpu();
    if (crowded) vcpu();
    std::atomic<unsigned> round{0};
    Storm storm(v, round);
    for (unsigned i = 0; i < (emulated() ? 250 : 1000) && !HasFailure(); i++, round++) {
      words(2 + i % 8)[0] = i;
      change_entry(kData, 2 + i % 8, G::kUserRw);
      v.regs()[Pc] = kCode;
      v.regs()[Place] = kData;
      EXPECT_EXIT_KIND(run(v), Syscall);
      EXPECT_EQ(v.regs()[Value], i);
    }
  }
}

std::atomic<unsigned> signals{0};

TEST_F(KvmKickTest, AnyHostSignalEndsTheRun) {
  struct sigaction action = {}, old = {};
  action.sa_handler = [](int) { signals++; };
  sigaction(SIGUSR2, &action, &old);
  code(kLoop);
  Vcpu& v = vcpu();
  pthread_t self = pthread_self();
  std::atomic<bool> stop{false};
  std::thread sender([&] {
    // A signal before KVM_RUN is not the machine's to see, so they keep coming.
    while (!stop.load()) {
      pthread_kill(self, SIGUSR2);
      std::this_thread::yield();
    }
  });
  Exit e = v.run();
  stop = true;
  sender.join();
  sigaction(SIGUSR2, &old, nullptr);
  EXPECT_EXIT_KIND(e, Kicked);
  EXPECT_GT(signals.load(), 0u);
  EXPECT_EQ(v.regs()[Pc], kCode);
}

}  // namespace
}  // namespace ramet::vmm::testing
