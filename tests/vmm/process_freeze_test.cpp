// The process machine's snapshots: guest code goes on in another process of the host, from where it was, and what had
// taken the first one over reaches neither the snapshot nor, after a reset, the memory.
//
// The attackers keep the process's first thread, its mapper, asleep and answer in its place, so that nothing which the
// process is asked to do is done. (The others that an attacker may try: tests/guests/attack*.c.)
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "arch/process_stub.hpp"
#include "freeze_programs.hpp"  // those of this host
#include "guest-mm/frozen_memory.hpp"
#include "tests/scaled.hpp"
#include "vmm/frozen_vm.hpp"

namespace ramet::vmm {
namespace {

using mm::Prot;

// Processes of the host that guests of this test run in.
std::set<int> guest_processes() {
  std::set<int> found;
  DIR* const all = ::opendir("/proc");
  while (const dirent* entry = ::readdir(all)) {
    const int pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    std::string line;
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::getline(stat, line);
    const auto end = line.rfind(") ");
    if (end != line.npos && std::atoi(line.c_str() + end + 4) == ::getpid()) found.insert(pid);
  }
  ::closedir(all);
  return found;
}

class ProcessFreeze : public ::testing::Test, protected FreezePrograms {
 protected:
  static constexpr mm::Gva kPrograms = 0x70'0000'0000, kPlace = 0x70'4000'0000, kFake = 0x70'8000'0000,
                           kWindow = 0x65'4000'0000;
  static constexpr std::uint64_t kPages = 64, kWindowBytes = 32ull << 20, kDescriptors = 64;
  static constexpr std::uint64_t kMapperTold = RAMET_TOLD, kMapperSaid = RAMET_SAID;

  static mm::Gva at(const std::byte* program) {
    return kPrograms + static_cast<std::uint64_t>(program - process_freeze_programs);
  }

  std::unique_ptr<Shell> parent() {
    auto vm = *Shell::create(64ull << 20, {}, {MachineChoice::Kind::Process});
    mm::AddressSpace& m = vm->memory();
    EXPECT_TRUE(
        m.map({.address = kPrograms, .length = mm::kPageSize, .prot = Prot::Read | Prot::Write, .fixed = true}));
    EXPECT_TRUE(m.write(kPrograms, std::span(process_freeze_programs, process_freeze_programs_end)));
    EXPECT_TRUE(m.protect(kPrograms, mm::kPageSize, Prot::Read | Prot::Exec));
    for (const auto& [start, bytes] :
         {std::pair{kPlace, kPages * mm::kPageSize}, std::pair{kFake, std::uint64_t{RAMET_SAID_SIZE}}})
      EXPECT_TRUE(m.map({.address = start, .length = bytes, .prot = Prot::Read | Prot::Write, .fixed = true}));
    add(*vm, kPages);
    return vm;
  }

  static std::uint64_t word(Shell& vm, mm::Gva at) {
    std::uint64_t w = 0;
    EXPECT_TRUE(vm.memory().read(at, std::as_writable_bytes(std::span(&w, 1))));
    return w;
  }

  // Until it makes a call, or does what the guest's memory does not allow.
  static Exit run(Shell& vm, Vcpu& v) {
    for (;;) {
      Exit e = v.run();
      if (e.kind == Exit::Kind::Kicked) continue;
      if (e.kind != Exit::Kind::PageFault || !vm.memory().fault(e.address, e.access)) return e;
    }
  }
  static void add(Shell& vm, std::uint64_t pages, Vcpu* on = nullptr) {
    Vcpu& v = on ? *on : **vm.machine().acquire_vcpu();
    v.regs()[Pc] = kPrograms, v.regs()[Place] = kPlace, v.regs()[Times] = pages;
    ASSERT_EQ(run(vm, v).kind, Exit::Kind::Syscall);
    if (!on) vm.machine().release_vcpu(&v);
  }

  // A call made by the stub's page, as a guest does it that has found the stub: it goes on at a list that is nowhere.
  static std::int64_t stub_call(Shell& vm, Vcpu& v, std::uint64_t number, const std::array<std::uint64_t, 6>& a) {
    prepare_stub_call(v.regs(), number, a, kFake);
    const Exit e = run(vm, v);
    EXPECT_EQ(e.kind, Exit::Kind::PageFault);
    return static_cast<std::int64_t>(word(vm, kFake + SAID_RESULTS));
  }
  // Maps all that the process can write where nobody looks for it. How many.
  static unsigned keep_mappings(Shell& vm, Vcpu& v) {
    unsigned kept = 0;
    for (std::uint64_t n = 0; n < kDescriptors; ++n) {
      const std::uint64_t to = kWindow + kept * kWindowBytes;
      if (stub_call(vm, v, SYS_mmap, {to, kWindowBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0}) ==
          static_cast<std::int64_t>(to))
        ++kept;
    }
    return kept;
  }
  // How many pages of what it kept it can still write to; in all of them a word changes.
  static constexpr std::uint64_t kDamaged = 2048;  // where in its page
  static unsigned damage(Shell& vm, Vcpu& v, unsigned kept) {
    unsigned times = 0;
    for (std::uint64_t page = 0; page < kept * kWindowBytes; page += mm::kPageSize) {
      auto& r = v.regs();
      r[Pc] = kPrograms, r[Place] = kWindow + page + kDamaged, r[Times] = 1;
      const Exit e = run(vm, v);
      if (e.kind == Exit::Kind::Syscall) ++times;
      else
        page = mm::align_down(page, kWindowBytes) + kWindowBytes - mm::kPageSize;  // not mapped, or the file ends there
    }
    return times;
  }
};

TEST_F(ProcessFreeze, Threads_run_while_snapshots_are_taken_and_go_on_in_another_process) {
  auto vm = parent();
  constexpr unsigned kThreads = 3;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::vector<Vcpu*> vcpus;
  for (unsigned t = 0; t < kThreads; ++t) vcpus.push_back(*vm->machine().acquire_vcpu());
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Vcpu& v = *vcpus[t];
      v.regs()[Pc] = at(process_freeze_count), v.regs()[Place] = kPlace + t * mm::kPageSize, v.regs()[Count] = 1;
      while (!stop) {
        const Exit e = v.run();
        if (e.kind == Exit::Kind::PageFault) EXPECT_TRUE(vm->memory().fault(e.address, e.access));
        else ASSERT_EQ(e.kind, Exit::Kind::Kicked) << e.detail;
      }
    });
  std::vector<std::uint64_t> last(kThreads, 1);
  for (unsigned rounds = test::scaled(10, 2); rounds; --rounds) {
    const auto before = guest_processes();
    auto snapshot = vm->freeze();
    ASSERT_TRUE(snapshot) << snapshot.error().message;
    for (const int pid : guest_processes())
      EXPECT_FALSE(before.contains(pid)) << "process " << pid << " ran guest code before";
    auto child = *(*snapshot)->spawn();
    for (unsigned t = 0; t < kThreads; ++t) {
      const std::uint64_t frozen = word(*child, kPlace + t * mm::kPageSize);
      EXPECT_GE(frozen, last[t]);
      while (word(*vm, kPlace + t * mm::kPageSize) < frozen + 1000) std::this_thread::yield();  // it goes on
      EXPECT_EQ(word(*child, kPlace + t * mm::kPageSize), frozen);
      last[t] = frozen;
    }
    add(*child, kPages);
    EXPECT_EQ(word(*child, kPlace + kThreads * mm::kPageSize), 2u);
  }
  stop = true;
  for (Vcpu* v : vcpus) v->kick();
  for (auto& t : threads) t.join();
  for (Vcpu* v : vcpus) vm->machine().release_vcpu(v);
  EXPECT_EQ(vm->memory().audit(), "");
}

TEST_F(ProcessFreeze, What_a_taken_over_process_kept_does_not_reach_the_snapshot) {
  auto vm = parent();
  Vcpu &keeper = **vm->machine().acquire_vcpu(), &liar = **vm->machine().acquire_vcpu();
  add(*vm, kPages, &keeper);
  const unsigned kept = keep_mappings(*vm, keeper);
  ASSERT_GT(kept, 0u);
  ASSERT_GT(damage(*vm, keeper, kept), kPages);
  std::atomic<bool> stop{false};
  std::thread lying([&] {
    liar.regs()[Pc] = at(process_freeze_lie), liar.regs()[MapperTold] = kMapperTold,
    liar.regs()[MapperSaid] = kMapperSaid;
    while (!stop) {
      const Exit e = liar.run();
      if (e.kind == Exit::Kind::PageFault) EXPECT_TRUE(vm->memory().fault(e.address, e.access));
      else ASSERT_EQ(e.kind, Exit::Kind::Kicked) << e.detail;
    }
  });
  while (liar.counters().kicks == 0) {  // it has been in its loop, and is there again
    liar.kick();
    std::this_thread::yield();
  }
  auto snapshot = vm->freeze();
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  auto child = *(*snapshot)->spawn();
  const std::uint64_t frozen = word(*child, kPlace + kDamaged);
  EXPECT_GT(frozen, 0u);
  EXPECT_EQ(damage(*vm, keeper, kept), 0u);
  for (std::uint64_t p = 0; p < kPages; ++p)
    EXPECT_EQ(word(*child, kPlace + p * mm::kPageSize + kDamaged), frozen) << p;
  stop = true;
  liar.kick();
  lying.join();
  for (Vcpu* v : {&keeper, &liar}) vm->machine().release_vcpu(v);
}

TEST_F(ProcessFreeze, A_thread_that_hides_does_not_outlive_a_reset) {
  auto vm = parent();
  auto snapshot = *vm->freeze();
  auto child = *snapshot->spawn();
  // Warm ones are made in threads of the pool. The second one has not run yet: its answer is looked for, and not waited
  // for by the thread's listener, which a thread that runs on does not call.
  Vcpu& first = **child->machine().acquire_vcpu();
  add(*child, kPages, &first);
  Vcpu& v = **child->machine().acquire_vcpu();
  auto& r = v.regs();
  r[Pc] = at(process_freeze_hide), r[MapperTold] = kMapperTold, r[MapperSaid] = kMapperSaid, r[Hidden] = kPlace;
  r[OwnTold] = RAMET_TOLD + 2 * RAMET_TOLD_SIZE, r[OwnSaid] = RAMET_SAID + 2 * RAMET_SAID_SIZE;  // its context
  ASSERT_EQ(run(*child, v).kind, Exit::Kind::Syscall);  // its last trap, once more
  const std::uint64_t seen = word(*child, kPlace);
  while (word(*child, kPlace) < seen + 1000) std::this_thread::yield();  // it runs on
  for (Vcpu* one : {&first, &v}) child->machine().release_vcpu(one);
  ASSERT_TRUE(child->reset());
  for (std::uint64_t round = 1; round <= 20; ++round) {
    add(*child, kPages);
    for (std::uint64_t p = 0; p < kPages; ++p) ASSERT_EQ(word(*child, kPlace + p * mm::kPageSize), 1 + round) << p;
  }
  EXPECT_EQ(child->memory().audit(), "");
}

}  // namespace
}  // namespace ramet::vmm
