// One address space beside the model of its memory: whatever is done to the one is done to the other, and must end in
// the same way. A space that is `tight` may be short of memory, tables, slots or regions at any time: what fails for
// that reason has changed nothing, but for what Linux's calls leave undone as well.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/choices.hpp"
#include "tests/guest-mm/tree_model.hpp"

namespace ramet::mm::test {

class ModelSpace {
 public:
  struct Options {
    World::Options world;
    Format format = Format::X86_64Stage1;
    std::size_t slots = ~std::size_t{0};
    bool tight = false;
  };
  ModelSpace(const Options& options, Choices& choices)
      : choices_(choices), tight_(options.tight), pins_count_(options.world.config.pinned_cow), slots_(options.slots),
        world(options.format, options.world) {
    observed = world.memory->observe(slots_).has_value();
  }

  // --- what is done to it ---
  void map(unsigned start, unsigned count, const std::shared_ptr<ModelFile>& file);
  void unmap(unsigned start, unsigned count) {
    if (went(world.as->unmap(at(start), count * kPageSize), {})) clear(start, count);
  }
  void protect(unsigned start, unsigned count) {
    const Prot prot = pick_prot();
    const auto done = world.as->protect(at(start), count * kPageSize, prot);
    Result<> expected;
    unsigned end = start;  // of what can be changed
    for (; end < start + count && expected; ++end) {
      if (!model[end].mapped) expected = fail(Error::NotMapped);
      else if (!has(model[end].max_prot, prot)) expected = fail(Error::NotPermitted);
    }
    if (!expected) --end;
    if (!went(done, expected) && done.error() == Error::NoMemory) return;
    for (unsigned i = start; i < end; ++i) model[i].prot = prot;
  }
  void advise(unsigned start, unsigned count) {
    constexpr Advice choices[] = {Advice::DontNeed, Advice::Free,         Advice::Huge,         Advice::NoHuge,
                                  Advice::DontFork, Advice::DoFork,       Advice::WipeOnFork,   Advice::KeepOnFork,
                                  Advice::WillNeed, Advice::PopulateRead, Advice::PopulateWrite};
    const Advice advice = choices[choices_.below(std::size(choices))];
    const auto done = world.as->advise(at(start), count * kPageSize, advice);
    if (advice == Advice::PopulateRead || advice == Advice::PopulateWrite) {
      (void)went(done, first_error(start, count, advice == Advice::PopulateRead ? Access::Read : Access::Write), start,
                 count);
      return;
    }
    auto whole = all(start, count, mapped) ? Result<>() : fail(Error::NotMapped);
    if (advice == Advice::Free || advice == Advice::WipeOnFork) {  // up to what is not anonymous
      for (unsigned i = 0; i < count; ++i) {
        if (!model[start + i].file) continue;
        whole = fail(Error::Invalid);
        count = i;
      }
    }
    if (!went(done, whole) && done.error() == Error::NoMemory) return;
    for (unsigned i = start; i < start + count; ++i) {  // beside holes as well
      Page& p = model[i];
      if (!p.mapped) continue;
      if (advice == Advice::DontNeed || advice == Advice::Free) p.content = nullptr, p.unknown = false;
      if (advice == Advice::DontFork || advice == Advice::DoFork) p.dont_fork = advice == Advice::DontFork;
      if (advice == Advice::WipeOnFork || advice == Advice::KeepOnFork) p.wipe_on_fork = advice == Advice::WipeOnFork;
    }
  }
  // A part of one region, as mremap(2) wants it: shrinks, grows where it is, or moves.
  void remap(unsigned start, unsigned count) {
    const unsigned to = choices_.below(kTreePages);
    const bool may_move = !choices_.one_in(4), fixed = may_move && choices_.below(2),
               stay = may_move && choices_.one_in(4);
    const unsigned new_count = stay || choices_.below(2) ? count : 1 + choices_.below(2 * count);
    if (start + new_count > kTreePages || (fixed && to + new_count > kTreePages)) return;
    if (fixed && to < start + count && start < to + new_count) return;
    const auto region = world.as->find_region(at(start));
    const bool one = region && region->end >= at(start + count), ends = region && region->end == at(start + count);
    const auto done = world.as->remap({.address = at(start),
                                       .old_length = count * kPageSize,
                                       .new_length = new_count * kPageSize,
                                       .may_move = may_move,
                                       .fixed = fixed,
                                       .dont_unmap = stay,
                                       .new_address = at(to)});
    if (!region) {
      ASSERT_EQ(done, fail(Error::NotMapped));
      return;
    }
    if (!fixed && !stay && new_count <= count) {
      if (went(done, {})) clear(start + new_count, count - new_count);
      return;
    }
    if (!one) {
      ASSERT_EQ(done, fail(Error::NotMapped));
      return;
    }
    if (!done) {
      ASSERT_EQ(done, fail(Error::NoMemory));
      const bool room = ends && !fixed && !stay && !any(start + count, new_count - count, mapped);
      unsigned longest = 0, hole = 0;
      for (const Page& p : model) longest = std::max(longest, hole = p.mapped ? 0 : hole + 1);
      ASSERT_TRUE(tight_ || (!room && !fixed && (!may_move || longest < new_count)));
      if (fixed) {
        all_or_none_gone(to, new_count);
        if (new_count < count) all_or_none_gone(start + new_count, count - new_count);
      }
      return;
    }
    moved_to(*done, start, count, new_count, fixed ? std::optional(to) : std::nullopt, stay);
  }
  // The model follows a remap that was done.
  void moved_to(Gva done, unsigned start, unsigned count, unsigned new_count, std::optional<unsigned> fixed,
                bool stay) {
    ASSERT_GE(done, kTreeBase);
    const unsigned first = static_cast<unsigned>((done - kTreeBase) >> kPageShift);
    ASSERT_LE(first + new_count, kTreePages);
    if (fixed) {
      ASSERT_EQ(first, *fixed);
    }
    const bool grown = first == start;
    std::vector<Page> moved(model.begin() + start, model.begin() + start + std::min(count, new_count));
    while (moved.size() < new_count) {
      moved.push_back(moved.back());
      ++moved.back().in_file;
      moved.back().content = nullptr;
      moved.back().unknown = false;
    }
    if (grown) {
      ASSERT_FALSE(any(start + count, new_count - count, mapped));
    } else if (!fixed) {
      ASSERT_FALSE(any(first, new_count, mapped)) << "moved over something";
    }
    if (stay)
      for (unsigned i = start; i < start + count; ++i) model[i].content = nullptr, model[i].unknown = false;
    else clear(start, count);
    std::ranges::move(moved, model.begin() + first);
  }

  // --- what the guest does ---
  void access(unsigned page) {
    Page& p = model[page];
    const Access how = Access(choices_.below(3));
    FakeVcpu& cpu = world.cpu(choices_.below(2));
    const unsigned word = choices_.below(512) * 8;
    if (p.unknown || (p.shared && p.beyond_end())) return;  // the host's SIGBUS is not modelled
    const Gva address = at(page) + word;
    if (how == Access::Write) {
      const std::uint64_t value = choices_.value();
      if (went(cpu.store(address, value), p.expected(how), page, 1)) std::memcpy(p.own()->data() + word, &value, 8);
      return;
    }
    const auto got = how == Access::Read ? cpu.load(address) : cpu.fetch(address);
    if (!went(got, p.expected(how), page, 1)) return;
    ASSERT_EQ(std::memcmp(&*got, p.seen().data() + word, 8), 0) << "page " << page;
  }

  // --- buffers of system calls ---
  void read(unsigned start, unsigned count) {
    const auto [skip, length] = ragged(count);
    std::vector<std::byte> bytes(length);
    const bool known = !any(start, count, [](const Page& p) { return p.unknown; });
    const auto done = world.as->read(at(start) + skip, bytes);
    if (known && went(done, first_error(start, count, Access::Read), start, count)) expect_bytes(start, skip, bytes);
  }
  void write(unsigned start, unsigned count) {
    const auto [skip, length] = ragged(count);
    if (any(start, count, [](const Page& p) { return p.unknown; })) return;
    std::vector<std::byte> bytes(length);
    for (std::size_t i = 0; i + 8 <= length; i += 8) {
      const std::uint64_t value = choices_.value();
      std::memcpy(&bytes[i], &value, 8);
    }
    const auto done = world.as->write(at(start) + skip, bytes);
    const auto expected = first_error(start, count, Access::Write);
    const bool well = went(done, expected, start, count),
               whole = well || done.error() == (expected ? Error::NoMemory : expected.error());
    // What comes before the page that failed has been written; short of memory, a part of it.
    for (unsigned i = start; i < start + count && model[i].expected(Access::Write); ++i) {
      const std::uint64_t page = (i - start) * kPageSize, from = std::max<std::uint64_t>(page, skip);
      const std::uint64_t to = std::min(page + kPageSize, skip + length);
      Content after = model[i].seen();
      std::memcpy(after.data() + (from - page), &bytes[from - skip], to - from);
      if (!well && (expected || !whole)) {
        Content now;
        if (!world.as->read(at(i), now)) continue;
        if (now == model[i].seen()) continue;
        ASSERT_TRUE(now == after) << "page " << i << " was neither left alone nor written";
      }
      *model[i].own() = after;
    }
  }
  void read_string(unsigned start) {
    const unsigned skip = choices_.below(4096), limit = choices_.below(3 * 4096);
    std::string text;
    std::optional<Error> wrong;
    for (unsigned i = start * 4096 + skip; !wrong; ++i) {
      const Page& p = i / 4096 < kTreePages ? model[i / 4096] : Page{};
      if (p.unknown) return;
      if (text.size() > limit) wrong = Error::Invalid;
      else if (const auto there = p.expected(Access::Read); !there) wrong = there.error();
      else if (const char c = char(p.seen()[i % 4096]); c != 0) text += c;
      else break;
    }
    const auto done = world.as->read_string(at(start) + skip, limit);
    if (went(done, wrong ? fail(*wrong) : Result<>(), start, 4)) {
      ASSERT_EQ(*done, text);
    }
  }
  void word(unsigned start) {
    Page& p = model[start];
    const unsigned offset = choices_.below(1024) * 4;
    const Access how = choices_.below(2) ? Access::Write : Access::Read;
    if (p.unknown) return;
    auto word = world.as->word(at(start) + offset, how);
    if (p.shared && p.beyond_end() && tight_) return;
    if (!went(word, p.expected(how), start, 1)) return;
    expect_word(*word, p.seen(), offset);
    if (how != Access::Write) return;
    std::uint32_t now;
    std::memcpy(&now, p.seen().data() + offset, 4);
    const auto value = static_cast<std::uint32_t>(choices_.value());
    ASSERT_EQ(word->compare_exchange(~now, value), now);
    expect_word(*word, p.seen(), offset);
    ASSERT_EQ(word->compare_exchange(now, value), now);
    std::memcpy(p.own()->data() + offset, &value, 4);
    if (!pins_count_ || words_.size() > 3 || choices_.below(2)) return;
    if (!p.shared) ++pinned_;
    words_.push_back({std::move(*word), p.own(), p.shared ? p.file : nullptr, p.in_file, offset});
  }
  // Checks the words that are held, as futexes hold them, and drops one.
  void words() {
    for (const Word& w : words_) {
      if (w.file && w.in_file >= w.file->pages) {
        ASSERT_EQ(w.word.load(), fail(Error::BeyondEnd));
      } else expect_word(w.word, *w.content, w.offset);
    }
    if (words_.empty()) return;
    const auto which = words_.begin() + choices_.below(static_cast<unsigned>(words_.size()));
    if (!which->file) --pinned_;
    words_.erase(which);
  }

  // --- devices ---
  void gather(unsigned start, unsigned count) {
    const Access how = choices_.below(2) ? Access::Write : Access::Read;
    std::vector<HostRange> ranges;
    if (any(start, count, [](const Page& p) { return p.unknown || (p.shared && p.beyond_end()); })) return;
    const auto done = world.as->gather(at(start), count * kPageSize, how, ranges);
    unsigned good = 0;
    while (good < count && model[start + good].expected(how)) ++good;
    if (!went(done, good ? Result<>() : model[start].expected(how), start, count)) return;
    const bool broken = tight_ || any(start, count, [](const Page& p) { return p.file && p.file->file->broken; });
    if (broken) {
      ASSERT_LE(*done, good * kPageSize);
    } else {
      ASSERT_EQ(*done, good * kPageSize);
    }
    hold({{}, std::move(ranges), how, {}}, start, static_cast<unsigned>(*done >> kPageShift));
  }
  void pin(unsigned start, unsigned count) {
    const Access how = choices_.below(2) ? Access::Write : Access::Read;
    const auto term = choices_.below(2) ? AddressSpace::PinTerm::Short : AddressSpace::PinTerm::Long;
    if (any(start, count, [](const Page& p) { return p.unknown || (p.shared && p.beyond_end()); })) return;
    auto pin = world.as->pin(at(start), count * kPageSize, how, term);
    if (!went(pin, first_error(start, count, how), start, count)) return;
    hold({std::move(*pin), {}, how, {}}, start, count);
  }
  void unpin() {
    if (!held_.empty()) let_go(choices_.below(static_cast<unsigned>(held_.size())));
  }
  // A device writes: the owner sees it, if the page is still mapped, and no other VM does.
  void device() {
    if (!held_.empty()) device(held_[choices_.below(static_cast<unsigned>(held_.size()))]);
  }
  void let_go_of_all() {
    while (!held_.empty()) let_go(0);
    words_.clear();
    pinned_ = 0;
  }
  bool pinned() const { return pinned_ > 0; }

  // --- everything at once ---
  // Compares every page that is there or should be; `touch_all`: also those that could be there or must not be.
  void expect_equal(bool touch_all) {
    std::vector<std::uint8_t> there(1);
    Content bytes;
    for (unsigned i = 0; i < kTreePages; ++i) {
      const Page& p = model[i];
      if (p.unknown || (!p.mapped && !touch_all)) continue;
      if (p.mapped) {
        ASSERT_TRUE(world.as->residency(at(i), kPageSize, there));
      }
      if (!touch_all && !there[0] && !p.content) continue;
      const auto done = world.as->read(at(i), bytes);
      if (p.shared && p.beyond_end() && tight_) continue;
      if (went(done, p.expected(Access::Read), i, 1)) {
        ASSERT_EQ(std::memcmp(bytes.data(), p.seen().data(), kPageSize), 0) << "page " << i << difference(p, bytes);
      }
    }
    expect_regions();
    check();
  }
  void expect_regions() {
    unsigned next = 0;
    world.as->visit_regions([&](const Region& r) {
      if (r.start < kTreeBase || r.start >= at(kTreePages)) return;
      const unsigned start = static_cast<unsigned>((r.start - kTreeBase) >> kPageShift);
      while (next < start) {
        ASSERT_FALSE(model[next].mapped) << "page " << next;
        ++next;
      }
      for (; at(next) < r.end; ++next) {
        const Page& p = model[next];
        ASSERT_TRUE(p.mapped && p.prot == r.prot && p.max_prot == r.max_prot && p.shared == r.shared &&
                    p.dont_fork == r.dont_fork && p.wipe_on_fork == r.wipe_on_fork)
            << "page " << next;
        ASSERT_EQ(p.file ? p.file->file : nullptr, r.backing);
        if (p.file) {
          ASSERT_EQ(r.offset_of(at(next)), p.in_file * kPageSize);
        }
      }
    });
    for (; next < kTreePages; ++next) {
      ASSERT_FALSE(model[next].mapped) << "page " << next;
    }
  }
  void check() {
    world.check();
    ASSERT_EQ(world.as->pins(), pinned_);
  }
  // A file has shrunk or grown.
  void resized(const ModelFile& file) {
    for (Page& p : model) {
      if (p.file.get() != &file || p.in_file < file.pages) continue;
      p.unknown = tight_ && !p.shared;
      p.content = nullptr;
    }
    world.as->truncated(*file.file, file.pages * kPageSize);
  }

  static bool mapped(const Page& p) { return p.mapped; }
  bool all(unsigned start, unsigned count, auto&& f) const {
    return std::all_of(model.begin() + start, model.begin() + start + count, f);
  }
  bool any(unsigned start, unsigned count, auto&& f) const {
    return std::any_of(model.begin() + start, model.begin() + start + count, f);
  }

 private:
  struct Word {
    HostWord word;
    std::shared_ptr<Content> content;
    std::shared_ptr<ModelFile> file;  // of a shared page
    unsigned in_file, offset;
  };
  struct Held {
    Pin pin;
    std::vector<HostRange> gathered;  // or these
    Access how;
    struct Held_page {
      std::shared_ptr<Content> content;
      std::shared_ptr<ModelFile> file;
      unsigned in_file;
    };
    std::vector<Held_page> pages;
  };
  Choices& choices_;
  const bool tight_, pins_count_;
  Slots slots_;

 public:
  World world;
  Model model = Model(kTreePages);
  bool observed = false;  // its machine has room for it

 private:
  std::vector<Word> words_;  // destroyed before the world, as held_ is
  std::vector<Held> held_;
  std::int64_t pinned_ = 0;  // private pages, each as often as it is held

  Prot pick_prot() {
    constexpr Prot choices[] = {Prot::None, kRead, kReadWrite, kReadWrite, kReadWrite, kReadWrite, kReadExec, kAllProt};
    return choices[choices_.below(std::size(choices))];
  }
  // A part of the pages that touches all of them: bytes to leave out at the beginning, and how many to take.
  std::pair<std::uint64_t, std::uint64_t> ragged(unsigned count) {
    if (choices_.below(2)) return {0, count * kPageSize};
    const unsigned skip = choices_.below(4096), less = choices_.below(count == 1 ? 4096 - skip : 4096);
    return {skip, count * kPageSize - skip - less};
  }
  // How an access to one page after the other ends.
  Result<> first_error(unsigned start, unsigned count, Access how) const {
    for (unsigned i = start; i < start + count; ++i)
      if (auto e = model[i].expected(how); !e) return e;
    return {};
  }
  // True if it succeeded. Otherwise it must have failed as the model says, or for want of memory in a tight space.
  template <class T>
  bool went(const Result<T>& done, Result<> expected) {
    if (!done && tight_ && done.error() == Error::NoMemory) return false;
    const auto ended = done ? Result<>() : fail(done.error());
    EXPECT_EQ(ended, expected);
    return done && expected;
  }
  // The same for operations that may read files, which may be broken.
  template <class T>
  bool went(const Result<T>& done, Result<> expected, unsigned start, unsigned count) {
    count = std::min(count, kTreePages - start);
    const bool broken = any(start, count, [](const Page& p) { return p.file && !p.shared && p.file->file->broken; });
    if (!done && broken && done.error() == Error::Io) return false;
    return went(done, expected);
  }
  static std::string difference(const Page& p, const Content& bytes) {
    const auto first = std::ranges::mismatch(bytes, p.seen()).in1 - bytes.begin();
    return " at byte " + std::to_string(first) + (p.content ? ", written" : "") + (p.shared ? ", shared" : "") +
           (p.file ? ", page " + std::to_string(p.in_file) + " of a file" : "") + ": " +
           std::to_string(int(bytes[first])) + " instead of " + std::to_string(int(p.seen()[first]));
  }
  void clear(unsigned start, unsigned count) { std::fill_n(model.begin() + start, count, Page{}); }
  // For a range that was to be unmapped by a call that failed: all of it has gone, or nothing.
  void all_or_none_gone(unsigned start, unsigned count) {
    bool gone = true;
    for (unsigned i = start; i < start + count; ++i)
      if (model[i].mapped) gone = gone && !world.as->find_region(at(i));
    if (gone) clear(start, count);
  }
  void expect_bytes(unsigned start, std::uint64_t skip, std::span<const std::byte> bytes) {
    std::uint64_t offset = skip;
    while (!bytes.empty()) {
      const auto n = std::min<std::uint64_t>(bytes.size(), kPageSize - offset % kPageSize);
      const unsigned page = start + static_cast<unsigned>(offset / kPageSize);
      ASSERT_EQ(std::memcmp(bytes.data(), model[page].seen().data() + offset % kPageSize, n), 0) << "page " << page;
      bytes = bytes.subspan(n);
      offset += n;
    }
  }
  static void expect_word(const HostWord& word, const Content& content, unsigned offset) {
    std::uint32_t expected;
    std::memcpy(&expected, content.data() + offset, 4);
    ASSERT_EQ(word.load(), expected);
  }
  void hold(Held held, unsigned start, unsigned count) {
    for (unsigned i = start; i < start + count; ++i) {
      Page& p = model[i];
      held.pages.push_back({p.own(), p.shared ? p.file : nullptr, p.in_file});
    }
    device(held);
    const bool counts = held.gathered.empty() || held.how == Access::Write;  // gathering to read pins nothing
    if (!pins_count_ || !counts || held_.size() > 5) return;
    for (const auto& p : held.pages) pinned_ += !p.file;
    held_.push_back(std::move(held));
  }
  void let_go(unsigned which) {
    for (const auto& p : held_[which].pages) pinned_ -= !p.file;
    held_.erase(held_.begin() + which);
  }
  void device(Held& held) {
    std::uint64_t n = 0;
    const std::span<const HostRange> ranges = held.gathered.empty() ? held.pin.ranges()
                                                                    : std::span<const HostRange>(held.gathered);
    for (const HostRange& r : ranges) {
      for (std::size_t i = 0; i < r.bytes.size(); i += kPageSize, ++n) {
        const auto& p = held.pages[n];
        if (p.file && p.in_file >= p.file->pages) continue;  // EFAULT
        std::byte* page = as_device(r, i);
        ASSERT_EQ(std::memcmp(page, p.content->data(), kPageSize), 0) << "the device sees something else";
        if (held.how != Access::Write) continue;
        const unsigned word = choices_.below(512) * 8;
        const std::uint64_t value = choices_.value();
        std::memcpy(page + word, &value, 8);
        std::memcpy(p.content->data() + word, &value, 8);
      }
    }
    ASSERT_EQ(n, held.pages.size());
  }
};

}  // namespace ramet::mm::test

#include "tests/guest-mm/tree_space_map.hpp"
