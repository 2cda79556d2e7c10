// What people ask of a space, its regions and its usage, while others change it: nobody waits for a change that waits
// for the machine, and regions are told as they were at one moment.
#include <gtest/gtest.h>

#include <thread>
#include <utility>
#include <vector>

#include "guest-mm/region_map.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Regions : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Regions);

using Ranges = std::vector<std::pair<Gva, Gva>>;
Ranges regions_of(const AddressSpace& space) {
  Ranges found;
  space.visit_regions([&](const Region& r) { found.emplace_back(r.start, r.end); });
  return found;
}

TEST_P(Regions, Are_told_while_an_unmap_waits_for_the_machine) {
  World w(GetParam());
  const Gva a = 0x2000'0000;
  w.map_at(a, 8 * kPageSize);
  for (unsigned i = 0; i < 8; ++i) ASSERT_TRUE(w.cpu().store(a + i * kPageSize, 1));
  const std::uint64_t before = w.frames();
  Ranges seen;
  std::uint64_t frames = 0;
  w.tlb.before_flush = [&] {
    // Another thread: the caller has the lock. It does not come back if the lock is waited for.
    std::thread([&] { seen = regions_of(*w.as), frames = w.frames(); }).join();
  };
  ASSERT_TRUE(w.as->unmap(a + 2 * kPageSize, kPageSize));
  w.tlb.before_flush = nullptr;
  EXPECT_EQ(seen, (Ranges{{a, a + 2 * kPageSize}, {a + 3 * kPageSize, a + 8 * kPageSize}}));
  EXPECT_EQ(frames, before - 1);
  w.check();
  w.check_empty();
}

// A page in the middle gets another protection and gets it back: there are three regions or one, and never a hole.
TEST(RegionMap, Copies_are_as_the_regions_were_at_one_moment) {
  constexpr Gva kStart = 0x2000'0000, kEnd = kStart + 64 * kPageSize;
  constexpr unsigned kOthers = 200;  // in several leaves of the tree
  RegionMap map(kPageSize, 0x7fff'0000'0000, 1000);
  const auto insert = [&](Gva start, Gva end) {
    Region region;
    region.start = start, region.end = end, region.prot = kReadWrite;
    address_space_lock.assume_held();  // nobody else knows the map yet
    map.insert(std::move(region));
  };
  for (unsigned i = 0; i < kOthers; ++i) insert(0x4000'0000 + 2 * i * kPageSize, 0x4000'0000 + (2 * i + 1) * kPageSize);
  insert(kStart, kEnd);
  unsigned whole = 0, cut = 0;
  {
    std::jthread changer([&](const std::stop_token& stop) {
      address_space_lock.assume_held();  // only this one changes them
      for (Gva at = kStart + kPageSize; !stop.stop_requested();
           at = at + 2 * kPageSize < kEnd ? at + kPageSize : kStart + kPageSize) {
        for (const Prot prot : {kRead, kReadWrite}) {
          map.seize(at, at + kPageSize);
          map.change(at, at + kPageSize, [&](Region& region) { region.prot = prot; });
          std::this_thread::yield();
        }
      }
    });
    std::vector<Region> seen;
    const unsigned rounds = scaled(100'000, 15'000);
    for (unsigned round = 0; round < rounds || ((whole == 0 || cut == 0) && round < 100'000'000); ++round) {
      if (!map.copies(seen)) {
        std::this_thread::yield();
        continue;
      }
      Gva at = kStart;
      std::size_t pieces = 0;
      for (; pieces < seen.size() && seen[pieces].start < kEnd; at = seen[pieces++].end)
        ASSERT_EQ(seen[pieces].start, at);
      ASSERT_EQ(at, kEnd);
      ASSERT_TRUE(pieces == 1 || pieces == 3) << pieces;
      ASSERT_EQ(seen.size(), kOthers + pieces);
      ++(pieces == 1 ? whole : cut);
    }
  }
  EXPECT_GT(whole, 0u);
  EXPECT_GT(cut, 0u);
}

}  // namespace
}  // namespace ramet::mm::test
