// A dump of the page tables without a lock, while others map, unmap, protect, split and merge: it sees entries that
// were there, and no table that serves for something else by now.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <unordered_set>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Dump : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Dump);

using Level = arch::Level;
using Node = AddressSpace::Node;

constexpr std::uint64_t kFileBytes = 4 * kMiB, kAnonymousBytes = 8 * kMiB;
constexpr std::size_t kPhases = 4;

// Three places where an address tells what a leaf there may map: files that come and go, far apart, so that whole
// branches of tables do; the linear map, which is split and merged; anonymous memory, to which all that happens.
struct Places {
  World& w;
  TestFile& file;
  static constexpr unsigned kFiles = 4;
  static constexpr Gva kAnonymous = 0x4000'0000;
  static constexpr Gva file_at(unsigned i) { return 0x100'0000'0000 + i * 0x81'4020'0000; }

  // Says what is wrong with a leaf; empty if it may be there.
  std::string check_leaf(const Node& n) const {
    const std::uint64_t span = arch::span_of(n.level);
    if (n.level > Level::Pud || !is_aligned(n.start, span)) return "a leaf of no level";
    if (n.changing) return "";  // says nothing yet
    if (!is_aligned(n.address, span)) return "a leaf maps misaligned memory";
    if (n.attributes.write && n.attributes.execute) return "a leaf is writable and executable";
    const Bank& data = w.memory->data();
    if (n.start - kLinear < data.size()) {
      return n.address - data.base() == n.start - kLinear && !n.kept ? "" : "a leaf that never was in the linear map";
    }
    if (n.start - kAnonymous < kAnonymousBytes) {
      return data.contains(n.address) && n.level <= Level::Pmd ? "" : "a leaf that never was in anonymous memory";
    }
    for (unsigned i = 0; i < kFiles; ++i) {
      if (n.start - file_at(i) >= kFileBytes) continue;
      const auto shared = file.shared();
      const bool same = n.address - shared.bank->base() == shared.bank_offset + (n.start - file_at(i));
      return same && n.level == Level::Pte && !n.kept ? "" : "a leaf that never was of the file";
    }
    return "a leaf where nothing was ever mapped";
  }
};

// One dump. A table has one place, and a table taken away is not used again while we look: none is seen twice. Before
// it looks into some of them, others in each phase, it lets the others go on, so that the table goes if it may; not for
// ever, as they wait for us when they need tables back.
std::string dump_once(const Places& places, std::size_t phase) {
  std::string wrong;
  const Counter& taken = places.w.as->counters().tables_allocated;
  std::unordered_set<Gpa> tables;
  const Bank& bank = places.w.memory->tables();
  places.w.as->dump([&](const Node& n) {
    if (!wrong.empty()) return;
    if (!n.table) {
      wrong = places.check_leaf(n);
      return;
    }
    const std::uint64_t reach = arch::span_of(n.level) * arch::kEntriesPerTable;
    if (!bank.contains(n.address) || !is_aligned(n.address, kPageSize)) wrong = "a table outside the table bank";
    else if (!is_aligned(n.start, reach)) wrong = "a table in no table's place";
    else if (n.entries > arch::kEntriesPerTable) wrong = "a table with more entries than it has";
    else if (!tables.insert(n.address).second) wrong = "one table in two places";
    if (tables.size() % kPhases != phase) return;
    const std::uint64_t before = taken;
    for (int turns = 0; turns < 400 && taken < before + 32; ++turns) std::this_thread::yield();
  });
  return wrong;
}

void map_and_unmap_files(World& w, const std::shared_ptr<TestFile>& file, unsigned round) {
  const Gva at = Places::file_at(round % Places::kFiles);
  const MapRequest request{.address = at,
                           .length = kFileBytes,
                           .prot = kReadWrite,
                           .fixed = true,
                           .shared = true,
                           .populate = true,
                           .backing = file};
  ASSERT_TRUE(w.as->map(request));
  if (round % 2) {
    ASSERT_TRUE(w.as->unmap(at, kFileBytes / 2));
  }
  ASSERT_TRUE(w.as->unmap(at, kFileBytes));
}

void split_and_merge_linear_map(World& w, unsigned round) {
  const Gpa part = w.memory->data().base() + (round % 29) * kBlockSize + (round % 7) * kPageSize;
  ASSERT_TRUE(w.as->protect_linear(part, 0x9000, kRead));
  ASSERT_TRUE(w.as->protect_linear(part, 0x9000, kReadWrite));
}

void change_anonymous_memory(World& w, unsigned round) {
  const Gva at = Places::kAnonymous, part = at + (round % 5) * 0x135000;
  const Prot prot = round % 3 == 0 ? Prot::None : round % 3 == 1 ? kRead : kReadExec;
  ASSERT_TRUE(w.as->split(at, kAnonymousBytes, Level::Pte));
  ASSERT_TRUE(w.as->protect(part, 0x9d000, prot));
  ASSERT_TRUE(w.as->protect(at, kAnonymousBytes, kReadWrite));
  w.as->merge(at, kAnonymousBytes);
  if (round % 4) return;
  ASSERT_TRUE(w.as->unmap(part, kMiB));
  const MapRequest anew{.address = at, .length = kAnonymousBytes, .prot = kReadWrite, .fixed = true, .populate = true};
  ASSERT_TRUE(w.as->map(anew));
}

TEST_P(Dump, Sees_only_tables_and_leaves_that_were_there_while_others_change_them) {
  World w(GetParam());
  auto file = std::make_shared<TestFile>(*w.memory, kFileBytes);
  const Places places{w, *file};
  const unsigned tables = scaled(8000, 1500);  // made and taken away again
  constexpr unsigned kShare = 50;  // changes of each kind at least
  const bool ring0 = GetParam() != Format::Arm64Stage2;  // there is none behind stage 2: no linear map
  if (ring0) {
    ASSERT_TRUE(w.as->map_linear(kLinear));
  }
  w.map_at(Places::kAnonymous, kAnonymousBytes);
  ASSERT_TRUE(w.as->advise(Places::kAnonymous, kAnonymousBytes, Advice::Huge));
  ASSERT_TRUE(w.as->advise(Places::kAnonymous, kAnonymousBytes, Advice::PopulateWrite));

  std::atomic<bool> done{false};
  std::string wrong;
  std::thread dumper([&] {
    for (unsigned i = 0; !done && wrong.empty(); ++i) wrong = dump_once(places, i % kPhases);
  });
  // All of them to the end, so that tables pass from one to another, and each its share, however threads are scheduled.
  const auto repeat = [&](auto&& change) {
    for (unsigned i = 0; i < kShare || w.as->counters().tables_allocated < tables; ++i) change(i);
  };
  std::thread files([&] { repeat([&](unsigned i) { map_and_unmap_files(w, file, i); }); });
  std::thread linear([&] {
    if (ring0) repeat([&](unsigned i) { split_and_merge_linear_map(w, i); });
  });
  std::thread anonymous([&] { repeat([&](unsigned i) { change_anonymous_memory(w, i); }); });
  files.join();
  linear.join();
  anonymous.join();
  done = true;
  dumper.join();
  EXPECT_EQ(wrong, "");
  EXPECT_GE(w.as->counters().merge_pmd, kShare);

  ASSERT_TRUE(w.as->unmap(Places::kAnonymous, kAnonymousBytes));
  w.check();
}

TEST_P(Dump, Of_memory_at_rest_agrees_with_the_books) {
  World w(GetParam());
  const Gva at = w.map_at(0x4000'0000, 4 * kBlockSize);
  ASSERT_TRUE(w.as->advise(at, 4 * kBlockSize, Advice::Huge));
  ASSERT_TRUE(w.as->advise(at, 4 * kBlockSize, Advice::PopulateWrite));
  ASSERT_TRUE(w.as->protect(at + kBlockSize, 3 * kPageSize, Prot::None));
  std::uint64_t tables = 0, entries = 0, pages = 0, blocks = 0, kept = 0;
  w.as->dump([&](const Node& n) {
    if (n.table) ++tables, entries += n.entries;
    else ++(n.level == Level::Pte ? pages : blocks), kept += n.kept;
  });
  const Usage u = w.as->usage();
  EXPECT_EQ(tables, u.table_pages);
  EXPECT_EQ(entries, tables - 1 + pages + blocks);  // each entry is a leaf, or a table but the root
  EXPECT_EQ(pages, u.data_pages_4k);
  EXPECT_EQ(pages, 512u);
  EXPECT_EQ(blocks, u.data_blocks_2m);
  EXPECT_EQ(blocks, 3u);
  EXPECT_EQ(kept, 3u);
  w.check();
}

}  // namespace
}  // namespace ramet::mm::test
