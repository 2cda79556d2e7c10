// VMs that share layers: user code on both sides of a freeze, and children that try to write what is not theirs.
#include <atomic>
#include <cstring>
#include <thread>

#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/pin.hpp"
#include "tests/vmm/kvm_vm.hpp"
#include "vmm/frozen_vm.hpp"

namespace ramet::vmm::testing {
namespace {

using namespace programs;
using mm::Prot;

class KvmLayersTest : public ::testing::Test {
 protected:
  using G = kvm::MicroGuest;
  using Vm = KvmVm;
  void SetUp() override { NEED_KVM(); }

  static constexpr mm::Gva kProgram = 0x70'0000'0000, kReader = kProgram + 64, kPlace = 0x70'4000'0000;
  static constexpr mm::Gva kStolen = 0x7f'0000'0000;  // nothing is mapped around it
  static constexpr std::uint64_t kPages = 1024;         // of which the first half are a block

  // Adds one to a word of each page.
  Exit add(Vm& vm, Vcpu& v, mm::Gva from, std::uint64_t pages) {
    v.regs()[Pc] = kProgram;
    v.regs()[Place] = from;
    v.regs()[Times] = pages;
    return vm.run(v);
  }
  Exit look(Vm& vm, mm::Gva at) {
    vm.vcpu->regs()[Pc] = kReader;
    vm.vcpu->regs()[Place] = at;
    return vm.run(*vm.vcpu);
  }
  void set_up(Vm& vm) {
    ASSERT_TRUE(
        vm.space->map({.address = kProgram, .length = mm::kPageSize, .prot = Prot::Read | Prot::Write, .fixed = true}));
    ASSERT_TRUE(vm.space->write(kProgram, std::as_bytes(std::span(kIncrementPagesAndCall))));
    ASSERT_TRUE(vm.space->write(kReader, std::as_bytes(std::span(kLoadAndCall))));
    ASSERT_TRUE(vm.space->protect(kProgram, mm::kPageSize, Prot::Read | Prot::Exec));
    ASSERT_TRUE(vm.space->map(
        {.address = kPlace, .length = kPages * mm::kPageSize, .prot = Prot::Read | Prot::Write, .fixed = true}));
    ASSERT_EXIT_KIND(add(vm, *vm.vcpu, kPlace, kPages), Syscall);
  }
  // Puts an entry into the VM's own tables as code in ring 0 (EL1) could.
  void steal(Vm& vm, mm::Gpa target) {
    ASSERT_TRUE(kvm::write_entry(*vm.space, vm.machine->needs().format, kStolen, target, G::kUserRw, true));
    vm.machine->flush({.ranges = {}, .tables = {}, .everything = true});
  }
  std::shared_ptr<mm::PhysicalSpace> physical = std::make_shared<mm::PhysicalSpace>();
};

TEST_F(KvmLayersTest, Each_side_goes_on_with_what_was_there) {
  Vm parent(physical);
  set_up(parent);
  auto snapshot = *parent.space->freeze();
  Vm child(physical, snapshot);
  ASSERT_EXIT_KIND(add(child, *child.vcpu, kPlace, 600), Syscall);
  ASSERT_EXIT_KIND(add(parent, *parent.vcpu, kPlace + 300 * mm::kPageSize, 600), Syscall);
  ASSERT_EXIT_KIND(add(parent, *parent.vcpu, kPlace + 300 * mm::kPageSize, 600), Syscall);
  for (std::uint64_t i = 0; i < kPages; ++i) {
    ASSERT_EQ(child.word(kPlace + i * mm::kPageSize), i < 600 ? 2u : 1u) << i;
    ASSERT_EQ(parent.word(kPlace + i * mm::kPageSize), i >= 300 && i < 900 ? 3u : 1u) << i;
  }
  EXPECT_EQ(parent.space->audit(), "");
  EXPECT_EQ(child.space->audit(), "");
}

TEST_F(KvmLayersTest, Children_one_after_the_other_and_in_a_chain) {
  Vm parent(physical);
  set_up(parent);
  for (std::uint64_t round = 0; round < (emulated() ? 6 : 20); ++round) {
    auto snapshot = *parent.space->freeze();
    Vm child(physical, snapshot);
    auto below = *child.space->freeze();
    Vm grandchild(physical, below);
    snapshot.reset();
    below.reset();
    ASSERT_EXIT_KIND(add(grandchild, *grandchild.vcpu, kPlace, 20), Syscall);
    ASSERT_EXIT_KIND(add(child, *child.vcpu, kPlace, 10), Syscall);
    ASSERT_EXIT_KIND(add(grandchild, *grandchild.vcpu, kPlace, 20), Syscall);
    ASSERT_EXIT_KIND(add(parent, *parent.vcpu, kPlace, 5), Syscall);
    for (std::uint64_t i = 0; i < 30; ++i) {
      const std::uint64_t before = i < 5 ? round + 1 : 1;
      ASSERT_EQ(grandchild.word(kPlace + i * mm::kPageSize), i < 20 ? before + 2 : before);
      ASSERT_EQ(child.word(kPlace + i * mm::kPageSize), i < 10 ? before + 1 : before);
      ASSERT_EQ(parent.word(kPlace + i * mm::kPageSize), i < 5 ? before + 1 : before);
    }
  }
  EXPECT_EQ(parent.space->audit(), "");
}

TEST_F(KvmLayersTest, A_child_that_writes_its_own_page_tables_cannot_write_its_parents_data) {
  Vm parent(physical);
  set_up(parent);
  const auto snapshot = *parent.space->freeze();
  for (const mm::Gpa target : {snapshot->layer->data_parts[0].start, snapshot->layer->data_parts.back().start}) {
    const auto* bytes = reinterpret_cast<const std::uint64_t*>(parent.memory->host(target));
    const std::uint64_t before = bytes[0];
    Vm child(physical, snapshot);
    steal(child, target);
    Exit e = add(child, *child.vcpu, kStolen, 1);
    EXPECT_NE(e.kind, Kind::Syscall) << "the store went through";
    EXPECT_EQ(bytes[0], before);
  }
}

TEST_F(KvmLayersTest, Nor_its_parents_page_tables) {
  Vm parent(physical);
  set_up(parent);
  const auto snapshot = *parent.space->freeze();
  const mm::Gpa target = snapshot->layer->table_part.start;
  const std::vector<std::uint64_t> before(reinterpret_cast<std::uint64_t*>(parent.memory->host(target)),
                                          reinterpret_cast<std::uint64_t*>(parent.memory->host(target)) + 512);
  Vm child(physical, snapshot), sibling(physical, snapshot);
  steal(child, target);
  (void)add(child, *child.vcpu, kStolen, 1);  // goes into the child's own copy
  EXPECT_EQ(std::memcmp(parent.memory->host(target), before.data(), mm::kPageSize), 0);
  ASSERT_EXIT_KIND(add(sibling, *sibling.vcpu, kPlace, kPages), Syscall);
  ASSERT_EXIT_KIND(add(parent, *parent.vcpu, kPlace, kPages), Syscall);
  for (std::uint64_t i = 0; i < kPages; ++i) ASSERT_EQ(sibling.word(kPlace + i * mm::kPageSize), 2u);
}

// A frame of the parent's that is pinned only for now lies in the layer, and so in the child's memory, though no entry
// leads there; one that is pinned for long does not.
TEST_F(KvmLayersTest, What_devices_write_for_long_is_out_of_reach) {
  using Term = mm::AddressSpace::PinTerm;
  Vm parent(physical);
  set_up(parent);
  const auto brief = *parent.space->pin(kPlace, mm::kPageSize, mm::Access::Write, Term::Short);
  const auto lasting = *parent.space->pin(kPlace + mm::kPageSize, mm::kPageSize, mm::Access::Write, Term::Long);
  const auto frame = [&](const mm::Pin& pin) {
    const mm::Bank& bank = parent.memory->data();
    return bank.base() + static_cast<mm::Gpa>(static_cast<std::byte*>(pin.ranges()[0].bytes.address()) - bank.host());
  };
  const auto snapshot = *parent.space->freeze();
  for (const mm::Pin* pin : {&brief, &lasting}) {
    Vm child(physical, snapshot);
    auto& word = *static_cast<std::uint64_t*>(pin->ranges()[0].bytes.address());
    word = 4711;  // the device goes on
    steal(child, frame(*pin));
    const Exit e = look(child, kStolen);
    EXPECT_EQ(e.kind == Kind::Syscall && child.vcpu->regs()[Value] == 4711, pin == &brief);
    Vm other(physical, snapshot);
    steal(other, frame(*pin));
    EXPECT_NE(add(other, *other.vcpu, kStolen, 1).kind, Kind::Syscall);
    EXPECT_EQ(word, 4711u);
    EXPECT_EQ(other.word(kPlace + (pin == &lasting) * mm::kPageSize), 1u);
  }
  EXPECT_EQ(parent.space->audit(), "");
}

// A second vCPU runs user code while the memory is frozen: it adds to all pages in turn, so a snapshot has no page that
// is ahead of one before it, and none that is two behind.
TEST_F(KvmLayersTest, Code_runs_while_its_memory_is_frozen) {
  Vm parent(physical);
  set_up(parent);
  constexpr std::uint64_t kSome = 64;
  Vcpu* other = *parent.machine->acquire_vcpu();
  std::atomic<bool> done{false};
  std::uint64_t rounds = 0;
  std::thread runner([&] {
    for (; !done; ++rounds) ASSERT_EXIT_KIND(add(parent, *other, kPlace, kSome), Syscall);
  });
  for (unsigned i = 0; i < (emulated() ? 8 : 40); ++i) {
    auto snapshot = *parent.space->freeze();
    Vm child(physical, snapshot);
    snapshot.reset();
    std::uint64_t first = child.word(kPlace), before = first;
    for (std::uint64_t p = 1; p < kSome; ++p) {
      const std::uint64_t now = child.word(kPlace + p * mm::kPageSize);
      ASSERT_LE(now, before);
      ASSERT_GE(now + 1, first);
      before = now;
    }
    ASSERT_EXIT_KIND(add(child, *child.vcpu, kPlace, kSome), Syscall);
    ASSERT_EQ(child.word(kPlace), first + 1);
  }
  done = true;
  runner.join();
  for (std::uint64_t p = 0; p < kSome; ++p) ASSERT_EQ(parent.word(kPlace + p * mm::kPageSize), rounds + 1);
  EXPECT_EQ(parent.space->audit(), "");
}

// The same by Shell and FrozenVm, which warm VMs wait behind.
class SnapshotTest : public KvmLayersTest {
 protected:
  static std::uint64_t word(Shell& vm, mm::Gva at) {
    std::uint64_t w = 0;
    EXPECT_TRUE(vm.memory().read(at, std::as_writable_bytes(std::span(&w, 1))));
    return w;
  }
  // Has the VM add one to a word of each page, on a vCPU taken for it.
  void add(Shell& vm, mm::Gva from, std::uint64_t pages) {
    auto vcpu = vm.machine().acquire_vcpu();
    ASSERT_TRUE(vcpu) << vcpu.error().message;
    auto& v = **vcpu;
    v.regs()[Pc] = kProgram, v.regs()[Place] = from, v.regs()[Times] = pages;
    for (Exit e = v.run(); e.kind != Kind::Syscall; e = v.run()) {
      if (e.kind == Kind::Kicked) continue;
      ASSERT_EXIT_KIND(e, PageFault);
      ASSERT_TRUE(vm.memory().fault(e.address, e.access));
    }
    vm.machine().release_vcpu(&v);
  }
  std::unique_ptr<Shell> parent() {
    auto vm = *Shell::create(64ull << 20);
    mm::AddressSpace& m = vm->memory();
    EXPECT_TRUE(m.map({.address = kProgram, .length = mm::kPageSize, .prot = Prot::Read | Prot::Write, .fixed = true}));
    EXPECT_TRUE(m.write(kProgram, std::as_bytes(std::span(kIncrementPagesAndCall))));
    EXPECT_TRUE(m.protect(kProgram, mm::kPageSize, Prot::Read | Prot::Exec));
    EXPECT_TRUE(
        m.map({.address = kPlace, .length = kPages * mm::kPageSize, .prot = Prot::Read | Prot::Write, .fixed = true}));
    add(*vm, kPlace, kPages);
    return vm;
  }
  void expect_words(Shell& vm, std::uint64_t written, std::uint64_t value) {
    for (std::uint64_t i = 0; i < kPages; ++i)
      ASSERT_EQ(word(vm, kPlace + i * mm::kPageSize), i < written ? value : 1) << i;
    EXPECT_EQ(vm.memory().audit(), "");
  }
};

TEST_F(SnapshotTest, Spawned_vms_are_reset_and_used_again_and_go_on_without_it) {
  auto vm = parent();
  auto snapshot = *vm->freeze();
  EXPECT_FALSE(vm->reset());  // it was not spawned
  std::vector<std::unique_ptr<Shell>> children;
  for (std::uint64_t round = 0; round < 8; ++round) {
    auto child = snapshot->spawn();
    ASSERT_TRUE(child) << child.error().message;
    const std::uint64_t pages = round * round * 13 + 1;
    add(**child, kPlace, pages);
    expect_words(**child, pages, 2);
    ASSERT_TRUE((*child)->reset());
    expect_words(**child, 0, 1);
    add(**child, kPlace, kPages / 2);
    add(**child, kPlace, kPages / 2);
    expect_words(**child, kPages / 2, 3);
    if (round & 1) snapshot->take_back(std::move(*child));
    else children.push_back(std::move(*child));
  }
  add(*vm, kPlace, kPages);
  expect_words(*vm, kPages, 2);
  auto grandchildren = *children[0]->freeze();
  auto grandchild = *grandchildren->spawn();
  expect_words(*grandchild, kPages / 2, 3);
  add(*grandchild, kPlace, kPages / 2);
  ASSERT_TRUE(grandchild->reset());
  snapshot.reset();
  grandchildren.reset();
  vm.reset();
  children.resize(2);
  expect_words(*grandchild, kPages / 2, 3);
  expect_words(*children[1], kPages / 2, 3);
}

TEST_F(SnapshotTest, Threads_spawn_from_one_snapshot_at_once) {
  auto vm = parent();
  auto snapshot = *vm->freeze();
  snapshot->keep_warm();
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 10; ++i) {
        auto child = *snapshot->spawn();
        add(*child, kPlace, 10 * t + i + 1);
        if (t & 1) snapshot->take_back(std::move(child));
      }
    });
  }
  add(*vm, kPlace, kPages);
  for (auto& t : threads) t.join();
  expect_words(**snapshot->spawn(), 0, 1);
}

}  // namespace
}  // namespace ramet::vmm::testing
