// The process machine's mirror against a fake process: a table of what is mapped, and threads that carry out their
// lists as the stub does, touch pages, and fault. The address space and its tables are real.
#include "vmm/process/mirror.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/region.hpp"
#include "tests/guest-mm/late_pages.hpp"

namespace ramet::vmm::process {
namespace {

constexpr mm::Prot kRead = mm::Prot::Read, kReadWrite = mm::Prot::Read | mm::Prot::Write;
constexpr std::uint64_t kPages = 64;
constexpr mm::Gva kStart = 0x10'0000'0000;

// What one page of the process shows.
struct Shown {
  ino_t file;
  std::uint64_t offset, protection;
};

class FakeProcess final : public Mapper {
 public:
  FakeProcess() {
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(at, MAP_FAILED);
    contexts_ = static_cast<std::byte*>(at);
  }
  ~FakeProcess() override { ::munmap(contexts_, kBytes); }

  std::expected<void, int> carry_out(std::span<const Command> commands) override {
    std::lock_guard one_at_a_time(mapper_lock_);
    for (const Command& c : commands) {
      pause();
      if (const auto r = call(c); r < 0) return std::unexpected(static_cast<int>(-r));
    }
    return {};
  }
  std::expected<std::array<int, kMostGiven>, int> give(std::span<const int> descriptors) override {
    std::array<int, kMostGiven> numbers{};
    std::lock_guard guard(lock_);
    for (std::size_t i = 0; i < descriptors.size(); ++i) {
      struct stat s;
      if (::fstat(descriptors[i], &s) != 0) return std::unexpected(errno);
      int number = 0;
      while (files_.contains(number)) ++number;
      files_[number] = {s.st_ino, (::fcntl(descriptors[i], F_GETFL) & O_ACCMODE) == O_RDWR};
      numbers[i] = number;
    }
    return numbers;
  }
  std::expected<void, int> take_back(int number) override {
    std::lock_guard guard(lock_);
    files_.erase(number);
    return {};
  }
  std::expected<void, int> take_all_back(std::span<const Command> then) override {
    {
      std::lock_guard guard(lock_);
      files_.clear();
    }
    return carry_out(then);
  }
  bool patient(unsigned&) override { return true; }
  bool threads_map() const override { return !hardened; }
  bool hardened = false;

  Context context(unsigned number) const { return {contexts_, number}; }
  std::byte* told(unsigned number) const { return contexts_ + std::size_t{number} * RAMET_TOLD_SIZE; }
  std::optional<Shown> shown(mm::Gva page) const {
    std::lock_guard guard(lock_);
    const auto at = pages_.find(page);
    return at == pages_.end() ? std::nullopt : std::optional(at->second);
  }

  // As the host's kernel does it.
  std::int64_t call(const Command& c) {
    std::lock_guard guard(lock_);
    const mm::Gva start = c.arguments[0], end = start + c.arguments[1];
    if (c.number == SYS_munmap) {
      pages_.erase(pages_.lower_bound(start), pages_.lower_bound(end));
      return 0;
    }
    if (c.number != SYS_mmap) return -ENOSYS;
    const auto file = files_.find(static_cast<int>(c.arguments[4]));
    if (file == files_.end()) return -EBADF;
    if ((c.arguments[2] & PROT_WRITE) && !file->second.writable) return -EACCES;
    for (mm::Gva page = start; page < end; page += mm::kPageSize)
      pages_[page] = {file->second.inode, c.arguments[5] + (page - start), c.arguments[2]};
    return static_cast<std::int64_t>(start);
  }

  // Others come in between.
  static void pause() {
    thread_local std::minstd_rand random{static_cast<unsigned>(::syscall(SYS_gettid))};
    for (unsigned n = random() % 8; n < 3; ++n) std::this_thread::yield();
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{RAMET_CONTEXTS} * (RAMET_TOLD_SIZE + RAMET_SAID_SIZE);
  struct File {
    ino_t inode;
    bool writable;
  };
  std::byte* contexts_;
  std::mutex mapper_lock_;
  mutable std::mutex lock_;  // guards what follows, as the kernel's lock of the process's mappings
  std::map<int, File> files_;
  std::map<mm::Gva, Shown> pages_;
};

class MirrorTlb final : public mm::Tlb {
 public:
  void flush(const mm::FlushRequest& request) override {
    EXPECT_FALSE(urcu_memb_read_ongoing()) << "it waits for the process, and other VMs for this reader";
    if (mirror) mirror->flush(request.ranges, request.everything);
  }
  void flush_relaxed(const mm::FlushRequest& request) override {
    if (mirror && !request.everything) mirror->gained(request.ranges);
  }
  bool waits() const override { return true; }
  Mirror* mirror = nullptr;
};

class MirrorTest : public ::testing::Test {
 protected:
  void make_space(std::size_t capacity) {
    memory = std::move(*mm::Memory::create({.data_bytes = 64 << 20, .table_bytes = 4 << 20, .files = true}));
    as = std::move(*mm::AddressSpace::create({}, *memory, tlb));
    mirror = std::make_unique<Mirror>(process, *as, *memory, capacity);
    tlb.mirror = mirror.get();
    for (auto& m : most) m = kEvery;
  }
  void set_up(std::size_t capacity) {
    make_space(capacity);
    ASSERT_TRUE(as->map({.address = kStart, .length = kPages * mm::kPageSize, .prot = kReadWrite, .fixed = true}));
  }
  void TearDown() override {
    tlb.mirror = nullptr;
    as.reset();
  }

  // A vCPU and its thread in the process.
  struct Thread {
    Thread(MirrorTest& test, unsigned number) : test(test), number(number), random(number) {
      slot.context = test.process.context(number);
      test.mirror->add(slot);
    }
    ~Thread() { test.mirror->remove(slot); }

    // Enters once, and touches pages until one faults; the VMM's answer to that.
    void round(unsigned most) {
      const auto entered = test.mirror->enter(slot, std::exchange(wish, std::nullopt), {});
      ASSERT_TRUE(entered) << std::strerror(entered.error());
      const std::uint32_t list = carry_out();
      std::byte* said = slot.context.said().data();
      std::optional<Mirror::Wish> fault;
      for (unsigned i = 0; i < most && !fault; ++i) {
        const std::uint64_t page = random() % kPages;
        const Mirror::Wish touch{kStart + page * mm::kPageSize, random() % 2 ? mm::Access::Write : mm::Access::Read};
        const std::uint64_t before = test.most[page].load();
        const auto shown = test.process.shown(touch.address);
        if (shown && test.most[page].load() == before) {
          EXPECT_EQ(shown->protection & ~before & kEvery, 0u) << "page " << page;
        }
        if (!shown || (touch.access == mm::Access::Write && !(shown->protection & PROT_WRITE))) fault = touch;
      }
      std::atomic_ref(*reinterpret_cast<std::uint32_t*>(said + SAID_DONE)).exchange(list);
      slot.inside.store(false, std::memory_order_release);
      if (refusals && random() % 16 == 0) {
        test.mirror->evict();  // as if the host had refused a mapping
        for (int i = 0; i < 50; ++i) FakeProcess::pause();
      }
      if (!fault) return;
      wish = fault;
      if (const auto t = test.as->translate(fault->address, 0); t && t->allows(fault->access)) return;
      if (!test.as->fault(fault->address, fault->access)) wish.reset();  // a signal
    }

    // Its newest list, whose number is returned.
    std::uint32_t carry_out() {
      std::byte* told = test.process.told(number);
      std::uint32_t list, count;
      std::memcpy(&list, told + TOLD_GO, sizeof list);
      std::memcpy(&count, told + TOLD_COUNT, sizeof count);
      EXPECT_TRUE(count == 0 || !test.process.hardened) << "that thread may not map";
      for (std::uint32_t i = 0; i < count; ++i) {
        Command c;
        std::memcpy(&c, told + TOLD_COMMANDS + i * sizeof c, sizeof c);
        FakeProcess::pause();
        EXPECT_GE(test.process.call(c), 0) << "command " << i;
      }
      auto* const applied = reinterpret_cast<std::uint32_t*>(slot.context.said().data() + SAID_APPLIED);
      std::atomic_ref(*applied).exchange(list);
      if (std::atomic_ref(*reinterpret_cast<std::uint32_t*>(told + TOLD_WAITED)).load() != 0)
        ::syscall(SYS_futex, applied, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
      return list;
    }

    MirrorTest& test;
    const unsigned number;
    std::minstd_rand random;
    Mirror::Slot slot;
    std::optional<Mirror::Wish> wish;
    bool refusals = false;
  };

  // Whether the process shows more of a page than its entry allows. Of pages that nobody changes meanwhile.
  std::string excess(mm::Gva page) const {
    const auto shown = process.shown(page);
    if (!shown) return {};
    const auto t = as->translate(page, 0);
    if (!t) return "a page is mapped that has no entry";
    if ((shown->protection & PROT_WRITE) && !t->write) return "a page can be written that its entry protects";
    const auto bank = memory->bank_of(t->frame);
    const mm::FilePart part = bank->file_at(t->frame + (page - t->start));
    struct stat s;
    EXPECT_EQ(::fstat(part.file->descriptor(), &s), 0);
    if (shown->file != s.st_ino || shown->offset != part.offset) return "a page shows another frame than its entry";
    return {};
  }

  // Whether the vCPUs have been there: a host that has one processor for all threads may take its time.
  bool enough() const {
    const Mirror::Counts c = mirror->counts();
    return c.fills > 100 && c.refills > 100 && c.evictions >= least_evictions;
  }

  // Takes pages of its own away and gives them back. What has been taken guest code finds nowhere, from then on.
  void change(unsigned which, unsigned of, unsigned rounds) {
    std::minstd_rand random(which + 100);
    const std::uint64_t mine = kPages / of;
    for (unsigned i = 0; (i < rounds || !enough()) && !HasFailure(); ++i) {
      const std::uint64_t first = random() % mine, pages = 1 + random() % std::min<std::uint64_t>(4, mine - first);
      const mm::Gva at = kStart + (which * mine + first) * mm::kPageSize;
      const std::uint64_t bytes = pages * mm::kPageSize;
      const auto say = [&](std::uint64_t protection) {
        for (std::uint64_t p = 0; p < pages; ++p) {
          auto& word = most[which * mine + first + p];
          word.store((word.load() & ~kEvery) + kEvery + 1 + protection);
        }
      };
      switch (random() % 4) {
        case 0:
          EXPECT_TRUE(as->protect(at, bytes, kRead));
          say(PROT_READ);
          break;
        case 1:
          EXPECT_TRUE(as->protect(at, bytes, mm::Prot::None));
          say(PROT_NONE);
          break;
        case 2:
          EXPECT_TRUE(as->unmap(at, bytes));
          say(PROT_NONE);
          FakeProcess::pause();
          say(kEvery);
          EXPECT_TRUE(as->map({.address = at, .length = bytes, .prot = kReadWrite, .fixed = true}));
          break;
        case 3: EXPECT_TRUE(as->advise(at, bytes, mm::Advice::DontNeed)); break;
      }
      FakeProcess::pause();
      say(kEvery);
      EXPECT_TRUE(as->protect(at, bytes, kReadWrite));
      if (freezes && random() % 8 == 0) {
        EXPECT_TRUE(as->freeze());
        mirror->close_writable();  // and what was touched comes back
      }
    }
  }

  void storm(std::size_t capacity, unsigned rounds, bool refusals = false) {
    set_up(capacity);
    std::vector<std::unique_ptr<Thread>> vcpus;
    for (unsigned i = 1; i <= 3; ++i) {
      vcpus.push_back(std::make_unique<Thread>(*this, i));
      vcpus.back()->refusals = refusals;
    }
    std::atomic<bool> stop{false};
    std::vector<std::jthread> running, changing;
    for (auto& vcpu : vcpus)
      running.emplace_back([&] {
        while (!stop && !HasFailure()) vcpu->round(20);
      });
    for (unsigned i = 0; i < 2; ++i) changing.emplace_back([&, i] { change(i, 2, rounds); });
    changing.clear();
    stop = true;
    running.clear();
    if (HasFailure()) return;
    vcpus.front()->wish.reset();
    vcpus.front()->round(0);  // what waits for whoever enters
    for (std::uint64_t i = 0; i < kPages; ++i) EXPECT_EQ(excess(kStart + i * mm::kPageSize), "");
    EXPECT_EQ(as->audit(), "");
    vcpus.clear();
  }

  // The most that guest code may do with each page, and, above that, how often it has changed. Said once what was taken
  // is gone, and before anything is given.
  static constexpr std::uint64_t kEvery = PROT_READ | PROT_WRITE | PROT_EXEC;
  std::array<std::atomic<std::uint64_t>, kPages> most;

  std::uint64_t least_evictions = 0;
  bool freezes = false;

  FakeProcess process;
  MirrorTlb tlb;
  std::unique_ptr<mm::Memory> memory;
  std::unique_ptr<mm::AddressSpace> as;
  std::unique_ptr<Mirror> mirror;
};

// Where threads carry changes out, and where only the mapper does.
class MirrorStorm : public MirrorTest, public ::testing::WithParamInterface<bool> {
 protected:
  MirrorStorm() { process.hardened = GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(, MirrorStorm, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "hardened" : "threads"; });

TEST_P(MirrorStorm, AStormOfFillsAndFlushesShowsNothingOld) { storm(10000, 1000); }
TEST_P(MirrorStorm, NorDoesOneWhereTheHostRefusesMappings) { storm(10000, 1000, true); }
TEST_P(MirrorStorm, NorDoesOneWithRoomForFewMappings) {
  least_evictions = 10;
  storm(6, 1000);
}

TEST_P(MirrorStorm, NorDoesOneWithFreezes) {
  freezes = true;
  storm(10000, 1000);
}

// After a freeze the process has lost all, and in a new one there is nothing: what was touched comes back unasked.
TEST_F(MirrorTest, WhatWasTouchedLastIsExpected) {
  set_up(10000);
  const auto page = [](std::uint64_t n) { return kStart + n * mm::kPageSize; };
  const auto shows = [&](const FakeProcess& p, std::uint64_t n) {
    const auto shown = p.shown(page(n));
    return shown ? shown->protection : 0;
  };
  {
    Thread vcpu(*this, 1);
    for (const std::uint64_t n : {1u, 9u, 20u}) {
      ASSERT_TRUE(as->protect(page(n), mm::kPageSize, mm::Prot::Read | mm::Prot::Write));
      ASSERT_TRUE(as->fault(page(n), mm::Access::Write));
      vcpu.wish = {page(n), mm::Access::Write};
      vcpu.round(0);
    }
    EXPECT_EQ(mirror->touched().size(), mirror->counts().fills);
    const auto layer = as->freeze();
    ASSERT_TRUE(layer);
    mirror->close_writable();
    EXPECT_FALSE(process.shown(page(9)));
    vcpu.round(0);
    for (const std::uint64_t n : {1u, 9u, 20u}) {
      EXPECT_EQ(shows(process, n), std::uint64_t{PROT_READ});
      EXPECT_EQ(excess(page(n)), "");
    }
    EXPECT_EQ(mirror->counts().evictions, 0u);
  }
  FakeProcess another;
  Mirror fresh(another, *as, *memory, 10000);
  // One more that was never touched, and one that is not mapped.
  fresh.expect(std::array<mm::Gva, 3>{page(9), page(63), 0x123000});
  ASSERT_TRUE(fresh.map_expected());
  EXPECT_EQ(shows(another, 9), std::uint64_t{PROT_READ});
  EXPECT_EQ(shows(another, 63), 0u);
  EXPECT_FALSE(another.shown(0x123000));
}

// A vCPU is about to map what its entry said before; what another expects there must not come before it.
TEST_F(MirrorTest, WhatIsExpectedGivesWayToAListUnderWay) {
  set_up(10000);
  Thread slow(*this, 1), fast(*this, 2);
  const Mirror::Wish wish{kStart, mm::Access::Write};
  for (const mm::Gva page : {kStart, kStart + mm::kPageSize}) {  // files of both frames are there
    ASSERT_TRUE(as->fault(page, mm::Access::Write));
    slow.wish = {page, mm::Access::Write};
    slow.round(0);
  }
  ASSERT_TRUE(as->advise(kStart, mm::kPageSize, mm::Advice::DontNeed));
  ASSERT_TRUE(as->fault(kStart, mm::Access::Write));
  const mm::Gpa before = as->translate(kStart, 0)->frame;
  fast.round(0);  // what advise() took away has gone
  ASSERT_TRUE(mirror->enter(slow.slot, wish, {}));
  tlb.mirror = nullptr;  // the entry changes, and its flush is yet to come
  const auto layer = as->freeze();
  ASSERT_TRUE(layer);
  ASSERT_TRUE(as->fault(kStart, mm::Access::Write));
  tlb.mirror = mirror.get();
  ASSERT_NE(as->translate(kStart, 0)->frame, before);
  mirror->expect(std::array{kStart});
  fast.round(0);
  slow.carry_out();
  slow.slot.inside.store(false, std::memory_order_release);
  mirror->flush(std::array{mm::Range{kStart, kStart + mm::kPageSize}}, false);
  fast.round(0);
  EXPECT_EQ(excess(kStart), "");
}

// A page made read-only and writable again stays mapped: no fault but the first.
TEST_F(MirrorTest, WhatTheTablesStillAllowStaysMapped) {
  set_up(10000);
  Thread vcpu(*this, 1);
  const auto touch = [&](mm::Access access) {
    vcpu.wish = {kStart, access};
    ASSERT_TRUE(as->fault(kStart, access));
    vcpu.round(0);
  };
  touch(mm::Access::Write);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(as->protect(kStart, mm::kPageSize, kRead));
    vcpu.round(0);
    ASSERT_TRUE(process.shown(kStart));
    EXPECT_EQ(process.shown(kStart)->protection, std::uint64_t{PROT_READ});
    ASSERT_TRUE(as->protect(kStart, mm::kPageSize, kReadWrite));
    vcpu.round(0);
    ASSERT_TRUE(process.shown(kStart));
    EXPECT_EQ(process.shown(kStart)->protection, std::uint64_t{PROT_READ | PROT_WRITE});
    EXPECT_EQ(excess(kStart), "");
  }
  EXPECT_EQ(mirror->counts().fills, 1u);
  EXPECT_EQ(mirror->counts().refills, 20u);
}

// A page that is yet to come, as of a snapshot file, is brought before it is mapped; its neighbours wait until they
// are.
TEST_F(MirrorTest, WhatIsNotThereIsBroughtFirst) {
  make_space(10000);
  mm::test::LatePages late(*memory, kPages);
  mm::Region region;
  region.start = kStart, region.end = kStart + kPages * mm::kPageSize;
  region.prot = kReadWrite, region.max_prot = mm::kAllProt;
  const mm::Extent all{.start = kStart, .frame = late.base(), .pages = kPages};
  ASSERT_TRUE(as->restore(late.layer(), 0x7fff'0000'0000, {&region, 1}, {&all, 1}));
  {
    Thread vcpu(*this, 1);
    const auto page = [](std::uint64_t n) { return kStart + n * mm::kPageSize; };
    for (const std::uint64_t n : {10u, 11u, 20u}) {
      vcpu.wish = {page(n), mm::Access::Read};
      vcpu.round(0);
    }
    EXPECT_EQ(late.brought(), 3u);
    for (std::uint64_t n = 0; n < kPages; ++n)
      EXPECT_EQ(process.shown(page(n)).has_value(), n == 10 || n == 11 || n == 20) << n;
    EXPECT_EQ(mirror->counts().mappings, 2u);
    for (const std::uint64_t n : {10u, 20u}) EXPECT_EQ(excess(page(n)), "");
  }
  tlb.mirror = nullptr;
  mirror.reset();
  as.reset();
  memory.reset();
}

// Permission that was given and taken again before anybody entered is not given late.
TEST_F(MirrorTest, AGainDoesNotOutliveTheNextLoss) {
  set_up(10000);
  Thread vcpu(*this, 1);
  vcpu.wish = {kStart, mm::Access::Write};
  ASSERT_TRUE(as->fault(kStart, mm::Access::Write));
  vcpu.round(0);
  ASSERT_TRUE(as->protect(kStart, mm::kPageSize, kRead));
  vcpu.round(0);
  ASSERT_TRUE(as->protect(kStart, mm::kPageSize, kReadWrite));
  ASSERT_TRUE(as->protect(kStart, mm::kPageSize, kRead));
  vcpu.round(0);
  EXPECT_EQ(excess(kStart), "");
  ASSERT_TRUE(as->unmap(kStart, mm::kPageSize));
  vcpu.round(0);
  EXPECT_FALSE(process.shown(kStart));
}

}  // namespace
}  // namespace ramet::vmm::process
