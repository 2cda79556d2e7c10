// Random operations against a model that is too simple to be wrong: for each page, whether it is mapped,
// its protection, and the word stored in it.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

constexpr Gva kBase = 0x1000'0000;
constexpr unsigned kUsedPages = 8 * 512;
constexpr std::uint64_t kWordOffset = 0x128;  // of the word looked at in each page

struct ModelPage {
  bool mapped = false;
  Prot prot = Prot::None;
  std::uint64_t word = 0;
};

class Schedule {
 public:
  Schedule(Format format, unsigned seed)
      : world(format, {.data = 64 * kMiB, .vcpus = 3, .config = config(seed), .flags_by_fault = (seed >> 1 & 1) != 0}),
        rng(seed), model(kUsedPages) {}

  // Every combination of what may be switched off, over the seeds.
  static AddressSpace::Config config(unsigned seed) {
    AddressSpace::Config c;
    c.eager_accessed_dirty = seed & 1;
    c.merge = seed % 5 != 0;
    c.relaxed_flushes = seed % 7 != 0;
    c.speculative_faults = seed % 11 != 0;
    return c;
  }

  void step() {
    const auto [start, count] = pick_range();
    const Gva at = kBase + start * kPageSize;
    const std::uint64_t length = count * kPageSize;
    const bool covered = all(start, count, [](const ModelPage& p) { return p.mapped; });
    const auto unless = [](bool ok, Error e) { return ok ? Result<>() : Result<>(fail(e)); };
    ++steps;
    switch (roll() % 18) {
      case 0:
      case 1: {
        const Prot prot = pick_prot();
        ASSERT_TRUE(
            world.as->map({.address = at, .length = length, .prot = prot, .fixed = true, .populate = roll() % 8 == 0}));
        each(start, count, [&](ModelPage& p) { p = {true, prot, 0}; });
        break;
      }
      case 2:
        ASSERT_TRUE(world.as->unmap(at, length));
        each(start, count, [](ModelPage& p) { p = {}; });
        break;
      case 3:
      case 4:
      case 5: {
        const Prot prot = pick_prot();
        ASSERT_EQ(world.as->protect(at, length, prot), unless(covered, Error::NotMapped));
        bool hole = false;  // up to the first
        each(start, count, [&](ModelPage& p) {
          hole = hole || !p.mapped;
          if (!hole) p.prot = prot;
        });
        break;
      }
      case 6:
        ASSERT_EQ(world.as->advise(at, length, roll() % 2 ? Advice::DontNeed : Advice::Free),
                  unless(covered, Error::NotMapped));
        each(start, count, [](ModelPage& p) { p.word = 0; });  // beside holes as well
        break;
      case 7: move(start, count); break;
      case 8: transfer(start, count); break;
      case 9: ASSERT_TRUE(world.as->split(at, length, arch::Level::Pte)); break;
      case 10: world.as->merge(at, length); break;
      default:
        steps += 16;
        for (int i = 0; i < 8; ++i) access(roll() % kUsedPages);
        for (int i = 0; i < 8; ++i) access(start + roll() % count);
    }
  }

  void finish() {
    for (unsigned i = 0; i < kUsedPages; ++i) access(i);
    world.check();
    world.check_empty();
  }

  World world;
  std::uint64_t steps = 0;  // operations and accesses

 private:
  std::pair<unsigned, unsigned> pick_range() {
    unsigned start = roll() % kUsedPages;
    unsigned count = 1 + (roll() % 4 ? roll() % 40 : roll() % 1500);
    if (roll() % 4 == 0) {  // whole blocks
      start = start / 512 * 512;
      count = (count + 511) / 512 * 512;
    }
    return {start, std::min(count, kUsedPages - start)};
  }
  Prot pick_prot() {
    constexpr Prot choices[] = {Prot::None, kRead, kReadWrite, kReadWrite, kReadWrite, kReadExec, kAllProt};
    return choices[roll() % std::size(choices)];
  }
  template <class F>
  void each(unsigned start, unsigned count, F f) {
    for (unsigned i = start; i < start + count; ++i) f(model[i]);
  }
  template <class F>
  bool all(unsigned start, unsigned count, F f) {
    for (unsigned i = start; i < start + count; ++i) {
      if (!f(model[i])) return false;
    }
    return true;
  }
  static bool may(const ModelPage& p, Access a) {
    return a == Access::Read ? p.prot != Prot::None : has(p.prot, needed(a));
  }

  // One access by a random vCPU to the word of a page.
  void access(unsigned i) {
    ModelPage& p = model[i];
    const Gva at = kBase + i * kPageSize + kWordOffset;
    FakeVcpu& cpu = world.cpu(roll() % 3);
    const Access a = Access(roll() % 3);
    const auto expected_error = !p.mapped ? Error::NotMapped : Error::NotPermitted;
    const bool ok = p.mapped && may(p, a);
    if (a == Access::Write) {
      const std::uint64_t value = ++counter * 0x9e3779b97f4a7c15;
      ASSERT_EQ(cpu.store(at, value), ok ? Result<>() : Result<>(fail(expected_error))) << "page " << i;
      if (ok) p.word = value;
    } else {
      const auto got = a == Access::Read ? cpu.load(at) : cpu.fetch(at);
      ASSERT_EQ(got, ok ? Result<std::uint64_t>(p.word) : fail(expected_error)) << "page " << i;
    }
  }

  // mremap to a fixed place that does not overlap.
  void move(unsigned start, unsigned count) {
    const unsigned to = roll() % 2 ? roll() % kUsedPages : (roll() % 8) * 512 + start % 512;
    const unsigned new_count = roll() % 4 ? count : 1 + roll() % (2 * count);
    if (to + new_count > kUsedPages || (to < start + count && start < to + new_count)) return;
    const ModelPage first = model[start];
    const bool one = first.mapped &&
                     all(start, count, [&](const ModelPage& p) { return p.mapped && p.prot == first.prot; });
    const bool stay = new_count == count && roll() % 4 == 0;
    const Gva target = kBase + to * kPageSize;
    const auto moved = world.as->remap({.address = kBase + start * kPageSize,
                                        .old_length = count * kPageSize,
                                        .new_length = new_count * kPageSize,
                                        .may_move = true,
                                        .fixed = true,
                                        .dont_unmap = stay,
                                        .new_address = target});
    ASSERT_EQ(moved, one ? Result<Gva>(target) : fail(Error::NotMapped));
    if (!one) return;
    for (unsigned i = 0; i < new_count; ++i) {
      model[to + i] = {true, first.prot, i < count ? model[start + i].word : 0};
    }
    each(start, count, [&](ModelPage& p) { p = stay ? ModelPage{true, first.prot, 0} : ModelPage{}; });
  }
  // A system call's buffer over whole pages.
  void transfer(unsigned start, unsigned count) {
    std::vector<std::byte> bytes(count * kPageSize);
    const auto done = world.as->read(kBase + start * kPageSize, bytes);
    const bool readable = all(start, count, [](const ModelPage& p) { return p.mapped && p.prot != Prot::None; });
    ASSERT_EQ(done.has_value(), readable);
    if (!readable) return;
    for (unsigned i = 0; i < count; ++i) {
      std::uint64_t word;
      std::memcpy(&word, bytes.data() + i * kPageSize + kWordOffset, 8);
      ASSERT_EQ(word, model[start + i].word) << "page " << start + i;
    }
  }

  unsigned roll() { return static_cast<unsigned>(rng()); }

  std::mt19937 rng;
  std::vector<ModelPage> model;
  std::uint64_t counter = 0;
};

class Random : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Random);

TEST_P(Random, Schedules_agree_with_the_model) {
  // RAMET_SEED=n repeats the first schedule of a failed run.
  const char* fixed = std::getenv("RAMET_SEED");
  const unsigned first = fixed ? static_cast<unsigned>(std::strtoul(fixed, nullptr, 10)) : std::random_device{}();
  std::uint64_t steps = 0;
  for (unsigned seed = first; seed != first + (fixed ? 1 : 4); ++seed) {
    SCOPED_TRACE("RAMET_SEED=" + std::to_string(seed));
    Schedule schedule(GetParam(), seed);
    for (unsigned i = 0; i < scaled(20000, 1500) && !HasFatalFailure(); ++i) {
      schedule.step();
      if (i % 500 == 0) schedule.world.check();
    }
    if (HasFatalFailure()) return;
    schedule.finish();
    steps += schedule.steps;
  }
  std::printf("%llu steps from seed %u\n", static_cast<unsigned long long>(steps), first);
}

}  // namespace
}  // namespace ramet::mm::test
