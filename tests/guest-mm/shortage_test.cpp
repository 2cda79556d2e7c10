// The VMM's own memory runs out in the middle of something: whichever allocation fails, what was changed is known and
// flushed, no entry stays half changed, and relatives notice nothing. The space in which it happened is ended by its
// owner.
#include <new>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/world.hpp"
#include "tests/scarce.hpp"

namespace ramet::mm::test {
namespace {

using ::ramet::test::scarce::allocations_left, ::ramet::test::scarce::failed;

class Shortage : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Shortage);

using Term = AddressSpace::PinTerm;

constexpr Gva kAt = 0x4000'0000, kOther = 0x8000'0000;
constexpr std::uint64_t kPages = 128;

// What a parent leaves to its children: pages, two blocks, a read-only page, and one it has pinned.
std::shared_ptr<const FrozenMemory> leave(World& parent, Pin& pin) {
  parent.map_at(kAt, 8 * kMiB);
  for (Gva at = kAt; at < kAt + kPages * kPageSize; at += kPageSize) EXPECT_TRUE(parent.cpu().store(at, at));
  EXPECT_TRUE(parent.as->advise(kAt + 4 * kMiB, 4 * kMiB, Advice::Huge));
  EXPECT_TRUE(parent.cpu().store(kAt + 4 * kMiB, 4));
  EXPECT_TRUE(parent.cpu().store(kAt + 6 * kMiB, 6));
  EXPECT_TRUE(parent.as->protect(kAt + 0x10000, kPageSize, kRead));
  pin = *parent.as->pin(kAt + 0x20000, kPageSize, Access::Write, Term::Short);
  return *parent.as->freeze();
}

// A child writes what it inherited, page by page and in blocks, changes what is mapped, is frozen in turn and reset.
void live(World& child, const FrozenMemory& origin) {
  AddressSpace& as = *child.as;
  for (Gva at = kAt; at < kAt + kPages * kPageSize; at += 2 * kPageSize) (void)child.cpu().store(at, 1);
  (void)child.cpu().store(kAt + 4 * kMiB, 1);
  (void)as.protect(kAt + 4 * kMiB, kBlockSize, kRead);
  (void)as.split(kAt + 4 * kMiB + kPageSize, kPageSize, arch::Level::Pte);
  (void)as.protect(kAt + 4 * kMiB, kBlockSize, kReadWrite);  // merges
  (void)as.map({.address = kOther, .length = kBlockSize, .prot = kReadWrite, .fixed = true, .populate = true});
  (void)as.pin(kAt, 40 * kPageSize, Access::Write, Term::Long);
  (void)as.remap({.address = kAt,
                  .old_length = kBlockSize,
                  .new_length = kBlockSize,
                  .may_move = true,
                  .fixed = true,
                  .new_address = kOther + 16 * kMiB});
  (void)as.freeze();
  (void)child.cpu().store(kOther, 1);
  (void)as.unmap(kOther, kBlockSize);
  (void)as.reset(origin);
}

bool left_in_between(const AddressSpace& as) {
  bool found = false;
  as.dump([&](const AddressSpace::Node& n) { found = found || n.changing; });
  return found;
}

TEST_P(Shortage, Whichever_allocation_fails_no_entry_stays_half_changed_and_relatives_notice_nothing) {
  AddressSpace::Config config;
  config.speculative_faults = true;
  Genet g(GetParam(), config);
  auto parent = g.make();
  Pin pin;
  const auto snapshot = leave(*parent, pin);
  ASSERT_TRUE(snapshot);
  unsigned ended = 0;
  for (long n = 0; !HasFailure(); ++n) {
    SCOPED_TRACE(n);
    auto child = g.child(snapshot);
    failed = false;
    allocations_left = n;
    try {
      live(*child, *snapshot);
    } catch (const std::bad_alloc&) {
      ++ended;
    }
    const bool over = allocations_left >= 0;
    allocations_left = -1;
    EXPECT_EQ(over, !failed);
    ASSERT_FALSE(left_in_between(*child->as)) << "an entry, and whoever faults there waits";
    // Its threads may be in the middle of a fault when they are told to end: none waits for what never comes.
    for (Gva at = kAt; at < kAt + kPages * kPageSize; at += kPageSize) (void)child->cpu(1).store(at, 2);
    EXPECT_FALSE(left_in_between(*child->as));
    child.reset();
    parent->check();
    for (Gva at = kAt; at < kAt + kPages * kPageSize; at += kPageSize) ASSERT_EQ(parent->cpu().load(at), at);
    if (over) break;
  }
  EXPECT_GT(ended, 20u) << "little was allocated: little is tested";
}

}  // namespace
}  // namespace ramet::mm::test
