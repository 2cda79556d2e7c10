// Banks that come and go, and who is told of it.
#include <gtest/gtest.h>

#include <set>

#include "guest-mm/bank.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm {
namespace {

using test::kMiB;

class Slots : public BankObserver {
 public:
  Result<> bank_added(const Bank& bank) override {
    if (bases.size() == limit) return fail(Error::NoMemory);
    EXPECT_TRUE(bases.insert(bank.base()).second);
    return {};
  }
  void bank_removed(const Bank& bank) override { EXPECT_EQ(bases.erase(bank.base()), 1u); }
  std::set<Gpa> bases;
  std::size_t limit = 100;
};

std::span<std::byte> page_aligned(std::vector<std::byte>& raw, std::uint64_t pages) {
  raw.resize((pages + 1) * kPageSize);
  auto* at = reinterpret_cast<std::byte*>(align_up(reinterpret_cast<std::uintptr_t>(raw.data()), kPageSize));
  return {at, pages * kPageSize};
}

TEST(Bank, Memory_is_zero_aligned_for_huge_pages_and_translates) {
  const auto memory = std::move(*Memory::create({4 * kMiB, 2 * kMiB}));
  EXPECT_TRUE(is_aligned(reinterpret_cast<std::uintptr_t>(memory->data().host()), kBlockSize));
  EXPECT_EQ(memory->host(Memory::kDataBase + 5), memory->data().host() + 5);
  EXPECT_EQ(memory->host(Memory::kTableBase), memory->tables().host());
  EXPECT_EQ(memory->host(Memory::kDataBase + 4 * kMiB), nullptr);
  EXPECT_EQ(memory->host(Memory::kAddedBase), nullptr);
  EXPECT_EQ(memory->bank_of(Memory::kDataBase + 4 * kMiB), nullptr);
  EXPECT_EQ(memory->bank_of(Memory::kDataBase).get(), &memory->data());
}

TEST(Bank, The_observer_hears_of_every_bank_and_of_its_end) {
  Slots slots;
  {
    const auto memory = std::move(*Memory::create({2 * kMiB, 2 * kMiB}));
    std::vector<std::byte> raw_a, raw_b;
    const auto a = *memory->add(page_aligned(raw_a, 3), {});
    ASSERT_TRUE(memory->observe(slots));
    EXPECT_EQ(slots.bases.size(), 3u);
    const auto b = *memory->add(page_aligned(raw_b, 1), {});
    EXPECT_EQ(slots.bases.size(), 4u);
    memory->remove(a);
    EXPECT_EQ(slots.bases.size(), 3u);
  }
  EXPECT_TRUE(slots.bases.empty());
}

TEST(Bank, The_observer_hears_of_a_large_bank_piece_by_piece) {
  Slots slots;
  {
    const auto memory = std::move(*Memory::create({1024 * kMiB, 2 * kMiB}, &slots));
    EXPECT_EQ(slots.bases, (std::set<Gpa>{Memory::kTableBase, Memory::kDataBase}));
    const Gpa more = Memory::kDataBase + Memory::kFirstPiece;
    ASSERT_TRUE(memory->announce(memory->data(), more, more + 64 * kMiB));
    EXPECT_TRUE(slots.bases.contains(more));
    slots.limit = 3;
    EXPECT_EQ(memory->announce(memory->data(), more + 64 * kMiB, more + 66 * kMiB).error(), Error::NoMemory);
  }
  EXPECT_TRUE(slots.bases.empty());
}

TEST(Bank, A_freed_address_is_given_out_again) {
  const auto memory = std::move(*Memory::create({2 * kMiB, 2 * kMiB}));
  std::vector<std::byte> raw[3];
  auto a = *memory->add(page_aligned(raw[0], 600), {});
  const auto b = *memory->add(page_aligned(raw[1], 1), {});
  EXPECT_EQ(a->base(), Memory::kAddedBase);
  EXPECT_EQ(b->base(), Memory::kAddedBase + 4 * kMiB);
  memory->remove(a);
  a.reset();
  EXPECT_EQ((*memory->add(page_aligned(raw[2], 600), {}))->base(), Memory::kAddedBase);
}

TEST(Bank, Memory_is_released_when_its_last_user_has_gone) {
  const auto memory = std::move(*Memory::create({2 * kMiB, 2 * kMiB}));
  std::vector<std::byte> raw;
  int released = 0;
  auto bank = *memory->add(page_aligned(raw, 1), [&] { ++released; });
  auto in_use = memory->bank_of(bank->base());
  memory->remove(bank);
  bank.reset();
  EXPECT_EQ(released, 0);
  in_use.reset();
  EXPECT_EQ(released, 1);
}

TEST(Layer, A_chain_longer_than_the_stack_is_deep_ends_with_its_last_user) {
  std::weak_ptr<const Layer> bottom;
  std::shared_ptr<const Layer> top, middle;
  constexpr unsigned kLayers = 500'000;
  for (unsigned i = 0; i < kLayers; ++i) {
    auto layer = std::make_shared<Layer>();
    if (top) layer->below.push_back({.layer = std::move(top)});
    top = std::move(layer);
    if (i == 0) bottom = top;
    if (i == kLayers / 2) middle = top;
  }
  top.reset();
  EXPECT_FALSE(bottom.expired());
  middle.reset();
  EXPECT_TRUE(bottom.expired());
}

TEST(Bank, A_bank_the_machine_has_no_slot_for_is_refused_and_leaves_nothing) {
  Slots slots;
  slots.limit = 2;
  const auto memory = std::move(*Memory::create({2 * kMiB, 2 * kMiB}, &slots));
  std::vector<std::byte> raw;
  int released = 0;
  EXPECT_EQ(memory->add(page_aligned(raw, 1), [&] { ++released; }).error(), Error::NoMemory);
  EXPECT_EQ(memory->host(Memory::kAddedBase), nullptr);
  EXPECT_EQ(released, 1);
  Slots none;
  none.limit = 1;
  EXPECT_FALSE(Memory::create({2 * kMiB, 2 * kMiB}, &none));
  EXPECT_TRUE(none.bases.empty());
}

}  // namespace
}  // namespace ramet::mm
