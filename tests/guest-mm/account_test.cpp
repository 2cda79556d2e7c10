// What the VMM holds for a guest is taken from the guest's limit.
#include <gtest/gtest.h>

#include <vector>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Accounts : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Accounts);

using Term = AddressSpace::PinTerm;

// Memory whose neighbouring pages are not neighbours on the host.
Gva scattered(World& w, std::uint64_t pages) {
  const Gva a = w.map(pages * kPageSize);
  for (unsigned first : {0u, 1u})
    for (std::uint64_t i = first; i < pages; i += 2) EXPECT_TRUE(w.cpu().store(a + i * kPageSize, i));
  return a;
}

TEST_P(Accounts, What_lies_in_one_piece_is_pinned_in_one_piece) {
  World w(GetParam(), {.data = 64 * kMiB, .config = {.blocks = false, .merge = false}});
  const Gva a = w.map(16 * kMiB);
  for (Gva at = a; at < a + 16 * kMiB; at += kPageSize) ASSERT_TRUE(w.cpu().store(at, 1));
  for (const Access access : {Access::Read, Access::Write}) {
    const auto pin = w.as->pin(a, 16 * kMiB, access, Term::Short);
    ASSERT_TRUE(pin);
    EXPECT_LE(pin->ranges().size(), 16u);  // windows that faults took, of 4096 pages
    EXPECT_EQ(pin->bytes(), 16 * kMiB);
    EXPECT_LE(w.as->usage().held_bytes, 16 * sizeof(HostRange));
    EXPECT_EQ(w.as->pins(), 4096);
  }
  EXPECT_EQ(w.as->pins(), 0);
  EXPECT_EQ(w.as->usage().held_bytes, 0u);
  w.check_empty();
}

TEST_P(Accounts, The_same_page_can_be_pinned_until_the_guests_limit_is_reached) {
  World w(GetParam(),
          {.data = 32 * kMiB, .config = {.blocks = false, .merge = false, .around_pages = 1, .limit_bytes = 8 * kMiB}});
  const Gva a = scattered(w, 1024);
  std::vector<Pin> pins;
  Result<> last;
  while (last) {
    auto pin = w.as->pin(a, 1024 * kPageSize, Access::Write, Term::Short);
    if (pin) pins.push_back(std::move(*pin));
    else last = fail(pin.error());
    ASSERT_LT(pins.size(), 1000u) << "no limit";
  }
  EXPECT_EQ(last, fail(Error::NoMemory));
  const Usage full = w.as->usage();
  EXPECT_LE(full.held_bytes, 4 * kMiB + Account::kFree);
  EXPECT_GE(full.held_bytes, 4 * kMiB - 2048 * sizeof(HostRange));
  EXPECT_GE(pins.size(), 4 * kMiB / (2048 * sizeof(HostRange)));
  EXPECT_EQ(w.as->pins(), static_cast<std::int64_t>(pins.size() * 1024));

  // It is one limit: a page is had again only when a list has gone.
  const Gva b = w.map(8 * kMiB);
  Gva next = b;
  while (next < b + 8 * kMiB && w.cpu().store(next, 1)) next += kPageSize;
  ASSERT_LT(next, b + 8 * kMiB);
  pins.pop_back();
  EXPECT_TRUE(w.cpu().store(next, 1));
  pins.clear();
  EXPECT_EQ(w.as->usage().held_bytes, 0u);
  EXPECT_EQ(w.as->usage().peak_held_bytes, full.peak_held_bytes);
  w.check_empty();
}

TEST_P(Accounts, A_pin_of_so_many_pieces_ends_after_the_last_one) {
  World w(GetParam(), {.data = 32 * kMiB, .config = {.blocks = false, .merge = false, .around_pages = 1}});
  const Gva a = scattered(w, 64);
  const auto pin = w.as->pin(a + 8, 64 * kPageSize - 8, Access::Write, Term::Short, 10);
  ASSERT_TRUE(pin);
  EXPECT_EQ(pin->ranges().size(), 10u);
  EXPECT_EQ(pin->bytes(), 10 * kPageSize - 8);
  EXPECT_EQ(w.as->pins(), 10);
  w.check_empty();
}

}  // namespace
}  // namespace ramet::mm::test
