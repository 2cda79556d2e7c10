// One word at a time: the accesses by which the software CPU carries out those of its guests.
#include "arch/guarded_word.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace ramet::arch {
namespace {

constexpr std::array kLoads{ramet_guarded_load_8, ramet_guarded_load_16, ramet_guarded_load_32, ramet_guarded_load_64};
constexpr std::array kStores{ramet_guarded_store_8, ramet_guarded_store_16, ramet_guarded_store_32,
                             ramet_guarded_store_64};
constexpr std::array kExchanges{ramet_guarded_exchange_8, ramet_guarded_exchange_16, ramet_guarded_exchange_32,
                                ramet_guarded_exchange_64};
constexpr std::uint64_t kOld = 0x8182'8384'8586'8788, kNew = 0x1112'1314'1516'1718;

std::uint64_t low(std::uint64_t value, std::size_t size) {
  return size == 3 ? value : value & ((1ull << (8u << size)) - 1);
}

TEST(GuardedWord, HasTheSizeThatItsNameSays) {
  install_guard();
  for (std::size_t size = 0; size < 4; ++size) {
    alignas(16) std::array<std::uint64_t, 2> memory{kOld, ~0ull};
    EXPECT_EQ(kLoads[size](memory.data()).value, low(kOld, size));
    EXPECT_EQ(kStores[size](memory.data(), kNew).fault, 0u);
    EXPECT_EQ(memory[0], (kOld & ~low(~0ull, size)) | low(kNew, size));
    memory[0] = kOld;
    EXPECT_EQ(low(kExchanges[size](memory.data(), kNew, kNew).value, size), low(kOld, size));
    EXPECT_EQ(memory[0], kOld) << "something else was expected";
    EXPECT_EQ(low(kExchanges[size](memory.data(), kOld, kNew).value, size), low(kOld, size));
    EXPECT_EQ(memory[0], (kOld & ~low(~0ull, size)) | low(kNew, size));
    EXPECT_EQ(memory[1], ~0ull);
  }
}

TEST(GuardedWord, PairsAreExchangedAsOne) {
  install_guard();
  alignas(16) std::array<std::uint64_t, 2> memory{1, 2};
  std::array<std::uint64_t, 2> expected{1, 3};
  const std::array<std::uint64_t, 2> desired{4, 5};
  EXPECT_EQ(ramet_guarded_exchange_128(memory.data(), expected.data(), desired.data()).value, 0u);
  EXPECT_EQ(expected, (std::array<std::uint64_t, 2>{1, 2}));
  EXPECT_EQ(ramet_guarded_exchange_128(memory.data(), expected.data(), desired.data()).value, 1u);
  EXPECT_EQ(memory, desired);
  std::array<std::uint64_t, 2> copy{};
  EXPECT_EQ(ramet_guarded_load_128(memory.data(), copy.data()).fault, 0u);
  EXPECT_EQ(copy, desired);
  EXPECT_EQ(ramet_guarded_store_128(memory.data(), expected.data()).fault, 0u);
  EXPECT_EQ(memory, expected);
}

TEST(GuardedWord, WhatCannotBeReachedIsAnOutcome) {
  install_guard();
  void* const at = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  for (std::size_t size = 0; size < 4; ++size) {
    EXPECT_EQ(kLoads[size](at).fault, 1u);
    EXPECT_EQ(kStores[size](at, 1).fault, 1u);
    EXPECT_EQ(kExchanges[size](at, 1, 2).fault, 1u);
  }
  std::array<std::uint64_t, 2> words{1, 2};
  const std::array<std::uint64_t, 2> desired{3, 4};
  EXPECT_EQ(ramet_guarded_load_128(at, words.data()).fault, 1u);
  EXPECT_EQ(ramet_guarded_store_128(at, words.data()).fault, 1u);
  for (int i = 0; i < 3; ++i)  // the registers that the caller keeps are as before each time
    EXPECT_EQ(ramet_guarded_exchange_128(at, words.data(), desired.data()).fault, 1u);
  EXPECT_EQ(words, (std::array<std::uint64_t, 2>{1, 2}));
  ::munmap(at, 4096);
}

}  // namespace
}  // namespace ramet::arch
