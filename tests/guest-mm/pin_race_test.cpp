// Pins that are taken and let go by threads while others freeze, write and change protection.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/pins.hpp"

namespace ramet::mm::test {
namespace {

RAMET_FOR_EACH_FORMAT(Pins);

using Term = AddressSpace::PinTerm;

// A child would find this under an address of the snapshot.
std::uint64_t in_snapshot(const World& w, const FrozenMemory& snapshot, Format format, Gva at) {
  // Hidden below shared tables (stage 2) is no less there.
  Gpa table = snapshot.root;
  for (int level = 3;; --level) {
    const auto e =
        std::atomic_ref(reinterpret_cast<std::uint64_t*>(w.memory->host(table))[at >> (12 + 9 * level) & 511]).load();
    table = e & (format == Format::X86_64Stage1 ? 0x000ffffffffff000ull : 0x0000fffffffff000ull);
    if (level == 0) break;
  }
  return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(w.memory->host(table) + (at & 0xfff))).load();
}

// The freeze has looked at the pins, and the tables are still as they were: whoever pins now waits, or is seen.
TEST_P(Pins, A_pin_in_the_middle_of_a_freeze_is_of_before_it_or_after_it) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = 0x2000'0000, b = a + 4 * kMiB;
  parent->map_at(a, 8 * kMiB);
  ASSERT_TRUE(parent->as->advise(a, kBlockSize, Advice::Huge));
  ASSERT_TRUE(parent->as->advise(b, kBlockSize, Advice::NoHuge));
  ASSERT_TRUE(parent->cpu().store(a, 1));  // a block, which is split for the pin's sake, and a flush with it
  ASSERT_TRUE(parent->cpu().store(b, 1));
  const auto pin = *parent->as->pin(a, kPageSize, Access::Write, Term::Short);
  std::thread pinner;
  std::atomic<bool> got{false};
  Pin late;
  parent->tlb.before_flush = [&] {
    if (pinner.joinable()) return;
    pinner = std::thread([&] {
      late = *parent->as->pin(b, kPageSize, Access::Write, Term::Short);
      got = true;
    });
    // It is not to get it now. If it only was slow, the outcome is the same.
    for (unsigned i = 0; i < 50 && !got; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  auto child = g.child(*parent->as->freeze());
  ASSERT_TRUE(pinner.joinable());
  pinner.join();
  parent->tlb.before_flush = nullptr;
  dma_write(late, 0, 2);
  EXPECT_EQ(parent->cpu().load(b), 2u);
  EXPECT_EQ(child->cpu().load(b), 1u);
  parent->check();
  child->check();
}

TEST_P(Pins, No_snapshot_changes_however_pins_and_freezes_fall_together) {
  Genet g(GetParam(), {.blocks = false});
  auto w = g.make();
  const Gva a = w->map(2 * kPageSize);
  ASSERT_TRUE(w->cpu().store(a, 1));
  ASSERT_TRUE(w->cpu().store(a + kPageSize, 1));
  std::atomic<bool> done{false};
  std::thread device([&] {
    for (std::uint64_t n = 1; !done; ++n) {
      const Gva page = a + n % 2 * kPageSize;
      auto pin = w->as->pin(page, kPageSize, Access::Write, Term::Short);
      ASSERT_TRUE(pin);
      for (unsigned i = 0; i < 3; ++i) dma_write(*pin, 0, n * 4 + i);
    }
  });
  for (unsigned i = 0; i < scaled(20000, 1000); ++i) {
    const auto snapshot = *w->as->freeze();
    for (const Gva page : {a, a + kPageSize}) {
      const std::uint64_t before = in_snapshot(*w, *snapshot, GetParam(), page);
      for (unsigned k = 0; k < 20; ++k)
        ASSERT_EQ(in_snapshot(*w, *snapshot, GetParam(), page), before) << "freeze " << i;
    }
  }
  done = true;
  device.join();
  w->check();
}

// Pages of one VM in which two devices and the owner count up, each in a word of its own of each page.
class Counted {
 public:
  // The device of each page writes at `device`, the owner at `owner`.
  Counted(World& of, std::uint64_t pages, unsigned device, unsigned owner)
      : world(of), pages_(pages), device_(device), owner_(owner), start_(of.map(pages * kPageSize)),
        by_device_(pages, 0), by_owner_(pages, 0) {
    for (std::uint64_t i = 0; i < pages; ++i) EXPECT_TRUE(world.cpu().store(page(i), 1));
  }
  Gva page(std::uint64_t i) const { return start_ + i * kPageSize; }
  std::uint64_t pages() const { return pages_; }
  Gva word(std::size_t k) const { return page(k / 2) + (k % 2 ? owner_ : device_); }  // all words, one after the other
  std::size_t words() const { return 2 * pages_; }

  // `pin`: of a page and by a random number; none where it is read-only just now.
  template <class MakePin>
  void start(unsigned most_writes, MakePin make_pin) {
    for (unsigned t = 0; t < 2; ++t) threads_.emplace_back([=, this] { run_device(t, most_writes, make_pin); });
    threads_.emplace_back([this] { run_owner(); });
  }
  // Nothing that was counted is lost.
  void stop() {
    done_ = true;
    for (auto& t : threads_) t.join();
    EXPECT_GT(pins_, 0u);
    for (std::uint64_t i = 0; i < pages_; ++i) {
      EXPECT_EQ(world.cpu().load(page(i) + device_), by_device_[i]);
      EXPECT_EQ(world.cpu().load(page(i) + owner_), by_owner_[i]);
      EXPECT_EQ(world.cpu().load(page(i)), 1u);
    }
  }

  World& world;

 private:
  template <class MakePin>
  void run_device(unsigned t, unsigned most_writes, MakePin make_pin) {
    std::mt19937 random(t);
    while (!done_) {
      const std::uint64_t i = random() % (pages_ / 2) * 2 + t;
      auto pin = make_pin(page(i), random);
      if (!pin) {
        ASSERT_EQ(pin.error(), Error::NotPermitted);
        continue;
      }
      ++pins_;
      for (auto n = random() % most_writes; n > 0; --n) {
        dma_write(*pin, device_, ++by_device_[i]);
        ASSERT_EQ(dma_read(*pin, device_), by_device_[i]);
        if (n % 8 == 0) std::this_thread::yield();
      }
      pin = Pin();
      ASSERT_EQ(world.cpu(1 + t).load(page(i) + device_), by_device_[i]);
    }
  }
  void run_owner() {
    std::mt19937 random(7);
    while (!done_) {
      const std::uint64_t i = random() % pages_;
      const auto stored = world.cpu(3).store(page(i) + owner_, by_owner_[i] + 1);
      if (stored) ++by_owner_[i];
      else ASSERT_EQ(stored.error(), Error::NotPermitted);
      ASSERT_EQ(world.cpu(3).load(page(i) + owner_), by_owner_[i]);
    }
  }

  const std::uint64_t pages_;
  const unsigned device_, owner_;
  const Gva start_;
  std::vector<std::uint64_t> by_device_, by_owner_;
  std::atomic<bool> done_{false};
  std::atomic<std::uint64_t> pins_{0};
  std::vector<std::thread> threads_;
};

// All of it at once, 100,000 freezes in the three formats together: devices that pin, write and unpin, an owner that
// writes, pages that turn read-only and back, and children. No step is lost; in a snapshot nothing is older than in the
// one before, and nothing changes.
TEST_P(Pins, A_hundred_thousand_freezes_while_devices_write) {
  Genet g(GetParam(), {.blocks = false});
  auto parent = g.make(4);
  Counted counted(*parent, 6, 64, 128);
  counted.start(16, [&](Gva page, std::mt19937& random) {
    const Access access = random() % 2 ? Access::Write : Access::Read;
    return parent->as->pin(page, kPageSize, access, random() % 8 ? Term::Short : Term::Long);
  });
  std::mt19937 random(11);
  std::vector<std::uint64_t> last(counted.words(), 0);
  std::shared_ptr<const FrozenMemory> before;
  const auto word = [&](const FrozenMemory& s, std::size_t k) {
    return in_snapshot(*parent, s, GetParam(), counted.word(k));
  };
  const unsigned freezes = scaled(33'400, 600);
  for (unsigned n = 0; n < freezes && !HasFatalFailure(); ++n) {
    if (random() % 8 == 0) {
      const Gva page = counted.page(random() % counted.pages());
      ASSERT_TRUE(parent->as->protect(page, kPageSize, random() % 3 ? kReadWrite : kRead));
    }
    const auto snapshot = *parent->as->freeze();
    for (std::size_t k = 0; k < last.size(); ++k) {
      if (before) {
        ASSERT_EQ(word(*before, k), last[k]) << "the snapshot before changed";
      }
      const std::uint64_t now = word(*snapshot, k);
      ASSERT_GE(now, last[k]) << "the parent lost something";
      last[k] = now;
    }
    if (n % 256 == 0) {
      auto child = g.child(snapshot);
      for (std::size_t k = 0; k < last.size(); ++k) ASSERT_EQ(child->cpu().load(counted.word(k)), last[k]);
      for (std::uint64_t i = 0; i < counted.pages(); ++i) (void)child->cpu().store(counted.page(i), n);  // or read-only
      ASSERT_EQ(child->as->audit(), "");
    }
    before = random() % 2 ? snapshot : nullptr;
    for (std::size_t k = 0; k < last.size(); ++k) ASSERT_EQ(word(*snapshot, k), last[k]);
  }
  counted.stop();
  EXPECT_EQ(parent->as->counters().freezes, freezes);
  before.reset();
  parent->check();
  parent->check_empty();
}

// Devices write into pages that come and go, threads write beside them, and the VM is frozen all the while. Neither
// loses a step, and no child sees one change.
TEST_P(Pins, Pins_race_with_freezes_writes_and_changes_of_protection) {
  Genet g(GetParam());
  auto parent = g.make(4);
  Counted counted(*parent, 32, 64, 128);
  counted.start(40, [&](Gva page, std::mt19937& random) {
    return parent->as->pin(page, kPageSize, random() % 2 ? Access::Write : Access::Read, Term::Short);
  });
  for (unsigned round = 0; round < scaled(200, 40); ++round) {
    auto snapshot = *parent->as->freeze();
    auto child = g.child(snapshot);
    snapshot.reset();
    std::vector<std::uint64_t> seen;
    for (unsigned pass = 0; pass < 3; ++pass) {
      for (std::size_t k = 0; k < counted.words(); ++k) {
        const std::uint64_t now = *child->cpu().load(counted.word(k));
        if (pass == 0) seen.push_back(now);
        else ASSERT_EQ(now, seen[k]) << "a child's page changed";
      }
      std::this_thread::yield();
    }
    ASSERT_EQ(child->as->audit(), "");
  }
  counted.stop();
  parent->check();
  parent->check_empty();
}

}  // namespace
}  // namespace ramet::mm::test
