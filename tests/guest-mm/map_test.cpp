// Mapping, unmapping and faulting anonymous memory, for every entry format.
#include <gtest/gtest.h>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Map : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Map);

TEST_P(Map, New_memory_reads_as_zero_and_holds_what_is_stored) {
  World w(GetParam());
  const Gva a = w.map(3 * kMiB);
  EXPECT_EQ(w.cpu().load(a + 0x123000), 0u);
  EXPECT_TRUE(w.cpu().store(a + 0x123000, 42));
  EXPECT_EQ(w.cpu(1).load(a + 0x123000), 42u);
  w.check();
  w.check_empty();
}

TEST_P(Map, Nothing_is_reachable_outside_of_regions) {
  World w(GetParam());
  const Gva a = w.map(0x4000);
  EXPECT_EQ(w.cpu().load(a - 8), fail(Error::NotMapped));
  EXPECT_EQ(w.cpu().load(a + 0x4000), fail(Error::NotMapped));
  EXPECT_EQ(w.cpu().load(0), fail(Error::NotMapped));
  for (const Gva wild : {0x8000'0000'0000ull, 0xffff'8000'0000'0000ull, ~0ull - 4095, (1ull << 48) + a}) {
    EXPECT_EQ(w.as->fault(wild, Access::Read).error(), Error::NotMapped) << wild;
  }
  EXPECT_EQ(w.as->counters().faults_refused, 7u);
  w.check_empty();
}

TEST_P(Map, Protection_decides_what_an_access_may_do) {
  World w(GetParam());
  const Gva ro = w.map(0x4000, kRead), none = w.map(0x4000, Prot::None), code = w.map(0x4000, kReadExec);
  EXPECT_EQ(w.cpu().load(ro), 0u);
  EXPECT_EQ(w.cpu().store(ro, 1), fail(Error::NotPermitted));
  EXPECT_EQ(w.cpu().fetch(ro), fail(Error::NotPermitted));
  EXPECT_EQ(w.cpu().load(none), fail(Error::NotPermitted));
  EXPECT_EQ(w.cpu().fetch(code), 0u);
  EXPECT_EQ(w.cpu().store(code, 1), fail(Error::NotPermitted));
  w.check();
}

TEST_P(Map, After_unmapping_every_vcpu_faults_and_a_new_mapping_is_zero_again) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB);
  ASSERT_TRUE(w.cpu(0).store(a, 1));
  EXPECT_EQ(w.cpu(1).load(a), 1u);
  ASSERT_TRUE(w.as->unmap(a, 4 * kMiB));
  EXPECT_EQ(w.cpu(0).load(a), fail(Error::NotMapped));
  EXPECT_EQ(w.cpu(1).load(a), fail(Error::NotMapped));
  EXPECT_EQ(w.frames(), 0u);
  w.map_at(a, 4 * kMiB);
  EXPECT_EQ(w.cpu(1).load(a), 0u);
  w.check_empty();
}

TEST_P(Map, A_flush_that_does_nothing_leaves_stale_entries_that_the_model_finds) {
  World w(GetParam());
  const Gva a = w.map(0x4000);
  ASSERT_TRUE(w.cpu().store(a, 7));
  w.tlb.ignore_flushes = true;
  ASSERT_TRUE(w.as->unmap(a, 0x4000));
  EXPECT_EQ(w.cpu().load(a), 7u);  // the damage: a stale entry still works
  EXPECT_NE(w.tlb.verify(), "");
}

TEST_P(Map, Unmapping_the_middle_of_a_block_splits_it_and_keeps_the_rest) {
  World w(GetParam());
  const Gva a = w.map(2 * kMiB);
  ASSERT_TRUE(is_aligned(a, kBlockSize));
  for (Gva at = 0; at < 2 * kMiB; at += kPageSize) ASSERT_TRUE(w.cpu().store(a + at, at));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 1u);
  EXPECT_EQ(w.as->counters().faults, 1u);
  ASSERT_TRUE(w.as->unmap(a + 0x3000, 0x2000));
  EXPECT_EQ(w.as->counters().split_pmd, 1u);
  EXPECT_EQ(w.as->usage().data_pages_4k, 510u);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 0u);
  for (Gva at = 0; at < 2 * kMiB; at += kPageSize) {
    const bool gone = at == 0x3000 || at == 0x4000;
    ASSERT_EQ(w.cpu().load(a + at), gone ? fail(Error::NotMapped) : Result<std::uint64_t>(at));
  }
  w.check();
  w.check_empty();
}

TEST_P(Map, Fixed_replaces_what_was_there_and_no_replace_refuses) {
  World w(GetParam());
  const Gva a = w.map(0x10000);
  ASSERT_TRUE(w.cpu().store(a + 0x4000, 9));
  EXPECT_EQ(w.as->map({.address = a + 0x4000, .length = 0x1000, .prot = kRead, .fixed = true, .no_replace = true}),
            fail(Error::Exists));
  EXPECT_EQ(w.cpu().load(a + 0x4000), 9u);
  w.map_at(a + 0x4000, 0x1000, kRead);
  EXPECT_EQ(w.cpu().load(a + 0x4000), 0u);
  EXPECT_EQ(w.cpu().store(a + 0x4000, 1), fail(Error::NotPermitted));
  EXPECT_TRUE(w.cpu().store(a + 0x3000, 1));
  w.check_empty();
}

TEST_P(Map, Hints_are_honoured_where_free_and_large_maps_are_aligned) {
  World w(GetParam());
  EXPECT_EQ(w.as->map({.address = 0x5555'0000'0123, .length = 0x1000, .prot = kRead}), 0x5555'0000'0000u);
  const auto other = w.as->map({.address = 0x5555'0000'0000, .length = 0x1000, .prot = kRead});
  ASSERT_TRUE(other);
  EXPECT_NE(*other, 0x5555'0000'0000u);
  EXPECT_TRUE(is_aligned(w.map(3 * kMiB), kBlockSize));
  EXPECT_TRUE(is_aligned(w.map(5 * kMiB + 4096), kBlockSize));
}

TEST_P(Map, Arguments_that_make_no_sense_are_refused) {
  World w(GetParam());
  const auto map = [&](Gva at, std::uint64_t length, bool fixed = true) {
    return w.as->map({.address = at, .length = length, .prot = kRead, .fixed = fixed});
  };
  EXPECT_EQ(map(0x20000, 0), fail(Error::Invalid));
  EXPECT_EQ(map(0x20001, 0x1000), fail(Error::Invalid));
  EXPECT_EQ(map(0, 0x1000), fail(Error::NotPermitted));
  EXPECT_EQ(map(0x7fff'ffff'f000, 0x1000), fail(Error::NoMemory));
  EXPECT_EQ(map(~0ull & ~0xfffull, 0x1000), fail(Error::NoMemory));
  EXPECT_EQ(map(0x20000, ~0ull), fail(Error::NoMemory));
  EXPECT_EQ(map(0, ~0ull, false), fail(Error::NoMemory));
  EXPECT_EQ(map(0, ~0ull - 4096, false), fail(Error::NoMemory));
  EXPECT_EQ(map(0, 0x7fff'ffff'f000, false), fail(Error::NoMemory));
  EXPECT_EQ(w.as->map({.length = 0x1000, .prot = kRead, .offset = 1}), fail(Error::Invalid));
  EXPECT_EQ(w.as->map({.length = 0x1000, .prot = kRead, .offset = ~0ull & ~0xfffull}), fail(Error::Invalid));
  EXPECT_EQ(w.as->unmap(0x20001, 0x1000), fail(Error::Invalid));
  EXPECT_EQ(w.as->unmap(0x20000, 0), fail(Error::Invalid));
  EXPECT_EQ(w.as->unmap(0x20000, ~0ull), fail(Error::Invalid));
  EXPECT_EQ(w.as->unmap(~0ull & ~0xfffull, 0x1000), fail(Error::Invalid));
  w.check_empty();
}

TEST_P(Map, Reservations_of_many_GiB_cost_neither_memory_nor_time) {
  World w(GetParam());
  const std::uint64_t huge = 0x1000'0000'0000;  // 16 TiB
  const Gva a = w.map(huge, Prot::None);
  const auto tables = w.as->usage().table_pages;
  ASSERT_TRUE(w.as->protect(a, huge, kReadWrite));
  ASSERT_TRUE(w.as->advise(a, huge, Advice::DontNeed));
  ASSERT_TRUE(w.as->protect(a, huge, Prot::None));
  ASSERT_TRUE(w.as->unmap(a, huge));
  EXPECT_EQ(w.as->usage().table_pages, tables);
  EXPECT_EQ(w.frames(), 0u);
  EXPECT_EQ(w.tlb.strict, 0u);
  w.check_empty();
}

TEST_P(Map, Thousands_of_neighbours_merge_into_one_region) {
  World w(GetParam());
  const auto count = [&] {
    std::size_t n = 0;
    w.as->visit_regions([&](const Region&) { ++n; });
    return n;
  };
  for (int i = 0; i < 3000; ++i) w.map(0x1000);
  EXPECT_EQ(count(), 1u);
  const Gva a = w.map(0x1000);
  for (Gva at = 0; at < 3000; at += 2) ASSERT_TRUE(w.as->protect(a + at * kPageSize, kPageSize, kRead));
  EXPECT_EQ(count(), 3000u);  // the last two pages are alike
  for (Gva at = 1; at < 3000; at += 2) ASSERT_TRUE(w.as->protect(a + at * kPageSize, kPageSize, kRead));
  EXPECT_EQ(count(), 2u);
  ASSERT_TRUE(w.as->protect(a, 3001 * kPageSize, kRead));
  EXPECT_EQ(count(), 1u);
  w.check_empty();
}

TEST_P(Map, Regions_with_different_names_stay_apart) {
  World w(GetParam());
  w.map_at(0x100000, 0x1000);
  ASSERT_TRUE(w.as->map({.address = 0x101000, .length = 0x1000, .prot = kReadWrite, .fixed = true, .name = "[heap]"}));
  EXPECT_EQ(w.as->find_region(0x100000)->end, 0x101000u);
  EXPECT_EQ(w.as->find_region(0x101000)->name, "[heap]");
}

TEST_P(Map, More_regions_than_allowed_are_refused_and_cutting_counts) {
  World w(GetParam(), {.config = {.max_regions = 8}});
  for (Gva i = 0; i < 8; ++i) w.map_at(0x100000 + i * 0x10000, 0x4000);
  EXPECT_EQ(w.as->map({.length = 0x1000, .prot = kRead}), fail(Error::NoMemory));
  EXPECT_EQ(w.as->unmap(0x101000, 0x1000), fail(Error::NoMemory));
  EXPECT_EQ(w.as->protect(0x101000, 0x1000, kRead), fail(Error::NoMemory));
  EXPECT_EQ(w.as->advise(0x101000, 0x1000, Advice::NoHuge), fail(Error::NoMemory));
  EXPECT_TRUE(w.as->unmap(0x100000, 0x4000));
  EXPECT_TRUE(w.as->unmap(0x111000, 0x1000));
  w.check_empty();
}

TEST_P(Map, Freed_places_are_found_again_wherever_they_are) {
  World w(GetParam());
  std::vector<Gva> places;
  for (int i = 0; i < 200; ++i) places.push_back(*w.as->map({.length = 0x4000, .prot = i % 2 ? kRead : kReadWrite}));
  const Gva lowest = places.back();
  for (int i = 0; i < 200; i += 2) ASSERT_TRUE(w.as->unmap(places[i], 0x4000));
  for (int i = 0; i < 100; ++i) EXPECT_GT(w.map(0x4000, Prot::None), lowest) << i;
  EXPECT_LT(w.map(0x4000, Prot::None), lowest);
}

TEST_P(Map, Populate_maps_everything_at_once) {
  World w(GetParam());
  const auto a = w.as->map({.length = 5 * kMiB, .prot = kReadWrite, .populate = true});
  ASSERT_TRUE(a);
  EXPECT_EQ(w.frames(), 5 * 256u);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 2u);
  for (Gva at = 0; at < 5 * kMiB; at += kPageSize) ASSERT_TRUE(w.cpu().store(*a + at, 1));
  EXPECT_EQ(w.as->counters().faults, 0u);
  w.check_empty();
}

TEST_P(Map, First_touches_in_order_take_at_most_one_fault_for_each_block) {
  World w(GetParam(), {.data = 320 * kMiB});
  const Gva a = w.map(256 * kMiB);
  for (Gva at = 0; at < 256 * kMiB; at += kBlockSize / 8) ASSERT_TRUE(w.cpu().store(a + at, 1));
  EXPECT_LE(w.as->counters().faults, 128u / 3);
  EXPECT_EQ(w.as->counters().blocks_mapped, 128u);
}

TEST_P(Map, First_touches_of_small_regions_take_at_most_one_fault_for_sixteen_pages) {
  World w(GetParam());
  for (int r = 0; r < 20; ++r) {
    const Gva a = w.map_at(0x1000'0000 + r * 0x20'0000ull + 0x5'0000, 0x4'0000);
    for (Gva at = 0; at < 0x4'0000; at += kPageSize) ASSERT_TRUE(w.cpu().store(a + at, 1));
  }
  EXPECT_LE(w.as->counters().faults, 20 * 64 / 16u);
  EXPECT_EQ(w.as->counters().faults_zero, w.as->counters().faults);
  EXPECT_EQ(w.as->counters().pages_mapped, 20 * 64u);
  w.check_empty();
}

TEST_P(Map, A_mapping_of_sixteen_pages_takes_one_fault_wherever_it_lies) {
  World w(GetParam());
  for (unsigned shift = 0; shift < 16; ++shift) {  // the last ones lie in two tables
    const Gva a = w.map_at(0x1000'0000 + (shift + 1) * kBlockSize - shift * kPageSize, 16 * kPageSize);
    for (Gva at = a + 16 * kPageSize; at > a; at -= kPageSize) ASSERT_TRUE(w.cpu().store(at - 8, 1));
    EXPECT_EQ(w.as->counters().faults, shift + 1);
    EXPECT_EQ(w.frames(), (shift + 1) * 16);
  }
  w.check_empty();
}

TEST_P(Map, A_thread_stack_costs_a_window_at_first) {
  World w(GetParam());
  const Gva a = w.map(8 * kMiB);
  ASSERT_TRUE(w.cpu().store(a + 8 * kMiB - 8, 1));
  EXPECT_EQ(w.frames(), 16u);
}

TEST_P(Map, Regions_marked_never_and_switched_off_configurations_use_no_blocks) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB);
  ASSERT_TRUE(w.as->advise(a, 4 * kMiB, Advice::NoHuge));
  ASSERT_TRUE(w.cpu().store(a, 1));
  EXPECT_EQ(w.frames(), 16u);
  World off(GetParam(), {.config = {.blocks = false}});
  ASSERT_TRUE(off.cpu().store(off.map(4 * kMiB), 1));
  EXPECT_EQ(off.as->usage().data_blocks_2m, 0u);
  World single(GetParam(), {.config = {.blocks = false, .around_pages = 1}});
  ASSERT_TRUE(single.cpu().store(single.map(4 * kMiB), 1));
  EXPECT_EQ(single.frames(), 1u);
}

TEST_P(Map, A_stack_grows_down_to_its_limit_and_keeps_its_distance) {
  World w(GetParam());
  const Gva top = 0x7fff'0000'0000;
  const auto stack = [&](Gva start) {
    return w.as->map({.address = start,
                      .length = top - start,
                      .prot = kReadWrite,
                      .fixed = true,
                      .grows_down = true,
                      .name = "[stack]"});
  };
  ASSERT_TRUE(stack(top - 0x4000));
  EXPECT_TRUE(w.cpu().store(top - 0x8000, 5));
  EXPECT_TRUE(w.cpu().store(top - kMiB, 6));
  EXPECT_EQ(w.as->find_region(top - kMiB)->name, "[stack]");
  EXPECT_TRUE(w.cpu().store(top - 8 * kMiB, 7));
  EXPECT_EQ(w.cpu().store(top - 8 * kMiB - 8, 7), fail(Error::NotMapped));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 0u);
  EXPECT_EQ(w.cpu().load(top - 0x8000), 5u);
  // A neighbour below keeps the stack a guard gap away, a reservation does not.
  ASSERT_TRUE(w.as->unmap(top - 8 * kMiB, 8 * kMiB));
  ASSERT_TRUE(stack(top - 0x4000));
  w.map_at(top - 2 * kMiB, 0x1000);
  EXPECT_TRUE(w.cpu().store(top - kMiB + 0x1000, 1));
  EXPECT_EQ(w.cpu().store(top - kMiB - 8, 1), fail(Error::NotMapped));
  ASSERT_TRUE(w.as->protect(top - 2 * kMiB, 0x1000, Prot::None));
  EXPECT_TRUE(w.cpu().store(top - 2 * kMiB + 0x1000, 1));
  EXPECT_EQ(w.cpu().store(top - 2 * kMiB, 1), fail(Error::NotPermitted));
  w.check_empty();
}

TEST_P(Map, A_new_mapping_keeps_its_distance_from_a_stack_above) {
  World w(GetParam(), {.config = {.mmap_top = 0x7000'0000'0000}});
  ASSERT_TRUE(w.as->map(
      {.address = 0x6fff'ffff'c000, .length = 0x4000, .prot = kReadWrite, .fixed = true, .grows_down = true}));
  EXPECT_EQ(w.map(0x1000), 0x6fff'ffff'c000 - kMiB - 0x1000);
}

TEST_P(Map, The_VMMs_own_pages_are_out_of_reach_for_user_code) {
  World w(GetParam());
  const auto frame = w.as->allocate_kernel_frame();
  ASSERT_TRUE(frame);
  const Gva high = 0xffff'8000'0000'0000;
  ASSERT_TRUE(w.as->map_kernel(high, *frame, kPageSize, kReadExec));
  ASSERT_TRUE(w.as->map_kernel(high + kBlockSize, Memory::kTableBase, 2 * kBlockSize, kReadWrite));
  EXPECT_EQ(w.as->map_kernel(high, *frame, kPageSize, kRead), fail(Error::Exists));
  EXPECT_EQ(w.as->map_kernel(high + 0x5000, Memory::kDataBase, kPageSize, kRead), fail(Error::Invalid));
  EXPECT_EQ(w.as->map_kernel(0x400000, *frame, kPageSize, kRead), fail(Error::Invalid));
  EXPECT_EQ(w.as->map_kernel(high + 0x5000, *frame, kPageSize, Prot::Write | Prot::Exec), fail(Error::Invalid));
  EXPECT_EQ(w.as->fault(high, Access::Read).error(), Error::NotMapped);
  std::byte b[8];
  EXPECT_EQ(w.as->read(high, b), fail(Error::NotMapped));
  if (GetParam() != Format::Arm64Stage2) {  // stage 2 knows no user
    EXPECT_EQ(w.tlb.walk(high, [](Gpa, unsigned, std::uint64_t) {}), std::nullopt);
  }
  w.check();
}

TEST_P(Map, What_the_machine_shows_user_code_is_no_memory_of_the_guest) {
  World w(GetParam());
  const Gva high = 0xffff'8000'0000'0000;
  const auto frame = w.as->allocate_kernel_frame();
  ASSERT_TRUE(frame);
  const auto before = w.as->usage();
  ASSERT_TRUE(w.as->map_for_user(high, 0, 2 * kPageSize, kRead));
  ASSERT_TRUE(w.as->map_for_user(high + 0x2000, 0x2000, kPageSize, kReadExec));
  ASSERT_TRUE(w.as->map_for_user(high + 0x3000, *frame, kPageSize, kReadExec));
  EXPECT_EQ(w.as->map_for_user(high, *frame, kPageSize, kRead), fail(Error::Exists));
  const Gva free = high + 0x5000;
  for (const Prot prot : {Prot::None, kReadWrite, Prot::Write | Prot::Exec})
    EXPECT_EQ(w.as->map_for_user(free, 0, kPageSize, prot), fail(Error::Invalid));
  EXPECT_EQ(w.as->map_for_user(free, Memory::kTableBase - kPageSize, 2 * kPageSize, kRead), fail(Error::Invalid))
      << "of both";
  EXPECT_EQ(w.as->map_for_user(free, w.memory->tables().end() - kPageSize, 2 * kPageSize, kRead), fail(Error::Invalid));
  EXPECT_EQ(w.as->map_for_user(free, Memory::kDataBase, kPageSize, kRead), fail(Error::Invalid));
  EXPECT_EQ(w.as->map_for_user(0x400000, 0, kPageSize, kRead), fail(Error::Invalid)) << "the guest's own addresses";
  EXPECT_EQ(w.as->map_for_user(free, 0, 0, kRead), fail(Error::Invalid));
  for (unsigned page = 0; page < 4; ++page) {
    const auto seen = w.tlb.walk(high + page * kPageSize, [](Gpa, unsigned, std::uint64_t) {});
    ASSERT_TRUE(seen) << page;
    EXPECT_EQ(seen->gpa, page == 3 ? *frame : page * kPageSize);
    EXPECT_FALSE(seen->write);
    EXPECT_EQ(seen->execute, page >= 2);
  }
  std::byte b[8];
  EXPECT_EQ(w.as->read(high, b), fail(Error::NotMapped));
  const auto after = w.as->usage();
  EXPECT_EQ(after.shared_pages, before.shared_pages);
  EXPECT_EQ(after.data_pages_4k, before.data_pages_4k);
  const auto snapshot = w.as->freeze();
  ASSERT_TRUE(snapshot);
  EXPECT_TRUE(w.tlb.walk(high, [](Gpa, unsigned, std::uint64_t) {})) << "it is no snapshot's";
  w.check();
}

}  // namespace
}  // namespace ramet::mm::test
