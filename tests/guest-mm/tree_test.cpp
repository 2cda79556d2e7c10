// Random trees of VMs against a model that is too simple to be wrong: each VM's memory is a full copy of its own. VMs
// are frozen, spawned, reset and ended, change their memory and what is mapped, and devices write into pinned pages.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "guest-mm/pin.hpp"
#include "guest-mm/snapshot.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

constexpr Gva kTreeBase = 0x1000'0000;
constexpr unsigned kTreePages = 2 * 512 + 64;

using Content = std::array<std::byte, kPageSize>;
struct Page {
  std::shared_ptr<Content> content;  // null: not mapped; shared only with what pins it
  Prot prot = Prot::None;
  bool dont_fork = false;
};
using Model = std::vector<Page>;

Model copy_of(const Model& from) {
  Model to = from;
  for (Page& p : to) {
    if (p.dont_fork) p = {};
    else if (p.content) p.content = std::make_shared<Content>(*p.content);
  }
  return to;
}

struct Frozen {
  std::shared_ptr<const Snapshot> snapshot;
  Model model;
};
struct Pinned {
  Pin pin;
  Access access;
  std::vector<std::shared_ptr<Content>> contents;
};
struct Space {
  std::unique_ptr<World> world;
  Model model = Model(kTreePages);
  std::weak_ptr<Frozen> adopted;
  std::vector<Pinned> pins;  // go first
};

class Tree {
 public:
  Tree(Format format, unsigned seed) : format_(format), rng_(seed) {
    config_.eager_accessed_dirty = seed & 1;
    config_.blocks = seed % 3 != 0;
    config_.merge = seed % 5 != 0;
    config_.relaxed_flushes = seed % 7 != 0;
    config_.speculative_faults = seed % 11 != 0;
    config_.many_layers = seed % 4;
    add();
    map(*spaces_[0], 0, kTreePages, kReadWrite);
  }

  void step() {
    ++steps;
    Space& s = *spaces_[roll() % spaces_.size()];
    const auto [start, count] = pick_range();
    switch (roll() % 25) {
      case 0:
      case 1: freeze(s); break;
      case 2:
      case 3: spawn(); break;
      case 4: end_one(); break;
      case 5: reset(s); break;
      case 6: if (!frozen_.empty() && roll() % 2) frozen_.erase(frozen_.begin() + roll() % frozen_.size()); break;
      case 7: map(s, start, count, pick_prot()); break;
      case 8: unmap(s, start, count); break;
      case 9:
      case 10: protect(s, start, count); break;
      case 11: advise(s, start, count); break;
      case 12:
      case 13: pin(s, start, std::min(count, 1 + roll() % 8)); break;
      case 14: if (!s.pins.empty()) s.pins.erase(s.pins.begin() + roll() % s.pins.size()); break;
      case 15:
      case 16:
      case 17: device(s); break;
      case 18: write(s, start, count); break;
      case 19: expect_equal(s); break;
      case 20: move(s, start, std::min(count, kTreePages / 2)); break;
      default:
        for (unsigned i = 0; i < 16; ++i) store(s, roll() % 2 ? roll() % kTreePages : start + roll() % count);
    }
  }

  // Everything ends, children before those they come from, and nothing is left of any of them.
  void finish() {
    for (const auto& s : spaces_) expect_equal(*s);
    for (const auto& s : spaces_) s->pins.clear();
    for (const auto& s : spaces_) expect_equal(*s);
    frozen_.clear();
    while (!spaces_.empty()) {
      spaces_.back()->world->check();
      spaces_.back()->world->check_empty();
      spaces_.pop_back();
    }
  }

  std::uint64_t steps = 0, freezes = 0, spawns = 0, resets = 0, refused = 0, pins = 0;

 private:
  unsigned roll() { return static_cast<unsigned>(rng_()); }
  std::pair<unsigned, unsigned> pick_range() {
    unsigned start = roll() % kTreePages;
    unsigned count = 1 + (roll() % 4 ? roll() % 20 : roll() % 700);
    if (roll() % 8 == 0) start = start / 512 * 512, count = 512;
    return {start, std::min(count, kTreePages - start)};
  }
  Prot pick_prot() {
    constexpr Prot choices[] = {Prot::None, kRead, kReadWrite, kReadWrite, kReadWrite, kReadWrite, kAllProt};
    return choices[roll() % std::size(choices)];
  }
  static Gva at(unsigned page) { return kTreeBase + page * kPageSize; }
  static bool all(const Space& s, unsigned start, unsigned count, auto&& f) {
    return std::all_of(s.model.begin() + start, s.model.begin() + start + count, f);
  }
  static bool mapped(const Page& p) { return p.content != nullptr; }

  Space& add() {
    auto s = std::make_unique<Space>();
    s->world = std::make_unique<World>(format_, World::Options{
        .data = 256 * kMiB, .tables = 8 * kMiB, .config = config_, .space = space_});
    spaces_.push_back(std::move(s));
    return *spaces_.back();
  }

  void freeze(Space& s) {
    if (frozen_.size() > 4) return;
    const auto snapshot = s.world->as->freeze();
    ASSERT_TRUE(snapshot) << describe(snapshot.error());
    frozen_.push_back(std::make_shared<Frozen>(*snapshot, copy_of(s.model)));
    ++freezes;
  }
  void spawn() {
    if (frozen_.empty() || spaces_.size() > 6) return;
    const auto from = frozen_[roll() % frozen_.size()];
    Space& s = add();
    ASSERT_TRUE(s.world->as->adopt(from->snapshot));
    s.model = copy_of(from->model);
    s.adopted = from;
    ++spawns;
  }
  // In any order: children outlive those they come from.
  void end_one() {
    if (spaces_.size() < 2) return;
    const auto which = spaces_.begin() + roll() % spaces_.size();
    (*which)->world->check();
    spaces_.erase(which);
  }
  void reset(Space& s) {
    const auto to = s.adopted.lock();
    if (!to) return;
    const auto done = s.world->as->reset(*to->snapshot);
    if (!s.pins.empty()) {
      ASSERT_EQ(done, Result<>(fail(Error::Pinned)));
      ++refused;
      return;
    }
    ASSERT_TRUE(done) << describe(done.error());
    s.model = copy_of(to->model);
    ++resets;
  }

  void map(Space& s, unsigned start, unsigned count, Prot prot) {
    ASSERT_TRUE(s.world->as->map({.address = at(start), .length = count * kPageSize, .prot = prot, .fixed = true}));
    for (unsigned i = start; i < start + count; ++i) s.model[i] = {std::make_shared<Content>(), prot, false};
  }
  void unmap(Space& s, unsigned start, unsigned count) {
    ASSERT_TRUE(s.world->as->unmap(at(start), count * kPageSize));
    for (unsigned i = start; i < start + count; ++i) s.model[i] = {};
  }
  void protect(Space& s, unsigned start, unsigned count) {
    const Prot prot = pick_prot();
    const bool covered = all(s, start, count, mapped);
    ASSERT_EQ(s.world->as->protect(at(start), count * kPageSize, prot).has_value(), covered);
    for (unsigned i = start; covered && i < start + count; ++i) s.model[i].prot = prot;
  }
  // To where it does not overlap. A part of one region, as mremap(2) wants it.
  void move(Space& s, unsigned start, unsigned count) {
    const unsigned to = roll() % 4 ? roll() % kTreePages : (start + 512) % kTreePages;
    if (to + count > kTreePages || (to < start + count && start < to + count)) return;
    const auto region = s.world->as->find_region(at(start));
    if (!region || region->end < at(start + count)) return;
    const std::uint64_t bytes = count * kPageSize;
    ASSERT_EQ(s.world->as->remap({.address = at(start), .old_length = bytes, .new_length = bytes, .may_move = true,
                                  .fixed = true, .new_address = at(to)}), at(to));
    for (unsigned i = 0; i < count; ++i) s.model[to + i] = std::exchange(s.model[start + i], {});
  }
  void advise(Space& s, unsigned start, unsigned count) {
    constexpr Advice choices[] = {Advice::DontNeed, Advice::DontFork, Advice::DoFork, Advice::Huge, Advice::NoHuge};
    const Advice advice = choices[roll() % std::size(choices)];
    const bool covered = all(s, start, count, mapped);
    ASSERT_EQ(s.world->as->advise(at(start), count * kPageSize, advice).has_value(), covered);
    for (unsigned i = start; i < start + count; ++i) {  // beside holes as well
      if (!mapped(s.model[i])) continue;
      if (advice == Advice::DontNeed) s.model[i].content = std::make_shared<Content>();
      if (advice == Advice::DontFork || advice == Advice::DoFork) s.model[i].dont_fork = advice == Advice::DontFork;
    }
  }

  void store(Space& s, unsigned page) {
    const Page& p = s.model[page];
    const unsigned word = roll() % 512 * 8;
    const std::uint64_t value = rng_();
    const auto done = s.world->cpu(roll() % 2).store(at(page) + word, value);
    const bool permitted = mapped(p) && has(p.prot, Prot::Write);
    const auto not_so = fail(mapped(p) ? Error::NotPermitted : Error::NotMapped);
    ASSERT_EQ(done, permitted ? Result<>() : Result<>(not_so));
    if (done) std::memcpy(p.content->data() + word, &value, 8);
  }
  void write(Space& s, unsigned start, unsigned count) {
    if (!all(s, start, count, [](const Page& p) { return mapped(p) && has(p.prot, Prot::Write); })) return;
    std::vector<std::byte> bytes(count * kPageSize);
    for (std::byte& b : bytes) b = std::byte(roll());
    ASSERT_TRUE(s.world->as->write(at(start), bytes));
    for (unsigned i = 0; i < count; ++i) {
      std::memcpy(s.model[start + i].content->data(), &bytes[i * kPageSize], kPageSize);
    }
  }

  void pin(Space& s, unsigned start, unsigned count) {
    if (s.pins.size() > 5) return;
    const Access access = roll() % 2 ? Access::Write : Access::Read;
    const auto term = roll() % 2 ? AddressSpace::PinTerm::Short : AddressSpace::PinTerm::Long;
    auto pin = s.world->as->pin(at(start), count * kPageSize, access, term);
    const bool permitted = all(s, start, count, [&](const Page& p) { return mapped(p) && permits(p.prot, access); });
    ASSERT_EQ(pin.has_value(), permitted);
    if (!pin) return;
    s.pins.push_back({std::move(*pin), access, {}});
    for (unsigned i = start; i < start + count; ++i) s.pins.back().contents.push_back(s.model[i].content);
    ++pins;
  }
  // What it wrote is the owner's, if the page is still mapped, and nobody else's.
  void device(Space& s) {
    if (s.pins.empty()) return;
    Pinned& p = s.pins[roll() % s.pins.size()];
    std::uint64_t n = 0;
    for (const HostRange& r : p.pin.ranges()) {
      for (std::size_t i = 0; i < r.bytes.size(); i += kPageSize, ++n) {
        std::byte* page = r.bytes.data() + i;
        ASSERT_EQ(std::memcmp(page, p.contents[n]->data(), kPageSize), 0) << "the device sees something else";
        if (p.access != Access::Write) continue;
        const unsigned word = roll() % 512 * 8;
        const std::uint64_t value = rng_();
        std::memcpy(page + word, &value, 8);
        std::memcpy(p.contents[n]->data() + word, &value, 8);
      }
    }
    ASSERT_EQ(n, p.contents.size());
  }

  void expect_equal(Space& s) {
    std::vector<std::byte> bytes;
    const auto readable = [](const Page& p) { return mapped(p) && p.prot != Prot::None; };
    for (unsigned i = 0; i < kTreePages;) {
      unsigned end = i;
      while (end < kTreePages && readable(s.model[end])) ++end;
      bytes.resize((end - i) * kPageSize);
      if (end > i) { ASSERT_TRUE(s.world->as->read(at(i), bytes)); }
      for (std::size_t k = 0; i < end; ++i, k += kPageSize) {
        ASSERT_EQ(std::memcmp(&bytes[k], s.model[i].content->data(), kPageSize), 0) << "page " << i;
      }
      if (i < kTreePages) {
        std::byte b;
        ASSERT_FALSE(s.world->as->read(at(i++), {&b, 1}));
      }
    }
    s.world->check();
  }

  const Format format_;
  AddressSpace::Config config_;
  std::mt19937_64 rng_;
  std::shared_ptr<PhysicalSpace> space_ = std::make_shared<PhysicalSpace>();
  std::vector<std::shared_ptr<Frozen>> frozen_;
  std::vector<std::unique_ptr<Space>> spaces_;  // in the order of their making
};

class Trees : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Trees);

TEST_P(Trees, Everyone_has_the_memory_that_a_full_copy_would_have) {
  // RAMET_SEED=n repeats the first tree of a failed run.
  const char* fixed = std::getenv("RAMET_SEED");
  const unsigned first = fixed ? static_cast<unsigned>(std::strtoul(fixed, nullptr, 10)) : std::random_device{}();
  std::printf("seed %u\n", first);
  std::fflush(stdout);
  std::uint64_t steps = 0, freezes = 0, spawns = 0, resets = 0, refused = 0, pins = 0;
  for (unsigned seed = first; seed != first + (fixed ? 1 : scaled(4, 1)); ++seed) {
    SCOPED_TRACE("RAMET_SEED=" + std::to_string(seed));
    Tree tree(GetParam(), seed);
    for (unsigned i = 0; i < scaled(4000, 500) && !HasFailure(); ++i) tree.step();
    if (HasFailure()) return;
    tree.finish();
    if (HasFailure()) return;
    steps += tree.steps, freezes += tree.freezes, spawns += tree.spawns;
    resets += tree.resets, refused += tree.refused, pins += tree.pins;
  }
  const auto n = [](std::uint64_t count) { return static_cast<unsigned long long>(count); };
  std::printf("%llu steps: %llu freezes, %llu spawns, %llu resets (%llu refused), %llu pins\n", n(steps), n(freezes),
              n(spawns), n(resets), n(refused), n(pins));
}

}  // namespace
}  // namespace ramet::mm::test
