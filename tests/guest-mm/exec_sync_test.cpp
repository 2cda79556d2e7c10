// Instruction fetches see what was written, whoever wrote it: on processors whose instruction caches do not, as the
// model's, by exec_sync() whenever a frame becomes executable, which is when an entry is made or when something is
// fetched there.
#include <cstring>
#include <thread>
#include <tuple>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm {
namespace {

using namespace test;

constexpr Prot kAll = kReadWrite | Prot::Exec;

std::span<const std::byte> bytes_of(const std::uint64_t& word) { return std::as_bytes(std::span(&word, 1)); }

using Policy = AddressSpace::ExecSync;
using Term = AddressSpace::PinTerm;

class ExecSync : public ::testing::TestWithParam<std::tuple<Format, Policy>> {
 protected:
  static Format format() { return std::get<0>(GetParam()); }
  static AddressSpace::Config with(AddressSpace::Config config = {}) {
    config.exec_sync = std::get<1>(GetParam());
    return config;
  }
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
  World w(format(), {.config = with()});
  const Gva at = code(w);
  ASSERT_TRUE(w.cpu().store(at, 2));
  expect_fetched(w, at, 2);
}

TEST_P(ExecSync, AfterAStoreOfAnotherThread) {
  World w(format(), {.config = with()});
  const Gva at = code(w);
  ASSERT_TRUE(w.cpu(1).store(at, 2));
  expect_fetched(w, at, 2);
}

TEST_P(ExecSync, AfterProtections) {
  World w(format(), {.config = with()});
  const Gva at = w.map(kPageSize);
  for (std::uint64_t word = 1; word < 4; ++word) {
    ASSERT_TRUE(w.as->protect(at, kPageSize, kReadWrite));
    ASSERT_TRUE(w.cpu().store(at, word));
    ASSERT_TRUE(w.as->protect(at, kPageSize, kReadExec));
    expect_fetched(w, at, word);
  }
}

TEST_P(ExecSync, AfterTheVmmHasWritten) {
  World w(format(), {.config = with()});
  const Gva at = code(w);
  ASSERT_TRUE(w.as->write(at, bytes_of(2)));
  expect_fetched(w, at, 2);
}

TEST_P(ExecSync, AfterADeviceHasWritten) {
  World w(format(), {.config = with()});
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

// The one exception: entries let code run there meanwhile, and nobody has been told the address.
TEST_P(ExecSync, AfterCodeWasWrittenBehindAnEntryThatStays) {
  World w(format(), {.config = with()});
  const Gva at = w.map(4 * kPageSize, kReadExec);
  for (std::uint64_t word = 1; word < 4; ++word) {
    ASSERT_TRUE(w.as->write_code(at + 8, bytes_of(word)));
    expect_fetched(w, at + 8, word);
  }
  // Of a snapshot it is a copy that is written.
  const auto snapshot = w.as->freeze();
  ASSERT_TRUE(snapshot);
  const Gpa frame = w.as->translate(at, 0)->frame;
  const std::uint64_t word = 10;
  ASSERT_TRUE(w.as->write_code(at + 8, bytes_of(word)));
  expect_fetched(w, at + 8, word);
  EXPECT_NE(w.as->translate(at, 0)->frame, frame);
  const Gva writable = w.map(kPageSize, kAll), data = w.map(kPageSize);
  EXPECT_EQ(w.as->write_code(writable, bytes_of(word)).error(), Error::NotPermitted);
  EXPECT_EQ(w.as->write_code(data, bytes_of(word)).error(), Error::NotPermitted);
  EXPECT_EQ(w.as->write_code(0x100000, bytes_of(word)).error(), Error::NotMapped);
}

TEST_P(ExecSync, OfAFrameThatWasAnothersCode) {
  World w(format(), {.config = with()});
  use_frames(w);
  const auto file = std::make_shared<TestFile>(*w.memory, 64 * kPageSize);
  const auto at = w.as->map({.length = 64 * kPageSize, .prot = kReadExec, .backing = file});
  ASSERT_TRUE(at);
  for (std::uint64_t page = 0; page < 64; ++page)
    expect_fetched(w, *at + page * kPageSize, TestFile::word_at(page * kPageSize));
}

TEST_P(ExecSync, OfACopyAndOfWhatItWasCopiedFrom) {
  Genet g(format(), with());
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
  Genet g(format(), with());
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
  World w(format(), {.config = with()});
  const Gva at = code(w);
  w.tlb.ignore_exec_syncs = true;
  ASSERT_TRUE(w.cpu().store(at, 2));
  EXPECT_EQ(w.cpu().load(at), 2u);
  EXPECT_EQ(w.cpu().fetch(at), 1u);
}

TEST_P(ExecSync, OncePerPageThatBecomesExecutable) {
  World w(format(), {.config = with({.blocks = false, .around_pages = 1})});
  const Gva at = w.map(8 * kPageSize, kAll);
  for (std::uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(w.cpu().store(at + i * kPageSize, i));
  const std::uint64_t before = w.as->counters().exec_syncs;
  for (int round = 0; round < 3; ++round)
    for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i);
  EXPECT_EQ(w.as->counters().exec_syncs - before, 8u);
  EXPECT_EQ(w.cpu().load(at), 0u);
  EXPECT_EQ(w.as->counters().exec_syncs - before, 8u);
}

INSTANTIATE_TEST_SUITE_P(Policies, ExecSync,
                         ::testing::Combine(::testing::Values(Format::X86_64Stage1, Format::Arm64Stage1,
                                                              Format::Arm64Stage2),
                                            ::testing::Values(Policy::Eager, Policy::Lazy)),
                         [](const auto& of) {
                           return ::testing::PrintToString(std::get<0>(of.param)) +
                                  (std::get<1>(of.param) == Policy::Lazy ? "Lazy" : "Eager");
                         });

// What deferring saves, and what it costs.
class DeferredExec : public ForEachFormat {
 protected:
  static constexpr std::uint64_t kPages = 64;
  struct Cost {
    std::uint64_t syncs, faults, deferred, granted;
  };
  // Pages are written and made executable, then so many of them run.
  static Cost of(Policy policy, std::uint64_t run, AddressSpace::Config config = {.blocks = false}) {
    config.exec_sync = policy;
    World w(GetParam(), {.config = config});
    const Gva at = w.map(kPages * kPageSize);
    for (std::uint64_t i = 0; i < kPages; ++i) EXPECT_TRUE(w.cpu().store(at + i * kPageSize, i + 1));
    const Counters& c = w.as->counters();
    const Cost before{c.exec_syncs, c.faults, c.exec_deferred, c.exec_granted};
    EXPECT_TRUE(w.as->protect(at, kPages * kPageSize, kReadExec));
    for (std::uint64_t i = 0; i < run; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i + 1);
    w.check();
    return {c.exec_syncs - before.syncs, c.faults - before.faults, c.exec_deferred - before.deferred,
            c.exec_granted - before.granted};
  }
};

TEST_P(DeferredExec, OnlyPagesThatRunAreSynchronised) {
  for (const std::uint64_t run : {std::uint64_t{0}, std::uint64_t{1}, kPages / 2, kPages}) {
    const Cost eager = of(Policy::Eager, run), lazy = of(Policy::Lazy, run);
    EXPECT_EQ(eager.syncs, kPages);
    EXPECT_EQ(eager.faults, 0u);
    EXPECT_EQ(lazy.syncs, run);
    EXPECT_EQ(lazy.faults, run) << "where all run, deferring is a fault more for each";
    EXPECT_EQ(eager.deferred, 0u);
    EXPECT_EQ(lazy.deferred, kPages);
    EXPECT_EQ(lazy.granted, run);
  }
}

// A block is one entry: it is withheld whole, and one fetch lets all of it run.
TEST_P(DeferredExec, BlocksAreDeferredWhole) {
  World w(GetParam(), {.config = {.exec_sync = Policy::Lazy}});
  const Gva at = align_up(w.map(2 * kBlockSize), kBlockSize);
  ASSERT_TRUE(w.cpu().store(at, 1));
  ASSERT_TRUE(w.as->protect(at, kBlockSize, kReadExec));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.exec_deferred, kBlockSize / kPageSize);
  EXPECT_EQ(c.exec_syncs, 0u);
  EXPECT_EQ(w.cpu().fetch(at), 1u);
  EXPECT_EQ(w.cpu().fetch(at + kBlockSize - 8), 0u);
  EXPECT_EQ(c.exec_syncs, kBlockSize / kPageSize);
  EXPECT_EQ(c.exec_granted, kBlockSize / kPageSize);
  EXPECT_EQ(c.split_pmd, 0u);
  w.check();
}

// A merge changes the entry and not the frames.
TEST_P(DeferredExec, PagesThatRunNeedNoSyncAsABlock) {
  World w(GetParam());
  const Gva at = align_up(w.map(2 * kBlockSize), kBlockSize);
  ASSERT_TRUE(w.as->advise(at, kBlockSize, Advice::NoHuge));
  for (Gva page = 0; page < kBlockSize; page += kPageSize) ASSERT_TRUE(w.cpu().store(at + page, page));
  ASSERT_TRUE(w.as->protect(at, kBlockSize, kReadExec));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.exec_syncs, kBlockSize / kPageSize);
  ASSERT_TRUE(w.as->advise(at, kBlockSize, Advice::Huge));
  ASSERT_TRUE(w.as->migrate({.address = at, .length = kBlockSize, .reason = MoveReason::Contiguous}));
  EXPECT_EQ(c.merge_pmd, 1u);
  EXPECT_EQ(c.exec_syncs, 2 * kBlockSize / kPageSize) << "once for the frames of before, once for those of now";
  for (Gva page = 0; page < kBlockSize; page += kPageSize) ASSERT_EQ(w.cpu().fetch(at + page), page);
  w.check();
}

// Execution is a permission that is added: no flush waits for other vCPUs, which fault once more.
TEST_P(DeferredExec, IsGrantedByARelaxedFlush) {
  World w(GetParam(), {.config = {.blocks = false, .exec_sync = Policy::Lazy}});
  const Gva at = w.map(kPageSize);
  ASSERT_TRUE(w.cpu().store(at, 1));
  ASSERT_TRUE(w.as->protect(at, kPageSize, kReadExec));
  EXPECT_EQ(w.cpu(0).load(at), 1u);  // both have an entry now that withholds execution
  EXPECT_EQ(w.cpu(1).load(at), 1u);
  const Counters& c = w.as->counters();
  const std::uint64_t strict = c.flushes, relaxed = c.flushes_relaxed, spurious = c.faults_spurious;
  EXPECT_EQ(w.cpu(0).fetch(at), 1u);
  EXPECT_EQ(w.cpu(1).fetch(at), 1u);
  EXPECT_EQ(c.flushes, strict);
  EXPECT_EQ(c.flushes_relaxed, relaxed + 1);
  EXPECT_EQ(c.faults_spurious, spurious + 1);
  EXPECT_EQ(c.exec_syncs, 1u);
  w.check();
}

// What a fault brings beside the page that is fetched has not been asked for.
TEST_P(DeferredExec, PagesAroundAFetchAreDeferred) {
  World w(GetParam(), {.config = {.blocks = false, .exec_sync = Policy::Lazy}});
  const auto file = std::make_shared<TestFile>(*w.memory, 64 * kPageSize);
  const auto at = w.as->map({.length = 64 * kPageSize, .prot = kReadExec, .backing = file});
  ASSERT_TRUE(at);
  EXPECT_EQ(w.cpu().fetch(*at), TestFile::word_at(0));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.exec_syncs, 1u);
  EXPECT_EQ(c.exec_deferred, c.pages_around);
  EXPECT_GT(c.pages_around, 0u);
  w.check();
}

// Where there is nothing to synchronise nothing is deferred, whatever was asked for.
TEST_P(DeferredExec, NeverWhereFetchesSeeAllStores) {
  World w(GetParam(), {.config = {.blocks = false, .exec_sync = Policy::Lazy}});
  w.tlb.fetches_see_stores = true;
  const Gva at = w.map(kPageSize);
  ASSERT_TRUE(w.cpu().store(at, 1));
  ASSERT_TRUE(w.as->protect(at, kPageSize, kReadExec));
  EXPECT_EQ(w.as->counters().exec_deferred, 0u);
}

// Threads fetch what another one protects and writes anew: each sees what was there when it was last made executable,
// or later.
TEST_P(DeferredExec, ManyFetchWhileOneWrites) {
  for (const Policy policy : {Policy::Eager, Policy::Lazy}) {
    World w(GetParam(), {.vcpus = 3, .config = {.blocks = false, .exec_sync = policy}});
    const Gva at = w.map(kPageSize);
    ASSERT_TRUE(w.cpu(0).store(at, 1));
    ASSERT_TRUE(w.as->protect(at, kPageSize, kReadExec));
    std::atomic<std::uint64_t> written{1};
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < 3; ++i)
      threads.emplace_back([&, i] {
        while (!done) {
          const std::uint64_t least = written;
          const auto fetched = w.cpu(i).fetch(at);
          if (fetched) {
            EXPECT_GE(*fetched, least);
          } else {
            EXPECT_EQ(fetched.error(), Error::NotPermitted);  // it is writable now
          }
        }
      });
    for (std::uint64_t word = 2; word < 100; ++word) {
      EXPECT_TRUE(w.as->protect(at, kPageSize, kReadWrite));
      EXPECT_TRUE(w.cpu(0).store(at, word));
      written = word;
      EXPECT_TRUE(w.as->protect(at, kPageSize, kReadExec));
      std::this_thread::yield();
    }
    done = true;
    for (auto& t : threads) t.join();
    w.check();
  }
}

RAMET_FOR_EACH_FORMAT(DeferredExec);

}  // namespace
}  // namespace ramet::mm
