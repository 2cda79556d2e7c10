// The software CPU's flushes, without a recompiler: engines that keep what they have seen of the tables and use it in a
// loop, as fast as they can. What they touch after a flush has returned is seen in the memory itself.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "guest-mm/address_space.hpp"
#include "vmm/shell.hpp"
#include "vmm/soft/engine_pool.hpp"
#include "vmm/soft/machine.hpp"

namespace ramet::vmm {
namespace {

using soft::Engine;
using soft::Stop;

constexpr mm::Gva kTouched = 0x1000'0000;
constexpr std::uint64_t kTouchedPages = 4;

// What engines do in run(), for all of them: the tests run one after the other.
enum class Task : std::uint8_t { Write, Execute };
std::atomic<Task> task{Task::Write};
// Of Execute: the instruction at kTouched, as each engine has translated it, and whose turn it is to make IC IVAU
// known.
std::array<std::atomic<std::uint32_t>, 2> seen;
std::atomic<int> maintains{-1};
std::atomic<int> engines_made{0};
std::atomic<int> pieces_forgotten{0};

class KeepingEngine final : public Engine {
 public:
  explicit KeepingEngine(int number) : number_(number) {}
  void bind(soft::Memory& memory) override {
    memory_ = &memory;
    forget_everything();
  }
  void unbind() override { memory_ = nullptr; }
  void load(const arch::UserRegs&) override {}
  void store(arch::UserRegs&) const override {}
  std::uint64_t thread_pointer() const override { return 0; }
  void set_thread_pointer(std::uint64_t) override {}
  void load_fp(const arch::FpState&) override {}
  void store_fp(arch::FpState&) const override {}
  Stop run() override {
    while (!halted_.exchange(false)) {
      const Stop stop = task == Task::Write ? write() : execute();
      if (stop.kind != Stop::Kind::Halted) return stop;
    }
    return {};
  }
  void halt() override { halted_ = true; }
  void forget(std::uint64_t start, std::uint64_t end) override {
    for (std::uint64_t i = 0; i < kTouchedPages; ++i)
      if (kTouched + i * mm::kPageSize >= start && kTouched + i * mm::kPageSize < end) kept_[i] = nullptr;
  }
  void forget_everything() override {
    kept_ = {};
    code_.reset();
    frame_ = ~0ull;
  }
  void forget_code(const soft::CodePiece& piece) override {
    if (frame_ == piece.frame) code_.reset();
    ++pieces_forgotten;
  }
  bool has_code(std::uint64_t frame) const override { return frame_ == frame; }

 private:
  Stop write() {
    for (std::uint64_t i = 0; i < kTouchedPages; ++i) {
      const std::uint64_t at = kTouched + i * mm::kPageSize;
      if (!kept_[i]) {
        const auto run = memory_->look(at, soft::Memory::Access::Write, 0);
        if (!run) return {.kind = Stop::Kind::Fault, .address = at, .access = soft::Memory::Access::Write};
        kept_[i] = run->host + (at - run->start);
      }
      std::atomic_ref(*reinterpret_cast<std::uint32_t*>(kept_[i])).store(1, std::memory_order_relaxed);
    }
    return {};
  }
  Stop execute() {
    if (maintains == number_) {
      maintains = -1;
      return {.kind = Stop::Kind::Maintained, .address = kTouched};
    }
    if (!code_) {
      const auto run = memory_->look(kTouched, soft::Memory::Access::Execute, 0);
      if (!run) return {.kind = Stop::Kind::Fault, .address = kTouched, .access = soft::Memory::Access::Execute};
      frame_ = run->frame;  // noted before it is read
      code_ = std::atomic_ref(*reinterpret_cast<std::uint32_t*>(run->host)).load();
    }
    seen[static_cast<std::size_t>(number_)] = *code_;
    return {};
  }

  const int number_;
  soft::Memory* memory_ = nullptr;
  std::atomic<bool> halted_{false};
  std::array<std::byte*, kTouchedPages> kept_{};
  std::optional<std::uint32_t> code_;
  std::atomic<std::uint64_t> frame_{~0ull};
};

Engine* make_keeping_engine(const soft::GuardedWords&) noexcept { return new KeepingEngine(engines_made++); }

class SoftVcpus : public ::testing::Test {
 protected:
  void SetUp() override {
    engines_made = 0;
    maintains = -1;
    seen[0] = seen[1] = 0;
    soft::use_engines(make_keeping_engine);
    auto made = Shell::create(64 << 20, {}, {.kind = MachineChoice::Kind::Soft});
    ASSERT_TRUE(made) << made.error().message;
    shell = std::move(*made);
  }
  void TearDown() override {
    done = true;
    for (Vcpu* vcpu : vcpus) vcpu->kick();
    for (std::thread& thread : threads) thread.join();
    for (Vcpu* vcpu : vcpus) shell->machine().release_vcpu(vcpu);
    shell.reset();
    soft::use_engines(nullptr);
  }
  void start(Task what) {
    task = what;
    for (int i = 0; i < 2; ++i) {
      auto vcpu = shell->machine().acquire_vcpu();
      ASSERT_TRUE(vcpu) << vcpu.error().message;
      vcpus.push_back(*vcpu);
    }
    for (Vcpu* vcpu : vcpus)
      threads.emplace_back([this, vcpu] {
        while (!done) {
          const Exit exit = vcpu->run();
          if (exit.kind == Exit::Kind::PageFault) (void)shell->memory().fault(exit.address, exit.access);
        }
      });
  }
  void map(mm::Prot prot) {
    ASSERT_TRUE(shell->memory().map(
        {.address = kTouched, .length = kTouchedPages * mm::kPageSize, .prot = prot, .fixed = true}));
  }
  std::uint32_t* word(std::uint64_t page) {
    const auto t = shell->memory().translate(kTouched + page * mm::kPageSize, 0);
    return t ? reinterpret_cast<std::uint32_t*>(shell->memory().physical().host(t->frame)) : nullptr;
  }

  std::unique_ptr<Shell> shell;
  std::vector<Vcpu*> vcpus;
  std::vector<std::thread> threads;
  std::atomic<bool> done{false};
};

#ifdef RAMET_SANITIZED
constexpr int kSoftRounds = 50;
#else
constexpr int kSoftRounds = 100;
#endif
// Whether it becomes so: what goes wrong here may be that nobody goes on.
template <class Condition>
bool eventually(Condition&& condition) {
  const char* patience = std::getenv("PATIENCE");  // of tests of which one is to fail: no need to wait for long
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(patience ? std::atoi(patience) : 20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

constexpr int kFewRounds = 20;  // of what waits for a turn on the processor each time

TEST_F(SoftVcpus, UseNothingOfWhatAFlushHasTaken) {
  start(Task::Write);
  for (int round = 0; round < kSoftRounds; ++round) {
    map(mm::Prot::Read | mm::Prot::Write);
    std::array<std::uint32_t*, kTouchedPages> words{};
    for (std::uint64_t i = 0; i < kTouchedPages; ++i) {
      ASSERT_TRUE(eventually([&] { return (words[i] = word(i)) && std::atomic_ref(*words[i]).load() != 0; }));
    }
    ASSERT_TRUE(shell->memory().unmap(kTouched, kTouchedPages * mm::kPageSize));
    for (auto* w : words) std::atomic_ref(*w).store(0);
    for (int look = 0; look < 20; ++look)
      for (auto* w : words)
        ASSERT_EQ(std::atomic_ref(*w).load(), 0u) << "written in round " << round << ", after it was unmapped";
  }
}

TEST_F(SoftVcpus, SeeWritingTakenAway) {
  start(Task::Write);
  map(mm::Prot::Read | mm::Prot::Write);
  for (int round = 0; round < kSoftRounds; ++round) {
    ASSERT_TRUE(eventually([&] { return word(0) && std::atomic_ref(*word(0)).load() != 0; }));
    auto* const w = word(0);
    ASSERT_TRUE(shell->memory().protect(kTouched, mm::kPageSize, mm::Prot::Read));
    std::atomic_ref(*w).store(0);
    for (int look = 0; look < 50; ++look)
      ASSERT_EQ(std::atomic_ref(*w).load(), 0u) << "written in round " << round << ", while it was read-only";
    ASSERT_TRUE(shell->memory().protect(kTouched, mm::kPageSize, mm::Prot::Read | mm::Prot::Write));
  }
}

// IC IVAU by one: when it goes on, none runs what was there before.
TEST_F(SoftVcpus, RunNothingThatWasMadeInvalid) {
  map(mm::Prot::Read | mm::Prot::Exec);
  start(Task::Execute);
  ASSERT_TRUE(eventually([&] { return word(0) != nullptr; }));
  auto* const code = word(0);
  for (std::uint32_t version = 1; version <= kFewRounds; ++version) {
    std::atomic_ref(*code).store(version);
    maintains = static_cast<int>(version % 2);
    // It is back in run() once it has translated anew.
    ASSERT_TRUE(eventually([&] { return seen[version % 2] == version; })) << "version " << version << " is not run";
    // What the other ran before it came out may still stand there.
    seen[1 - version % 2] = 0;
    for (int look = 0; look < 50; ++look) {
      const std::uint32_t other = seen[1 - version % 2];
      ASSERT_TRUE(other == 0 || other == version)
          << "code of version " << other << " ran after version " << version << " was made known";
    }
  }
}

// Others may make IC IVAU without end while a vCPU with that code waits in a system call.
TEST_F(SoftVcpus, AreLeftOneNoteOfAFrameWhileTheyAreOut) {
  map(mm::Prot::Read | mm::Prot::Exec);
  task = Task::Execute;
  ASSERT_TRUE(shell->memory().fault(kTouched, mm::Access::Execute));
  auto vcpu = shell->machine().acquire_vcpu();
  ASSERT_TRUE(vcpu) << vcpu.error().message;
  vcpus.push_back(*vcpu);
  const auto run_code = [&](std::uint32_t version) {
    std::atomic_ref(*word(0)).store(version);
    std::thread runner([&] { EXPECT_EQ((*vcpu)->run().kind, Exit::Kind::Kicked); });
    EXPECT_TRUE(eventually([&] { return seen[0] == version; }));
    (*vcpu)->kick();
    runner.join();
  };
  run_code(1);
  pieces_forgotten = 0;
  const mm::Gpa frame = shell->memory().translate(kTouched, 0)->frame;
  for (std::uint64_t line = 0; line < 10'000; ++line) shell->machine().exec_sync(frame + line % 64 * 64, 64);
  run_code(2);
  EXPECT_EQ(pieces_forgotten, 1);
}

TEST_F(SoftVcpus, ComeOutWhenTheyAreKicked) {
  start(Task::Write);
  map(mm::Prot::Read | mm::Prot::Write);
  const auto kicks = [&] { return vcpus[0]->counters().kicks + vcpus[1]->counters().kicks; };
  for (int round = 0; round < kFewRounds; ++round) {
    const std::uint64_t before = kicks();
    vcpus[static_cast<std::size_t>(round % 2)]->kick();
    ASSERT_TRUE(eventually([&] { return kicks() != before; }));
  }
}

// The engine of a vCPU that is released goes on with the next one of the same machine, and at the machine's end with
// another's.
TEST_F(SoftVcpus, KeepTheirEngines) {
  for (int i = 0; i < 10; ++i) {
    auto vcpu = shell->machine().acquire_vcpu();
    ASSERT_TRUE(vcpu);
    shell->machine().release_vcpu(*vcpu);
  }
  EXPECT_EQ(engines_made, 1);
  auto other = shell->another();
  ASSERT_TRUE(other) << other.error().message;
  auto held = shell->machine().acquire_vcpu();
  auto vcpu = (*other)->machine().acquire_vcpu();
  ASSERT_TRUE(held && vcpu);
  EXPECT_EQ(engines_made, 2);
  (*other)->machine().release_vcpu(*vcpu);
  other->reset();
  auto third = shell->another();
  ASSERT_TRUE(third);
  vcpu = (*third)->machine().acquire_vcpu();
  ASSERT_TRUE(vcpu);
  EXPECT_EQ(engines_made, 2) << "of the machine that has ended";
  (*third)->machine().release_vcpu(*vcpu);
  shell->machine().release_vcpu(*held);
}

TEST_F(SoftVcpus, AreBounded) {
  std::vector<Vcpu*> many;
  for (;;) {
    auto vcpu = shell->machine().acquire_vcpu();
    if (!vcpu) {
      EXPECT_EQ(vcpu.error().error, EAGAIN);
      break;
    }
    many.push_back(*vcpu);
    ASSERT_LT(many.size(), 10'000u);
  }
  for (Vcpu* vcpu : many) shell->machine().release_vcpu(vcpu);
}

}  // namespace
}  // namespace ramet::vmm
