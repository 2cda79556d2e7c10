// Instruction fetches see what was written, whoever wrote it: on processors whose instruction caches do not, as the model's,
// by exec_sync() whenever a frame becomes executable.
#include <cstring>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm {
namespace {

using namespace test;

constexpr Prot kAll = kReadWrite | Prot::Exec;

std::span<const std::byte> bytes_of(const std::uint64_t& word) { return std::as_bytes(std::span(&word, 1)); }

class ExecSync : public ForEachFormat {
 protected:
  // Code is there, and has run.
  Gva code(World& w, Prot prot = kAll) {
    const Gva at = w.map(4 * kPageSize, prot);
    EXPECT_TRUE(w.cpu().store(at, 1));
    EXPECT_EQ(w.cpu(0).fetch(at), 1u);
    EXPECT_EQ(w.cpu(1).fetch(at), 1u);
    return at;
  }
  // Frames that come next have been code.
  void use_frames(World& w) {
    constexpr std::uint64_t kUsed = 64;
    const Gva at = w.map(kUsed * kPageSize, kAll);
    for (std::uint64_t page = 0; page < kUsed; ++page) {
      EXPECT_TRUE(w.cpu().store(at + page * kPageSize, ~page));
      EXPECT_EQ(w.cpu().fetch(at + page * kPageSize), ~page);
    }
    EXPECT_TRUE(w.as->unmap(at, kUsed * kPageSize));
  }
  void expect_fetched(World& w, Gva at, std::uint64_t word) {
    EXPECT_EQ(w.cpu(0).fetch(at), word);
    EXPECT_EQ(w.cpu(1).fetch(at), word);
    w.check();
  }
};

TEST_P(ExecSync, AfterAStore) {
  World w(GetParam());
  const Gva at = code(w);
  ASSERT_TRUE(w.cpu().store(at, 2));
  expect_fetched(w, at, 2);
}

TEST_P(ExecSync, AfterAStoreOfAnotherThread) {
  World w(GetParam());
  const Gva at = code(w);
  ASSERT_TRUE(w.cpu(1).store(at, 2));
  expect_fetched(w, at, 2);
}

TEST_P(ExecSync, AfterProtections) {
  World w(GetParam());
  const Gva at = w.map(kPageSize);
  for (std::uint64_t word = 1; word < 4; ++word) {
    ASSERT_TRUE(w.as->protect(at, kPageSize, kReadWrite));
    ASSERT_TRUE(w.cpu().store(at, word));
    ASSERT_TRUE(w.as->protect(at, kPageSize, kReadExec));
    expect_fetched(w, at, word);
  }
}

TEST_P(ExecSync, AfterTheVmmHasWritten) {
  World w(GetParam());
  const Gva at = code(w);
  ASSERT_TRUE(w.as->write(at, bytes_of(2)));
  expect_fetched(w, at, 2);
}

TEST_P(ExecSync, AfterADeviceHasWritten) {
  World w(GetParam());
  const Gva at = code(w);
  for (const Term term : {Term::Short, Term::Long}) {
    const std::uint64_t word = term == Term::Short ? 2 : 3;
    {
      auto pin = w.as->pin(at, kPageSize, Access::Write, term);
      ASSERT_TRUE(pin);
      std::memcpy(as_device(pin->ranges()[0]), &word, sizeof word);
    }
    expect_fetched(w, at, word);
  }
}

TEST_P(ExecSync, OfAFrameThatWasAnothersCode) {
  World w(GetParam());
  use_frames(w);
  const auto file = std::make_shared<TestFile>(*w.memory, 64 * kPageSize);
  const auto at = w.as->map({.length = 64 * kPageSize, .prot = kReadExec, .backing = file});
  ASSERT_TRUE(at);
  for (std::uint64_t page = 0; page < 64; ++page) expect_fetched(w, *at + page * kPageSize, TestFile::word_at(page * kPageSize));
}

TEST_P(ExecSync, OfACopyAndOfWhatItWasCopiedFrom) {
  Genet g(GetParam());
  const auto parent = g.make();
  const Gva at = code(*parent);
  const auto snapshot = *parent->as->freeze();
  const auto child = g.child(snapshot);
  expect_fetched(*child, at, 1);
  ASSERT_TRUE(child->cpu().store(at, 2));
  expect_fetched(*child, at, 2);
  ASSERT_TRUE(parent->cpu().store(at, 3));
  expect_fetched(*parent, at, 3);
  expect_fetched(*child, at, 2);
  ASSERT_TRUE(child->as->reset(*snapshot));
  expect_fetched(*child, at, 1);
}

TEST_P(ExecSync, OfACopyOfWhatADeviceWrites) {
  Genet g(GetParam());
  const auto parent = g.make();
  const Gva at = code(*parent);
  auto pin = parent->as->pin(at, kPageSize, Access::Write, Term::Short);
  ASSERT_TRUE(pin);
  const std::uint64_t word = 2;
  std::memcpy(as_device(pin->ranges()[0]), &word, sizeof word);
  expect_fetched(*parent, at, 2);
  use_frames(*parent);
  const auto child = g.child(*parent->as->freeze());
  *pin = Pin();
  expect_fetched(*child, at, 2);
  expect_fetched(*parent, at, 2);
}

// What the above would not notice: that the model's cache is one, and what is not asked for is not done.
TEST_P(ExecSync, WithoutItOldCodeRuns) {
  World w(GetParam());
  const Gva at = code(w);
  w.tlb.ignore_exec_syncs = true;
  ASSERT_TRUE(w.cpu().store(at, 2));
  EXPECT_EQ(w.cpu().load(at), 2u);
  EXPECT_EQ(w.cpu().fetch(at), 1u);
}

TEST_P(ExecSync, OncePerPageThatBecomesExecutable) {
  World w(GetParam(), {.config = {.blocks = false, .around_pages = 1}});
  const Gva at = w.map(8 * kPageSize, kAll);
  for (std::uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(w.cpu().store(at + i * kPageSize, i));
  const std::uint64_t before = w.as->counters().exec_syncs;
  for (int round = 0; round < 3; ++round)
    for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i);
  EXPECT_EQ(w.as->counters().exec_syncs - before, 8u);
  EXPECT_EQ(w.cpu().load(at), 0u);
  EXPECT_EQ(w.as->counters().exec_syncs - before, 8u);
}

RAMET_FOR_EACH_FORMAT(ExecSync);

}  // namespace
}  // namespace ramet::mm
