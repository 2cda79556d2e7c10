// Generations: each VM is the child of the one before, which ends. However many there were, a VM stands on the layers
// that its tables still lead to, and the others go.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Generations : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Generations);

constexpr unsigned kMany = 16;  // AddressSpace::Config::many_layers

TEST_P(Generations, Layers_of_which_everything_was_written_anew_go) {
  Genet g(GetParam(), {.blocks = false});
  auto vm = g.make();
  const Gva old = vm->map(8 * kMiB), busy = vm->map(4 * kPageSize);
  for (Gva at = old; at < old + 8 * kMiB; at += kPageSize) ASSERT_TRUE(vm->cpu().store(at, at));
  ASSERT_TRUE(vm->as->protect(old, kPageSize, Prot::None));  // kept without permission: is to be found as well
  std::vector<std::weak_ptr<const Layer>> layers;
  std::size_t most = 0;
  constexpr unsigned kGenerations = 10 * kMany;
  for (unsigned n = 1; n <= kGenerations; ++n) {
    for (unsigned i = 0; i < 4; ++i) ASSERT_TRUE(vm->cpu().store(busy + i * kPageSize, n + i));
    auto snapshot = *vm->as->freeze();
    layers.push_back(snapshot->layer);
    most = std::max(most, snapshot->layer->below.size());
    vm = g.child(snapshot);
  }
  EXPECT_LE(most, kMany);
  EXPECT_LE(std::ranges::count_if(layers, [](const auto& l) { return !l.expired(); }), 2 * kMany);
  EXPECT_FALSE(layers.front().expired());
  ASSERT_TRUE(vm->as->protect(old, kPageSize, kReadWrite));
  for (Gva at = old; at < old + 8 * kMiB; at += kPageSize) ASSERT_EQ(vm->cpu().load(at), at);
  for (unsigned i = 0; i < 4; ++i) ASSERT_EQ(vm->cpu().load(busy + i * kPageSize), kGenerations + i);
  for (Gva at = old; at < old + 8 * kMiB; at += 64 * kPageSize) ASSERT_TRUE(vm->cpu().store(at, 1));
  vm->check();
  vm->check_empty();
}

TEST_P(Generations, Layers_of_which_a_page_is_left_stay_without_their_tables) {
  Genet g(GetParam(), {.blocks = false});
  auto vm = g.make();
  constexpr unsigned kGenerations = 4 * kMany;
  const Gva a = vm->map(kGenerations * kPageSize);
  for (unsigned n = 0; n < kGenerations; ++n) {
    ASSERT_TRUE(vm->cpu().store(a + n * kPageSize, n + 1));
    vm = g.child(*vm->as->freeze());
  }
  const auto& below = vm->as->physical().layer()->below;
  EXPECT_EQ(below.size(), kGenerations - 1);
  EXPECT_LE(std::ranges::count_if(below, &Layer::Below::tables), kGenerations / 2 + 1);  // since it was looked last
  for (unsigned n = 0; n < kGenerations; ++n) ASSERT_EQ(vm->cpu().load(a + n * kPageSize), n + 1);
  vm->check();
  vm->check_empty();
}

// The last child ends at any moment while its parent faults: tables that are the parent's own again lead to frames that
// are.
TEST_P(Generations, A_child_may_end_at_any_moment) {
  World w(GetParam(), {.config = {.blocks = false}});
  const Gva a = w.map(kPageSize);
  std::shared_ptr<const FrozenMemory> child;
  std::atomic<unsigned> turn = 0;  // odd: the other thread's, which then has `child`; pairs with itself
  const unsigned rounds = scaled(6000, 1000);
  std::thread ender([&] {
    for (unsigned round = 0; round < rounds; ++round) {
      while (turn.load(std::memory_order_acquire) != 2 * round + 1) std::this_thread::yield();
      for (volatile unsigned wait = round % 200; wait > 0;) wait = wait - 1;
      child.reset();
      turn.store(2 * round + 2, std::memory_order_release);
    }
  });
  std::string wrong;
  for (unsigned round = 0; round < rounds; ++round) {
    EXPECT_TRUE(w.cpu().store(a, round));
    child = *w.as->freeze();
    turn.store(2 * round + 1, std::memory_order_release);
    EXPECT_TRUE(w.cpu().store(a, round + 1));
    while (turn.load(std::memory_order_acquire) != 2 * round + 2) std::this_thread::yield();
    if (wrong.empty()) wrong = w.as->audit();
  }
  ender.join();
  EXPECT_EQ(wrong, "");
  w.check();
}

// One VM is frozen again and again, and all its children stay: what they stand on does not grow with their number.
TEST_P(Generations, Children_of_one_vm_stand_on_no_more_than_they_see) {
  Genet g(GetParam(), {.blocks = false});
  auto vm = g.make();
  const Gva old = vm->map(kMiB), busy = vm->map(4 * kPageSize);
  for (Gva at = old; at < old + kMiB; at += kPageSize) ASSERT_TRUE(vm->cpu().store(at, at));
  std::vector<std::unique_ptr<World>> children;
  for (unsigned n = 0; n < 3 * kMany / 2; ++n) {
    for (unsigned i = 0; i < 4; ++i) ASSERT_TRUE(vm->cpu().store(busy + i * kPageSize, n + i));
    const auto snapshot = *vm->as->freeze();
    EXPECT_LE(snapshot->layer->below.size(), kMany);
    children.push_back(g.child(snapshot));
  }
  for (unsigned n = 0; n < children.size(); ++n) {
    for (unsigned i = 0; i < 4; ++i) ASSERT_EQ(children[n]->cpu().load(busy + i * kPageSize), n + i);
    for (Gva at = old; at < old + kMiB; at += kPageSize) ASSERT_EQ(children[n]->cpu().load(at), at);
    children[n]->check();
  }
  children.clear();
  vm->check();
  vm->check_empty();
}

}  // namespace
}  // namespace ramet::mm::test
