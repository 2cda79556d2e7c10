// Pins: memory that a device writes or reads while its VM is frozen, forked, protected, moved and unmapped.
#include <gtest/gtest.h>

#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/pins.hpp"

namespace ramet::mm::test {
namespace {

using Term = AddressSpace::PinTerm;

TEST_P(Pins, A_device_writes_to_the_parent_and_to_nobody_else) {
  for (const bool blocks : {false, true}) {
    Genet g(GetParam(), {.blocks = blocks});
    auto parent = g.make();
    const Gva a = parent->map(4 * kMiB);
    for (Gva at = a; at < a + 4 * kMiB; at += kPageSize) ASSERT_TRUE(parent->cpu().store(at, at));
    auto pin = parent->as->pin(a + 0x5000, 0x3000, Access::Write, Term::Short);
    ASSERT_TRUE(pin);
    dma_write(*pin, 0, 1);
    auto child = g.child(*parent->as->freeze());
    dma_write(*pin, 0x1000, 2);  // the DMA goes on
    EXPECT_TRUE(parent->cpu().store(a + 0x5008, 3));
    EXPECT_TRUE(parent->cpu().store(a + 0x8000, 3));
    dma_write(*pin, 0x2000, 4);
    EXPECT_EQ(parent->cpu(1).load(a + 0x5000), 1u);
    EXPECT_EQ(parent->cpu(1).load(a + 0x6000), 2u);
    EXPECT_EQ(parent->cpu(1).load(a + 0x7000), 4u);
    EXPECT_EQ(dma_read(*pin, 8), 3u);
    EXPECT_EQ(child->cpu().load(a + 0x5000), 1u);
    EXPECT_EQ(child->cpu().load(a + 0x5008), 0u);
    EXPECT_EQ(child->cpu().load(a + 0x6000), a + 0x6000);
    EXPECT_EQ(child->cpu().load(a + 0x7000), a + 0x7000);
    EXPECT_EQ(child->cpu().load(a + 0x8000), a + 0x8000);
    EXPECT_EQ(parent->as->counters().pages_copied_pinned, 3u);
    EXPECT_TRUE(child->cpu().store(a + 0x5000, 9));
    EXPECT_EQ(parent->cpu().load(a + 0x5000), 1u);
    parent->check();
    child->check();
    child.reset();
    pin = Pin();
    for (Gva at = a; at < a + 4 * kMiB; at += kPageSize) ASSERT_TRUE(parent->cpu().store(at, at));
    parent->check();
    parent->check_empty();
  }
}

// Whoever asks, and whatever it is about to write there: the books are arrays, and memory lies behind them.
TEST(PinBooks, Frames_of_another_bank_have_no_place_in_the_books) {
  const auto bank = *Bank::anonymous(Gpa{1} << 30, kBlockSize);
  auto book = *PinBook::create(*bank);
  std::vector<Gpa> freed;
  book->freed = [&](Gpa first, std::uint64_t) { freed.push_back(first); };
  for (const Gpa foreign :
       {Gpa{0}, bank->base() - kPageSize, bank->end(), bank->end() + (Gpa{1} << 40), ~Gpa{0} & ~0xfff}) {
    const PinHold hold = book->hold(foreign, 0x5000, 3);
    EXPECT_EQ(book->total(), foreign + 3 * kPageSize > bank->base() && foreign < bank->end() ? 2 : 0);
    EXPECT_FALSE(book->pinned(foreign));
    EXPECT_FALSE(book->ever(foreign));
    EXPECT_EQ(book->last_place(foreign), std::nullopt);
    book->free(foreign, 1);
  }
  book->free(bank->end() - kPageSize, 2);
  EXPECT_TRUE(freed.empty());
  EXPECT_EQ(book->total(), 0);
  const PinHold own = book->hold(bank->end() - kPageSize, 0x5000, 3);
  EXPECT_EQ(book->total(), 1);
  EXPECT_EQ(book->last_place(bank->end() - kPageSize), Gva{0x5000});
}

// The damage that the technique is for.
TEST_P(Pins, Without_the_technique_the_parent_loses_what_the_device_writes_and_the_child_gets_it) {
  Genet g(GetParam(), {.pinned_cow = false});
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  const auto pin = *parent->as->pin(a, kPageSize, Access::Write, Term::Short);
  auto child = g.child(*parent->as->freeze());
  ASSERT_TRUE(parent->cpu().store(a + 8, 1));  // copies the page away from the device
  dma_write(pin, 0, 2);
  EXPECT_EQ(parent->cpu().load(a), 1u);
  EXPECT_EQ(child->cpu().load(a), 2u);
}

TEST_P(Pins, A_device_that_reads_sees_what_the_owner_writes_later) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  auto first = g.child(*parent->as->freeze());  // the page is shared when it is pinned
  const auto pin = *parent->as->pin(a, 2 * kPageSize, Access::Read, Term::Short);
  ASSERT_TRUE(parent->cpu().store(a, 2));
  EXPECT_EQ(dma_read(pin, 0), 2u);
  auto second = g.child(*parent->as->freeze());
  ASSERT_TRUE(parent->cpu().store(a, 3));
  ASSERT_TRUE(parent->cpu().store(a + kPageSize, 4));  // nothing was there
  EXPECT_EQ(dma_read(pin, 0), 3u);
  EXPECT_EQ(dma_read(pin, kPageSize), 4u);
  EXPECT_EQ(first->cpu().load(a), 1u);
  EXPECT_EQ(second->cpu().load(a), 2u);
  parent->check();
}

TEST_P(Pins, A_device_that_reads_what_its_owner_may_not_write_sees_it_written_later) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  ASSERT_TRUE(parent->as->protect(a, kMiB, kRead));
  auto child = g.child(*parent->as->freeze());
  const auto pin = *parent->as->pin(a, kPageSize, Access::Read, Term::Short);
  ASSERT_TRUE(parent->as->protect(a, kMiB, kReadWrite));
  ASSERT_TRUE(parent->cpu().store(a, 2));
  EXPECT_EQ(dma_read(pin, 0), 2u);
  EXPECT_EQ(child->cpu().load(a), 1u);
  parent->check();
}

TEST_P(Pins, Read_only_by_mprotect_makes_no_difference) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  ASSERT_TRUE(parent->cpu().store(a + kPageSize, 1));
  const auto pin = *parent->as->pin(a, 2 * kPageSize, Access::Write, Term::Short);
  ASSERT_TRUE(parent->as->protect(a, kPageSize, kRead));
  ASSERT_TRUE(parent->as->protect(a + kPageSize, kPageSize, Prot::None));
  auto child = g.child(*parent->as->freeze());
  ASSERT_TRUE(parent->as->protect(a, 2 * kPageSize, kReadWrite));
  ASSERT_TRUE(child->as->protect(a, 2 * kPageSize, kReadWrite));
  ASSERT_TRUE(parent->cpu().store(a + 8, 5));
  ASSERT_TRUE(parent->cpu().store(a + kPageSize + 8, 5));
  dma_write(pin, 0, 2);
  dma_write(pin, kPageSize, 2);
  for (const Gva at : {a, a + kPageSize}) {
    EXPECT_EQ(parent->cpu().load(at), 2u);
    EXPECT_EQ(child->cpu().load(at), 1u);
    EXPECT_EQ(child->cpu().load(at + 8), 0u);
  }
  EXPECT_EQ(dma_read(pin, 8), 5u);
  parent->check();
  child->check();
}

TEST_P(Pins, A_pinned_frame_is_nobody_elses_until_it_is_let_go) {
  World w(GetParam(), {.data = 2 * kMiB, .config = {.blocks = false, .around_pages = 1}});
  const Gva a = w.map(kMiB);
  ASSERT_TRUE(w.cpu().store(a, 1));
  auto pin = *w.as->pin(a, kPageSize, Access::Write, Term::Short);
  auto again = *w.as->pin(a, kPageSize, Access::Read, Term::Short);
  ASSERT_TRUE(w.as->unmap(a, kPageSize));
  w.check();
  const Gva b = w.map(4 * kMiB);
  Gva end = b;
  while (w.cpu().store(end, 5)) end += kPageSize;
  EXPECT_EQ((end - b) / kPageSize, 511u);  // all frames but one
  dma_write(pin, 0, 7);
  for (Gva at = b; at < end; at += kPageSize) ASSERT_EQ(w.cpu().load(at), 5u);
  pin = Pin();
  EXPECT_FALSE(w.cpu().store(end, 5));
  again = Pin();
  EXPECT_TRUE(w.cpu().store(end, 5));
  w.check();
  w.check_empty();
}

TEST_P(Pins, A_pinned_page_that_moved_is_found) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  const auto pin = *parent->as->pin(a, kPageSize, Access::Write, Term::Short);
  const Gva to = 0x5000'0000'0000;
  ASSERT_TRUE(parent->as->remap(
      {.address = a, .old_length = kMiB, .new_length = kMiB, .may_move = true, .fixed = true, .new_address = to}));
  auto child = g.child(*parent->as->freeze());
  dma_write(pin, 0, 2);
  ASSERT_TRUE(parent->cpu().store(to + 8, 1));
  EXPECT_EQ(parent->cpu().load(to), 2u);
  EXPECT_EQ(child->cpu().load(to), 1u);
  parent->check();
}

TEST_P(Pins, A_freeze_that_cannot_copy_fails_and_changes_nothing) {
  Genet g(GetParam(), {.blocks = false});
  World w(GetParam(), {.data = 2 * kMiB, .config = g.config, .space = g.space});
  const Gva a = w.map(2 * kMiB);
  for (Gva at = a; at < a + 2 * kMiB - kPageSize; at += kPageSize) ASSERT_TRUE(w.cpu().store(at, at));
  const auto pin = *w.as->pin(a, 4 * kPageSize, Access::Write, Term::Short);
  EXPECT_EQ(w.as->freeze().error(), Error::NoMemory);
  ASSERT_TRUE(w.cpu().store(a, 1));
  dma_write(pin, 8, 2);
  EXPECT_EQ(w.cpu().load(a + 8), 2u);
  EXPECT_EQ(w.as->counters().pages_copied, 0u);
  w.check();
}

// How many tables can be had is known when they have been: the bank has more, and the machine has no room for them.
TEST_P(Pins, A_freeze_of_pinned_memory_fails_before_anything_is_sealed_whatever_the_number_of_tables_left) {
  unsigned failed = 0, made = 0;
  for (unsigned left = 0; left < 8; ++left) {
    const auto space = std::make_shared<PhysicalSpace>();
    FullMachine machine;
    World w(GetParam(), {.tables = 16 * kMiB, .space = space});
    ASSERT_TRUE(w.memory->observe(machine));
    const Gva a = w.map(kMiB);
    ASSERT_TRUE(w.cpu().store(a, 1));
    const auto pin = *w.as->pin(a, kPageSize, Access::Write, Term::Short);
    machine.refuse = [](const Bank&) { return true; };
    const Gva from = 0x7000'0000'0000;
    Gva at = from;
    for (;; at += kBlockSize) {  // each page in a table of its own
      w.map_at(at, kPageSize, kRead);
      if (!w.cpu().load(at)) break;
    }
    EXPECT_GT(at, from + 100 * kBlockSize);
    ASSERT_TRUE(w.as->unmap(at - left * kBlockSize, (left + 1) * kBlockSize));
    const auto snapshot = w.as->freeze();
    if (snapshot) {
      ++made;
      machine.refuse = {};
      World child(GetParam(), {.tables = 16 * kMiB, .space = space});
      ASSERT_TRUE(child.as->adopt(*snapshot));
      dma_write(pin, 0, 2);
      EXPECT_EQ(child.cpu().load(a), 1u);
      EXPECT_EQ(w.cpu().load(a), 2u);
      child.check();
    } else {
      ++failed;
      EXPECT_EQ(snapshot.error(), Error::NoMemory);
      ASSERT_TRUE(w.cpu().store(a, 3));
      EXPECT_EQ(dma_read(pin, 0), 3u);
      EXPECT_EQ(w.as->counters().pages_copied_pinned, 0u);
    }
    w.check();
  }
  EXPECT_GT(failed, 0u);
  EXPECT_GT(made, 0u);
}

TEST_P(Pins, What_was_pinned_when_a_child_was_made_is_pinned_again_while_the_child_lives) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  auto pin = *parent->as->pin(a, kPageSize, Access::Write, Term::Short);
  auto child = g.child(*parent->as->freeze());
  const std::byte* where = as_device(pin.ranges()[0]);
  pin = Pin();
  pin = *parent->as->pin(a, kPageSize, Access::Write, Term::Short);
  EXPECT_EQ(as_device(pin.ranges()[0]), where);  // no child has seen it: no copy
  dma_write(pin, 0, 2);
  EXPECT_EQ(parent->cpu().load(a), 2u);
  EXPECT_EQ(child->cpu().load(a), 1u);
  auto second = g.child(*parent->as->freeze());
  pin = Pin();
  auto third = g.child(*parent->as->freeze());  // which is shown the frame
  pin = *parent->as->pin(a, kPageSize, Access::Write, Term::Short);
  dma_write(pin, 0, 3);
  EXPECT_EQ(parent->cpu().load(a), 3u);
  EXPECT_EQ(second->cpu().load(a), 2u);
  EXPECT_EQ(third->cpu().load(a), 2u);
  parent->check();
}

// It is still writable, as no child has seen it; writing beside it in order copies up to it, and goes on behind it.
TEST_P(Pins, A_page_that_was_pinned_when_a_child_was_made_is_no_obstacle_to_copies) {
  Genet g(GetParam(), {.blocks = false, .eager_accessed_dirty = false});
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  for (Gva at = a; at < a + kMiB; at += kPageSize) ASSERT_TRUE(parent->cpu().store(at, 1));
  auto pin = *parent->as->pin(a + 5 * kPageSize, kPageSize, Access::Write, Term::Short);
  auto child = g.child(*parent->as->freeze());
  pin = Pin();
  for (Gva at = a; at < a + kMiB; at += kPageSize) ASSERT_TRUE(parent->cpu().store(at, 2));
  EXPECT_EQ(parent->as->counters().pages_copied, kMiB / kPageSize - 1);
  for (Gva at = a; at < a + kMiB; at += kPageSize) ASSERT_EQ(child->cpu().load(at), 1u);
  parent->check();
  child->check();
}

TEST_P(Pins, What_is_pinned_for_long_is_in_no_childs_memory) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB);
  for (Gva at = a; at < a + 4 * kMiB; at += kPageSize) ASSERT_TRUE(parent->cpu().store(at, at));
  const Gva pinned = a + kBlockSize - 3 * kPageSize;  // in two tables
  auto pin = *parent->as->pin(pinned, 6 * kPageSize, Access::Write, Term::Long);
  EXPECT_EQ(parent->as->counters().pages_moved_pinned, 6u);
  dma_write(pin, 0, 1);
  auto child = g.child(*parent->as->freeze());
  dma_write(pin, 0, 2);
  for (Gva at = pinned; at < pinned + 6 * kPageSize; at += kPageSize) {
    const Gpa frame = parent->tlb.walk(at, [](Gpa, unsigned, std::uint64_t) {})->gpa;
    EXPECT_EQ(child->memory->host(frame), nullptr);
    EXPECT_EQ(child->cpu().load(at), at == pinned ? 1u : at);
  }
  EXPECT_EQ(parent->cpu().load(pinned), 2u);
  // Pinned no more, it is there still, and so it is copied for children.
  pin = Pin();
  auto second = g.child(*parent->as->freeze());
  ASSERT_TRUE(parent->cpu().store(pinned, 3));
  EXPECT_EQ(second->cpu().load(pinned), 2u);
  EXPECT_EQ(second->memory->host(parent->tlb.walk(pinned, [](Gpa, unsigned, std::uint64_t) {})->gpa), nullptr);
  for (World* w : {parent.get(), child.get(), second.get()}) w->check();
  second.reset();
  child.reset();
  parent->check_empty();
}

TEST_P(Pins, What_is_pinned_already_does_not_move) {
  Genet g(GetParam());
  auto w = g.make();
  const Gva a = w->map(kMiB);
  ASSERT_TRUE(w->cpu().store(a, 1));
  const auto brief = *w->as->pin(a, kPageSize, Access::Write, Term::Short);
  const auto lasting = *w->as->pin(a, 2 * kPageSize, Access::Write, Term::Long);
  EXPECT_EQ(w->as->counters().pages_moved_pinned, 1u);
  EXPECT_EQ(as_device(lasting.ranges()[0]), as_device(brief.ranges()[0]));
  dma_write(brief, 0, 2);
  EXPECT_EQ(w->cpu().load(a), 2u);
  w->check();
}

// Nothing has to be closed to writes there, so that what was split for the pages has merged again before they move.
TEST_P(Pins, A_part_of_a_block_that_nobody_may_write_is_moved_page_by_page) {
  Genet g(GetParam());
  auto w = g.make();
  const Gva a = 0x2000'0000;
  constexpr unsigned kPages = 9;
  w->map_at(a, kBlockSize);
  ASSERT_TRUE(w->as->advise(a, kBlockSize, Advice::Huge));
  for (unsigned i = 0; i < 2 * kPages; ++i) ASSERT_TRUE(w->cpu().store(a + i * kPageSize, i + 1));
  ASSERT_TRUE(w->as->protect(a, kBlockSize, kRead));
  {
    const auto pin = w->as->pin(a, kPages * kPageSize, Access::Read, Term::Long);
    ASSERT_TRUE(pin);
    EXPECT_EQ(w->as->counters().pages_moved_pinned, kPages);
    for (unsigned i = 0; i < kPages; ++i) EXPECT_EQ(dma_read(*pin, i * kPageSize), i + 1);
  }
  for (unsigned i = 0; i < 2 * kPages; ++i) EXPECT_EQ(w->cpu().load(a + i * kPageSize), i + 1);
  w->check_empty();
}

// Tables and blocks change places around it; the frame stays.
TEST_P(Pins, A_block_with_a_pinned_page_splits_and_merges_in_place) {
  Genet g(GetParam());
  auto w = g.make();
  const Gva a = 0x2000'0000;
  w->map_at(a, kBlockSize);
  ASSERT_TRUE(w->as->advise(a, kBlockSize, Advice::Huge));
  ASSERT_TRUE(w->cpu().store(a, 1));
  const auto pin = *w->as->pin(a + 0x5000, kPageSize, Access::Write, Term::Short);
  for (std::uint64_t round = 1; round < 4; ++round) {
    ASSERT_TRUE(w->as->split(a, kBlockSize, arch::Level::Pte));
    dma_write(pin, 0, 2 * round);
    EXPECT_EQ(w->cpu().load(a + 0x5000), 2 * round);
    EXPECT_EQ(w->as->merge(a, kBlockSize), 1u);
    dma_write(pin, 0, 2 * round + 1);
    EXPECT_EQ(w->cpu().load(a + 0x5000), 2 * round + 1);
  }
  w->check();
}

// A pinned page is the owner's alone, the pages around it are the child's as well: one leaf cannot say both.
TEST_P(Pins, A_block_of_which_children_see_all_but_a_pinned_page_stays_in_small_pages) {
  for (const Gva pinned : {0ull, 0x5000ull}) {
    Genet g(GetParam());
    auto parent = g.make();
    const Gva a = parent->map_at(0x4000'0000, kBlockSize);
    for (Gva at = a; at < a + kBlockSize; at += kPageSize) ASSERT_TRUE(parent->cpu().store(at, 1));
    ASSERT_TRUE(parent->as->advise(a, kBlockSize, Advice::Huge));
    ASSERT_TRUE(parent->as->protect(a, kBlockSize, kRead));
    auto pin = *parent->as->pin(a + pinned, kPageSize, Access::Read, Term::Short);
    auto child = g.child(*parent->as->freeze());
    ASSERT_TRUE(parent->as->protect(a, kBlockSize, Prot::None));
    ASSERT_TRUE(parent->as->protect(a, kBlockSize, kRead));
    ASSERT_TRUE(parent->as->protect(a, kBlockSize, kReadWrite));
    for (const Gva page : {0x7000ull, 0x5000ull, 0ull}) {
      ASSERT_TRUE(parent->cpu().store(a + page, 2));
      EXPECT_EQ(child->cpu().load(a + page), 1u) << page;
    }
    EXPECT_EQ(dma_read(pin, 0), 2u);
    parent->check();
    child->check();
    pin = Pin();
    child.reset();
    ASSERT_TRUE(parent->as->protect(a, kBlockSize, kRead));
    parent->check();
    parent->check_empty();
  }
}

TEST_P(Pins, Arguments_that_make_no_sense_are_refused) {
  World w(GetParam());
  const Gva a = w.map(kMiB), r = w.map(kMiB, kRead);
  EXPECT_EQ(w.as->pin(a, 0, Access::Read, Term::Short).error(), Error::NotMapped);
  EXPECT_EQ(w.as->pin(a, ~0ull, Access::Read, Term::Short).error(), Error::NotMapped);
  EXPECT_EQ(w.as->pin(~0xfffull, kPageSize, Access::Read, Term::Short).error(), Error::NotMapped);
  EXPECT_EQ(w.as->pin(r, kPageSize, Access::Write, Term::Short).error(), Error::NotPermitted);
  EXPECT_EQ(w.as->pin(0x6000'0000'0000, kPageSize, Access::Write, Term::Short).error(), Error::NotMapped);
  w.check();
  w.check_empty();
}

}  // namespace
}  // namespace ramet::mm::test
