// The KVM machine of arm64 hosts: what it reports when user code traps, that no register is lost on the way, and
// what its strict flushes cost. What they and kicks are for is tested by the twins' common tests.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <initializer_list>
#include <memory>
#include <thread>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/user_state.hpp"
#include "guest-mm/address_space.hpp"
#include "guest-mm/bank.hpp"
#include "tests/vmm/kvm_vm.hpp"
#include "tests/vmm/need_kvm.hpp"
#include "vmm/kvm/arm64/machine.hpp"
#include "vmm/kvm/kernel_half.hpp"
#include "vmm/kvm/kvm_machine.hpp"
#include "vmm/kvm/micro_guest.hpp"

namespace ramet::vmm::arm64_kvm {
namespace {

using namespace arch::arm64;
using mm::Prot;
using Kind = Exit::Kind;

constexpr std::uint32_t kSvc = 0xd4000001, kLoad = 0xf9400020 /* ldr x0, [x1] */, kStore = 0xf9000020,
                        kJump = 0xd61f0020 /* br x1 */;

class Arm64Kvm : public ::testing::Test {
 protected:
  static constexpr mm::Gva kCode = 0x400000, kData = 0x10000000;
  static constexpr std::uint64_t kBytes = 64 * mm::kPageSize;

  void SetUp() override {
    NEED_KVM();
    auto made = make();
    ASSERT_TRUE(made) << made.error().message;
    machine = std::move(*made);
    memory = std::move(*mm::Memory::create({.data_bytes = 32ull << 20, .table_bytes = 4ull << 20}));
    ASSERT_TRUE(memory->observe(*machine));
    space = std::move(*mm::AddressSpace::create(config(), *memory, *machine));
    auto attached = machine->attach(*space);
    ASSERT_TRUE(attached) << attached.error().message;
    map(kCode, mm::kPageSize);
    map(kData, kBytes);
  }
  virtual std::expected<std::unique_ptr<Machine>, Failure> make() { return create_kvm_machine(); }
  virtual mm::AddressSpace::Config config() { return kvm::space_for(*machine); }
  void TearDown() override {
    space.reset();
    if (memory) memory->unobserve();
  }
  void map(mm::Gva at, std::uint64_t length) {
    ASSERT_TRUE(space->map({.address = at, .length = length, .prot = Prot::Read | Prot::Write, .fixed = true}));
  }
  void code(std::initializer_list<std::uint32_t> instructions) {
    ASSERT_TRUE(space->protect(kCode, mm::kPageSize, Prot::Read | Prot::Write));
    ASSERT_TRUE(space->write(kCode, std::as_bytes(std::span(instructions.begin(), instructions.size()))));
    ASSERT_TRUE(space->protect(kCode, mm::kPageSize, Prot::Read | Prot::Exec));
  }
  Vcpu& vcpu() {
    auto v = machine->acquire_vcpu();
    if (!v) ADD_FAILURE() << v.error().message, std::abort();
    (*v)->regs()[Pc] = kCode;
    return **v;
  }
  Exit run(Vcpu& v) { return testing::run_settled(*space, v); }
  std::uint64_t word(mm::Gva at) { return testing::word_at(*space, at); }
  std::unique_ptr<Machine> machine;
  std::unique_ptr<mm::Memory> memory;
  std::unique_ptr<mm::AddressSpace> space;
};

TEST_F(Arm64Kvm, SystemCallKeepsEveryRegister) {
  code({kSvc, kSvc});
  Vcpu& v = vcpu();
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    UserRegs before;
    for (unsigned i = 0; i < Pc; ++i) before[i] = seed * 0x9e37'79b9'7f4a'7c15 + i;
    before[Pc] = kCode, before[Pstate] = (seed & 15) << 28;
    v.regs() = before;
    ASSERT_EQ(run(v).kind, Kind::Syscall);
    before[Pc] += 4;
    EXPECT_EQ(v.regs().word, before.word);
  }
}

TEST_F(Arm64Kvm, PageFaultTellsAddressAccessAndWhetherAnEntryWasThere) {
  const struct {
    const char* what;
    std::uint32_t instruction;
    mm::Gva address;
    mm::Access access;
    bool present;
  } cases[] = {
      {"load, no entry", kLoad, 0x20000008, mm::Access::Read, false},
      {"store, no entry", kStore, 0x20000008, mm::Access::Write, false},
      {"fetch, no entry", kJump, 0x20000008, mm::Access::Execute, false},
      {"beyond the user end", kLoad, 0x7fff'ffff'fff8, mm::Access::Read, false},
      {"store, read-only", kStore, kCode + 0x100, mm::Access::Write, true},
      {"fetch, not executable", kJump, kData, mm::Access::Execute, true},
      {"the stub", kLoad, kvm::KernelHalf::kStubPage, mm::Access::Read, true},
      {"the way out of it", kStore, kvm::KernelHalf::kHole, mm::Access::Write, true},
      {"into the stub", kJump, kvm::KernelHalf::kStubPage, mm::Access::Execute, true},
  };
  ASSERT_TRUE(space->write(kData, std::as_bytes(std::span("x", 1))));
  Vcpu& v = vcpu();
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    code({c.instruction, kSvc});
    v.regs()[Pc] = kCode, v.regs()[X0 + 1] = c.address;
    const Exit e = run(v);
    ASSERT_EQ(e.kind, Kind::PageFault) << e.detail;
    EXPECT_EQ(e.address, c.address);
    EXPECT_EQ(e.access, c.access);
    EXPECT_EQ(e.present, c.present);
  }
}

TEST_F(Arm64Kvm, ATagIsNoPartOfAnAddress) {
  code({kLoad, kSvc});
  Vcpu& v = vcpu();
  v.regs()[X0 + 1] = 0xab00'0000'0000'0000 | kData;
  EXPECT_EQ(run(v).kind, Kind::Syscall);
}

TEST_F(Arm64Kvm, ExceptionsAreReportedAsTheSignalsOfLinux) {
  const struct {
    const char* what;
    std::uint32_t instruction;
    std::uint64_t argument;
    int signal, code;
    std::uint64_t address;
  } cases[] = {
      {"undefined", 0, 0, SIGILL, ILL_ILLOPC, kCode},
      {"breakpoint", 0xd4200000, 0, SIGTRAP, TRAP_BRKPT, kCode},
      {"privileged register", 0xd5385200, 0, SIGILL, ILL_ILLOPC, kCode},   // mrs x0, esr_el1
      {"hypervisor call", 0xd4000002, 0, SIGILL, ILL_ILLOPC, kCode},
      {"flush", 0xd508831f, 0, SIGILL, ILL_ILLOPC, kCode},                 // tlbi vmalle1is
      {"misaligned exclusive", 0xc85f7c20, kData + 1, SIGBUS, BUS_ADRALN, kData + 1},
      {"misaligned jump", kJump, kCode + 2, SIGBUS, BUS_ADRALN, kCode + 2},
  };
  Vcpu& v = vcpu();
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    code({c.instruction, kSvc});
    v.regs()[Pc] = kCode, v.regs()[X0 + 1] = c.argument;
    const Exit e = run(v);
    ASSERT_EQ(e.kind, Kind::Exception) << e.detail;
    EXPECT_EQ(e.signal, c.signal);
    EXPECT_EQ(e.code, c.code);
    EXPECT_EQ(e.address, c.address);
  }
}

TEST_F(Arm64Kvm, WaitingForAnInterruptIsOverAtOnce) {
  code({0xd503207f, kSvc});  // wfi
  Vcpu& v = vcpu();
  ASSERT_EQ(run(v).kind, Kind::Syscall);
  EXPECT_EQ(v.regs()[Pc], kCode + 8);
}

TEST_F(Arm64Kvm, VectorRegistersGoInAndOutAndStay) {
  code({0x4ea01c01, kSvc, 0x4ea11c22, kSvc});  // mov v1.16b, v0.16b; svc; mov v2.16b, v1.16b; svc
  Vcpu& v = vcpu();
  FpState fp, out;
  ASSERT_TRUE(v.get_fp(fp));
  for (unsigned i = 0; i < 16; ++i) fp.area[i] = std::byte(0xa0 + i);
  ASSERT_TRUE(v.set_fp(fp));
  ASSERT_EQ(run(v).kind, Kind::Syscall);
  ASSERT_TRUE(v.get_fp(out));
  EXPECT_TRUE(std::equal(&fp.area[0], &fp.area[16], &out.area[16]));
  ASSERT_EQ(run(v).kind, Kind::Syscall);
  ASSERT_TRUE(v.get_fp(out));
  EXPECT_TRUE(std::equal(&fp.area[0], &fp.area[16], &out.area[32]));
}

TEST_F(Arm64Kvm, TheThreadPointerIsSetAndSeen) {
  code({0xd53bd040, 0xd51bd041, kSvc});  // mrs x0, tpidr_el0; msr tpidr_el0, x1
  Vcpu& v = vcpu();
  v.set_base(0, 0x1234);
  v.regs()[X0 + 1] = 0x5678;
  ASSERT_EQ(run(v).kind, Kind::Syscall);
  EXPECT_EQ(v.regs()[X0], 0x1234u);
  EXPECT_EQ(v.base(0), 0x5678u);
}

TEST_F(Arm64Kvm, AReleasedVcpuComesBackAsNew) {
  code({kSvc});
  Vcpu& v = vcpu();
  v.regs()[X0 + 5] = 1;
  v.set_base(0, 7);
  ASSERT_EQ(run(v).kind, Kind::Syscall);
  v.kick();
  machine->release_vcpu(&v);
  Vcpu& again = vcpu();
  EXPECT_EQ(&again, &v);
  EXPECT_EQ(again.regs()[X0 + 5], 0u);
  EXPECT_EQ(again.base(0), 0u);
  EXPECT_EQ(again.run().kind, Kind::Syscall) << "a kick of whoever had it before";
}

// --- access flag and dirty state, set by the processor or by faults ---

using EntryUpdates = arch::arm64::EntryUpdates;
class Arm64KvmFlags : public Arm64Kvm, public ::testing::WithParamInterface<EntryUpdates> {
 protected:
  std::expected<std::unique_ptr<Machine>, Failure> make() override {
    auto device = kvm::Device::open("/dev/kvm");
    if (!device) return std::unexpected(device.error());
    auto model = kvm::CpuModel::get(*device);
    if (!model) return std::unexpected(model.error());
    set = (*model)->updates & GetParam();
    return kvm::KvmMachine::create("/dev/kvm", GetParam());
  }
  mm::AddressSpace::Config config() override {
    auto c = kvm::space_for(*machine);
    c.eager_accessed_dirty = false, c.blocks = false, c.around_pages = kPages;
    return c;
  }
  static constexpr std::uint64_t kPages = kBytes >> mm::kPageShift;
  EntryUpdates set;  // by the processor
};
INSTANTIATE_TEST_SUITE_P(SetByTheProcessor, Arm64KvmFlags,
                         ::testing::Values(EntryUpdates{true, true}, EntryUpdates{true, false},
                                           EntryUpdates{false, false}),
                         [](const auto& p) {
                           return !p.param.accessed ? "None" : p.param.dirty ? "Both" : "AccessFlag";
                         });

TEST_P(Arm64KvmFlags, EachPageIsReadThenWrittenAndNoFaultComesTwice) {
  code({kLoad, 0x91400421, 0xf1000463, 0x54ffffa1,
        kSvc,    // 1: ldr x0, [x1]; add x1, x1, #4096; subs x3, x3, #1; b.ne 1b; svc
        kStore, 0x91400421, 0xf1000463, 0x54ffffa1, kSvc});  // the same with str
  Vcpu& v = vcpu();
  const auto pass = [&](mm::Gva program) {
    const std::uint64_t before = space->counters().faults_flipped;
    v.regs()[Pc] = program, v.regs()[X0] = 7, v.regs()[X0 + 1] = kData, v.regs()[X0 + 3] = kPages;
    EXPECT_EQ(run(v).kind, Kind::Syscall);
    return space->counters().faults_flipped - before;
  };
  constexpr mm::Gva kLoads = kCode, kStores = kCode + 20;
  EXPECT_EQ(pass(kLoads), set.accessed ? 0 : kPages - 1) << "one fault maps all of them";
  EXPECT_EQ(pass(kLoads), 0u);
  EXPECT_EQ(pass(kStores), set.accessed && set.dirty ? 0 : kPages);
  EXPECT_EQ(pass(kStores), 0u);
  for (std::uint64_t p = 0; p < kPages; ++p) ASSERT_EQ(word(kData + p * mm::kPageSize), 7u);
  EXPECT_EQ(space->audit(), "");
}

TEST_P(Arm64KvmFlags, APageThatNobodyUsedGoesWithoutAFlush) {
  code({kLoad, kSvc});
  Vcpu& v = vcpu();
  v.regs()[X0 + 1] = kData;
  ASSERT_EQ(run(v).kind, Kind::Syscall);
  const auto strict = [&] { return std::uint64_t{space->counters().flushes}; };
  const auto before = strict();
  ASSERT_TRUE(space->unmap(kData + mm::kPageSize, mm::kPageSize));
  EXPECT_EQ(strict(), before);
  ASSERT_TRUE(space->unmap(kData, mm::kPageSize));
  EXPECT_EQ(strict(), before + 1);
}

// --- strict flushes, while another vCPU uses the entry ---

class Arm64KvmFlush : public Arm64Kvm, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(By, Arm64KvmFlush, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "AVcpusThread" : "AnotherThread"; });

TEST_P(Arm64KvmFlush, ARunningVcpuStoresNothingAfterItsPageWasTakenAway) {
  code({0x91000400, kStore, 0x17fffffe, kSvc});  // 1: add x0, x0, #1; str x0, [x1]; b 1b
  Vcpu& own = vcpu();
  if (GetParam()) {
    own.regs()[Pc] = kCode + 12;
    ASSERT_EQ(run(own).kind, Kind::Syscall);
  }
  for (int round = 0; round < 10; ++round) {
    const bool unmap = round % 2;
    Vcpu& v = vcpu();
    v.regs()[X0 + 1] = kData;
    Exit exit;
    std::thread runner([&] { exit = run(v); });
    for (const std::uint64_t start = word(kData); word(kData) == start;) std::this_thread::yield();
    if (unmap) {
      ASSERT_TRUE(space->unmap(kData, kBytes));
    } else {
      ASSERT_TRUE(space->protect(kData, kBytes, Prot::Read));
    }
    const std::uint64_t after = unmap ? 0 : word(kData);
    runner.join();
    ASSERT_EQ(exit.kind, Kind::PageFault) << exit.detail;
    EXPECT_EQ(exit.address, kData);
    EXPECT_EQ(exit.access, mm::Access::Write);
    if (!unmap) {
      EXPECT_EQ(word(kData), after);
    }
    machine->release_vcpu(&v);
    ASSERT_TRUE(space->unmap(kData, kBytes));
    map(kData, kBytes);
  }
  const auto totals = machine->totals();
  if (GetParam()) {
    EXPECT_GT(totals.flush_exits, 0u);
    EXPECT_EQ(totals.kicks, 0u) << "the flush reaches the other processors by itself";
  } else {
    EXPECT_EQ(totals.flush_exits, 0u);
    EXPECT_GT(totals.kicks, 0u);
  }
}

}  // namespace
}  // namespace ramet::vmm::arm64_kvm
