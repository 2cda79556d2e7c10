// The frame pool: exact accounts, zeroes, and a bank that is used from both ends.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "guest-mm/frame_pool.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

struct Pool {
  explicit Pool(std::uint64_t bytes)
      : bank(*Bank::anonymous(Memory::kDataBase, bytes)), pool(std::move(*FramePool::create(*bank))) {}
  bool zero(FramePool::Run r) const {
    const std::byte* at = bank->at(r.gpa);
    return std::all_of(at, at + r.bytes(), [](std::byte b) { return b == std::byte{0}; });
  }
  void dirty(FramePool::Run r) const { std::fill_n(bank->at(r.gpa), r.bytes(), std::byte{0xaa}); }
  std::shared_ptr<Bank> bank;
  std::unique_ptr<FramePool> pool;
};

TEST(FramePool, Small_runs_come_from_the_bottom_and_blocks_from_the_top) {
  Pool p(64 * kMiB);
  EXPECT_EQ(p.pool->allocate(0, Fill::Zero)->gpa, Memory::kDataBase);
  EXPECT_EQ(p.pool->allocate(4, Fill::Zero)->gpa, Memory::kDataBase + 0x10000);
  EXPECT_EQ(p.pool->allocate(9, Fill::Zero)->gpa, Memory::kDataBase + 62 * kMiB);
  EXPECT_EQ(p.pool->allocate(9, Fill::Zero)->gpa, Memory::kDataBase + 60 * kMiB);
  EXPECT_EQ(p.pool->allocate(0, Fill::Zero)->gpa, Memory::kDataBase + 0x1000);  // what alignment left over
  EXPECT_TRUE(p.pool->consistent());
}

TEST(FramePool, Every_frame_can_be_had_and_not_one_more) {
  Pool p(4 * kMiB);
  EXPECT_TRUE(p.pool->allocate(9, Fill::Zero));
  for (int i = 0; i < 512; ++i) ASSERT_TRUE(p.pool->allocate(0, Fill::Zero)) << i;
  EXPECT_EQ(p.pool->allocate(0, Fill::Zero).error(), Error::NoMemory);
  EXPECT_EQ(p.pool->used(), 1024u);
  EXPECT_EQ(p.pool->peak(), 1024u);
  EXPECT_TRUE(p.pool->consistent());
}

TEST(FramePool, Freed_blocks_are_cut_up_when_small_runs_need_them) {
  Pool p(4 * kMiB);
  const auto a = p.pool->allocate(9, Fill::Zero);
  ASSERT_TRUE(p.pool->allocate(9, Fill::Zero));
  p.pool->free(a->gpa, 512);
  for (int i = 0; i < 512; ++i) ASSERT_TRUE(p.pool->allocate(0, Fill::Zero));
  EXPECT_FALSE(p.pool->allocate(0, Fill::Zero));
}

TEST(FramePool, Pieces_of_a_freed_block_grow_together_again) {
  Pool p(2 * kMiB);
  const auto a = p.pool->allocate(9, Fill::Zero);
  p.dirty(*a);
  std::vector<unsigned> order(512);
  for (unsigned i = 0; i < 512; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  for (unsigned i : order) p.pool->free(a->gpa + i * kPageSize, 1);
  EXPECT_EQ(p.pool->used(), 0u);
  const auto again = p.pool->allocate(9, Fill::Zero);
  ASSERT_TRUE(again);
  EXPECT_TRUE(p.zero(*again));
}

TEST(FramePool, When_no_large_run_is_left_the_largest_smaller_one_is_found) {
  Pool p(2 * kMiB);
  ASSERT_TRUE(p.pool->allocate(8, Fill::Zero));
  EXPECT_EQ(p.pool->allocate(9, Fill::Zero).error(), Error::NoMemory);
  EXPECT_EQ(p.pool->allocate_up_to(512, Fill::Zero)->order, 8u);
  EXPECT_EQ(p.pool->allocate_up_to(512, Fill::Zero).error(), Error::NoMemory);
}

TEST(FramePool, A_run_is_no_longer_than_asked_for) {
  Pool p(2 * kMiB);
  EXPECT_EQ(p.pool->allocate_up_to(1, Fill::Zero)->order, 0u);
  EXPECT_EQ(p.pool->allocate_up_to(15, Fill::Zero)->order, 3u);
  EXPECT_EQ(p.pool->allocate_up_to(16, Fill::Zero)->order, 4u);
}

TEST(FramePool, Recycled_frames_are_zeroed_and_blocks_beyond_the_reserve_go_back_to_the_host) {
  Pool p(128 * kMiB);
  std::vector<FramePool::Run> runs;
  for (int i = 0; i < 64; ++i) runs.push_back(*p.pool->allocate(9, Fill::Zero));
  for (const auto& r : runs) *p.bank->at(r.gpa + 5000) = std::byte{1};
  for (const auto& r : runs) p.pool->free(r.gpa, 512);
  EXPECT_TRUE(p.pool->consistent());
  for (int i = 0; i < 64; ++i) {
    const auto r = p.pool->allocate(9, Fill::Zero);
    ASSERT_TRUE(r);
    EXPECT_EQ(*p.bank->at(r->gpa + 5000), std::byte{0});
  }
}

TEST(FramePool, Random_traffic_never_hands_out_a_frame_twice_and_keeps_exact_accounts) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 rng(seed);
  Pool p(16 * kMiB);
  std::map<Gpa, std::uint64_t> held;  // by page run
  std::uint64_t pages = 0;
  for (int step = 0; step < 4000; ++step) {
    if (rng() % 2) {
      const auto run = p.pool->allocate(static_cast<unsigned>(rng() % 10), rng() % 2 ? Fill::Zero : Fill::Overwrite);
      if (!run) continue;
      const auto next = held.lower_bound(run->gpa);
      ASSERT_TRUE(next == held.end() || run->gpa + run->bytes() <= next->first);
      ASSERT_TRUE(next == held.begin() || std::prev(next)->first + (std::prev(next)->second << kPageShift) <= run->gpa);
      ASSERT_FALSE(p.pool->is_free(run->gpa));
      held[run->gpa] = run->pages();
      pages += run->pages();
    } else if (!held.empty()) {
      auto victim = std::next(held.begin(), static_cast<std::ptrdiff_t>(rng() % held.size()));
      const auto [gpa, n] = *victim;
      const std::uint64_t part = 1 + rng() % n;  // the head goes, the rest stays
      p.pool->free(gpa, part);
      ASSERT_TRUE(p.pool->is_free(gpa));
      pages -= part;
      held.erase(victim);
      if (part < n) held[gpa + (part << kPageShift)] = n - part;
    }
    ASSERT_EQ(p.pool->used(), pages);
    if (step % 64 == 0) {
      ASSERT_TRUE(p.pool->consistent());
    }
  }
  EXPECT_TRUE(p.pool->consistent());
}

TEST(FramePool, Frames_in_quarantine_are_given_to_nobody_any_more) {
  Pool p(4 * kMiB);
  const auto block = p.pool->allocate(9, Fill::Zero), pages = p.pool->allocate(3, Fill::Zero);
  ASSERT_TRUE(block && pages);
  const std::set<Gpa> bad = {block->gpa, block->gpa + 7 * kPageSize, block->gpa + 8 * kPageSize,
                             pages->gpa + 3 * kPageSize};
  for (const Gpa gpa : bad) p.pool->quarantine(gpa, 1);
  p.pool->quarantine(block->gpa + 7 * kPageSize, 2);  // once more
  p.pool->quarantine(0x1000, 1);                      // not the pool's
  EXPECT_EQ(p.pool->quarantined(), 0u);
  p.pool->free(block->gpa, 512);
  p.pool->free(pages->gpa, 8);
  EXPECT_EQ(p.pool->quarantined(), 4u);
  EXPECT_TRUE(p.pool->consistent());
  std::uint64_t got = 0;
  while (const auto run = p.pool->allocate_up_to(512, Fill::Zero)) {
    for (std::uint64_t i = 0; i < run->pages(); ++i) EXPECT_FALSE(bad.contains(run->gpa + i * kPageSize));
    got += run->pages();
  }
  EXPECT_EQ(got, 1024 - bad.size());
  for (const Gpa gpa : bad) EXPECT_FALSE(p.pool->allocate_at(gpa, 1, Fill::Zero));
  EXPECT_TRUE(p.pool->consistent());
}

// What the pool announced, and whether every frame handed out was known before.
struct Announced {
  explicit Announced(std::uint64_t bytes) : bank(*Bank::anonymous(Memory::kDataBase, bytes)) {
    known[bank->base()] = bank->base() + std::min(bytes, Memory::kFirstPiece);
    pool = std::move(*FramePool::create(*bank, [this](Gpa start, Gpa end) -> Result<> {
      if (known.size() > limit) return fail(Error::NoMemory);
      EXPECT_TRUE(start < end && bank->contains(start) && bank->contains(end - 1));
      EXPECT_TRUE(is_aligned(start | end, kBlockSize));
      for (auto [from, to] : known) EXPECT_TRUE(end <= from || to <= start) << "announced twice";
      known[start] = end;
      return {};
    }));
  }
  bool holds(FramePool::Run r) const {
    return std::ranges::any_of(known, [&](auto k) { return k.first <= r.gpa && r.gpa + r.bytes() <= k.second; });
  }
  std::shared_ptr<Bank> bank;
  std::map<Gpa, Gpa> known;
  std::size_t limit = 1000;
  std::unique_ptr<FramePool> pool;
};

TEST(FramePool, Memory_is_announced_before_it_is_used_from_both_ends_and_in_few_pieces) {
  Announced p(1024 * kMiB);
  std::mt19937 random(11);
  std::uint64_t got = 0;
  for (; p.pool->used() < p.pool->total(); ++got) {
    const auto run = p.pool->allocate_up_to(random() % 3 ? 512 : 1 + random() % 200, Fill::Overwrite);
    ASSERT_TRUE(run);
    ASSERT_TRUE(p.holds(*run)) << std::hex << run->gpa;
  }
  EXPECT_GT(got, 500u);
  EXPECT_LE(p.known.size(), 14u);
  EXPECT_TRUE(p.pool->consistent());
}

TEST(FramePool, A_small_use_of_a_large_bank_announces_little) {
  Announced p(64ull << 30);
  ASSERT_TRUE(p.pool->allocate(0, Fill::Overwrite));
  EXPECT_EQ(p.known.size(), 1u);
  ASSERT_TRUE(p.pool->allocate(9, Fill::Overwrite));
  EXPECT_EQ(p.known.size(), 2u);
  EXPECT_EQ(p.known.rbegin()->second - p.known.rbegin()->first, Memory::kFirstPiece);
}

TEST(FramePool, What_cannot_be_announced_is_not_handed_out) {
  Announced p(128 * kMiB);
  p.limit = 0;
  EXPECT_EQ(p.pool->allocate(9, Fill::Overwrite).error(), Error::NoMemory);
  std::uint64_t pages = 0;
  while (auto run = p.pool->allocate(3, Fill::Overwrite)) {
    ASSERT_TRUE(p.holds(*run));
    pages += 8;
  }
  EXPECT_EQ(pages << kPageShift, Memory::kFirstPiece);
  p.limit = 1000;
  EXPECT_TRUE(p.pool->allocate(9, Fill::Overwrite));
  EXPECT_TRUE(p.pool->consistent());
}

}  // namespace
}  // namespace ramet::mm::test
