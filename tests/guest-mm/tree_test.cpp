// Random trees of VMs, and those that a fuzzer found to reach something new: see tree.hpp.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/guest-mm/tree.hpp"

namespace ramet::mm::test {
namespace {

class Trees : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Trees);

TEST_P(Trees, Everyone_has_the_memory_that_a_full_copy_would_have) {
  // RAMET_SEED=n repeats the first tree of a failed run.
  const char* fixed = std::getenv("RAMET_SEED");
  const unsigned first = fixed ? static_cast<unsigned>(std::strtoul(fixed, nullptr, 10)) : std::random_device{}();
  std::printf("seed %u\n", first);
  std::fflush(stdout);
  std::uint64_t steps = 0, freezes = 0, spawns = 0, resets = 0, refused = 0;
  for (unsigned seed = first; seed != first + (fixed ? 1 : scaled(12, 3)); ++seed) {
    SCOPED_TRACE("RAMET_SEED=" + std::to_string(seed));
    RandomChoices choices(seed, scaled(2000, 300));
    Tree tree(GetParam(), choices);
    while (!HasFailure() && tree.step()) {}
    if (HasFailure()) return;
    tree.finish(true);
    if (HasFailure()) return;
    steps += tree.steps, freezes += tree.freezes, spawns += tree.spawns, resets += tree.resets, refused += tree.refused;
  }
  const auto n = [](std::uint64_t count) { return static_cast<unsigned long long>(count); };
  std::printf("%llu steps: %llu freezes, %llu spawns, %llu resets (%llu refused)\n", n(steps), n(freezes), n(spawns),
              n(resets), n(refused));
}

TEST(Corpus, Every_tree_that_the_fuzzer_kept_ends_as_the_model_says) {
  std::ifstream file(RAMET_CORPUS "/address_space", std::ios::binary);
  if (!file) GTEST_SKIP() << "there is no " RAMET_CORPUS "/address_space on this machine";
  const std::vector<char> corpus(std::istreambuf_iterator<char>(file), {});
  unsigned units = 0;
  for (std::size_t at = 0; at + 2 <= corpus.size() && !HasFailure(); ++units) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(corpus[i]); };
    const std::size_t length = byte(at) | byte(at + 1) << 8;
    ASSERT_LE(at + 2 + length, corpus.size()) << "a damaged corpus";
    SCOPED_TRACE("unit " + std::to_string(units));
    run_tree({reinterpret_cast<const std::uint8_t*>(&corpus[at + 2]), length});
    at += 2 + length;
  }
  EXPECT_GT(units, 100u);
  std::printf("%u units\n", units);
}

}  // namespace
}  // namespace ramet::mm::test
